"""TLS connections for the tests: made by Python's own TLS, cut into segments, put into captures."""

from __future__ import annotations

import ssl
import struct
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from multifd_proto.capture.events import Data
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.captures import EPOCH, Frame, Seen, collect, write_pcap

Write = tuple[bool, bytes]
"""Who writes (the client?) and what."""


@dataclass
class Session:
    """What passed between client and server: the bytes on the wire, and what they mean."""

    wire: list[Write] = field(default_factory=list)
    """Bytes of one end, one after the other."""
    handshake: int = 0
    """Items of `wire` that are handshake."""
    plain: list[Write] = field(default_factory=list)
    keylog: bytes = b""
    suite: str = ""

    def text(self, forward: bool) -> bytes:
        return b"".join(data for client, data in self.plain if client is forward)


def converse(
    folder: Path,
    writes: Iterable[Write],
    *,
    tls13: bool = True,
    ciphers: str | None = None,
    curve: str | None = None,
    close: bool = False,
) -> Session:
    """Let a client and a server talk, with credentials of `folder`."""
    version = ssl.TLSVersion.TLSv1_3 if tls13 else ssl.TLSVersion.TLSv1_2
    contexts = [TlsCredentials(folder).client(), TlsCredentials(folder).server()]
    with tempfile.NamedTemporaryFile() as log:
        for context in contexts:
            context.minimum_version = context.maximum_version = version
            if ciphers:
                context.set_ciphers(ciphers)
        if curve:
            contexts[1].set_ecdh_curve(curve)
        contexts[0].keylog_filename = log.name
        session = Session()
        ends = _Ends(contexts, session)
        ends.shake_hands()
        session.handshake = len(session.wire)
        for client, data in writes:
            ends.write(client, data)
        if close:
            ends.close()
        session.keylog = log.read()
    session.suite = (ends.objects[0].cipher() or ("",))[0]
    return session


class _Ends:
    def __init__(self, contexts: Sequence[ssl.SSLContext], session: Session) -> None:
        self.session = session
        self.into = [ssl.MemoryBIO(), ssl.MemoryBIO()]  # of the client, of the server
        self.out = [ssl.MemoryBIO(), ssl.MemoryBIO()]
        client = contexts[0].wrap_bio(self.into[0], self.out[0], server_hostname="localhost")
        server = contexts[1].wrap_bio(self.into[1], self.out[1], server_side=True)
        self.objects = [client, server]

    def move(self, client: bool) -> bool:
        """Take what an end has written to the other one."""
        data = self.out[0 if client else 1].read()
        if data:
            self.session.wire.append((client, data))
            self.into[1 if client else 0].write(data)
        return bool(data)

    def shake_hands(self) -> None:
        done = [False, False]
        while not all(done):
            for number, end in enumerate(self.objects):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                    done[number] = True
                self.move(number == 0)

    def write(self, client: bool, data: bytes) -> None:
        self.objects[0 if client else 1].write(data)
        self.session.plain.append((client, data))
        self.move(client)

    def close(self) -> None:
        for number, end in enumerate(self.objects):
            with suppress(ssl.SSLError):  # the other end has not answered yet
                end.unwrap()
            self.move(number == 0)


def frame(forward: bool, offset: int, data: bytes, flags: str = "A", *, number: int = 0) -> Frame:
    """Return an IP packet; offset -1 is the place of the SYN."""
    ends = [(b"\x0a\0\0\1", 40000), (b"\x0a\0\0\2", 49152)]
    (source, sport), (destination, dport) = ends if forward else ends[::-1]
    bits = sum({"F": 1, "S": 2, "R": 4, "A": 16}[letter] for letter in flags)
    tcp = struct.pack(">HHIIBBHHH", sport, dport, 1001 + offset, 1, 0x50, bits, 65535, 0, 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0)
    return Frame(head + source + destination + tcp + data, EPOCH + number * 15_625_000)


def frames(session: Session, size: int = 1448, *, fin: bool = True) -> list[Frame]:
    """Return the packets of a session, without any loss."""
    packets: list[tuple[bool, int, bytes, str]] = [(True, -1, b"", "S"), (False, -1, b"", "SA")]
    places = {True: 0, False: 0}
    for forward, data in session.wire:
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            packets.append((forward, places[forward], piece, "A"))
            places[forward] += len(piece)
    if fin:
        packets += [(forward, places[forward], b"", "FA") for forward in (True, False)]
    return [frame(*packet, number=number) for number, packet in enumerate(packets)]


def decrypt(path: Path, keylog: bytes = b"") -> tuple[list[Seen], Decrypted]:
    """Read a capture to its end, with these secrets."""
    reader = CaptureReader([path])
    reader.info.secrets.add(keylog.splitlines(), "keys")
    decrypted = Decrypted(reader)
    return collect(decrypted), decrypted


def decrypt_frames(
    folder: Path, packets: Iterable[Frame], keylog: bytes
) -> tuple[list[Seen], Decrypted]:
    """Put packets into a capture and read it."""
    return decrypt(write_pcap(folder / "tls.pcap", packets, 101), keylog)


def pieces(seen: Seen) -> list[tuple[int, bytes]]:
    """Return the data of a half with their offsets."""
    return [(event.offset, bytes(event.data)) for event in seen.events if isinstance(event, Data)]
