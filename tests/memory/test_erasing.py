"""`memory.erase` forgets a user everywhere at once: what they said, what was remembered and learned, in whatever
partition, and the runs that it was said in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shipworthy.engine.memory.erasing as erasing
from shipworthy import Agent, InMemoryRuntime, ScriptedModel, SqliteRuntime, ToolCall, tool
from shipworthy.app.memories import InMemoryMemory, SqliteMemory
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.memory import Fact, Source
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ErasureIncomplete
from tests.engine.world import go

CANARY = "Zuzanna4711"
ACME = Scope("acme")
USER = Scope("acme", f"u-{CANARY}")
ALICE = {"tenant_id": "acme", "user_id": f"u-{CANARY}", "session_id": f"s-{CANARY}"}
BOB = {"tenant_id": "acme", "user_id": "bob"}
Make = Callable[[], tuple[Runtime, Memory]]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return lambda: made(request.param, tmp_path)


def made(kind: str, folder: Path, level: Any = "user") -> tuple[Runtime, Memory]:
    if kind == "memory":
        return InMemoryRuntime(), InMemoryMemory(embedder=None, level=level)
    path = folder / "bot.db"
    return SqliteRuntime(path, durability="process"), SqliteMemory(path, embedder=None, level=level)


def agent(runtime: Runtime, memory: Memory, *turns: Any, **options: Any) -> Agent[Any, Any]:
    model = ScriptedModel(turns)
    return Agent(
        "Be brief.", name="clerk", model=model, runtime=runtime, memory=memory, auto_extract=False, **options
    )


async def talk(runtime: Runtime, memory: Memory) -> None:
    """Bob first, who so is shown nothing of hers by a tenant's memory."""
    await agent(runtime, memory, "Hello, Bob.").run("My name is Bob, I like quinces.", **BOB)
    await agent(runtime, memory, f"Hello, {CANARY}.").run(f"My name is {CANARY}, I like quinces.", **ALICE)
    await agent(runtime, memory, "Quinces.").run("What do I like?", **ALICE)


async def recalled(memory: Memory, *scopes: Scope) -> str:
    found = [await memory.recall(scope, "who likes quinces?", limit=50) for scope in scopes]
    exported = [[item async for item in memory.export(scope)] for scope in scopes]
    return repr((found, exported))


async def erased(runtime: Runtime, memory: Memory, folder: Path) -> None:
    """Talk, and be erased; nothing is left. Raises AssertionError where something is."""
    await runtime.acquire()
    await memory.acquire()
    try:
        await talk(runtime, memory)
        scopes = (ACME, USER, Scope("acme", USER.user, f"s-{CANARY}"), Scope("acme", "bob"))
        assert CANARY in await recalled(memory, *scopes)
        told = await memory.erase(USER)
        assert told.records >= 2
        assert CANARY not in repr(told)
        assert CANARY not in await recalled(memory, *scopes)
        assert "Bob" in await recalled(memory, *scopes)
        assert not await runtime.store.list(USER, RunFilter(nested=True))
        assert (await memory.erase(USER)).records == 0
        kept = await agent(runtime, memory, "Bob.").run("What do I like, quinces?", **BOB)
        assert "Bob" in repr(kept.messages[0])
    finally:
        await memory.release()
        await runtime.release()
    assert not names_her(folder)


def names_her(folder: Path) -> list[Path]:
    """Files that have a byte of hers."""
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_user_is_forgotten_everywhere(make: Make, tmp_path: Path) -> None:
    go(erased(*make(), tmp_path))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_the_tenant_remembers_of_a_user_goes_too(kind: str, tmp_path: Path) -> None:
    go(erased(*made(kind, tmp_path, level="tenant"), tmp_path))


def test_traces_in_wider_partitions_that_are_kept_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(erasing._Traces, "forget", nothing)
    with pytest.raises(AssertionError):
        go(erased(*made("memory", tmp_path, level="tenant"), tmp_path))


def test_journals_that_are_kept_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        runtime, memory = made("sqlite", tmp_path)
        monkeypatch.setattr(memory, "covers", lambda runtime: None)
        await erased(runtime, memory, tmp_path)

    with pytest.raises(AssertionError):
        go(run())


def test_a_fact_that_others_said_too_stays_without_the_users_run(tmp_path: Path) -> None:
    async def run() -> None:
        runtime, memory = made("memory", tmp_path)
        await agent(runtime, memory, "Hello.").run("The office closes at six.", **ALICE, run_id="hers")
        shared = Fact(id="f", subject="office", predicate="closes_at", object="six", learned_at=1, valid_from=1,
                      sources=(Source("hers", 1), Source("his", 1)))  # fmt: skip
        await memory.keep(ACME, [shared])
        await memory.erase(USER)
        [(_, fact)] = [item async for item in memory.export(ACME)]
        assert isinstance(fact, Fact)
        assert fact.sources == (Source("his", 1),)
        assert [each.item for each in await memory.recall(ACME, "When does the office close?")] == [fact]

    go(run())


def test_a_run_that_is_driven_keeps_nothing_else_from_being_erased(tmp_path: Path) -> None:
    async def run() -> None:
        runtime, memory = made("memory", tmp_path)
        started, goes_on = asyncio.Event(), asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            """Wait."""
            started.set()
            await goes_on.wait()
            return "so long"

        await talk(runtime, memory)
        waiting = agent(runtime, memory, ToolCall("wait", {}), "Fine.", tools=[wait])
        driven = asyncio.create_task(waiting.run(f"I am {CANARY}", **ALICE, run_id="driven"))
        await started.wait()
        with pytest.raises(ErasureIncomplete, match="'driven'"):
            await memory.erase(USER)
        assert CANARY not in await recalled(memory, USER)
        goes_on.set()
        await driven
        assert CANARY in await recalled(memory, USER)
        await memory.erase(USER)
        assert CANARY not in await recalled(memory, USER)

    go(run())


def test_it_is_said_that_no_runtime_is_known(tmp_path: Path) -> None:
    async def run() -> None:
        _, memory = made("memory", tmp_path)
        await memory.remember(USER, f"{CANARY} likes quinces.")
        told = await memory.erase(USER)
        assert told.records == 1
        assert erasing.NO_JOURNALS in told.remains

    go(run())
