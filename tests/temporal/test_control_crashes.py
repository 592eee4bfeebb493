"""A worker that is killed between a person's yes and the effect: the yes is not lost, and good for one effect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy import Approve, Inbox, Scope, SqliteRuntime
from shipworthy.domain.events import ApprovalGranted
from shipworthy.domain.journal import RunFilter
from shipworthy.engine.runtime import Runtime
from shipworthy.testing.faults import Point
from tests.control.scenario import AMOUNT
from tests.temporal.child import agent
from tests.temporal.proof import Proof, ended, proving
from tests.temporal.world import until, with_loop

ACME = Scope("acme")
BEFORE, AFTER = Point("once", 1, "before"), Point("once", 1, "after")
"""Inside of the body: the intent is durable, and the effect has not happened, or is not recorded."""


@contextlib.asynccontextmanager
async def journal(made: Proof) -> AsyncIterator[Runtime]:
    """The runs, as a process sees them that has no agent and knows nothing of Temporal."""
    runtime = SqliteRuntime(made.world.folder / "runs.db")
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


async def answered(made: Proof, run: str) -> None:
    """A run that somebody has said yes to. The worker that parked it is gone."""
    worker = made.start()
    await made.serving(worker)
    caller = agent(made.job)
    assert (await caller.run("Go.", run_id=run, tenant_id="acme", user_id="alice")).status == "paused"
    await caller.close()
    await ended(worker, signal.SIGTERM)
    async with journal(made) as runtime:
        inbox = Inbox(runtime=runtime)
        (request,) = await inbox.requests("acme", run_id=run)
        await inbox.approve(request, Approve(by="maria"))


async def carried_on(made: Proof, run: str) -> str:
    """How the run ends, which is due, with a worker that stays."""
    made.start()
    async with asyncio.timeout(60.0), journal(made) as runtime:
        while (status := (await runtime.store.find(ACME, run)).status) in ("running", "paused"):
            await runtime.store.news(ACME, run, 0.05)
    return status


async def found(made: Proof) -> tuple[list[int], set[str]]:
    """What was paid, and who approved."""
    async with journal(made) as runtime:
        runs = await runtime.store.list(ACME, RunFilter(nested=True))
        events = [e for run in runs for e in await runtime.store.read(ACME, run.run_id)]
    effects = [json.loads(line) for line in (made.world.folder / "sink").read_bytes().splitlines()]
    said = {event.approver for event in events if isinstance(event, ApprovalGranted)}
    return [json.loads(effect["args"])["amount"] for effect in effects], said


async def commits(folder: Path, address: str, run: str) -> list[Point]:
    """Those of a worker that goes on with an answered run, around the intent."""
    with proving(folder, address, controlled=True) as made:
        await answered(made, run)
        (made.world.folder / "points").unlink()
        assert await carried_on(made, run) == "completed", made.log()
        await ended(made.children[-1], signal.SIGTERM)
        (line,) = (made.world.folder / "points").read_bytes().splitlines()
    points = msgspec.json.decode(line, type=list[Point])
    inside = points.index(BEFORE)
    return [*points[max(inside - 4, 0) : inside], *points[inside + 2 : inside + 4]]


async def killed_at(
    folder: Path, address: str, run: str, point: Point, **options: Any
) -> tuple[list[int], set[str]]:
    """What was paid, and who approved, where a worker dies at *point* and another one carries on."""
    with proving(folder, address, controlled=True, **options) as made:
        await answered(made, run)
        dies = made.start(at=point)
        await until(lambda: dies.ended, made.log)
        assert await carried_on(made, run) == "completed", made.log()
        return await found(made)


@pytest.mark.parametrize("run", ["p1", "n1"])
@with_loop
async def test_wherever_the_worker_dies_the_approved_effect_happens_once(
    tmp_path: Path, temporal: str, run: str
) -> None:
    (tmp_path / "first").mkdir()
    points = [*await commits(tmp_path / "first", temporal, run), BEFORE, AFTER]
    folders = [tmp_path / str(number) for number in range(len(points))]
    for folder in folders:
        folder.mkdir()
    at_once = [killed_at(folder, temporal, run, each) for folder, each in zip(folders, points, strict=True)]
    for point, told in zip(points, await asyncio.gather(*at_once), strict=True):
        assert told == ([AMOUNT], {"maria"}), point


@with_loop
async def test_without_an_intent_the_approval_is_used_twice_and_that_is_found(
    tmp_path: Path, temporal: str
) -> None:
    assert await killed_at(tmp_path, temporal, "p1", AFTER, mutant="no_intent") == (
        [AMOUNT, AMOUNT],
        {"maria"},
    )
