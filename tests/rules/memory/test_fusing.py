"""One order out of several reasons, for one partition or many, and the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shipworthy.domain.memory import Weights
from shipworthy.errors import ConfigurationError
from shipworthy.rules.memory import fusing
from shipworthy.rules.memory.fusing import Hit, fuse
from shipworthy.rules.memory.index import PartitionIndex
from shipworthy.rules.memory.terms import query_of
from shipworthy.rules.memory.vectors import unit
from tests.rules.memory.reference import NOW, OURS, changes, entry

DAY = 86_400_000


def index(*entries: Any) -> PartitionIndex:
    made = PartitionIndex(OURS)
    made.take(changes(*entries))
    return made


def asked(
    indexes: list[PartitionIndex], query: str, vector: Any = None, limit: int = 5, **weights: float
) -> list[Hit]:
    how = Weights(**weights)
    offered = [
        each.find(query_of(query), unit(vector) if vector else None, limit=limit, weights=how)
        for each in indexes
    ]
    return fuse(offered, limit, how, NOW)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_of_equal_scores_the_newer_is_first_and_then_the_lower_id() -> None:
    entries = [
        entry(name, n, "tea", kind="fact", at=at)
        for n, (name, at) in enumerate([("d", 5), ("b", 5), ("e", 9), ("a", 1), ("c", 5)], 1)
    ]
    for order in (entries, entries[::-1]):
        assert ids(asked([index(*order)], "tea")) == ["e", "b", "c", "d", "a"]
        assert ids(asked([index(*order)], "tea", limit=3)) == ["e", "b", "c"]


def test_a_thousand_equal_things_are_given_in_one_order() -> None:
    entries = [entry(f"{n:04d}", n, "tea", kind="fact") for n in range(1, 1_001)]
    assert ids(asked([index(*entries)], "tea")) == ids(asked([index(*entries[::-1])], "tea"))
    assert ids(asked([index(*entries)], "tea")) == ["0001", "0002", "0003", "0004", "0005"]


def test_what_words_and_vectors_both_say_is_before_what_one_says() -> None:
    both, words, near, neither = (
        entry("both", 1, "tea", [1, 0.1], kind="fact"),
        entry("words", 2, "tea", [-1, 0], kind="fact"),
        entry("near", 3, "cup", [1, 0], kind="fact"),
        entry("neither", 4, "cup", [-1, 0.1], kind="fact"),
    )
    hits = asked([index(both, words, near, neither)], "tea", [1, 0])
    assert ids(hits)[0] == "both"
    assert set(ids(hits)) == {"both", "words", "near"}


def test_the_nearer_is_first_and_so_is_what_has_more_of_the_words() -> None:
    made = index(
        entry("a", 1, "cup of coffee", [0.5, 1], kind="fact"),
        entry("b", 2, "green cup", [1, 0.1], kind="fact"),
    )
    assert ids(asked([made], "", [1, 0])) == ids(asked([made], "green cup")) == ["b", "a"]


def test_what_is_new_and_what_is_important_move_what_was_found_and_find_nothing() -> None:
    old = entry("old", 1, "tea", kind="fact", at=NOW - 300 * DAY, weight=1.0)
    new = entry("new", 2, "tea", kind="fact", at=NOW - DAY)
    other = entry("other", 3, "cup", kind="fact", at=NOW, weight=1.0)
    partition = [index(old, new, other)]
    assert ids(asked(partition, "tea")) == ["old", "new"]
    assert ids(asked(partition, "tea", importance=0)) == ["new", "old"]
    assert ids(asked(partition, "tea", recency=1)) == ["new", "old"]
    assert ids(asked(partition, "tea", recency=1, half_life_days=10_000)) == ["old", "new"]


def test_half_of_what_newness_gives_is_left_after_the_half_life() -> None:
    made = index(entry("a", 1, "tea", kind="fact", at=NOW - 30 * DAY))
    (without,), (with_it,) = asked([made], "tea"), asked([made], "tea", recency=1.0)
    assert with_it.score - without.score == pytest.approx(0.5)


def test_partitions_of_one_question_have_one_order_and_say_whose_a_hit_is() -> None:
    mine = index(entry("a", 1, "green tea", [1, 0]), entry("same", 2, "boiler", [0, 1], kind="fact"))
    ours = index(entry("same", 1, "tea tea tea", [0.9, 0.1]), entry("z", 2, "garden", [0.2, 1], kind="fact"))
    hits = asked([mine, PartitionIndex(OURS), ours], "green tea", [1, 0])
    assert [(hit.id, hit.place) for hit in hits] == [("a", 0), ("same", 2)]
    assert [hit.why.vector for hit in hits] == [1, 2]


def test_a_question_to_nobody_and_for_nothing_finds_nothing() -> None:
    made = index(entry("a", 1, "tea"))
    assert (
        fuse([], 5, Weights(), NOW)
        == asked([PartitionIndex(OURS)], "tea")
        == asked([made], "tea", limit=0)
        == []
    )


def test_as_many_are_found_as_are_wanted() -> None:
    made = index(*[entry(f"{n:03d}", n, "tea " * (1 + n % 9) + f"w{n}", [1, n / 400]) for n in range(1, 301)])
    for limit in (1, 150, 300, 400):
        assert len(asked([made], "tea", [1, 0], limit=limit)) == min(limit, 300)


def test_nearness_is_measured_from_what_is_usual_for_the_embedder() -> None:
    """Of an embedder that finds everything near, words are not drowned by differences that mean nothing."""
    random = np.random.default_rng(1)
    entries = [
        entry(f"{n}", n, f"w{n}", [10, *random.standard_normal(4)], kind="fact") for n in range(1, 200)
    ]
    hits = asked([index(*entries)], "w7", [10, 0, 0, 0, 0], limit=200)
    assert hits[0].id == "7" or hits[1].id == "7"
    assert min(hit.why.nearness or 1 for hit in hits) > 0.8


def only_the_first(offered: Any, limit: int, weights: Weights, now: int) -> list[Hit]:
    return fuse(offered[:1], limit, weights, now)


def oldest_first(offered: Any, limit: int, weights: Weights, now: int) -> list[Hit]:
    return fuse([part._replace(at=-part.at) for part in offered], limit, weights, now)


def by_place(offered: Any, limit: int, weights: Weights, now: int) -> list[Hit]:
    return [hit for place in offered for hit in fuse([place], limit, weights, now)][:limit]


LAWS = [
    test_of_equal_scores_the_newer_is_first_and_then_the_lower_id,
    test_what_words_and_vectors_both_say_is_before_what_one_says,
    test_partitions_of_one_question_have_one_order_and_say_whose_a_hit_is,
    test_the_nearer_is_first_and_so_is_what_has_more_of_the_words,
    test_as_many_are_found_as_are_wanted,
]


def first_by_row(score: Any, at: Any, name: Any, limit: int) -> list[int]:
    """Ties stay as they were written."""
    chosen: list[int] = np.lexsort((-at, -score))[:limit].tolist()
    return chosen


@pytest.mark.parametrize("mutant", [only_the_first, oldest_first, by_place, "rows", "shallow", "vectors"])
def test_every_broken_order_is_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "rows":
        monkeypatch.setattr(fusing, "_first", first_by_row)
    elif mutant == "shallow":
        monkeypatch.setattr("shipworthy.rules.memory.index.depth_of", lambda limit: 1)
    elif mutant == "vectors":
        monkeypatch.setattr(fusing, "_nearness", lambda offered, near, least: np.zeros_like(near))
    else:
        monkeypatch.setitem(globals(), "fuse", mutant_of(mutant))
    assert not all([keeps(law) for law in LAWS])


def mutant_of(mutant: Any) -> Any:
    whole = fuse

    def broken(*args: Any) -> list[Hit]:
        globals()["fuse"] = whole
        try:
            made: list[Hit] = mutant(*args)
            return made
        finally:
            globals()["fuse"] = broken

    return broken


def keeps(law: Any) -> bool:
    try:
        law()
    except (AssertionError, IndexError):
        return False
    return True


@pytest.mark.parametrize(
    "wrong",
    [
        {"words": -1.0},
        {"vector": float("nan")},
        {"recency": float("inf")},
        {"importance": 1e9},
        {"words": 0.0, "vector": 0.0},
        {"half_life_days": 0.0},
        {"half_life_days": float("nan")},
        {"min_similarity": 1.5},
        {"min_similarity": float("nan")},
    ],
)
def test_weights_that_are_none_are_refused_with_what_to_do(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"(Give|Leave)"):
        Weights(**wrong)
