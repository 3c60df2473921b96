"""Frame by frame: headers are kept, and of the payload what is structure.

A frame keeps the start of its payload; the rest is cut off. Where structure lies deeper inside, the
frame is cut in front of it, as segmentation offload would have sent it in several; so there are no
fillers, and every byte of a payload that is in the file is one that is kept. What came through a
tunnel, or in IP fragments, is written as the packet that it is, without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from multifd_proto.capture.events import Half
from multifd_proto.capture.files import CaptureFile, Inputs, Progress
from multifd_proto.capture.fragments import Datagrams, Pending
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import Segment, decode, packet_with_tcp
from multifd_proto.capture.link import (
    RAW,
    UPPER_PDU,
    Frame,
    NotKept,
    Undecodable,
    link_layer,
    link_type,
    upper_pdu,
)
from multifd_proto.capture.merge import in_order
from multifd_proto.capture.session import Connection
from multifd_proto.capture.strip.headers import Addresses, Headers
from multifd_proto.capture.strip.kept import Kept
from multifd_proto.capture.strip.output import Output
from multifd_proto.capture.strip.slim import key_of
from multifd_proto.capture.strip.track import Track
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

if TYPE_CHECKING:
    from multifd_proto.capture.columns.records import Records

_TABLE = 4096  # records that are looked at at once
_LARGEST = 0xF000  # bytes of payload in a part of what does not fit the field for its length
CHANNEL, MAIN, REVERSE, OTHER = "payload of packets", "main stream", "return path", "other traffic"
_ROLES = {"multifd": CHANNEL, "main": MAIN}


class Part(NamedTuple):
    """A part of a payload: where it starts, its bytes, what is kept, and why the rest is not."""

    start: int
    size: int
    data: bytes
    captured: bool


def parts(size: int, missing: int, stretches: Iterable[tuple[int, bytes]]) -> Iterator[Part]:
    """Cut a payload in front of everything that is kept.

    Args:
        size: bytes captured.
        missing: bytes behind them, as in `Segment`.
        stretches: what is kept of it.
    """
    begin, data = 0, b""
    for start, stretch in stretches:
        if start == begin + len(data):
            data += stretch
        else:
            yield Part(begin, start - begin, data, False)
            begin, data = start, stretch
    if missing > 0 and begin + len(data) < size:
        yield Part(begin, size - begin, data, False)
        begin, data = size, b""
    yield Part(begin, size + abs(missing) - begin, data, missing > 0)


def _unpacked(frame: Frame, datagrams: Datagrams) -> Frame:
    """Return the frame of IP that is in a tunnel, or in several fragments; or the frame itself."""
    time, network, view, start, stop, end = frame
    if network is upper_pdu:
        return frame
    ip = network(view, start, stop)
    packet = packet_with_tcp(view, ip, stop, end, datagrams)
    if packet.view is view and packet.start == ip:
        return frame
    raw = link_layer(RAW)
    network = NotKept(raw) if isinstance(network, NotKept) else raw
    return time, network, packet.view, packet.start, packet.stop, packet.end


class Frames:
    """Strips the frames of a capture that was read before."""

    def __init__(
        self,
        halves: dict[Half, Kept],
        connections: Iterable[Connection],
        output: Output,
        addresses: Addresses | None,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """Frames without a TCP segment that can be read, by reason."""
        self.replaced: Counter[str] = Counter()
        """Bytes of payload that were not kept, by what they are of."""
        self._output = output
        self._addresses = addresses
        self._records = 0
        self._coming: dict[bytes, list[Track]] = {}  # the next one last
        self._tracks: dict[bytes, Track] = {}
        self._begins: list[int] = []  # numbers of the first records of connections
        for connection in sorted(connections, key=lambda c: -c.half.stream):
            for half in (connection.half, connection.reverse):
                role = REVERSE if half is connection.reverse else MAIN
                role = _ROLES.get(connection.kind, OTHER) if role is MAIN else role
                role = role if connection.session else OTHER
                track = Track(half, halves.get(half) or Kept(), role)
                self._coming.setdefault(key_of(half), []).append(track)
                self._begins.append(half.record)

    def strip(self, files: Iterable[str], limits: Limits, progress: Progress | None) -> None:
        """Write the frames of the files.

        Raises:
            CaptureError: a file cannot be read, or has no frames.
        """
        info = CaptureInfo()
        datagrams = Datagrams(info, limits)
        for part in in_order(Inputs(list(files), info, progress), info, limits):
            if isinstance(part, Window):
                raise CaptureError(
                    f"{part.name}: is the raw dump of a stream and has no frames to keep, "
                    "which --slim does not need"
                )
            self._strip_file(part, datagrams)
        self.dropped.update(info.skipped)

    def _strip_file(self, file: CaptureFile, datagrams: Datagrams) -> None:
        """Strip frame by frame, or a table of them at once."""
        while True:
            # to replace addresses, each frame has to be looked at
            records = None if self._addresses else file.records(_TABLE, self._records)
            if records is not None:
                self._strip_table(records, datagrams)
            elif file.more():
                for frame in file.one():
                    self._try(frame, datagrams)
            else:
                return

    def _strip_table(self, records: Records, datagrams: Datagrams) -> None:
        from multifd_proto.capture.columns.bare import bare_frames

        first, last = self._records, self._records + len(records)
        begins = any(first < begin <= last for begin in self._begins)
        bare, passed = bare_frames(records, None if begins else self._track)
        for piece in bare.blocks(self._output.interface):
            if isinstance(piece, bytes):
                self._output.write_packets(piece)
            else:
                self._records = first + piece
                self._try(bare.frame(piece), datagrams)
        self._records = last
        self._output.frames += bare.count
        for track, size, begin, end in passed:
            self.replaced[track.role if track else OTHER] += size
            if track and end > begin:
                track.position = max(track.position, end)
                track.covered.add(begin, end)

    def _try(self, frame: Frame, datagrams: Datagrams) -> None:
        self._records += 1
        try:
            self._strip(frame, datagrams)
        except Pending:
            pass
        except Undecodable as reason:
            self.dropped[str(reason)] += 1

    def _strip(self, frame: Frame, datagrams: Datagrams) -> None:
        if frame[3] == frame[5]:
            raise Undecodable("empty")
        frame = _unpacked(frame, datagrams)
        segment = decode(frame)
        link = link_type(frame[1])
        if link == UPPER_PDU:
            raise CaptureError("frames of exported PDUs hold no guest memory to be stripped of")
        self._write(frame, segment, link)

    def _write(self, frame: Frame, segment: Segment, link: int) -> None:
        time, network, view, begin, _, end = frame
        _, key, seq, flags, _, start, stop, missing = segment
        ip = network(view, begin, start) - begin
        headers = Headers(bytes(view[begin:start]), link, ip)
        if self._addresses:
            headers.hide(self._addresses)
        found = list(self._parts(key, seq + bool(flags & 2), view[start:stop], missing))
        if len(found) == 1:
            (part,) = found
            data = bytes(headers.data) + part.data
            self._output.write(link, time, data, end - begin, captured=part.captured)
            return
        for part in found:
            own = headers.cut(part.start, part.size, last=part is found[-1])
            length = len(own.data) + part.size
            data = bytes(own.data) + part.data
            self._output.write(link, time, data, length, captured=part.captured)

    def _parts(self, key: bytes, seq: int, data: memoryview, missing: int) -> Iterator[Part]:
        track = self._track(key)
        stretches: Iterable[tuple[int, bytes]] = ()
        if track and (len(data) or missing):
            stretches = track.stretches(seq, data, abs(missing))
        kept = 0
        for part in parts(len(data), missing, stretches):
            kept += len(part.data)
            yield part
        self.replaced[track.role if track else OTHER] += len(data) - kept

    def _track(self, key: bytes) -> Track | None:
        """Return the direction that a segment of this key is of, at this place of the capture."""
        coming = self._coming.get(key)
        while coming and coming[-1].half.record <= self._records:
            self._tracks[key] = coming.pop()
        return self._tracks.get(key)
