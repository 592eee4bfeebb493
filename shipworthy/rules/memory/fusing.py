"""One order out of several reasons: words that are shared, nearness, newness, importance.

What is added up are scores that were brought to one scale, and not reciprocal ranks, which forget that the first was
far better than the second, or that all were poor. See Bruch, Gai and Ingber, "An analysis of fusion functions for
hybrid retrieval" (ACM TOIS 42, 2023). `bench/recall.py` has both, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]


class Candidates(NamedTuple):
    """What one partition offers: the best by words and the best by vectors, ties at the ends included."""

    ids: list[str]
    """Of all that the partition has; `rows` says whose the columns below are."""
    rows: Places
    kinds: NDArray[np.uint8]
    at: NDArray[np.int64]
    weight: Floats
    words: Floats
    """How much of the question's words it has; 0: it was not found by words."""
    cosine: Floats
    """FAR: it was not found by its vector."""
    near: Floats
    """The cosine, and something of what was said around it."""
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
    owners = np.repeat(np.arange(len(offered)), [len(part.rows) for part in offered])
    if limit < 1 or not len(owners):
        return []
    _, rows, kinds, at, weight, words, cosine, near, *_ = (
        offered[0] if len(offered) == 1 else _joined(offered)
    )
    score = weights.words * words + weights.vector * _nearness(offered, cosine, near, weights.min_similarity)
    if weights.recency:
        age = np.maximum(now - at, 0) / (DAY * weights.half_life_days)
        score += weights.recency * np.exp2(-age)
    if weights.importance:
        score += weights.importance * weight

    def name(which: int) -> str:
        return offered[int(owners[which])].ids[int(rows[which])]

    chosen = _first(score, at, name, limit)
    by_words, by_vector = _ranks(words, words > 0, chosen), _ranks(near, cosine > FAR, chosen)
    hits = []
    for which, shared, nearby in zip(chosen, by_words, by_vector, strict=True):
        why = Why(words=shared, vector=nearby, nearness=float(cosine[which]) if nearby else None)
        hits.append(Hit(name(which), KINDS[kinds[which]], float(score[which]), why, int(owners[which])))
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


def _nearness(offered: Sequence[Candidates], cosine: Floats, near: Floats, least: float) -> Floats:
    """From 0, as near as anything is on average, to 1 for the nearest."""
    found = cosine > FAR
    vectors = sum([part.vectors for part in offered])
    usual = (sum([part.total for part in offered]) + PRIOR * least) / (vectors + PRIOR)
    above = np.where(found, np.maximum(near - max(least, usual), 0.0), 0.0)
    highest = above.max()
    return above / highest if highest > 0 else found.astype(np.float64)


def _joined(offered: Sequence[Candidates]) -> Candidates:
    """The columns of all partitions, one below the other."""
    columns: list[Any] = [np.concatenate([part[column] for part in offered]) for column in range(1, 8)]
    return Candidates([], *columns)


def _ranks(scores: Floats, eligible: Mask, chosen: Sequence[int]) -> list[int | None]:
    """From 1, ties sharing one; None for what is not eligible."""
    values = scores[eligible]
    values.sort()
    higher = len(values) - values.searchsorted(scores[chosen], "right")
    found = eligible[chosen]
    return [
        rank + 1 if is_found else None for rank, is_found in zip(higher.tolist(), found.tolist(), strict=True)
    ]


def _first(score: Floats, at: NDArray[np.int64], name: Callable[[int], str], limit: int) -> list[int]:
    """The first *limit*. Ids are looked at only where score and time leave it open."""
    order = np.lexsort((-at, -score))
    scores, times = score[order], at[order]
    tied = (scores[1:] == scores[:-1]) & (times[1:] == times[:-1])
    first: list[int] = order[:limit].tolist()
    if not tied[:limit].any():
        return first
    end = len(first)
    while end < len(order) and tied[end - 1]:
        end += 1
    first = order[:end].tolist()
    return sorted(first, key=lambda which: (-float(score[which]), -int(at[which]), name(which)))[:limit]
