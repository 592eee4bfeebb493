"""A process of a proof, which may die or stop at a point: a worker that serves until it is told to end, or a caller."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from shipworthy import TemporalRuntime
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.sqlite.store import SqliteStore
from shipworthy.app.agent import Agent
from shipworthy.domain.scope import Scope
from shipworthy.ports.store import Store
from shipworthy.rules.codec import encode_event
from shipworthy.testing.faults import Point, Points
from tests.control import scenario as people
from tests.crash import checks, mutants, scenario
from tests.crash.databases import Kind
from tests.crash.scenario import append

Mutant = Literal["no_intent", "no_doubt", "no_fence"]
Action = Literal["kill", "stop"]
PATIENCE, TTL, SKEW, TOOL_TIMEOUT = 0.9, 0.6, 0.1, 1.0


class Job(msgspec.Struct, kw_only=True):
    """What a child is to do. `run`: the run that a caller begins; a worker has none. `dsn`: of the database, if it is
    not the file in the folder. `fenced`: the world outside refuses whoever lost the run. `untold`: Temporal cannot
    tell a worker that its step was given up. `controlled`: the agent is the one of the proofs of people in control."""

    folder: str
    dsn: str = ""
    address: str
    queue: str
    run: str | None = None
    at: Point | None = None
    action: Action = "kill"
    mutant: Mutant | None = None
    fenced: bool = False
    untold: bool = False
    controlled: bool = False
    log: str = ""


def agent(job: Job, points: Points | None = None) -> Agent[Any, Any]:
    """The scenario's agent, under Temporal; what its store acknowledges is written down."""
    folder = Path(job.folder)
    store: Store = SqliteStore(folder / "runs.db", lease_ttl=TTL, clock_skew=SKEW)
    if job.dsn:
        store = PostgresStore(job.dsn, lease_ttl=TTL, clock_skew=SKEW)
    runtime = TemporalRuntime(job.address, store=store, task_queue=job.queue, patience=PATIENCE)

    def acknowledged(scope: Scope, run_id: str, events: Any) -> None:
        for event in events:
            told = encode_event(event).decode()
            append(
                folder / "acks",
                checks.Ack(scope.tenant, run_id, event.seq, "committed", told, pid=os.getpid()),
            )

    points = points or Points()
    points.watch(runtime, acknowledged=acknowledged)
    if job.controlled:
        return people.agent(folder, runtime, points, people.USUAL)
    return scenario.agent(folder, runtime, points, setting(job))


def setting(job: Job) -> scenario.Setting:
    """What the scenario is told of it."""
    kind: Kind = "postgres" if job.dsn else "sqlite"
    return scenario.Setting(
        store=kind, fencing=job.fenced, ttl=TTL, skew=SKEW, tool_timeout=TOOL_TIMEOUT, patience=PATIENCE
    )


def between_transactions(path: Path) -> None:
    """Return when nobody writes to the file: a process that is stopped while its lease is renewed would lock it."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5_000)
    connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    connection.close()


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


def untold() -> None:
    """Steps go on to their end, whoever cancels them."""
    from shipworthy.app.holding import Holder

    step = Holder.step

    async def go_on(self: Holder, at: Any, name: str) -> Any:
        task = asyncio.ensure_future(step(self, at, name))
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        return task.result()

    Holder.step = go_on  # type: ignore[method-assign]


def switch_on(job: Job) -> None:
    """Break this process as the job says."""
    if job.mutant == "no_fence":
        mutants.switch_on(job.mutant, job.dsn)
    elif job.mutant is not None:
        {"no_intent": no_intent, "no_doubt": no_doubt}[job.mutant]()
    if job.untold:
        untold()


async def work(job: Job) -> None:
    folder = Path(job.folder)

    def act(point: Point) -> None:
        append(folder / "died", str(point))
        if job.action == "stop" and not job.dsn:
            between_transactions(folder / "runs.db")
        os.kill(os.getpid(), signal.SIGSTOP if job.action == "stop" else signal.SIGKILL)

    switch_on(job)
    points = Points(job.at, act)
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
