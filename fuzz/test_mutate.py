from __future__ import annotations

import pytest
from click.testing import CliRunner

from multifd_proto.cli.decode import command as decode
from multifd_proto.cli.extract import command as extract
from multifd_proto.cli.summary import command as summary
from multifd_proto.errors import CaptureError

from .mutate import MEMORY, bases, campaign, lossy, mutant, run


def test_mutants_are_reproducible():
    assert mutant(7) == mutant(7)
    assert mutant(7) != mutant(8)
    assert len(bases()) >= 19


def test_mutated_captures_come_to_events_or_one_clear_error():
    outcomes, findings, _, peak = campaign(count=1500, seed=1_000_000, workers=2)
    assert findings == {}
    assert peak < MEMORY
    # the mutants reach every way a capture can end
    assert {"failed", "passed", "unreadable"} <= set(outcomes)


def test_losses_of_a_capture_are_never_a_fault_of_the_sender(tmp_path):
    path = tmp_path / "lossy.pcap"
    outcomes = set()
    for seed in range(400):
        path.write_bytes(lossy(seed))
        outcomes.add(run(path))
    assert "failed" not in outcomes
    assert "passed" in outcomes


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (decode, ["--format", "csv", "--offsets"]),
        (summary, []),
        (summary, ["--json"]),
        (extract, ["-o", "FOLDER"]),
    ],
    ids=["decode", "summary", "summary-json", "extract"],
)
def test_every_verb_takes_mutated_captures(verb, options, tmp_path):
    path = tmp_path / "mutant.pcap"
    options = [str(tmp_path / "ram") if option == "FOLDER" else option for option in options]
    for seed in range(60):
        path.write_bytes(mutant(2_000_000 + seed))
        result = CliRunner().invoke(verb, [str(path), *options])
        assert isinstance(result.exception, CaptureError | SystemExit | None), seed
        assert result.exit_code in (0, 1, 4)
