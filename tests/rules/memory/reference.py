"""The index as plain Python: dictionaries, loops, nothing kept between questions."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from shipworthy.domain.memory import Changes, Entry, Mark, Weights
from shipworthy.rules.memory.terms import query_of, terms_of
from shipworthy.rules.memory.vectors import packed, tag_of

OURS = tag_of("ours")
NOW = 1_000 * 86_400_000


class Document(NamedTuple):
    id: str
    kind: str
    at: int
    weight: float
    terms: dict[Any, Any]
    vector: tuple[float, ...]


def entry(
    name: str,
    n: int,
    text: str = "",
    vector: Sequence[float] | None = None,
    *,
    kind: str = "episode",
    at: int = 0,
    weight: float = 0.0,
    by: str = "ours",
) -> Entry:
    made = packed(vector, by) if vector is not None else b""
    return Entry(name, n, kind, at, weight, terms_of(text), made)  # type: ignore[arg-type]


def changes(*entries: Entry, reset: bool = False, epoch: int = 1, more: bool = False) -> Changes:
    return Changes(list(entries), Mark(epoch, entries[-1].n if entries else 0), reset, more)


def document(entry: Entry) -> Document:
    terms = dict(struct.iter_unpack("<IH", entry.terms))
    floats = entry.vector[4:] if entry.vector[:4] == OURS else b""
    vector = struct.unpack(f"<{len(floats) // 4}f", floats)
    return Document(entry.id, entry.kind, entry.at, entry.weight, terms, vector)


class Plain:
    """What an index has to answer."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def take(self, changes: Changes) -> None:
        if changes.reset:
            self.entries = {}
        for each in changes.entries:
            self.entries.pop(each.id, None)
            if each.terms or each.vector:
                self.entries[each.id] = each

    def search(
        self,
        query: str,
        vector: Sequence[float] | None,
        limit: int,
        weights: Weights,
        kinds: Collection[str] | None = None,
        after: int | None = None,
        before: int | None = None,
    ) -> list[tuple[str, float]]:
        everything = [document(each) for each in self.entries.values()]
        allowed = {
            each.id
            for each in everything
            if (kinds is None or each.kind in kinds)
            and (after is None or each.at >= after)
            and (before is None or each.at < before)
        }
        own = _bm25(everything, {int(term) for term in query_of(query)} if weights.words else set())
        own = {name: score if name in allowed else 0.0 for name, score in own.items()}
        cosines = _cosines(everything, vector if weights.vector else None)
        cosines = {name: cosine for name, cosine in cosines.items() if name in allowed}
        close = {name for name, cosine in cosines.items() if cosine >= weights.min_similarity}
        words = _around(everything, own)
        near = _around(everything, {each.id: max(cosines.get(each.id, 0.0), 0.0) for each in everything})
        usual = (sum(cosines.values()) + 30 * weights.min_similarity) / (len(cosines) + 30)
        floor = max(weights.min_similarity, usual)
        top = max([near[name] - floor for name in close], default=0.0)
        scores: dict[str, float] = {}
        for each in everything:
            if not own[each.id] > 0 and each.id not in close:
                continue
            score = weights.words * words[each.id] if own[each.id] > 0 else 0.0
            if each.id in close:
                score += weights.vector * (max(near[each.id] - floor, 0) / top if top > 0 else 1.0)
            age = max(NOW - each.at, 0) / 86_400_000
            score += weights.recency * 2 ** (-age / weights.half_life_days) + weights.importance * each.weight
            scores[each.id] = score
        at = {each.id: each.at for each in everything}
        return sorted(scores.items(), key=lambda pair: (-round(pair[1], 9), -at[pair[0]], pair[0]))[:limit]


def _bm25(documents: Sequence[Document], query: set[int]) -> dict[str, float]:
    """Robertson and Zaragoza (2009), over the sum of what the query's terms are worth."""
    with_words = [each for each in documents if each.terms]
    having = Counter(term for each in with_words for term in each.terms)
    rarity = {
        term: math.log(1 + (len(with_words) - having[term] + 0.5) / (having[term] + 0.5)) for term in query
    }
    lengths = {each.id: sum(each.terms.values()) for each in documents}
    average = sum(lengths.values()) / len(with_words) if with_words else 1.0
    scores = {}
    for each in documents:
        norm = 1.2 * (1 - 0.75 + 0.75 * lengths[each.id] / average)
        scores[each.id] = sum(
            rarity[term] * count * 2.2 / (count + norm) for term, count in each.terms.items() if term in query
        ) / (sum(rarity.values()) or 1.0)
    return scores


def _cosines(documents: Sequence[Document], vector: Sequence[float] | None) -> dict[str, float]:
    if vector is None:
        return {}
    length = math.sqrt(sum(x * x for x in vector))
    return {
        each.id: round(sum(x * y / length for x, y in zip(each.vector, vector, strict=True)), 5)
        for each in documents
        if each.vector
    }


def _around(documents: Sequence[Document], scores: dict[str, float]) -> dict[str, float]:
    """A fifth of each neighbour among the episodes, and a tenth of those beyond, within half an hour."""
    episodes = [each for each in documents if each.kind == "episode"]
    sums = dict(scores)
    for i, each in enumerate(episodes):
        for distance, share in ((1, 0.2), (2, 0.1)):
            for j in (i - distance, i + distance):
                if 0 <= j < len(episodes) and abs(episodes[j].at - each.at) < 30 * 60 * 1000:
                    sums[each.id] += share * scores[episodes[j].id]
    return sums
