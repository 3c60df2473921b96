"""Captures read in both ways, one frame at a time and in columns: both say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from multifd_proto.capture import streams
from multifd_proto.capture.columns import walk
from multifd_proto.capture.events import Data, Half, StreamEvent
from multifd_proto.capture.streams import CaptureReader, Limits
from multifd_proto.tests.captures import Seen, collect

_SMALL = {"_FIRST": 0, "_LEAST": 16, "_FEW": 2, "_PATIENCE": 1}
"""Tables so small that a short capture is several."""
_HOPS = {"_FEW": 0, "_LARGE": 0}
"""Every record is hopped over."""


class _Everything:
    packets = 0

    def takes(self, half: Half) -> bool:
        return True


def _in_columns(reader: CaptureReader) -> Iterator[StreamEvent]:
    for piece in reader.columns(_Everything()):
        if not isinstance(piece, list):
            yield piece
            continue
        for run in piece:
            for start, end, time in zip(
                run.start.tolist(), run.end.tolist(), run.time.tolist(), strict=True
            ):
                if start < end:
                    data = memoryview(bytes(run.read(start, end - start)))
                    yield Data(time, run.half, start, data)


def said(seen: list[Seen], reader: CaptureReader) -> dict[str, Any]:
    """Return all that a way through captures says, comparable."""
    info = reader.info
    return {
        "data": [one.data for one in seen],
        "gaps": [one.gaps for one in seen],
        "ends": [one.end and (one.end.time, one.end.offset, one.end.reset) for one in seen],
        "halves": [{f.name: getattr(one.half, f.name) for f in fields(Half)} for one in seen],
        "info": {f.name: getattr(info, f.name) for f in fields(info) if f.name != "secrets"},
    }


def both(*paths: Path, limits: Limits | None = None) -> tuple[list[Seen], CaptureReader]:
    """Read captures in all ways; return what all of them say."""
    reader = CaptureReader(paths, limits=limits or Limits())
    seen = collect(reader)
    demanded = said(seen, reader)
    for hops in (False, True):
        columns = CaptureReader(paths, limits=limits or Limits())
        way = _HOPS if hops else {"_LARGE": 1 << 40}
        with pytest.MonkeyPatch.context() as patch:
            for module, values in ((streams, _SMALL), (walk, way)):
                for name, value in values.items():
                    patch.setattr(module, name, value)
            found = said(collect(_in_columns(columns)), columns)
        for part, value in demanded.items():
            assert found[part] == value, part
    return seen, reader
