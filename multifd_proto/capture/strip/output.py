"""The stripped file: written beside its place, and put there when it is whole."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from multifd_proto import __version__
from multifd_proto.capture.link import UPPER_PDU
from multifd_proto.capture.pcapng import NOT_KEPT
from multifd_proto.errors import CaptureError
from multifd_proto.wire import pcapng

COMMENT = f"""\
stripped by multifd strip {__version__}: guest memory, device state and the payload of all that is \
no migration were taken out. What is cut off the frames of an interface with the description \
"{NOT_KEPT.decode()}" was in the capture. A frame with messages inside was cut in front of each. \
Checksums of TCP are those of the original frames."""
_CAPTURED = b"multifd strip: what is cut off was not captured"


class Output:
    """A pcapng file of frames that were stripped."""

    def __init__(self, file: IO[bytes]) -> None:
        self.frames = 0
        self._file = file
        self._interfaces: dict[tuple[int, bool], int] = {}
        file.write(pcapng.section(COMMENT))

    def write(
        self, link_type: int, time: int, data: bytes, length: int, *, captured: bool = False
    ) -> None:
        """Write a frame.

        Args:
            link_type: of the frame.
            time: nanoseconds since the epoch; none is before it.
            data: the bytes that are kept of it.
            length: its bytes.
            captured: what it lacks was not captured either.
        """
        number = self.interface(link_type, captured=captured)
        time = min(max(time, 0), 2**64 - 1)
        size = len(data)
        head = pcapng.packet_head(number, time, size, length)
        self._file.write(head + data + pcapng.packet_tail(size))
        self.frames += 1

    def write_packets(self, blocks: bytes) -> None:
        """Write packets that are made already; who made them counts them."""
        self._file.write(blocks)

    def interface(self, link_type: int, *, captured: bool = False) -> int:
        """Return the number of an interface, described by now; see `write`."""
        key = link_type, captured
        if key not in self._interfaces:
            self._interfaces[key] = len(self._interfaces)
            description = _CAPTURED if captured else NOT_KEPT
            self._file.write(pcapng.interface(link_type, description))
        return self._interfaces[key]

    def write_drops(self, drops: int) -> None:
        """Write how many packets the capturing kernel has lost."""
        if drops:
            link = next(iter(self._interfaces), (UPPER_PDU, False))[0]
            number = self.interface(link, captured=True)
            told = pcapng.options({pcapng.ISB_IFDROP: struct.pack("<Q", drops)})
            self._file.write(
                pcapng.block(pcapng.STATISTICS, struct.pack("<3I", number, 0, 0) + told)
            )


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if all goes well, and vanishes if not.

    Names that end in .gz and .zst are compressed.

    Raises:
        CaptureError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file, _compressing(path, file) as packed:
            yield packed
        part.replace(path)
    except OSError as error:
        if error.filename in (None, str(part), part):
            raise CaptureError(f"{path}: cannot be written: {error.strerror}") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _compressing(path: Path, file: IO[bytes]) -> Any:
    if path.suffix == ".gz":
        return gzip.GzipFile("", "wb", fileobj=file, mtime=0)
    if path.suffix == ".zst":
        from zstandard import ZstdCompressor

        return ZstdCompressor().stream_writer(file, closefd=False)
    return nullcontext(file)
