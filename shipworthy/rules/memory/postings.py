"""Which rows have which terms: arrays in the order of the terms, and a tail of what is new.

Okapi BM25 as Robertson and Zaragoza (2009) give it, with the inverse document frequency that is never below 0. Its
statistics are those of the rows that are here, and so of one partition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.rules.memory.terms import PACKED

K1 = 1.2
B = 0.75
LEAST_TAIL = 1 << 8
MOST_TAIL = 1 << 16
"""Postings that wait in the tail at most; between the two, a quarter of those that are in order."""
SOON = 1 << 10
"""Postings in the tail from which on a question waits until they are in order: the next ones are looked through sooner.
"""
_NUMBERS = np.arange(256)

Terms = NDArray[np.uint32]
Rows = NDArray[np.uint32]
Counts = NDArray[np.uint16]
Found = tuple[NDArray[np.intp], Rows, Counts]
"""Of each posting found: which term of the question, its row, and how often."""


class Postings:
    """Terms of rows. Rows are numbered by whoever has them; those that died are named in each question."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._terms: Terms = np.empty(0, np.uint32)
        self._rows: Rows = np.empty(0, np.uint32)
        self._counts: Counts = np.empty(0, np.uint16)
        self._tail_terms, self._tail_rows, self._tail_counts = self._terms, self._rows, self._counts
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._terms) + self._waiting

    @property
    def nbytes(self) -> int:
        main = self._terms.nbytes + self._rows.nbytes + self._counts.nbytes
        return main + self._tail_terms.nbytes + self._tail_rows.nbytes + self._tail_counts.nbytes

    def add(self, packed: list[bytes], first_row: int) -> NDArray[np.float32]:
        """Take the terms of rows from *first_row* on; how many words each has."""
        new = np.frombuffer(b"".join(packed), dtype=PACKED)
        sizes = np.fromiter(map(len, packed), np.intp, len(packed)) // PACKED.itemsize
        rows = np.repeat(np.arange(first_row, first_row + len(packed), dtype=np.uint32), sizes)
        counts = new["count"].astype(np.uint16)
        self._append(new["term"].astype(np.uint32), rows, counts)
        return np.bincount(rows - first_row, counts, len(packed)).astype(np.float32)

    def _append(self, terms: Terms, rows: Rows, counts: Counts) -> None:
        end = self._waiting + len(terms)
        if end > len(self._tail_terms):
            room = max(end, min(2 * end, MOST_TAIL))
            self._tail_terms = grown(self._tail_terms, self._waiting, room)
            self._tail_rows = grown(self._tail_rows, self._waiting, room)
            self._tail_counts = grown(self._tail_counts, self._waiting, room)
        place = slice(self._waiting, end)
        self._tail_terms[place], self._tail_rows[place], self._tail_counts[place] = terms, rows, counts
        self._waiting = end
        if end > min(max(LEAST_TAIL, len(self._terms) // 4), MOST_TAIL):
            self._merge()

    def _merge(self) -> None:
        """Put the tail in its place: what is in order already is moved once and not sorted."""
        order = np.argsort(self._tail_terms[: self._waiting], kind="stable")
        terms = self._tail_terms[order]
        rows, counts = self._tail_rows[order], self._tail_counts[order]
        if len(self._terms):
            places = np.searchsorted(self._terms, terms, "right")
            terms = np.insert(self._terms, places, terms)
            rows, counts = np.insert(self._rows, places, rows), np.insert(self._counts, places, counts)
        self._clear()
        self._terms, self._rows, self._counts = terms, rows, counts

    def renumber(self, new: NDArray[np.int64]) -> None:
        """Give each row the number that stands at its place in *new*; below 0: forget it."""
        self._merge()
        rows = new[self._rows]
        kept = rows >= 0
        self._terms, self._rows = self._terms[kept], rows[kept].astype(np.uint32)
        self._counts = self._counts[kept]

    def scores(
        self, query: Terms, norms: NDArray[np.float64], alive: NDArray[np.bool_] | None, documents: int
    ) -> NDArray[np.float64] | None:
        """BM25 of each row, as a part of what a row of usual length with each term of *query* once would have; None if
        no row has any. *query*: distinct terms, ascending.

        *norms* of all rows, as `norms_of` gives them; *alive* unless all are; *documents* that have words and are
        alive.
        """
        if not len(query) or not documents:
            return None
        if self._waiting > SOON:
            self._merge()
        term, rows, counts = self._found(query)
        if alive is not None:
            kept = alive[rows]
            term, rows, counts = term[kept], rows[kept], counts[kept]
        if not len(rows):
            return None
        having = np.bincount(term, minlength=len(query))
        rarity = np.log1p((documents - having + 0.5) / (having + 0.5))
        rarity *= (K1 + 1) / rarity.sum()
        value = rarity[term]
        value *= counts
        value /= norms[rows] + counts
        return np.bincount(rows, value, len(norms)).astype(np.float64, copy=False)

    def _found(self, query: Terms) -> Found:
        begins, ends = self._terms.searchsorted(query), self._terms.searchsorted(query, "right")
        slices = [slice(a, b) for a, b in zip(begins.tolist(), ends.tolist(), strict=True) if a < b]
        numbers = _NUMBERS[: len(query)] if len(query) <= len(_NUMBERS) else np.arange(len(query))
        term = [numbers.repeat(ends - begins)]
        rows = [self._rows[part] for part in slices]
        counts = [self._counts[part] for part in slices]
        if self._waiting:
            tail = self._tail_terms[: self._waiting]
            place = np.minimum(query.searchsorted(tail), len(query) - 1)
            here = (query[place] == tail).nonzero()[0]
            term.append(place[here])
            rows.append(self._tail_rows[here])
            counts.append(self._tail_counts[here])
        if not rows:
            return term[0], self._rows[:0], self._counts[:0]
        return np.concatenate(term), np.concatenate(rows), np.concatenate(counts)


def norms_of(lengths: NDArray[np.float32], documents: int, words: float) -> NDArray[np.float64]:
    """What a row's counts are measured with, from *lengths* of rows in words; of the living, *documents* have words,
    and so many *words* in all."""
    usual = documents / words if words else 1.0
    return K1 * (1 - B) + (K1 * B * usual) * lengths.astype(np.float64)


def grown(array: NDArray[Any], used: int, room: int) -> NDArray[Any]:
    """A copy with *room* places."""
    larger = np.empty((room, *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger
