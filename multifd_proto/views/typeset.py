"""Lines of text made of columns, all of them at once: a table with a character in each cell.

A cell that is 0 is left out, so that lines of different lengths fit into one table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.uint8]
_FIELD = re.compile(r"%(%|[sd]|0\d+d|#0\d+x)")
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Words:
    """A column of texts, of which there are few."""

    said: Sequence[str]
    which: NDArray[np.int64]
    """The number of each line's text."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """Return the words of any texts."""
        numbers: dict[str, int] = {}
        which = [numbers.setdefault(text, len(numbers)) for text in texts]
        return cls(list(numbers), np.array(which, np.int64))

    @classmethod
    def for_numbers(cls, numbers: NDArray[np.int64], say: Callable[[int], str]) -> Words:
        """Return what is said of each of numbers of which there are few."""
        known, which = np.unique(numbers, return_inverse=True)
        return cls([say(number) for number in known.tolist()], which)

    def __getitem__(self, part: slice | NDArray[np.intp]) -> Words:
        """Return those of some lines."""
        return Words(self.said, self.which[part])


Column = Words | NDArray[Any]


class Lines:
    """Lines of text, one after the other."""

    def __init__(self, cells: Cells) -> None:
        there = cells != 0
        self._text = cells[there].tobytes()
        self._ends = np.append(0, np.cumsum(np.count_nonzero(there, axis=1)))

    def part(self, start: int, stop: int) -> str:
        """Return the lines from one to before another."""
        text: bytes = self._text[self._ends[start] : self._ends[stop]]
        return text.decode()


def typeset(template: str, columns: Iterable[Column], count: int) -> Cells:
    """Return lines.

    Args:
        template: has `%s` for words, `%d`, `%06d` and `%#011x` for integers that are not negative,
            and `%%`.
        columns: what comes in the place of each.
        count: lines.
    """
    parts = list(_parts(template, iter(columns)))
    cells = np.empty((count, sum(part.shape[-1] for part in parts)), np.uint8)
    place = 0
    for part in parts:
        cells[:, place : place + part.shape[-1]] = part
        place += part.shape[-1]
    return cells


def stacked(parts: Sequence[tuple[NDArray[np.intp] | slice, Cells]], count: int) -> Cells:
    """Return lines of different templates as one table.

    Args:
        parts: which lines they are, and what they say.
        count: lines.
    """
    if len(parts) == 1:
        return parts[0][1]
    cells = np.zeros((count, max(part.shape[1] for _, part in parts)), np.uint8)
    for which, part in parts:
        cells[which, : part.shape[1]] = part
    return cells


def _parts(template: str, columns: Iterator[Column]) -> Iterator[Cells]:
    said = ""
    for index, word in enumerate(_FIELD.split(template)):
        if not index % 2 or word == "%":
            said += word
        else:
            column = next(columns)
            alike = _alike(column)
            if alike is not None:
                said += f"%{word}" % alike
                continue
            yield _row(said)
            said = ""
            yield _words(column) if isinstance(column, Words) else _numbers(column, word)
    yield _row(said)


def _alike(column: Column) -> str | int | None:
    """Return what all lines have in common."""
    values = column.which if isinstance(column, Words) else column
    if (values != values[0]).any():
        return None
    return column.said[int(values[0])] if isinstance(column, Words) else int(values[0])


def _row(text: str) -> Cells:
    return np.frombuffer(text.encode(), np.uint8)


def _words(words: Words) -> Cells:
    rows = [_row(said) for said in words.said]
    table = np.zeros((len(rows), max(map(len, rows))), np.uint8)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table[words.which]


def _numbers(values: NDArray[Any], form: str) -> Cells:
    base, prefix = (16, "0x") if form.endswith("x") else (10, "")
    least = max(1, int(form.strip("#xds") or 0) - len(prefix))
    width = max(least, len(np.base_repr(int(values.max()), base)))
    above = values[:, None] // np.array([base**place for place in range(width)][::-1], values.dtype)
    digits: Cells = _DIGITS[above % base]
    digits[:, : width - least][above[:, : width - least] == 0] = 0
    if not prefix:
        return digits
    return np.hstack([np.broadcast_to(_row("0x"), (len(values), 2)), digits])
