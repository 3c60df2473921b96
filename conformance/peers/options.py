"""What the user says of a foreign implementation, in the options of its URI.

Nobody can ask an implementation that merely listens what it is. So all foreign peers share these
options, each with a default that suits a small receiver; a shim says most of it by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import UUID

from multifd_proto.errors import PeerError
from multifd_proto.machine.sending import Surroundings
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.main_records import MAX_CONFIGURATION, Configuration, MainHeader
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role
from multifd_proto.wire.schema import PAGE_SIZES

from ..target import MACHINE, MEMORY, Description, Sense, Setup
from . import check_options

_SIZE = re.compile(r"([1-9][0-9]{0,18})([KMG]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_TEMPLATES_MACHINE = "none"


@dataclass(frozen=True)
class Options:
    """What is said of an implementation; each field is an option of the same name."""

    product: str = ""
    """Selects the known deviations, together with `version`."""
    version: str = ""
    dialect: Dialect = DIALECTS[-1]
    page_size: int = 4096
    """Target page size in bytes."""
    channels: int | None = None
    """The number that it is configured for, if it cannot be told; else the most that it takes."""
    uuid: bytes = MACHINE
    """That of its machine, 16 bytes in text order, if it cannot be told."""
    blocks: Mapping[bytes, int] | None = None
    """Its RAM blocks with their sizes in bytes: `ram0:1M+pc.bios:128K`."""
    methods: frozenset[str] = frozenset({"none"})
    """Payload methods that it takes: `none+zlib`."""
    machine: str = _TEMPLATES_MACHINE
    """Machine type that it demands in the configuration of the main stream."""
    return_path: bool = True
    """Whether it answers on the main stream's connection."""

    @property
    def memory(self) -> Mapping[bytes, int]:
        """The RAM blocks; one of `MEMORY` bytes if nothing else was said."""
        return self.blocks or {b"ram0": MEMORY}

    def describe(
        self, product: str, version: str = "", *, senses: frozenset[Sense], fixed: bool = False
    ) -> Description:
        """Return the description of a receiver.

        Args:
            product: its name if the user gave none.
            version: likewise.
            senses: what can be seen of it.
            fixed: whether it has `channels` channels, neither more nor less.
        """
        most = self.channels or (Setup.channels if fixed else Description.max_channels)
        return Description(
            product=self.product or product,
            version=self.version or version,
            dialect=self.dialect,
            roles=frozenset({Role.RECEIVER}),
            around=self._around(),
            blocks=dict(self.memory),
            page_size=self.page_size,
            methods=self.methods,
            max_channels=most,
            min_channels=most if fixed else 1,
            uuid=self.uuid,
            return_path=self.return_path,
            senses=senses,
        )

    def _around(self) -> Surroundings:
        template = template_for(self.dialect)
        head = MainHeader().build()
        shipped = head + Configuration(_TEMPLATES_MACHINE.encode()).build()
        assert template.prefix.startswith(shipped)
        own = head + Configuration(self.machine.encode()).build()
        return replace(template, prefix=own + template.prefix.removeprefix(shipped))

    def demand(self, uri: str, setup: Setup, told: frozenset[str]) -> None:
        """Refuse a setup that the implementation is not there for.

        Args:
            uri: what the user called it.
            setup: what it is to be started for.
            told: names of what is passed on to it (`channels`, `uuid`, `method`): of the others it
                has its own.

        Raises:
            PeerError: naming the first that differs.
        """
        if setup.tls:
            raise PeerError(f"peer {uri!r}: credentials cannot be given to it, must be without TLS")
        if setup.method not in self.methods:
            must = " or ".join(sorted(self.methods))
            raise PeerError(f"peer {uri!r}: method is {setup.method}, must be {must}")
        if "channels" in told and setup.channels > (self.channels or setup.channels):
            must = f"at most {self.channels}"
            raise PeerError(f"peer {uri!r}: channels is {setup.channels}, must be {must}")
        if "channels" not in told and setup.channels != (self.channels or Setup.channels):
            must = f"{self.channels or Setup.channels}, as it was not told otherwise"
            raise PeerError(f"peer {uri!r}: channels is {setup.channels}, must be {must}")
        if "uuid" not in told and setup.uuid != self.uuid:
            seen, must = UUID(bytes=setup.uuid), f"{UUID(bytes=self.uuid)}, as it was not told"
            raise PeerError(f"peer {uri!r}: uuid is {seen}, must be {must} otherwise")


NAMES = tuple(item.name for item in fields(Options))
"""Names of the options."""


def parse_options(uri: str, options: Mapping[str, str], *more: str) -> Options:
    """Read the options of a URI.

    Args:
        uri: the whole of it, for messages.
        options: by name, as `parse_receiver` splits them.
        more: names of further options, which the scheme reads by itself.

    Raises:
        PeerError: an option is unknown, or its value is malformed.
    """
    check_options(uri, dict(options), *NAMES, *more)
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name in more:
            continue
        try:
            values[name] = _READ[name](text)
        except ValueError as error:
            raise PeerError(f"peer {uri!r}: {name} is {text!r}, must be {error}") from None
    read = Options(**values)
    for block, size in read.memory.items():
        if size % read.page_size:
            must = f"a multiple of the page size, {read.page_size}"
            raise PeerError(f"peer {uri!r}: {block.decode()} has {size} bytes, must be {must}")
    return read


# ---- values: each function raises ValueError with what the value must be ------------------------


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable")
    return text


def _dialect(text: str) -> Dialect:
    try:
        return dialect_of(text)
    except ValueError:
        raise ValueError("a QEMU release from 4.0 on, such as 10.0") from None


def _page_size(text: str) -> int:
    sizes = {str(size): size for size in PAGE_SIZES}
    if text not in sizes:
        raise ValueError(f"one of {', '.join(sizes)}")
    return sizes[text]


def _channels(text: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,3}", text) and 1 <= int(text) <= 255):
        raise ValueError("1 to 255")
    return int(text)


def _uuid(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        raise ValueError("a UUID") from None


def _blocks(text: str) -> Mapping[bytes, int]:
    blocks: dict[bytes, int] = {}
    for item in text.split("+"):
        name, _, size = item.rpartition(":")
        match = _SIZE.fullmatch(size)
        if not match or not 1 <= len(name.encode()) <= 255 or name.encode() in blocks:
            raise ValueError("NAME:SIZE, or several with + between, such as ram0:1M+pc.bios:128K")
        blocks[name.encode()] = int(match[1]) * _UNITS[match[2]]
    return blocks


def _methods(text: str) -> frozenset[str]:
    names, known = frozenset(text.split("+")), [method.name for method in METHODS]
    if not names <= set(known):
        raise ValueError(f"some of {', '.join(known)} with + between")
    return names


def _machine(text: str) -> str:
    if not 1 <= len(text.encode()) <= MAX_CONFIGURATION:
        raise ValueError("the name of a machine type")
    return text


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


_READ: dict[str, Callable[[str], Any]] = {
    "product": _text,
    "version": _text,
    "dialect": _dialect,
    "page_size": _page_size,
    "channels": _channels,
    "uuid": _uuid,
    "blocks": _blocks,
    "methods": _methods,
    "machine": _machine,
    "return_path": _flag,
}
