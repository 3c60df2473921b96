from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from multifd_proto.cli.replay import command as replay
from multifd_proto.conformance.script import Init, Main, Open, Script, Sync, load_script
from multifd_proto.fuzz.findings import FindingError, Found, Record, build, dump, read
from multifd_proto.fuzz.receivers import ReceiverTarget
from multifd_proto.fuzz.target import Finding

SCRIPT = Script((Open(wire="1"), Init(wire="1", fields={"id": 2})))
FINDING = Finding("crashes", "INIT-12", "crashed, the end of 1", "signal SIGSEGV")
FACTS = {"peer": "qemu:10.0", "product": "QEMU", "version": "10.0.13", "dialect": "10.0"}
NUMBERS = "seconds, executions, seed, worker"
FOUND = Found(4.5, 71, 1, 0)


def made(script=SCRIPT, **more):
    return build(json.loads(script.to_json()), FINDING, FACTS, FOUND, **more)


def test_a_file_says_what_was_found_a_line_for_each_step():
    text = dump(made(confirmed=(3, 3), minimised=True))
    assert '\n  {"do": "open", "wire": "1"},\n  {"do": "init", "wire": "1", "fields"' in text
    assert '\n  "signature": "crashes INIT-12 signal SIGSEGV",\n' in text
    assert '\n  "confirmed": [3, 3],\n' in text


def test_a_file_is_read_back_as_it_was_written():
    record = read(dump(made(confirmed=(2, 3), minimised=True)))
    data = json.loads(SCRIPT.to_json())
    assert record == Record(data, FINDING, FACTS, (2, 3), FOUND, minimised=True)


def test_the_other_peer_of_a_difference_is_kept():
    data = build({}, FINDING, {**FACTS, "against": "qemu:7.2"}, FOUND)
    assert read(dump(data)).facts["against"] == "qemu:7.2"


def test_a_file_is_a_script_as_any_other():
    assert load_script(dump(made())) == SCRIPT


def test_what_is_too_long_for_the_corpus_is_refused():
    long = Script((Open(wire="0"), *[Sync(wire="0")] * 3000))
    with pytest.raises(FindingError) as error:
        dump(made(long))
    assert re.fullmatch(r"finding: \d+ bytes, must be at most 65535", str(error.value))
    with pytest.raises(FindingError) as error:
        read(" " * 65536)
    assert str(error.value) == "65536 bytes, must be at most 65535"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": None}, "finding: kind is None, must be a string"),
        ({"peer": 3}, "finding: peer is 3, must be a string"),
        (
            {"signature": "hangs"},
            "finding: signature is 'hangs', must be 'crashes INIT-12 signal SIGSEGV'",
        ),
        ({"confirmed": [4, 3]}, "finding: confirmed is [4, 3], must be [k, n] with k up to n"),
        (
            {"confirmed": [True, 3]},
            "finding: confirmed is [True, 3], must be [k, n] with k up to n",
        ),
        ({"minimised": 1}, "finding: minimised is 1, must be true or false"),
        (
            {"found": {"seconds": 1}},
            f"finding: found is {{'seconds': 1}}, must be an object with the numbers {NUMBERS}",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_malformed_is_told_in_one_message(changed, message):
    data = made()
    data["finding"] |= changed
    with pytest.raises(FindingError) as error:
        read(json.dumps(data))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no finding: 'finding' must be an object"),
        ("{}", "no finding: 'finding' must be an object"),
        ("nonsense", "no JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)  # fmt: skip
def test_what_is_no_finding_is_told(text, message):
    with pytest.raises(FindingError) as error:
        read(text)
    assert str(error.value) == message


# ---- replay --------------------------------------------------------------------------------------


def again(tmp_path, data, peer, *options):
    path = tmp_path / "finding.json"
    path.write_text(json.dumps(data))
    return CliRunner().invoke(replay, [str(path), peer, *options])


def session(uuid):
    """Return a script whose channel has this UUID, up to the first mark."""
    steps = (
        Open(wire="main"), Main(part="start"), Open(wire="0"),
        Init(wire="0", fields={"uuid": uuid}), Sync(wire="0"), Main(part="mark"),
    )  # fmt: skip
    return Script(steps, channels=1)


def test_replay_says_failed_while_the_fault_is_there(tmp_path):
    script = session("00" * 16)
    with ReceiverTarget("builtin:?broken=INIT-11") as target:
        finding = target.run(script).finding
        data = build(target.to_json(script), finding, FACTS, FOUND)
    done = again(tmp_path, data, "builtin:?broken=INIT-11", "--repeat", "1")
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, "FAILED")
    assert done.output.startswith("failed: accepts-bad INIT-11: accepted")


def test_replay_says_fixed_where_it_is_not(tmp_path):
    with ReceiverTarget("builtin:") as target:
        data = build(target.to_json(session("00" * 16)), FINDING, FACTS, FOUND)
    done = again(tmp_path, data, "builtin:")
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "FIXED")
    assert done.output.count("INIT-11: uuid is") == 3


def test_replay_takes_a_script_that_is_waited_for(tmp_path):
    script = Script((Open(wire="main"), Open(wire="0"), Init(wire="0")))
    with ReceiverTarget("builtin:") as target:
        data = build(target.to_json(script), FINDING, FACTS, FOUND)
    done = again(tmp_path, data, "builtin:", "--repeat", "1")
    assert done.output.endswith("FIXED\n")
    assert done.exit_code == 0


def test_replay_of_a_malformed_finding_is_an_error(tmp_path):
    done = again(tmp_path, {"finding": {}}, "builtin:")
    assert (done.exit_code, done.output) == (3, "ERROR: no script: 'multifd-script' must be 1\n")


@pytest.mark.qemu
def test_replay_of_a_crash_of_qemu_says_where_it_is_fixed(qemu, tmp_path):
    qemu("10.0"), qemu("11.1")
    with ReceiverTarget("qemu:10.0") as target:
        finding = target.run(SCRIPT).finding
        data = build(target.to_json(SCRIPT), finding, FACTS, FOUND)
    assert again(tmp_path, data, "qemu:10.0").output.endswith("FAILED\n")
    assert again(tmp_path, data, "qemu:11.1").output.endswith("FIXED\n")
