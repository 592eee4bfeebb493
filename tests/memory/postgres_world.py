"""Partitions in PostgreSQL that differ in whose they are and in nothing else, and ways to look at them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg

from shipworthy.adapters.postgres.connection import Connection, Server
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.postgres.memory_places import place_of_scope
from shipworthy.adapters.postgres.memory_session import enter
from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Scope
from tests.servers.postgres import Postgres, postgres_server

MINE = Scope("acme", "alice")
WITHIN = Scope("acme", "alice", "trip")
THEIRS = Scope("globex", "alice")
OTHERS = (
    Scope("acme"),
    Scope("acme", "bob"),
    Scope("acme", "alice2"),
    Scope("acme", "alice!"),
    Scope("acme", "alic"),
    THEIRS,
    Scope("globex"),
    Scope("a", "alice"),
    Scope("zulu"),
)
OWNER = "shipworthy_memory_owner"
TABLES = "partitions", "records", "vectors"


def vector(*numbers: float) -> bytes:
    import array

    return b"TAG." + array.array("f", numbers).tobytes()


def record(id: str, scope: Scope) -> Record:
    """Whose it is can be told from its data alone."""
    data = f"canary of {scope}".encode()
    return Record(id=id, kind="episode", data=data, at=1, terms=data, vector=vector(1.0, 0.0))


@contextlib.contextmanager
def an_owned_database(postgres: Postgres | None = None, *, pgvector: bool = True) -> Iterator[str]:
    """Of a role that is no superuser and may only create; its dsn."""
    server = postgres or postgres_server()
    dsn = server.fresh_database()
    try:
        with psycopg.connect(server.dsn, autocommit=True) as superuser:
            superuser.execute(
                "SELECT pg_advisory_lock(4711)"
            )  # roles are the server's; tests run side by side
            for role, what in (("shipworthy_app", "NOLOGIN"), (OWNER, "LOGIN")):
                with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                    superuser.execute(f"CREATE ROLE {role} {what}".encode())
            superuser.execute(f"GRANT shipworthy_app TO {OWNER}".encode())
            superuser.execute(f"GRANT CREATE ON DATABASE {dsn.rpartition('/')[2]} TO {OWNER}".encode())
        if pgvector:
            with admin(dsn) as c:
                c.execute("CREATE EXTENSION vector SCHEMA public")
        yield dsn.replace("postgres@", f"{OWNER}@", 1)
    finally:
        server.drop_database(dsn)


def admin(dsn: str) -> psycopg.Connection[Any]:
    """The superuser."""
    return psycopg.connect(dsn.replace(OWNER, "postgres"), autocommit=True)


async def fill(dsn: str) -> None:
    """Partitions with records of the same ids and numbers, by a store."""
    store = PostgresMemoryStore(dsn)
    await store.open()
    for scope in (MINE, WITHIN, *OTHERS):
        await store.put(scope, [record("a", scope), record("b", scope), record("c", scope)])
        if hasattr(store, "nearest"):  # copies vectors
            assert len(await store.nearest(scope, vector(1.0, 0.0), 9, ["episode"])) == 3
    await store.close()
    with admin(dsn) as c:
        c.execute("UPDATE shipworthy_memory.partitions SET epoch = 9, token = 7")


def session(dsn: str) -> Connection:
    """As the store has it."""
    return enter(Server(dsn, True, 5.0))


def rows(c: psycopg.Connection[Any], whose: tuple[Scope, ...]) -> list[Any]:
    """Every row of these partitions, as the superuser sees it."""
    places = [place_of_scope(scope) for scope in whose]
    return [
        (table, *row)
        for table in TABLES
        for row in c.execute(
            f"SELECT * FROM shipworthy_memory.{table} WHERE place = ANY (%s) ORDER BY place, n".encode(),
            (places,),
        ).fetchall()
    ]


@contextlib.asynccontextmanager
async def opened(dsn: str, patience: float = 5.0, readers: int = 1) -> AsyncIterator[PostgresMemoryStore]:
    store = PostgresMemoryStore(dsn, patience=patience, readers=readers)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
