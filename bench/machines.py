"""The rows of the runtimes for many machines, beside their floors on the same servers, which this starts itself.

A *step* is one batch that is durable when the call returns, and a run is that of `durable.py`: a `once` call a turn.

* The bare Postgres commit: one INSERT of a blob of the same length into a table of two columns, in a transaction of its
  own, by one caller who does nothing else.
* The bare grouped commit: as many tasks as there are runs, each with one blob after the other for one thread, which
  sends what waits as one pipelined transaction of INSERTs and wakes the tasks with one call to the event loop. In it
  one batch that fails takes all others with it.
* The bare grouped commit with savepoints: the same with a savepoint around each INSERT, in the same pipeline, so that
  batches stand alone, as ours do.
* Bare DBOS: as many workflows at once as there are runs, each of as many empty steps as ours takes, on the same server.
* Bare Temporal: the same, of empty activities, on a development server of its own; worker and caller in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from dbos import DBOS, DBOSConfig
from durable import Durable, GroupCommit, agent_of
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from shipworthy import DBOSRuntime, PostgresRuntime, TemporalRuntime, ToolCall

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the servers are those of the tests

from tests.servers.postgres import postgres_server
from tests.servers.temporal import fresh_name, temporal_address

SEAT = '{"seat":"12A","name":"Ada Lovelace"}'
_names = itertools.count()


def database() -> str:
    """A new one, on the one server."""
    return postgres_server().fresh_database()


def _drop(dsn: str) -> None:
    postgres_server().drop_database(dsn)


# --- ours -------------------------------------------------------------------------------------


def on_postgres(runs: int, turns: int) -> Durable:
    """So many runs at once, of so many turns with one `once` call each, in one process."""
    dsn = database()

    async def measured() -> float:
        async with agent_of(PostgresRuntime(dsn), turns, [ToolCall("book", SEAT)]) as agent:
            return await _together(agent, runs)

    seconds = asyncio.run(measured())
    with psycopg.connect(dsn) as connection:
        [(steps,)] = connection.execute("SELECT count(*) FROM shipworthy.journal").fetchall()
    _drop(dsn)
    return Durable(steps, runs * turns, seconds)


async def _together(agent: Any, runs: int) -> float:
    await agent.run("Book.", tenant_id="acme", user_id="first")
    begun = time.perf_counter()
    results = await asyncio.gather(
        *[agent.run("Book.", tenant_id="acme", user_id=f"user-{n}") for n in range(runs)]
    )
    seconds = time.perf_counter() - begun
    assert all(result.output == "All seats are booked." for result in results)
    return seconds


def on_dbos(runs: int, turns: int) -> Durable:
    """The same through DBOS, its tables in the same database. A step is one of DBOS's."""
    dsn = database()

    async def measured() -> float:
        async with agent_of(DBOSRuntime(dsn), turns, [ToolCall("book", SEAT)]) as agent:
            return await _together(agent, runs)

    seconds = asyncio.run(measured())
    _drop(dsn)
    return Durable(runs * steps_of(turns), runs * turns, seconds)


def on_temporal(runs: int, turns: int) -> Durable:
    """The same through Temporal, with the journal on Postgres. A step is one activity."""
    dsn = database()

    async def measured() -> float:
        runtime = TemporalRuntime(temporal_address(), store=dsn, task_queue=fresh_name("bench"))
        async with agent_of(runtime, turns, [ToolCall("book", SEAT)]) as agent, runtime.serving():
            return await _together(agent, runs)

    seconds = asyncio.run(measured())
    _drop(dsn)
    return Durable(runs * steps_of(turns), runs * turns, seconds)


def steps_of(turns: int) -> int:
    """A turn asks the model, judges its call and executes it; the last answer is asked for and delivered."""
    return 3 * turns + 2


# --- the floors -------------------------------------------------------------------------------


def _bare(dsn: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(
        "CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea NOT NULL)"
    )
    return connection


_INSERT = "INSERT INTO log (data) VALUES (%b)"


def single_commits(blobs: Sequence[bytes]) -> Durable:
    """One caller, one transaction for each blob."""
    dsn = database()
    connection = _bare(dsn)
    begun = time.perf_counter()
    for blob in blobs:
        connection.execute(_INSERT, (blob,), prepare=True)
    seconds = time.perf_counter() - begun
    connection.close()
    _drop(dsn)
    return Durable(len(blobs), 0, seconds)


def grouped_commits(blobs: Sequence[bytes], committers: int, savepoints: bool = False) -> Durable:
    """So many tasks, each with all the blobs one after the other."""
    dsn = database()

    async def measured() -> float:
        group = (Saved if savepoints else Grouped)(dsn, asyncio.get_running_loop())

        async def commit_all() -> None:
            for blob in blobs:
                await group.commit(blob)

        begun = time.perf_counter()
        await asyncio.gather(*[commit_all() for _ in range(committers)])
        seconds = time.perf_counter() - begun
        group.close()
        return seconds

    seconds = asyncio.run(measured())
    _drop(dsn)
    return Durable(len(blobs) * committers, 0, seconds)


class Grouped(GroupCommit):
    """Into a table on the server."""

    def __init__(self, dsn: str, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = _bare(dsn)
        super().__init__(loop)

    def land(self, blobs: Sequence[bytes]) -> None:
        with self._connection.transaction():
            self._connection.cursor().executemany(_INSERT, [(blob,) for blob in blobs])

    def close(self) -> None:
        super().close()
        self._connection.close()


class Saved(Grouped):
    """The same with a savepoint for each batch."""

    def land(self, blobs: Sequence[bytes]) -> None:
        with self._connection.pipeline(), self._connection.transaction():
            for blob in blobs:
                self._connection.execute("SAVEPOINT batch")
                self._connection.execute(_INSERT, (blob,), prepare=True)
                self._connection.execute("RELEASE batch")


async def _nothing() -> bool:
    return True


@DBOS.workflow(name="bench.empty")
async def _empty_steps(steps: int) -> None:
    for _ in range(steps):
        await DBOS.run_step_async({"name": "nothing"}, _nothing)


def bare_dbos(runs: int, turns: int) -> Durable:
    """Empty workflows at once, of as many empty steps."""
    dsn = database()
    steps = steps_of(turns)

    async def measured() -> float:
        DBOS(config=DBOSConfig(name="bench", system_database_url=dsn, log_level="WARNING"))
        DBOS.launch()
        await (await DBOS.start_workflow_async(_empty_steps, steps)).get_result()
        begun = time.perf_counter()
        handles = [await DBOS.start_workflow_async(_empty_steps, steps) for _ in range(runs)]
        await asyncio.gather(*[handle.get_result(polling_interval_sec=0.01) for handle in handles])
        return time.perf_counter() - begun

    try:
        seconds = asyncio.run(measured())
    finally:
        DBOS.destroy()
    _drop(dsn)
    return Durable(runs * steps, runs * turns, seconds)


@activity.defn(name="nothing")
async def _no_activity() -> None:
    pass


@workflow.defn(name="bench.empty", sandboxed=False)
class _EmptyActivities:
    @workflow.run
    async def run(self, steps: int) -> None:
        for _ in range(steps):
            await workflow.execute_activity(_no_activity, start_to_close_timeout=_A_MINUTE)


_A_MINUTE = timedelta(minutes=1)


def bare_temporal(runs: int, turns: int) -> Durable:
    """Empty workflows at once, of as many empty activities."""
    steps, queue = steps_of(turns), fresh_name("bare")

    async def measured() -> float:
        client = await Client.connect(temporal_address())
        async with Worker(
            client,
            task_queue=queue,
            workflows=[_EmptyActivities],
            activities=[_no_activity],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            await _empty(client, queue, steps, 1)
            begun = time.perf_counter()
            await _empty(client, queue, steps, runs)
            return time.perf_counter() - begun

    seconds = asyncio.run(measured())
    return Durable(runs * steps, runs * turns, seconds)


async def _empty(client: Client, queue: str, steps: int, runs: int) -> None:
    await asyncio.gather(
        *[
            client.execute_workflow(_EmptyActivities.run, steps, id=fresh_name("bare"), task_queue=queue)
            for _ in range(runs)
        ]
    )
