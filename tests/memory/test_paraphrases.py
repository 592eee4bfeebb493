"""Fifty questions in other words than what they ask for, over five hundred episodes; they were committed before any
code that finds them (`recall/README.md`).

By words alone 31 are answered, by vectors alone 37, by both 41: what is asked of `local` leaves room for the processor,
on which the last bits of its int8 weights' sums depend. Twelve questions share no word with their evidence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.adapters.local import LocalEmbedder
from shipworthy.app.memories import InMemoryMemory
from shipworthy.domain.memory import Episode, Role, Weights
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory import records
from shipworthy.engine.memory.memory import Memory
from shipworthy.ports.embedder import Purpose
from shipworthy.rules.memory import index, terms

FOLDER = Path(__file__).parent / "recall"
NADIA = Scope("acme", "nadia")


class Said(msgspec.Struct):
    id: str
    session: str
    at: datetime
    role: Role
    text: str


class Asked(msgspec.Struct):
    id: str
    question: str
    evidence: list[str]
    overlap: int


def lines(name: str, of: type) -> list[Any]:
    return [msgspec.json.decode(line, type=of) for line in (FOLDER / name).read_bytes().splitlines()]


EPISODES: list[Said] = lines("episodes.jsonl", Said)
QUESTIONS: list[Asked] = lines("questions.jsonl", Asked)


class Once:
    """An embedder that makes each vector once for all tests here."""

    def __init__(self) -> None:
        self._real = LocalEmbedder()
        self.name, self.limit = self._real.name, self._real.limit
        self._made: dict[str, Sequence[float]] = {}

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[Sequence[float]]:
        new = [text for text in texts if text not in self._made]
        self._made.update(zip(new, await self._real.embed(new, purpose), strict=True))
        return [self._made[text] for text in texts]

    async def close(self) -> None:
        await self._real.close()


LOCAL = Once()


async def told(memory: Memory) -> None:
    episodes = [
        Episode(
            id=said.id,
            text=said.text,
            at=round(said.at.timestamp() * 1000),
            role=said.role,
            session=said.session,
        )
        for said in EPISODES
    ]
    await memory.keep(NADIA, episodes)


def answered(memory: Memory) -> list[str]:
    """The questions whose evidence is among the first five."""

    async def ask() -> list[str]:
        try:
            await told(memory)
            found = {q.id: await memory.recall(NADIA, q.question, limit=5) for q in QUESTIONS}
            return [q.id for q in QUESTIONS if {hit.item.id for hit in found[q.id]} & set(q.evidence)]  # type: ignore[union-attr]
        finally:
            await memory.close()

    return asyncio.run(ask())


def test_the_data_set_is_whole() -> None:
    assert (len(EPISODES), len(QUESTIONS)) == (500, 50)
    assert {name for q in QUESTIONS for name in q.evidence} <= {said.id for said in EPISODES}


def test_by_words_alone_at_least_six_of_ten_are_answered() -> None:
    assert len(answered(InMemoryMemory(embedder=None))) >= 30


def test_with_the_local_model_at_least_three_of_four_are_answered() -> None:
    assert len(answered(InMemoryMemory(embedder=LOCAL))) >= 38


def no_stems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_known", lambda word: 0 if word in terms.STOP else terms._hash(word))


def no_stop_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_term", terms._hash)


def nothing_around_and_nobody_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "AROUND", ())
    monkeypatch.setattr(records, "SAID_BY", {})


@pytest.mark.parametrize("broken", [no_stems, no_stop_words, nothing_around_and_nobody_first])
def test_each_part_of_finding_by_words_is_needed(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    assert len(answered(InMemoryMemory(embedder=None))) < 30


def test_the_two_ways_of_finding_are_better_than_either() -> None:
    both, by_words = answered(InMemoryMemory(embedder=LOCAL)), answered(InMemoryMemory(embedder=None))
    by_vector = answered(InMemoryMemory(embedder=LOCAL, weights=Weights(words=0.0)))
    assert len(both) > max(len(by_words), len(by_vector))
