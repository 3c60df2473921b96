"""A script as a Python program that needs nothing but Python: what one attaches to a bug report."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from multifd_proto.conformance.observation import Exchange
from multifd_proto.conformance.script import Script
from multifd_proto.conformance.target import MACHINE, Description

from multifd_proto.wire.requirements import load

from .findings import Record

APART = 0.001
"""Seconds between two steps between which nothing is waited for."""
_UNIT, _REPEATS = 8, 3
"""Bytes that are looked for again, and how often they have to stand."""
_ZEROS = re.compile(rb"\0{8,}")
_LINE = 80
_BODY = """
import socket
import sys
import time

PEER = sys.argv[1], int(sys.argv[2])


def send(sock, data):
    try:
        sock.sendall(data) if data else sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        print("send:", error)


def outcome(sock):
    try:
        answer = sock.recv(4096)
    except OSError as error:
        return str(error)
    return f"answered {answer.hex()}" if answer else "closed by the receiver"


connections = {}
"""
_END = """
for name, sock in connections.items():
    print(f"{name}: {outcome(sock)}")
"""


def program(
    script: Script, peer: Description, exchanges: Sequence[Exchange], record: Record | None
) -> str:
    """Return the text of the program.

    Args:
        script: what is played.
        peer: the receiver that it is for.
        exchanges: what is sent to it.
        record: what it shows, if it is a finding.
    """
    title = "\n".join([*_title(record), *_usage(script, peer)])
    steps = "\n".join(_steps(exchanges))
    return f'#!/usr/bin/env python3\n"""{title}\n"""\n{_BODY}{steps}\n{_END}'


def _title(record: Record | None) -> Iterator[str]:
    if record is None:
        yield "A multifd session."
        return
    finding, facts = record.finding, record.facts
    yield f"{facts['product']}: {_plain(finding.signature)}"
    yield ""
    yield _plain(f"Version {facts['version'] or 'unknown'}. Seen: {finding.observed}.")
    if requirement := load().get(finding.requirement):
        yield _plain(f"{requirement.id}: {requirement.text}")


def _plain(text: str) -> str:
    """Return text in lines, which cannot end a docstring."""
    return textwrap.fill(text.replace("\\", "/").replace('"', "'"), _LINE)


def _usage(script: Script, peer: Description) -> Iterator[str]:
    (block, size), *_ = peer.blocks.items()
    name = block.decode("latin-1")
    if peer.product == "QEMU":
        # over QMP as in the campaign: the monitor for humans leaves other garbage in its memory
        yield "\nStart a destination, and give it these commands:\n"
        yield f"    qemu-system-x86_64 -machine none,memory-backend={name} -m {size >> 10}K -S"
        yield f"        -object memory-backend-ram,id={name},size={size} -accel tcg"
        yield f"        -uuid {UUID(bytes=MACHINE)} -nodefaults -display none"
        yield "        -qmp stdio -incoming defer\n"
        yield from (f"    {json.dumps(command)}" for command in _commands(script))
    else:
        yield f"\nStart a receiver for {script.channels} channels, payload method {script.method},"
        yield f"RAM block {name} of {size} bytes, UUID {UUID(bytes=MACHINE)}."
    yield "\nThen run this file: python3 FILE 127.0.0.1 4444"


def _commands(script: Script) -> Iterator[Mapping[str, object]]:
    """Yield the QMP commands that make a QEMU wait for the script."""
    multifd = {"capability": "multifd", "state": True}
    parameters = {"multifd-channels": script.channels, "multifd-compression": script.method}
    yield {"execute": "qmp_capabilities"}
    yield {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [multifd]}}
    yield {"execute": "migrate-set-parameters", "arguments": parameters}
    yield {"execute": "migrate-incoming", "arguments": {"uri": "tcp:127.0.0.1:4444"}}


def _steps(exchanges: Sequence[Exchange]) -> Iterator[str]:
    before = 0.0
    for exchange in exchanges:
        wire = f'connections["{exchange.wire}"]'
        if exchange.time - before > 2 * APART:
            yield f"time.sleep({exchange.time - before:.2f})"
        before = exchange.time
        match exchange.kind:
            case "open":
                yield f"{wire} = socket.create_connection(PEER, timeout=3)"
            case "sent" if exchange.data:
                yield f"# {exchange.what}"
                yield f"send({wire}, {literal(exchange.data)})"
            case "fin":
                yield f'send({wire}, b"")  # the end'
            case "broken":
                linger = 'b"\\1\\0\\0\\0" + bytes(4)'
                yield f"{wire}.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, {linger})"
                yield f'connections.pop("{exchange.wire}").close()'


def literal(data: bytes) -> str:
    """Return an expression for bytes, in which what repeats stands but once."""
    parts: list[str] = []
    plain = bytearray()
    at = 0
    while at < len(data):
        length, said = _repeated(data, at)
        if not said:
            plain += data[at : at + 1]
            at += 1
            continue
        parts += [*_hex(bytes(plain)), said]
        plain.clear()
        at += length
    parts += _hex(bytes(plain))
    line = " + ".join(parts)
    return line if len(line) < _LINE else "(\n    {}\n)".format("\n    + ".join(parts))


def _repeated(data: bytes, at: int) -> tuple[int, str]:
    """Return how many bytes from a place on are the same again and again, and how to say that."""
    if zeros := _ZEROS.match(data, at):
        return len(zeros[0]), f"bytes({len(zeros[0])})"
    unit, count = data[at : at + _UNIT], 1
    while len(unit) == _UNIT and data.startswith(unit, at + count * _UNIT):
        count += 1
    return count * _UNIT, f'bytes.fromhex("{unit.hex()}") * {count}' if count >= _REPEATS else ""


def _hex(data: bytes) -> list[str]:
    step = _LINE // 2 - 10
    return [f'bytes.fromhex("{data[i : i + step].hex()}")' for i in range(0, len(data), step)]
