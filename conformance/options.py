"""The options of the plugin, and what a run makes of them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import Ask
    from .run import Settings

Get = Callable[[str], Any]
"""`pytest.Config.getoption`."""
DEFAULT_TARGET = "builtin:"
REPORTS = (".jsonl", ".md", ".html", ".xml")
"""Suffixes of the reports that can be written."""


def _above_zero(kind: type[float], text: str) -> float:
    """Read a number of an option."""
    try:
        value = kind(text)
    except ValueError:
        value = kind(0)
    if value > 0:
        return value
    raise ArgumentTypeError(f"{text!r} must be a number above 0")


CASE = re.compile(r"::test_\w+\[(?P<case>[A-Z]+-\d+/[\w.-]+)(?:@(?P<peer>.*))?\](?:@.*)?$")
"""Case and peer in the id of a test, behind which xdist may write its group."""
OPTIONS: dict[str, dict[str, Any]] = {
    "target": {
        "action": "append", "default": [], "metavar": "URI",
        "help": f"peer under test; may be given several times (default: {DEFAULT_TARGET})",
    },
    "case": {
        "action": "append", "default": [], "metavar": "GLOB",
        "help": "run the cases whose ids match: 'INIT-12/*'; may be given several times",
    },
    "requirement": {
        "action": "append", "default": [], "metavar": "GLOB",
        "help": "run the cases of requirements that match: 'PKT-*'; may be given several times",
    },
    "level": {
        "choices": ("MUST", "SHOULD"), "default": "SHOULD",
        "help": "run the cases of requirements that bind at least as much as this",
    },
    "strict": {"action": "store_true", "help": "passing weakly is failing"},
    "set": {
        "metavar": "NAME",
        "help": "set of requirements that count: a frozen one, or 'latest' for all (default: "
        "that of this release of the suite)",
    },
    "deviations": {
        "action": "append", "default": [], "type": Path, "metavar": "FILE",
        "help": "known deviations, in place of those that are shipped; may be given several times",
    },
    "no-deviations": {"action": "store_true", "help": "know of no deviations"},
    "deviations-update": {
        "type": Path, "metavar": "FILE",
        "help": "write entries that would make the run green; their reasons are left to you",
    },
    "inconclusive": {
        "choices": ("fail", "skip"), "default": "fail",
        "help": "what a case comes to that says nothing (default: fail)",
    },
    "repeat": {
        "type": partial(_above_zero, int), "default": 1, "metavar": "N",
        "help": "play each case so often; the worst counts",
    },
    "timeout-scale": {
        "type": partial(_above_zero, float), "default": 1.0, "metavar": "X",
        "help": "wait so many times as long for everything: for sanitizers and slow machines",
    },
    "max-dead": {
        "type": partial(_above_zero, int), "default": 3, "metavar": "N",
        "help": "give a peer up that could not be used so many times in a row (default: 3)",
    },
    "report": {
        "action": "append", "default": [], "type": Path, "metavar": "FILE",
        "help": "write a report: .jsonl while it runs, .md, .html or .xml (JUnit) at the end; "
        "may be given several times",
    },
    "artifacts": {
        "type": Path, "default": Path("multifd-artifacts"), "metavar": "DIR",
        "help": "where captures are written to (default: multifd-artifacts)",
    },
    "pcap": {
        "choices": ("none", "failed", "all"), "default": "none",
        "help": "write what was exchanged as pcapng (default: none)",
    },
}  # fmt: skip
"""Name without its prefix -> arguments of `addoption`."""


def settings(get: Get) -> Settings:
    """Return what a run is asked for.

    Raises:
        MultiFDError: a set, a file of deviations, a peer's URI or a report is not to be used.
    """
    from multifd_proto.errors import MultiFDError
    from multifd_proto.wire.requirements import Role

    from .catalogue import asks
    from .deviations import Deviations
    from .deviations_file import load_deviations
    from .result import Patience
    from .run import Settings
    from .sets import CURRENT, load_set

    _check_targets(get)
    for path in get("multifd_report"):
        if path.suffix not in REPORTS:
            raise MultiFDError(f"report {path}: must end in {', '.join(REPORTS)}")
    known = Deviations()
    if not get("multifd_no_deviations"):
        known = load_deviations(get("multifd_deviations") or None)
        known.check([case for role in Role for case in asks(role)])
    return Settings(
        deviations=known,
        counted=load_set(get("multifd_set") or CURRENT),
        patience=Patience(
            get("multifd_repeat"), get("multifd_timeout_scale"), get("multifd_max_dead")
        ),
        artifacts=get("multifd_artifacts"),
        pcap=get("multifd_pcap"),
    )


def _check_targets(get: Get) -> None:
    """Refuse a peer that has no role, for the reason that it has in the role that it could have."""
    from multifd_proto.errors import PeerError

    from .peers import RECEIVERS, SENDERS

    for uri in get("multifd_target"):
        scheme = uri.partition(":")[0]
        if scheme not in {*RECEIVERS, *SENDERS}:
            known = ", ".join(f"{name}:" for name in {**RECEIVERS, **SENDERS})
            raise PeerError(f"peer {uri!r}: scheme is {scheme!r}, must be one of {known}")
        refusals = [why for role in ("receiver", "sender") if (why := _refusal(uri, role))]
        if len(refusals) == 2:
            raise PeerError(refusals[scheme not in RECEIVERS])


def _refusal(uri: str, role: str) -> str:
    """Return why a peer does not have a role; empty if it has."""
    from multifd_proto.errors import PeerError

    from .peers import parse_receiver, parse_sender

    try:
        (parse_receiver if role == "receiver" else parse_sender)(uri)
    except PeerError as error:
        return str(error)
    return ""


def targets(get: Get, role: str) -> list[str]:
    """Return the peers that have a role, in the order of their options."""
    uris = dict.fromkeys(get("multifd_target") or [DEFAULT_TARGET])
    return [uri for uri in uris if not _refusal(uri, role)]


def selected(get: Get, ask: Ask) -> bool:
    """Tell whether a case is to be run."""
    for value, globs in (
        (ask.case, get("multifd_case")),
        (ask.requirement.id, get("multifd_requirement")),
    ):
        if globs and not any(fnmatchcase(value, glob) for glob in globs):
            return False
    return get("multifd_level") != "MUST" or ask.requirement.level.value == "MUST"


def demands(get: Get) -> dict[str, Any]:
    """Return what decides whether a row fails the run."""
    return {"strict": get("multifd_strict"), "inconclusive": get("multifd_inconclusive")}
