"""Vectors of a memory: of one length, and of an embedder whose secrets stay its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from shipworthy import Scope
from shipworthy.app.memories import SqliteMemory
from shipworthy.engine.memory import vectors
from shipworthy.errors import EmbedderChanged, EmbedderError
from shipworthy.ports.embedder import Purpose
from shipworthy.rules.text import described, described_without_secrets

ALICE = Scope("acme", "alice")


class Long:
    """An embedder that has one name and any length."""

    name, limit = "long", 10

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        return [[1.0] * self.dimensions for _ in texts]

    async def close(self) -> None:
        """Nothing to close."""


def go(law: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(law(), 60))


async def _mixed(path: Path) -> tuple[set[int], list[str]]:
    """The lengths of vectors in a store that two embedders of one name wrote to, and what the second was told."""
    told: list[str] = []
    first, second = (SqliteMemory(path / "m.db", embedder=Long(size)) for size in (3, 4))
    await second.open()
    await first.remember(ALICE, "alpha")
    for work in (second.remember(ALICE, "beta"), second.recall(ALICE, "gamma")):
        try:
            await work
        except (EmbedderChanged, EmbedderError) as error:
            told.append(error.fix)
    lengths = {len(record.vector) // 4 - 1 for record in await first.store.page(ALICE)}
    await first.close()
    await second.close()
    return lengths, told


def test_vectors_of_another_length_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async def law() -> None:
        lengths, told = await _mixed(tmp_path)
        assert lengths == {3}
        assert len(told) == 2
        assert all(["reindex" in fix for fix in told])

    go(law)


def test_a_memory_that_takes_any_length_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors.Vectors, "_agree", lambda self, place, dimensions: None)
    assert asyncio.run(_mixed(tmp_path))[0] == {3, 4}


async def _relearned(path: Path) -> int:
    first = SqliteMemory(path / "m.db", embedder=Long(3))
    await first.remember(ALICE, "alpha")
    await first.close()
    second = SqliteMemory(path / "m.db", embedder=Long(4))
    with pytest.raises((EmbedderChanged, EmbedderError)):
        await second.recall(ALICE, "gamma")
    changed = await second.reindex()
    try:
        [each] = await second.recall(ALICE, "gamma")
        assert each.why.vector == 1
        assert await second.reindex() == 0
        await second.remember(ALICE, "delta")
    finally:
        await second.close()
    return changed


def test_a_reindex_makes_vectors_of_the_new_length(tmp_path: Path) -> None:
    assert asyncio.run(_relearned(tmp_path)) == 1


def test_a_reindex_that_looks_at_the_name_alone_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors.Vectors, "fits", lambda self, vector: vector[:4] == self.tag)
    with pytest.raises((AssertionError, EmbedderError)):
        assert asyncio.run(_relearned(tmp_path)) == 1


SECRETS = [
    "refused by https://bob:hunter2@host:1/v1/embed?key=hunter2&x=1#hunter2",
    "refused by https://hunter2@host/v1",
    "'https://host/v1?api-key=hunter2', tried thrice",
    "redis://:p@hunter2@host/0",
    "POST /v1/embed?key=hunter2 failed",
    "body: a=1&token=hunter2",
]


class Telling(Long):
    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        raise ConnectionError(SECRETS[0])


def test_what_an_embedder_fails_with_carries_no_secret(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shown = [described_without_secrets(ConnectionError(text)) for text in SECRETS]
    assert [text for text in shown if "hunter2" in text] == []
    assert shown[0] == "ConnectionError: refused by https://host:1/v1/embed?..."
    assert "hunter2" in described(ConnectionError(SECRETS[0])), "the plain way of telling is found out"
    plain = "is it 3 > 2? Yes: see https://host/path, or ask a@example.org"
    assert described_without_secrets(ValueError(plain)) == f"ValueError: {plain}"

    async def law() -> None:
        memory = SqliteMemory(tmp_path / "m.db", embedder=Telling(3))
        with caplog.at_level(logging.WARNING):
            await memory.remember(ALICE, "alpha")
        with pytest.raises(EmbedderError) as raised:
            await memory.recall(ALICE, "alpha")
        assert "hunter2" not in str(raised.value)
        assert raised.value.__suppress_context__
        await memory.close()

    go(law)
    assert "https://host:1/v1/embed" in caplog.text
    assert "hunter2" not in caplog.text
