"""Workers, callers and the server are killed: nothing acknowledged is lost, no `once` effect happens twice.

In the long form every point of a worker is tried, and more of them die at once.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from shipworthy.testing.faults import Point
from tests.crash.checks import Violation
from tests.crash.proof import LONG, SEED
from tests.servers.temporal import OwnTemporal
from tests.temporal.child import agent
from tests.temporal.proof import Proof, ended, killed_at, proving, reached
from tests.temporal.world import until, with_loop

SIX = [
    Point("commit", 7, "after"),  # between two steps
    Point("commit", 8, "before"),  # the intent of the first payment is not durable
    Point("commit", 8, "after"),  # it is
    Point("once", 1, "after"),  # the effect happened, and nothing of it is on record
    Point("commit", 9, "before"),  # its result is not durable
    Point("commit", 9, "after"),  # it is, and Temporal was not told
]
AT_ONCE = 6


async def all_killed(folder: Path, address: str, points: Sequence[Point]) -> dict[str, list[Violation]]:
    """What is wrong after a kill at each point, some at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, point: Point) -> tuple[str, list[Violation]]:
        place = folder / str(number)
        place.mkdir()
        async with slots:
            with proving(place, address) as made:
                return str(point), await killed_at(made, point)

    found = await asyncio.gather(*[one(number, point) for number, point in enumerate(points)])
    return {point: violations for point, violations in found if violations}


@with_loop
async def test_a_worker_killed_at_any_point_is_replaced(tmp_path: Path, temporal: str) -> None:
    points: Sequence[Point] = SIX
    if LONG:
        (tmp_path / "whole").mkdir()
        with proving(tmp_path / "whole", temporal) as made:
            points = await reached(made)
        assert set(SIX) < set(points)
    assert await all_killed(tmp_path, temporal, points) == {}


@pytest.mark.usefixtures("postgres")
def test_it_is_on_postgres_as_on_sqlite(tmp_path: Path, temporal: str) -> None:
    with proving(tmp_path, temporal, kind="postgres") as made:
        assert asyncio.run(killed_at(made, Point("once", 1, "after"))) == []


@with_loop
async def test_a_caller_killed_before_its_run_has_a_workflow_is_recovered(
    tmp_path: Path, temporal: str
) -> None:
    with proving(tmp_path, temporal) as made:
        caller = made.start(at=Point("begin", 1, "after"), run="g1")
        assert await ended(caller) == -signal.SIGKILL, made.log()
        made.start()
        other = agent(made.job)
        (result,) = await other.recover()
        assert result.status == "completed"
        assert made.judge() == []
        await other.close()


@with_loop
async def test_a_killed_server_comes_back_and_the_run_goes_on(tmp_path: Path) -> None:
    with OwnTemporal() as server, proving(tmp_path, server.address) as made:
        await made.serving(made.start())
        running = asyncio.create_task(made.run())
        await until(lambda: made.world.sink())
        server.kill()
        await asyncio.sleep(0.3)
        server.start()
        assert await asyncio.wait_for(running, 40) == "completed", made.log()
        assert made.judge() == []


@with_loop
async def test_random_kills_of_workers_and_server(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    with OwnTemporal() as server:
        for round_ in range(12 if LONG else 1):
            folder = tmp_path / str(round_)
            folder.mkdir()
            with proving(folder, server.address) as made:
                await _killing(made, server, dice)


async def _killing(made: Proof, server: OwnTemporal, dice: random.Random) -> None:
    """Two workers; every now and then one of them, or the server, dies and is started again."""
    workers = [made.start(), made.start()]
    running = asyncio.create_task(made.run())
    for _ in range(4):
        await asyncio.sleep(dice.uniform(0.1, 1.5))
        if running.done():
            break
        if dice.random() < 0.25:
            server.kill()
            server.start()
        else:
            victim = dice.randrange(2)
            workers[victim].signal(signal.SIGKILL)
            workers[victim] = made.start()
    assert await asyncio.wait_for(running, 40) == "completed", f"SHIPWORTHY_SEED={SEED}\n{made.log()}"
    assert made.judge() == [], f"SHIPWORTHY_SEED={SEED}"
