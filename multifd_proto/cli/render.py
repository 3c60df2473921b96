"""`multifd render`: the specification's tables, written by the code; and its sources, looked up."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from multifd_proto.errors import CatalogueError
from multifd_proto.views.render import render_all
from multifd_proto.views.sources import Presence, Row, Tree, compare
from multifd_proto.views.tables import table

STALE = 1
"""Exit status of `--check`: a chapter is not what the code says; of `--sources`: one is missing."""
_COUNTED = {p: "not there yet or any more" if p is Presence.NOT_DUE else p.value for p in Presence}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing: name the stale chapters, exit 1.")
@click.option(
    "--sources",
    "trees",
    metavar="TREE",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Write nothing: look for what each requirement was read in, in a QEMU source tree. Give"
    " it again for another release to see both side by side.",
)
@click.option("--json", "as_json", is_flag=True, help="With --sources: all of it, as JSON.")
def command(check: bool, trees: tuple[Path, ...], as_json: bool) -> None:
    """Write the tables, diagrams and the worked example of the specification anew.

    They stand in its chapters between `<!-- render: NAME -->` and `<!-- end render -->`, and say
    what the code says. Names the chapters that changed.

    With --sources it prints the functions, files and messages of QEMU that a requirement names and
    that a tree does not have, or that trees have in different places. The exit status is 1 if the
    newest tree lacks one that it has to have.
    """
    if as_json and not trees:
        raise click.UsageError("--json needs --sources")
    if trees and check:
        raise click.UsageError("--check and --sources exclude each other")
    if trees:
        _look_up(trees, as_json)
    else:
        _render(check)


def _render(check: bool) -> None:
    with as_file(files("multifd_proto.spec")) as spec_dir:
        chapters = render_all(spec_dir)
        stale = [
            path
            for path, text in chapters.items()
            if not path.exists() or path.read_text("utf-8") != text
        ]
        for path in stale:
            if not check:
                path.write_text(chapters[path], "utf-8")
            click.echo(f"{path.name}: {'stale' if check else 'written'}")
    if check and stale:
        raise SystemExit(STALE)


def _look_up(paths: tuple[Path, ...], as_json: bool) -> None:
    try:
        trees = [Tree(path) for path in paths]
        rows = compare(trees)
    except CatalogueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps(_data(trees, rows), indent=2))
    else:
        _print(trees, rows)
    newest = max(range(len(trees)), key=lambda number: trees[number].numbers)
    if any(row.findings[newest].presence is Presence.MISSING for row in rows):
        raise SystemExit(STALE)


def _print(trees: list[Tree], rows: list[Row]) -> None:
    drifted = [row for row in rows if row.drifted]
    if drifted:
        heads = ("requirement", "source", *(tree.version for tree in trees))
        cells = ((row.requirement.id, row.called, *row.findings) for row in drifted)
        click.echo(f"{table(heads, cells)}\n")
    for number, tree in enumerate(trees):
        count = Counter(row.findings[number].presence for row in rows)
        said = ", ".join(f"{count[p]} {_COUNTED[p]}" for p in Presence if count[p])
        click.echo(f"QEMU {tree.version} ({tree.path}): {said}")


def _data(trees: list[Tree], rows: list[Row]) -> dict[str, Any]:
    return {
        "trees": [{"path": str(tree.path), "version": tree.version} for tree in trees],
        "sources": [
            {
                "requirement": row.requirement.id,
                "kind": row.source.kind.value,
                "source": row.source.name,
                "drifted": row.drifted,
                "found": [
                    {"presence": f.presence.name.lower(), "file": f.file or None}
                    for f in row.findings
                ],
            }
            for row in rows
        ],
    }
