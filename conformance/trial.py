"""One script, played once to a fresh receiver: what `replay` and `diff` do again and again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

from multifd_proto.errors import MultiFDError
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.wire.requirements import Role

from .case import Case, Expect
from .catalogue import file_cases, receiver_cases
from .credentials import credentials
from .judging import judge
from .observation import Exchange, Observation, Reaction
from .peers import parse_receiver
from .player import Budgets, play
from .script import Script, load_script
from .target import Description, ReceiverPeer, Setup
from .verdict import Judgement, Verdict

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


class UnknownScriptError(MultiFDError):
    """There is neither a file nor a case of that name."""


@dataclass(frozen=True)
class Tried:
    """What became of one try."""

    judgement: Judgement
    exchanges: tuple[Exchange, ...] = ()


def try_once(name: str, uri: str, budgets: Budgets) -> Tried:
    """Play a script, or a case of any kind, to a receiver, and judge it.

    Args:
        name: a file, or the id of a case.
        uri: of the receiver.
        budgets: how long is waited.

    Raises:
        PeerError: the receiver cannot be used.
        ScriptError: the script cannot be read or played.
        UnknownScriptError: there is no such script, or it does not say what it expects.
    """
    files = file_cases(Role.RECEIVER)
    if name in files:
        return Tried(files[name].run(uri))
    script, peer = find_script(name), parse_receiver(uri)
    try:
        with TemporaryDirectory(prefix="multifd-") as folder:
            tls = credentials(Path(folder, "tls")) if script.tls else None
            description = peer.describe()
            if why := why_not(script, description):
                return Tried(Judgement(Verdict.NOT_APPLICABLE, why))
            seen = trial(peer, description, script, tls, budgets)
    finally:
        peer.close()
    return Tried(judge_script(script, description, seen), seen.exchanges)


def find_script(name: str) -> Script:
    """Return the script of a file, or of a case by its id.

    Raises:
        UnknownScriptError: there is none.
        ScriptError: the file is none.
    """
    path = Path(name)
    if path.is_file():
        return load_script(path.read_text("utf-8", "replace"))
    case = receiver_cases().get(name)
    if case is None:
        raise UnknownScriptError(f"{name}: neither a file nor a case: multifd conformance list")
    return case.script


def trial(
    peer: ReceiverPeer,
    description: Description,
    script: Script,
    credentials: TlsCredentials | None,
    budgets: Budgets,
) -> Observation:
    """Play a script once.

    Raises:
        PeerError: the receiver cannot be started.
        ScriptError: the script cannot be played.
    """
    tls = credentials if script.tls else None
    setup = Setup(script.channels, script.method, description.uuid, tls)
    with peer.receive(setup) as running:
        return play(running, description, script, setup, budgets)


def why_not(script: Script, peer: Description) -> str:
    """Return why a script makes no sense for a peer; empty if it does, as far as is known."""
    known = receiver_cases().get(script.name)
    if known and known.script == script:
        return known.not_applicable(peer)
    return "" if script.method in peer.methods else f"the peer has no {script.method}"


def judge_script(script: Script, peer: Description, seen: Observation) -> Judgement:
    """Judge what was seen by what the script itself expects.

    Raises:
        UnknownScriptError: it expects nothing, or nothing that is known.
    """
    known = receiver_cases().get(script.name)
    if known and known.script == script:
        return judge(known, peer, seen)
    if script.expect not in Expect.__members__:
        names = ", ".join(Expect.__members__)
        raise UnknownScriptError(f"script: expect is {script.expect!r}, must be one of {names}")
    case = Case(script.name, "", Expect[script.expect], script.steps, script.channels)
    return judge(case, peer, seen)


class Agreement(Enum):
    """How several receivers took the same script."""

    SAME = "same"
    REASON = "reason differs"
    IMAGE = "image differs"
    SPLIT = "split"
    """One accepts what another refuses, or waits for."""
    CRASH = "crash"
    """One at least crashes, and not all."""


def agreement(seen: Sequence[Observation]) -> Agreement:
    """Say how alike the observations are; numbers in the reasons are not compared."""
    reactions = {one.reaction for one in seen}
    if not reactions:
        return Agreement.SAME
    if len(reactions) > 1:
        return Agreement.CRASH if Reaction.CRASHED in reactions else Agreement.SPLIT
    if len({one.image for one in seen}) > 1:
        return Agreement.IMAGE
    reasons = {_NUMBER.sub("#", one.reason[0]) if one.reason else "" for one in seen}
    refused = reactions == {Reaction.REJECTED}
    return Agreement.REASON if refused and len(reasons) > 1 else Agreement.SAME
