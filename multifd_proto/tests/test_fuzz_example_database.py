from __future__ import annotations

from contextlib import ExitStack

import hypothesis
import pytest
from hypothesis.strategies import integers

from multifd_proto.fuzz.example_database import example_database
from multifd_proto.tests.redis_server import running, until


@pytest.fixture
def redis(tmp_path):
    with running(tmp_path / "redis") as server:
        yield server


def test_examples_are_shared_between_machines(redis, tmp_path):
    one = example_database(tmp_path / "one", redis.url, "10.0")
    one.save(b"key", b"example")
    other = example_database(tmp_path / "other", redis.url, "10.0")
    assert set(other.fetch(b"key")) == {b"example"}
    other.move(b"key", b"elsewhere", b"example")
    assert set(example_database(tmp_path / "third", redis.url, "10.0").fetch(b"key")) == set()
    other.delete(b"elsewhere", b"example")
    assert set(one.fetch(b"elsewhere")) == set()


def test_examples_of_other_dialects_and_campaigns_are_apart(redis, tmp_path):
    url = redis.url
    example_database(tmp_path / "one", url, "10.0").save(b"key", b"example")
    for number, (where, dialect) in enumerate(((url, "7.2"), (url + "#nightly", "10.0"))):
        database = example_database(tmp_path / str(number), where, dialect)
        assert list(database.fetch(b"key")) == []
    with redis.client() as client:
        (key,) = client.keys("*")
        assert key == f"multifd:default:hypothesis-{hypothesis.__version__}:10.0:key".encode()
        assert client.ttl(key) == 365 * 24 * 3600


def test_examples_survive_that_redis_goes(redis, tmp_path):
    told: list[str] = []
    database = example_database(tmp_path / "one", redis.url, "10.0", told.append)
    redis.stop()
    for number in range(20):
        database.save(b"key", bytes([number]))
        database.move(b"key", b"other", bytes([number]))
        assert len(list(database.fetch(b"other"))) == number + 1
    (message,) = told
    assert message.endswith(f": examples are kept in {tmp_path / 'one'} alone")
    redis.start()

    def shared():
        database.save(b"key", b"again")
        with redis.client() as client:
            return client.keys("*")

    until(shared, "it is used again")
    assert told[1:] == [f"redis {redis.url}: is back"]


def test_without_a_url_examples_stay_in_the_folder(tmp_path):
    example_database(tmp_path / "one").save(b"key", b"example")
    assert list(example_database(tmp_path / "one").fetch(b"key")) == [b"example"]


def test_hypothesis_finds_on_one_machine_what_failed_on_another(redis, tmp_path):
    def first_tried(name, fails):
        tried = []
        database = example_database(tmp_path / name, redis.url, "10.0")
        phases = (hypothesis.Phase.reuse, hypothesis.Phase.generate, hypothesis.Phase.shrink)

        @hypothesis.settings(database=database, phases=phases, derandomize=False, max_examples=200)
        @hypothesis.given(integers(0, 10**6))
        def run(number):
            tried.append(number)
            assert not (fails and number > 777)

        with ExitStack() as stack:
            if fails:
                stack.enter_context(pytest.raises(AssertionError))
            run()
        return tried[0]

    first_tried("one", fails=True)
    assert first_tried("other", fails=False) == 778
