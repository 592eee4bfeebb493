"""A process of a proof, which may die at a point: a worker that serves until it is told to end, or a caller."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import TemporalRuntime
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.sqlite.store import SqliteStore
from shipworthy.app.agent import Agent
from shipworthy.domain.scope import Scope
from shipworthy.ports.store import Store
from shipworthy.rules.codec import encode_event
from shipworthy.testing.faults import Point, Points
from tests.crash import checks, scenario
from tests.crash.scenario import append

Mutant = Literal["no_intent", "no_doubt"]
PATIENCE, TTL, SKEW, TOOL_TIMEOUT = 0.9, 0.6, 0.1, 1.0


class Job(msgspec.Struct, kw_only=True):
    """What a child is to do. `run`: the run that a caller begins; a worker has none. `dsn`: of the database, if it is
    not the file in the folder."""

    folder: str
    dsn: str = ""
    address: str
    queue: str
    run: str | None = None
    at: Point | None = None
    mutant: Mutant | None = None
    log: str = ""


def agent(job: Job, points: Points | None = None) -> Agent[Any, scenario.Report]:
    """The scenario's agent, under Temporal; what its store acknowledges is written down."""
    folder = Path(job.folder)
    store: Store = SqliteStore(folder / "runs.db", lease_ttl=TTL, clock_skew=SKEW)
    if job.dsn:
        store = PostgresStore(job.dsn, lease_ttl=TTL, clock_skew=SKEW)
    runtime = TemporalRuntime(job.address, store=store, task_queue=job.queue, patience=PATIENCE)

    def acknowledged(scope: Scope, run_id: str, events: Any) -> None:
        for event in events:
            told = encode_event(event).decode()
            append(folder / "acks", checks.Ack(scope.tenant, run_id, event.seq, "committed", told))

    points = points or Points()
    points.watch(runtime, acknowledged=acknowledged)
    return scenario.agent(
        folder,
        runtime,
        points,
        scenario.Setting(tool_timeout=TOOL_TIMEOUT, store="postgres" if job.dsn else "sqlite"),
    )


def no_intent() -> None:
    """Nothing is on record of a body that starts: Temporal alone knows of it."""
    from shipworthy.engine import execute

    async def start_at_once(run: Any, attempts: Any) -> None:
        """No intent."""

    execute._intend = start_at_once


def no_doubt() -> None:
    """A call that was attempted is as good as one that was not."""
    from shipworthy.rules import state

    resumed = state._resumed

    def forget(run: Any, event: Any) -> None:
        resumed(run, event)
        for call in run.calls.values():
            if call.status == "in_doubt":
                call.status = "ready"

    state._resumed = forget


async def work(job: Job) -> None:
    folder = Path(job.folder)

    def die(point: Point) -> None:
        append(folder / "died", str(point))
        os.kill(os.getpid(), signal.SIGKILL)

    if job.mutant is not None:
        {"no_intent": no_intent, "no_doubt": no_doubt}[job.mutant]()
    points = Points(job.at, die)
    made = agent(job, points)
    if job.run is not None:
        await made.run(scenario.prompt(job.run), run_id=job.run, **scenario.identity(job.run))
        return
    assert isinstance(made.runtime, TemporalRuntime)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with made, made.runtime.serving():
        append(folder / "serving", os.getpid())
        await stop.wait()
    append(folder / "points", [msgspec.to_builtins(point) for point in points.reached])


def preload() -> None:
    """Import what a job needs, in the process that is forked for each."""
    import pydantic  # noqa: F401

    import shipworthy.adapters.temporal.client
    import shipworthy.adapters.temporal.worker
    import shipworthy.app.outputs
    import shipworthy.engine.follow  # noqa: F401


def main(raw: dict[str, Any]) -> None:
    """Do a job to its end, or to its point."""
    asyncio.run(work(msgspec.convert(raw, Job)))
