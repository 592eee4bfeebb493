"""Forgetting by words, and by age."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from shipworthy import Scope
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.app.memories import InMemoryMemory
from shipworthy.domain.memory import Episode, Kind, Record
from shipworthy.engine.memory import forgetting, retention
from shipworthy.engine.memory import memory as engine
from shipworthy.engine.memory.memory import Memory, Settings
from shipworthy.errors import InputError

ALICE = Scope("acme", "alice")
DAY = 86_400_000


def go(law: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(law(), 60))


async def texts(memory: Memory) -> list[str]:
    return [item.text async for _, item in memory.export(ALICE)]


# by words


async def _left() -> list[str]:
    """What is left of Alice's diabetes after it was forgotten."""
    memory = InMemoryMemory(embedder=None)
    said = [f"My illness, diabetes, entry {n}" for n in range(450)]
    said += ["Diabetes is an illness. " + "And so on. " * 800, "DIABETES!", "illnesses"]
    await memory.keep(ALICE, [Episode(id=f"e{n}", text=text, at=n) for n, text in enumerate(said)])
    await memory.facts.add(ALICE, "user", "has illness", "diabetes", confidence=0.3)
    await memory.facts.add(ALICE, "user", "manages illness of", "diabetes", single=True, valid_from=1)
    await memory.facts.add(ALICE, "user", "manages illness of", "nobody", single=True, valid_from=2)
    assert await memory.forget(ALICE, query="diabetes, the illness", before=100) == 100
    gone = await memory.forget(ALICE, query="diabetes, the illness")
    left = await texts(memory)
    assert gone + len(left) == len(said) + 3 - 100
    return left


RIGHT = ["DIABETES!", "illnesses", "user manages illness of nobody"]


def test_all_that_has_the_words_is_forgotten_and_nothing_else() -> None:
    assert asyncio.run(_left()) == RIGHT


def _any_word(record: Record, words: Any, *rest: Any) -> bool:
    return any([_HAS(record, words[n : n + 1], *rest) for n in range(len(words))])


def _what_is_recalled(record: Record, words: Any, *rest: Any) -> bool:
    return bool(record.terms) and _HAS(record, words, *rest)


_HAS: Any = forgetting._has


@pytest.mark.parametrize("mutant", [_any_word, _what_is_recalled])
def test_a_forgetting_of_more_or_less_is_found_out(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_has", mutant)
    assert asyncio.run(_left()) != RIGHT


def test_one_page_of_what_matches_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.forget

    async def one_page(store: InMemoryMemoryStore, scope: Scope, **rest: Any) -> int:
        class First(InMemoryMemoryStore):
            async def page(
                self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
            ) -> list[Record]:
                return [] if after else await store.page(scope, after, limit, kind)

            async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
                return await store.remove(scope, ids)

        return await whole(First(), scope, **rest)

    monkeypatch.setattr(engine, "forget", one_page)
    assert asyncio.run(_left()) != RIGHT


def test_a_query_without_a_word_forgets_nothing() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        await memory.remember(ALICE, "tea")
        for query in ("", " ?! "):
            with pytest.raises(InputError):
                await memory.forget(ALICE, query=query)
        assert await memory.forget(ALICE, query="the") == 0
        assert await texts(memory) == ["tea"]

    go(law)


# by age


class Counting(InMemoryMemoryStore):
    """A store that says how much was read of it."""

    read = 0

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        found = await super().page(scope, after, limit, kind)
        self.read += len(found)
        return found


async def _swept(store: Counting) -> list[str]:
    """What is left, of old things that were kept after 450 new ones."""
    memory = Memory(store, settings=Settings(retention={"user": 10 * 86_400.0}))
    now = engine._now()
    await memory.keep(ALICE, [Episode(id=f"n{n}", text="new", at=now + n) for n in range(450)])
    assert await memory.sweep() == 0
    old = [Episode(id=f"o{n}", text=f"old {n}", at=now - n * DAY) for n in (11, 1000)]
    await memory.keep(ALICE, old)
    await memory.sweep()
    return [text for text in await texts(memory) if text != "new"]


def test_what_is_too_old_is_swept_in_whatever_order_it_came() -> None:
    async def law() -> None:
        store = Counting()
        assert await _swept(store) == []
        memory = Memory(store, settings=Settings(retention={"user": 10 * 86_400.0}))
        assert [await memory.sweep() for _ in range(9)] == [0] * 9
        store.read = 0
        assert await memory.sweep() == 0
        assert store.read == 0, "what was looked at is not read again"
        sooner = retention.Retention({"user": 86_400.0})
        later = engine._now() + 2 * DAY
        assert await sooner.sweep([store], later - 2 * DAY) == 0
        assert await sooner.sweep([store], later) == 450, "what was new then is old now"

    go(law)


def test_a_sweep_that_stops_early_or_trusts_its_memory_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Early(retention.Retention):
        async def _partition(self, store: Any, scope: Scope, before: int) -> int:
            old = [r.id for r in await store.page(scope, 0, 200, "episode") if r.at < before]
            return int(await store.remove(scope, old)) if old else 0

    monkeypatch.setattr(retention, "Retention", Early)
    assert asyncio.run(_swept(Counting())) == ["old 11", "old 1000"]


async def _recalled_late() -> list[str]:
    memory = InMemoryMemory(embedder=None, retention={"user": 3600.0})
    await memory.facts.add(ALICE, "user", "is allergic to", "peanuts", valid_from=1)
    [fact] = await memory.facts.of(ALICE)
    record = (await memory.store.get(ALICE, [fact.id]))[0]
    await memory.store.put(ALICE, [msgspec.structs.replace(record, at=1)], replace=True)
    await memory.remember(ALICE, "Old talk of peanuts.", at=1)
    await memory.remember(ALICE, "New talk of peanuts.")
    return sorted([each.text for each in await memory.recall(ALICE, "peanuts")])


def test_retention_is_of_episodes_and_hides_no_fact() -> None:
    assert asyncio.run(_recalled_late()) == ["New talk of peanuts.", "user is allergic to peanuts"]


@pytest.mark.parametrize(
    "mutant",
    [
        lambda kinds, since, oldest: [(kinds, max(since or 0, oldest))],
        lambda kinds, since, oldest: [(kinds, since)],
    ],
)
def test_a_retention_of_everything_or_nothing_is_found_out(
    mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "since_when", mutant)
    assert asyncio.run(_recalled_late()) != ["New talk of peanuts.", "user is allergic to peanuts"]
