"""Memories: a store of records with what finds them, and the addresses that name one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from typing_extensions import Unpack

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.domain.memory import Level, Weights
from shipworthy.engine.memory.memory import Memory, Settings
from shipworthy.errors import ConfigurationError, MissingExtra
from shipworthy.ports.embedder import Embedder
from shipworthy.ports.memory import MemoryStore

if TYPE_CHECKING:
    from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
    from shipworthy.adapters.postgres.memory import PostgresMemoryStore
    from shipworthy.adapters.redis.memory import RedisMemoryStore


class MemoryOptions(TypedDict, total=False):
    """What every memory takes.

    `embedder`: an Embedder, "local", "openai:<model>", or None for words alone; by default "local" where that extra is
    installed. `level`: whose partition runs write to and recall from, `also`: further levels they recall from. `top_k`
    things of `max_tokens` in all are recalled for a run. `weights`: how ranks are fused. `with_facts`: whether facts
    are recalled, and may be learned; `fact_store`: where they are, if elsewhere, as a store or an address.
    `cache_bytes`: of the indexes that are kept in this process. `retention`: seconds after which episodes are
    forgotten, by level.
    """

    embedder: Embedder | str | None
    level: Level
    also: tuple[Level, ...]
    top_k: int
    max_tokens: int
    weights: Weights
    with_facts: bool
    fact_store: MemoryStore | str | None
    cache_bytes: int
    retention: Mapping[Level, float]


class InMemoryMemory(Memory):
    """A memory that lives as long as the process: of at most *max_users* users, each until it was idle for *idle_ttl*
    seconds, with their facts, and of at most *max_records* things in one partition."""

    def __init__(
        self,
        *,
        max_users: int = 100_000,
        idle_ttl: float = 86_400.0,
        max_records: int = 10_000,
        **options: Unpack[MemoryOptions],
    ) -> None:
        store = InMemoryMemoryStore(max_users=max_users, idle_ttl=idle_ttl, max_records=max_records)
        super().__init__(store, **_made(options))


class SqliteMemory(Memory):
    """A memory in an SQLite file, the runtime's or its own, which several processes of one machine may share."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["power", "process"] = "power",
        busy_timeout: float = 5.0,
        **options: Unpack[MemoryOptions],
    ) -> None:
        from shipworthy.adapters.sqlite.memory import SqliteMemoryStore

        if not isinstance(path, (str, os.PathLike)) or str(path) in ("", ":memory:"):
            raise ConfigurationError(
                f"{path!r} is not the path of a file.", fix='Pass a path such as "bot.db".'
            )
        store = SqliteMemoryStore(path, durability=durability, busy_timeout=busy_timeout)
        super().__init__(store, **_made(options))


class PostgresMemory(Memory):
    """A memory in a PostgreSQL database, in a schema of its own. Its row-level security shows one partition at a time.
    With the extension pgvector the server ranks what is too large for the process."""

    def __init__(
        self, dsn: str, *, patience: float = 5.0, readers: int = 2, **options: Unpack[MemoryOptions]
    ) -> None:
        super().__init__(_postgres(dsn, patience=patience, readers=readers), **_made(options))


class RedisMemory(Memory):
    """A memory in Redis or Valkey, under keys that begin with *prefix*."""

    def __init__(
        self, url: str | Callable[[], Any], *, prefix: str = "shipworthy", **options: Unpack[MemoryOptions]
    ) -> None:
        super().__init__(_redis(url, prefix=prefix), **_made(options))


class DynamoDBMemory(Memory):
    """A memory in one DynamoDB table, which `create=True` makes."""

    def __init__(
        self,
        table: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        create: bool = False,
        **options: Unpack[MemoryOptions],
    ) -> None:
        store = _dynamodb(table, region=region, endpoint_url=endpoint_url, create=create)
        super().__init__(store, **_made(options))


def memory_for(given: Memory | str) -> Memory:
    """A memory from what `Agent(memory=)` takes. Raises ConfigurationError."""
    if isinstance(given, Memory):
        return given
    if given == "inmemory":
        return InMemoryMemory()
    kind, colon, rest = given.partition(":") if isinstance(given, str) else ("", "", "")
    if colon and rest:
        match kind:
            case "sqlite":
                return SqliteMemory(rest)
            case "postgres" | "postgresql":
                return PostgresMemory(given)
            case "redis" | "rediss" | "valkey" | "unix":
                return RedisMemory(given)
            case "dynamodb":
                return DynamoDBMemory(rest.removeprefix("//"))
            case _:
                pass
    word = re.match(r"[A-Za-z][\w+.-]*(?=:|\Z)", given) if isinstance(given, str) else None
    raise ConfigurationError(
        f"{repr(word[0]) if word else f'This {type(given).__name__}'} is not a memory.",
        fix='Pass InMemoryMemory(), "inmemory", "sqlite:./bot.db", "postgres://user@host/database", '
        '"redis://host:6379/0", "dynamodb://table", or a memory.',
    )


def _made(options: MemoryOptions) -> dict[str, Any]:
    """What the memory itself is given. Raises ConfigurationError."""
    from shipworthy.app.embedders import embedder_for, local_is_installed

    given: dict[str, Any] = dict(options)
    known = MemoryOptions.__annotations__
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"A memory has no option {unknown[0]!r}; it has: {', '.join(known)}.")
    auto = "embedder" not in given
    embedder = embedder_for(given.pop("embedder", None))
    fact_store = given.pop("fact_store", None)
    if isinstance(fact_store, str):
        fact_store = memory_for(fact_store).store
    if fact_store is not None and not hasattr(fact_store, "changes"):
        raise ConfigurationError(
            f"fact_store={fact_store!r} is not a store.",
            fix="Pass InMemoryFactStore(), SqliteFactStore(path), ...",
        )
    if fact_store is not None and given.get("with_facts") is False:
        raise ConfigurationError("fact_store= is given, and with_facts=False.", fix="Leave one of them out.")
    return {
        "embedder": embedder,
        "local": (lambda: embedder_for("local")) if auto and local_is_installed() else None,
        "fact_store": fact_store,
        "settings": _settings(given),
    }


def _settings(given: dict[str, Any]) -> Settings:
    levels = get_args(Level)
    settings = Settings(**given)
    for level in (settings.level, *settings.also, *settings.retention):
        if level not in levels:
            raise ConfigurationError(f"{level!r} is not a level.", fix=f"Use one of {', '.join(levels)}.")
    for name in ("top_k", "max_tokens", "cache_bytes"):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name}={value!r} is not a number.", fix="Pass an int of at least 1.")
    for level, seconds in settings.retention.items():
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ConfigurationError(f"retention[{level!r}]={seconds!r} is not a time.", fix="Pass seconds.")
    if not isinstance(settings.weights, Weights):
        raise ConfigurationError(
            f"weights={settings.weights!r} are none.", fix="Pass Weights(words=1.0, ...)."
        )
    return settings


def _postgres(dsn: str, **options: Any) -> PostgresMemoryStore:
    try:
        from shipworthy.adapters.postgres.memory import PostgresMemoryStore
    except ModuleNotFoundError as error:
        raise _missing("PostgresMemory", error, "postgres") from error
    return PostgresMemoryStore(dsn, **options)


def _redis(url: Any, **options: Any) -> RedisMemoryStore:
    try:
        from shipworthy.adapters.redis.memory import RedisMemoryStore
    except ModuleNotFoundError as error:
        raise _missing("RedisMemory", error, "redis") from error
    return RedisMemoryStore(url, **options)


def _dynamodb(table: str, **options: Any) -> DynamoDBMemoryStore:
    try:
        from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
    except ModuleNotFoundError as error:
        raise _missing("DynamoDBMemory", error, "dynamodb") from error
    return DynamoDBMemoryStore(table, **options)


def _missing(what: str, error: ModuleNotFoundError, extra: str) -> MissingExtra:
    return MissingExtra(f"{what} needs the package {error.name}.", fix=f'pip install "shipworthy[{extra}]"')
