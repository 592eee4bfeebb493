"""Every memory store keeps the laws of its port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.redis.memory import RedisMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory import (
    DURABLE_LAWS,
    LAWS,
    SHARED_LAWS,
    Law,
    MemoryStores,
    check,
    name,
)
from tests.servers.dynamodb import Table
from tests.servers.postgres import a_database

EVERY = LAWS + SHARED_LAWS + DURABLE_LAWS


class InMemory(MemoryStores):
    """One store for all: there is no other process."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__()
        self._store = store or InMemoryMemoryStore()

    def make(self) -> MemoryStore:
        return self._store


class OnSqlite(MemoryStores):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make(self) -> MemoryStore:
        return SqliteMemoryStore(self._path, durability="process")


class OnPostgres(MemoryStores):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn

    def make(self) -> MemoryStore:
        return PostgresMemoryStore(self._dsn)


class OnRedis(MemoryStores):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def make(self) -> MemoryStore:
        return RedisMemoryStore(self._url)


class OnDynamoDB(MemoryStores):
    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def make(self) -> MemoryStore:
        return DynamoDBMemoryStore(self._table.name, client=self._table.client(), create=True)


@pytest.fixture(scope="module")
def one_database() -> Iterator[str]:
    """Made once, with its tables: that takes longer than a law."""
    with a_database() as dsn:
        yield dsn


@pytest.fixture
def emptied(one_database: str) -> str:
    with psycopg.connect(one_database, autocommit=True) as admin:
        found = admin.execute(
            "SELECT schemaname, relname FROM pg_stat_user_tables WHERE schemaname = 'shipworthy_memory' "
            "AND relname IN ('partitions', 'records', 'stamp')"
        )
        for table in found.fetchall():
            admin.execute(SQL("TRUNCATE {} CASCADE").format(Identifier(*table)))
    return one_database


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_memory_store_in_memory(law: Law) -> None:
    check(law, InMemory())


@pytest.mark.parametrize("law", EVERY, ids=name)
def test_the_memory_store_in_sqlite(law: Law, tmp_path: Path) -> None:
    check(law, OnSqlite(tmp_path / "memory.db"))


@pytest.mark.parametrize("law", EVERY, ids=name)
def test_the_memory_store_in_postgres(law: Law, emptied: str) -> None:
    check(law, OnPostgres(emptied))


@pytest.mark.parametrize("law", EVERY, ids=name)
def test_the_memory_store_in_redis(law: Law, redis_url: str) -> None:
    check(law, OnRedis(redis_url))


@pytest.mark.parametrize("law", EVERY, ids=name)
def test_the_memory_store_in_dynamodb(law: Law, dynamodb_table: Table) -> None:
    check(law, OnDynamoDB(dynamodb_table))
