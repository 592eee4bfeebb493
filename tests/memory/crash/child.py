"""What one process of these proofs does: it says things, learns from them, erases or reindexes, and may die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import Agent, DBOSRuntime, Scope, SqliteRuntime, TemporalRuntime
from shipworthy.domain.memory import Block, Episode, Erased, Fact, Level
from shipworthy.engine.memory import reindexing
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import RunNotFound
from shipworthy.rules.learning import learning_of
from shipworthy.testing import HashEmbedder
from shipworthy.testing.faults import Point, Points
from tests.crash.scenario import append
from tests.memory.crash import mutants, scenario
from tests.memory.crash.scenario import Place, Saying

PATIENCE = 30.0
Way = Literal["run", "stream"]
TakesUp = Literal["enter", "recover", "consolidate", "nothing"]
"""How a process takes up what was left: beside what it does, at its start, or after each saying."""


class Item(msgspec.Struct, frozen=True):
    """One remembered thing, and whose it is."""

    scope: Scope
    episode: Episode | None = None
    fact: Fact | None = None
    terms: str = ""
    vector: str = ""

    @property
    def item(self) -> Episode | Fact:
        """Whichever it is."""
        item = self.fact if self.episode is None else self.episode
        assert item is not None
        return item


class Job(msgspec.Struct, kw_only=True):
    """What a child is to do. "talk": say all of it, in its `way`, each when what was said before is learned;
    "together": all at once. "erase": the `scope`. "reindex": with an embedder of so many `dimensions`. At the end it
    tells what memory has. `driver`: who takes a run from step to step, and where that is.
    """

    folder: str
    generation: int
    do: Literal["talk", "together", "erase", "reindex", "look"] = "talk"
    place: Place = Place()
    tenant: str = "acme"
    level: Level = "user"
    sayings: list[Saying] = []
    way: Way = "run"
    takes_up: TakesUp = "enter"
    driver: Literal["", "dbos", "temporal"] = ""
    address: str = ""
    queue: str = ""
    scope: Scope | None = None
    dimensions: int = 0
    at: Point | None = None
    mutant: str | None = None
    log: str = ""


class Outcome(msgspec.Struct, kw_only=True):
    """What a child that came to its end has to say."""

    points: list[Point]
    items: list[Item] = []
    erased: Erased | None = None
    changed: int = 0
    error: str = ""


def preload() -> None:
    """Import what a job needs, in the process that is forked for each."""
    import jsonschema  # noqa: F401
    import numpy  # noqa: F401

    import shipworthy.adapters.dynamodb.memory
    import shipworthy.adapters.postgres.memory
    import shipworthy.adapters.redis.memory
    import shipworthy.adapters.sqlite
    import shipworthy.adapters.sqlite.memory
    import shipworthy.app.outputs
    import shipworthy.engine.follow
    import shipworthy.engine.memory.erasing  # noqa: F401
    from tests.servers.dynamodb import client

    client("http://127.0.0.1:9")  # which has read what all others need


def main(raw: dict[str, Any]) -> None:
    """Do a job to its end, or to its point."""
    job = msgspec.convert(raw, Job)
    random.uniform = lambda low, high: low + (high - low) * random.random()  # type: ignore[assignment]
    if job.mutant is not None:
        mutants.switch_on(job.mutant, Path(job.folder))
    asyncio.run(asyncio.wait_for(Process(job).work(), 80))


class Process:
    """One that does a job."""

    def __init__(self, job: Job) -> None:
        self._job, self._folder = job, Path(job.folder)
        self._points = Points(job.at, self._die)
        self._names = scenario.names_of(job.tenant, [each.run for each in job.sayings])
        self._outcome = Outcome(points=[])

    def _die(self, point: Point) -> None:
        append(self._folder / "died", str(point))
        os.kill(os.getpid(), 9)

    def _runtime(self) -> Runtime:
        job, path = self._job, self._folder / "runs.db"
        ttl = 0.6 if job.driver == "temporal" else 15.0
        runtime = SqliteRuntime(path, durability="process", lease_ttl=ttl, clock_skew=0.1)
        runtime.store = scenario.NamedPoints(runtime.store, self._points, self._names)
        if job.driver == "dbos":
            return DBOSRuntime(f"sqlite:{path}", store=runtime.store)
        if job.driver == "temporal":
            return TemporalRuntime(job.address, store=runtime.store, task_queue=job.queue, patience=0.9)
        return runtime

    def _memory(self) -> Memory:
        job = self._job
        embedder = HashEmbedder(job.dimensions) if job.dimensions else None
        reindexing.PAGE = 2  # more writes to die at
        by_kind = job.do != "reindex"
        return job.place.memory(self._folder, embedder, self._points, by_kind=by_kind, level=job.level)

    async def work(self) -> None:
        """All of it, and word of it."""
        runtime, memory = self._runtime(), self._memory()
        agent = scenario.agent(self._folder, runtime, memory, self._points, self._names)
        match self._job.do:
            case "talk" | "together" if self._job.takes_up == "enter":
                async with agent, self._serving(runtime):
                    await self._talk(agent)
            case "talk" | "together":
                if self._job.takes_up == "recover":
                    await agent.recover()
                await self._talk(agent)
            case "erase":
                assert self._job.scope is not None
                memory.covers(runtime)  # as where an agent has run
                self._outcome.erased = await memory.erase(self._job.scope)
            case "reindex":
                self._outcome.changed = await memory.reindex()
            case "look":
                pass
        points = list(self._points.reached)
        await self._look(memory)
        await agent.close()
        self._outcome.points = points
        outcome = msgspec.json.encode(self._outcome)
        (self._folder / f"outcome-{self._job.generation}").write_bytes(outcome)

    def _serving(self, runtime: Runtime) -> contextlib.AbstractAsyncContextManager[None]:
        """Be a worker as well, where a run needs one."""
        return runtime.serving() if isinstance(runtime, TemporalRuntime) else contextlib.nullcontext()

    # talking

    async def _talk(self, agent: Agent[Any, str]) -> None:
        if self._job.do == "together":
            await asyncio.gather(*[self._say(agent, each) for each in self._job.sayings])
            return
        for saying in self._job.sayings:
            await self._say(agent, saying)

    async def _say(self, agent: Agent[Any, str], saying: Saying) -> None:
        who: dict[str, Any] = {
            "tenant_id": self._job.tenant,
            "user_id": saying.user,
            "session_id": saying.session,
        }
        if self._job.way == "stream":
            async with agent.stream(saying.text, run_id=saying.run, **who) as stream:
                async for _ in stream:
                    pass
            result = stream.result
        else:
            result = await agent.run(saying.text, run_id=saying.run, **who)
        assert result.status == "completed", result
        if self._job.takes_up == "consolidate":
            await agent.consolidate()
        await self._learned(agent, learning_of(self._job.tenant, saying.run))

    async def _learned(self, agent: Agent[Any, str], run_id: str) -> None:
        """Until the learning run has ended, which was begun before the end of the run that it learns from."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        status = "running"
        while status != "completed" and loop.time() < until:
            try:
                status = (await agent.runtime.store.find(Scope(self._job.tenant), run_id)).status
            except RunNotFound:
                break
            await asyncio.sleep(0.005)
        if status != "completed":
            self._outcome.error += f"{self._names.get(run_id, run_id)} never came to its end. "

    # the rest

    async def _look(self, memory: Memory) -> None:
        """Everything that the tenant has in memory, as it lies."""
        found: list[Item] = []
        await memory.ready(Scope(self._job.tenant))
        async for scope, item in memory.export(Scope(self._job.tenant)):
            assert not isinstance(item, Block)
            [record] = await memory.store.get(scope, [item.id])
            found_by = record.terms.hex(), record.vector.hex()
            if isinstance(item, Episode):
                found.append(Item(scope, item, None, *found_by))
            else:
                found.append(Item(scope, None, item, *found_by))
        self._outcome.items = found
