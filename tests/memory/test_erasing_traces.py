"""What others share of an erased user: it is found without the journal, taken back against what is there now, and
nobody is kept from it by an embedder."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import shipworthy.engine.memory.erasing as erasing
import shipworthy.engine.remembering as remembering
from shipworthy import Agent, InMemoryRuntime, ScriptedModel, SqliteRuntime
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.app.memories import InMemoryMemory, SqliteMemory
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.memory import Mark, Record, Source, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import EmbedderChanged, ErasureIncomplete, MemoryConflict
from shipworthy.testing import FakeEmbedder
from tests.engine.world import go

ACME = Scope("acme")
ALICE, BOB = Scope("acme", "alice"), Scope("acme", "bob")
TRIP = Scope("acme", "alice", "trip")


def agent(memory: Memory, runtime: Any, *answers: str) -> Agent[Any, Any]:
    return Agent("Be brief.", name="clerk", model=ScriptedModel(answers), runtime=runtime, memory=memory, auto_extract=False)  # fmt: skip # noqa: E501


# found without the journal


async def left_of_pruned(path: Path, level: Any, scope: Scope) -> list[str]:
    """What is left of *scope*, erased when its run was pruned."""
    memory, runtime = SqliteMemory(path, level=level, embedder=None), SqliteRuntime(path)
    clerk = agent(memory, runtime, "Noted.")
    await clerk.run("I like quinces.", tenant_id="acme", user_id="alice", session_id="trip", run_id="r")
    shared = memory.partition(TRIP)
    assert shared is not None
    await memory.facts.add(shared, "alice", "likes", "quinces", source=Source("r", 1, "alice"))
    await memory.facts.add(shared, "office", "is in", "Berlin", source=Source("r2", 1, "bob"))
    assert await runtime.store.prune(Operator("tests"), time.time_ns() // 1_000_000 + 1000)
    await memory.erase(scope)
    found = [item.text async for _, item in memory.export(shared)]
    await clerk.close()
    return found


@pytest.mark.parametrize(("level", "scope"), [("tenant", ALICE), ("tenant", TRIP), ("user", TRIP)])
def test_what_is_shared_of_a_user_whose_run_was_pruned_is_erased(
    level: Any, scope: Scope, tmp_path: Path
) -> None:
    assert go(left_of_pruned(tmp_path / "bot.db", level, scope)) == ["office is in Berlin"]


def test_who_only_asks_the_journal_leaves_what_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing._Traces, "_is_mine", lambda self, source: source.run_id in self.run_ids)
    monkeypatch.setattr(erasing._Traces, "_note", lambda *_: None)
    assert len(go(left_of_pruned(tmp_path / "bot.db", "tenant", ALICE))) > 1


async def named_to_bob(path: Path) -> bool:
    """Whether a byte of the file names Alice, when she is erased and Bob was shown what she had said before."""
    memory = SqliteMemory(path, level="tenant", embedder=None)
    clerk = agent(memory, SqliteRuntime(path), "Noted.", "So it is.")
    await clerk.run("The office is in Berlin.", tenant_id="acme", user_id="AliceCanary", run_id="r")
    shown = await clerk.run("Is the office in Berlin?", tenant_id="acme", user_id="bob")
    assert "Berlin" in repr(shown.messages[0])
    await memory.erase(Scope("acme", "AliceCanary"))
    await clerk.close()
    return any([b"AliceCanary" in each.read_bytes() for each in path.parent.iterdir() if each.is_file()])


def test_the_journals_of_others_do_not_name_whom_they_were_told_of(tmp_path: Path) -> None:
    assert not go(named_to_bob(tmp_path / "bot.db"))


def test_a_journal_that_names_them_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = remembering._note

    def named(level: Any, each: Any) -> Any:
        told = note(level, each)
        return type(told)(
            **{name: getattr(told, name) for name in told.__struct_fields__} | {"source": each.item.source}
        )

    monkeypatch.setattr(remembering, "_note", named)
    assert go(named_to_bob(tmp_path / "bot.db"))


# against what is there now


class Between(InMemoryMemoryStore):
    """Somebody else has their turn between what is read and what is written."""

    hook: Callable[[], Awaitable[object]] | None = None
    after: str = "page"
    checks = True

    async def _turn(self, what: str) -> None:
        if self.hook is not None and what == self.after:
            hook, self.hook = self.hook, None
            await hook()

    async def page(self, *args: Any, **options: Any) -> list[Record]:
        found = await super().page(*args, **options)
        await self._turn("page")
        return found

    async def get(self, *args: Any, **options: Any) -> list[Record]:
        found = await super().get(*args, **options)
        await self._turn("get")
        return found

    async def put(self, scope: Scope, records: Any, *, replace: bool = False, at: Mark | None = None) -> Mark:
        return await super().put(scope, records, replace=replace, at=at if self.checks else None)


async def superseded(store: Between, memory: Memory, other: Memory) -> object:
    async def hook() -> None:
        await other.facts.add(ACME, "office", "is in", "Munich", single=True, source=Source("b2", 2, "bob"))

    store.hook = hook
    await erasing.erase(memory, [], ALICE)
    return [fact.object for fact in await memory.facts.of(ACME)] == ["Munich"]


async def both_erased(store: Between, memory: Memory, other: Memory) -> object:
    store.hook = lambda: erasing.erase(other, [], BOB)
    await erasing.erase(memory, [], ALICE)
    [fact] = await memory.facts.of(ACME)
    return [source.user for source in fact.sources] == ["carol"]


async def forgotten(store: Between, memory: Memory, other: Memory) -> object:
    store.hook = lambda: other.forget(ACME, query="office Berlin")
    await erasing.erase(memory, [], ALICE)
    return await memory.facts.of(ACME) == []


async def holds(case: Any, after: str, *, checks: bool = True) -> object:
    store = Between()
    memory, other = Memory(store), Memory(store)
    for user in ("alice", "bob", "carol"):
        await memory.facts.add(
            ACME, "office", "is in", "Berlin", single=True, source=Source(user[0], 1, user)
        )
    store.after, store.checks = after, checks
    return await case(store, memory, other)


CASES = [superseded, both_erased, forgotten]


@pytest.mark.parametrize("after", ["page", "get"])
@pytest.mark.parametrize("case", CASES)
def test_what_others_do_meanwhile_stays_done(case: Any, after: str) -> None:
    assert go(holds(case, after))


@pytest.mark.parametrize("case", CASES)
def test_who_writes_back_what_was_read_is_found(case: Any) -> None:
    assert not go(holds(case, "get", checks=False))


def test_who_never_has_their_turn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(InMemoryMemoryStore):
        busy = False

        async def put(self, scope: Scope, records: Any, **options: Any) -> Mark:
            if options.get("at") is not None and options.get("replace") and self.busy:
                raise MemoryConflict("Somebody writes all the time.")
            return await super().put(scope, records, **options)

    async def run() -> None:
        store = Busy()
        memory = Memory(store)
        for user in ("alice", "bob"):
            await memory.facts.add(ACME, "office", "is in", "Berlin", source=Source(user[0], 1, user))
        await memory.remember(ALICE, "I like quinces.")
        store.busy = True
        with pytest.raises(ErasureIncomplete, match="all the time"):
            await memory.erase(ALICE)
        assert not await memory.episodes(ALICE)
        store.busy = False
        await memory.erase(ALICE)
        [fact] = await memory.facts.of(ACME)
        assert [source.user for source in fact.sources] == ["bob"]

    monkeypatch.setattr(erasing, "_TRIES", 3)
    go(run())


# whatever embedder is configured


async def rights(path: Path) -> None:
    first = SqliteMemory(path, embedder=FakeEmbedder({}, [1.0, 0.0]))
    await first.remember(ALICE, "I like quinces.")
    await first.remember(ALICE, "I like plums.")
    await first.close()
    memory = SqliteMemory(path, embedder=None)
    with pytest.raises(EmbedderChanged):
        await memory.recall(ALICE, "quinces")
    assert len([item async for item in memory.export(ALICE)]) == 2
    assert await memory.forget(ALICE, query="quince") == 1
    assert (await memory.erase(ALICE)).records == 1
    with pytest.raises(EmbedderChanged):
        await memory.remember(ALICE, "more")
    await memory.close()


def test_a_changed_embedder_keeps_nobody_from_their_rights(tmp_path: Path) -> None:
    go(rights(tmp_path / "bot.db"))


def test_who_wants_vectors_first_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "reach", Memory.ready)
    with pytest.raises(EmbedderChanged):
        go(rights(tmp_path / "bot.db"))


def test_words_of_another_release_are_forgotten_too(tmp_path: Path) -> None:
    async def run() -> None:
        store = InMemoryMemoryStore()
        memory = Memory(store)
        await memory.remember(ALICE, "I like quinces.")
        [record] = await store.page(ALICE)
        await store.remove(ALICE, [record.id])
        await store.put(
            ALICE, [Record(id="r", kind="episode", data=record.data, at=1, terms=b"\1\2\3\4other words")]
        )
        await store.stamp(Stamp("other words"), replace=True)
        assert await Memory(store).forget(ALICE, query="quince") == 1

    go(run())


# which journals


def test_a_memory_keeps_no_runtime_of_a_closed_agent_but_one_a_place(tmp_path: Path) -> None:
    async def run() -> None:
        memory = InMemoryMemory(embedder=None)
        for _ in range(5):
            clerk = agent(memory, InMemoryRuntime(), "Hello.")
            await clerk.run("Hi, it is me.", tenant_id="acme", user_id="alice")
            await clerk.close()
        for _ in range(5):
            clerk = agent(memory, SqliteRuntime(tmp_path / "bot.db"), "Hello.")
            await clerk.run("Hi, it is me.", tenant_id="acme", user_id="alice")
            await clerk.close()
        del clerk
        gc.collect()
        [kept] = memory._journals.runtimes()
        await memory.erase(ALICE)
        await kept.open()
        assert not await kept.store.list(ALICE, RunFilter())
        await kept.close()

    go(run())


# what remains


def test_what_remains_of_one_file_is_said_once(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "bot.db"
        memory = SqliteMemory(path, embedder=None)
        clerk = agent(memory, SqliteRuntime(path), "Noted.")
        await clerk.run("I like quinces.", tenant_id="acme", user_id="alice")
        remains = (await memory.erase(ALICE)).remains
        assert len([sentence for sentence in remains if "backups" in sentence]) == 1
        await clerk.close()

    go(run())
