"""How a proof goes here: workers in processes of their own, a caller in this one, and what is found afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shipworthy.testing.faults import Point
from tests.crash import databases, proof, scenario
from tests.crash.checks import Violation
from tests.crash.databases import Kind
from tests.servers.temporal import fresh_name
from tests.temporal.child import Job, Mutant, agent
from tests.temporal.world import until

RUN = "g1"
PLAN = proof.Plan(way="run", runs=(RUN,))


class Proof:
    """One world: a folder, a server's address, a task queue, and the workers that were started."""

    def __init__(
        self, folder: Path, address: str, mutant: Mutant | None = None, kind: Kind = "sqlite"
    ) -> None:
        self.world = proof.World(folder, databases.fresh(kind, folder))
        self.job = Job(
            folder=str(folder),
            dsn=self.world.database.address,
            address=address,
            queue=fresh_name("proof"),
            mutant=mutant,
        )
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, at: Point | None = None, run: str | None = None) -> subprocess.Popen[bytes]:
        """A worker; with *run*, a caller. It dies at *at*."""
        job = msgspec.structs.replace(self.job, at=at, run=run)
        with open(self.world.folder / "log", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.temporal.child", msgspec.json.encode(job).decode()],
                stdout=log,
                stderr=log,
            )
        self.workers.append(child)
        return child

    async def serving(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until the worker polls."""
        path = self.world.folder / "serving"
        await until(lambda: path.exists() and str(worker.pid).encode() in path.read_bytes().split())

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
def proving(
    folder: Path, address: str, mutant: Mutant | None = None, kind: Kind = "sqlite"
) -> Iterator[Proof]:
    """A world, whose workers are killed at the end."""
    made = Proof(folder, address, mutant, kind)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.kill()
            worker.wait()
        made.world.database.drop()


async def reached(made: Proof) -> list[Point]:
    """All points of a worker that drives the run from its start to its end."""
    worker = made.start()
    await made.serving(worker)
    assert await made.run() == "completed", made.log()
    worker.terminate()
    await until(lambda: worker.poll() is not None)
    assert worker.returncode == 0, made.log()
    assert made.judge() == []
    (line,) = (made.world.folder / "points").read_bytes().splitlines()
    return msgspec.json.decode(line, type=list[Point])


async def killed_at(made: Proof, point: Point) -> list[Violation]:
    """A worker dies at *point*; another one carries the run on."""
    first = made.start(at=point)
    await made.serving(first)
    running = asyncio.create_task(made.run())
    await until(lambda: first.poll() is not None or running.done())
    assert first.wait() == -signal.SIGKILL, f"{point} was never reached.\n{made.log()}"
    made.start()
    await until(running.done, f"{point}: the run does not end.\n{made.log()}")
    assert await running == "completed", made.log()
    return made.judge()
