"""Scapy's stream sockets speak multifd: with each other, and with real QEMU as either end."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, suppress
from typing import Self

import pytest
from scapy.packet import Packet
from scapy.supersocket import SSLStreamSocket as StreamSocketPeekless  # its name before 2.7
from scapy.supersocket import StreamSocket

from multifd_proto.machine.sending import MainWriter
from multifd_proto.peers.lab import RAM, UUID, configure, guestless
from multifd_proto.peers.templates import template_for
from multifd_proto.views.scapy_layers import (
    LAYERS,
    MultiFD,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPages,
)
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.ram_records import RamBlockEntry, RamSetup

PAGE = 4096
CHANNELS = 3
BY_NAME = {method.name: method for method in METHODS}


def memory_of(pages: int) -> bytes:
    """Return memory in which every third page is zero."""
    return b"".join(os.urandom(PAGE) if n % 3 else bytes(PAGE) for n in range(pages))


# ---- among ourselves -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [StreamSocket, StreamSocketPeekless])
def test_stream_sockets_hand_over_message_by_message(kind):
    pages = MultiFDPacket(offset=[0, PAGE], ramblock="pc.ram") / MultiFDPages(load=bytes(2 * PAGE))
    messages = [MultiFDInit(id=2), pages, MultiFDPacket(flags="SYNC"), pages]
    here, there = socket.socketpair()
    with here, there:
        out, back = StreamSocket(here, MultiFD), kind(there, MultiFD)
        for message in messages:
            out.send(message)
        here.shutdown(socket.SHUT_WR)
        seen = [back.recv() for _ in messages]
        assert [bytes(packet) for packet in seen] == list(map(bytes, messages))
        assert [type(packet) for packet in seen] == [MultiFDInit, *[MultiFDPacket] * 3]
        with pytest.raises(EOFError):
            back.recv()


# ---- real QEMU as destination --------------------------------------------------------------------


class Source:
    """A source of migrations, made of scapy's packets and sockets."""

    def __init__(self, stack: ExitStack, port: int, release: str, method: str, size: int) -> None:
        dialect = dialect_of(release)
        self.layer, self.method = LAYERS[dialect.packet], BY_NAME[method]
        blocks = (RamBlockEntry(RAM.encode(), size),)
        self.writer = MainWriter(template_for(dialect), blocks, return_path=False)
        self.number = 0
        self.sockets = []
        for _ in range(1 + CHANNELS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            self.sockets.append(StreamSocket(sock, MultiFD))
        self.main, *self.channels = self.sockets
        self.encoders = [self.method.encoder() for _ in self.channels]

    def packet(self, **fields: object) -> Packet:
        packet = self.layer(packet_num=self.number, **fields)
        self.number += 1
        return packet

    def mark(self) -> None:
        for channel in self.channels:
            channel.send(self.packet(flags="SYNC"))
        self.main.send(QEVM(data=self.writer.mark()))

    def pages(self, memory: bytes) -> None:
        """Send all memory, the packets of it over the channels in turn."""
        for turn, begin in enumerate(range(0, len(memory), 128 * PAGE)):
            index = turn % CHANNELS
            chunk = memory[begin : begin + 128 * PAGE]
            pages = {begin + at: chunk[at : at + PAGE] for at in range(0, len(chunk), PAGE)}
            zero = [at for at, page in pages.items() if not any(page)]
            zero = zero if self.layer is MultiFDPacket else []
            normal = [at for at in pages if at not in zero]
            load = self.encoders[index].encode([pages[at] for at in normal])
            fields = {"flags": self.method.flag, "ramblock": RAM, "offset": normal + zero}
            if zero:
                fields["zero_pages"] = len(zero)
            self.channels[index].send(self.packet(**fields) / MultiFDPages(load=load))

    def migrate(self, memory: bytes) -> None:
        for number, channel in enumerate(self.channels):
            channel.send(MultiFDInit(uuid=UUID, id=number))
        self.main.send(QEVM(data=self.writer.start()))
        self.mark()
        for content in (memory[::-1], memory):
            self.main.send(QEVM(data=self.writer.part()))
            self.pages(content)
            self.mark()
        self.main.send(QEVM(data=self.writer.end()))
        self.mark()
        self.main.send(QEVM(data=self.writer.finish()))


@pytest.mark.qemu
@pytest.mark.parametrize("method", ["none", "zlib"])
@pytest.mark.parametrize("release", ["7.2", "10.0", "11.1"])
def test_a_session_built_in_scapy_is_accepted_by_qemu(release, method, qemu, tmp_path):
    memory, file = memory_of(1500), tmp_path / "memory"
    with (
        guestless(
            qemu(release), file, size=len(memory), directory=tmp_path, incoming=True
        ) as destination,
        ExitStack() as stack,
    ):
        configure(destination, channels=CHANNELS, compression=method)
        source = Source(stack, destination.listen(), release, method, len(memory))
        source.migrate(memory)
        assert destination.wait_migrated()["status"] == "completed"
    assert file.read_bytes() == memory


# ---- real QEMU as source -------------------------------------------------------------------------


class Sink:
    """A destination that reads all connections to their ends with scapy's stream sockets."""

    def __init__(self) -> None:
        self.received: list[list[Packet]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._accepting.join(20)  # the source may be done before all its connections are taken
        with self._listener, suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.join()

    def _accept(self) -> None:
        with suppress(OSError):
            for _ in range(CHANNELS + 1):
                sock, _ = self._listener.accept()
                packets: list[Packet] = []
                self.received.append(packets)
                self._threads.append(threading.Thread(target=read_all, args=(sock, packets)))
                self._threads[-1].start()

    def join(self) -> None:
        """Wait for the connections, all of which have been opened, to end."""
        self._accepting.join(20)
        for thread in self._threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in (self._accepting, *self._threads))


def read_all(sock: socket.socket, packets: list[Packet]) -> None:
    with sock:
        sock.settimeout(20)
        stream = StreamSocketPeekless(sock, MultiFD)
        try:
            while True:
                packets.append(stream.recv())
        except EOFError:
            pass


@pytest.mark.qemu
@pytest.mark.parametrize("release", ["7.2", "10.0", "11.1"])
def test_a_session_of_qemu_is_understood_by_scapys_sockets(release, qemu, tmp_path):
    memory, file = memory_of(1500), tmp_path / "memory"
    file.write_bytes(memory)
    with (
        Sink() as sink,
        guestless(qemu(release), file, size=len(memory), directory=tmp_path) as source,
    ):
        configure(source, channels=CHANNELS)
        source.migrate(f"tcp:127.0.0.1:{sink.port}")
        assert source.wait_migrated()["status"] == "completed"
    (main,) = [packets for packets in sink.received if isinstance(packets[0], QEVM)]
    channels = [packets for packets in sink.received if packets is not main]
    assert sorted(packets[0].id for packets in channels) == list(range(CHANNELS))
    assert {str(packets[0].uuid) for packets in channels} == {UUID}
    assert rebuilt(channels, len(memory)) == memory
    records = [record for packet in main for record in packet.records]
    (setup,) = [record for record in records if isinstance(record, RamSetup)]
    assert setup.blocks == (RamBlockEntry(RAM.encode(), len(memory)),)


def rebuilt(channels: list[list[Packet]], size: int) -> bytes:
    memory = bytearray(size)
    for _, *packets in channels:
        for packet in packets:
            assert isinstance(packet, MultiFDPacket)
            for offset, page in packet.pages():
                memory[offset : offset + PAGE] = page
    return bytes(memory)
