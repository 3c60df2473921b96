"""What reading a capture may take, and what the reader saw on its way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from multifd_proto.capture.tls.keylog import KeyLog

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on the memory that a capture can make its reader take.

    Attributes:
        window: Out-of-order bytes that are kept for one direction before the hole before them is
            declared lost. What managing them takes is counted in.
        total: The same for all directions together.
        streams: Connections followed at once. When one more appears, the eighth of them that has
            been idle longest is dropped: what is held of it is delivered, but no `End`. A
            connection takes about 1.5 KiB.
        record: Bytes that a record or block of a capture file may claim.
        fragments: Bytes of IP fragments that are kept until their datagrams are whole.
    """

    window: int = 4 * MIB
    total: int = 64 * MIB
    streams: int = 16384
    record: int = 16 * MIB
    fragments: int = MIB


class TlsFate(Enum):
    """What became of a TLS connection; the value is what a message says of those that pass."""

    DECRYPTED = "decrypted"
    NO_SECRETS = "their secrets are not known"
    UNFIT = "the secrets for them do not fit"
    UNSUPPORTED = "their TLS version or cipher suite is not supported"
    NO_HANDSHAKE = "their handshake is not whole in the capture"


@dataclass
class CaptureInfo:
    """What a reader saw; it grows while the capture is read.

    Attributes:
        files: Names of the inputs that were opened.
        formats: Format of each of them, such as 'pcap' or 'pcapng in gzip'.
        records: Frames in the capture files.
        bytes: Bytes of the inputs, decompressed.
        first: Earliest time of a frame in nanoseconds since the epoch; None without frames.
        last: Latest time of a frame.
        skipped: Frames that hold no TCP segment that can be read, by reason.
        drops: Packets that the capturing kernel or interface reports to have lost.
        dropped_streams: Connections that were dropped for `Limits.streams`.
        truncated: One line for each input that ends in the middle or is corrupt from there on.
        secrets: Secrets of TLS connections, those in the inputs included.
        tls: TLS connections by what became of them, see `TlsFate`.
    """

    files: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    records: int = 0
    bytes: int = 0
    first: int | None = None
    last: int | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    drops: int = 0
    dropped_streams: int = 0
    truncated: list[str] = field(default_factory=list)
    secrets: KeyLog = field(default_factory=KeyLog)
    tls: Counter[TlsFate] = field(default_factory=Counter)
