"""The suite for senders, against real QEMU."""

from __future__ import annotations

import re

import pytest

from multifd_proto.conformance.credentials import credentials
from multifd_proto.conformance.peers import parse_sender
from multifd_proto.conformance.sender.judging import ENDS, judge_heard, requirements_of
from multifd_proto.conformance.sender.scenarios import SCENARIOS, applicable
from multifd_proto.conformance.sender.session import hear
from multifd_proto.conformance.target import State
from multifd_proto.conformance.verdict import Verdict
from multifd_proto.wire.quirks import QUIRKS

REQUIREMENTS = [id_ for chapter in range(2, 11) for id_ in requirements_of(chapter)]
LEAVES_OPEN = "closed-before-init"
"""Where a channel is closed at once, a source may crash, or leave connections open: now and then,
on a busy machine, 5.2, 7.2 and 10.0 did."""

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return credentials(tmp_path_factory.mktemp("tls") / "pki")


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0", "11.1"])
def test_a_real_source_deviates_by_known_quirks_alone(release, name, qemu, tls):
    qemu(release)
    peer = parse_sender(f"qemu-src:{release}")
    description = peer.describe()
    if why := applicable(SCENARIOS[name], description):
        assert why in [f"the peer has no {method}" for method in ("zstd", "qpl", "uadk", "qatzip")]
        return
    heard = hear(peer, SCENARIOS[name], description, credentials=tls)
    found = {id_: judge_heard(id_, heard, description) for id_ in REQUIREMENTS}
    may_stand = name == LEAVES_OPEN
    for id_, judgement in found.items():
        assert judgement.verdict is not Verdict.INCONCLUSIVE, (id_, judgement.text)
        if judgement.verdict is Verdict.FAILED and not (id_ == ENDS and may_stand):
            quirks = [q for q in QUIRKS if description.dialect in q.dialects]
            known = {q.name for q in quirks if id_ in q.requirements}
            assert judgement.text.partition(": ")[0] in known, (id_, judgement.text)
    assert heard.seconds < 6
    if not SCENARIOS[name].behaviour.breaks:
        assert heard.state is State.COMPLETED
        # on a busy machine a migration may end while its memory is still being changed
        assert heard.image == () or (name == "dirty-memory" and heard.image is None)


@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0", "11.1"])
def test_a_stale_size_is_found_where_it_is(release, qemu):
    qemu(release)
    peer = parse_sender(f"qemu-src:{release}")
    description = peer.describe()
    heard = hear(peer, SCENARIOS["zlib"], description)
    judgement = judge_heard("PKT-17", heard, description)
    if release in ("5.2", "7.2"):
        assert judgement.verdict is Verdict.FAILED
        assert judgement.text.startswith("stale-next-packet-size: channel ")
    else:
        assert judgement.verdict is Verdict.PASSED


def test_memory_that_changes_makes_several_rounds(qemu):
    qemu("10.0")
    peer = parse_sender("qemu-src:10.0")
    heard = hear(peer, SCENARIOS["dirty-memory"], peer.describe())
    assert not heard.image
    syncs = [line.what for line in heard.exchanges if line.what.startswith("SYNC")]
    assert len(syncs) >= 2 * 4


def test_the_wire_log_tells_what_came(qemu):
    qemu("11.1")
    peer = parse_sender("qemu-src:11.1")
    heard = hear(peer, SCENARIOS["plain"], peer.describe())
    told = [(line.wire, line.kind, line.what) for line in heard.exchanges]
    assert told[0] == ("connection 0", "open", "connection accepted")
    assert ("0", "received", "init of channel 0") in told
    assert ("main", "received", "RamSetup") in told
    packets = [line for line in heard.exchanges if re.match("packet of .* normal", line.what)]
    assert all(line.data[:4] == b"\x11\x22\x33\x44" for line in packets)
    assert sum(line.size for line in packets) > 300 << 10


def test_nothing_is_left_of_a_source(qemu):
    qemu("10.0")
    peer = parse_sender("qemu-src:10.0")
    with peer.send(SCENARIOS["plain"].setup, _nowhere()) as running:
        assert running.state(5) is State.FAILED
        assert running.reason()[0] == "Failed to connect to '127.0.0.1:1': Connection refused"
        assert running.death is None
    assert running.death == "signal SIGKILL"


def _nowhere():
    from multifd_proto.peers.address import Address

    return Address("tcp", "127.0.0.1", 1)
