"""Every ledger keeps the laws of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipworthy.adapters.inmemory import ledger as inmemory
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.redis import RedisLedger
from shipworthy.adapters.sqlite import SqliteStore, budget
from shipworthy.testing.contracts.ledger import LAWS, SHARED_LAWS, Law, Ledgers, OwnLedger, check, name


class InMemory(Ledgers):
    """One ledger for all: there is no other process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ledger: OwnLedger | None = None) -> None:
        super().__init__()
        self._ledger = ledger or InMemoryLedger()
        self._ahead, now = 0, inmemory._now
        monkeypatch.setattr(inmemory, "_now", lambda: now() + self._ahead)

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


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_memory(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    check(law, InMemory(monkeypatch))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_sqlite(law: Law, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check(law, OnSqlite(monkeypatch, tmp_path / "ledger.db"))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_postgres(law: Law, database: str) -> None:
    check(law, OnPostgres(database))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_redis(law: Law, redis_url: str) -> None:
    check(law, OnRedis(redis_url))
