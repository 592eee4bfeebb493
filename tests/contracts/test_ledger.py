"""Every ledger keeps the laws of its port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from shipworthy.adapters.inmemory import counters as inmemory
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.redis import RedisLedger
from shipworthy.adapters.sqlite import SqliteStore, budget
from shipworthy.testing.contracts.ledger import (
    CLOCK_LAWS,
    LAWS,
    SHARED_LAWS,
    Law,
    Ledgers,
    OwnLedger,
    check,
    name,
)
from tests.servers.postgres import a_database


class InMemory(Ledgers):
    """One ledger for all: there is no other process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ledger: OwnLedger | None = None) -> None:
        super().__init__()
        self._ledger = ledger or InMemoryLedger()
        self._ahead, now = 0, inmemory.now_ms
        monkeypatch.setattr(inmemory, "now_ms", lambda: now() + self._ahead)

    def make(self) -> OwnLedger:
        return self._ledger

    async def sleep(self, milliseconds: int) -> None:
        self._ahead += milliseconds


class OnSqlite(Ledgers):
    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ahead, now = 0, budget.now
        monkeypatch.setattr(budget, "now", lambda: now() + self._ahead)

    def make(self) -> OwnLedger:
        return SqliteStore(self._path, durability="process").ledger

    async def sleep(self, milliseconds: int) -> None:
        self._ahead += milliseconds


class OnPostgres(Ledgers):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn

    def make(self) -> OwnLedger:
        return PostgresStore(self._dsn).ledger


class OnRedis(Ledgers):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def make(self) -> OwnLedger:
        return RedisLedger(self._url)


@pytest.fixture(scope="module")
def one_database() -> Iterator[str]:
    """Made once: to make one for each law would take longer than the law."""
    with a_database() as dsn:
        yield dsn


@pytest.fixture
def emptied(one_database: str) -> str:
    with psycopg.connect(one_database, autocommit=True) as admin:
        tables = admin.execute("SELECT schemaname, relname FROM pg_stat_user_tables WHERE relname <> 'meta'")
        for table in tables.fetchall():
            admin.execute(SQL("DELETE FROM {}").format(Identifier(*table)))
    return one_database


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS + CLOCK_LAWS, ids=name)
def test_the_ledger_in_memory(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    check(law, InMemory(monkeypatch))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS + CLOCK_LAWS, ids=name)
def test_the_ledger_in_sqlite(law: Law, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check(law, OnSqlite(monkeypatch, tmp_path / "ledger.db"))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_postgres(law: Law, emptied: str) -> None:
    check(law, OnPostgres(emptied))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_redis(law: Law, redis_url: str) -> None:
    check(law, OnRedis(redis_url))
