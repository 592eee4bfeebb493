"""Every store keeps the laws of its port."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.shared.lane import Lane
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store import LAWS, SHARED_LAWS, Law, Workers, check, name
from tests.servers.postgres import Postgres

A_LONG_TIME = 10**9


class InMemory(Workers):
    def make(self, *, lease_ttl: float, clock_skew: float) -> Store:
        return InMemoryStore()


class Sqlite(Workers):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, *, lease_ttl: float, clock_skew: float) -> SqliteStore:
        return SqliteStore(self.path, lease_ttl=lease_ttl, clock_skew=clock_skew)

    async def kill(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        writer, reader, worker = store._writer, store._reader, store._worker
        assert writer is not None
        assert reader is not None
        assert worker is not None
        store._writer, store._closed = None, True
        for lane in (writer, reader):
            Lane.stop(lane)
        worker.lock.drop()

    async def freeze(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        assert store._writer is not None
        store._writer._renew_at += A_LONG_TIME


class OnPostgres(Workers):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.dsn = dsn

    def make(self, *, lease_ttl: float, clock_skew: float) -> PostgresStore:
        return PostgresStore(self.dsn, lease_ttl=lease_ttl, clock_skew=clock_skew)

    async def kill(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        sessions, store._sessions, store._closed = store._sessions, None, True
        assert sessions is not None
        assert sessions.writer._connection is not None
        pid = sessions.writer._connection.info.backend_pid
        sessions.writer.stop()
        sessions.stop()
        with psycopg.connect(self.dsn, autocommit=True) as admin:  # the server learns of it in its own time
            while admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def freeze(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        assert store._sessions is not None
        store._sessions.writer._renew_at += A_LONG_TIME


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_the_store_in_memory(law: Law) -> None:
    check(law, InMemory())


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_sqlite_store(law: Law, tmp_path: Path) -> None:
    check(law, Sqlite(tmp_path / "runs.db"))


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_postgres_store(law: Law, postgres: Postgres) -> None:
    check(law, OnPostgres(postgres.fresh_database()))
