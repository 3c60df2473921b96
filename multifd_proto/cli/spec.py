"""`multifd spec`: what the specification says."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from multifd_proto.cli.common import NOTHING_DONE
from multifd_proto.machine.check import RULES
from multifd_proto.wire.quirks import QUIRKS
from multifd_proto.wire.requirements import Requirement, load


@click.command()
@click.argument("word", metavar="[ID | WORD]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a requirement.")
def command(word: str | None, as_json: bool) -> None:
    """Print a requirement, or list those that have WORD in them; all of them without either.

    \b
    multifd spec INIT-5
    multifd spec ramblock
    multifd spec PAY
    """
    found = list(_matching(word or ""))
    if not found:
        click.echo(f"multifd: no requirement has {word!r} in it", err=True)
        raise SystemExit(NOTHING_DONE)
    for requirement in found:
        if as_json:
            click.echo(json.dumps(_data(requirement)))
        elif len(found) == 1:
            click.echo("\n".join(_whole(requirement)))
        else:
            said = textwrap.shorten(requirement.text, 200)
            head = f"{requirement.id:<8} {requirement.level.value:<6} {requirement.role.value:<8}"
            click.echo(
                textwrap.fill(said, 100, initial_indent=head + " ", subsequent_indent=" " * 25)
            )


def _matching(word: str) -> Iterator[Requirement]:
    catalogue = load()
    if word.upper() in catalogue:
        yield catalogue[word.upper()]
        return
    for requirement in catalogue.values():
        group = requirement.id.partition("-")[0]
        text = f"{requirement.slug} {requirement.text} {requirement.source}".lower()
        if word.upper() == group or word.lower() in text:
            yield requirement


def tested_by(requirement: Requirement) -> str:
    """Say where a requirement is tested."""
    if requirement.observable == "none":
        return f"nowhere: {requirement.observable_reason}"
    from multifd_proto.conformance.catalogue import asks

    found = asks(requirement.role).values()
    cases = sum(ask.requirement is requirement for ask in found)
    suite = f"multifd conformance {requirement.role.value} ({cases} cases)"
    if requirement.id in RULES:
        rules = RULES[requirement.id].judge.__module__.rpartition(".")[2]
        return f"multifd check ({rules} rules), {suite}"
    return suite


def _whole(requirement: Requirement) -> Iterator[str]:
    yield f"{requirement.id} {requirement.slug}"
    yield ""
    yield from textwrap.wrap(requirement.text, 96, initial_indent="  ", subsequent_indent="  ")
    yield ""
    yield f"  level       {requirement.level.value}"
    yield f"  binds       {requirement.role.value}, {requirement.dialect_text}"
    yield f"  observable  {requirement.observable}"
    yield f"  source      {requirement.source}"
    yield f"  tested by   {tested_by(requirement)}"
    yield f"  chapter     spec/{requirement.anchor}"
    for quirk in QUIRKS:
        if requirement.id in quirk.requirements:
            kind = "known defect" if quirk.defect else "known deviation"
            yield ""
            yield f"  {kind} {quirk.name} ({quirk.source}):"
            yield from textwrap.wrap(
                quirk.reason, 96, initial_indent="    ", subsequent_indent="    "
            )


def _data(requirement: Requirement) -> dict[str, Any]:
    return {
        "id": requirement.id,
        "slug": requirement.slug,
        "level": requirement.level.value,
        "role": requirement.role.value,
        "dialects": [d.name for d in sorted(requirement.dialects, key=lambda d: d.index)],
        "observable": requirement.observable,
        "source": requirement.source,
        "text": requirement.text,
        "chapter": f"spec/{requirement.anchor}",
        "tested_by": tested_by(requirement),
    }
