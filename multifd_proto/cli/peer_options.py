"""The options that `send` and `receive` share: what both ends have to be configured alike for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from multifd_proto.cli.common import DialectType, PageSizeType, UuidType
from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.wire.dialect import DIALECTS
from multifd_proto.wire.payload import METHODS, PayloadMethod

INCOMPLETE = 3
"""Exit status: the migration did not complete."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)


class AddressType(click.ParamType[Address]):
    """A migration URI."""

    name = "URI"

    def convert(self, value: Any, param: Any, ctx: Any) -> Address:
        """Read a URI as QEMU's `migrate` takes it."""
        try:
            return value if isinstance(value, Address) else parse_address(value)
        except PeerError as error:
            return self.fail(str(error), param, ctx)


class SizeType(click.ParamType[int]):
    """A number of bytes, with QEMU's suffixes: K, M, G, T are powers of 1024."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Read `100M`."""
        match = _SIZE.fullmatch(str(value))
        size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
        if size < 1:
            self.fail(f"{value!r} is no size: a number of bytes such as 100M", param, ctx)
        return size


def _method(_ctx: Any, _param: Any, name: str) -> PayloadMethod:
    return next(method for method in METHODS if method.name == name)


def peer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take `channels`, `uuid`, `dialect`, `page_size`, `compression`, `timeout`, `as_json`."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def tls_option(text: str) -> Callable[..., Any]:
    """Take `tls_creds`: a folder of credentials in QEMU's layout; `text` says which files."""
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.option("--tls-creds", type=folder, metavar="DIR", help=text)


_SHARED = (
    click.option(
        "--channels", type=click.IntRange(1, 255), default=2, show_default=True,
        help="Number of channels: `multifd-channels` of the other end.",
    ),
    click.option(
        "--uuid", type=UuidType(), default="00000000-0000-0000-0000-000000000000",
        help="UUID of the machine: `-uuid` of the other end.  [default: all zero, as QEMU's]",
    ),
    click.option(
        "--dialect", type=DialectType(), default=DIALECTS[-1].name, show_default=True,
        help="Behave as this QEMU release does: 5.2, 7.2, 10.0, 'seed'.",
    ),
    click.option(
        "--page-size", type=PageSizeType(), default="4096", show_default=True,
        help="Target page size: 4096 but for a few targets, whatever the guest uses.",
    ),
    click.option(
        "--compression", type=click.Choice([method.name for method in METHODS]), default="none",
        show_default=True, callback=_method,
        help="`multifd-compression` of the other end.",
    ),
    click.option(
        "--timeout", type=click.FloatRange(0.001, 1e6), default=30.0, show_default=True,
        metavar="SECONDS", help="How long the other end may be silent where it must not be.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The result as one JSON object."),
)  # fmt: skip
