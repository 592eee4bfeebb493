"""What is recalled is what the store has, whoever wrote or forgot it meanwhile: in this process or in another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.memory import Episode
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory import indexes
from shipworthy.engine.memory.memory import Memory
from shipworthy.ports.memory import MemoryStore

ALICE = Scope("acme", "alice")
Stores = Callable[[], MemoryStore]


def in_memory(_: Path) -> Stores:
    store = InMemoryMemoryStore()
    return lambda: store


def on_a_file(folder: Path) -> Stores:
    return lambda: SqliteMemoryStore(folder / "m.db", durability="process")


class NothingIsNew(SqliteMemoryStore):
    """Says always that nobody wrote."""

    def version(self) -> tuple[int, int] | None:
        return 1, 1


def deaf(folder: Path) -> Stores:
    return lambda: NothingIsNew(folder / "m.db", durability="process")


async def said(memory: Memory) -> list[str]:
    return sorted([each.text for each in await memory.recall(ALICE, "tea")])


async def tell(memory: Memory, id: str, text: str) -> None:
    await memory.keep(ALICE, [Episode(id=id, text=text, at=1)], replace=True)


async def is_fresh(stores: Stores) -> None:
    """One who reads and one who writes, with a memory each."""
    one, other = Memory(stores()), Memory(stores())
    await tell(one, "a", "Green tea.")
    for _ in range(3):
        assert await said(one) == await said(other) == ["Green tea."]
    await tell(one, "b", "Black tea.")
    assert await said(other) == ["Black tea.", "Green tea."]
    await tell(one, "a", "No tea.")
    assert await said(other) == ["Black tea.", "No tea."]
    await one.forget(ALICE, ids=["b"])
    assert await said(other) == ["No tea."]
    await tell(one, "b", "Red tea.")
    assert await said(other) == ["No tea.", "Red tea."]
    await one.erase(ALICE)
    assert await said(other) == []
    await tell(one, "a", "White tea.")
    assert await said(other) == await said(one) == ["White tea."]
    await one.close()
    await other.close()


@pytest.mark.parametrize("where", [in_memory, on_a_file])
def test_what_others_wrote_and_forgot_is_seen_by_the_next_recall(where: Any, tmp_path: Path) -> None:
    asyncio.run(is_fresh(where(tmp_path)))


def test_a_store_that_does_not_tell_that_others_wrote_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        asyncio.run(is_fresh(deaf(tmp_path)))


def test_records_that_are_kept_when_they_were_replaced_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = indexes._Held._keep

    def kept(self: Any, found: Any) -> bool:
        return keep(self, [each for each in found if each.id not in self.records])

    monkeypatch.setattr(indexes._Held, "_drop", lambda self, id: None)
    monkeypatch.setattr(indexes._Held, "_keep", kept)
    with pytest.raises(AssertionError):
        asyncio.run(is_fresh(on_a_file(tmp_path)))


def test_a_store_is_not_asked_where_nobody_wrote(tmp_path: Path) -> None:
    asked = []

    class Counted(SqliteMemoryStore):
        async def changes(self, *given: Any, **how: Any) -> Any:
            asked.append("changes")
            return await super().changes(*given, **how)

        async def get(self, *given: Any, **how: Any) -> Any:
            asked.append("get")
            return await super().get(*given, **how)

    async def law() -> None:
        memory = Memory(Counted(tmp_path / "m.db", durability="process"))
        await tell(memory, "a", "Green tea.")
        for _ in range(5):
            assert await said(memory) == ["Green tea."]
        assert asked == ["changes"]
        await memory.close()

    asyncio.run(law())
