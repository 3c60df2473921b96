"""`multifd render`: the specification's tables, written by the code."""

from __future__ import annotations

from importlib.resources import as_file, files

import click

from multifd_proto.views.render import render_all

STALE = 1
"""Exit status of `--check`: a chapter is not what the code says."""


@click.command()
@click.option("--check", is_flag=True, help="Write nothing: name the stale chapters, exit 1.")
def command(check: bool) -> None:
    """Write the tables, diagrams and the worked example of the specification anew.

    They stand in its chapters between `<!-- render: NAME -->` and `<!-- end render -->`, and say
    what the code says. Names the chapters that changed.
    """
    with as_file(files("multifd_proto.spec")) as spec_dir:
        chapters = render_all(spec_dir)
        stale = [path for path, text in chapters.items() if path.read_text("utf-8") != text]
        for path in stale:
            if not check:
                path.write_text(chapters[path], "utf-8")
            click.echo(f"{path.name}: {'stale' if check else 'written'}")
    if check and stale:
        raise SystemExit(STALE)
