"""A command line with places to fill in: `./my-vmm --port {port} --channels {channels}`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from multifd_proto.errors import PeerError

from ..target import Setup

_BRACES = re.compile(r"\{\{|\}\}|\{(.*?)\}")


@dataclass(frozen=True)
class Command:
    """A command, split into words as a shell would; no shell ever sees it."""

    words: tuple[str, ...]
    places: frozenset[str]
    """Names in braces that occur in it; `{{` and `}}` are literal braces."""

    def fill(self, values: Mapping[str, object]) -> list[str]:
        """Return the words, with their places filled."""

        def value(match: re.Match[str]) -> str:
            return match[0][0] if match[1] is None else str(values[match[1]])

        return [_BRACES.sub(value, word) for word in self.words]


def parse_command(uri: str, text: str, *known: str) -> Command:
    """Read a command line.

    Args:
        uri: of the peer, for messages.
        text: the command line.
        known: names that can be filled in.

    Raises:
        PeerError: it is empty, a quote is not closed, or a name is unknown.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise PeerError(f"peer {uri!r}: command cannot be read: {error}") from None
    if not words:
        raise PeerError(f"peer {uri!r}: command is empty")
    found = (match[1] for word in words for match in _BRACES.finditer(word))
    places = [name for name in found if name is not None]
    for name in places:
        if name not in known:
            must = f"one of {', '.join(known)}" if known else "absent"
            raise PeerError(f"peer {uri!r}: placeholder is {{{name}}}, must be {must}")
    return Command(words, frozenset(places))


def values_of(setup: Setup) -> dict[str, object]:
    """Return what a setup fills in: `channels`, `uuid`, `method`."""
    return {
        "channels": setup.channels,
        "uuid": UUID(bytes=setup.uuid),
        "method": setup.method,
    }
