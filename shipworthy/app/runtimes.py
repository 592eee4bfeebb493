"""Runtimes: a store plus the driver in this process."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Literal

from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.app.configuration import LONGEST
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, MissingExtra
from shipworthy.ports.store import Store

if TYPE_CHECKING:
    from shipworthy.adapters.postgres.store import PostgresStore
    from shipworthy.app.signing import SigningKeys
    from shipworthy.domain.grants import SigningKey


class InMemoryRuntime(Runtime):
    """Runs that live as long as the process; at most *max_runs* are kept. The default. `signing_keys`: as in
    SqliteRuntime."""

    def __init__(self, *, max_runs: int = 10_000, signing_keys: SigningKeys = ()) -> None:
        if isinstance(max_runs, bool) or not isinstance(max_runs, int) or max_runs < 1:
            raise ConfigurationError(f"max_runs={max_runs!r} holds no run.", fix="Pass an int of at least 1.")
        super().__init__(InMemoryStore(max_runs), InProcess(), signing_keys=_keys(signing_keys))


class SqliteRuntime(Runtime):
    """Runs in one SQLite file, which several processes of one machine may share.

    `durability="power"`: what was acknowledged survives power loss on storage that honours sync. `"process"`: it
    survives the process, and power loss may cost the last commits. `lease_ttl`: seconds after which a *stopped* worker
    loses its runs (a dead one loses them at once). `clock_skew` and `busy_timeout` in seconds.

    `signing_keys`: secrets with which approvals and checkpoints are signed, texts or bytes of at least 32 bytes, newest
    first: the first one signs, all of them verify. Every process that runs agents or takes answers is given the same.
    Without them the store makes its own, and keeps them in the same file as the runs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["power", "process"] = "power",
        lease_ttl: float = 10.0,
        clock_skew: float = 0.5,
        busy_timeout: float = 5.0,
        vfs: str | None = None,
        signing_keys: SigningKeys = (),
    ) -> None:
        from shipworthy.adapters.sqlite.store import SqliteStore

        if not isinstance(path, (str, os.PathLike)) or str(path) in ("", ":memory:"):
            raise ConfigurationError(
                f"{path!r} is not the path of a file.", fix='Pass a path such as "bot.db".'
            )
        _times(lease_ttl=lease_ttl, clock_skew=clock_skew, busy_timeout=busy_timeout)
        super().__init__(
            SqliteStore(
                path,
                durability=durability,
                lease_ttl=lease_ttl,
                clock_skew=clock_skew,
                busy_timeout=busy_timeout,
                vfs=vfs,
            ),
            InProcess(),
            signing_keys=_keys(signing_keys),
        )


class DBOSRuntime(Runtime):
    """Runs as DBOS workflows; one for a process. Their journal is in the same place, and an effect is checked by it.

    *url*: "sqlite:<path>" (DBOS's own tables in `<path>.dbos`), or a "postgresql://..." for both. *store*: a journal
    elsewhere. *executor_id*: what this process is called each time it is started, so that DBOS recovers what it left;
    no two live processes share one. *queue*: the DBOS queue in which runs wait for any process of the same *name*.

    `signing_keys`: as in SqliteRuntime.

    Agents are found by name, so each has its own, and makes its own deps.
    """

    def __init__(
        self,
        url: str,
        *,
        store: Store | None = None,
        name: str = "shipworthy",
        executor_id: str | None = None,
        queue: str | None = None,
        signing_keys: SigningKeys = (),
    ) -> None:
        from shipworthy.app.dbos import DBOSDriver

        kind, _, path = url.partition(":") if isinstance(url, str) else ("", "", "")
        if kind not in ("sqlite", "postgres", "postgresql") or not path.strip("/"):
            raise ConfigurationError(
                f"{_named(url)} is not a place that DBOS can use.",
                fix='Pass "sqlite:bot.db" or "postgres://user@host/database".',
            )
        if kind == "sqlite":
            store = store or SqliteRuntime(path).store
            database = f"sqlite:///{os.path.realpath(path)}.dbos"
        else:
            store = store or PostgresRuntime(url).store
            database = f"postgresql:{path}"
        executor = executor_id or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        driver = DBOSDriver(database, name=name, executor_id=executor, queue=queue)
        super().__init__(store, driver, signing_keys=_keys(signing_keys))


class PostgresRuntime(Runtime):
    """Runs in a PostgreSQL database, which instances on many machines share: any of them goes on with any run.

    `dsn`: postgres://user@host/database. Its role makes the schema at the first use; the work is done as the role
    `shipworthy_app`, which sees one tenant at a time. `durability="process"` does without the server's sync, so that a
    crash of the server may cost the last commits. `lease_ttl`: seconds after which a *stopped* worker loses its runs.
    `clock_skew` in seconds; more than a round trip to the server takes. `patience`: seconds for which a server that
    restarts or fails over is waited for. `readers`: sessions for reading, beside one that writes and one that listens.
    `signing_keys`: as in SqliteRuntime; without them the database has its own.
    """

    def __init__(
        self,
        dsn: str,
        *,
        durability: Literal["power", "process"] = "power",
        lease_ttl: float = 10.0,
        clock_skew: float = 0.5,
        patience: float = 5.0,
        readers: int = 2,
        signing_keys: SigningKeys = (),
    ) -> None:
        _times(lease_ttl=lease_ttl, clock_skew=clock_skew, patience=patience)
        store = _postgres_store()(
            dsn,
            durability=durability,
            lease_ttl=lease_ttl,
            clock_skew=clock_skew,
            patience=patience,
            readers=readers,
        )
        super().__init__(store, InProcess(), signing_keys=_keys(signing_keys))


def _postgres_store() -> type[PostgresStore]:
    try:
        from shipworthy.adapters.postgres.store import PostgresStore
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"PostgresRuntime needs the package {error.name}.", fix='pip install "shipworthy[postgres]"'
        ) from error
    return PostgresStore


def _times(**given: float) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST:
            raise ConfigurationError(f"{name}={value!r} is not a time.", fix="Pass seconds.")


def _named(given: object) -> str:
    """What was given in place of an address, without a password that may be in it: no more than its first word."""
    word = re.match(r"[A-Za-z][\w+.-]*(?=:|\Z)", given) if isinstance(given, str) else None
    return repr(word[0]) if word else f"This {type(given).__name__}"


def runtime_for(runtime: Runtime | str | None) -> Runtime:
    """A runtime from what `Agent(runtime=)` takes: a runtime, "inmemory", "sqlite:<path>", or "postgres://..."."""
    if runtime is None or runtime == "inmemory":
        return InMemoryRuntime()
    if isinstance(runtime, Runtime):
        return runtime
    if isinstance(runtime, str) and runtime.startswith("sqlite:") and len(runtime) > len("sqlite:"):
        return SqliteRuntime(runtime.removeprefix("sqlite:"))
    if isinstance(runtime, str) and runtime.startswith(("postgres://", "postgresql://")):
        return PostgresRuntime(runtime)
    raise ConfigurationError(
        f"{_named(runtime)} is not a runtime.",
        fix='Pass InMemoryRuntime(), "sqlite:./bot.db", "postgres://user@host/database", or a runtime.',
    )


def _keys(given: SigningKeys) -> tuple[SigningKey, ...]:
    """Raises ConfigurationError."""
    if type(given) is tuple and not given:
        return ()
    from shipworthy.app.signing import keys_of

    return keys_of(given)
