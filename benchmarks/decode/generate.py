"""Write a capture of a migration that never was, and the truth about it beside it.

python -m benchmarks.decode.generate big.pcap --size 20G --sparse
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from multifd_proto.tests.bigcaptures import Recipe, generate
from multifd_proto.tests.bigframes import LINKS

from .sizes import SizeType

_TYPES: dict[str, Any] = {
    "size": SizeType(),
    "isn": click.INT,
    "link": click.Choice(list(LINKS)),
    "version": click.Choice([4, 6]),
    "order": click.Choice(["<", ">"]),
}


def _options(command: Any) -> Any:
    """Make an option of each line of a recipe."""
    for field in reversed(dataclasses.fields(Recipe)):
        default: Any = field.default
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            is_flag=isinstance(default, bool),
            multiple=isinstance(default, tuple),
            type=_TYPES.get(field.name, click.INT if default == () else type(default)),
            default=default,
            show_default=default not in (None, False, ()),
        )(command)
    return command


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@_options
def main(path: Path, **options: Any) -> None:
    """Write a capture to FILE, and what is in it to FILE.truth.json.

    --size, --segment and --snap are bytes, --loss, --reorder and --retransmit rates of segments;
    --resolutions makes a pcapng, with an interface each.
    """
    truth = generate(path, Recipe(**options))
    click.echo(f"{truth.bytes} bytes, {truth.records} records, {truth.total('packets')} packets")


if __name__ == "__main__":
    main()
