"""The index of one partition: its words, its vectors, and nothing of any other.

It is made from a store's `changes` and grows with them. It belongs to one task at a time: whoever shares it takes
turns.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.domain.memory import NOWHERE, Changes, Entry, Kind, Weights
from shipworthy.errors import EmbedderError
from shipworthy.rules.memory.coarse import Coarse, with_beside
from shipworthy.rules.memory.fusing import (
    FAR,
    KINDS,
    Candidates,
    Floats,
    Hit,
    Mask,
    Places,
    best,
    depth_of,
    fuse,
)
from shipworthy.rules.memory.postings import Postings, grown, norms_of
from shipworthy.rules.memory.vectors import TAG

CODES = {kind: code for code, kind in enumerate(KINDS)}

ROW = np.dtype([("at", "i8"), ("weight", "f8"), ("length", "f4"), ("kind", "u1"), ("alive", "?")], align=True)
"""`length`: words, repeated ones counted again."""

PER_ID = 150
"""Bytes that an id takes beside its characters: the string, its place in a list, in a dictionary, and its number."""
MANY = 8192
"""Rows from which on room is made in smaller steps."""
LEAST_DEAD = 64
"""So many dead rows are borne before the others move together."""
EXACT = 5
"""Decimals of a cosine that are looked at: the last bits depend on where in the matrix a vector stands."""

AROUND = (0.2, 0.1)
"""What an episode gains of the next one before and after it, and of those beyond them: an answer seldom repeats what it
answers."""
CLOSE = 30 * 60 * 1000
"""Milliseconds that may lie between what was said around each other."""
OFF = 0.5
"""How far off a coarse cosine may be, times the root of the dimensions: four deviations."""
OVERSAMPLED = 3
LEAST_ENOUGH = 16
"""Of a coarse index, so many times what is wanted is worth reading, and at least that of so many."""

Vector = NDArray[np.float32]
Beside = tuple[Places | None, list[tuple[int, Floats]]]


class PartitionIndex:
    """What a partition has, to be found by words and by nearness.

    *tag*: whose vectors count; None, or without *vectors*: words alone. *coarse*: vectors are kept at an eighth of
    their size, and whoever asks gives the exact cosines of what is `worth_reading`.
    """

    def __init__(self, tag: bytes | None, *, vectors: bool = True, coarse: bool = False) -> None:
        self.tag = tag
        self._tag = tag if vectors else None
        self._is_coarse = coarse
        self.mark = NOWHERE
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._characters = 0
        self._kinds: set[int] = set()
        self._table = np.empty(0, ROW)
        self._postings = Postings()
        self._documents, self._words = 0, 0.0
        self._dimensions = 0
        self._coarse: Coarse | None = None
        self._matrix: NDArray[Any] = np.empty((0, 0), np.float32)
        self._matrix_rows: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._vectors = 0
        self._beside: Beside | None = None
        self._norms: Floats | None = None
        self._measured: tuple[Vector, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        """How many things can be found."""
        return len(self._row_of)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, room for growth included."""
        arrays = self._table.nbytes + self._matrix.nbytes + self._matrix_rows.nbytes + self._postings.nbytes
        return arrays + PER_ID * len(self._ids) + self._characters

    # --- growing ------------------------------------------------------------------------------

    def take(self, changes: Changes) -> None:
        """Know what was written. A record that is known already is replaced; `reset` forgets everything first."""
        if changes.reset:
            self._clear()
        latest: dict[str, Entry] = {}
        for entry in changes.entries:
            latest.pop(entry.id, None)  # so that it stands where it was written last
            latest[entry.id] = entry
        self._forget(latest)
        self._add([entry for entry in latest.values() if entry.terms or entry.vector])
        self.mark = changes.mark
        self._beside = self._norms = self._measured = None
        if len(self._ids) - len(self._row_of) > max(LEAST_DEAD, len(self._row_of) // 4):
            self._compact()

    def _forget(self, ids: Collection[str]) -> None:
        """Rows die: they are masked, and count in no statistic."""
        gone = [row for name in ids if (row := self._row_of.pop(name, None)) is not None]
        if not gone:
            return
        self._table["alive"][gone] = False
        lengths = self._table["length"][gone]
        self._documents -= int(np.count_nonzero(lengths))
        self._words -= float(lengths.sum(dtype=np.float64))

    def _add(self, entries: list[Entry]) -> None:
        if not entries:
            return
        first, end = len(self._ids), len(self._ids) + len(entries)
        if end > len(self._table):
            self._table = grown(self._table, first, _room(end, len(self._table)))
        rows = self._table[first:end]
        rows["at"] = [entry.at for entry in entries]
        rows["weight"] = [entry.weight for entry in entries]
        rows["kind"] = codes = [CODES[entry.kind] for entry in entries]
        self._kinds.update(codes)
        rows["alive"] = True
        rows["length"] = lengths = self._postings.add([entry.terms for entry in entries], first)
        self._documents += int(np.count_nonzero(lengths))
        self._words += float(lengths.sum(dtype=np.float64))
        names = [entry.id for entry in entries]
        self._ids += names
        self._row_of.update(zip(names, range(first, end), strict=True))
        self._characters += sum(map(len, names))
        if self._tag is not None:
            self._add_vectors(first, [entry.vector for entry in entries])

    def _add_vectors(self, first: int, vectors: list[bytes]) -> None:
        """Those of our embedder, and as long as the first of them was."""
        ours = [row for row, vector in enumerate(vectors, first) if vector[:TAG] == self._tag]
        if ours and not self._dimensions:
            self._dimensions = len(vectors[ours[0] - first]) // 4 - 1
        size = TAG + 4 * self._dimensions
        ours = [row for row in ours if len(vectors[row - first]) == size > TAG]
        if not ours:
            return
        packed = np.frombuffer(b"".join([vectors[row - first] for row in ours]), "<f4").reshape(len(ours), -1)
        made: NDArray[Any] = packed[:, 1:]
        if self._is_coarse:
            self._coarse = self._coarse or Coarse(made)
            made = self._coarse.codes(made)
        used, end = self._vectors, self._vectors + len(ours)
        if end > len(self._matrix):
            room = _room(end, len(self._matrix))
            larger = np.empty((room, made.shape[1]), made.dtype)
            larger[:used] = self._matrix[:used] if used else 0
            self._matrix, self._matrix_rows = larger, grown(self._matrix_rows, used, room)
        self._matrix[used:end] = made
        self._matrix_rows[used:end] = ours
        self._vectors = end

    def _compact(self) -> None:
        """The living move together, in their order."""
        alive = self._table["alive"][: len(self._ids)]
        new = np.where(alive, np.cumsum(alive) - 1, -1)
        self._postings.renumber(new)
        self._ids = [name for name, lives in zip(self._ids, alive.tolist(), strict=True) if lives]
        self._row_of = {name: row for row, name in enumerate(self._ids)}
        self._characters = sum(map(len, self._ids))
        self._table = self._table[: len(alive)][alive]
        rows = new[self._matrix_rows[: self._vectors]]
        self._matrix = self._matrix[: self._vectors][rows >= 0]
        self._matrix_rows = rows[rows >= 0].astype(np.uint32)
        self._vectors = len(self._matrix_rows)

    # --- finding ------------------------------------------------------------------------------

    def search(
        self,
        query: NDArray[np.uint32],
        vector: Vector | None = None,
        *,
        limit: int = 5,
        weights: Weights,
        now: int,
        kinds: Collection[Kind] | None = None,
        after: int | None = None,
        before: int | None = None,
    ) -> list[Hit]:
        """The best *limit* hits of this partition alone, as `find` and `fusing.fuse` say."""
        offered = self.find(
            query, vector, limit=limit, weights=weights, kinds=kinds, after=after, before=before
        )
        return fuse([offered], limit, weights, now)

    def find(
        self,
        query: NDArray[np.uint32],
        vector: Vector | None = None,
        *,
        limit: int,
        weights: Weights,
        kinds: Collection[Kind] | None = None,
        after: int | None = None,
        before: int | None = None,
        nearest: Sequence[tuple[str, float]] = (),
    ) -> Candidates:
        """What can be among the best *limit* once it is fused with what other partitions of the same question offer.

        *query* from `terms.query_of`, *vector* from `vectors.unit`. Only what is of one of *kinds*, from *after* on and
        before *before*, is ranked at all. *nearest*: ids and cosines from a store that ranks vectors itself.

        Raises EmbedderError if *vector* has another length than those that are here.
        """
        allowed, count = self._allowed(kinds, after, before), len(self._ids)
        own = np.zeros((2, count))
        self._by_words(query if weights.words else query[:0], own[0])
        cosine = self._by_vector(vector if weights.vector else None, nearest, allowed)
        np.maximum(cosine, 0.0, out=own[1])
        if allowed is not None:
            own[0, ~allowed] = 0.0
        shares, close = own[0] > 0, cosine >= weights.min_similarity
        words, near = self._with_around(own)
        table, depth = self._table[:count], depth_of(limit)
        rows = np.arange(count) if count <= depth else (shares | close).nonzero()[0]
        if len(rows) > depth:
            rows = _either(best(words, shares, depth), best(near, close, depth), count)
        vectors, total = (
            (0, 0.0) if vector is None else _counted(cosine, whole=allowed is None and self._all_have)
        )
        if len(rows) < count:
            table, shares, close = table[rows], shares[rows], close[rows]
            words, near, cosine = words[rows], near[rows], cosine[rows]
        return Candidates(
            ids=self._ids,
            rows=rows,
            kinds=table["kind"],
            at=table["at"],
            weight=table["weight"],
            words=np.where(shares, words, 0.0),
            cosine=cosine,
            near=np.where(close, near, FAR),
            vectors=vectors,
            total=total,
        )

    def _allowed(self, kinds: Collection[Kind] | None, after: int | None, before: int | None) -> Mask | None:
        """Which rows may be ranked; None: all."""
        table = self._table[: len(self._ids)]
        masks: list[Mask] = []
        if self._any_dead:
            masks.append(table["alive"])
        if kinds is not None and not self._kinds <= {CODES[kind] for kind in kinds}:
            wanted = np.zeros(len(KINDS), np.bool_)
            wanted[[CODES[kind] for kind in kinds]] = True
            masks.append(wanted[table["kind"]])
        if after is not None:
            masks.append(table["at"] >= after)
        if before is not None:
            masks.append(table["at"] < before)
        return np.logical_and.reduce(masks) if masks else None

    @property
    def _any_dead(self) -> bool:
        return len(self._ids) > len(self._row_of)

    @property
    def _all_have(self) -> bool:
        """Whether every row has a vector: then the rows of the matrix are those of the table."""
        return self._vectors == len(self._ids)

    def _by_words(self, query: NDArray[np.uint32], scores: Floats) -> None:
        """Write how much of the question's words each row has."""
        table = self._table[: len(self._ids)]
        alive = table["alive"] if self._any_dead else None
        if self._norms is None:
            self._norms = norms_of(table["length"], self._documents, self._words)
        found = self._postings.scores(query, self._norms, alive, self._documents)
        if found is not None:
            scores[:] = found

    def _by_vector(
        self, vector: Vector | None, nearest: Sequence[tuple[str, float]], allowed: Mask | None
    ) -> Floats:
        """The cosine of each row, FAR where there is none."""
        if vector is not None and self._vectors:
            if len(vector) != self._dimensions:
                raise EmbedderError(
                    f"The question's vector has {len(vector)} dimensions, and those that are remembered have "
                    f"{self._dimensions}.",
                    fix="Use one embedder for both; after changing it, run `shipworthy memory reindex`.",
                )
            measured = self._cosines(vector).astype(np.float64)
            measured.round(EXACT, out=measured)
            cosine = measured
            if not self._all_have:
                cosine = np.full(len(self._ids), FAR)
                cosine[self._matrix_rows[: self._vectors]] = measured
        else:
            cosine = np.full(len(self._ids), FAR)
        for name, given in nearest:
            if (row := self._row_of.get(name)) is not None:
                cosine[row] = given
        if allowed is not None:
            cosine[~allowed] = FAR
        return cosine

    def _cosines(self, vector: Vector) -> NDArray[np.float32]:
        """Of each vector with *vector*; of a question that is asked twice, measured once."""
        matrix = self._matrix[: self._vectors]
        if self._coarse is None:
            return matrix @ vector
        if self._measured is None or self._measured[0] is not vector:
            self._measured = vector, self._coarse.cosines(matrix, vector)
        return self._measured[1]

    def worth_reading(
        self, query: NDArray[np.uint32], vector: Vector, *, limit: int, weights: Weights, **asked: Any
    ) -> list[str]:
        """Ids of what can be among the best *limit*, and of what was said around that: what to measure exactly where
        vectors are coarse. *asked* as `find` takes it."""
        least = max(weights.min_similarity - OFF / math.sqrt(len(vector)), -1.0)
        weights = msgspec.structs.replace(weights, min_similarity=least)
        enough = OVERSAMPLED * max(limit, LEAST_ENOUGH)
        offered = self.find(query, vector, limit=enough, weights=weights, **asked)
        rows = {self._row_of[hit.id] for hit in fuse([offered], enough, weights, 0)}
        rows.update(offered.rows[best(offered.near, offered.near > FAR, enough)].tolist())
        beside = None if self._beside is None else self._beside[0]
        return [self._ids[row] for row in with_beside(rows, beside, len(self._ids), len(AROUND))]

    def _with_around(self, scores: Floats) -> Floats:
        """Scores of episodes with something of those that were said shortly before and after."""
        if self._beside is None:
            self._beside = self._neighbours()
        rows, pulls = self._beside
        if not pulls:
            return scores
        own = scores if rows is None else scores[:, rows]
        sums = own.copy()
        for distance, pull in pulls:
            sums[:, distance:] += own[:, :-distance] * pull
            sums[:, :-distance] += own[:, distance:] * pull
        if rows is None:
            return sums
        scores = scores.copy()
        scores[:, rows] = sums
        return scores

    def _neighbours(self) -> Beside:
        """The episodes that live, in the order in which they were written (None: all rows), and for each distance what
        the one gains of the other."""
        table = self._table[: len(self._ids)]
        rows = np.flatnonzero(table["alive"] & (table["kind"] == CODES["episode"]))
        at = table["at"][rows]
        pulls: list[tuple[int, Floats]] = [
            (distance, np.where(np.abs(at[distance:] - at[:-distance]) < CLOSE, share, 0.0))
            for distance, share in enumerate(AROUND, 1)
        ]
        return None if len(rows) == len(table) else rows, [each for each in pulls if each[1].any()]


def _counted(cosine: Floats, *, whole: bool) -> tuple[int, float]:
    """How many vectors were looked at, and the sum of their cosines. *whole*: of each there is one."""
    if whole:
        return len(cosine), float(cosine.sum())
    seen = cosine > FAR
    return int(np.count_nonzero(seen)), float(cosine @ seen)


def _room(needed: int, had: int) -> int:
    """Rows to make room for: half as many again, or an eighth where they are many."""
    return max(needed, had * 3 // 2 if had < MANY else had * 9 // 8)


def _either(some: Places, others: Places, rows: int) -> Places:
    """The rows that are in one of the two, in their order."""
    marked = np.zeros(rows, np.bool_)
    marked[some] = marked[others] = True
    return np.flatnonzero(marked)
