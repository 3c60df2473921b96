"""Records migrations of real QEMU releases, with the truth about them, into `spec/captures`.

    python -m multifd_proto.peers.record --into spec/captures

Needs the releases (`python -m multifd_proto.peers.debian`), tcpdump and the right to capture, and
for those over TLS Wireshark's editcap.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import zstandard

from multifd_proto.errors import PeerError
from multifd_proto.peers.credentials import issue
from multifd_proto.peers.lab import configure, guestless, qemu_of
from multifd_proto.peers.qemu import Qemu
from multifd_proto.peers.recipes import RECIPES, Recipe
from multifd_proto.peers.tcpdump import capturing
from multifd_proto.peers.traces import quirks, sent_packets, thread_totals

UUID = "3a1f7c52-0d4e-4b86-9c35-7e21d8f6a904"
BLOCK = "pc.ram"
RAM = 16 << 20
PAGE = 4096

_FIRST = 256  # the first page with content, at 1 MiB: below it the machine has its own
_HOT = 40  # pages that are rewritten all the time, faster than they can be sent
_TURNING = 8  # pages that turn from content to zeros, and as many that do the reverse
_CREDENTIALS, _SECRETS = "credentials", "secrets"
_FAST = {"max-bandwidth": 10 << 30, "downtime-limit": 2000}
_ATTEMPTS = 25
_DEADLINE = 30.0
_WORDS = [
    start + end
    for start in ("ba", "co", "fi", "ha", "mi", "te")
    for end in ("ck", "ll", "nd", "ne", "rm", "st")
]


class TooSoonError(PeerError):
    """The migration was over before its memory had changed enough: on a busy machine, try again."""


def record(recipe: Recipe, into: Path) -> Mapping[str, Any]:
    """Record one capture into `into`, and return what its `.json` says.

    Nothing is written unless the migration completed at both ends, tcpdump lost nothing, and the
    memory of source and destination is equal.

    Raises:
        PeerError: a QEMU or tcpdump is missing or fails, or the capture never shows what it must.
    """
    why = ""
    for _ in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="multifd-record-") as folder:
            scratch = Path(folder)
            try:
                facts = _migrate(recipe, scratch)
            except TooSoonError as error:
                why = str(error)
                continue
            missing = recipe.shows.difference(facts["shows"])
            if not missing:
                if recipe.tls:
                    _inject_secrets(scratch)
                _write(recipe, facts, scratch, into)
                return facts
            why = f"{', '.join(sorted(missing))} not shown"
    raise PeerError(f"{recipe.name}: none of {_ATTEMPTS} recordings came out: {why}")


def _migrate(recipe: Recipe, scratch: Path) -> Mapping[str, Any]:
    """Run a migration under tcpdump, leaving memory, traces and capture in `scratch`."""
    (scratch / "bios").write_bytes(b"".join(_text(page, 0) for page in range(16)))
    (scratch / "source.ram").write_bytes(_initial_memory(recipe))
    (scratch / "destination.ram").write_bytes(bytes(RAM))
    if recipe.tls:
        issue(scratch / _CREDENTIALS)
    with (
        _qemu(recipe, recipe.destination, "destination", scratch) as destination,
        _qemu(recipe, recipe.source, "source", scratch) as source,
    ):
        for end in (source, destination):
            configure(
                end,
                channels=recipe.channels,
                compression=recipe.compression,
                zero_page_detection=recipe.zero_page_detection,
                tls=bool(recipe.tls),
            )
        host = f"[{recipe.host}]" if ":" in recipe.host else recipe.host
        uri = destination.listen_uri(f"tcp:{host}:0")
        port = int(uri.rpartition(":")[2])
        with capturing(port, scratch / "pcap"):
            _run_slowly(source, recipe, uri)
            sent, received = (_demand_completed(end) for end in (source, destination))
            _wait_for_threads(recipe.channels, source, destination)
        packets = sent_packets(source.trace)
        return asdict(recipe) | {
            "source_version": source.version(),
            "destination_version": destination.version(),
            "uuid": UUID,
            "port": port,
            "page_size": PAGE,
            "sync_points": sum(packet.is_sync for packet in packets[0]),
            "shows": quirks(packets),
            "status": sent["status"],
            "dst_status": received["status"],
            "ram": sent["ram"],
            "ramblocks": {BLOCK: {"file": f"{recipe.name}.ram.zst", **_equal_memory(scratch)}},
        }


def _qemu(recipe: Recipe, version: str, name: str, scratch: Path) -> Qemu:
    return guestless(
        qemu_of(version),
        scratch / f"{name}.ram",
        size=RAM,
        directory=scratch,
        name=name,
        incoming=name == "destination",
        machine=recipe.machine,
        qtest=True,
        uuid=UUID,
        ram=BLOCK,
        tls_creds=scratch / _CREDENTIALS if recipe.tls else None,
        tls_priority=recipe.tls,
        tls_keylog=scratch / _SECRETS if recipe.tls else None,
        arguments=("-bios", str(scratch / "bios")),
    )


def _initial_memory(recipe: Recipe) -> bytes:
    memory = bytearray(RAM)
    for page in _content(recipe.pages):
        memory[page * PAGE : (page + 1) * PAGE] = _text(page, 0)
    return bytes(memory)


def _content(pages: int) -> list[int]:
    """Return which pages have content at the beginning: three, then one of zeros, and so on."""
    return [_FIRST + index + index // 3 for index in range(pages)]


def _text(page: int, step: int) -> bytes:
    """Return a page of text that no other page and no other step has."""
    words = " ".join(random.Random(f"{page} {step}").choices(_WORDS, k=60))
    line = f"page {page:4} step {step:4} {words}\n"
    return (line * (PAGE // len(line) + 1)).encode()[:PAGE]


def _run_slowly(source: Qemu, recipe: Recipe, uri: str) -> None:
    """Migrate while the memory changes; raise the bandwidth when that went on for long enough."""
    source.set_parameters({"max-bandwidth": recipe.bandwidth, "downtime-limit": 1})
    source.migrate(uri)
    pages, choice = _content(recipe.pages), random.Random(recipe.name)
    turning = pages[-_TURNING:]
    deadline = time.monotonic() + _DEADLINE
    for step in itertools.count(1):
        rounds = _rounds(source)
        if rounds >= recipe.rounds:
            break
        if time.monotonic() > deadline:
            raise PeerError(f"{rounds} rounds in {_DEADLINE:g} s, must be {recipe.rounds}")
        for page in choice.sample(pages[:_HOT], _HOT // 5):
            source.write(page * PAGE, _text(page, step))
        if rounds > 1:  # every page has been sent once
            for page in turning:
                source.memset(page * PAGE, PAGE, 0)
                source.write((page + RAM // PAGE // 2) * PAGE, _text(page, step))
            turning = []
    source.set_parameters(_FAST)


def _rounds(source: Qemu) -> int:
    answer = source.execute("query-migrate")
    if answer.get("status") not in {"setup", "active"}:
        raise TooSoonError(f"{source.name}: migration is {answer.get('status')!r} too early")
    return int(answer.get("ram", {}).get("dirty-sync-count", 0))


def _demand_completed(end: Qemu) -> dict[str, Any]:
    answer = end.wait_migrated()
    if answer["status"] != "completed":
        why = answer.get("error-desc", "no reason is given")
        raise PeerError(f"{end.name}: migration is {answer['status']!r}: {why}")
    return answer


def _wait_for_threads(channels: int, *ends: Qemu) -> None:
    """Wait until every channel's thread has ended: then the traces are complete."""
    deadline = time.monotonic() + _DEADLINE
    while any(len(thread_totals(end.trace)) < channels for end in ends):
        if time.monotonic() > deadline:
            raise PeerError(f"channel threads have not ended within {_DEADLINE:g} s")
        time.sleep(0.01)


def _equal_memory(scratch: Path) -> Mapping[str, object]:
    """Describe the memory, which has to be the same at both ends."""
    digests = [
        hashlib.sha256((scratch / f"{name}.ram").read_bytes()).hexdigest()
        for name in ("source", "destination")
    ]
    if digests[0] != digests[1]:
        raise PeerError(f"memory differs: sha256 is {digests[0]} at the source, then {digests[1]}")
    return {"length": RAM, "sha256": digests[0]}


def _inject_secrets(scratch: Path) -> None:
    """Make a pcapng of the capture, with the secrets before the packets."""
    # both ends have written them
    lines = sorted(set((scratch / _SECRETS).read_text().splitlines()))
    (scratch / _SECRETS).write_text("".join(f"{line}\n" for line in lines))
    command = ["editcap", "--inject-secrets", f"tls,{scratch / _SECRETS}"]
    try:
        subprocess.run(
            [*command, scratch / "pcap", scratch / "pcapng"], check=True, capture_output=True
        )
    except FileNotFoundError:
        raise PeerError("editcap is not installed, but is needed to add TLS secrets") from None
    except subprocess.CalledProcessError as error:
        raise PeerError(f"editcap has failed: {error.stderr.decode().strip()}") from None


def _write(recipe: Recipe, facts: Mapping[str, Any], scratch: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    name = recipe.name
    for kind, file in ((recipe.format, recipe.format), ("ram", "source.ram")):
        data = zstandard.ZstdCompressor(level=19).compress((scratch / file).read_bytes())
        (into / f"{name}.{kind}.zst").write_bytes(data)
    for kind, file in (("src", "source.trace"), ("dst", "destination.trace")):
        (into / f"{name}.{kind}.trace").write_bytes((scratch / file).read_bytes())
    (into / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--into", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
def main(names: Sequence[str], into: Path) -> None:
    """Record the captures of that NAME, or all of them, anew."""
    recipes = {recipe.name: recipe for recipe in RECIPES}
    try:
        for name in names or recipes:
            if name not in recipes:
                raise PeerError(f"no capture {name!r} is known, only {', '.join(recipes)}")
            facts = record(recipes[name], into)
            click.echo(f"{name}: {facts['sync_points']} sync points, {', '.join(facts['shows'])}")
    except (PeerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
