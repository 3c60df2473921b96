from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from multifd_proto.conformance.script import load_script
from multifd_proto.fuzz.store import (
    LARGEST,
    DirectoryStore,
    StoreError,
    file_name,
    rank,
    read_finding,
    to_text,
)

CRASH = "crashes PKT-25 SIGSEGV"


def finding(steps=2, **said):
    setup = {"channels": 2, "method": "none", "tls": False}
    rows = [{"do": "open", "wire": str(number)} for number in range(steps)]
    head = {"multifd-script": 1, "name": "found", "expect": "", "setup": setup, "steps": rows}
    return head | {"finding": {"kind": "crashes", "observed": "signal SIGSEGV", **said}}


@pytest.fixture
def told():
    return []


@pytest.fixture
def store(tmp_path, told):
    return DirectoryStore(tmp_path / "a" / "findings", told.append)


def files(store):
    return sorted(path.name for path in store.path.glob("*.json"))


def test_a_finding_is_new_once(store):
    assert store.add(CRASH, finding())
    assert not store.add(CRASH, finding(1))
    assert store.add("hangs", finding())
    assert files(store) == ["crashes-pkt-25-sigsegv-0898fb09.json", "hangs-db1f74e6.json"]
    assert len(store.all()[CRASH]["steps"]) == 2


def test_what_is_kept_is_a_script_that_can_be_replayed(store):
    store.add(CRASH, finding(3, confirmed=[3, 3]))
    text = (store.path / file_name(CRASH)).read_text()
    assert len(load_script(text).steps) == 3
    assert '\n  {"do": "open", "wire": "1"},\n' in text
    signature, data = read_finding(text)
    assert signature == CRASH
    assert data == finding(3, confirmed=[3, 3], signature=CRASH)


def test_another_store_of_the_directory_sees_it(store):
    store.add(CRASH, finding())
    again = DirectoryStore(store.path)
    assert list(again.all()) == [CRASH]
    assert not again.add(CRASH, finding())


def test_replace_keeps_the_smaller_input(store):
    for steps, kept in ((5, 5), (9, 5), (3, 3), (4, 3)):
        store.replace(CRASH, finding(steps))
        assert len(store.all()[CRASH]["steps"]) == kept
    assert len(files(store)) == 1


def test_of_equal_inputs_the_minimised_and_better_tried_is_kept(store):
    plain, tried = finding(), finding(confirmed=[3, 3])
    minimised = finding(confirmed=[3, 3], minimised=True)
    assert rank(minimised) < rank(tried) < rank(plain)
    assert rank(finding(1, confirmed=[3, 3])) < rank(minimised)
    store.add(CRASH, tried)
    store.replace(CRASH, minimised)
    store.replace(CRASH, plain)
    assert store.all()[CRASH]["finding"]["minimised"] is True


def test_a_finding_that_showed_again_is_kept_before_a_smaller_one_that_did_not(store):
    for data in (finding(1, confirmed=[0, 0]), finding(1, confirmed=[0, 3])):
        store.replace(CRASH, data)
        assert store.all()[CRASH]["finding"]["confirmed"] == data["finding"]["confirmed"]
    store.replace(CRASH, finding(5, confirmed=[2, 3]))
    store.replace(CRASH, finding(1, confirmed=[0, 9]))
    assert len(store.all()[CRASH]["steps"]) == 5


@pytest.mark.parametrize("confirmed", [None, 3, [3], ["3", 3], {}])
def test_what_another_version_says_does_no_harm(confirmed):
    assert rank(finding(confirmed=confirmed))[0]


def test_merging_gives_the_same_in_whichever_order():
    one, other = finding(found={"worker": 1}), finding(found={"worker": 2})
    assert min(one, other, key=rank) == min(other, one, key=rank)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"finding": {"signat', "no JSON: Unterminated string starting at: line 1 column 14"),
        (b"\xff\xfe\x00", "no JSON: 'utf-16-le' codec can't decode"),
        (b"[" * 100_000, "no JSON: "),
        (b"[]", "no finding: 'finding' must be an object that holds a 'signature'"),
        (b'{"finding": 7}', "no finding: 'finding' must be an object that holds a 'signature'"),
    ],
)
def test_a_foreign_file_is_told_of_once_and_left_alone(store, told, content, reason):
    path = store.path / file_name(CRASH)
    path.write_bytes(content)
    assert store.add(CRASH, finding())
    assert not store.add(CRASH, finding())
    store.replace(CRASH, finding(1))
    assert len(store.all()[CRASH]["steps"]) == 1
    assert path.read_bytes() == content
    assert files(store) == [file_name(CRASH, 1), path.name]
    (message,) = told
    assert message.startswith(f"{path}: left alone, {reason}")


def test_what_is_no_file_is_told_of(store, told):
    (store.path / "x.json").mkdir()
    assert store.all() == {}
    assert told == [f"{store.path / 'x.json'}: left alone, Is a directory"]


def test_an_endless_file_is_not_read_to_its_end(store, told):
    path = store.path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert store.all() == {}
    assert told == [f"{path}: left alone, more than 16777216 bytes"]


def test_a_file_put_there_by_hand_counts(store):
    (store.path / "of-a-colleague.json").write_text(to_text(finding(signature=CRASH)))
    assert not store.add(CRASH, finding())
    store.replace(CRASH, finding(1))
    assert files(store) == ["of-a-colleague.json"]
    assert len(store.all()[CRASH]["steps"]) == 1


def test_of_two_files_with_one_signature_the_lower_counts(store):
    for steps, name in ((1, "a"), (2, "b"), (3, "c")):
        text = to_text(finding(steps, signature=CRASH))
        (store.path / f"{name}.json").write_text(text)
    assert len(store.all()[CRASH]["steps"]) == 1


@pytest.mark.parametrize("signature", ["", "../../etc/passwd", "\ud800\x00", "é" * 400, "a/b\n"])
def test_no_signature_leaves_the_directory(store, signature):
    assert store.add(signature, finding())
    assert not store.add(signature, finding())
    assert list(DirectoryStore(store.path).all()) == [signature]
    assert len(files(store)) == 1


def test_a_large_finding_is_kept_and_told_of(store, told):
    large = finding() | {"bytes": "00" * LARGEST}
    store.add(CRASH, large)
    assert store.all()[CRASH]["bytes"] == large["bytes"]
    (message,) = told
    size = (store.path / file_name(CRASH)).stat().st_size
    assert message == f"{store.path / file_name(CRASH)}: {size} bytes, a corpus takes 65535"


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as error:
        DirectoryStore(tmp_path / "file" / "findings")
    assert str(error.value) == f"findings in {tmp_path / 'file' / 'findings'}: Not a directory"


def test_a_directory_that_went_away_is_named(store):
    (store.path / ".lock").unlink()
    store.path.rmdir()
    with pytest.raises(StoreError) as error:
        store.add(CRASH, finding())
    assert str(error.value) == f"findings in {store.path}: No such file or directory"


ADDS = """
import sys, time
from pathlib import Path
from multifd_proto.fuzz.store import DirectoryStore
folder = Path(sys.argv[1])
store = DirectoryStore(folder)
Path(folder, sys.argv[2]).touch()
while len(list(folder.glob("ready*"))) < 4:
    time.sleep(0.001)
print(sum(store.add(f"finding {n}", {"steps": []}) for n in range(150)))
"""


def test_of_all_processes_exactly_one_has_found_it(tmp_path):
    commands = [[sys.executable, "-c", ADDS, str(tmp_path), f"ready{n}"] for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        counts = [int(said) for said in pool.map(subprocess.check_output, commands)]
    assert sum(counts) == 150
    assert len(DirectoryStore(tmp_path).all()) == len(list(tmp_path.glob("*.json"))) == 150


def test_a_killed_process_leaves_whole_files_and_no_lock(tmp_path):
    code = (
        "import sys; from pathlib import Path; from itertools import count\n"
        "from multifd_proto.fuzz.store import DirectoryStore\n"
        "store = DirectoryStore(Path(sys.argv[1]))\n"
        "for n in count():\n"
        "    store.add(f'finding {n}', {'steps': ['x' * 3000]})\n"
        "    store.replace(f'finding {n}', {'steps': []})\n"
    )
    for seconds in (0.05, 0.11, 0.17):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
            while not list(tmp_path.glob("*.json")):
                time.sleep(0.01)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        told: list[str] = []
        store = DirectoryStore(tmp_path, told.append)
        assert store.add(f"after {seconds}", finding())
        assert len(store.all()) == len(list(tmp_path.glob("*.json")))
        assert told == []
