"""One order out of several reasons: words that are shared, nearness, newness, importance.

What is added up are scores that were brought to one scale, and not reciprocal ranks, which forget that the first was
far better than the second, or that all were poor. See Bruch, Gai and Ingber, "An analysis of fusion functions for
hybrid retrieval" (ACM TOIS 42, 2023). `bench/recall.py` has both, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.domain.memory import Kind, Weights, Why

DEPTH = 100
"""How many things each partition offers at least, by each of the two ways to find them."""
PRIOR = 30
"""Vectors that the least cosine that is near enough counts for, in the mean that a cosine is measured from: how near
unrelated things are is a matter of the embedder, and a few vectors do not show it."""
DAY = 86_400_000

KINDS: tuple[Kind, ...] = get_args(Kind)
FAR = -2.0
"""Less than any cosine: of what was not found by its vector."""
NOT_FOUND = float("-inf")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]


class Candidates(NamedTuple):
    """What one partition offers: the best by words and the best by vectors, ties at the ends included. Of a small
    partition all rows are there, what was found neither way too."""

    ids: list[str]
    """Of all that the partition has; `rows` says whose the columns below are."""
    rows: Places
    kinds: NDArray[np.uint8]
    at: NDArray[np.int64]
    weight: Floats
    words: Floats
    """How much of the question's words it has; 0: it was not found by words."""
    cosine: Floats
    near: Floats
    """The cosine, and something of what was said around it. FAR: it was not found by its vector."""
    vectors: int = 0
    """That were looked at, and the sum of their cosines."""
    total: float = 0.0


class Hit(msgspec.Struct, frozen=True, gc=False):
    """Something that was found. `place`: in which of the partitions that were asked."""

    id: str
    kind: Kind
    score: float
    why: Why
    place: int = 0


def depth_of(limit: int) -> int:
    """How many candidates each list needs where *limit* hits are wanted."""
    return max(DEPTH, 4 * limit)


def fuse(offered: Sequence[Candidates], limit: int, weights: Weights, now: int) -> list[Hit]:
    """The best *limit* of what the partitions of one question offer: by score, then the newer, then by id.

    What shares no word with the question and is not near enough is not among them. *now* is what age is counted from.
    """
    if limit < 1 or not any([len(part.rows) for part in offered]):
        return []
    _, rows, kinds, at, weight, words, cosine, near, *_ = (
        offered[0] if len(offered) == 1 else _joined(offered)
    )
    score = weights.vector * _nearness(offered, near, weights.min_similarity)
    score += weights.words * words
    if weights.recency:
        age = np.maximum(now - at, 0) / (DAY * weights.half_life_days)
        score += weights.recency * np.exp2(-age)
    if weights.importance:
        score += weights.importance * weight
    score[(words <= 0) & (near <= FAR)] = NOT_FOUND
    owners = None if len(offered) == 1 else np.repeat(np.arange(len(offered)), [len(p.rows) for p in offered])

    def place(which: int) -> int:
        return 0 if owners is None else int(owners[which])

    def name(which: int) -> str:
        return offered[place(which)].ids[int(rows[which])]

    chosen = _first(score, at, name, limit)
    by_words, by_vector = _ranks(words, chosen, 0.0), _ranks(near, chosen, FAR)
    hits = []
    for which, shared, nearby in zip(chosen, by_words, by_vector, strict=True):
        why = Why(words=shared, vector=nearby, nearness=float(cosine[which]) if nearby else None)
        hits.append(Hit(name(which), KINDS[kinds[which]], float(score[which]), why, place(which)))
    return hits


def best(scores: Floats, eligible: Mask, depth: int) -> Places:
    """Where the *depth* highest of the eligible are, with all that tie with the last."""
    places = eligible.nonzero()[0]
    if len(places) <= depth:
        return places
    values = scores[places]
    last = np.partition(values, len(values) - depth)[len(values) - depth]
    kept: Places = places[values >= last]
    return kept


def _nearness(offered: Sequence[Candidates], near: Floats, least: float) -> Floats:
    """From 0, as near as anything is on average, to 1 for the nearest."""
    vectors = sum([part.vectors for part in offered])
    usual = (sum([part.total for part in offered]) + PRIOR * least) / (vectors + PRIOR)
    above = near - max(least, usual)
    highest = float(above.max())
    if highest <= 0:
        return (near > FAR).astype(np.float64)
    np.maximum(above, 0.0, out=above)
    above /= highest
    return above


def _joined(offered: Sequence[Candidates]) -> Candidates:
    """The columns of all partitions, one below the other."""
    columns: list[Any] = [np.concatenate([part[column] for part in offered]) for column in range(1, 8)]
    return Candidates([], *columns)


def _ranks(values: Floats, chosen: Sequence[int], least: float) -> list[int | None]:
    """From 1, ties sharing one; None for what has no more than the *least*."""
    own, order = values[chosen], values.copy()
    order.sort()
    lower = order.searchsorted(own, "right").tolist()
    return [
        len(values) + 1 - below if value > least else None
        for below, value in zip(lower, own.tolist(), strict=True)
    ]


def _first(score: Floats, at: NDArray[np.int64], name: Callable[[int], str], limit: int) -> list[int]:
    """The first *limit* of those that were found. Time and ids are looked at only where the score leaves it open."""
    order = (-score).argsort()
    scores = score[order[: limit + 1]].tolist()
    while scores and scores[-1] == NOT_FOUND:
        scores.pop()
    if len(set(scores)) == len(scores):
        first: list[int] = order[: min(limit, len(scores))].tolist()
        return first
    there: list[int] = np.flatnonzero(score >= scores[min(limit, len(scores)) - 1]).tolist()
    keys = zip((-score[there]).tolist(), (-at[there]).tolist(), there, strict=True)
    return _by_name(sorted(keys), name)[:limit]


def _by_name(keys: list[tuple[float, int, int]], name: Callable[[int], str]) -> list[int]:
    """Rows in the order of *keys*, score and time; those that share both by their ids."""
    chosen: list[int] = []
    for _, tied in groupby(keys, lambda key: key[:2]):
        rows = [row for _, _, row in tied]
        chosen += sorted(rows, key=name) if len(rows) > 1 else rows
    return chosen
