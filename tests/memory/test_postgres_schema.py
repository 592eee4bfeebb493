"""Whom and which schemas Postgres memory refuses, and how many processes make or change its schema at once."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from subprocess import PIPE
from typing import Any

import pytest

from shipworthy.adapters.postgres import memory_schema, memory_statements
from shipworthy.adapters.postgres.connection import Server
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.postgres.store import PostgresStore
from shipworthy.errors import (
    ConfigurationError,
    MemoryForeign,
    MemoryReadOnly,
    MemoryStoreError,
)
from tests.memory.postgres_world import MINE, OWNER, admin, an_owned_database, opened, record

# what is not allowed, and schemas of others


def test_who_may_only_read_is_told_so(database: str) -> None:
    async def scenario() -> None:
        async with opened(database) as store:
            await store.put(MINE, [record("a", MINE)])
        with admin(database) as c:
            c.execute(
                f"ALTER DATABASE {database.rpartition('/')[2]} SET default_transaction_read_only = on".encode()
            )
        async with opened(database, patience=0.1) as store:
            assert len(await store.page(MINE)) == 1
            with pytest.raises(MemoryReadOnly, match="primary"):
                await store.put(MINE, [record("b", MINE)])
            with pytest.raises(MemoryReadOnly):
                await store.erase(MINE)

    asyncio.run(scenario())


NEWER = "UPDATE shipworthy_memory.meta SET version = 9, oldest = 9"


@pytest.mark.parametrize(
    ("spoils", "error", "says"),
    [
        (NEWER, MemoryForeign, "newer release"),
        ("UPDATE shipworthy_memory.meta SET version = 9", None, ""),
        ("DROP TABLE shipworthy_memory.meta", MemoryForeign, "something else"),
        ("ALTER TABLE shipworthy_memory.meta RENAME version TO edition", MemoryForeign, "something else"),
        ("DELETE FROM shipworthy_memory.meta", MemoryForeign, "something else"),
        (
            "REVOKE DELETE ON shipworthy_memory.records FROM shipworthy_app",
            MemoryStoreError,
            r"on records\).*GRANT",
        ),
        ("REVOKE USAGE ON SCHEMA shipworthy_memory FROM shipworthy_app", MemoryStoreError, "GRANT USAGE"),
        ("ALTER TABLE shipworthy_memory.records NO FORCE ROW LEVEL SECURITY", MemoryStoreError, "row level"),
        ("ALTER TABLE shipworthy_memory.records DISABLE ROW LEVEL SECURITY", MemoryStoreError, "row level"),
        ("DROP POLICY place ON shipworthy_memory.partitions", MemoryStoreError, "row level"),
        ("CREATE POLICY mine ON shipworthy_memory.records USING (true)", MemoryStoreError, "row level"),
        ("ALTER TABLE shipworthy_memory.records OWNER TO shipworthy_app", MemoryStoreError, "own it"),
    ],
)
def test_a_schema_that_is_not_as_it_has_to_be_is_refused(
    spoils: str, error: type[MemoryStoreError] | None, says: str, database: str
) -> None:
    async def scenario() -> None:
        async with opened(database):
            pass
        with admin(database) as c:
            c.execute(spoils.encode())
        with pytest.raises(error, match=says) if error else contextlib.nullcontext():
            async with opened(database):
                pass

    asyncio.run(scenario())


def test_a_role_that_may_not_create_is_told_what_it_needs() -> None:
    """And works, without pgvector, once somebody made the empty schema for it."""
    with an_owned_database(pgvector=False) as dsn:
        with admin(dsn) as c:
            c.execute(f"REVOKE CREATE ON DATABASE {dsn.rpartition('/')[2]} FROM {OWNER}".encode())
        with pytest.raises(MemoryStoreError, match="GRANT CREATE ON DATABASE"):
            asyncio.run(PostgresMemoryStore(dsn).open())
        with admin(dsn) as c:
            c.execute(f"CREATE SCHEMA shipworthy_memory AUTHORIZATION {OWNER}".encode())

        async def scenario() -> None:
            async with opened(dsn) as store:
                assert not hasattr(store, "nearest")
                await store.put(MINE, [record("a", MINE)])

        asyncio.run(scenario())


@pytest.mark.parametrize("settings", [{"patience": -1}, {"patience": "5"}, {"readers": 0}, {"readers": True}])
def test_settings_that_mean_nothing_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigurationError):
        PostgresMemoryStore("postgres://u:hunter2@localhost/d", **settings)
    assert "hunter2" not in PostgresMemoryStore("postgres://u:hunter2@localhost/d").name


# migrations by many at once

MANY = 8
NEXT = """ALTER TABLE shipworthy_memory.records ADD COLUMN later integer;
SELECT pg_sleep(0.2); UPDATE shipworthy_memory.meta SET version = 2, oldest = 1"""
CHILD = f"""
import sys
from shipworthy.adapters.postgres import memory_schema, memory_statements
from shipworthy.adapters.postgres.connection import Server
for steps in (memory_statements.MIGRATIONS, (*memory_statements.MIGRATIONS, {NEXT!r})):
    print("ready", flush=True)
    sys.stdin.readline()
    memory_schema.prepare(Server(sys.argv[1], True, 20.0), steps)
print("done", flush=True)
"""


def go(children: list[subprocess.Popen[str]]) -> list[str]:
    """Let all of them do what is next, at the same moment, and wait until each is ready again."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return told(children)


def told(children: list[subprocess.Popen[str]]) -> list[str]:
    return [str(child.stdout and child.stdout.readline()) for child in children]


def test_many_processes_make_the_schema_at_once_and_bring_it_up_to_date() -> None:
    """A new one, then one of an older format with a record in it, which an older release still uses afterwards. Beside
    the runtime's schema."""

    async def scenario(dsn: str, children: list[subprocess.Popen[str]]) -> None:
        runtime = PostgresStore(dsn)
        await runtime.open()
        await runtime.close()
        assert told(children) == ["ready\n"] * MANY
        assert await asyncio.to_thread(go, children) == ["ready\n"] * MANY
        async with opened(dsn) as store:
            await store.put(MINE, [record("a", MINE)])
            assert await asyncio.to_thread(go, children) == ["done\n"] * MANY
            await store.put(MINE, [record("b", MINE)])
        async with opened(dsn) as store:
            assert [each.id for each in await store.page(MINE)] == ["a", "b"]
        with admin(dsn) as c:
            assert c.execute("SELECT version, oldest FROM shipworthy_memory.meta").fetchall() == [(2, 1)]

    with an_owned_database() as dsn, contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", CHILD, dsn]
        starts = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(MANY)]
        children = [stack.enter_context(child) for child in starts]
        asyncio.run(scenario(dsn, children))


def test_a_schema_that_is_made_without_a_lock_is_caught(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of many at once find half of it."""
    monkeypatch.setattr(memory_schema, "_LOCK", "SELECT")
    slow = memory_statements.MIGRATIONS[0].replace("-- `oldest`", "SELECT pg_sleep(0.2); --")
    monkeypatch.setattr(memory_statements, "MIGRATIONS", (slow,))

    async def opens() -> list[Any]:
        prepare: Callable[[], Any] = lambda: memory_schema.prepare(Server(database, True, 5.0))  # noqa: E731
        return await asyncio.gather(*[asyncio.to_thread(prepare) for _ in range(4)], return_exceptions=True)

    assert [each for each in asyncio.run(opens()) if isinstance(each, MemoryStoreError)]
