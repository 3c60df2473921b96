"""Reading captures: TCP streams with their gaps, as events, out of any capture file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from multifd_proto.capture.connections import Connections
from multifd_proto.capture.events import Half, Opened, StreamEvent
from multifd_proto.capture.files import Inputs, Progress
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import segments
from multifd_proto.capture.pieces import Held
from multifd_proto.capture.tcp import Direction
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

__all__ = ["CaptureInfo", "CaptureReader", "Limits"]

_DEFAULT = Limits()


class CaptureReader:
    """Reads captures and yields their streams, in constant memory, without ever seeking.

    Inputs are recognised by their first bytes: pcap, pcapng, either of them or a raw dump in gzip
    or zstd, and raw dumps of one stream: a multifd channel, a main stream (`QEVM`) or TLS. Several
    paths are one input, read in the order given: a connection goes on in the next file, and each
    raw dump is a stream of its own.

    At the end of the input, what is held out of order is delivered with `Gap` events before it,
    also when the end is an error. An input that is cut, or whose compression is corrupt, is not an
    error: see `CaptureInfo.truncated`.

    Args:
        paths: Files, or '-' for standard input.
        limits: Bounds on the memory taken.
        progress: Called after each read with the bytes read so far as they are stored, and their
            total; None if that is not known, as for standard input.

    Attributes:
        info: What was seen so far.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        limits: Limits = _DEFAULT,
        progress: Progress | None = None,
    ) -> None:
        self.info = CaptureInfo()
        self._paths = paths
        self._limits = limits
        self._progress = progress
        self._connections = Connections(self.info, limits)

    @property
    def held(self) -> int:
        """Bytes that out-of-order data takes at this moment; at most `Limits.total`."""
        return self._connections.held.bytes

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yield the events, once.

        Raises:
            CaptureError: An input cannot be read, is empty or no capture, or contradicts itself.
        """
        failure = None
        try:
            for form, content in Inputs(self._paths, self.info, self._progress):
                if form.frames:
                    frames = form.frames(content, self.info, self._limits)
                    yield from self._connections.events(segments(frames, self.info))
                else:
                    yield from self._raw_dump(content)
        except CaptureError as error:
            failure = error
        yield from self._connections.flush()
        if failure:
            raise failure

    def _raw_dump(self, content: Window) -> Iterator[StreamEvent]:
        number = self._connections.next_number()
        half, reverse = (
            Half(number, forward, None, None, 0, anchored=True, name=content.name)
            for forward in (True, False)
        )
        direction = Direction(half, Held(self._limits))
        yield Opened(0, half, reverse)
        faults = len(content.truncated)
        while content.fill(1):
            half.bytes += content.left
            start, content.start = content.start, content.end
            yield from direction.deliver(
                0, direction.position + content.end - start, content.view[start:]
            )
        yield from direction.report_passed()
        if len(content.truncated) == faults:
            yield from direction.end(0, reset=False, by_peer=False)
