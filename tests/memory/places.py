"""Where the proofs of isolation have their stores: two empty places of each kind, and stores on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.redis.memory import RedisMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.ports.memory import MemoryStore
from tests.servers.dynamodb import a_dynamodb_table
from tests.servers.postgres import a_database
from tests.servers.redis import a_redis_database

Make = Callable[[], MemoryStore]


class Pair(NamedTuple):
    """Two empty places: what makes stores on the one, and on the other."""

    alone: Make
    among: Make


@contextmanager
def in_memory(folder: Path) -> Iterator[Pair]:
    """One store is one place."""
    alone, among = InMemoryMemoryStore(), InMemoryMemoryStore()
    yield Pair(lambda: alone, lambda: among)


@contextmanager
def on_sqlite(folder: Path) -> Iterator[Pair]:
    def make(path: Path) -> Make:
        return lambda: SqliteMemoryStore(path, durability="process")

    yield Pair(make(folder / "alone.db"), make(folder / "among.db"))


@contextmanager
def on_postgres(folder: Path) -> Iterator[Pair]:
    def make(dsn: str) -> Make:
        return lambda: PostgresMemoryStore(dsn)

    with ExitStack() as stack:
        alone, among = (stack.enter_context(a_database()) for _ in range(2))
        yield Pair(make(alone), make(among))


@contextmanager
def on_redis(folder: Path) -> Iterator[Pair]:
    with a_redis_database() as url:
        yield Pair(
            lambda: RedisMemoryStore(url, prefix="alone"), lambda: RedisMemoryStore(url, prefix="among")
        )


@contextmanager
def on_dynamodb(folder: Path) -> Iterator[Pair]:
    """One table, used in turn: its name is in what an erasure says of its copies."""
    with a_dynamodb_table() as table:

        def make() -> MemoryStore:
            return DynamoDBMemoryStore(table.name, client=table.client(), create=True)

        yield Pair(make, make)


Place = Callable[[Path], AbstractContextManager[Pair]]
PLACES: dict[str, Place] = {
    "inmemory": in_memory,
    "sqlite": on_sqlite,
    "postgres": on_postgres,
    "redis": on_redis,
    "dynamodb": on_dynamodb,
}
