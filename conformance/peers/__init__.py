"""The peers that the suite can be pointed at, by the scheme of their URI.

A URI is `SCHEME:REST?KEY=VALUE&KEY=VALUE`; the part from the last `?` on is taken for options only
if it looks like that and holds no space, so that commands may contain question marks.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from multifd_proto.errors import PeerError

from ..target import ReceiverPeer, SenderPeer

RECEIVERS = {
    "builtin": ("builtin", "the reference, or with ?broken=ID one that is wrong in one way"),
    "tcp": ("external", "a receiver that listens: tcp:HOST:PORT"),
    "unix": ("external", "a receiver that listens: unix:PATH"),
    "run": ("run", "a command, run anew for each case: run:./my-vmm --port {port}"),
    "shim": ("shim", "a command that talks JSON lines: shim:./my-shim"),
    "qemu": ("qemu", "a QEMU binary, or a release that was fetched: qemu:10.0"),
}  # fmt: skip
"""Scheme -> module of this package with `receiver(rest, options, uri)`, and what it is."""
SENDERS = {
    "builtin": ("builtin_sender", "the reference, or with ?broken=ID one that is wrong in one way"),
    "qemu-src": ("qemu_sender", "a QEMU binary, or a release that was fetched: qemu-src:10.0"),
    "listen": ("listen", "we are the destination: listen:tcp:HOST:PORT?trigger=CMD"),
    "pcap": ("pcap", "a capture of a migration: pcap:FILE"),
}  # fmt: skip
"""Scheme -> module of this package with `sender(rest, options, uri)`, and what it is."""

_OPTIONS = re.compile(r"\?((?:[\w-]+=[^&\s?]*)(?:&[\w-]+=[^&\s?]*)*)$")


def parse_receiver(uri: str) -> ReceiverPeer:
    """Return the receiver that a URI names; nothing is started.

    Raises:
        PeerError: there is no such scheme, or its rest or options are malformed.
    """
    module, rest, options = split_uri(uri, RECEIVERS)
    peer: ReceiverPeer = module.receiver(rest, options, uri)
    return peer


def parse_sender(uri: str) -> SenderPeer:
    """Return the sender that a URI names; nothing is started.

    Raises:
        PeerError: there is no such scheme, or its rest or options are malformed.
    """
    module, rest, options = split_uri(uri, SENDERS)
    peer: SenderPeer = module.sender(rest, options, uri)
    return peer


def split_uri(uri: str, table: dict[str, tuple[str, str]]) -> tuple[Any, str, dict[str, str]]:
    """Return the module of the scheme, the rest, and the options."""
    match = _OPTIONS.search(uri)
    head = uri[: match.start()] if match else uri
    scheme, colon, rest = head.partition(":")
    if not colon or scheme not in table:
        known = ", ".join(f"{name}:" for name in table)
        raise PeerError(f"peer {uri!r}: scheme is {scheme!r}, must be one of {known}")
    pairs = (pair.partition("=") for pair in match[1].split("&")) if match else ()
    options = {key: value for key, _, value in pairs}
    return import_module(f".{table[scheme][0]}", __package__), rest, options


def check_options(uri: str, options: dict[str, str], *known: str) -> None:
    """Refuse options that a scheme does not have.

    Raises:
        PeerError: naming the first of them.
    """
    for name in options:
        if name not in known:
            must = f"one of {', '.join(known)}" if known else "absent"
            raise PeerError(f"peer {uri!r}: option is {name!r}, must be {must}")
