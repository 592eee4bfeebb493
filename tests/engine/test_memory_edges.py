"""What a memory takes, and what becomes of what it cannot read."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shipworthy import Agent, Scope, ToolCall
from shipworthy.app.memories import InMemoryMemory
from shipworthy.app.memory_tools import memory_tools
from shipworthy.domain.memory import Episode, Fact, Record, Source
from shipworthy.engine.memory import checking, records
from shipworthy.engine.memory import memory as engine
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import InputError, MemoryForeign
from shipworthy.rules.memory.terms import terms_of
from shipworthy.testing import ScriptedModel

ALICE, BOB = Scope("acme", "alice"), Scope("globex", "bob")
FACT = Fact(id="f", subject="user", predicate="likes", object="tea", learned_at=1, valid_from=1)

WRONG: list[dict[str, Any]] = [
    {"role": "system"},
    {"trust": "Trusted"},
    {"trust": ["trusted"]},
    {"importance": math.nan},
    {"importance": math.inf},
    {"importance": -0.1},
    {"importance": 1.1},
    {"importance": "x"},
    {"importance": True},
    {"at": 1.5},
    {"at": True},
    {"at": 10**18},
    {"id": ""},
    {"id": "x" * 201},
    {"id": "\udc80"},
    {"id": "~topic:x"},
    {"id": 7},
    {"origin": ""},
    {"origin": "\ud800"},
    {"source": Source("\ud800")},
    {"source": Source("r", -1)},
    {"source": "r"},
]
WRONG_FACTS: list[dict[str, Any]] = [
    {"trust": "Untrusted"},
    {"valid_from": 1.5},
    {"valid_to": "x"},
    {"confidence": math.nan},
    {"origin": "\ud800"},
    {"source": Source("\ud800")},
    {"single": 1},
]


def go(law: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(law(), 60))


async def _taken(memory: Memory) -> list[Any]:
    """What of the wrong values was taken, or refused otherwise than by an InputError that says what to do."""
    taken: list[Any] = []

    async def give(given: Any, call: Awaitable[Any]) -> None:
        try:
            await call
        except InputError as error:
            if error.fix:
                return
        except Exception:
            pass
        taken.append(given)

    for wrong in WRONG:
        await give(wrong, memory.remember(ALICE, "tea", **wrong))
        await give(wrong, memory.keep(ALICE, [Episode(**{"id": "i", "text": "tea", "at": 1, **wrong})]))
    for wrong in WRONG_FACTS:
        await give(wrong, memory.facts.add(ALICE, "user", "likes", "tea", **wrong))
        fact = msgspec.structs.replace(FACT, **{n: v for n, v in wrong.items() if n != "source"})
        if fact != FACT:
            await give(wrong, memory.keep(ALICE, [fact]))
    for block in ({"name": ""}, {"name": "x" * 101}, {"name": "\ud800"}, {"trust": "x"}, {"origin": ""}):
        await give(block, memory.set_block(ALICE, **{"name": "n", "text": "tea", **block}))
    return taken


def test_what_could_not_be_read_again_is_refused_with_what_to_pass() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        assert await _taken(memory) == []
        assert [item async for item in memory.export(ALICE)] == []

    go(law)


def test_a_memory_that_looks_at_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "checked", lambda item: item)

    async def law() -> None:
        taken = await _taken(InMemoryMemory(embedder=None))
        assert {"role": "system"} in taken
        assert {"id": "~topic:x"} in taken

    go(law)


def test_what_is_kept_as_it_is_made_has_text_that_every_store_takes() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        await memory.keep(ALICE, [Episode(id="e", text="a\0b\ud800", at=-1), FACT])
        found = [item async for _, item in memory.export(ALICE)]
        assert sorted([item.text for item in found]) == ["a\ufffdb\ufffd", "user likes tea"]

    go(law)


def test_every_field_of_what_is_remembered_has_a_rule_or_is_read_back() -> None:
    wrong = msgspec.structs.replace(FACT, released_at="soon") if hasattr(FACT, "released_at") else None
    if wrong is not None:
        with pytest.raises(InputError):
            checking.checked(wrong)


# what cannot be read


async def _maintained(memory: Memory) -> tuple[list[str], int]:
    """What Bob has after everything was looked after, where Alice has something that nobody can read."""
    await memory.remember(ALICE, "Tea is good.", id="good")
    bad = Record(
        id="bad", kind="episode", data=b'{"id":"bad","role":"king"}', at=1, terms=terms_of("tea cups")
    )
    await memory.store.put(ALICE, [bad])
    await memory.remember(BOB, "Tea is fine.")
    assert await memory.reindex() == 0
    await memory.sweep()
    assert [each.text for each in await memory.recall(ALICE, "tea")] == ["Tea is good."]
    assert [each.text for each in await memory.episodes(ALICE)] == ["Tea is good."]
    assert [item.text async for _, item in memory.export(ALICE)] == ["Tea is good."]
    assert await memory.forget(ALICE, query="tea cups") == 1
    return [each.text for each in await memory.recall(BOB, "tea")], len(await memory.store.page(ALICE))


def test_what_cannot_be_read_stops_nobody_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None, retention={"tenant": 1.0})
        with caplog.at_level(logging.WARNING, "shipworthy.memory"):
            assert await _maintained(memory) == (["Tea is fine."], 1)

    records._warn_once.cache_clear()
    go(law)
    assert len([record for record in caplog.records if "'bad'" in record.getMessage()]) == 1


def test_a_reader_that_raises_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from shipworthy.engine.memory import reindexing

    monkeypatch.setattr(reindexing, "readable", records.item_of)

    async def law() -> None:
        with pytest.raises(MemoryForeign):
            await _maintained(InMemoryMemory(embedder=None))

    go(law)


# what is memory's own


async def _lost_to_a_model(memory: Memory) -> list[str]:
    """What of memory's own records and the developer's blocks a model could have forgotten."""
    await memory.set_block(ALICE, "policy", "No prices.")
    await memory.facts.add(ALICE, "user", "lives in", "Oslo", single=True)
    own = [record.id for record in await memory.store.page(ALICE) if record.kind in ("block", "topic")]
    assert len(own) == 2
    assert all([name.startswith(records.OWN) for name in own])
    calls = [ToolCall("forget", {"id": name}) for name in [*own, "block:policy"]]
    bot: Agent[Any, str] = Agent("", model=ScriptedModel([calls, "Done."]), tools=memory_tools(memory))
    await bot.run("Forget it all.", tenant_id="acme", user_id="alice")
    there = {record.id for record in await memory.store.page(ALICE)}
    return [name for name in own if name not in there]


def test_a_model_forgets_neither_blocks_nor_what_is_memorys_own() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        assert await _lost_to_a_model(memory) == []
        assert await memory.forget(ALICE, ids=[records.block_id("policy")]) == 0
        for kinds in (("block",), ("episode", "topic")):
            with pytest.raises(InputError):
                await memory.forget(ALICE, before=10**13, kinds=kinds)  # type: ignore[arg-type]

    go(law)


def test_a_forgetting_that_asks_for_no_kind_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def of_any_kind(store: Any, scope: Scope, *, ids: Any, **rest: Any) -> int:
        return int(await store.remove(scope, list(ids)))

    monkeypatch.setattr(engine, "forget", of_any_kind)

    async def law() -> None:
        assert len(await _lost_to_a_model(InMemoryMemory(embedder=None))) == 2

    go(law)


def test_names_of_what_is_memorys_own_are_where_readers_look() -> None:
    from shipworthy.engine.memory import facts

    assert (facts.TOPIC, facts.LEARNED) == (records.TOPIC, records.LEARNED)
    own = (records.TOPIC, records.LEARNED, records.LEARNED_TO, records.block_id("x"))
    assert all([name.startswith(records.OWN) for name in own])
