from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files

import pytest
from multifd_proto.conformance.model import predict
from multifd_proto.conformance.observation import Reaction
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.player import Budgets, play
from multifd_proto.conformance.script import MAIN
from multifd_proto.conformance.target import MACHINE, Setup

from multifd_proto.machine.channel import Channel
from multifd_proto.wire.dialect import dialect_of

from .corpus import CorpusError, cases, entries, read
from .export import exchanges
from .oracle import Expected, prepare
from .receivers import ReceiverTarget, without_probe
from .store import LARGEST

DIALECTS = ("5.0", "7.0", "10.0", "11.1")
MOST_CHANNELS = 16
"""Of what is played: the oracle looks at each channel once more for each channel."""
BYTEWISE = 8000
"""Bytes of a stream that is also cut into single bytes: an init message, packets and a page."""


@cache
def corpus():
    return {entry.name: entry for entry in entries()}


def peer(dialect):
    return parse_receiver(f"builtin:?dialect={dialect}").describe()


def sessions():
    return [entry for entry in corpus().values() if "completes" in entry.outcomes.values()]


def boundaries(dialect):
    """Return scripts by name, with the outcome that is pinned, if one is."""
    known = [entry for entry in corpus().values() if entry not in sessions()]
    return {entry.name: (entry.script, entry.outcomes.get(dialect)) for entry in known}


def scripts(dialect):
    """Return the boundaries, and for the newest dialect the cases of the suite."""
    found = {name: script for name, (script, _) in boundaries(dialect).items()}
    if dialect == DIALECTS[-1]:
        found |= {entry.name: without_probe(entry.script) for entry in cases(peer(dialect))}
    return found


def test_the_corpus_holds_boundaries_sessions_and_cases():
    assert len(boundaries("10.0")) > 70
    assert len(scripts("11.1")) > 180
    assert {dialect for entry in sessions() for dialect in entry.outcomes} == set(DIALECTS)


def test_every_file_fits_into_the_corpus_and_says_what_it_is():
    for name, entry in corpus().items():
        assert (
            len(files("multifd_proto.fuzz.corpus").joinpath(f"{name}.json").read_bytes()) < LARGEST
        )
        assert entry.says, name
        assert entry.script.name in name


def test_a_file_without_its_words_is_refused():
    with pytest.raises(CorpusError) as error:
        read("x", '{"multifd-script": 1, "steps": []}')
    assert str(error.value) == "x: corpus is None, must hold says and outcomes"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_reference_machine_does_what_is_pinned(dialect):
    wrong = {}
    for name, (script, outcome) in boundaries(dialect).items():
        prepared = prepare(script, peer(dialect))
        said = prepared.expected.value
        if prepared.expected is Expected.REFUSES:
            said = f"{said} {prepared.requirement}"
        if outcome not in (None, said):
            wrong[name] = said, outcome
    assert wrong == {}


@pytest.mark.parametrize("dialect", [DIALECTS[0], DIALECTS[-1]])
def test_the_receiver_does_what_the_reference_machine_does(dialect):
    with ReceiverTarget(f"builtin:?dialect={dialect}") as target, ThreadPoolExecutor(8) as pool:

        def wrong(item):
            name, script = item
            finding = target.run(script).finding
            # where the machine is busy, a receiver may look as if it hung
            return name, finding and target.run(script, patient=True).finding

        items = [item for item in scripts(dialect).items() if item[1].channels <= MOST_CHANNELS]
        found = {name: finding for name, finding in pool.map(wrong, items) if finding}
    assert found == {}


def events(dialect, data, step):
    channel = Channel(page_size=4096, dialect=dialect_of(dialect))
    for at in range(0, len(data), step):
        channel.receive_data(data[at : at + step])
    channel.receive_eof()
    return list(channel.events())


def streams(dialect):
    """Return what the channels of all inputs carry."""
    inputs = list(scripts(dialect).values())
    inputs += [entry.script for entry in sessions() if dialect in entry.outcomes]
    found = set()
    for script in inputs:
        wires: dict[str, bytes] = {}
        for each in exchanges(script, peer(dialect)):
            if each.wire != MAIN:
                wires[each.wire] = wires.get(each.wire, b"") + each.data
        found |= set(wires.values())
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_decoder_sees_the_same_in_any_cut(dialect):
    seen = 0
    for data in streams(dialect):
        whole = events(dialect, data, len(data) or 1)
        assert events(dialect, data, 61) == whole
        # all there is to see of a packet is in its first bytes
        if len(data) <= BYTEWISE:
            assert events(dialect, data, 1) == whole
        seen += len(whole)
    assert seen > 300


@pytest.mark.parametrize("entry", sessions(), ids=lambda entry: entry.name)
def test_a_release_session_completes_with_its_memory(entry):
    ((dialect, _),) = entry.outcomes.items()
    description = peer(dialect)
    machine = predict(entry.script, description, MACHINE)
    assert machine.refusal is None
    assert machine.complete
    memory = machine.memory[b"ram0"]
    assert [page for page in range(256) if any(memory[page * 4096 :][:4096])] == [3, 200]
    setup = Setup(channels=entry.script.channels, method=entry.script.method)
    with parse_receiver(f"builtin:?dialect={dialect}").receive(setup) as running:
        seen = play(running, description, entry.script, setup, Budgets())
        deadline = time.monotonic() + 5
        while running.read(b"ram0", 0, len(memory)) != memory and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running.read(b"ram0", 0, len(memory)) == memory
    assert seen.reaction is Reaction.ACCEPTED, seen
