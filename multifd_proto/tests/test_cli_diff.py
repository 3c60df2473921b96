"""`multifd diff` and `multifd replay`: what they print, and their exit statuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from multifd_proto.cli.diff import command as diff
from multifd_proto.cli.replay import command as replay

CASE, BROKEN = "INIT-14/unused1", "builtin:?broken=INIT-14"


def run(command, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, words)
    return done.exit_code, done.output


def test_peers_that_agree():
    status, said = run(diff, CASE, "--peer", "builtin:", "--peer", "builtin:", "--markdown")
    assert (status, said.splitlines()[-1]) == (0, f"| {CASE} | same | accepted | accepted |")


def test_peers_that_do_not_agree():
    status, said = run(diff, "INIT-14/unused*", "--peer", "builtin:", "--peer", BROKEN, "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert status == 1
    assert [row["script"] for row in rows] == ["INIT-14/unused1", "INIT-14/unused2"]
    assert {row["agreement"] for row in rows} == {"split"}
    assert rows[0]["outcomes"][BROKEN]["reaction"] == "rejected"


def test_one_peer_is_no_comparison():
    status, said = run(diff, CASE, "--peer", "builtin:")
    assert status == 2
    assert "--peer must be given twice or more" in said


@pytest.mark.parametrize(
    ("words", "status", "last"),
    [
        ((CASE, "builtin:"), 0, "FIXED"),
        ((CASE, BROKEN), 1, "FAILED"),
        (
            ("NO-1/case", "builtin:"),
            3,
            "ERROR: NO-1/case: neither a file nor a case: multifd conformance list",
        ),
    ],
)
def test_a_replay_says_whether_the_fault_is_still_there(words, status, last):
    seen, said = run(replay, *words, "--repeat", "2")
    assert (seen, said.splitlines()[-1]) == (status, last)
