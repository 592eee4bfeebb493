"""Runtimes: a store plus the driver in this process."""

from __future__ import annotations

import os
from typing import Literal

from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.app.configuration import LONGEST
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError


class InMemoryRuntime(Runtime):
    """Runs that live as long as the process; at most *max_runs* are kept. The default."""

    def __init__(self, *, max_runs: int = 10_000) -> None:
        if isinstance(max_runs, bool) or not isinstance(max_runs, int) or max_runs < 1:
            raise ConfigurationError(f"max_runs={max_runs!r} holds no run.", fix="Pass an int of at least 1.")
        super().__init__(InMemoryStore(max_runs), InProcess())


class SqliteRuntime(Runtime):
    """Runs in one SQLite file, which several processes of one machine may share.

    `durability="power"`: what was acknowledged survives power loss on storage that honours sync. `"process"`: it
    survives the process, and power loss may cost the last commits. `lease_ttl`: seconds after which a *stopped* worker
    loses its runs (a dead one loses them at once). `clock_skew` and `busy_timeout` in seconds.
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
    ) -> None:
        from shipworthy.adapters.sqlite.store import SqliteStore

        if not isinstance(path, (str, os.PathLike)) or str(path) in ("", ":memory:"):
            raise ConfigurationError(
                f"{path!r} is not the path of a file.", fix='Pass a path such as "bot.db".'
            )
        for name, value in (
            ("lease_ttl", lease_ttl),
            ("clock_skew", clock_skew),
            ("busy_timeout", busy_timeout),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST:
                raise ConfigurationError(f"{name}={value!r} is not a time.", fix="Pass seconds.")
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
        )


def runtime_for(runtime: Runtime | str | None) -> Runtime:
    """A runtime from what `Agent(runtime=)` takes: a runtime, "inmemory", or "sqlite:<path>"."""
    if runtime is None or runtime == "inmemory":
        return InMemoryRuntime()
    if isinstance(runtime, Runtime):
        return runtime
    if isinstance(runtime, str) and runtime.startswith("sqlite:") and len(runtime) > len("sqlite:"):
        return SqliteRuntime(runtime.removeprefix("sqlite:"))
    raise ConfigurationError(
        f"{runtime!r} is not a runtime.",
        fix='Pass InMemoryRuntime(), SqliteRuntime("bot.db") or "sqlite:./bot.db".',
    )
