"""The proxy's record: any reader reads it, whatever ended its writer."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.utils import PcapNgReader

from multifd_proto.capture.events import Endpoint
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.errors import PeerError
from multifd_proto.peers.proxy.pcapng_writer import SEGMENT, End, PcapngWriter
from multifd_proto.tests.captures import Seen, read
from multifd_proto.wire.schema import MultiFDInit

ENDS = End("10.0.0.1", 40000), End("10.0.0.2", 4444)
ENDS6 = End("fd00::1", 40000), End("fd00::2", 4444)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def halves(path) -> list[Seen]:
    return read(path)[0]


@pytest.mark.parametrize("ends", [ENDS, ENDS6], ids=["v4", "v6"])
def test_both_directions_come_back_byte_by_byte(ends, tmp_path):
    onward, back = noise(3 * SEGMENT + 17), noise(1000, 2)
    before = time.time_ns()
    with PcapngWriter(tmp_path / "x.pcapng") as writer:
        conversation = writer.open(*ends)
        conversation.data(onward[:100], forward=True)
        conversation.data(back, forward=False)
        conversation.data(memoryview(onward)[100:], forward=True)
        conversation.end(forward=True)
        conversation.end(forward=False)
    (first, second), reader = read(tmp_path / "x.pcapng")
    assert (first.data, second.data) == (onward, back)
    assert first.half.source == Endpoint(*ends[0])
    assert first.half.destination == Endpoint(*ends[1])
    assert first.half.anchored
    assert first.half.forward
    assert first.end
    assert second.end
    assert not first.end.reset
    assert not first.gaps + second.gaps
    assert not first.half.retransmitted + first.half.reordered
    assert reader.info.truncated == []
    assert reader.info.first is not None
    assert before <= reader.info.first <= (reader.info.last or 0) <= time.time_ns()
    assert reader.info.records == writer.frames


@pytest.mark.parametrize("forward", [True, False])
def test_a_reset_is_that_of_the_end_that_sent_it(forward, tmp_path):
    with PcapngWriter(tmp_path / "x.pcapng") as writer:
        conversation = writer.open(*ENDS)
        conversation.data(b"QEVM", forward=True)
        conversation.reset(forward=forward)
        conversation.data(b"late", forward=True)
        conversation.end(forward=False)
        conversation.reset(forward=not forward)
    first, second = halves(tmp_path / "x.pcapng")
    assert first.data == b"QEVM"
    assert first.end
    assert second.end
    assert first.end.reset
    assert (first.end.by_peer, second.end.by_peer) == (not forward, forward)


def test_sequence_numbers_wrap(tmp_path):
    data = noise(200_000)
    with PcapngWriter(tmp_path / "x.pcapng") as writer:
        conversation = writer.open(*ENDS, isn=2**32 - 70_000)
        conversation.data(data, forward=True)
        conversation.data(data[:80_000], forward=False)
        conversation.end(forward=True)
        conversation.end(forward=False)
    first, second = halves(tmp_path / "x.pcapng")
    assert first.data == data
    assert second.data == data[:80_000]
    assert first.end
    assert second.end
    numbers = [p[TCP].seq for p in packets(tmp_path / "x.pcapng") if p[TCP].sport == 40000]
    assert numbers[0] == 2**32 - 70_000
    assert min(numbers) < SEGMENT < max(numbers)


def packets(path):
    with PcapNgReader(str(path)) as reader:
        return list(reader)


@pytest.mark.parametrize(("ends", "layer"), [(ENDS, IP), (ENDS6, IPv6)], ids=["v4", "v6"])
def test_scapy_reads_it_and_agrees(ends, layer, tmp_path):
    data = noise(SEGMENT + 5)
    with PcapngWriter(tmp_path / "x.pcapng", "a comment") as writer:
        conversation = writer.open(*ends, isn=7)
        conversation.data(data, forward=True)
        conversation.end(forward=True)
        conversation.end(forward=False)
    found = packets(tmp_path / "x.pcapng")
    flags = ["S", "SA", "A", "A", "PA", "A", "FA", "A", "FA", "A"]
    assert [str(packet[TCP].flags) for packet in found] == flags
    assert b"".join(bytes(packet[TCP].payload) for packet in found) == data
    acknowledged = {False: 0, True: 0}
    for packet in found:
        assert isinstance(packet, layer)
        forward = packet[TCP].sport == ends[0].port
        if "S" not in packet[TCP].flags:
            assert packet[TCP].seq >= acknowledged[forward]
        acknowledged[not forward] = packet[TCP].ack
        if layer is IP:
            checksum = packet.chksum
            del packet.chksum
            assert IP(bytes(packet)).chksum == checksum


def test_ends_of_different_versions_are_written_as_version_6(tmp_path):
    with PcapngWriter(tmp_path / "x.pcapng") as writer:
        writer.open(End("10.0.0.1", 1), End("fe80::1%eth0", 2))
    (first, _) = halves(tmp_path / "x.pcapng")
    assert first.half.source == Endpoint("::ffff:a00:1", 1)
    assert first.half.destination == Endpoint("fe80::1", 2)


def test_threads_write_at_once(tmp_path):
    streams = [noise(300_000, seed) for seed in range(8)]
    with PcapngWriter(tmp_path / "x.pcapng") as writer:
        conversations = [writer.open(End("10.0.0.1", 1000 + n), ENDS[1]) for n in range(8)]

        def write(number: int) -> None:
            for start in range(0, 300_000, 7000):
                piece = streams[number][start : start + 7000]
                conversations[number].data(piece, forward=number % 2 == 0)

        threads = [Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = halves(tmp_path / "x.pcapng")
    assert [seen[2 * n + n % 2].data for n in range(8)] == streams


WRITER = """
import sys
from pathlib import Path
from multifd_proto.peers.proxy.pcapng_writer import End, PcapngWriter
writer = PcapngWriter(Path(sys.argv[1]))
conversations = [writer.open(End("10.0.0.1", 1000 + n), End("10.0.0.2", 4444)) for n in range(3)]
count = 0
while True:
    count += 1
    data = count.to_bytes(4, "big") * int(sys.argv[2])
    conversations[count % 3].data(data, forward=True)
    sys.stdout.buffer.write(count.to_bytes(4, "big"))
    sys.stdout.buffer.flush()
"""


@pytest.mark.parametrize("words", [25, 16_000, 250_000])
def test_what_a_kill_leaves_is_read_up_to_the_last_packet(words, tmp_path):
    path = tmp_path / "x.pcapng"
    chance = random.Random(words)
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(path), str(words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.read(4)  # it has begun
            time.sleep(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        done = 1 + len(rest) // 4
        seen, reader = read(path)
        for number in range(3):
            calls = range(number or 3, done + 1, 3)
            complete = b"".join(count.to_bytes(4, "big") * words for count in calls)
            assert seen[2 * number].data.startswith(complete)
            assert not seen[2 * number].gaps
        assert len(reader.info.truncated) <= 1
        assert len(packets(path)) == reader.info.records
        path.unlink()


def test_a_full_disk_ends_the_record_at_a_packet(tmp_path):
    path = tmp_path / "x.pcapng"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with PcapngWriter(path) as writer:
        conversation = writer.open(*ENDS)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            for _ in range(10):
                conversation.data(noise(30_000), forward=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        conversation.end(forward=True)
    assert writer.error == f"{path}: File too large"
    first, _ = halves(path)
    assert first.data == noise(30_000) * 3
    assert read(path)[1].info.truncated == []


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(PeerError) as caught:
        PcapngWriter(tmp_path / "none" / "x.pcapng")
    assert str(caught.value) == f"{tmp_path}/none/x.pcapng: No such file or directory"
    with pytest.raises(PeerError) as caught:
        PcapngWriter(Path("/dev/full"))
    assert str(caught.value) == "/dev/full: No space left on device"


def test_a_main_stream_that_ended_before_its_channels_were_accepted_is_of_their_migration(tmp_path):
    with PcapngWriter(tmp_path / "x.pcapng") as writer:
        main = writer.open(*ENDS)
        main.data(b"QEVM\0\0\0\3", forward=True)
        main.end(forward=True)
        channel = writer.open(End("10.0.0.1", 40001), ENDS[1])
        channel.data(MultiFDInit().build(), forward=True)
        for conversation in (main, channel):
            conversation.end(forward=True)
            conversation.end(forward=False)
        later = writer.open(End("10.0.0.1", 40002), ENDS[1])
        later.data(b"QEVM\0\0\0\3", forward=True)
    follower = Follower()
    for _ in follower.follow(CaptureReader([tmp_path / "x.pcapng"])):
        pass
    assert [len(session.connections) for session in follower.sessions] == [2, 1]
