"""Stores for facts that are kept elsewhere than the episodes."""

from __future__ import annotations

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore


class InMemoryFactStore(InMemoryMemoryStore):
    """Facts that live as long as the process, bounded as in InMemoryMemory."""


class SqliteFactStore(SqliteMemoryStore):
    """Facts in an SQLite file."""
