"""What Hypothesis remembers: in a folder of this machine, and in the Redis of a campaign."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hypothesis import __version__
from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    MultiplexedDatabase,
)

from .redis_link import RedisLink, split_campaign
from .store import Tell, to_stderr

if TYPE_CHECKING:
    from hypothesis.extra.redis import RedisExampleDatabase

T = TypeVar("T")

_KEPT = timedelta(days=365)


def example_database(
    folder: Path, url: str = "", dialect: str = "", tell: Tell = to_stderr
) -> ExampleDatabase:
    """Return the database of a campaign's Hypothesis.

    Args:
        folder: of this machine.
        url: of the Redis it is shared through, with the campaign's name as its fragment; not
            shared if empty.
        dialect: that examples are drawn for. What is remembered means something only to one
            dialect and one version of Hypothesis: others have examples of their own.
        tell: takes a message for the user.

    Raises:
        PeerError: the URL is none, or redis-py is not installed.
    """
    local = DirectoryBasedExampleDatabase(folder)
    if not url:
        return local
    prefix = f"multifd:{split_campaign(url)[1]}:hypothesis-{__version__}:{dialect}:"
    link = RedisLink(url, tell, f"examples are kept in {folder} alone")
    return MultiplexedDatabase(local, LinkedExampleDatabase(link, prefix))


class LinkedExampleDatabase(ExampleDatabase):
    """Hypothesis's Redis database, which is empty and forgets while Redis is away.

    Args:
        link: to the Redis. It need not be there.
        prefix: of the keys.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        from hypothesis.extra.redis import RedisExampleDatabase

        super().__init__()
        self._link = link
        self._shared = RedisExampleDatabase(
            link.redis, expire_after=_KEPT, key_prefix=prefix.encode()
        )

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """Return what all machines have saved."""
        return self._try(lambda shared: list(shared.fetch(key))) or []

    def save(self, key: bytes, value: bytes) -> None:
        """Save an example for all machines."""
        self._try(lambda shared: shared.save(key, value))

    def delete(self, key: bytes, value: bytes) -> None:
        """Take an example away from all machines."""
        self._try(lambda shared: shared.delete(key, value))

    def move(self, src: bytes, dest: bytes, value: bytes) -> None:
        """Move an example, in one exchange."""
        self._try(lambda shared: shared.move(src, dest, value))

    def _try(self, action: Callable[[RedisExampleDatabase], T]) -> T | None:
        return self._link.reach(lambda _: action(self._shared))
