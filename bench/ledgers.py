"""The rows of ledgers that outlive the process, beside bare commits in the same place.

* A *step* is one reservation, or one settlement, on the counters of a run, its user and its tenant; it is durable when
  the call returns. With a journal a step is one `Store.commit` of one event, and every commit settles the last
  attempt and reserves the next.
* The floors are those of `durable.py` and `machines.py`: bare commits of one small row by one caller, and bare group
  commits by as many committers. On Redis, which logs and syncs every write here, they are SETs, one by one or in
  pipelines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import durable
from budget import USED, hold_of, lines_of, names
from durable import Durable, Folder, GroupCommit

from shipworthy.domain.events import ModelRequested, RunStarted
from shipworthy.domain.journal import Batch
from shipworthy.domain.ledger import Granted, Settlement
from shipworthy.domain.messages import Text
from shipworthy.domain.scope import Scope

Kind = Literal["SQLite", "Postgres", "Redis"]
BLOB = b"x" * 120


# --- ours -------------------------------------------------------------------------------------


@asynccontextmanager
async def store_in(kind: Kind, folder: Path) -> AsyncIterator[Any]:
    """A new store, or on Redis what has a ledger and nothing else."""
    if kind == "SQLite":
        from shipworthy.adapters.sqlite.store import SqliteStore

        store: Any = SqliteStore(folder / "ledger.db")
        await store.open()
        yield store
        await store.close()
    elif kind == "Postgres":
        import machines

        from shipworthy.adapters.postgres.store import PostgresStore

        dsn = machines.database()
        store = PostgresStore(dsn)
        await store.open()
        yield store
        await store.close()
        machines._drop(dsn)
    else:
        from shipworthy.adapters.redis.ledger import RedisLedger

        with _redis() as url:
            ledger = RedisLedger(url)
            await ledger.open()
            yield _Only(ledger)
            await ledger.close()


class _Only:
    def __init__(self, ledger: Any) -> None:
        self.ledger = ledger


def _redis() -> Any:
    import machines  # noqa: F401 - it finds the servers of the tests

    from tests.servers.redis import a_redis_database

    return a_redis_database()


def alone(kind: Kind, parent: Path, tasks: int, each: int) -> Durable:
    """So many tasks, each with so many reservations and settlements, with no journal."""

    async def charge(ledger: Any, number: int) -> None:
        tenant, user, run = names(number)
        lines = lines_of(tenant, user, run)
        for attempt in range(each):
            hold = hold_of(f"{run}/{attempt}", tenant, lines)
            assert type(await ledger.reserve(hold)) is Granted
            await ledger.settle(Settlement(id=hold.id, tenant=tenant, amounts=(USED, USED, USED)))

    async def measured(folder: Path) -> float:
        async with store_in(kind, folder) as store:
            begun = time.perf_counter()
            await asyncio.gather(*[charge(store.ledger, number) for number in range(tasks)])
            return time.perf_counter() - begun

    with Folder(parent) as folder:
        return Durable(2 * tasks * each, 0, asyncio.run(measured(folder)))


def with_journal(kind: Kind, parent: Path, runs: int, each: int, budget: bool) -> Durable:
    """So many runs, each with so many commits of one event, with or without what a budget adds to them."""

    async def drive(store: Any, number: int) -> None:
        tenant, user, run = names(number)
        scope, lines = Scope(tenant, user, None), lines_of(tenant, user, run)
        started = RunStarted(seq=1, at=1, run_id=run, tenant=tenant, user=user, prompt=(Text("Go."),))
        fence = await store.begin(scope, run, Batch([started], {}))
        for attempt in range(each):
            event = ModelRequested(seq=attempt + 2, at=1, ordinal=attempt, model="bench:model")
            batch = Batch([event], {})
            if budget:
                before = Settlement(id=f"{run}/{attempt - 1}", tenant=tenant, amounts=(USED,) * 3)
                batch.budget = (before, hold_of(f"{run}/{attempt}", tenant, lines))
            await store.commit(fence, batch)

    async def measured(folder: Path) -> float:
        async with store_in(kind, folder) as store:
            begun = time.perf_counter()
            await asyncio.gather(*[drive(store, number) for number in range(runs)])
            return time.perf_counter() - begun

    with Folder(parent) as folder:
        return Durable(runs * (each + 1), 0, asyncio.run(measured(folder)))


# --- the floors -------------------------------------------------------------------------------


def bare(kind: Kind, parent: Path, commits: int) -> Durable:
    """One caller, one commit after the other."""
    blobs = [BLOB] * commits
    if kind == "SQLite":
        return durable.full_commits(parent, blobs)
    if kind == "Postgres":
        import machines

        return machines.single_commits(blobs)
    import redis

    with _redis() as url, redis.Redis.from_url(url) as client:
        begun = time.perf_counter()
        for number, blob in enumerate(blobs):
            client.set(f"k{number}", blob)
        return Durable(commits, 0, time.perf_counter() - begun)


def grouped(kind: Kind, parent: Path, committers: int, commits: int) -> Durable:
    """So many tasks, each with so many commits, through one thread that commits what waits."""
    blobs = [BLOB] * commits
    if kind == "SQLite":
        return durable.group_commits(parent, blobs, committers)
    if kind == "Postgres":
        import machines

        return machines.grouped_commits(blobs, committers, savepoints=True)

    async def commit_all(group: GroupCommit) -> None:
        for blob in blobs:
            await group.commit(blob)

    async def measured() -> float:
        with _redis() as url:
            group = InPipelines(url, asyncio.get_running_loop())
            begun = time.perf_counter()
            await asyncio.gather(*[commit_all(group) for _ in range(committers)])
            seconds = time.perf_counter() - begun
            group.close()
            return seconds

    return Durable(committers * commits, 0, asyncio.run(measured()))


class InPipelines(GroupCommit):
    """What waits goes to Redis in one pipeline."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        import redis

        self._client = redis.Redis.from_url(url)
        self._number = 0
        super().__init__(loop)

    def land(self, blobs: Sequence[bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for blob in blobs:
            self._number += 1
            pipeline.set(f"k{self._number}", blob)
        pipeline.execute()
