from __future__ import annotations

from pathlib import Path

import pytest

from multifd_proto.conformance.catalogue import asks
from multifd_proto.conformance.deviations import DeviationError
from multifd_proto.conformance.deviations_file import Surprise, load_deviations, written
from multifd_proto.conformance.releases import Releases, version_of
from multifd_proto.conformance.sets import CURRENT, SetError, load_set, names
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.quirks import QUIRKS
from multifd_proto.wire.requirements import Role, load

GOOD = '[[qemu]]\ncase = "INIT-9/*"\nexpect = ["crashes"]\nreason = "why"\n'


@pytest.fixture
def loaded(tmp_path):
    def load_text(*texts):
        paths = [tmp_path / f"{number}.toml" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return load_deviations(paths)

    return load_text


def excuse(deviations, version, case="INIT-9/zero", how="crashes", product="QEMU"):
    return deviations.excuse(product, version, Role.RECEIVER, case, how)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", ["5.2", "11.1.3"], []),
        ("<11.0", ["5.2", "10.2.50"], ["11.0", "11.0.0", "11.1"]),
        (">=9.0 <11.1", ["9.0.0", "11.0.9"], ["8.2.9", "11.1", "11.1.3"]),
        ("5.2", ["5.2", "5.2.0"], ["5.1", "5.20", "6.2"]),
        ("5.2, >=10.0", ["5.2.1", "10.0", "11.1"], ["7.2"]),
        (">10.0", ["10.1"], ["10.0", "10.0.13"]),
        ("<=10.0", ["10.0.13", "9.2"], ["10.1"]),
        ("<10.0.13, >=10.1 <11.1.1", ["10.0.2", "10.2", "11.1.0"], ["10.0.13", "11.1.1"]),
    ],
)
def test_a_range_covers_releases(text, inside, outside):
    numbers = {release: tuple(map(int, release.split("."))) for release in (*inside, *outside)}
    covered = [release for release in numbers if Releases(text).covers(numbers[release])]
    assert covered == inside


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("<11.0", ">=11.0", False), ("<11.0", ">=10.0", True), ("5.2", "7.2", False),
        ("", "7.2", True), (">10.0", "<10.1", False), (">10.0", "<10.2", True),
        ("5.2, 7.2", ">=7.0", True),
    ],
)  # fmt: skip
def test_ranges_meet_where_they_share_a_release(one, other, meet):
    assert Releases(one).meets(Releases(other)) is meet
    assert Releases(other).meets(Releases(one)) is meet


def test_a_range_of_dialects_covers_their_releases():
    quirk = next(quirk for quirk in QUIRKS if quirk.name == "stale-next-packet-size")
    releases = Releases(dialects=quirk.dialects)
    assert releases.covers((7, 2, 22))
    assert not releases.covers((10, 0))
    assert releases.meets(Releases("7.2"))
    assert not releases.meets(Releases(">=9.0"))


def test_a_version_is_its_first_numbers_or_those_of_the_dialect():
    assert version_of("10.0.13 (Debian 1:10.0.13)", dialect_of("10.0")) == (10, 0, 13)
    assert version_of("v2.1-rc3", dialect_of("10.0")) == (2, 1)
    assert version_of("", dialect_of("7.2")) == (7, 0)
    assert all(version_of("", dialect) for dialect in DIALECTS)


def test_an_entry_excuses_its_ways_to_fail_alone(loaded):
    deviations = loaded(GOOD.replace("case", 'releases = "<11.0"\nlink = "http://x"\ncase'))
    entry = excuse(deviations, (10, 0))
    assert (entry.reason, entry.link) == ("why", "http://x")
    assert excuse(deviations, (11, 0)) is None
    assert excuse(deviations, (10, 0), how="hangs") is None
    assert excuse(deviations, (10, 0), case="INIT-10/zero") is None
    assert excuse(deviations, (10, 0), product="other") is None


def test_an_entry_of_one_role_says_nothing_of_the_other(loaded):
    deviations = loaded(GOOD + 'role = "sender"\n')
    assert excuse(deviations, (10, 0)) is None
    assert deviations.excuse("qemu", (10, 0), Role.SENDER, "INIT-9/x", "crashes")


def test_a_quirk_gives_reason_and_dialects(loaded):
    text = (
        '[[qemu]]\ncase = "PKT-17/*"\nexpect = ["wrong-bytes"]\nquirk = "stale-next-packet-size"\n'
    )
    entry = excuse(loaded(text), (7, 2), "PKT-17/plain", "wrong-bytes")
    assert entry.reason == (
        "a packet without pages repeats the next_packet_size of the packet before it"
    )
    assert excuse(loaded(text), (10, 0), "PKT-17/plain", "wrong-bytes") is None


def test_reasons_are_looked_up_by_case_and_release(loaded):
    deviations = loaded(
        '[[qemu-reason]]\ncase = "INIT-9/*"\nreleases = ">=9.1"\ntext = "magic .*"\n'
    )
    (pattern,) = deviations.texts("QEMU", (10, 0), "INIT-9/zero")
    assert pattern.pattern == "magic .*"
    assert deviations.texts("QEMU", (9, 0), "INIT-9/zero") == ()
    assert deviations.texts("QEMU", (10, 0), "INIT-10/zero") == ()


PLACE = "0.toml: [[qemu]] entry 1 (INIT-9/*): "


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('reason = "why"\n', "", "'reason' is missing"),
        ('reason = "why"', 'reason = "TODO"', "reason is 'TODO', must be filled in"),
        ('reason = "why"', "reason = 1", "reason is 1, must be of type str"),
        ('reason = "why"', 'because = "why"', ("'because' is unknown, must be one of case, expect, "
         "releases, role, reason, link, flaky, quirk")),
        ('"crashes"', '"explodes"', ("expect is 'explodes', must be one of accepts-bad, "
         "rejects-good, crashes, hangs, wrong-image, wrong-bytes, passed-weak")),
        ('expect = ["crashes"]', "expect = []", "'expect' is missing"),
        ("case =", 'releases = "~10"\ncase =',
         "'~10' is no bound on a release, such as '<11.0' or '5.2'"),
        ("case =", 'role = "both"\ncase =', "'both' is not a valid Role"),
        ('reason = "why"', 'reason = "why"\nquirk = "stale-offsets"',
         "'reason' is the quirk's own, must be absent"),
        ('reason = "why"', 'quirk = "none"', ("quirk is 'none', must be one of "
         "reserved-init-bytes, "
         "stale-next-packet-size, stale-offsets, empty-trailer, sync-with-pages, "
         "shared-packet-numbers, lost-zero-packets, unmarked-last-sync, page-twice-in-a-round")),
    ],
)  # fmt: skip
def test_a_malformed_entry_is_refused_with_its_place(loaded, tmp_path, old, new, message):
    with pytest.raises(DeviationError) as error:
        loaded(GOOD.replace(old, new))
    assert str(error.value) == f"{tmp_path}/{PLACE}{message}"


def test_a_file_that_is_none_is_refused(loaded, tmp_path):
    with pytest.raises(DeviationError, match=r"0\.toml: no TOML: "):
        loaded("[[")
    with pytest.raises(
        DeviationError, match=r"0\.toml: qemu must be a list of tables, \[\[qemu\]\]"
    ):
        loaded("[qemu]\n")
    with pytest.raises(DeviationError, match=r"absent\.toml: No such file or directory"):
        load_deviations([tmp_path / "absent.toml"])
    with pytest.raises(DeviationError, match=r"\[\[qemu-reason\]\] entry 1 \(X\): "):
        loaded('[[qemu-reason]]\ncase = "X"\ntext = "("\n')


def test_an_entry_that_no_case_matches_is_refused(loaded, tmp_path):
    with pytest.raises(DeviationError) as error:
        loaded(GOOD).check(["INIT-10/zero"])
    assert str(error.value) == f"{tmp_path}/{PLACE}case is 'INIT-9/*', which no case matches"


def test_entries_that_contradict_each_other_are_refused(loaded, tmp_path):
    other = GOOD.replace("INIT-9/*", "INIT-9/zero").replace("crashes", "hangs")
    with pytest.raises(DeviationError) as error:
        loaded(GOOD, other).check(["INIT-9/zero"])
    assert str(error.value) == (
        f"{tmp_path}/1.toml: [[qemu]] entry 1 (INIT-9/zero): INIT-9/zero is expected otherwise by "
        f"{tmp_path}/0.toml: [[qemu]] entry 1 (INIT-9/*)"
    )
    loaded(GOOD, other.replace("hangs", "crashes")).check(["INIT-9/zero"])
    apart = GOOD + 'releases = "<11.0"\n', other + 'releases = ">=11.0"\n'
    loaded(*apart).check(["INIT-9/zero"])


def test_the_shipped_file_fits_the_suite():
    deviations = load_deviations()
    deviations.check([case for role in Role for case in asks(role)])
    assert all(entry.link for entry in deviations.entries)


def test_what_is_written_is_refused_until_reasons_are_given(loaded):
    text = written([
        Surprise("QEMU", "10.0", "receiver", "INIT-9/zero", "crashes"),
        Surprise("QEMU", "5.2", "receiver", "INIT-9/zero", "crashes"),
        Surprise("my vmm", "1.0", "receiver", "INIT-9/zero", "passed-weak"),
    ])  # fmt: skip
    with pytest.raises(DeviationError, match="reason is 'TODO', must be filled in"):
        loaded(text)
    deviations = loaded(text.replace("TODO", "because"))
    assert [entry.releases.text for entry in deviations.entries] == ["5.2, 10.0", "1.0"]
    assert excuse(deviations, (10, 0, 13)).reason == "because"
    assert excuse(deviations, (11, 1)) is None
    assert excuse(deviations, (1, 0), how="passed-weak", product="My VMM")


# ---- sets of requirements ----------------------------------------------------------------------


def test_a_frozen_set_holds_requirements_that_can_be_observed():
    for name in names():
        assert load_set(name).ids <= set(load())
    assert all(load()[id_].observable != "none" for id_ in load_set(CURRENT).ids)


def test_the_latest_set_holds_all():
    assert load_set("latest").ids == set(load())


def test_an_unknown_set_is_refused():
    with pytest.raises(SetError) as error:
        load_set("2020.1")
    assert str(error.value) == "set is '2020.1', must be one of 2026.1, latest"


def test_a_set_is_a_file_of_its_name():
    folder = Path(__file__).parents[2] / "conformance" / "sets"
    if folder.exists():
        assert {path.stem for path in folder.iterdir()} == set(names())
