"""Runs as the suite writes them, with verdicts of all kinds and texts of hostile peers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from multifd_proto.conformance.verdict import Failure, Verdict
from multifd_proto.wire.requirements import Role, load

HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=1">',
    "\x1b[31mred\x1b[0m \x07 and \u202eback to front",
    "half a pair \ud800, ünïcödé 漢字 🙂",
    "```\n| a | b |\n</details>",
    "x" * 3000,
)
SHOWN = (Verdict.PASSED, Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED)
"""Verdicts of rows without a wire log."""
Line = dict[str, Any]


def peers(count: int) -> list[Line]:
    releases = (("5.2", "5.2.0"), ("7.2", "7.2.22"), ("10.0", "10.0.13"), ("11.1", "11.1.0"))
    return [
        {
            "uri": f"qemu:{dialect}",
            "product": "QEMU",
            "version": f"{version} (Debian 1:{version}+ds-1)",
            "dialect": dialect,
            "senses": ["memory", "process", "state", "reason"],
            "methods": ["none", "zlib", "zstd"],
        }
        for dialect, version in (releases * 2)[:count]
    ]


def lines(count: int = 4, cases: int = 200, role: Role = Role.RECEIVER) -> list[Line]:
    """Return header, rows and footer of a run with several peers."""
    chance = Random(1)
    catalogue = [r for r in load().values() if r.role is role and r.observable != "none"]
    ids = [
        f"{requirement.id}/way-{n}"
        for requirement in catalogue
        for n in range(1 + cases // len(catalogue))
    ][:cases]
    rows = [row(chance, peer, case, role) for peer in peers(count) for case in ids]
    counts = {
        peer["uri"]: Counter(r["verdict"] for r in rows if r["peer"] == peer["uri"])
        for peer in peers(count)
    }
    head = {
        "type": "run", "suite": "0.1.0", "set": "2026.1", "role": role.value,
        "started": "2026-11-23T15:00:00+00:00", "host": "lab", "peers": peers(count), "cases": ids,
    }  # fmt: skip
    end = {"type": "end", "seconds": 12.25, "counts": counts, "stale": [], "exit": 1}
    return [head, *rows, end]


def row(chance: Random, peer: Line, case: str, role: Role) -> Line:
    requirement = load()[case.partition("/")[0]]
    verdict = chance.choices(list(Verdict), (1, 4, 3, 4, 60, 8, 4, 2, 14))[0]
    told = verdict not in SHOWN
    failed = verdict in (Verdict.FAILED, Verdict.DEVIATION)
    known = {"reason": "the bound was > until 11.1", "link": "https://gitlab.com/qemu-project/qemu"}
    return {
        "type": "case",
        "peer": peer["uri"], "product": peer["product"], "version": peer["version"],
        "dialect": peer["dialect"], "role": role.value, "case": case,
        "requirement": requirement.id, "title": requirement.slug,
        "level": requirement.level.value, "text": requirement.text,
        "chapter": requirement.anchor,
        "says": "an id that equals the number of channels",
        "verdict": verdict.value,
        "failure": chance.choice(list(Failure)).value if failed else None,
        "expected": "is refused, and nothing of it is written to memory",
        "observed": "rejected: 1 ended after 3 ms, saying " + chance.choice(HOSTILE)
        if told else "rejected: 1 ended after 2 ms",
        "reason": [chance.choice(HOSTILE[:5])] if told else [],
        "aftermath": "clean",
        "deviation": known if verdict is Verdict.DEVIATION else None,
        "scored": chance.random() < 0.95,
        "seconds": chance.random(), "attempts": 1,
        "exchanges": exchanges(chance) if told else [],
        "log": "\n".join(f"qemu-system-x86_64: {text}" for text in HOSTILE[:5]) if told else "",
        "replay": f"multifd replay {case} {peer['uri']}",
        "pcap": None,
    }  # fmt: skip


def exchanges(chance: Random) -> list[Line]:
    init = bytes.fromhex("1122334400000001") + chance.randbytes(16) + bytes([2]) + bytes(39)
    packet = bytes.fromhex("1122334400000001") + bytes(248) + b"pc.ram" + bytes(250)
    sent = [
        ("main", "open", "", b""), ("main", "sent", "header, version 3", b"QEVM\0\0\0\3"),
        ("1", "open", "", b""), ("1", "sent", "init of channel 2 of 2", init),
        ("1", "sent", "packet 0 with one page", packet + chance.randbytes(4096)),
        ("main", "received", HOSTILE[1], b"\0\0\0\1"), ("1", "ended", "", b""),
    ]  # fmt: skip
    return [
        {
            "time": 0.0011 * n, "wire": wire, "kind": kind, "what": what,
            "hex": data[:1024].hex(), "size": len(data),
        }
        for n, (wire, kind, what, data) in enumerate(sent)
    ]  # fmt: skip


def write(path: Path, said: list[Line]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in said))
    return path
