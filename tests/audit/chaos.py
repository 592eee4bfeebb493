"""Processes that drive audited runs and are killed: at every point of one run, or at random.

    python -m tests.audit.chaos points FOLDER KIND MUTANT some|all
    python -m tests.audit.chaos killing|spending FOLDER KIND MUTANT RUNS SEED SECONDS

It forks for each process that dies, since that is quick; what happens outside is in files, one write for each thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from shipworthy import (
    Agent,
    DidNotHappen,
    Happened,
    RunContext,
    Scope,
    ScriptedModel,
    ToolCall,
    Tuning,
    tool,
)
from shipworthy.adapters.files import audit_lane
from shipworthy.adapters.files.audit_seal import SealFile
from shipworthy.app.audit_logs import FileAuditLog, SqliteAuditLog
from shipworthy.errors import RunNotFound, ShipworthyError
from shipworthy.rules.codec import encode_event
from shipworthy.testing.faults import Point, Points
from tests.audit import chaos_mutants
from tests.audit.evidence import SECRET, Kind, Place, agrees, differences, journal_of

WORKERS, AT_ONCE = 8, 3
CALLS = 2
"""`once` calls of each run."""


def note(path: Path, **said: Any) -> None:
    """One line, at once."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, json.dumps(said).encode() + b"\n")
    os.close(fd)


def noted(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Pointed:
    """A log whose appends are points."""

    def __init__(self, log: Any, points: Points) -> None:
        self._log, self._points = log, points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, drafts: Any) -> None:
        with self._points.around("append"):
            await self._log.append(drafts)


def watch_files(points: Points) -> None:
    """In this process the writes and syncs of a log's files are points as well."""

    def around(kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            with points.around(kind):
                return work(*args)

        return watched

    audit_lane.write_at = around("write", audit_lane.write_at)  # type: ignore[attr-defined]
    audit_lane._sync = around("sync", audit_lane._sync)
    SealFile.write = around("seal", SealFile.write)  # type: ignore[method-assign]


class World:
    """A place, and a world outside in which effects are counted."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.place = Place(kind, folder)
        self.place.name = "audit"
        self.sink = folder / "sink"

    def log(self) -> Any:
        if self.place.kind == "file":
            return FileAuditLog(self.place.path, secret=SECRET)
        return SqliteAuditLog(self.place.path, secret=SECRET, durability="process")

    def tools(self, points: Points) -> list[Any]:
        async def ask(ctx: RunContext[Any], args: Any) -> Any:
            happened = [each for each in noted(self.sink) if each["key"] == ctx.idempotency_key]
            return Happened("paid") if happened else DidNotHappen()

        @tool(effect="once", verify=ask)
        async def pay(ctx: RunContext[Any], amount: int) -> str:
            with points.around("effect"):
                at = time.time_ns() // 1_000_000
                note(self.sink, run=ctx.run_id, call=ctx.call_id, key=ctx.idempotency_key, at=at)
            return "paid"

        @tool(effect="read")
        async def look() -> str:
            return "seen"

        return [pay, look]

    def agent(self, points: Points, recover_every: float = 60.0) -> Agent[Any, Any]:
        runtime = self.place.runtime()
        points.watch(runtime, acknowledged=self.acknowledged)
        pays = [ToolCall("pay", {"amount": n}) for n in range(CALLS)]
        return Agent(
            "Be brief.",
            name="clerk",
            model=ScriptedModel([[ToolCall("look"), ToolCall("look")], *pays, "Done."]),
            tools=self.tools(points),
            runtime=runtime,
            audit_log=Pointed(self.log(), points),
            tuning=Tuning(recover_every=recover_every, tool_timeout=2.0),
        )

    def acknowledged(self, scope: Scope, run_id: str, events: Any) -> None:
        for event in events:
            said = encode_event(event).decode()
            note(self.place.folder / "acks", tenant=scope.tenant, run=run_id, n=event.seq, said=said)

    # what is wrong

    def unannounced(self) -> Iterator[str]:
        """Effects of which the log does not tell an attempt that was entered before them."""
        attempts: dict[tuple[str | None, str], int] = {}
        for each in self.place.told():
            if each.entry.action == "tool.attempted":
                attempts.setdefault((each.entry.run, each.entry.facts["call"]), each.entry.logged)
        for effect in noted(self.sink):
            at = attempts.get((effect["run"], effect["call"]))
            if at is None or at > effect["at"]:
                yield f"{effect['run']}: an effect came before its attempt was entered"

    def lost(self) -> Iterator[str]:
        """Events that a store acknowledged and that the log does not have."""
        held = {(e.entry.tenant, e.entry.run, e.entry.n): e.body for e in self.place.holding()}
        for ack in noted(self.place.folder / "acks"):
            key = ack["tenant"], ack["run"], ack["n"]
            first = ack["n"] == 1 and key not in held  # it may still wait for the second
            if not first and held.get(key) != ack["said"].encode():
                yield f"{ack['run']}: event {ack['n']} was acknowledged, and is not in the log"

    async def at_the_crash(self) -> list[str]:
        """What must hold right after a kill."""
        if not self.place.path.exists():
            return list(self.unannounced())
        report = self.place.report()
        journal = await self.journal()
        return [
            *([] if report.verdict == "ok" else [f"the log is {report.verdict}: {report.what}"]),
            *differences(self.place.holding(), journal, behind=True),
            *self.unannounced(),
            *self.lost(),
        ]

    async def journal(self) -> Any:
        runtime = self.place.runtime()
        await runtime.open()
        try:
            return await journal_of(runtime.store)
        finally:
            await runtime.close()

    async def at_the_end(self, runs: int) -> list[str]:
        """What must hold once every run has ended."""
        found = [*self.unannounced(), *self.lost()]
        runtime = self.place.runtime()
        await runtime.open()
        try:
            await agrees(self.place, runtime.store)
        except AssertionError as error:
            found.append(
                f"log and journal: {error or [*differences(self.place.holding(), await self.journal())]}"
            )
        finally:
            await runtime.close()
        entries = [each.entry for each in self.place.holding()]
        ended = {each.run for each in entries if each.action == "run.ended"}
        started = {each.run for each in entries if each.action == "run.started"}
        keys = [effect["key"] for effect in noted(self.sink)]
        if started != ended or len(ended) != runs:
            found.append(f"of {runs} runs {len(started)} have a start and {len(ended)} an end")
        if len(set(keys)) != len(keys) or len(keys) != CALLS * runs:
            found.append(f"{len(keys)} effects happened, of {CALLS * runs}, {len(set(keys))} of them once")
        return found


# every point of one run


async def first(world: World, at: Point | None) -> list[Point]:
    points = Points(at)
    watch_files(points)
    async with world.agent(points) as agent:
        await agent.run("Go", run_id="r", tenant_id="acme", user_id="alice")
    return points.reached


async def second(world: World) -> list[str]:
    """What is wrong after the kill, and when the run was taken up again."""
    found = await world.at_the_crash()
    async with world.agent(Points()) as agent:
        with contextlib.suppress(RunNotFound):
            await agent.resume("r", tenant_id="acme")
            return [*found, *await world.at_the_end(1)]
        await agent.run("Go", run_id="r", tenant_id="acme", user_id="alice")
        return [*found, *await world.at_the_end(1)]


def forked(work: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """How a process of its own, that does *work*, ended."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(work())
            os._exit(0)
        except BaseException as error:
            note(Path(os.environ["CHAOS_ERRORS"]), error=repr(error))
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_points(folder: Path, kind: Kind, which: str, mutant: str) -> None:
    """Write of each point what is wrong after a death there; of a mutant, until something is. *which*: "some" of the
    writes of a file, or "all"."""
    (folder / "whole").mkdir()

    async def look() -> None:
        for point in dict.fromkeys(await first(World(kind, folder / "whole"), None)):
            note(folder / "points", kind=point.kind, ordinal=point.ordinal, side=point.side)

    assert forked(look) == 0
    for number, point in enumerate(noted(folder / "points")):
        if which == "some" and point["kind"] in ("write", "sync", "seal") and number % 4:
            continue
        place = folder / str(number)
        place.mkdir()
        at = Point(**point)
        code = forked(lambda place=place, at=at: first(World(kind, place), at))  # type: ignore[misc]

        async def go_on(place: Path = place, at: Point = at, code: int = code) -> None:
            wrong = [] if code == -9 else [f"it ended with {code}"]
            note(folder / "told", point=str(at), wrong=[*wrong, *await second(World(kind, place))])

        assert forked(go_on) == 0
        if mutant and noted(folder / "told")[-1]["wrong"]:
            return


# random kills


def whose(number: int) -> dict[str, Any]:
    return {"tenant_id": f"t{number % 3}", "user_id": f"u{number % 5}", "run_id": f"run-{number}"}


async def serve(world: World, numbers: list[int]) -> None:
    """Drive these runs to their ends, and take up what others left."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            while True:
                with contextlib.suppress(ShipworthyError):
                    result = await agent.run("Go", **whose(number))
                    if result.status != "paused":
                        return
                await asyncio.sleep(0.02)

    async with world.agent(Points(), recover_every=0.2) as agent:
        await asyncio.gather(*[one(number) for number in numbers])


def kill_at_random(made: type[World], folder: Path, kind: Kind, runs: int, seed: int, seconds: float) -> None:
    """Eight processes, until all runs are done, and killed for so many seconds; and write what is wrong then."""
    chance, world = random.Random(seed), made(kind, folder)
    left = {n: [number for number in range(runs) if number % WORKERS == n] for n in range(WORKERS)}
    going: dict[int, int] = {}
    kills = 0

    def start(n: int) -> None:
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                asyncio.run(serve(made(kind, folder), left[n]))
                os._exit(0)
            os._exit(1)
        going[child] = n

    for n in left:
        start(n)
    until = time.monotonic() + seconds
    while going:
        victim = 0
        if time.monotonic() < until:  # afterwards all come to their ends, however busy the machine is
            time.sleep(chance.uniform(0.01, 0.06))
            victim = chance.choice(sorted(going))
            os.kill(victim, signal.SIGKILL)
            kills += 1
        child, status = os.waitpid(victim or -1, 0)
        n = going.pop(child)
        if status:  # only a process that came to its end has its runs done
            start(n)
    found = asyncio.run(world.at_the_end(runs))
    note(folder / "told", wrong=found, kills=kills, entries=len(world.place.told()))


def preload(folder: Path, kind: Kind) -> None:
    """Import what a run needs, in the process that is forked for each."""

    async def live() -> None:
        world = World(kind, folder)
        async with world.agent(Points()) as agent:
            await agent.run("Go", **whose(0))
        await world.at_the_end(1)

    folder.mkdir()
    asyncio.run(live())
    gc.collect()
    gc.freeze()


def main(way: str, folder: str, kind: Any, mutant: str, *more: str) -> None:
    os.environ["CHAOS_ERRORS"] = str(Path(folder) / "errors")
    chaos_mutants.install(mutant)
    preload(Path(folder) / "preload", kind)
    if way == "points":
        at_points(Path(folder), kind, more[0], mutant)
    else:
        world = World
        if way == "spending":
            from tests.audit.spending import Spending as world  # type: ignore[assignment]
        kill_at_random(world, Path(folder), kind, int(more[0]), int(more[1]), float(more[2]))


if __name__ == "__main__":
    main(*sys.argv[1:])
