"""Guest memory: what a source claims costs nothing, what it sends arrives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.peers.receive.memory import MAX_BLOCKS, Block, GuestMemory
from multifd_proto.tests.senders import PAGE

MIB = 1 << 20


def block(pages: int = 8, path: Path | None = None) -> Block:
    return Block(b"ram", pages * PAGE, PAGE, path)


def test_a_block_is_zero_at_first() -> None:
    ram = block()
    assert bytes(ram.view) == bytes(8 * PAGE)
    ram.close()


@pytest.mark.parametrize(
    ("numbers", "lengths"),
    [([], []), ([3], [1]), ([2, 3, 4], [3]), ([4, 3], [1, 1]), ([0, 1, 5, 6, 7, 3], [2, 3, 1])],
)
def test_neighbours_are_one_piece(numbers: list[int], lengths: list[int]) -> None:
    ram = block()
    pieces = ram.pieces([number * PAGE for number in numbers])
    assert [len(piece) // PAGE for piece in pieces] == lengths
    for piece in pieces:
        piece[:] = b"\7" * len(piece)
    written = [n for n in range(8) if bytes(ram.view[n * PAGE : (n + 1) * PAGE]) != bytes(PAGE)]
    assert written == sorted(numbers)
    pieces.clear()
    ram.close()


def test_pages_become_zero_again() -> None:
    ram = block()
    (piece,) = ram.pieces([PAGE, 2 * PAGE])
    piece[:] = b"\7" * len(piece)
    ram.clear([0, 2 * PAGE])
    assert bytes(ram.view) == bytes(PAGE) + b"\7" * PAGE + bytes(6 * PAGE)
    del piece
    ram.close()


def test_a_file_holds_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"old" * 9)
    ram = block(2, path)
    ram.view[PAGE : PAGE + 3] = b"new"
    ram.close()
    assert path.read_bytes() == (bytes(PAGE) + b"new").ljust(2 * PAGE, b"\0")


@pytest.mark.parametrize("saved", [False, True])
def test_a_block_may_be_empty(saved: bool, tmp_path: Path) -> None:
    path = tmp_path / "ram" if saved else None
    ram = block(0, path)
    assert bytes(ram.view) == b""
    ram.close()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b""] * saved


def test_memory_can_be_let_go_of_while_somebody_holds_a_piece() -> None:
    ram = block()
    (piece,) = ram.pieces([0])
    ram.close()
    piece[:3] = b"abc"
    assert bytes(piece[:3]) == b"abc"


def test_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    memory = GuestMemory(PAGE, MIB, tmp_path)
    names = [b"../../etc/passwd", b"/etc/passwd", b"..", b"a/b", b"a_b", b"\0", b"x" * 255]
    memory.create(dict.fromkeys(names, PAGE))
    memory.close()
    files = {path.name for path in tmp_path.iterdir()}
    assert len(files) == len(names)
    assert {"a_b.ram", "a_b~2.ram", "_.ram"} <= files


def test_more_ram_than_allowed_is_refused() -> None:
    memory = GuestMemory(PAGE, MIB)
    with pytest.raises(PeerError) as error:
        memory.create({b"a": MIB, b"b": 1})
    assert str(error.value) == "the source has 1048577 bytes of RAM, at most 1048576 go"
    assert memory.blocks == {}


def test_more_blocks_than_allowed_are_refused() -> None:
    memory = GuestMemory(PAGE, MIB)
    with pytest.raises(PeerError) as error:
        memory.create({b"%d" % number: 0 for number in range(MAX_BLOCKS + 1)})
    assert str(error.value) == "the source has 513 RAM blocks, at most 512 go"


def test_a_folder_without_room_is_said_so() -> None:
    memory = GuestMemory(PAGE, MIB, Path("/proc"))
    with pytest.raises(PeerError) as error:
        memory.create({b"ram": 2 * PAGE})
    assert str(error.value) == "/proc: has room for 0 bytes, the source has 8192"


def test_memory_that_there_is_not_is_said_so() -> None:
    memory = GuestMemory(PAGE, 1 << 63)
    with pytest.raises(PeerError) as error:
        memory.create({b"ram": 1 << 60})
    message = f"RAM block 'ram' of {1 << 60} bytes: Cannot allocate memory"
    assert str(error.value) == message


CLAIMS = """
import resource, sys, tempfile
from pathlib import Path
from multifd_proto.tests.senders import *
from multifd_proto.wire.ram_records import RamBlockEntry, RamSetup

def grown():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

with serving(timeout=0.2) as run:  # so that all that is loaded only when used is there
    run.script.setup()
    run.script.channels[0].pages([1]).device_state(b"x")
before = grown()
with serving(timeout=0.2, save=Path(sys.argv[1]), script={"blocks": {BLOCK: 64 << 20}}) as run:
    main, (first, _) = run.script.setup()
    first.device_state(b"x", next_packet_size=64 << 20)
print(run.error, grown() - before)
with serving(timeout=0.2, script={"blocks": {BLOCK: 512 << 30}}) as run:
    main, (first, _) = run.script.setup()
    main.part()
    first.pages([1, 2, 3 << 20])
print(run.error, grown() - before)
"""


def test_what_a_source_announces_costs_no_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLAIMS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = done.stdout.splitlines()
    stalled, grown = first.rsplit(" ", 1)
    assert stalled.endswith("no byte of its payload came for 0.2 s")
    assert int(grown) < 16
    reason, grown = second.rsplit(" ", 1)
    assert reason in {
        "no byte came for 0.2 s: the main stream stands still after 1 marks",
        f"RAM block 'pc.ram' of {512 << 30} bytes: Cannot allocate memory",
    }
    assert int(grown) < 32
