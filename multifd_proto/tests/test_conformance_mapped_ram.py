"""The suite's cases of mapped-ram files: the reference, what is wrong on purpose, and real QEMU."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from multifd_proto.conformance.file_judging import FileExpect, SavedFile, judge_loaded
from multifd_proto.conformance.file_target import BLOCK, Loaded, Saved, SaveSetup, with_header
from multifd_proto.conformance.mapped_ram import FileCase, block_of, good_file, writer_of
from multifd_proto.conformance.observation import Reaction
from multifd_proto.conformance.peers.guest_memory import GuestMemory, content
from multifd_proto.conformance.receiver.test_mapped_ram import CASES as READ
from multifd_proto.conformance.sender.test_mapped_ram import CASES as WRITTEN
from multifd_proto.conformance.target import MEMORY
from multifd_proto.conformance.verdict import Failure, Judgement, Verdict
from multifd_proto.machine.mapped_ram import violated
from multifd_proto.peers.mapped_ram import MappedRamFile
from multifd_proto.tests.senders import nothing_left
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.requirements import Role, load

CASES = {case.id: case for case in (*READ, *WRITTEN)}
NEWEST = dialect_of("11.1")
REQUIREMENTS = tuple(name for name in load() if name.startswith("MAPR-"))
GOOD = [case for case in READ if case.expect is FileExpect.LOADS]
MISPLACED = (
    "@0x59 alignment of pages_offset of block 'ram0' is 0x101000, must be a multiple of 0x100000"
)
BAD = [case for case in READ if case.expect is FileExpect.REFUSES]


def run(cases: tuple[FileCase, ...] | list[FileCase], uri: str) -> dict[str, Judgement]:
    return {case.id: case.run(uri) for case in cases}


def by_requirement(judgements: dict[str, Judgement]) -> dict[str, set[Verdict]]:
    found = defaultdict(set)
    for name, judgement in judgements.items():
        found[name.partition("/")[0]].add(judgement.verdict)
    return found


# ---- the cases ---------------------------------------------------------------------------------


def test_every_requirement_has_cases_of_its_role():
    assert len(CASES) == len(READ) + len(WRITTEN)
    for role, cases in ((Role.RECEIVER, READ), (Role.SENDER, WRITTEN)):
        bound = {name for name in REQUIREMENTS if load()[name].role is role}
        assert {case.requirement.id for case in cases} == bound


@pytest.mark.parametrize("kind", ["zero", "mixed", "random"])
@pytest.mark.parametrize("offset", [0, 12345])
def test_good_files_keep_all_requirements(kind, offset):
    with (
        GuestMemory(good_file(kind, NEWEST, offset)) as saved,
        MappedRamFile(saved.path, offset) as file,
    ):
        assert not violated(file.results)
        assert file.blocks[0].block.name == BLOCK


def test_a_header_is_changed_in_the_values_that_are_given():
    file = good_file("mixed", NEWEST)
    block = block_of(file)
    other = with_header(file, block, version=7)
    assert [at for at in range(len(file)) if file[at] != other[at]] == [block.end - 28 + 3]


# ---- the kill matrix ---------------------------------------------------------------------------


def test_the_reference_keeps_all():
    judgements = run(READ, "builtin:")
    assert {judgement.verdict for judgement in judgements.values()} == {Verdict.PASSED}
    judgements = run(WRITTEN, "builtin:")
    other = {name: j.text for name, j in judgements.items() if j.verdict is not Verdict.PASSED}
    dirty = "the peer's memory does not change while it is saved"
    assert other == {name: dirty for name in judgements if "/dirty" in name}


@pytest.mark.parametrize("broken", REQUIREMENTS)
def test_what_is_wrong_in_one_way_fails_one_requirement(broken):
    uri = f"builtin:?broken={broken}"
    found = by_requirement(run(READ, uri) | run(WRITTEN, uri))
    assert [name for name in REQUIREMENTS if Verdict.FAILED in found[name]] == [broken]


def test_a_reader_that_checks_nothing_loads_what_is_good_and_most_of_what_is_bad():
    uri = "builtin:?broken=MAPR-5"
    assert {j.verdict for j in run(GOOD, uri).values()} == {Verdict.PASSED}
    bad = run(BAD, uri)
    refused = [name for name, judgement in bad.items() if judgement.failure is None]
    assert refused == ["MAPR-5/truncated-in-the-header"]  # there is no block in it
    assert {j.failure for j in bad.values()} == {Failure.ACCEPTS_BAD, None}


@pytest.mark.parametrize(
    ("requirement", "failure", "text"),
    [
        ("MAPR-1", Failure.WRONG_BYTES, "@0x59 version of block 'ram0' is 2, must be 1"),
        (
            "MAPR-2",
            Failure.WRONG_BYTES,
            MISPLACED,
        ),
        ("MAPR-3", Failure.WRONG_IMAGE, "the page of ram0 at 0x0 is not what memory was"),
        (
            "MAPR-4",
            Failure.WRONG_BYTES,
            "@0x200000 a word of the ram section is FLUSH, must be EOS",
        ),
    ],
)
def test_a_failure_of_a_writer_names_its_place(requirement, failure, text):
    found = CASES[f"{requirement}/random"].run(f"builtin:?broken={requirement}")
    assert found == Judgement(Verdict.FAILED, text, failure)


@pytest.mark.parametrize(
    ("expect", "loaded", "judgement"),
    [
        (
            FileExpect.LOADS,
            Loaded(Reaction.ACCEPTED, b"image"),
            Judgement(Verdict.PASSED, "loaded"),
        ),
        (
            FileExpect.LOADS,
            Loaded(Reaction.ACCEPTED, bytes(5)),
            Judgement(Verdict.FAILED, "loaded; memory differs at 0x0", Failure.WRONG_IMAGE),
        ),
        (
            FileExpect.LOADS,
            Loaded(Reaction.ACCEPTED),
            Judgement(Verdict.INCONCLUSIVE, "loaded; its memory cannot be seen"),
        ),
        (
            FileExpect.LOADS,
            Loaded(Reaction.REJECTED, reason=("why", "and more"), death="exit status 1"),
            Judgement(Verdict.FAILED, "rejected: exit status 1; why", Failure.REJECTS_GOOD),
        ),
        (
            FileExpect.LOADS,
            Loaded(Reaction.HUNG),
            Judgement(Verdict.FAILED, "hung", Failure.HANGS),
        ),
        (
            FileExpect.REFUSES,
            Loaded(Reaction.REJECTED, reason=("why",)),
            Judgement(Verdict.PASSED, "rejected: why"),
        ),
        (
            FileExpect.REFUSES,
            Loaded(Reaction.CRASHED, death="signal SIGSEGV"),
            Judgement(Verdict.FAILED, "crashed: signal SIGSEGV", Failure.CRASHES),
        ),
    ],
)
def test_a_reader_is_judged_by_what_it_did_and_by_its_memory(expect, loaded, judgement):
    assert judge_loaded(expect, loaded, b"image") == judgement


@pytest.mark.parametrize(
    ("saved", "data", "judgement"),
    [
        (
            Saved(Reaction.CRASHED, death="signal SIGABRT"),
            b"",
            Judgement(Verdict.FAILED, "crashed: signal SIGABRT", Failure.CRASHES),
        ),
        (
            Saved(Reaction.REJECTED, reason=("no room",)),
            b"",
            Judgement(Verdict.INCONCLUSIVE, "rejected: no room"),
        ),
        (
            Saved(Reaction.ACCEPTED),
            b"QEV",
            Judgement(Verdict.INCONCLUSIVE, "saved; has 3 bytes, must have 4 or more"),
        ),
        (
            Saved(Reaction.ACCEPTED),
            b"QEVM\0\0\0\3\7",
            Judgement(
                Verdict.INCONCLUSIVE, "saved; the file is none of a migration with mapped-ram"
            ),
        ),
    ],
)
def test_a_file_that_is_none_tells_nothing_of_a_requirement(saved, data, judgement):
    with GuestMemory(data) as target:
        assert SavedFile.of(target.path, 0, saved).judge("MAPR-1") == judgement


# ---- peers that cannot be asked ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "uri", "why"),
    [
        ("MAPR-5/good", "tcp:127.0.0.1:4444", "peers of this scheme load no files"),
        ("MAPR-5/good", "qemu-src:10.0", "peers of this scheme load no files"),
        ("MAPR-1/mixed", "pcap:x.pcap", "peers of this scheme save no files"),
        ("MAPR-5/good", "builtin:?dialect=8.2", "binds 9.0+, the peer is of 8.2"),
        ("MAPR-1/mixed", "builtin:?dialect=7.2", "binds 9.0+, the peer is of 7.0"),
    ],
)
def test_a_peer_without_such_files_is_left_alone(case, uri, why):
    assert CASES[case].run(uri) == Judgement(Verdict.NOT_APPLICABLE, why)


@pytest.mark.parametrize("dialect", ["9.0", "9.2", "10.0", "10.1", "11.0"])
def test_the_reference_reads_and_writes_the_files_of_all_dialects(dialect):
    uri = f"builtin:?dialect={dialect}"
    for case in ("MAPR-5/good", "MAPR-5/version-2", "MAPR-1/mixed", "MAPR-3/offset"):
        assert CASES[case].run(uri).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("builtin:?dialect=1", "dialect: '1' is no QEMU release from 4.0 on, nor 'seed'"),
        ("builtin:x", "'x' follows the scheme, must be options"),
    ],
)
def test_a_peer_that_cannot_be_used_is_an_error_of_the_harness(uri, message):
    text = f"peer {uri!r}: {message}"
    assert CASES["MAPR-5/good"].run(uri) == Judgement(Verdict.HARNESS_ERROR, text)


def test_a_missing_binary_is_an_error_of_the_harness():
    message = "no QEMU '/no/such': must be a command, or a release such as 10.0"
    assert CASES["MAPR-5/good"].run("qemu:/no/such").text == message


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    good_file.cache_clear()
    with nothing_left():
        run((*READ, *WRITTEN), "builtin:?dialect=9.1")
    assert list(tmp_path.iterdir()) == []


# ---- real QEMU ---------------------------------------------------------------------------------

CRASHES, HANGS, ACCEPTS = Failure.CRASHES, Failure.HANGS, Failure.ACCEPTS_BAD
DEVIATIONS = {
    "10.0": {
        "version-0": ACCEPTS,
        "page-size-0": CRASHES,
        "page-size-1": ACCEPTS,
        "page-size-halved": ACCEPTS,
        "page-size-doubled": ACCEPTS,
        "pages-outside-multifd": CRASHES,
        "pages-over-the-end-multifd": CRASHES,
        "pages-at-the-highest-place-multifd": HANGS,
        "truncated-in-a-page-multifd": CRASHES,
    },
    "11.1": {
        "version-0": ACCEPTS,
        "pages-outside-multifd": HANGS,
        "pages-over-the-end-multifd": HANGS,
        "pages-at-the-highest-place-multifd": HANGS,
        "truncated-in-a-page-multifd": HANGS,
    },
}
"""Slug of a case -> in which way QEMU fails it; it passes all others."""


def children() -> list[str]:
    threads = Path("/proc/self/task").iterdir()
    return [pid for thread in threads for pid in (thread / "children").read_text().split()]


@pytest.mark.qemu
@pytest.mark.parametrize("version", DEVIATIONS)
def test_qemu_reads_as_it_is_known_to(qemu, version):
    before = children()
    judgements = run(READ, f"qemu:{qemu(version)}")
    found = {name.partition("/")[2]: j.failure for name, j in judgements.items() if j.failure}
    assert found == DEVIATIONS[version]
    others = {j.verdict for j in judgements.values() if not j.failure}
    assert others == {Verdict.PASSED}
    assert set(children()) <= set(before)


@pytest.mark.qemu
@pytest.mark.parametrize("version", DEVIATIONS)
def test_qemu_writes_what_it_owes(qemu, version):
    judgements = run(WRITTEN, f"qemu-src:{qemu(version)}")
    assert {name: j.text for name, j in judgements.items()} == dict.fromkeys(judgements, "saved")
    assert {j.verdict for j in judgements.values()} == {Verdict.PASSED}


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "7.2"])
def test_older_releases_are_left_alone(qemu, version):
    for case, scheme in ((READ[0], "qemu"), (WRITTEN[0], "qemu-src")):
        judgement = case.run(f"{scheme}:{qemu(version)}")
        assert judgement.verdict is Verdict.NOT_APPLICABLE
        assert judgement.text.startswith("binds 9.0+, the peer is of ")


@pytest.mark.qemu
@pytest.mark.parametrize("version", DEVIATIONS)
@pytest.mark.parametrize("channels", [0, 4])
def test_memory_changes_while_a_dirty_machine_is_saved(qemu, version, channels):
    writer = writer_of(f"qemu-src:{qemu(version)}")
    assert writer is not None
    with GuestMemory(b"") as target:
        saved = writer.save(target.path, SaveSetup(channels=channels, dirty=True))
    assert saved is not None
    assert saved.memory is not None
    before = content("mixed", len(saved.memory))
    assert len(saved.memory) > MEMORY
    assert saved.memory != before
    assert saved.memory[: 2 * 4096] == bytes(4096) + b"\x5a" * 4096
