"""Runs as one page for the browser, which holds all that it needs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from itertools import groupby
from typing import Any

from multifd_proto.wire.requirements import Level

from ..verdict import Verdict
from .run import ReportError, Row, Run
from .table import MISSING, SYMBOLS, WIRE_LINES, sections

_SHOWN = 512
"""Bytes of a message that the wire log shows; a row of a run may hold more."""
_QUIET = (Verdict.PASSED, Verdict.NOT_EXERCISED, Verdict.NOT_APPLICABLE)
"""Verdicts of rows whose line says it all."""
_SHORT = 200
"""Characters of an observation that are shown before it is opened."""


def report(runs: Sequence[Run]) -> str:
    """Return the page. It asks for nothing over the network, and says so to the browser.

    Raises:
        ReportError: Jinja2 is not installed.
    """
    script = _template("report.js")
    return str(
        _environment()
        .from_string(_template("report.html.j2"))
        .render(
            sections=sections(runs),
            runs=runs,
            style=_template("report.css"),
            script=script,
            # the only script that the browser will run, whatever a peer has sent
            script_hash="sha256-" + b64encode(sha256(script.encode()).digest()).decode(),
            symbols=SYMBOLS,
            missing=MISSING,
            short=_SHORT,
            wire_lines=WIRE_LINES,
            levels=[level.value for level in Level],
        )
    )


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _environment() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ReportError(
            "an HTML report needs Jinja2: pip install 'multifd-proto[conformance]'"
        ) from None
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"slug": slug, "dump": dump, "marked": marked, "more": has_more}
    return environment


def slug(verdict: Verdict) -> str:
    """Return the name of a verdict's class in the style sheet."""
    return verdict.name.lower().replace("_", "-")


def has_more(row: Row) -> bool:
    """Tell whether there is more to a row than its line."""
    return row.verdict not in _QUIET or len(row.observed) > _SHORT


def marked(text: str) -> list[tuple[bool, str]]:
    """Cut a requirement's text into pieces, and tell which stand between backticks."""
    return [(bool(n % 2), piece) for n, piece in enumerate(text.split("`")) if piece]


def dump(data: bytes, size: int) -> str:
    """Return bytes as the specification shows them: 16 a line, repeated lines as `*`."""
    lines = list(_dump(data[:_SHOWN]))
    if size > min(len(data), _SHOWN):
        lines.append(f"... {size} bytes in all")
    return "\n".join(lines)


def _dump(data: bytes) -> Iterator[str]:
    rows = [(at, data[at : at + 16]) for at in range(0, len(data), 16)]
    for _, same in groupby(rows, lambda row: row[1]):
        (at, piece), *rest = same
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        yield f"{at:05x}  {piece[:8].hex(' '):<23}  {piece[8:].hex(' '):<23}  |{text}|"
        if rest:
            yield "*"
