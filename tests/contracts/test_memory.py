"""Every memory store keeps the laws of its port."""

from __future__ import annotations

import pytest

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory import LAWS, SHARED_LAWS, Law, MemoryStores, check, name


class InMemory(MemoryStores):
    """One store for all: there is no other process."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__()
        self._store = store or InMemoryMemoryStore()

    def make(self) -> MemoryStore:
        return self._store


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_memory_store_in_memory(law: Law) -> None:
    check(law, InMemory())
