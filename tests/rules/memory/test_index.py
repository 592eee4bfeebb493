"""The index of a partition answers as plain dictionaries do, whatever it took, and for that partition alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.domain.memory import NOWHERE, Changes, Entry, Mark, Weights
from shipworthy.errors import EmbedderError
from shipworthy.rules.memory import postings
from shipworthy.rules.memory.fusing import FAR, Hit
from shipworthy.rules.memory.index import PartitionIndex
from shipworthy.rules.memory.terms import query_of
from shipworthy.rules.memory.vectors import unit
from tests.rules.memory.reference import NOW, OURS, Plain, changes, entry

WORDS = ["tea", "green", "cup", "sheffield", "boiler", "price", "garden", "the"]
MINUTE = 60_000
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
VECTORS = st.none() | st.tuples(*[st.integers(-3, 3).map(float)] * 3).filter(any)
KIND = st.sampled_from(["episode", "episode", "fact", "block"])
WRITES = st.lists(
    st.tuples(
        st.integers(0, 12),  # id
        TEXTS,
        VECTORS,
        KIND,
        st.integers(0, 40).map(lambda at: at * 7 * MINUTE),
        st.sampled_from([0.0, 0.25, 1.0]),
        st.sampled_from(["ours", "ours", "ours", "theirs"]),
    ),
    max_size=24,
)
CUTS = st.lists(st.integers(0, 24), max_size=5)
RESETS = st.integers(-1, 24)
QUESTION = st.fixed_dictionaries(
    {
        "query": TEXTS,
        "vector": VECTORS,
        "limit": st.integers(0, 8),
        "kinds": st.none() | st.sets(KIND),
        "after": st.none() | st.integers(0, 280).map(lambda at: at * MINUTE),
        "before": st.none() | st.integers(0, 280).map(lambda at: at * MINUTE),
        "weights": st.builds(
            Weights,
            words=st.sampled_from([0.5, 1.0]),
            vector=st.sampled_from([0.0, 1.0]),
            recency=st.sampled_from([0.0, 0.3]),
            importance=st.sampled_from([0.0, 0.2]),
            min_similarity=st.sampled_from([-1.0, 0.25, 0.8]),
        ),
    }
)
Taken = list[Changes]
Shown = list[tuple[str, float]]


def batches(writes: list[Any], cuts: list[int], reset: int) -> Taken:
    """The writes as a store's changes, cut anywhere; at *reset* the partition begins anew."""
    entries = [
        entry(f"id-{name}", n, text, vector, kind=kind, at=at, weight=weight, by=by)
        for n, (name, text, vector, kind, at, weight, by) in enumerate(writes, 1)
    ]
    edges = sorted({0, len(entries), *[cut for cut in cuts if cut < len(entries)]})
    parts = [entries[a:b] for a, b in pairwise(edges)]
    return [changes(*part, reset=i == reset) for i, part in enumerate(parts)]


def searched(index: PartitionIndex, asked: dict[str, Any]) -> list[Hit]:
    vector = unit(asked["vector"]) if asked["vector"] is not None else None
    more = {name: asked[name] for name in ("limit", "weights", "kinds", "after", "before")}
    return index.search(query_of(asked["query"]), vector, now=NOW, **more)


def shown(hits: list[Hit]) -> Shown:
    return [(hit.id, hit.score) for hit in hits]


def agrees(made: type[PartitionIndex], taken: Taken, asked: dict[str, Any]) -> bool:
    index, plain = made(OURS), Plain()
    for part in taken:
        index.take(part)
        plain.take(part)
        if not _same(shown(searched(index, asked)), plain.search(**asked)):
            return False
    return True


def _same(ours: Shown, theirs: Shown) -> bool:
    if len(ours) != len(theirs) or not np.allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-5):
        return False
    # Of those that differ from the last by less than float32 can say, any may be the ones that are left out.
    last = theirs[-1][1] + 1e-4 if theirs else 0
    return {name for name, score in ours if score > last} == {name for name, score in theirs if score > last}


@settings(max_examples=120)
@given(writes=WRITES, cuts=CUTS, reset=RESETS, asked=QUESTION)
def test_it_answers_as_the_plain_reference_does(writes: Any, cuts: Any, reset: int, asked: Any) -> None:
    assert agrees(PartitionIndex, batches(writes, cuts, reset), asked)


@settings(max_examples=80)
@given(writes=WRITES, cuts=CUTS, reset=RESETS, asked=QUESTION)
def test_whatever_it_took_it_is_as_if_made_anew(writes: Any, cuts: Any, reset: int, asked: Any) -> None:
    taken = batches(writes, cuts, reset)
    grown, latest = PartitionIndex(OURS), dict[str, Entry]()
    for part in taken:
        grown.take(part)
        if part.reset:
            latest = {}
        for each in part.entries:
            latest.pop(each.id, None)
            latest[each.id] = each
    anew = PartitionIndex(OURS)
    anew.take(changes(*latest.values(), reset=True))
    assert searched(grown, asked) == searched(anew, asked)
    assert len(grown) == len(anew)
    assert grown.mark == (taken[-1].mark if taken else NOWHERE)


@pytest.mark.parametrize("least", [8, 100_000])
def test_many_writes_are_merged_and_moved_together_without_a_trace(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large enough that tails are merged and dead rows are dropped, many times over."""
    monkeypatch.setattr(postings, "LEAST_TAIL", least)
    monkeypatch.setattr(postings, "MOST_TAIL", max(least, 60))
    random = np.random.default_rng(7)
    index, plain = PartitionIndex(OURS), Plain()
    for n in range(1, 900, 3):
        part = []
        for each in range(3):
            text = " ".join(random.choice(WORDS, 5)) + f" w{random.integers(40)}"
            vector = random.integers(-3, 4, 3) + 0.5
            part.append(
                entry(
                    f"id-{random.integers(150)}",
                    n + each,
                    text,
                    vector,
                    at=int(random.integers(9_000)) * MINUTE,
                )
            )
        index.take(changes(*part))
        plain.take(changes(*part))
    assert len(index) == len(plain.entries)
    for text in ("tea w7", "boiler price w1 w2", "garden"):
        asked = {"query": text, "vector": (1.0, 2.0, -0.5), "limit": 20, "weights": Weights()}
        asked |= dict.fromkeys(("kinds", "after", "before"))
        mine, theirs = shown(searched(index, asked)), plain.search(**asked)
        assert np.allclose([s for _, s in mine], [s for _, s in theirs], atol=1e-5)


# --- mutants: each must be caught by the law above ----------------------------------------------

OTHERS = [entry(f"other-{n}", n, "tea tea cup garden garden") for n in range(1, 30)]


class OfEverybody(PartitionIndex):
    """Counts the documents of another partition too."""

    def _by_words(self, query: Any, scores: Any) -> None:
        self._documents += 29
        self._words += 145
        super()._by_words(query, scores)
        self._documents -= 29
        self._words -= 145


class RareElsewhere(PartitionIndex):
    """How rare a word is comes from another partition."""

    def take(self, changes: Changes) -> None:
        super().take(Changes([*OTHERS, *changes.entries], changes.mark, changes.reset, changes.more))

    def search(self, *args: Any, limit: int, **more: Any) -> list[Hit]:
        hits = super().search(*args, limit=1_000, **more)
        return [hit for hit in hits if not hit.id.startswith("other")][:limit]


class FiltersLate(PartitionIndex):
    """Ranks everything, then drops what was not asked for."""

    def search(
        self, *args: Any, kinds: Any = None, after: Any = None, before: Any = None, **more: Any
    ) -> list[Hit]:
        fit = {
            hit.id
            for hit in super().search(
                *args, kinds=kinds, after=after, before=before, **{**more, "limit": 1_000}
            )
        }
        return [hit for hit in super().search(*args, **more) if hit.id in fit]


class KeepsReplaced(PartitionIndex):
    """Finds what a record said before it was replaced."""

    def _forget(self, ids: Any) -> None:
        if any([self._row_of.get(name) is None for name in ids]):
            super()._forget(ids)


class CountsReplaced(PartitionIndex):
    """What was replaced still counts in the statistics."""

    def _forget(self, ids: Any) -> None:
        before = self._documents, self._words
        super()._forget(ids)
        self._documents, self._words = before


class KeepsEmptied(PartitionIndex):
    """A record that became empty is still found as it was."""

    def take(self, changes: Changes) -> None:
        left = [each for each in changes.entries if each.terms or each.vector]
        super().take(Changes(left, changes.mark, changes.reset, changes.more))


class IgnoresReset(PartitionIndex):
    """Keeps what was removed."""

    def take(self, changes: Changes) -> None:
        super().take(Changes(changes.entries, changes.mark, False, changes.more))


class AnybodysVectors(PartitionIndex):
    """Measures the vectors of another embedder."""

    def _add_vectors(self, first: int, vectors: list[bytes]) -> None:
        super()._add_vectors(first, [OURS + vector[4:] if vector else b"" for vector in vectors])


class NothingAround(PartitionIndex):
    """An episode gains nothing of what was said around it."""

    def _with_around(self, scores: Any) -> Any:
        return scores


class AroundTheDead(PartitionIndex):
    """What was replaced still stands between its neighbours."""

    def _neighbours(self) -> Any:
        alive = self._table["alive"].copy()
        self._table["alive"] = True
        found = super()._neighbours()
        self._table["alive"] = alive
        return found


class NearEnoughForAll(PartitionIndex):
    """Gives things that share no word and are far."""

    def find(self, *args: Any, weights: Weights, **more: Any) -> Any:
        return super().find(
            *args, weights=Weights(words=weights.words, vector=weights.vector, min_similarity=-1.0), **more
        )


MUTANTS = [
    OfEverybody,
    RareElsewhere,
    FiltersLate,
    KeepsReplaced,
    CountsReplaced,
    KeepsEmptied,
    IgnoresReset,
    AnybodysVectors,
    NothingAround,
    AroundTheDead,
    NearEnoughForAll,
]


def directed() -> list[tuple[Taken, dict[str, Any]]]:
    """What the mutants stumble over."""
    tea = entry("a", 1, "green tea", [1, 0, 0], at=0, weight=1.0)
    cup = entry("b", 2, "cup of tea garden", [0, 1, 0], at=5 * MINUTE)
    boiler = entry("c", 3, "boiler price", [0, 0, 1], at=500 * MINUTE, kind="fact")
    other = entry("d", 4, "cup", [1, 1, 1], at=501 * MINUTE, by="theirs")
    more = entry("e", 5, "cup garden garden", [-1, 0, 0.5], at=502 * MINUTE)
    again = entry("a", 6, "sheffield", [0, 0, 1], at=503 * MINUTE)
    emptied = entry("b", 7)
    row = [
        entry(name, n, text, at=n * MINUTE)
        for n, (name, text) in enumerate(zip("xyz", WORDS, strict=False), 1)
    ]
    moved = entry("y", 4, "garden", at=900 * MINUTE)
    everything = changes(tea, cup, boiler, other, more)
    asked = {"query": "tea cup boiler", "vector": (1.0, 0.2, 0.0), "limit": 3, "weights": Weights()}
    asked |= dict.fromkeys(("kinds", "after", "before"))
    late = {**asked, "limit": 1, "kinds": {"fact"}}
    return [
        ([everything], asked),
        ([everything], late),
        ([everything, changes(again)], {**asked, "query": "green sheffield", "vector": None}),
        ([everything, changes(again, emptied)], {**asked, "query": "cup garden tea"}),
        ([everything, changes(more, reset=True)], asked),
        ([changes(*row), changes(moved)], {**asked, "query": "tea cup", "vector": None}),
    ]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_broken_index_is_caught(mutant: type[PartitionIndex]) -> None:
    cases = directed()
    assert all([agrees(PartitionIndex, taken, asked) for taken, asked in cases])
    assert not all([agrees(mutant, taken, asked) for taken, asked in cases])


# --- one by one -----------------------------------------------------------------------------------


def taken(
    *entries: Entry, made: Callable[[], PartitionIndex] = lambda: PartitionIndex(OURS)
) -> PartitionIndex:
    index = made()
    index.take(changes(*entries))
    return index


def ids(index: PartitionIndex, query: str = "", vector: Any = None, **more: Any) -> list[str]:
    asked = {"limit": 5, "weights": Weights(), "now": NOW} | more
    return [
        hit.id for hit in index.search(query_of(query), None if vector is None else unit(vector), **asked)
    ]


def test_what_shares_no_word_and_is_far_is_not_found() -> None:
    index = taken(entry("a", 1, "tea", [1, 0]), entry("b", 2, "cup", [0, 1]))
    assert ids(index, "boiler", [1, 0.1]) == ["a"]
    assert ids(index, "boiler", [-1, -1]) == ids(index, "boiler") == ids(index) == []
    assert ids(PartitionIndex(OURS), "tea", [1, 0]) == []


def test_why_says_the_ranks_and_the_nearness() -> None:
    index = taken(entry("a", 1, "tea tea", [1, 0]), entry("b", 2, "tea and some other words", [0.6, 0.8]))
    first, second = index.search(query_of("tea"), unit([1, 0]), weights=Weights(), now=NOW)
    assert (first.id, first.why.words, first.why.vector, first.why.nearness) == ("a", 1, 1, 1.0)
    assert (second.id, second.why.words, second.why.vector, second.why.nearness) == ("b", 2, 2, 0.6)
    (by_words, _) = index.search(query_of("tea"), None, weights=Weights(), now=NOW)
    assert (by_words.why.words, by_words.why.vector, by_words.why.nearness) == (1, None, None)


def test_words_alone_is_an_index_without_vectors() -> None:
    for made in (lambda: PartitionIndex(OURS, vectors=False), lambda: PartitionIndex(None)):
        index = taken(entry("a", 1, "tea", [1, 0]), entry("b", 2, "", [1, 0]), made=made)
        assert ids(index, "tea", [1, 0]) == ["a"]
        found = index.find(
            query_of(""), None, limit=5, weights=Weights(), nearest=[("b", 0.9), ("z", 0.99), ("a", 0.1)]
        )
        assert [index._ids[row] for row, near in zip(found.rows, found.near, strict=True) if near > FAR] == [
            "b"
        ]


def test_a_question_of_other_dimensions_is_refused_with_what_to_do() -> None:
    with pytest.raises(EmbedderError, match=r"3 dimensions.*have 2.*reindex"):
        ids(taken(entry("a", 1, "tea", [1, 0])), "tea", [1, 0, 0])


def test_a_vector_of_other_dimensions_is_not_measured() -> None:
    index = taken(entry("a", 1, "tea", [1, 0]), entry("b", 2, "cup", [1, 0, 0]), entry("c", 3))
    assert ids(index, "", [1, 0]) == ["a"]
    assert ids(index, "cup") == ["b"]


def test_what_cannot_be_found_takes_no_place() -> None:
    index = taken(entry("a", 1, "tea"), entry("b", 2), entry("c", 3, ""))
    assert len(index) == 1
    index.take(changes(entry("a", 4)))
    assert len(index) == 0
    assert ids(index, "tea") == []


def test_its_mark_is_that_of_what_it_took() -> None:
    index = PartitionIndex(OURS)
    assert index.mark == NOWHERE
    index.take(Changes([entry("a", 3, "tea")], Mark(9, 3), True, True))
    assert index.mark == Mark(9, 3)


@pytest.mark.parametrize("dimensions", [0, 64])
def test_it_says_how_much_memory_it_takes(dimensions: int) -> None:
    random = np.random.default_rng(3)
    made = [
        entry(f"run-{n:08d}-{n % 7}", n, " ".join(map(str, random.integers(500, size=15))), vector)
        for n in range(1, 3_001)
        for vector in [random.standard_normal(dimensions) if dimensions else None]
    ]
    parts = [changes(*made[at : at + 500]) for at in range(0, 3_000, 500)]
    del made
    tracemalloc.start()
    index = PartitionIndex(OURS)
    for part in parts:
        copied = [
            Entry(each.id[:4] + each.id[4:], *[getattr(each, f) for f in each.__struct_fields__[1:]])
            for each in part.entries
        ]
        index.take(Changes(copied, part.mark, False, False))
        del copied
    taken_up = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.75 * taken_up < index.nbytes < 1.25 * taken_up
