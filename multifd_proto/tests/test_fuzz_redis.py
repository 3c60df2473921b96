"""A campaign of several machines, with Debian's redis-server between them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.fuzz.redis_link import DEFAULT_CAMPAIGN, split_campaign, without_secrets
from multifd_proto.fuzz.redis_store import RedisStore, Totals
from multifd_proto.fuzz.store import DirectoryStore
from multifd_proto.peers.mortal import tied
from multifd_proto.tests.redis_server import WANTED, free_port, running, until


@pytest.fixture
def redis(tmp_path):
    with running(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def machine(redis, tmp_path):
    """Return the store of a machine, and what it has told."""
    stores = []

    def make(name, campaign="test"):
        told: list[str] = []
        local = DirectoryStore(tmp_path / name, told.append)
        stores.append(RedisStore(redis.url, campaign, local, told.append))
        return stores[-1], told

    yield make
    for store in stores:
        store.close()


def finding(steps=2, **said):
    return {"steps": ["step"] * steps, "finding": said}


def held(redis, campaign="test"):
    """Return what a Redis holds."""
    with redis.client() as client:
        rows = client.hgetall(f"multifd:{campaign}:findings")
    return {field.decode(): json.loads(value) for field, value in rows.items()}


# ---- one machine, and two ----------------------------------------------------------------------


def test_a_finding_is_new_on_one_machine_only(machine, redis):
    (one, _), (other, _) = machine("one"), machine("other")
    assert one.add("hangs", finding())
    assert not one.add("hangs", finding())
    assert not other.add("hangs", finding(5))
    assert other.add("crashes", finding())
    assert one.all().keys() == other.all().keys() == held(redis).keys() == {"hangs", "crashes"}
    assert len(other.all()["hangs"]["steps"]) == 2
    assert DirectoryStore(one.local.path).all() == DirectoryStore(other.local.path).all()


def test_the_smaller_finding_is_kept_whoever_has_it(machine, redis):
    (one, _), (other, _) = machine("one"), machine("other")
    one.add("hangs", finding(9))
    other.replace("hangs", finding(3))
    one.replace("hangs", finding(5))
    assert len(held(redis)["hangs"]["steps"]) == 3
    assert len(one.all()["hangs"]["steps"]) == len(other.all()["hangs"]["steps"]) == 3


@pytest.mark.parametrize("signature", ["", "\ud800 é\x00\n", "x" * 5000])
def test_any_signature_is_shared(machine, redis, signature):
    (one, _), (other, _) = machine("one"), machine("other")
    assert one.add(signature, finding())
    assert not other.add(signature, finding())
    other.replace(signature, finding(1))
    assert len(one.all()[signature]["steps"]) == 1


def test_campaigns_of_one_redis_are_apart(machine, redis):
    (one, _), (other, _) = machine("one"), machine("other", "another")
    assert one.add("hangs", finding())
    assert other.add("hangs", finding())
    assert held(redis).keys() == held(redis, "another").keys() == {"hangs"}


def test_a_campaign_brings_its_findings_to_whoever_joins(machine):
    one, _ = machine("one")
    one.add("hangs", finding())
    machine("other")
    assert list(DirectoryStore(one.local.path.parent / "other").all()) == ["hangs"]


def test_what_others_have_written_under_our_keys_does_no_harm(machine, redis):
    one, _ = machine("one")
    with redis.client() as client:
        client.hset("multifd:test:findings", "hangs", b"\xff{")
        client.hset("multifd:test:findings", b"\xff\xfe", b"[]")
        client.hset("multifd:test:workers", "x", b"7")
        client.hset("multifd:test:workers", "y", b'{"beat": 1}')
    one.add("hangs", finding())
    assert list(one.all()) == ["hangs"]
    assert one.members() == []


def test_a_key_of_another_kind_is_told_of_and_nothing_is_lost(machine, redis):
    with redis.client() as client:
        client.set("multifd:test:findings", "mine")
    one, told = machine("one")
    assert one.add("hangs", finding())
    assert list(one.all()) == ["hangs"]
    (message,) = told
    assert message == (
        f"redis {redis.url}: WRONGTYPE Operation against a key holding the wrong kind of value: "
        f"findings are kept in {one.local.path}, and sent later"
    )


def test_a_redis_without_memory_loses_nothing(machine, redis):
    one, told = machine("one")
    with redis.client() as client:
        client.config_set("maxmemory", "1")
        assert one.add("hangs", finding())
        assert "OOM" in told[0] or "used memory" in told[0]
        client.config_set("maxmemory", "0")
    until(lambda: one.all() and "hangs" in held(redis), "it is sent")
    assert told[1:] == [f"redis {redis.url}: is back"]


# ---- the Redis goes ----------------------------------------------------------------------------


def test_a_redis_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(PeerError) as error:
        RedisStore("redis://127.0.0.1:1/0", "test", DirectoryStore(tmp_path))
    message = "redis redis://127.0.0.1:1/0: Error 111 connecting to 127.0.0.1:1. Connection refused"
    assert str(error.value) == message


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_what_is_found_while_redis_is_away_is_sent_when_it_is_back(machine, redis, lost):
    one, told = machine("one")
    one.add("before", finding())
    if lost:
        with redis.client() as client:
            client.flushall()
    redis.stop()
    started = time.monotonic()
    for number in range(20):
        assert one.add(f"away {number}", finding(7))
        one.replace(f"away {number}", finding(1))
        assert not one.add("before", finding())
    assert one.totals() == Totals(0, 21, 0, 0)
    assert time.monotonic() - started < 2.0
    (message,) = told
    assert message.startswith(f"redis {redis.url}: ")
    assert message.endswith(f": findings are kept in {one.local.path}, and sent later")
    redis.start()
    until(lambda: len(one.all()) == len(held(redis)) == 21, "all is sent")
    assert {len(data["steps"]) for name, data in held(redis).items() if name != "before"} == {1}
    assert told[1:] == [f"redis {redis.url}: is back"]


def test_data_that_redis_loses_unseen_comes_back(machine, redis, monkeypatch):
    monkeypatch.setattr("multifd_proto.fuzz.redis_store._MERGE", 0.0)
    one, told = machine("one")
    one.add("hangs", finding())
    with redis.client() as client:
        client.flushall()
    one.beat("0", peer="builtin:", seed=1, executions=1, seconds=1.0)
    assert list(held(redis)) == ["hangs"]
    assert told == []


def test_a_redis_that_hangs_does_not_hang_us(machine, redis, monkeypatch):
    monkeypatch.setattr("multifd_proto.fuzz.redis_link._PATIENCE", 0.3)
    one, told = machine("one")
    redis.signal(signal.SIGSTOP)
    started = time.monotonic()
    for number in range(5):
        assert one.add(f"{number}", finding())
    assert time.monotonic() - started < 5.0
    assert told[0].startswith(f"redis {redis.url}: Timeout reading from ")
    redis.signal(signal.SIGCONT)
    until(lambda: len(one.all()) == len(held(redis)) == 5, "all is sent")


def test_the_pause_between_tries_grows_to_a_bound(machine, redis):
    one, told = machine("one")
    link = one._link
    redis.stop()
    pauses = []
    for _ in range(8):
        link.hurry()
        assert one.add(f"{_}", finding())
        pauses.append(link._pause)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert len(told) == 1


# ---- two processes as two machines -------------------------------------------------------------

FINDS = """
import sys, time
from pathlib import Path
from multifd_proto.fuzz.redis_store import RedisStore
from multifd_proto.fuzz.store import DirectoryStore

url, folder, first, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = RedisStore(url, "test", DirectoryStore(folder))
new = number = 0
while not Path(folder.parent, "end").exists():
    number += 1
    # every second one is found by both machines
    signature = f"finding {number if number % 2 else first + step * number}"
    if store.add(signature, {"steps": ["step"] * 9, "finding": {"by": folder.name}}):
        new += 1
        store.replace(signature, {"steps": ["step"], "finding": {"minimised": True}})
    store.beat("0", peer="builtin:", seed=first, executions=number, seconds=1.0)
    time.sleep(0.005)
store.close()
print(new, number)
"""


class Machine:
    """A process with a directory of its own."""

    def __init__(self, redis, folder, number):
        self.folder = folder
        command = [sys.executable, "-c", FINDS, redis.url, str(folder), str(number), "2"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(tied(command), **pipes)

    def found(self):
        return len(list(self.folder.glob("*.json")))

    def wait_for_more(self, count=10):
        goal = self.found() + count
        until(lambda: self.found() >= goal, f"{self.folder.name} goes on")

    def kill(self):
        self._process.kill()
        self._process.communicate(timeout=WANTED)

    def end(self):
        """Let it come to its end; return what it printed, and what it told the user."""
        said, told = self._process.communicate(timeout=WANTED)
        assert self._process.returncode == 0, told
        return [int(word) for word in said.split()], told.splitlines()


@pytest.fixture
def machines(redis, tmp_path):
    """Start a process; all are gone in the end."""
    running = []

    def start(name, number):
        running.append(Machine(redis, tmp_path / name, number))
        return running[-1]

    yield start
    for each in running:
        each.kill()


def complete(redis, tmp_path):
    """Demand that what any machine has found is in Redis, and comes to each of them, once."""
    folders = [tmp_path / name for name in ("one", "other")]
    shared = held(redis)
    assert shared.keys() == {name for folder in folders for name in DirectoryStore(folder).all()}
    for folder in folders:
        RedisStore(redis.url, "test", DirectoryStore(folder)).close()
        assert DirectoryStore(folder).all() == shared == held(redis)
        assert len(list(folder.glob("*.json"))) == len(shared)
    return shared


def test_two_machines_share_what_they_find(machines, redis, tmp_path):
    pair = [machines(name, number) for number, name in enumerate(("one", "other"))]
    for each in pair:
        each.wait_for_more(40)
    (tmp_path / "end").touch()
    (new, _), (other, _) = (each.end()[0] for each in pair)
    shared = complete(redis, tmp_path)
    # each was new to exactly one of them
    assert new + other == len(shared)
    assert min(new, other) >= 20
    assert {len(data["steps"]) for data in shared.values()} == {1}


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_nothing_is_lost_when_a_machine_and_redis_die(machines, redis, tmp_path, lost):
    victim, other = machines("one", 0), machines("other", 1)
    victim.wait_for_more()
    other.wait_for_more()
    victim.kill()
    found = {path.name for path in victim.folder.glob("*.json")}
    if lost:
        with redis.client() as client:
            client.flushall()
    redis.stop()
    other.wait_for_more()
    redis.start()
    again = machines("one", 0)
    again.wait_for_more()
    other.wait_for_more()
    (tmp_path / "end").touch()
    assert again.end()[1] == []
    gone, back = other.end()[1]
    assert gone.endswith(f": findings are kept in {other.folder}, and sent later")
    assert back == f"redis {redis.url}: is back"
    complete(redis, tmp_path)
    assert found <= {path.name for path in other.folder.glob("*.json")}


# ---- the same through the command --------------------------------------------------------------

CORPUS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "one": ("hangs CHAN-6", [{"do": "raw", "wire": "main", "hex": "0102030405060708"}]),
    "other": ("hangs INIT-9", [
        {"do": "main", "part": "start"}, {"do": "open", "wire": "0"},
        {"do": "init", "wire": "0", "first": 3}, {"do": "sync", "wire": "0"},
    ]),
}  # fmt: skip
"""Machine -> what it finds first, and how."""


def fuzz(redis, folder):
    """Start `multifd fuzz` as a machine that has an input of its own to begin with."""
    corpus = folder.parent / f"corpus-{folder.name}"
    corpus.mkdir(exist_ok=True)
    steps = [{"do": "open", "wire": "main"}, *CORPUS[folder.name][1]]
    script = {"multifd-script": 1, "setup": {"channels": 1}, "expect": "REFUSES", "steps": steps}
    (corpus / "first.json").write_text(json.dumps(script))
    command = [
        sys.executable, "-c", "from multifd_proto.cli import main; main()",
        "fuzz", "receiver", "builtin:?broken=CHAN-6", "--budget", "1m", "--workers", "1",
        "--findings", str(folder), "--corpus", str(corpus), "--campaign", f"{redis.url}#test",
    ]  # fmt: skip
    return subprocess.Popen(tied(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(redis, what):
    """Return what a Redis holds of the one campaign, whatever its key."""
    with redis.client() as client:
        kept = [client.hgetall(key) for key in client.scan_iter(f"multifd:*:{what}")]
    return {field.decode(): json.loads(row) for each in kept for field, row in each.items()}


def executions(redis, folder):
    said = rows(redis, "workers").values()
    return max((m["executions"] for m in said if m["machine"].endswith(str(folder))), default=0)


@pytest.mark.timeout(60)
def test_a_campaign_outlives_a_machine_and_its_redis(redis, tmp_path):
    folders = [tmp_path / name for name in CORPUS]
    wanted = {signature for signature, _ in CORPUS.values()}
    with ExitStack() as stack:
        pair = [stack.enter_context(fuzz(redis, folder)) for folder in folders]
        for each in pair:
            stack.callback(each.kill)
        until(lambda: rows(redis, "findings").keys() >= wanted, "both find something", 40.0)
        pair[0].kill()
        with redis.client() as client:
            client.flushall()
        redis.stop()
        time.sleep(1.0)
        redis.start()
        until(lambda: "hangs INIT-9" in rows(redis, "findings"), "it is sent again", 20.0)
        before = executions(redis, folders[1])
        until(lambda: executions(redis, folders[1]) > before, "the other goes on", 20.0)
        pair[0] = stack.enter_context(fuzz(redis, folders[0]))
        stack.callback(pair[0].kill)
        until(lambda: rows(redis, "findings").keys() >= wanted, "it brings what it had", 20.0)
        until(lambda: len(DirectoryStore(folders[1]).all()) >= 2, "it comes to the other", 20.0)
        for each in pair:
            each.terminate()
        for each in pair:
            each.wait(20.0)
    shared = rows(redis, "findings")
    assert {name for folder in folders for name in DirectoryStore(folder).all()} == shared.keys()
    for folder in folders:
        assert wanted <= DirectoryStore(folder).all().keys()
        assert len(list(folder.glob("*.json"))) == len(DirectoryStore(folder).all())


# ---- who takes part ----------------------------------------------------------------------------


def test_totals_are_those_of_all_machines(machine):
    (one, _), (other, _) = machine("one"), machine("other")
    for number, store in enumerate((one, one, other)):
        for executions in (1, 100):
            store.beat(
                str(number), peer="qemu:10.0", seed=number, executions=executions, seconds=2.5
            )
    other.add("hangs", finding())
    assert other.totals() == Totals(executions=300, findings=1, machines=2, workers=3)
    member = max(one.members(), key=lambda each: each.seed)
    assert member.machine.endswith(":" + str(other.local.path))
    assert (member.worker, member.peer, member.seed) == ("2", "qemu:10.0", 2)
    assert (member.executions, member.seconds, member.alive) == (100, 2.5, True)


def test_a_worker_that_falls_silent_counts_as_lost_but_its_work_does_not(machine, redis):
    one, _ = machine("one")
    one.beat("0", peer="qemu:10.0", seed=0, executions=70, seconds=9.0)
    with redis.client() as client:
        ((field, row),) = client.hgetall("multifd:test:workers").items()
        said = json.loads(row) | {"beat": json.loads(row)["beat"] - 61}
        client.hset("multifd:test:workers", field, json.dumps(said))
    assert one.totals() == Totals(executions=70, findings=0, machines=0, workers=0)


def test_a_worker_that_is_started_anew_counts_on(machine):
    one, _ = machine("one")
    for executions in (0, 40, 70, 3, 9, 2):
        one.beat("0", peer="qemu:10.0", seed=0, executions=executions, seconds=9.0)
    assert one.totals() == Totals(executions=81, findings=0, machines=1, workers=1)


def test_a_resumed_run_adds_to_the_one_before(machine):
    for _ in range(2):
        store, _ = machine("one")
        store.beat("0", peer="qemu:10.0", seed=0, executions=70, seconds=9.0)
    assert store.totals() == Totals(executions=140, findings=0, machines=1, workers=2)


def test_redis_forgets_a_campaign_after_a_year(machine, redis):
    one, _ = machine("one")
    one.add("hangs", finding())
    one.beat("0", peer="qemu:10.0", seed=0, executions=70, seconds=9.0)
    with redis.client() as client:
        assert {client.ttl(key) for key in client.keys("multifd:*")} == {365 * 24 * 3600}


# ---- the URL -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://me:s3cret@host:7/3?x=1#nightly", "redis://host:7/3"),
        ("rediss://:s3cret@[::1]:7", "rediss://[::1]:7"),
        ("unix://:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://host?password=s3cret@x", "redis://host:6379"),
        ("redis://:s3/cret@host", "URL"),
        ("redis://:s3?cret@host", "URL"),
        ("s3cret", "URL"),
        ("redis://[s3cret", "URL"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "url", ["s3cret", "http://:s3cret@host", "redis://:s3/cret@host", "redis://host?s3cret=1"]
)
def test_what_is_no_url_is_refused_without_telling_it(url, tmp_path):
    with pytest.raises(PeerError) as error:
        RedisStore(url, "test", DirectoryStore(tmp_path))
    assert str(error.value).endswith(
        ": malformed, must be redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss://... or "
        "unix://PATH"
    )
    assert "s3" not in str(error.value)


def test_the_fragment_names_the_campaign():
    assert split_campaign("redis://h/0#nightly") == ("redis://h/0", "nightly")
    assert split_campaign("redis://h/0") == ("redis://h/0", DEFAULT_CAMPAIGN)


def test_a_password_is_asked_for_and_never_shown(redis, tmp_path):
    with redis.client() as client:
        client.config_set("requirepass", "s3cret")
    local = DirectoryStore(tmp_path / "one")
    for url, reason in (
        (redis.url, "Authentication required"),
        (redis.url.replace("//", "//:no@"), "invalid username-password pair or user is disabled"),
    ):
        with pytest.raises(PeerError) as error:
            RedisStore(url, "test", local)
        assert str(error.value) == f"redis {redis.url}: {reason}"
    told: list[str] = []
    store = RedisStore(redis.url.replace("//", "//:s3cret@"), "test", local, told.append)
    redis.stop()
    assert store.add("hangs", finding())
    assert told
    assert "s3cret" not in told[0]
    store.close()


def test_tls_and_unix_sockets_are_reached(tmp_path):
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    tls = free_port()
    options = [
        "--tls-port", str(tls), "--tls-cert-file", str(tmp_path / "cert.pem"),
        "--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file",
        str(tmp_path / "ca.pem"), "--tls-auth-clients", "no", "--unixsocket", "s",
    ]  # fmt: skip
    with running(tmp_path, *options) as server:
        for number, url in enumerate(
            (f"rediss://127.0.0.1:{tls}?ssl_ca_certs={tmp_path / 'ca.pem'}",
             f"unix://{tmp_path / 's'}")
        ):  # fmt: skip
            store = RedisStore(url, "test", DirectoryStore(tmp_path / str(number)))
            assert store.add(f"hangs {number}", finding())
            store.close()
        assert len(held(server)) == 2
        with pytest.raises(PeerError, match=f"redis rediss://127.0.0.1:{tls}: .*verify failed"):
            RedisStore(f"rediss://127.0.0.1:{tls}", "test", DirectoryStore(tmp_path / "x"))
