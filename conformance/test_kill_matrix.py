from __future__ import annotations

import pytest

from multifd_proto.machine.verdict import Verdict
from multifd_proto.wire.dialect import DIALECTS
from multifd_proto.wire.quirks import QUIRKS, Quirk
from multifd_proto.wire.requirements import load

from .judge import judge
from .matrix import killed, matrix
from .miniatures import BASES
from .quirks import QUIRK_SHOWN
from .violations import VIOLATIONS

WIRE = [r.id for r in load().values() if r.observable == "wire"]


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("cut", [1 << 30, 1000, 7])
def test_valid_migrations_pass(name, cut):
    report = judge(BASES[name](), cut)
    assert report.of(Verdict.FAILED) == []
    assert report.of(Verdict.DEVIATION) == []
    assert len(report.of(Verdict.PASSED)) >= 50


@pytest.mark.parametrize("requirement", WIRE)
@pytest.mark.parametrize("cut", [1 << 30, 1], ids=["whole", "bytewise"])
def test_a_miniature_violates_its_requirement_alone(requirement, cut):
    assert killed(requirement, cut) == (requirement,)


def test_the_matrix_has_no_holes():
    cells = list(matrix())
    assert [cell.requirement for cell in cells] == WIRE
    assert {cell.requirement: cell.hole for cell in cells if cell.hole} == {}


def test_miniatures_are_of_requirements():
    assert set(VIOLATIONS) == set(WIRE)
    assert set(QUIRK_SHOWN) == {quirk.name for quirk in QUIRKS}


def explained(quirk: Quirk, release: str) -> set[str]:
    report = judge(QUIRK_SHOWN[quirk.name]().of(release))
    results = report.of(Verdict.FAILED if quirk.defect else Verdict.DEVIATION)
    return {r.requirement.id for r in results if r.quirk is quirk}


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_a_quirk_is_known_in_its_dialects(quirk):
    for dialect in sorted(quirk.dialects, key=DIALECTS.index):
        assert explained(quirk, dialect.name) & set(quirk.requirements), dialect.name


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_a_quirk_is_a_failure_under_the_newest_dialect(quirk):
    report = judge(QUIRK_SHOWN[quirk.name]().of("11.1"))
    failed = {r.requirement.id for r in report.of(Verdict.FAILED)}
    assert failed & set(quirk.requirements)


def test_only_defects_and_failures_violate():
    report = judge(QUIRK_SHOWN["stale-next-packet-size"]())
    assert not report.violated
    report = judge(QUIRK_SHOWN["lost-zero-packets"]())
    assert report.violated
