"""`listen:ADDRESS`: whatever migrates to an address of ours.

listen:tcp:0:4444
listen:tcp:127.0.0.1:0?dialect=10.0&trigger=./migrate.sh {host} {port} {channels}

With a trigger, which has to be the last option, that command is started for each scenario. Its
placeholders say which scenarios there are: a sender that is not told the payload method cannot be
asked for compression. Flags are 0 or 1; `{tls}` is a folder with a client's credentials in QEMU's
layout, or nothing. Without a trigger the user is asked for a migration, for each scenario.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Self

from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role

from ..sender.scenarios import untold
from ..target import Description, SenderPeer, Sense, SourceSetup, State
from .command import Command, parse_command, values_of
from .options import Options, parse_options
from .process import describe_death, kill_group, reports_crash, spawn
from .tail import Tail

_TOLD = ("channels", "uuid", "method", "memory", "size", "blocks", "dirty", "return_path")
"""Fields of `SourceSetup` that a trigger can be told; flags as 0 and 1."""
_PLACES = ("host", "port", "uri", "tls", *_TOLD)
_METHOD = {method.name: method for method in METHODS}
_TRIGGERED, _BY_HAND = 10.0, 300.0
_LAST_WORDS = 0.2


def sender(rest: str, options: dict[str, str], uri: str) -> SenderPeer:
    """Return the sender of a `listen:` URI; see `peers.SENDERS`.

    Raises:
        PeerError: the address, an option or the trigger is malformed.
    """
    # with spaces in the trigger, the options are still in the rest
    place, _, text = rest.partition("?")
    before, told, trigger = text.partition("trigger=")
    for pair in filter(None, before.split("&")):
        key, _, options[key] = pair.partition("=")
    if told:
        options["trigger"] = trigger
    address = parse_address(place)
    if address.scheme == "fd":
        raise PeerError(f"peer {uri!r}: address is {place}, must be tcp:, unix: or vsock:")
    return ListenSender(uri, address, options)


class ListenSender:
    """A sender of somebody else's."""

    def __init__(self, uri: str, address: Address, options: dict[str, str]) -> None:
        """Read what the user says of it.

        Raises:
            PeerError: an option or the trigger is malformed.
        """
        self.uri = uri
        """What the user called it."""
        self.goes_to = address
        """Where it expects a destination; port 0 if it is told the port."""
        self._given = frozenset(options)
        self._options: Options = parse_options(uri, options, "trigger", "wait")
        self._trigger: Command | None = None
        if "trigger" in options:
            self._trigger = parse_command(uri, options["trigger"], *_PLACES)
        self.patience = _seconds(uri, options, _TRIGGERED if self._trigger else _BY_HAND)
        """Seconds that its first connection may take."""

    @property
    def _told(self) -> frozenset[str]:
        return self._trigger.places if self._trigger else frozenset()

    def describe(self) -> Description:
        """Tell what the user says of it."""
        given, why = self._options, "the trigger does not tell the sender its"
        unsupported = untold(self._told, why) | {"cancel": "nobody can cancel its migration"}
        return Description(
            product=given.product or "sender",
            version=given.version,
            dialect=given.dialect,
            roles=frozenset({Role.SENDER}),
            around=given.describe("sender", senses=frozenset()).around,
            blocks=given.blocks or {},
            page_size=given.page_size,
            methods=given.methods,
            tls="tls" in self._told,
            max_channels=given.channels or Description.max_channels,
            return_path=given.return_path,
            senses=frozenset({Sense.PROCESS} if self._trigger else ()),
            unsupported=unsupported,
        )

    def known(self, setup: SourceSetup) -> MigrationParameters:
        """Return what is known of its migration: what it is told, or the user says."""
        options, uuid = self._options, None
        if "uuid" in self._told:
            uuid = setup.uuid
        elif "uuid" in self._given:
            uuid = options.uuid
        method = setup.method if "method" in self._told else None
        return MigrationParameters(
            dialect=options.dialect,
            page_size=options.page_size if "page_size" in self._given else None,
            channels=setup.channels if "channels" in self._told else options.channels,
            uuid=uuid,
            compression=_METHOD[method] if method else None,
            ramblocks=tuple(RamBlock(*block) for block in (options.blocks or {}).items()) or None,
        )

    def send(self, setup: SourceSetup, to: Address) -> RunningListenSender:
        """Start the trigger, or ask the user for a migration.

        Raises:
            PeerError: the trigger cannot be run.
        """
        if self._trigger:
            tls = setup.tls.folder if setup.tls else ""
            places = {"host": to.host, "port": to.port, "uri": to, "tls": tls, **values_of(setup)}
            more = {name: getattr(setup, name) for name in _TOLD if name not in places}
            flags = {name: int(v) if isinstance(v, bool) else v for name, v in more.items()}
            return RunningListenSender(self._trigger.fill({**places, **flags}))
        count = self._options.channels or "any number of"
        sys.stderr.write(f"waiting {self.patience:g} s for a migration to {to}, {count} channels\n")
        return RunningListenSender(None)

    def close(self) -> None:
        """Do nothing: nothing outlives a migration."""


def _seconds(uri: str, options: dict[str, str], default: float) -> float:
    text = options.get("wait", str(default))
    if not text.replace(".", "", 1).isdigit():
        raise PeerError(f"peer {uri!r}: wait is {text!r}, must be seconds")
    return float(text)


class RunningListenSender:
    """A sender that was told to migrate, if there is somebody to tell it."""

    def __init__(self, words: list[str] | None) -> None:
        self._tail: Tail | None = None
        self._process = None
        with ExitStack() as stack:
            if words:
                self._tail = stack.enter_context(Tail())
                out = self._tail.writer
                self._process = spawn(words, stdout=out, stderr=out)
                stack.callback(kill_group, self._process)
                self._tail.release()
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def read(self, _block: bytes, _offset: int, _length: int) -> bytes | None:
        """Return None: nobody knows its memory."""
        return None

    @property
    def death(self) -> str | None:
        """How the trigger ended, if it failed: one that ended well may have told another."""
        status = self._process.poll() if self._process else None
        return describe_death(status) if status else None

    @property
    def crashed(self) -> bool:
        """The trigger ended by a signal, or printed that something crashed."""
        status = self._process.poll() if self._process else None
        told = self._tail is not None and reports_crash(self._tail.text())
        return told or (status is not None and status < 0)

    def state(self, _timeout: float) -> State:
        """Return that it cannot be asked."""
        return State.UNKNOWN

    def reason(self) -> tuple[str, ...]:
        """Return the last lines that the trigger printed."""
        return self._tail.lines(_LAST_WORDS if self.death else 0.0) if self._tail else ()

    def log(self) -> str:
        """Return the end of what the trigger printed."""
        return self._tail.text() if self._tail else ""

    def cancel(self) -> bool:
        """Return False: nobody can."""
        return False

    def image(self, _block: bytes) -> bytes | None:
        """Return None: nobody knows its memory."""
        return None
