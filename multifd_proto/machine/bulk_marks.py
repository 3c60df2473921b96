"""Pages of many packets as bits: what columns of offsets come to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import Integers
from multifd_proto.machine.sets import CHUNK_BITS, WORD_BITS

Mask = NDArray[np.bool_]
Words = NDArray[np.uint64]

_SPARSE = 4
"""Pages of a word, on average, below which it takes less memory to sort than to mark them."""


@dataclass(frozen=True, eq=False)
class PageMarks:
    """Pages of one block, as bits of words of 64 pages."""

    numbers: Integers
    """The pages' numbers, in any order."""

    @property
    def words(self) -> tuple[Integers, Words]:
        """The first page of each word that has any, in ascending order, and the word's bits."""
        return self._found[:2]

    @property
    def distinct(self) -> bool:
        """No page is there twice."""
        return self._found[2]

    @property
    def chunks(self) -> int:
        """Chunks that the pages are in."""
        return len(_changes(self.words[0] >> CHUNK_BITS))

    @cached_property
    def _found(self) -> tuple[Integers, Words, bool]:
        words = self.numbers >> WORD_BITS
        begins = _changes(words)  # the next page is mostly of the same word
        if len(begins) * _SPARSE > len(words):
            return _sorted(self.numbers)
        return _marked(self.numbers, words[begins], np.diff(begins, append=len(words)))


def _marked(
    numbers: Integers, words: Integers, counts: NDArray[np.intp]
) -> tuple[Integers, Words, bool]:
    """Mark pages one by one, given the words of them and how many follow one another in each."""
    distinct, place = np.unique(words, return_inverse=True)
    bits = np.repeat((place - words) << WORD_BITS, counts)
    bits += numbers
    marks = np.zeros(len(distinct) << WORD_BITS, np.bool_)
    marks[bits] = True
    packed = np.packbits(marks, bitorder="little").view("<u8")
    return distinct << WORD_BITS, packed, int(np.count_nonzero(marks)) == len(numbers)


def _sorted(numbers: Integers) -> tuple[Integers, Words, bool]:
    """Do the same, whatever the words."""
    numbers = np.sort(numbers, kind="stable")  # each packet, or channel, is mostly in order
    words = numbers >> WORD_BITS
    begins = _changes(words)
    bits = np.uint64(1) << (numbers - (words << WORD_BITS)).view(np.uint64)
    distinct = bool((numbers[1:] != numbers[:-1]).all())
    return words[begins] << WORD_BITS, np.bitwise_or.reduceat(bits, begins), distinct


def _changes(values: Integers) -> NDArray[np.intp]:
    """Return the places of values that are not as the one before."""
    changes = np.append(True, values[1:] != values[:-1])
    return np.flatnonzero(changes[: len(values)])
