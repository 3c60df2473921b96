"""What `multifd mapped-ram` prints, as text and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multifd_proto.machine.mapped_ram import violated
from multifd_proto.machine.verdict import Result, Verdict
from multifd_proto.peers.mapped_ram import BlockInfo, MappedRamFile
from multifd_proto.views.rows import text
from multifd_proto.views.summary import size
from multifd_proto.wire.mapped_ram import MappedBlock

_SHOWN = 5
_LISTED: tuple[tuple[Verdict, dict[str, Any]], ...] = (
    (Verdict.PASSED, {"fg": "green"}),
    (Verdict.NOT_EXERCISED, {"dim": True}),
)


@dataclass
class Outcome:
    """A file, and what was done with it."""

    file: MappedRamFile
    extracted: dict[Path, MappedBlock] = field(default_factory=dict)
    compared: list[tuple[MappedBlock, Path, int | None]] = field(default_factory=list)
    """Block, image, place in bytes of the first page that differs."""

    @property
    def unequal(self) -> bool:
        """A block is not equal to its image."""
        return any(place is not None for _, _, place in self.compared)


def print_json(outcome: Outcome) -> None:
    """Print it as one JSON object."""
    file = outcome.file
    data = {
        "file": str(file.path),
        "size": file.size,
        "offset": file.offset,
        "mapped_ram": file.mapped,
        "machine": text(file.configuration.machine),
        "verdict": _verdict(file),
        "ramblocks": [_block(info) for info in file.blocks],
        "requirements": [_requirement(result) for result in file.results],
        "extracted": [
            {"ramblock": text(block.name), "file": str(path)}
            for path, block in outcome.extracted.items()
        ],
        "compared": [
            {
                "ramblock": text(block.name),
                "image": str(image),
                "equal": place is None,
                "first_difference": place,
            }
            for block, image, place in outcome.compared
        ],
    }
    click.echo(json.dumps(data))


def _verdict(file: MappedRamFile) -> str:
    if violated(file.results):
        return "failed"
    return "passed" if file.mapped else "not exercised"


def _block(info: BlockInfo) -> dict[str, Any]:
    block, header = info.block, info.block.header
    return {
        "ramblock": text(block.name),
        "used_length": block.used_length,
        "page_size": header.page_size,
        "bitmap_offset": header.bitmap_offset,
        "pages_offset": header.pages_offset,
        "in_file": block.in_file,
        "present_pages": info.present,
        "zero_pages": None if info.present is None else block.pages - info.present,
    }


def _requirement(result: Result) -> dict[str, Any]:
    return {
        "id": result.requirement.id,
        "level": result.requirement.level.value,
        "verdict": result.verdict.value,
        "reason": result.reason or None,
        "chapter": f"spec/{result.requirement.anchor}",
        "violations": [
            {"offset": v.offset, "what": v.fault.what, "seen": v.fault.seen,
             "demanded": v.fault.demanded}
            for v in result.violations
        ],
    }  # fmt: skip


def print_text(outcome: Outcome) -> None:
    """Print it for people."""
    file = outcome.file
    machine = f"machine {text(file.configuration.machine)!r}"
    if not file.mapped and not violated(file.results):
        click.echo(f"multifd: {file.path}: a stream of {machine} without mapped-ram", err=True)
        return
    click.secho(f"{file.path}: {machine}, {size(file.size)}, stream @{file.offset:#x}", bold=True)
    if file.blocks:
        Console(width=None if sys.stdout.isatty() else 140).print(_table(file))
    for path, block in outcome.extracted.items():
        click.echo(f"{path}: {_name(block)}, {size(block.used_length)}")
    for block, image, place in outcome.compared:
        _print_comparison(block, image, place)
    for line, style in _results(file.results):
        click.secho(line, **style)


def _table(file: MappedRamFile) -> Table:
    table = Table("RAM block", "used length", "page size", "bitmap at", "pages at")
    table.add_column("present", justify="right")
    table.add_column("zero", justify="right")
    for info in file.blocks:
        block, header = info.block, info.block.header
        numbers = ("not in the file", "") if not block.in_file else ("cannot be read", "")
        if info.present is not None:
            numbers = (str(info.present), str(block.pages - info.present))
        places = (block.used_length, header.bitmap_offset, header.pages_offset)
        length, bitmap, pages = map(hex, places)
        table.add_row(Text(_name(block)), length, str(header.page_size), bitmap, pages, *numbers)
    return table


def _name(block: MappedBlock) -> str:
    """Return a block's name as a terminal may see it."""
    return repr(text(block.name))[1:-1]


def _print_comparison(block: MappedBlock, image: Path, place: int | None) -> None:
    if place is None:
        click.secho(f"{_name(block)} equals {image}", fg="green")
        return
    page = place // block.header.page_size
    differs = f"{_name(block)} differs from {image}, first in page {page} @{place:#x}"
    click.secho(differs, fg="red", bold=True)


def _results(results: tuple[Result, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield lines on all verdicts, each with its style."""
    for result in results:
        requirement = result.requirement
        if result.verdict is Verdict.FAILED:
            title = f"{requirement.id} {requirement.slug} ({requirement.level.value}) failed:"
            yield title, {"fg": "red", "bold": True}
            for violation in result.violations[:_SHOWN]:
                yield f"  @{violation.offset:#x}: {violation.message}", {}
            if result.count > _SHOWN:
                yield f"  ... and {result.count - _SHOWN} more", {"dim": True}
    for verdict, style in _LISTED:
        ids = [r.requirement.id for r in results if r.verdict is verdict]
        if ids:
            yield f"{verdict.value}: {' '.join(ids)}", style
    if violated(results):
        yield "VIOLATED", {"fg": "red", "bold": True}
    else:
        yield "CONFORMING", {"fg": "green"}
