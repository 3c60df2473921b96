"""The page: everything that it needs is in it, and it says so to the browser."""

from __future__ import annotations

import json
from base64 import b64encode
from codecs import iterdecode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from multifd_proto import __version__
from multifd_proto.errors import MultiFDError
from multifd_proto.machine.verdict import Result, Verdict
from multifd_proto.views.messages import clock
from multifd_proto.views.page import heat, text
from multifd_proto.views.page.drawing import MAX_PASSES, Figure
from multifd_proto.views.page.facts import Facts, bits, grouped, plural, seconds
from multifd_proto.views.page.figures import figures
from multifd_proto.views.page.findings import findings
from multifd_proto.views.page.in_sum import compared_passes
from multifd_proto.views.page.over_time import compared
from multifd_proto.views.report import verdict_line
from multifd_proto.views.summary import size
from multifd_proto.wire.dialect import describe
from multifd_proto.wire.requirements import Requirement, load

MAX_MIGRATIONS = 8
"""Migrations that are shown in full; the others are rows of the first table."""
_PIECE = 1 << 16
_NEEDS = "report needs plotly and jinja2: pip install 'multifd-proto[report]'"


def demand_libraries() -> None:
    """Find the libraries that a page is made with, without the time it takes to import them.

    Raises:
        MultiFDError: one is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError:
        raise MultiFDError(_NEEDS) from None


def page(migrations: Sequence[Facts]) -> Iterator[str]:
    """Yield the page of some migrations, compared first where they are several, in pieces.

    Raises:
        MultiFDError: a library is not installed.
    """
    demand_libraries()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"size": size, "seconds": seconds, "clock": clock, "marked": marked}
    environment.filters |= {"describe": lambda dialects: describe(frozenset(dialects))}
    environment.globals |= {"bits": bits, "plural": plural, "grouped": grouped, "text": text}
    shown = migrations[:MAX_MIGRATIONS]
    parts = [Part(n, facts) for n, facts in enumerate(shown)]
    drawn = {f"m{part.number}-{name}": f for part in parts for name, f in part.drawn.items()}
    if len(shown) > 1:
        drawn["compared"] = compared(shown)
        drawn["passes"] = compared_passes(shown)
    # what plotly.offline.get_plotlyjs returns, without the import of half of plotly
    plotly = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    scripts = [Script(plotly), Script(_template("report.js").encode())]
    yield from environment.from_string(_template("report.html.j2")).generate(
        parts=parts,
        migrations=migrations,
        verdict_line=verdict_line,
        requirements=_cited(parts),
        kinds=heat.KINDS,
        max_passes=MAX_PASSES,
        figures=_json(drawn),
        style=_template("report.css"),
        scripts=scripts,
        version=__version__,
    )


class Script:
    """A script, in pieces: as one text, Plotly takes twice the memory that its file does."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.hash = b64encode(sha256(data).digest()).decode()
        """Lets the browser run it, and nothing else, whatever a capture holds."""

    def pieces(self) -> Iterator[str]:
        """Yield its text."""
        starts = range(0, len(self._data), _PIECE)
        return iterdecode((self._data[start : start + _PIECE] for start in starts), "utf-8")


class Part:
    """What the page shows of one migration."""

    def __init__(self, number: int, facts: Facts) -> None:
        self.number = number
        self.facts = facts
        self.findings = findings(facts)
        self.steps = list(dict.fromkeys(step for f in self.findings for step in f.steps))
        self.failed: list[Result] = facts.report.of(Verdict.FAILED)
        self.known: list[Result] = facts.report.of(Verdict.DEVIATION)
        self.blocks = heat.blocks(facts)
        maps = {f"memory-{n}": b.figure for n, b in enumerate(self.blocks) if b.figure}
        self.drawn: dict[str, Figure] = {**figures(facts), **maps}

    @property
    def headline(self) -> str:
        """How it ended, in a few words."""
        return text.headline(self.facts, self.findings)

    @property
    def weight(self) -> str:
        """The weight of its gravest finding: `bad`, `odd` or `good`."""
        weights = {f.weight for f in self.findings}
        return next((w for w in ("bad", "odd") if w in weights), "good")


def _cited(parts: Sequence[Part]) -> list[Requirement]:
    """Return the requirements that the page refers to, in the catalogue's order."""
    cited = {r.requirement.id for part in parts for r in part.failed + part.known}
    return [requirement for requirement in load().values() if requirement.id in cited]


def marked(text: str) -> list[tuple[bool, str]]:
    """Cut a requirement's text into pieces, and tell which stand between backticks."""
    return [(bool(n % 2), piece) for n, piece in enumerate(text.split("`")) if piece]


def _json(data: Any) -> str:
    """Return data for a script element, which nothing inside can end."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
