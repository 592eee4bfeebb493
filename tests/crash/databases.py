"""Where the runs of a world are: in a file beside all else, or in a database of the tests' PostgreSQL server.

They are read as they lie, without the store that wrote them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Literal, Protocol

import apsw
import psycopg

from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.shared import queries
from shipworthy.adapters.sqlite import reader
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.domain.scope import Scope
from shipworthy.errors import StoreError
from shipworthy.rules.codec import decode_events
from tests.crash.checks import Journal, Run, RunKey
from tests.servers.postgres import superuser_dsn

Kind = Literal["sqlite", "postgres"]
DAMAGE = (StoreError, apsw.Error, psycopg.Error)
"""What reading a database raises that is not sound."""


class Database(Protocol):
    """The runs of one world.

    `address`: what its processes are told; empty for the file in their folder. `knows_the_dead`: whether a lock that
    is gone proves a death, so that whoever takes over need not wait for what a stopped worker could still do.
    """

    address: str
    knows_the_dead: bool

    def journal(self) -> Journal:
        """The runs as they lie."""
        ...

    def session_order(self) -> dict[str, int]:
        """The places that runs have in their session."""
        ...

    def copy(self, folder: Path) -> Database:
        """The same again, of the world whose copy is in *folder*."""
        ...

    def drop(self) -> None:
        """It is not needed any more, and no process uses it."""
        ...


def fresh(kind: Kind, folder: Path) -> Database:
    """An empty one."""
    return SqliteFile(folder) if kind == "sqlite" else PostgresDatabase.fresh()


class SqliteFile:
    """The file in the world's folder; it is copied with the folder, and removed with it."""

    address = ""
    knows_the_dead = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy(self, folder: Path) -> SqliteFile:
        return SqliteFile(folder)

    def drop(self) -> None:
        """Nothing but what is in the folder."""

    def journal(self) -> dict[RunKey, Run]:
        with self._copy() as path:
            if not path.exists() or not path.stat().st_size:
                return {}
            connection = apsw.Connection(str(path))
            try:
                return _runs_of(connection.cursor())
            finally:
                connection.close()

    def session_order(self) -> dict[str, int]:
        with self._copy() as path:
            query = "SELECT run_id, position FROM runs WHERE position IS NOT NULL"
            connection = apsw.Connection(str(path))
            try:
                return dict(connection.execute(query).fetchall())
            finally:
                connection.close()

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        """The file as it lies, copied, so that the next process finds it untouched."""
        copy = self._folder / "copy"
        copy.mkdir(exist_ok=True)
        try:
            for suffix in ("", "-wal"):
                source = self._folder / f"runs.db{suffix}"
                if source.exists():
                    shutil.copyfile(source, copy / f"runs.db{suffix}")
            yield copy / "runs.db"
        finally:
            shutil.rmtree(copy)


def _runs_of(cursor: apsw.Cursor) -> dict[RunKey, Run]:
    if not cursor.execute("SELECT 1 FROM sqlite_schema WHERE name = 'runs'").fetchall():
        return {}
    found = {}
    for key, tenant, run_id in cursor.execute("SELECT key, tenant, run_id FROM runs").fetchall():
        bodies = cursor.execute("SELECT digest FROM bodies WHERE run = ?", (key,)).fetchall()
        events = queries.history(partial(rows, cursor), reader.HISTORY, Scope(tenant), run_id, 0)
        found[tenant, run_id] = Run(events, {digest for (digest,) in bodies})
    return found


_TABLES = "shipworthy.runs, shipworthy.journal, shipworthy.bodies, shipworthy.workers"
_numbers = itertools.count(1)
_unused: list[str] = []
_lock = threading.Lock()


class PostgresDatabase:
    """A database of the session's server. It has the schema, as making it is proved elsewhere, and is used again."""

    knows_the_dead = False

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def fresh(cls) -> PostgresDatabase:
        with _lock:
            return cls(_unused.pop() if _unused else _create(_template()))

    def copy(self, folder: Path) -> PostgresDatabase:
        with _lock:
            return PostgresDatabase(_create(self.address.rpartition("/")[2]))

    def drop(self) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute(f"TRUNCATE {_TABLES}")
            broken = connection.execute("SELECT obj_description('shipworthy'::regnamespace)").fetchall()
        if broken == [(None,)]:
            _unused.append(self.address)

    def journal(self) -> dict[RunKey, Run]:
        with psycopg.connect(self.address) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            runs = connection.execute("SELECT key, tenant, run_id, head FROM shipworthy.runs").fetchall()
            batches = connection.execute(
                "SELECT run, events FROM shipworthy.journal ORDER BY run, first"
            ).fetchall()
            bodies = connection.execute("SELECT run, digest FROM shipworthy.bodies").fetchall()
        found = {}
        for key, tenant, run_id, head in runs:
            events = [event for run, data in batches if run == key for event in decode_events(data)]
            if [event.seq for event in events] != list(range(1, head + 1)):
                raise StoreError(f"The journal of {run_id} is not what its head says.")
            found[tenant, run_id] = Run(events, {digest for run, digest in bodies if run == key})
        return found

    def session_order(self) -> dict[str, int]:
        with psycopg.connect(self.address) as connection:
            query = "SELECT run_id, position FROM shipworthy.runs WHERE position IS NOT NULL"
            return dict(connection.execute(query).fetchall())


@cache
def _template() -> str:
    """The name of a database that has the schema, and that nobody is connected to."""
    address = _create("template1")

    async def make() -> None:
        store = PostgresStore(address)
        await store.open()
        await store.close()

    asyncio.run(make())
    return address.rpartition("/")[2]


def _create(template: str) -> str:
    """The address of a copy of the database *template*."""
    name = f"world_{os.getpid()}_{next(_numbers)}"
    dsn = superuser_dsn()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{dsn.rpartition('/')[0]}/{name}"
