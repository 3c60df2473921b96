"""Coverage-guided fuzzing of our own parsers, with Atheris (libFuzzer for Python).

    pip install 'multifd-proto[fuzz]'
    python -m multifd_proto.fuzz.atheris_targets channel [CORPUS]... [-max_total_time=600]...

The parsers are `channel`, `main`, `capture` and `payload`; the options are libFuzzer's. What is run
and what is a finding are those of `multifd fuzz decoder`. An input is the bytes of one connection
(of a capture file, of payloads) and, at its end, two bytes that choose the options; so what
`fuzz.export --as libfuzzer` writes is a good seed as it stands. A finding ends the run, and is
printed as JSON, which the target reads as it reads its own.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

USAGE = "usage: python -m multifd_proto.fuzz.atheris_targets {names} [CORPUS]... [-OPTION=N]..."
_MISSING = "atheris is missing: pip install 'multifd-proto[fuzz]' (x86-64 Linux, Python up to 3.13)"
_PACKAGE = "multifd_proto"
_TAIL = 2


class Found(Exception):
    """An input with a finding: libFuzzer keeps what raises."""


def options(name: str, choice: int, more: int) -> dict[str, Any]:
    """Return the options of an input, as two bytes choose them."""
    from multifd_proto.wire.dialect import DIALECTS
    from multifd_proto.wire.payload import METHODS

    dialects = [dialect.name for dialect in DIALECTS]
    sizes = (4096, None, 1024, 65536)
    match name:
        case "channel":
            return {
                "dialect": [*dialects, None][choice % (len(dialects) + 1)],
                "page_size": sizes[more % 4],
                "decode": bool(more & 4),
                "started": more & 24 != 24,
            }
        case "main":
            return {"started": more & 24 != 24}
        case "payload":
            method = METHODS[choice % len(METHODS)].name
            first = (more % 16, 1 + 64 * (more // 16))
            return {"method": method, "page_size": 1024, "packets": (first, (4, 1 << 16))}
    return {}


def harness(name: str) -> Callable[[bytes], None]:
    """Return what runs one input. Raises `Found` if something is wrong with it."""
    from .decoder_subjects import Bytes
    from .decoders import DecoderTarget

    target = DecoderTarget(name)

    def run(data: bytes) -> None:
        choice, more = data[-_TAIL:].rjust(_TAIL, b"\0")
        body = data if name == "capture" else data[:-_TAIL]
        value = Bytes(name, body, (), options(name, choice, more))
        finding = target.run(value).finding
        if finding:
            text = json.dumps(target.to_json(value))
            raise Found(f"{finding.signature}: {finding.observed}\n{text}")

    return run


NAMES: dict[str, Sequence[str]] = {
    "channel": ("machine.channel", "machine.loss", "machine.resync", "machine.payload"),
    "main": ("wire.main_stream", "wire.main_records", "wire.main_search", "wire.ram_reader"),
    "capture": ("capture", "machine", "wire.main_stream"),
    "payload": ("wire.decoders", "wire.decoders_zlib", "wire.decoders_zstd"),
}
"""The parsers, and the modules that their coverage is taken of."""


def main(arguments: list[str]) -> None:
    """Fuzz a parser until something is found, or libFuzzer's options end it."""
    name = arguments[1] if len(arguments) > 1 else ""
    if name not in NAMES:
        sys.exit(USAGE.format(names="|".join(NAMES)))
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit(_MISSING)
    include = [f"{_PACKAGE}.{module}" for module in NAMES[name]]
    with atheris.instrument_imports(include=include):
        for module in include:
            importlib.import_module(module)
        run = harness(name)
    atheris.Setup([arguments[0], *arguments[2:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
