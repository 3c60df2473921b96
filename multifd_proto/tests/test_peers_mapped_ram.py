"""Mapped-ram files on disk: read, extracted, compared, written; and real QEMU on the other side."""

from __future__ import annotations

import os
import random
import struct
import threading
import tracemalloc
from pathlib import Path

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.machine.mapped_ram import violated
from multifd_proto.peers import mapped_ram_write
from multifd_proto.peers.mapped_ram import MappedRamFile
from multifd_proto.peers.mapped_ram_write import write
from multifd_proto.peers.qemu import Qemu
from multifd_proto.peers.templates import template_for
from multifd_proto.tests.senders import nothing_left
from multifd_proto.wire.block_names import file_name
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.main_records import SectionEnd
from multifd_proto.wire.mapped_ram import MappedBlock

PAGE = 4096
MIB = 1 << 20
TEMPLATE = template_for(dialect_of("10.0"))


def memory(pages: int, seed: int = 1, zero: float = 0.4) -> bytes:
    """Return random pages, some of them zero, in runs of all lengths."""
    chance = random.Random(seed)
    out = b""
    while len(out) < pages * PAGE:
        run = chance.choice((1, 1, 2, 3, 5, 8, 40, 200)) * PAGE
        out += bytes(run) if chance.random() < zero else chance.randbytes(run)
    return out[: pages * PAGE]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(memory(1500))
    return path


@pytest.fixture
def saved(tmp_path: Path, image: Path) -> Path:
    path = tmp_path / "saved"
    write(path, {b"ram0": image}, TEMPLATE)
    return path


@pytest.fixture
def direct(tmp_path: Path) -> bool:
    """Tell whether the file system of the tests takes O_DIRECT."""
    try:
        os.close(os.open(tmp_path / "direct", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def patched(path: Path, place: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
    return path


def only(file: MappedRamFile) -> MappedBlock:
    (info,) = file.blocks
    assert info.readable
    return info.block


# ---- written and read --------------------------------------------------------------------------


@pytest.mark.parametrize("writers", [1, 4])
@pytest.mark.parametrize("offset", [0, 4097])
@pytest.mark.parametrize("direct_io", [False, True])
def test_what_is_written_is_extracted_again(tmp_path, writers, offset, direct_io, direct):
    if direct_io and not direct:
        pytest.skip("the file system takes no O_DIRECT")
    images = {}
    for name, pages in ((b"pc.ram", 3000), (b"/rom@etc/acpi", 33), (b"empty", 100)):
        images[name] = tmp_path / file_name(name)
        images[name].write_bytes(memory(pages, seed=pages, zero=name == b"empty" or 0.4))
    path = tmp_path / "out"
    with nothing_left():
        write(path, images, TEMPLATE, writers=writers, offset=offset, direct_io=direct_io)
    with MappedRamFile(path, offset) as file:
        assert not violated(file.results)
        assert [info.block.name for info in file.blocks] == list(images)
        for info in file.blocks:
            expected = images[info.block.name].read_bytes()
            places = range(0, len(expected), PAGE)
            assert info.present == sum(any(expected[at : at + PAGE]) for at in places)
            target = tmp_path / "extracted"
            file.extract(info.block, target)
            assert target.read_bytes() == expected
            assert file.compare(info.block, images[info.block.name]) is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_zero_pages_take_no_room(tmp_path):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    patched(image, 20 * MIB, b"x")
    path, target = tmp_path / "out", tmp_path / "extracted"
    write(path, {b"ram0": image}, TEMPLATE)
    with MappedRamFile(path) as file:
        assert file.blocks[0].present == 1
        file.extract(only(file), target)
    for sparse in (path, target):
        assert sparse.stat().st_size >= 64 * MIB
        assert sparse.stat().st_blocks * 512 < MIB
    assert target.read_bytes() == image.read_bytes()


def test_slots_of_zero_pages_have_no_meaning(tmp_path, image, saved):
    with MappedRamFile(saved) as file:
        block = only(file)
        flags = "".join(flags for _, flags in file.flags(block))[: block.pages]
        for page, flag in enumerate(flags):
            if flag == "0":
                patched(saved, block.slots.start + page * PAGE, b"an old version")
        file.extract(block, tmp_path / "extracted")
        assert (tmp_path / "extracted").read_bytes() == image.read_bytes()
        assert file.compare(block, image) is None


def test_extraction_between_file_systems_is_the_same(tmp_path, image, saved, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with MappedRamFile(saved) as file:
        file.extract(only(file), tmp_path / "extracted")
    assert (tmp_path / "extracted").read_bytes() == image.read_bytes()


def test_progress_ends_with_everything(tmp_path, image):
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    write(tmp_path / "out", {b"ram0": image}, TEMPLATE, progress=progress)
    size = image.stat().st_size
    assert told == sorted(told)
    assert told[-1] == (size, size)
    with MappedRamFile(tmp_path / "out") as file:
        for work in (file.extract, file.compare):
            told.clear()
            work(only(file), image if work == file.compare else tmp_path / "x", progress)
            assert told == sorted(told)
            assert told[-1] == (size, size)


@pytest.mark.parametrize("page", [0, 255, 256, 1499])
def test_the_first_page_that_differs_is_found(image, saved, page):
    patched(image, page * PAGE + 100, b"\x01\x02")
    patched(image, 1499 * PAGE, b"\x01\x02")
    with MappedRamFile(saved) as file:
        assert file.compare(only(file), image) == page * PAGE


def test_an_image_of_another_size_differs_where_one_ends(image, saved):
    with MappedRamFile(saved) as file:
        size = image.stat().st_size
        os.truncate(image, size - 5 * PAGE)
        assert file.compare(only(file), image) == size - 5 * PAGE
        os.truncate(image, size - 5 * PAGE - 1)
        assert file.compare(only(file), image) == size - 6 * PAGE


# ---- what cannot be done -----------------------------------------------------------------------


def refused(work: object, *arguments: object, **options: object) -> str:
    assert callable(work)
    with pytest.raises(PeerError) as error:
        work(*arguments, **options)
    return str(error.value)


def test_what_is_no_migration_is_refused(tmp_path):
    path = tmp_path / "file"
    assert refused(MappedRamFile, path) == f"{path}: cannot be read: No such file or directory"
    assert refused(MappedRamFile, tmp_path) == f"{tmp_path}: is a directory, must be a file"
    path.write_bytes(b"")
    assert refused(MappedRamFile, path) == f"{path}: has 0 bytes, must have 4 or more"
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    assert refused(MappedRamFile, path) == (
        f"{path}: @0x0 begins with {bytes.fromhex('d4c3b2a1')!r}, must be b'QEVM'"
    )
    assert refused(MappedRamFile, path, 1 << 62) == (
        f"{path}: has 24 bytes, must have {(1 << 62) + 4} or more"
    )
    os.mkfifo(tmp_path / "fifo")
    assert refused(MappedRamFile, tmp_path / "fifo") == (
        f"{tmp_path}/fifo: is something else, must be a file"
    )


def test_a_truncated_file_is_read_as_far_as_it_goes(image, saved):
    size = saved.stat().st_size
    with MappedRamFile(saved) as file:
        block = only(file)
    for cut in (5, 60, 85, 120, 131, MIB, block.slots.stop - 1, block.slots.stop, size - 1):
        os.truncate(saved, cut)
        with MappedRamFile(saved) as file:
            assert violated(file.results), cut
            assert all(info.readable == (cut >= block.slots.stop) for info in file.blocks)
        write(saved, {b"ram0": image}, TEMPLATE, overwrite=True)


def test_a_file_that_shrinks_meanwhile_is_a_fault(tmp_path, image, saved):
    with MappedRamFile(saved) as file:
        block = only(file)
        os.truncate(saved, block.slots.stop - 3 * PAGE)
        for work, other in ((file.extract, tmp_path / "x"), (file.compare, image)):
            found = refused(work, block, other)
            assert found.startswith(f"{saved}: @")
            assert "bytes, must be" in found


def test_claims_of_huge_blocks_take_no_memory(tmp_path, saved, image):
    length = 1 << 38
    with MappedRamFile(saved) as file:
        block = only(file)
    patched(saved, block.place - 8, struct.pack(">Q", length | 4))
    patched(saved, block.place + 5, struct.pack(">Q", length))
    patched(saved, block.end - 8, struct.pack(">Q", 16 * MIB))
    os.truncate(saved, 2 * length)
    tracemalloc.start()
    with MappedRamFile(saved) as file:
        assert only(file).used_length == length
        assert file.compare(only(file), image) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_a_file_is_not_extracted_into_itself(saved):
    before = saved.read_bytes()
    with MappedRamFile(saved) as file:
        assert refused(file.extract, only(file), saved) == (
            f"{saved}: is what is read, must be another file"
        )
    assert saved.read_bytes() == before


def test_images_must_be_whole_pages_and_names_fit(tmp_path, image):
    path = tmp_path / "out"
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(100))
    found = refused(write, path, {b"ram0": odd}, TEMPLATE)
    assert found == f"{odd}: has 100 bytes, must have a multiple of 4096"
    odd.write_bytes(b"")
    found = refused(write, path, {b"ram0": odd}, TEMPLATE)
    assert found == f"{odd}: has 0 bytes, must have a multiple of 4096"
    found = refused(write, path, {b"x" * 256: image}, TEMPLATE)
    assert found == "name of a RAM block has 256 bytes, must have 1 to 255"
    found = refused(write, path, {}, TEMPLATE)
    assert found == f"{path}: no RAM block is given, must be one or more"
    found = refused(write, tmp_path / "no" / "out", {b"ram0": image}, TEMPLATE)
    assert found == f"{tmp_path}/no/out: cannot be written: No such file or directory"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image", "odd"]


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path, image):
    path = tmp_path / "out"
    path.write_bytes(b"precious")
    found = refused(write, path, {b"ram0": image}, TEMPLATE)
    assert found == f"{path}: exists, must be a new file"
    assert path.read_bytes() == b"precious"
    write(path, {b"ram0": image}, TEMPLATE, overwrite=True)
    assert path.read_bytes()[:4] == b"QEVM"
    found = refused(write, tmp_path, {b"ram0": image}, TEMPLATE, overwrite=True)
    assert found == f"{tmp_path}: is no regular file"


def test_a_file_system_without_o_direct_is_named(tmp_path, image, monkeypatch):
    real = os.open

    def picky(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", picky)
    found = refused(write, tmp_path / "out", {b"ram0": image}, TEMPLATE, direct_io=True)
    assert found == f"{tmp_path}: the file system takes no O_DIRECT"
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_write_that_fails_leaves_nothing_and_stops_all_writers(tmp_path, image, monkeypatch):
    calls = []

    def full(fd: int, data: object, place: int) -> None:
        calls.append(place)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped_ram_write, "write_at", full)
    path = tmp_path / "out"
    path.write_bytes(b"precious")
    before = set(threading.enumerate())
    found = refused(write, path, {b"ram0": image}, TEMPLATE, overwrite=True)
    assert set(threading.enumerate()) <= before
    assert found == f"{path}: cannot be written: No space left on device"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image", "out"]
    assert path.read_bytes() == b"precious"


# ---- real QEMU ---------------------------------------------------------------------------------


def guestless(binary: Path, image: Path, directory: Path, *more: str) -> Qemu:
    size = image.stat().st_size
    backend = f"memory-backend-file,id=ram0,size={size},share=on,mem-path={image}"
    machine = ["-machine", "none,memory-backend=ram0", "-m", f"{size >> 20}", "-object", backend]
    plain = ["-S", "-nodefaults", "-display", "none", *more]
    return Qemu(binary, *machine, *plain, directory=directory)


def save(qemu: Qemu, uri: str, *capabilities: str, **parameters: object) -> None:
    qemu.set_capabilities("mapped-ram", *capabilities)
    qemu.set_parameters({name.replace("_", "-"): value for name, value in parameters.items()})
    qemu.migrate(uri)
    assert qemu.wait_migrated()["status"] == "completed"


@pytest.mark.qemu
@pytest.mark.parametrize("multifd", [False, True])
@pytest.mark.parametrize("version", ["10.0", "11.1"])
def test_files_of_qemu_are_conforming_and_extracted(qemu, tmp_path, version, multifd):
    image, path = tmp_path / "source", tmp_path / "saved"
    image.write_bytes(memory(16 * MIB // PAGE))
    with guestless(qemu(version), image, tmp_path) as source:
        save(source, f"file:{path}", *(["multifd"] if multifd else []))
    with MappedRamFile(path) as file:
        assert not violated(file.results)
        assert file.configuration.machine == b"none"
        file.extract(only(file), tmp_path / "extracted")
        assert file.compare(only(file), image) is None
    assert (tmp_path / "extracted").read_bytes() == image.read_bytes()
    # what QEMU wrote is what we write, but for the description of the devices; and on a busy
    # machine it takes more than one part for the memory
    ours = tmp_path / "ours"
    template = template_for(dialect_of(version))
    write(ours, {b"ram0": image}, template)
    seen, wanted = path.read_bytes(), ours.read_bytes()
    pages = 17 * MIB
    assert seen[:pages] == wanted[:pages]
    end_of_ram = SectionEnd(template.ram_section_id).build()
    begin = seen.index(end_of_ram, pages)
    devices = seen[begin : seen.index(b'{"configuration"') - 5]
    assert wanted[wanted.index(end_of_ram, pages) :].startswith(devices)


@pytest.mark.qemu
def test_streams_of_qemu_that_begin_later_are_read(qemu, tmp_path):
    image, path = tmp_path / "source", tmp_path / "saved"
    image.write_bytes(memory(MIB // PAGE))
    with guestless(qemu("11.1"), image, tmp_path) as source:
        save(source, f"file:{path},offset=5000", "multifd", zero_page_detection="none")
    with MappedRamFile(path, 5000) as file:
        assert not violated(file.results)
        assert file.blocks[0].present == only(file).pages
        assert file.compare(only(file), image) is None


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["10.0", "11.1"])
def test_all_blocks_of_a_pc_are_extracted(qemu, tmp_path, version):
    path = tmp_path / "saved"
    plain = ["-machine", "pc", "-accel", "tcg", "-m", "16", "-S", "-nodefaults"]
    plain += ["-vga", "std", "-display", "none"]
    with Qemu(qemu(version), *plain, directory=tmp_path, qtest=True) as source:
        source.write(3 * MIB, b"in guest memory")
        save(source, f"file:{path}", "multifd")
    with MappedRamFile(path) as file:
        assert not violated(file.results)
        blocks = {info.block.name: info.block for info in file.blocks}
        assert {b"pc.ram", b"pc.bios", b"0000:00:02.0/vga.vram"} <= set(blocks)
        for name, block in blocks.items():
            file.extract(block, tmp_path / file_name(name))
    assert (tmp_path / "pc.ram.ram").read_bytes()[3 * MIB :].startswith(b"in guest memory\0")
    assert any((tmp_path / "pc.bios.ram").read_bytes())


@pytest.mark.qemu
@pytest.mark.parametrize("multifd", [False, True])
@pytest.mark.parametrize(
    ("dialect", "version"), [("9.0", "10.0"), ("10.0", "10.0"), ("10.0", "11.1"), ("11.1", "11.1")]
)
def test_our_files_are_loaded_by_qemu(qemu, tmp_path, dialect, version, multifd, direct):
    image, path = tmp_path / "image", tmp_path / "ours"
    image.write_bytes(memory(16 * MIB // PAGE, seed=7))
    offset = 12345 if multifd else 0
    template = template_for(dialect_of(dialect))
    write(path, {b"ram0": image}, template, writers=3, direct_io=multifd and direct, offset=offset)
    target = tmp_path / "target"
    with target.open("wb") as file:
        file.truncate(image.stat().st_size)
    with guestless(qemu(version), target, tmp_path, "-incoming", "defer") as destination:
        destination.set_capabilities("mapped-ram", *(["multifd"] if multifd else []))
        uri = f"file:{path}" + (f",offset={offset}" if offset else "")
        destination.execute("migrate-incoming", {"uri": uri})
        assert destination.wait_migrated()["status"] == "completed"
    assert target.read_bytes() == image.read_bytes()
