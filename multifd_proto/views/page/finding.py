"""What a finding is: a thing that went wrong, or is worth a word, and what to look at next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from multifd_proto.views.page.facts import Facts


@dataclass(frozen=True)
class Step:
    """Something to look at next."""

    end: str
    """Where: `source`, `destination`, `network`, `capture`, or `here`, with this tool."""
    text: str
    command: str = ""
    requirements: tuple[str, ...] = ()
    """Ids of the requirements to read."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    weight: str
    """`bad`, `odd` or `note`."""
    short: str
    """A few words, for the headline; empty if it is no matter for one."""
    text: str
    place: str = ""
    """Section of the page that shows it."""
    steps: tuple[Step, ...] = ()


def command(facts: Facts, verb: str, tail: str = "") -> str:
    """Return a command line of this package on the migration's files."""
    files = " ".join("capture.pcap" if f == "-" else shlex.quote(f) for f in facts.files)
    return " ".join(filter(None, ["multifd", verb, facts.options, files])) + tail


def listed(names: list[str], total: int) -> str:
    """Say which of so many channels."""
    if len(names) == total > 1:
        return "Both channels" if total == 2 else f"All {total} channels"
    if len(names) > 6:
        return f"{len(names)} of {total} channels"
    if all(name.startswith("channel ") for name in names) and len(names) > 1:
        numbers = [name.removeprefix("channel ") for name in names]
        return f"Channels {', '.join(numbers[:-1])} and {numbers[-1]}"
    return ", ".join(names).capitalize()
