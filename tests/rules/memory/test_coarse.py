"""Coarse vectors, with exact cosines of what is worth reading, find what whole vectors find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.memory import Episode, Weights
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory, Settings
from shipworthy.rules.memory.coarse import Coarse, width
from shipworthy.rules.memory.fusing import fuse
from shipworthy.rules.memory.index import PartitionIndex
from shipworthy.rules.memory.terms import query_of
from shipworthy.rules.memory.vectors import unit
from tests.rules.memory.reference import NOW, OURS, changes, entry

MANY, DIMENSIONS = 6_000, 96
MINUTE = 60_000
Vectors = NDArray[np.float64]


def at_random(draw: np.random.Generator) -> Vectors:
    return draw.standard_normal((MANY + 20, DIMENSIONS))


def like_a_model(draw: np.random.Generator) -> Vectors:
    """Around a hundred topics, all on one side of the origin, with a few dimensions that are large in all of them."""
    topics = draw.standard_normal((100, DIMENSIONS))
    made = topics[draw.integers(100, size=MANY + 20)] + 0.7 * draw.standard_normal((MANY + 20, DIMENSIONS))
    made *= np.exp(draw.standard_normal(DIMENSIONS) / 2)
    made[:, :3] += 8
    return made + 0.5


def indexes(vectors: Vectors) -> tuple[PartitionIndex, PartitionIndex]:
    """One with whole vectors and one with coarse ones."""
    both = PartitionIndex(OURS), PartitionIndex(OURS, coarse=True)
    for first in range(0, MANY, 2_000):
        part = [
            entry(f"{n}", n + 1, f"w{n % 50} v{n % 377}", vectors[n], at=n * 7 * MINUTE)
            for n in range(first, first + 2_000)
        ]
        for index in both:
            index.take(changes(*part))
    return both


def cosines(vectors: Vectors, ids: list[str], asked: Any) -> list[tuple[str, float]]:
    return [(id, round(float(unit(vectors[int(id)]) @ asked), 5)) for id in ids]


def found(index: PartitionIndex, words: str, vector: Any, near: Any = (), limit: int = 10) -> list[str]:
    how = Weights()
    offered = index.find(query_of(words), vector, limit=limit, weights=how, nearest=near)
    return [hit.id for hit in fuse([offered], limit, how, NOW)]


def same(kind: Callable[[np.random.Generator], Vectors], *, read: bool = True) -> bool:
    vectors = kind(np.random.default_rng(11))
    whole, coarse = indexes(vectors)
    for nth in range(20):
        asked, words = unit(vectors[MANY + nth]), f"w{nth}" if nth % 2 else ""
        ids = coarse.worth_reading(query_of(words), asked, limit=10, weights=Weights()) if read else []
        assert len(ids) < 700
        if found(whole, words, asked) != found(coarse, words, asked, cosines(vectors, ids, asked)):
            return False
    return True


@pytest.mark.parametrize("kind", [at_random, like_a_model])
def test_the_first_ten_are_those_of_whole_vectors(kind: Any) -> None:
    assert same(kind)


@pytest.mark.parametrize("broken", ["nothing is read", "little is read", "one scale for all"])
def test_what_measures_worse_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "little is read":
        monkeypatch.setattr("shipworthy.rules.memory.index.OVERSAMPLED", 1)
        monkeypatch.setattr("shipworthy.rules.memory.index.LEAST_ENOUGH", 1)
        worth = PartitionIndex.worth_reading
        monkeypatch.setattr(
            PartitionIndex, "worth_reading", lambda self, *a, **how: worth(self, *a, **how)[:4]
        )
    if broken == "one scale for all":
        monkeypatch.setattr(Coarse, "__init__", one_scale)
    assert not (same(at_random, read=broken != "nothing is read") and same(like_a_model))


def one_scale(self: Any, first: Any) -> None:
    self._mean = np.zeros(first.shape[1], np.float32)
    self._step = np.full(first.shape[1], 0.335 / np.sqrt(first.shape[1]), np.float32)


@pytest.mark.parametrize("dimensions", [1, 7, 96])
def test_codes_take_half_a_byte_a_dimension_and_a_cosine_is_a_little_off(dimensions: int) -> None:
    draw = np.random.default_rng(3)
    vectors = np.stack([unit(draw.standard_normal(dimensions)) for _ in range(3_000)])
    coarse = Coarse(vectors)
    codes = coarse.codes(vectors)
    assert codes.shape == (3_000, width(dimensions))
    off = np.abs(coarse.cosines(codes, vectors[5]) - vectors @ vectors[5])
    assert off.max() < 0.8 / np.sqrt(dimensions)


class Table:
    """Vectors by the number that a text begins with."""

    name, limit = "test:table", 10_000

    def __init__(self) -> None:
        self.vectors = at_random(np.random.default_rng(5))

    async def embed(self, texts: Any, purpose: Any) -> list[Any]:
        return [self.vectors[int(text.split()[0])] for text in texts]

    async def close(self) -> None:
        pass


def test_a_partition_that_does_not_fit_is_found_with_coarse_vectors_and_then_with_none(
    tmp_path: Path,
) -> None:
    alice = Scope("acme", "alice")

    async def law() -> None:
        embedder: Any = Table()
        shown, kept = [], []
        for cache in (64 * 2**20, 2 * 2**20, 2**18):
            store = SqliteMemoryStore(tmp_path / "m.db", durability="process")
            memory = Memory(store, embedder=embedder, settings=Settings(cache_bytes=cache))
            if not shown:
                said = [Episode(id=f"{n}", text=f"{n} tea", at=n * 10 * MINUTE) for n in range(3_000)]
                await memory.keep(alice, said)
            asked = [f"{3_000 + n} asked" for n in range(5)]
            shown.append(
                [[each.text for each in await memory.recall(alice, text, limit=10)] for text in asked]
            )
            held = memory._indexes[id(store)]._held
            kept.append(next(iter(held.values())).vectors)
            await memory.close()
        assert kept == ["whole", "coarse", "none"]
        assert shown[0] == shown[1]
        vectors = np.stack([unit(vector) for vector in embedder.vectors])
        for nth, of_none in enumerate(shown[2]):
            nearest = int((vectors[:3_000] @ vectors[3_000 + nth]).argmax())
            assert f"{nearest} tea" in of_none

    asyncio.run(law())
