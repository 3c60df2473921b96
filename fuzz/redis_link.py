"""A Redis that may go away in the middle of a campaign, and come back, perhaps with nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from multifd_proto.errors import PeerError

from .store import Tell

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

DEFAULT_CAMPAIGN = "default"
_PATIENCE = 5.0
"""Seconds that connecting or one answer may take."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
"""Seconds from a failure to the next try; each pause is twice the one before."""


class RedisLink:
    """Carries out what can be carried out, and tells once when Redis goes and when it is back.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads it; a fragment is left out.
        tell: takes a message for the user. Secrets of the URL are not in it.
        meanwhile: what the user is told about the time that Redis is away.

    Raises:
        PeerError: the URL is none, or redis-py is not installed.
    """

    def __init__(self, url: str, tell: Tell, meanwhile: str) -> None:
        self.name = without_secrets(url)
        self.redis = _client(url, self.name)
        self._tell = tell
        self._meanwhile = meanwhile
        self._pause = 0.0
        self._again = 0.0

    @property
    def away(self) -> bool:
        """Whether the last try failed."""
        return self._pause > 0

    def demand(self) -> None:
        """Connect now.

        Raises:
            PeerError: it cannot be reached, or does not let us in.
        """
        from redis import RedisError

        try:
            self.redis.ping()
        except (RedisError, OSError) as error:
            raise PeerError(f"redis {self.name}: {_reason(error)}") from None

    def reach(self, action: Callable[[Redis], T]) -> T | None:
        """Carry out an action; return what it does, or None if Redis is away.

        While it is away, nothing is tried until some time has passed.
        """
        from redis import RedisError

        if self.away and time.monotonic() < self._again:
            return None
        try:
            result = action(self.redis)
        except (RedisError, OSError) as error:
            self._lose(error)
            return None
        if self.away:
            self._pause = 0.0
            self._tell(f"redis {self.name}: is back")
        return result

    def hurry(self) -> None:
        """Try again with the next action, even if it is not yet time."""
        self._again = 0.0

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def _lose(self, error: Exception) -> None:
        if not self.away:
            self._tell(f"redis {self.name}: {_reason(error)}: {self._meanwhile}")
        self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
        self._again = time.monotonic() + self._pause


def split_campaign(url: str) -> tuple[str, str]:
    """Return the URL of the Redis, and the name that its fragment gives to the campaign."""
    head, _, name = url.partition("#")
    return head, name or DEFAULT_CAMPAIGN


def without_secrets(url: str) -> str:
    """Return a URL that may be shown: scheme, host, port and database, or path of the socket."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "URL"
    if parts.scheme == "unix":
        return f"unix://{parts.path.rpartition('@')[2]}"
    if not host:
        return "URL"
    database = parts.path if parts.path.lstrip("/").isdigit() else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or 6379}{database}"


def _client(url: str, name: str) -> Redis:
    try:
        from redis import Redis, exceptions
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise PeerError(
            "a shared campaign needs the redis library: pip install 'multifd-proto[fuzz]'"
        ) from None
    limits: dict[str, Any] = {
        "socket_timeout": _PATIENCE,
        "socket_connect_timeout": _PATIENCE,
        # with it, a password that is missing is told of as such
        "protocol": 2,
        # what JSON can say, a signature may hold
        "encoding_errors": "surrogatepass",
        # a connection that a restart has cut is no failure yet; no answer is one at once
        "retry": Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
    }
    try:
        client: Redis = Redis.from_url(split_campaign(url)[0], **limits)
        # options that the connection does not know are found only here
        client.connection_pool.make_connection()
    except (ValueError, TypeError):
        # what redis-py says about it may quote the password
        raise PeerError(
            f"redis {name}: malformed, must be redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], "
            "rediss://... or unix://PATH"
        ) from None
    return client


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
