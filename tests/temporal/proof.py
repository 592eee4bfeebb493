"""How a proof goes here: workers in processes of their own, a caller in this one, and what is found afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.testing.faults import Point
from tests.crash import databases, proof, scenario
from tests.crash.checks import Violation
from tests.crash.databases import Kind
from tests.crash.zygote import Child, Zygote
from tests.servers.temporal import fresh_name
from tests.temporal.child import Action, Job, agent, setting
from tests.temporal.world import until

RUN = "g1"
_zygote: Zygote | None = None
PLAN = proof.Plan(way="run", runs=(RUN,))


def zygote() -> Zygote:
    """The one of this process."""
    global _zygote
    if _zygote is None:
        _zygote = Zygote("tests.temporal.child")
    return _zygote


def end_zygote() -> None:
    """Let go of it, if there is one."""
    global _zygote
    if _zygote is not None:
        _zygote.close()
        _zygote = None


class Proof:
    """One world: a folder, a server's address, a task queue, and the workers that were started."""

    def __init__(self, folder: Path, address: str, kind: Kind = "sqlite", **options: Any) -> None:
        self.world = proof.World(folder, databases.fresh(kind, folder))
        self.job = Job(
            folder=str(folder),
            dsn=self.world.database.address,
            address=address,
            queue=fresh_name("proof"),
            **options,
        )
        self.children: list[Child] = []
        (folder / "log").touch()

    def start(self, at: Point | None = None, run: str | None = None, action: Action = "kill") -> Child:
        """A worker; with *run*, a caller. It dies, or is stopped, at *at*."""
        job = msgspec.structs.replace(self.job, at=at, run=run, action=action)
        child = zygote().start(msgspec.to_builtins(job), self.world.folder / "log")
        self.children.append(child)
        return child

    async def serving(self, worker: Child) -> None:
        """Wait until the worker polls."""
        path = self.world.folder / "serving"
        await until(lambda: path.exists() and str(worker.pid).encode() in path.read_bytes().split(), self.log)

    def log(self) -> str:
        return (self.world.folder / "log").read_text()

    async def run(self) -> str:
        """The run, from a caller in this process; how it ended."""
        caller = agent(self.job)
        try:
            result = await caller.run(scenario.prompt(RUN), run_id=RUN, **scenario.identity(RUN))
        finally:
            await caller.close()
        return result.status

    def judge(self) -> list[Violation]:
        """What is wrong at the end."""
        return proof.judge_end(self.world, proof.uncrashed(PLAN)[0])


@contextlib.contextmanager
def proving(folder: Path, address: str, kind: Kind = "sqlite", **options: Any) -> Iterator[Proof]:
    """A world, whose workers are killed at the end. *options*: what their jobs say."""
    made = Proof(folder, address, kind, **options)
    try:
        yield made
    finally:
        for child in made.children:
            if not child.ended:
                child.signal(signal.SIGKILL)
        made.world.database.drop()


async def ended(child: Child, number: int = 0) -> int:
    """The exit code of a child that ends, after the signal *number* if there is one."""
    if number:
        child.signal(number)
    await until(lambda: child.ended)
    return child.wait()


async def reached(made: Proof) -> list[Point]:
    """All points of a worker that drives the run from its start to its end."""
    worker = made.start()
    await made.serving(worker)
    assert await made.run() == "completed", made.log()
    assert await ended(worker, signal.SIGTERM) == 0, made.log()
    assert made.judge() == []
    (line,) = (made.world.folder / "points").read_bytes().splitlines()
    return msgspec.json.decode(line, type=list[Point])


async def killed_at(made: Proof, point: Point) -> list[Violation]:
    """A worker dies at *point*; another one carries the run on."""
    first = made.start(at=point)
    await made.serving(first)
    running = asyncio.create_task(made.run())
    await until(lambda: first.ended or running.done())
    assert first.ended, f"{point} was never reached.\n{made.log()}"
    made.start()
    await until(running.done, lambda: f"{point}: the run does not end.\n{made.log()}")
    assert await running == "completed", made.log()
    return made.judge()


async def stopped_at(made: Proof, point: Point) -> list[Violation]:
    """A worker is stopped at *point* until it was given up and another one has ended the run; then it goes on."""
    zombie = made.start(at=point, action="stop")
    await made.serving(zombie)
    running = asyncio.create_task(made.run())
    await until(lambda: zombie.stopped or running.done())
    assert zombie.stopped, f"{point} was never reached.\n{made.log()}"
    made.start()
    await until(running.done, lambda: f"{point}: the run does not end.\n{made.log()}")
    assert await running == "completed", made.log()
    before = made.world.journal()
    zombie.signal(signal.SIGCONT)
    assert await ended(zombie, signal.SIGTERM) == 0, made.log()
    return proof.judge_zombie(made.world, proof.uncrashed(PLAN)[0], before, setting(made.job))
