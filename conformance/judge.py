"""Plays a miniature to the checker, in any cut, as a capture of it would be."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.migration import MainReceived
from multifd_proto.machine.verdict import Report
from multifd_proto.wire.main_stream import MainStream

from .miniatures import Session


def judge(session: Session, cut: int = 1 << 30) -> Report:
    """Return the checker's report on a session fed in pieces of `cut` bytes."""
    checker = Checker(session.parameters)
    main = checker.add_main(0, opened=session.main_opened)
    for number in range(session.tls):
        checker.add_tls(100 + number)
    peers = [checker.add_channel(n, opened=n) for n in range(1, len(session.channels) + 1)]
    checker.judge(main, _main_events(session, cut))
    for peer, sender in zip(peers, session.channels, strict=True):
        peer.reverse_bytes = sender.reverse
        given = session.parameters
        channel = Channel(page_size=given.page_size, dialect=given.dialect, decode=True)
        for piece in pieces(sender.build(), cut):
            channel.receive_data(piece)
        channel.receive_eof()
        peer.page_size = channel.page_size
        checker.judge(peer, channel.events())
    return checker.conclude()


def _main_events(session: Session, cut: int) -> Iterator[MainReceived]:
    data = session.main_tail
    if data is None:
        data = b"".join(record.build() for record in session.main)
    parser = MainStream()
    for piece in pieces(data, cut):
        parser.receive_data(piece)
    parser.receive_eof()
    for offset, size, record in parser.records():
        yield MainReceived(offset, 0, size, record, 0)


def pieces(data: bytes, cut: int) -> Iterator[bytes]:
    """Cut bytes into pieces."""
    for start in range(0, len(data), cut):
        yield data[start : start + cut]
