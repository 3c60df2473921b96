"""What a capture says about its TCP streams: the values that a `CaptureReader` yields.

Offsets and lengths are in bytes of the stream; times are integer nanoseconds since the epoch.
The `Data`, `Skipped` and `Gap` events of a half follow one another without overlap from offset 0
on, and their times never decrease.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a TCP connection: IP address and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True, eq=False)
class Half:
    """One direction of one TCP connection, or one raw dump of a channel.

    There is one object for each, which grows while the capture is read; it is compared and
    hashed by identity.

    Attributes:
        stream: Number of the connection, from 0, in order of first appearance in the input.
        forward: Sent by the end that opened the connection: the sender of the SYN or receiver of
            the SYN-ACK, else the sender of the first data, else of the first segment.
        source: Sending end; None for a raw dump.
        destination: Receiving end; None for a raw dump.
        opened: Time of the connection's first segment; 0 for a raw dump.
        anchored: The SYN was seen (or this is a raw dump): offset 0 is the true first byte.
        unwanted_until: To be set by the consumer, at any time: bytes before this offset are not
            needed. They are never copied and come as `Skipped`.
        segments: TCP segments of this direction, with or without data.
        bytes: Bytes of payload in the capture, repeated ones included.
        retransmitted: Bytes of payload that the capture had held before.
        reordered: Segments with new bytes that came after bytes which follow them.
        conflicts: Bytes that were repeated with another value. The first copy counts; that it
            differs is seen only while it is kept, because bytes before it have not come yet.
        missing: Bytes that were reported as `Gap`.
        name: File name of a raw dump.
        record: Number of the frame, from 1 in the order of the input, that the connection began
            with; 0 for a raw dump.
        origin: Sequence number of offset 0, once it is known; 0 for a raw dump.
        tls: The bytes are the plaintext of TLS; only `segments`, `retransmitted`, `reordered`
            and `conflicts` are about TCP.
    """

    stream: int
    forward: bool
    source: Endpoint | None
    destination: Endpoint | None
    opened: int
    anchored: bool
    unwanted_until: int = 0
    segments: int = 0
    bytes: int = 0
    retransmitted: int = 0
    reordered: int = 0
    conflicts: int = 0
    missing: int = 0
    name: str | None = None
    record: int = 0
    origin: int = 0
    tls: bool = False


# The events are not frozen: making a frozen one takes four times as long, once for each segment.


@dataclass(slots=True)
class Opened:
    """A connection appeared. Comes once for each connection, before anything else of it.

    Attributes:
        time: Time of its first segment.
        half: The forward direction.
        reverse: The other direction; that of a raw dump never speaks.
    """

    time: int
    half: Half
    reverse: Half


@dataclass(slots=True)
class Data:
    """The next bytes of a half. `data` may be kept; it keeps the read buffer around it alive."""

    time: int
    half: Half
    offset: int
    data: memoryview


@dataclass(slots=True)
class Skipped:
    """Bytes that are in the capture but before `Half.unwanted_until`; as many as possible in one.

    `time` is that of the last of them. They come as soon as `unwanted_until` is reached. Bytes
    that a stripped capture did not keep come as such too, wanted or not.
    """

    time: int
    half: Half
    offset: int
    length: int


@dataclass(slots=True)
class Gap:
    """Bytes that are not in the capture.

    `reason` is 'lost' (no segment with them) or 'snapped' (the snap length cut them off).
    """

    time: int
    half: Half
    offset: int
    length: int
    reason: str


@dataclass(slots=True)
class End:
    """A half ended at `offset`; comes at most once, and nothing of the half comes after it.

    Attributes:
        time: Time of the segment that ended it.
        half: The half that ended.
        offset: Length of the stream.
        reset: By RST; otherwise FIN, or the end of a raw dump, was reached in order.
        by_peer: The RST came from the receiving end.
    """

    time: int
    half: Half
    offset: int
    reset: bool
    by_peer: bool


StreamEvent = Opened | Data | Skipped | Gap | End
"""What a `CaptureReader` yields."""
