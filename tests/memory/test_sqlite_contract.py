"""The memory in the runtime's SQLite file keeps the laws of its port; in a file of its own, tests/contracts has it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory import (
    DURABLE_LAWS,
    Law,
    MemoryStores,
    check,
    name,
)


class OnFile(MemoryStores):
    """Stores on one file, each with connections of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make(self) -> MemoryStore:
        return SqliteMemoryStore(self._path, durability="process")


@pytest.mark.parametrize("law", DURABLE_LAWS, ids=name)
def test_the_memory_on_the_runtimes_file(law: Law, tmp_path: Path) -> None:
    async def used() -> None:
        store = SqliteStore(tmp_path / "bot.db")
        await store.open()
        await store.close()

    asyncio.run(used())
    check(law, OnFile(tmp_path / "bot.db"))
