from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from multifd_proto.conformance.credentials import issue
from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.sending import SourceParameters, ZeroPages
from multifd_proto.peers.address import parse_address
from multifd_proto.peers.lab import RAM, configure, guestless, knows
from multifd_proto.peers.lab import UUID as LAB_UUID
from multifd_proto.peers.send.ram_image import Order
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.peers.send.sent import Sent
from multifd_proto.peers.templates import template_of
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.mainstreams import REAL
from multifd_proto.tests.senders import nothing_left
from multifd_proto.tests.sent_streams import complaints
from multifd_proto.tests.sink import (
    PONG,
    SHUT,
    Handler,
    Sink,
    answer_by,
    channels_by,
    reset,
    slowly,
    stall,
    take,
)
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.payload import METHODS, PayloadMethod

NEWEST = DIALECTS[-1]
EVERY = [pytest.param(dialect, id=dialect.name) for dialect in DIALECTS]
BY_NAME = {method.name: method for method in METHODS}
PAGE = 4096


@pytest.fixture(autouse=True)
def _nothing_is_left():
    with nothing_left():
        yield


def pattern(pages: int, seed: int = 0) -> bytes:
    """Return memory in which every fourth page is zero, and others begin with a zero byte."""
    kinds = [bytes(PAGE), os.urandom(PAGE), bytes(PAGE - 1) + b"x", bytes([seed + 1]) * PAGE]
    return b"".join(kinds[(page + seed) % 4] for page in range(pages))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image"
    file.write_bytes(pattern(1000))
    return file


def send(
    sink: Sink,
    files: dict[bytes, list[Path]],
    *,
    dialect: Dialect = NEWEST,
    channels: int = 3,
    method: PayloadMethod = METHODS[0],
    detection: ZeroPages | None = None,
    page_size: int = PAGE,
    ram: dict[str, Any] | None = None,
    **options: Any,
) -> Sent:
    parameters = SourceParameters(dialect, channels, bytes(16), page_size, method, detection)
    options.setdefault("timeout", 10.0)
    with RamImages(files, page_size, **(ram or {})) as images:
        address = parse_address(sink.uri)
        return Sender(address, parameters, images, options=Options(**options)).run()


def judged(sink: Sink, dialect: Dialect, page_size: int = PAGE) -> dict[bytes, bytes]:
    """Return the memory that was sent, by a sender against which there is no complaint."""
    streams = sink.sent()
    given = MigrationParameters(
        dialect=dialect, page_size=page_size, channels=len(streams.channels), uuid=bytes(16)
    )
    assert complaints(streams.report(given)) == []
    return streams.memory(page_size, dialect)


# ---- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", EVERY)
def test_a_migration_conforms_and_carries_the_memory_in_every_dialect(dialect, image):
    with Sink(take).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, dialect=dialect)
    assert sent.error is None
    assert (sent.completed, sent.pong, sent.shut) == (True, True, 0)
    assert judged(sink, dialect) == {b"ram0": image.read_bytes()}
    assert (sent.normal, sent.duplicate) == (750, 250)
    streams = sink.sent()
    assert sent.multifd_bytes == sum(map(len, streams.channels))
    assert sent.main_bytes == len(streams.main)
    assert [channel.id for channel in sent.channels] == [0, 1, 2]
    assert [channel.syncs for channel in sent.channels] == [3, 3, 3]


@pytest.mark.parametrize("detection", ZeroPages)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_carries_the_memory_with_every_kind_of_zero_pages(method, detection, image):
    with Sink(take).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, method=method, detection=detection)
    assert sent.error is None
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}
    assert sent.duplicate == (0 if detection is ZeroPages.NONE else 250)


@pytest.mark.parametrize("page_size", [1024, 4096, 65536])
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("pages_per_packet", [None, 1, 7])
def test_any_order_and_packing_carry_the_memory(order, page_size, pages_per_packet, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(pattern(16 * 11))
    with Sink(take).listening() as sink:
        sent = send(
            sink, {b"ram0": [file]}, page_size=page_size, order=order,
            pages_per_packet=pages_per_packet,
        )  # fmt: skip
    assert sent.error is None
    assert judged(sink, NEWEST, page_size) == {b"ram0": file.read_bytes()}


@pytest.mark.parametrize("channels", [1, 2, 40, 255])
def test_any_number_of_channels_carries_the_memory(channels, image):
    with Sink(take).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, channels=channels)
    assert sent.error is None
    assert len(sink.sent().channels) == channels
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


def test_several_blocks_with_names_of_any_length_are_sent(tmp_path):
    files = {b"pc.ram": [tmp_path / "a"], b"/rom@etc/acpi/tables": [tmp_path / "b"]}
    files[b"x" * 255] = [tmp_path / "c"]
    for pages, (file,) in enumerate(files.values(), 1):
        file.write_bytes(pattern(pages, pages))
    with Sink(take).listening() as sink:
        sent = send(sink, files, dialect=dialect_of("7.2"))
    assert sent.error is None
    expected = {name: file.read_bytes() for name, (file,) in files.items()}
    assert judged(sink, dialect_of("7.2")) == expected


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("dialect", [dialect_of("7.2"), NEWEST], ids=lambda d: d.name)
def test_a_further_file_is_a_round_of_the_pages_that_differ(dialect, order, tmp_path):
    versions = [bytearray(pattern(1000))]
    for round_ in (1, 2):
        versions.append(bytearray(versions[-1]))
        for page in range(round_, 1000, 90):
            new = bytes(PAGE) if page % 2 else os.urandom(PAGE)
            versions[-1][page * PAGE : (page + 1) * PAGE] = new
    files = []
    for number, version in enumerate(versions):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(version)
    with Sink(take).listening() as sink:
        sent = send(sink, {b"ram0": files}, dialect=dialect, order=order)
    assert sent.error is None
    assert judged(sink, dialect) == {b"ram0": bytes(versions[-1])}
    changed = sum(
        a[at : at + PAGE] != b[at : at + PAGE]
        for a, b in ((versions[0], versions[1]), (versions[1], versions[2]))
        for at in range(0, len(a), PAGE)
    )
    assert 0 < changed < 30
    assert sent.normal + sent.duplicate == 1000 + changed
    assert sent.channels[0].syncs == 5


@pytest.mark.parametrize("method", ["none", "zstd"])
def test_pages_that_are_dirtied_between_rounds_end_as_in_the_file(method, image):
    with Sink(take).listening() as sink:
        sent = send(
            sink, {b"ram0": [image]}, method=BY_NAME[method], ram={"rounds": 4, "dirty": 0.15}
        )
    assert sent.error is None
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}
    assert sent.normal + sent.duplicate == 1000 + 3 * 150
    assert sent.channels[0].syncs == 6


def test_without_a_return_path_no_answer_is_awaited(image):
    with Sink(answer_by(b"", b"")).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, return_path=False)
    assert (sent.error, sent.pong, sent.shut) == (None, False, None)
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


def test_agreement_to_a_switchover_is_noted(image):
    with Sink(answer_by(struct.pack(">HH", 7, 0) + PONG, SHUT)).listening() as sink:
        sent = send(sink, {b"ram0": [image]})
    assert (sent.error, sent.switchover_ack) == (None, True)


def test_a_unix_socket_carries_a_migration(image, tmp_path):
    with Sink(take, socket.AF_UNIX).listening(str(tmp_path / "s")) as sink:
        sent = send(sink, {b"ram0": [image]})
    assert sent.error is None
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


def test_zero_copy_sends_the_same(image):
    with Sink(take).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, zero_copy=True)
    assert sent.error is None
    assert sent.copied > 0  # over loopback the kernel copies, and says so
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


UNPRIVILEGED = """
import os, resource, socket
from multifd_proto.errors import PeerError
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.send.zero_copy import ZeroCopy
listener = socket.create_server(("127.0.0.1", 0))
connection = Connection(socket.create_connection(listener.getsockname()), "channel 0", 5)
zero_copy = ZeroCopy(connection)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
if os.geteuid() == 0:
    os.setuid(65534)
try:
    zero_copy.send([memoryview(bytes(1 << 20))])
except PeerError as error:
    print(error)
"""


def test_zero_copy_without_the_right_to_lock_memory_is_said():
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, check=True, timeout=60
    )
    why = "this process may lock too little memory, see ulimit -l"
    assert done.stdout == f"channel 0: zero copy: {why}\n"


def test_connected_descriptors_carry_a_migration(image):
    sink = Sink(take)
    pairs = [socket.socketpair() for _ in range(3)]
    threads = [
        threading.Thread(target=sink.handle, args=(theirs, number))
        for number, (_, theirs) in enumerate(pairs)
    ]
    for thread in threads:
        thread.start()
    uri = "fd:" + ",".join(str(ours.fileno()) for ours, _ in pairs)
    with RamImages({b"ram0": [image]}) as images:
        sent = Sender(parse_address(uri), SourceParameters(NEWEST), images).run()
    for ours, _ in pairs:
        ours.close()
    for thread in threads:
        thread.join()
    assert sent.error is None
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


def test_a_bandwidth_limit_is_kept(image):
    begun = time.monotonic()
    with Sink(take).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, max_bandwidth=10 << 20)
    assert sent.error is None
    took = time.monotonic() - begun
    # all but the first burst and the last packet of each channel has to wait
    assert took > (sent.normal * PAGE - 3 * (512 << 10)) / (10 << 20) - 0.05
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


def test_progress_tells_how_much_memory_is_sent(image):
    seen: list[tuple[int, int | None]] = []

    def note(done: int, total: int | None) -> None:
        seen.append((done, total))

    with Sink(take).listening() as sink, RamImages({b"ram0": [image]}) as images:
        Sender(parse_address(sink.uri), SourceParameters(NEWEST), images, progress=note).run()
    assert seen == sorted(seen)
    assert seen[-1] == (1000 * PAGE, 1000 * PAGE)


def test_a_recorded_main_stream_is_sent_with_other_memory(tmp_path):
    template = template_of(REAL["7.2"])
    (block,) = template.blocks
    file = tmp_path / "image"
    file.write_bytes(pattern(block.used_length // PAGE))
    with Sink(take).listening() as sink, RamImages({block.name: [file]}) as images:
        parameters = SourceParameters(dialect_of("7.2"), 2)
        sent = Sender(parse_address(sink.uri), parameters, images, template=template).run()
    assert sent.error is None
    assert judged(sink, dialect_of("7.2")) == {block.name: file.read_bytes()}
    assert template.suffix in sink.sent().main


def test_memory_of_another_machine_is_refused(image):
    template = template_of(REAL["7.2"])
    (block,) = template.blocks
    with RamImages({b"other": [image]}) as images, pytest.raises(PeerError) as error:
        Sender(parse_address("tcp::1"), SourceParameters(NEWEST), images, template=template)
    name = block.name.decode()
    assert str(error.value) == (
        "RAM blocks of the recorded main stream: 'other' is not in it,"
        f" '{name}' of {block.used_length} bytes is missing"
    )


# ---- destinations that misbehave -----------------------------------------------------------------

BROKEN = "(tcp:127.0.0.1:[0-9]+: )?(Connection reset by peer|Broken pipe)"
PLACE = ", at sync point [0-2], after [0-9]+ packets"


def failing(handler: Handler, image: Path, message: str, **options: Any) -> None:
    """Check that a migration fails, in time, and for this reason."""
    begun = time.monotonic()
    window = options.pop("window", None)
    with Sink(handler, window=window).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, **{"timeout": 0.3, **options})
    assert not sent.completed
    assert re.fullmatch(message, str(sent.error))
    assert time.monotonic() - begun < 5


def test_nobody_listens(image):
    with Sink(take).listening() as sink:
        uri = sink.uri
    with RamImages({b"ram0": [image]}) as images:
        sent = Sender(parse_address(uri), SourceParameters(NEWEST), images).run()
    assert str(sent.error) == f"main stream: {uri}: Connection refused"


def test_channels_are_refused(image):
    def only_main(sink: Sink, connection: socket.socket, number: int) -> None:
        if not number:
            sink.stop_listening()
        take(sink, connection, number)

    failing(
        only_main, image,
        f"channel [0-9]+: (tcp:127.0.0.1:[0-9]+: Connection refused|{BROKEN}({PLACE})?)"
        "|main stream: the destination sent no PONG for 0.3 s",
        channels=20,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "channels"), [(0, 4), (1, 1), (1, 4), (4, 4)])
@pytest.mark.parametrize("how", [reset, socket.socket.close])
@pytest.mark.parametrize("after", [0, 1, 64, 65, 2000, 700_000])
def test_a_connection_that_the_destination_breaks_ends_all(number, channels, how, after, image):
    # each channel sends no more than its SYNC packets for certain
    after = min(after, 4000) if channels > 1 else after

    def breaking(sink: Sink, connection: socket.socket, index: int) -> None:
        if index != number:
            return answer_by(PONG, b"")(sink, connection, index)
        left = min(after, 60) if not index else after
        while left > 0 and (piece := connection.recv(left)):
            left -= len(piece)
        how(connection)
        return None

    failing(
        breaking, image,
        f"channel [0-9]+: {BROKEN}({PLACE})?"
        f"|main stream: {BROKEN}, after [0-9]+ bytes"
        "|main stream: Connection reset by peer"
        "|main stream, return path @0x[08]: closed before SHUT"
        "|main stream: the destination sent no (PONG|SHUT) for 0.3 s",
        channels=channels, pages_per_packet=16,
    )  # fmt: skip


def test_a_destination_that_takes_nothing_fails_on_the_channel(image, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * 40)
    failing(
        channels_by(stall), large,
        f"channel [0-9]: the peer took no byte for 0.3 s{PLACE}",
        window=4096,
    )  # fmt: skip


def test_a_destination_that_takes_little_but_steadily_is_waited_for(image):
    with Sink(slowly, window=8192).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, timeout=0.3)
    assert sent.error is None
    assert judged(sink, NEWEST) == {b"ram0": image.read_bytes()}


def test_a_destination_that_never_answers_the_ping_fails(image):
    message = "main stream: the destination sent no PONG for 0.3 s"
    failing(answer_by(b"", SHUT), image, message)
    failing(stall, image, message)


def test_a_destination_that_never_says_how_it_went_fails(image):
    failing(answer_by(PONG, b""), image, "main stream: the destination sent no SHUT for 0.3 s")


@pytest.mark.parametrize(
    ("pong", "shut", "message"),
    [
        (PONG, SHUT[:-1] + b"\1", "@0x8: the destination has failed: SHUT is 0x1, must be 0"),
        (SHUT[:-1] + b"\1", b"", "@0x0: the destination has failed: SHUT is 0x1, must be 0"),
        (SHUT, b"", "@0x0: SHUT before the end of the main stream"),
        (PONG + b"\0\3\0\0", b"", "@0x8: message type is 3, must be 1, 2 or 7"),
        (b"GET / HTTP/1.1", b"", "@0x0: message type is 18245, must be 1, 2 or 7"),
        (b"\0\2\xff\xff", b"", "@0x0: length of PONG is 65535, must be 4"),
        (b"\0\1\0\0", b"", "@0x0: length of SHUT is 0, must be 4"),
        (b"\0\7\0\1", b"", "@0x0: length of SWITCHOVER_ACK is 1, must be 0"),
        (PONG[:-1] + b"\2", b"", "@0x0: PONG is 0x2, must be 0x1"),
    ],
)
def test_what_is_wrong_on_the_return_path_is_said(pong, shut, message, image):
    failing(answer_by(pong, shut), image, re.escape(f"main stream, return path {message}"))


def test_an_answer_may_come_in_pieces(image):
    def dribble(sink: Sink, connection: socket.socket, number: int) -> None:
        if number:
            return take(sink, connection, number)
        for byte in PONG:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)
        return answer_by(b"", SHUT)(sink, connection, number)

    with Sink(dribble).listening() as sink:
        assert send(sink, {b"ram0": [image]}).error is None


def test_a_destination_that_says_why_it_breaks_off_is_heard(image):
    """As QEMU does: it says SHUT 1 on the main stream while its channels are torn down."""
    torn = threading.Barrier(2)

    def failing_load(sink: Sink, connection: socket.socket, number: int) -> None:
        if number == 1:
            connection.recv(100)
            torn.wait(5)
            reset(connection)
        elif number:
            take(sink, connection, number)
        else:
            torn.wait(5)
            time.sleep(0.05)
            connection.sendall(SHUT[:-1] + b"\1")

    failing(
        failing_load, image,
        "main stream, return path @0x0: the destination has failed: SHUT is 0x1, must be 0",
    )  # fmt: skip


def test_an_interrupt_leaves_nothing_running(image):
    def interrupt(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    with Sink(stall).listening() as sink, RamImages({b"ram0": [image]}) as images:
        sender = Sender(
            parse_address(sink.uri), SourceParameters(NEWEST), images, progress=interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            sender.run()


def test_zero_copy_over_a_unix_socket_is_refused(image, tmp_path):
    with Sink(take, socket.AF_UNIX).listening(str(tmp_path / "s")) as sink:
        sent = send(sink, {b"ram0": [image]}, zero_copy=True)
    assert re.fullmatch("channel [0-2]: zero copy: Operation not supported", str(sent.error))


# ---- TLS -----------------------------------------------------------------------------------------


def test_a_destination_without_tls_fails_the_handshake(image, tmp_path):
    credentials = TlsCredentials(issue(tmp_path / "tls"))

    def hang_up(_sink: Sink, connection: socket.socket, _number: int) -> None:
        connection.recv(1)
        reset(connection)

    with Sink(hang_up).listening() as sink:
        sent = send(sink, {b"ram0": [image]}, tls=credentials)
    assert str(sent.error) == "main stream: TLS handshake: Connection reset by peer"


def test_a_destination_that_never_shakes_hands_fails(image, tmp_path):
    credentials = TlsCredentials(issue(tmp_path / "tls"))
    failing(stall, image, "main stream: no TLS handshake within 0.3 s", tls=credentials)


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{file}: has 0 bytes, must have a multiple of 4096"),
        (bytes(5000), "{file}: has 5000 bytes, must have a multiple of 4096"),
    ],
)
def test_a_file_that_no_block_can_be_is_refused(content, message, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(content)
    with pytest.raises(PeerError) as error:
        RamImages({b"ram0": [file]})
    assert str(error.value) == message.format(file=file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(PeerError) as error:
        RamImages({b"ram0": [tmp_path / "missing"]})
    assert str(error.value) == f"{tmp_path / 'missing'}: No such file or directory"
    with pytest.raises(PeerError) as error:
        RamImages({b"ram0": [tmp_path]})
    assert str(error.value) == f"{tmp_path}: Is a directory"


def test_files_of_a_block_have_one_length(image, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(bytes(PAGE))
    with pytest.raises(PeerError) as error:
        RamImages({b"ram0": [image, other]})
    assert str(error.value) == f"{other}: has 4096 bytes, must have 4096000, as {image}"


def test_further_files_and_rounds_exclude_each_other(image):
    with pytest.raises(PeerError) as error:
        RamImages({b"ram0": [image, image]}, rounds=2)
    assert str(error.value) == "RAM block 'ram0' has 2 files, with rounds only 1"


def test_a_name_too_long_for_a_packet_is_refused(image):
    with pytest.raises(PeerError) as error:
        RamImages({b"x" * 256: [image]})
    assert str(error.value) == "name of a RAM block is 256 bytes, must be 1 to 255"


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 100, 128])
def test_an_order_has_every_number_once(order, count):
    assert sorted(order.of(range(5, 5 + count))) == list(range(5, 5 + count))


# ---- real destinations ---------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("method", ["none", "zlib", "zstd"])
@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0", "11.1"])
def test_a_real_destination_has_the_memory_at_the_end(release, method, qemu, tmp_path):
    image, memory = tmp_path / "image", tmp_path / "memory"
    image.write_bytes(pattern(4096))
    size = image.stat().st_size
    with guestless(qemu(release), memory, size=size, directory=tmp_path, incoming=True) as peer:
        if not knows(peer, "multifd-compression", method):
            pytest.skip(f"this QEMU {release} was built without {method}")
        configure(peer, channels=4, compression=method)
        address = parse_address(f"tcp:127.0.0.1:{peer.listen()}")
        parameters = SourceParameters(
            dialect_of(release), 4, UUID(LAB_UUID).bytes, method=BY_NAME[method]
        )
        with RamImages({RAM.encode(): [image]}, rounds=3) as images:
            sent = Sender(address, parameters, images, options=Options(timeout=20)).run()
        assert sent.error is None
        assert (sent.pong, sent.shut) == (True, 0)
        assert peer.wait_migrated()["status"] == "completed"
    assert memory.read_bytes() == image.read_bytes()


@pytest.mark.qemu
@pytest.mark.parametrize("return_path", [True, False])
@pytest.mark.parametrize("release", ["7.2", "10.0", "11.1"])
def test_a_real_destination_has_the_memory_by_tls(release, return_path, qemu, tmp_path):
    image, memory = tmp_path / "image", tmp_path / "memory"
    image.write_bytes(pattern(1024))
    size, folder = image.stat().st_size, issue(tmp_path / "tls")
    with guestless(
        qemu(release), memory, size=size, directory=tmp_path, incoming=True, tls_creds=folder
    ) as peer:
        configure(peer, channels=3, tls=True)
        address = parse_address(f"tcp:127.0.0.1:{peer.listen()}")
        parameters = SourceParameters(dialect_of(release), 3, UUID(LAB_UUID).bytes)
        options = Options(tls=TlsCredentials(folder), return_path=return_path, timeout=20)
        with RamImages({RAM.encode(): [image]}) as images:
            sent = Sender(address, parameters, images, options=options).run()
        assert sent.error is None
        assert peer.wait_migrated()["status"] == "completed"
    assert memory.read_bytes() == image.read_bytes()
