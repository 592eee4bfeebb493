"""Nothing of an erased user is left beneath any memory store, whatever the journals are in: each canary is looked for
in every file, table, key and item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import redis

import shipworthy.engine.memory.erasing as erasing
from shipworthy import Agent, PostgresRuntime, ScriptedModel, SqliteRuntime, ToolCall, tool
from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.redis.memory import RedisMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.memory import Erased, Source
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.erasing import JournalsErased
from shipworthy.engine.memory.memory import Memory, Settings
from shipworthy.engine.runtime import Runtime
from shipworthy.ports.memory import MemoryStore
from tests.engine.world import go
from tests.servers.dynamodb import a_dynamodb_table
from tests.servers.postgres import a_database
from tests.servers.redis import a_redis_database

ACME = Scope("acme")
CANARIES = [
    f"Zuz{name}4711" for name in ("user", "session", "run", "said", "answer", "argument", "fact", "block")
]
USER_ID, SESSION_ID, RUN_ID, SAID, ANSWER, ARGUMENT, FACT, BLOCK = CANARIES
USER = Scope("acme", USER_ID)
SESSION = Scope("acme", USER_ID, SESSION_ID)


class World(NamedTuple):
    """A memory store and a runtime, and everything that is beneath them as text."""

    store: MemoryStore
    runtime: Runtime
    beneath: Callable[[], str]

    def found(self) -> set[str]:
        """The canaries that are beneath."""
        text = self.beneath()
        return {each for each in CANARIES if each in text or each.encode().hex() in text}


def files_of(folder: Path) -> str:
    return "".join([path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()])


def rows_of(dsn: str) -> str:
    """Every row of every table of every schema of ours."""
    tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text LIKE 'shipworthy%'"  # fmt: skip # noqa: E501
    with psycopg.connect(dsn) as connection:
        names = [name for (name,) in connection.execute(tables.encode())]
        rows = [connection.execute(f"SELECT t::text FROM {name} AS t".encode()).fetchall() for name in names]
    return "\n".join([row for some in rows for (row,) in some])


def keys_of(url: str) -> str:
    """Every key, and what is under it."""
    with redis.Redis.from_url(url, protocol=2) as client:
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"stream": client.xrange,
        }
        return repr([(key, read[client.type(key)](key)) for key in client.scan_iter("*")])


def items_of(client: Any, table: str) -> str:
    pages = client.get_paginator("scan").paginate(TableName=table)
    return repr([item for page in pages for item in page["Items"]])


def held_by(store: InMemoryMemoryStore) -> str:
    return repr([vars(part) if hasattr(part, "__dict__") else part for part in parts_of(store)])


def parts_of(found: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Everything that is reached from *found*."""
    seen = set() if seen is None else seen
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(found, dict):
        inner = [*found, *found.values()]
    elif isinstance(found, (list, tuple, set, frozenset)):
        inner = list(found)
    elif type(found).__module__.startswith("shipworthy"):
        slots = [name for cls in type(found).__mro__ for name in getattr(cls, "__slots__", ())]
        inner = [*getattr(found, "__dict__", {}).values()]
        inner += [getattr(found, name) for name in slots if hasattr(found, name)]
    else:
        yield found
        return
    for each in inner:
        yield from parts_of(each, seen)


@contextmanager
def world_of(kind: str, folder: Path) -> Iterator[World]:
    """Journals are in the memory's own database where there is one, else in the one or the other."""
    with ExitStack() as stack:
        path = folder / "bot.db"
        if kind in ("postgres", "redis"):
            dsn = stack.enter_context(a_database())
            runtime: Runtime = PostgresRuntime(dsn)
        else:
            runtime = SqliteRuntime(path, durability="process")
        if kind == "postgres":
            yield World(PostgresMemoryStore(dsn), runtime, lambda: rows_of(dsn))
        elif kind == "redis":
            url = stack.enter_context(a_redis_database())
            yield World(RedisMemoryStore(url), runtime, lambda: rows_of(dsn) + keys_of(url))
        elif kind == "dynamodb":
            table = stack.enter_context(a_dynamodb_table())
            store = DynamoDBMemoryStore(table.name, client=table.client(), create=True)
            yield World(store, runtime, lambda: files_of(folder) + items_of(table.client(), table.name))
        elif kind == "sqlite":
            sqlite = SqliteMemoryStore(path, durability="process")
            yield World(sqlite, runtime, lambda: files_of(folder))
        else:
            kept = InMemoryMemoryStore()
            yield World(kept, runtime, lambda: files_of(folder) + held_by(kept))


@tool(effect="once")
async def pay(whom: str) -> str:
    """Pay somebody."""
    return f"paid {whom}"


async def live(memory: Memory, runtime: Runtime) -> None:
    """A memory of the tenant, the user and a session, with all that a run can leave in one; Bob has some too."""
    turns: list[Any] = [ToolCall("pay", {"whom": ARGUMENT}), f"I paid {ANSWER}.", "Hello, Bob."]
    agent = Agent("Be brief.", model=ScriptedModel(turns), runtime=runtime, memory=memory, auto_extract=False, tools=[pay])  # fmt: skip # noqa: E501
    hers: Any = {"tenant_id": "acme", "user_id": USER_ID, "session_id": SESSION_ID, "run_id": RUN_ID}
    await agent.run(f"Pay {SAID}.", **hers)
    for scope in (USER, SESSION):
        await memory.remember(scope, f"likes {SAID}")
        await memory.facts.add(scope, "she", "likes", FACT, source=Source(RUN_ID, 1))
        await memory.set_block(scope, "profile", BLOCK)
    await memory.facts.add(ACME, "shop", "is open", FACT, source=Source("pruned", 1, USER_ID))
    for source in (Source(RUN_ID, 1, USER_ID), Source("his", 1, "bob")):
        await memory.facts.add(ACME, "office", "closes at", "six", source=source)
    await memory.remember(Scope("acme", "bob"), "Bob likes quinces")


async def erased(world: World) -> None:
    """Raises AssertionError where something is left of her, or nothing of Bob."""
    memory = Memory(world.store, settings=Settings(level="tenant", also=("user", "session")))
    await world.runtime.acquire()
    await memory.acquire()
    try:
        await live(memory, world.runtime)
        assert world.found() == {*CANARIES}
        told = await memory.erase(USER)
        assert not any([each in repr(told) for each in CANARIES])
        assert len([sentence for sentence in told.remains if "backups" in sentence]) <= 2
        assert world.found() == set()
        assert [text.text for text in await memory.facts.of(ACME)] == ["office closes at six"]
        assert len(await memory.episodes(Scope("acme", "bob"))) == 1
        places = await world.store.everything(Operator("tests"))
        assert {scope for _, scope in places} <= {ACME, Scope("acme", "bob")}
    finally:
        await memory.release()
        await world.runtime.release()
    assert world.found() == set()


KINDS = ["inmemory", "sqlite", "postgres", "redis", "dynamodb"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_of_an_erased_user_is_beneath_any_store(kind: str, tmp_path: Path) -> None:
    with world_of(kind, tmp_path) as world:
        go(erased(world))


def keep_the_store(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> Erased:
        return Erased(0)

    patch.setattr(InMemoryMemoryStore, "erase", nothing)


def keep_the_journals(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> JournalsErased:
        return JournalsErased((), ())

    patch.setattr(erasing, "erase_journals", nothing)


def keep_the_traces(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        pass

    patch.setattr(erasing._Traces, "forget", nothing)


def know_them_by_journals_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(erasing._Traces, "_is_mine", lambda self, source: source.run_id in self.run_ids)


@pytest.mark.parametrize(
    "mutant", [keep_the_store, keep_the_journals, keep_the_traces, know_them_by_journals_alone]
)
def test_whatever_is_kept_is_found(mutant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with world_of("inmemory", tmp_path) as world, pytest.raises(AssertionError):
        go(erased(world))
