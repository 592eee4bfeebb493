"""What one process of a proof does: it drives runs, tells of all that it learns in files outside, and may die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw
import msgspec

from shipworthy import PostgresRuntime, SqliteRuntime
from shipworthy.adapters.sqlite import writer
from shipworthy.adapters.sqlite.power import PowerLossVfs
from shipworthy.app.agent import Agent
from shipworthy.app.sync import run_sync
from shipworthy.domain.effects import DidNotHappen, Happened, Settlement
from shipworthy.domain.events import AnyEvent, Event
from shipworthy.domain.results import RunResult
from shipworthy.domain.scope import Scope
from shipworthy.engine import settle
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import RunNotFound, ShipworthyError, StoreError
from shipworthy.rules.codec import encode_event
from shipworthy.testing.faults import Point, Points
from tests.crash import checks, links, mutants, scenario
from tests.crash.links import LinkFault
from tests.crash.scenario import Report, append, identity, prompt, tenant

T = TypeVar("T")
Way = Literal["run", "stream", "sync", "together", "serve", "follow"]
Action = Literal["kill", "stop", "power"]


class DiskFault(msgspec.Struct, frozen=True):
    """The *nth* write, or sync, of the database's files fails, and so do those after it, *times* in all."""

    operation: Literal["write", "sync"]
    nth: int
    code: Literal["SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_FULL"]
    times: int = 1


class Job(msgspec.Struct, kw_only=True):
    """What a child is to do. `runs` in their order; `settle`: what a person found out, by run and call.

    "serve": drive the runs, `at_once` of them, and recover what others left, until all of them have ended. "follow":
    read along with runs that others drive, each in two streams: from its beginning, and from the event `after`.

    `again`: how often a run that a StoreError stopped is taken up again in this process; after that the error ends the
    process, unless it is `tolerant`. `lossy`: on a disk that forgets what was not synced when the power fails, which
    it does at the point `at` with the action "power", or before the operation number `cut`; `torn` seeds what is left.
    `database`: on that PostgreSQL database; the way to it fails as `link` says.
    """

    folder: str
    database: str = ""
    generation: int
    way: Way = "run"
    runs: list[str]
    recover: bool = False
    settle: dict[str, dict[str, str | None]] = {}
    again: int = 0
    after: int = 0
    at_once: int = 16
    tolerant: bool = False
    setting: scenario.Setting = scenario.Setting()
    at: Point | None = None
    action: Action = "kill"
    mutant: str | None = None
    fault: DiskFault | None = None
    link: LinkFault | None = None
    lossy: bool = False
    cut: int | None = None
    torn: int | None = None
    log: str = ""


class Followed(msgspec.Struct, frozen=True):
    """The numbers of the events that a stream of a run gave, from the one after `after` on."""

    run_id: str
    after: int
    seen: list[int]


class Pending(msgspec.Struct, frozen=True):
    """A call that a person has to settle."""

    run_id: str
    call_id: str
    tool: str
    args: str


class Outcome(msgspec.Struct):
    """What a child that came to its end has to say."""

    points: list[Point]
    pending: list[Pending] = []
    settled: list[str] = []
    errors: list[str] = []
    operations: dict[str, int] = {}
    clock: int = 0
    """At the end, on the lease clock."""


def preload() -> None:
    """Import what a job needs, in the process that is forked for each."""
    import pydantic  # noqa: F401

    import shipworthy.adapters.postgres
    import shipworthy.app.outputs
    import shipworthy.engine.follow  # noqa: F401


def main(raw: dict[str, Any], process: type[Process] | None = None) -> None:
    """Do a job to its end, or to its point."""
    job = msgspec.convert(raw, Job)
    random.uniform = lambda low, high: low  # type: ignore[assignment]  # backing off costs a proof only time
    settle.STARTS = 1000  # however often a body is killed, it is not given up
    if job.mutant is not None:
        mutants.switch_on(job.mutant, job.database)
    (process or Process)(job).work()


class Process:
    """One that does a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = Path(job.folder)
        self.outcome = Outcome([])
        self.vfs = self._disk()
        self.points = Points(job.at, self._act)
        runtime = self._runtime()
        self.store = runtime.store
        self.points.watch(runtime, acknowledged=self._committed)
        self.agent: Agent[Any, Report] = scenario.agent(self.folder, runtime, self.points, job.setting)

    def _runtime(self) -> Runtime:
        setting = self.job.setting
        if self.job.database:
            links.cut(self.job.link, self.folder, self.outcome.operations)
            return PostgresRuntime(
                self.job.database,
                lease_ttl=setting.ttl,
                clock_skew=setting.skew,
                patience=setting.patience,
            )
        return SqliteRuntime(
            self.folder / "runs.db",
            lease_ttl=setting.ttl,
            clock_skew=setting.skew,
            vfs=None if self.vfs is None else "disk",
        )

    # faults

    def _act(self, point: Point) -> None:
        self._die(str(point), signal.SIGSTOP if self.job.action == "stop" else signal.SIGKILL)

    def _die(self, where: str, number: int) -> None:
        append(self.folder / "died", where)
        if self.vfs is not None:
            self.vfs.lose_power(torn=None if self.job.torn is None else random.Random(self.job.torn))
        os.kill(os.getpid(), number)

    def _disk(self) -> PowerLossVfs | None:
        if self.job.fault is None and not self.job.lossy:
            return None
        writer.CHECKPOINT_PAGES = 24
        vfs = PowerLossVfs("disk")
        vfs.before = self._operation
        return vfs

    def _operation(self, operation: str, path: str) -> None:
        counted = self.outcome.operations
        for kind in (operation, "any"):
            counted[kind] = counted.get(kind, 0) + 1
        if counted["any"] == self.job.cut:
            self._die(f"operation {self.job.cut}", signal.SIGKILL)
        fault = self.job.fault
        if fault is None or operation != fault.operation:
            return
        if fault.nth <= counted[operation] < fault.nth + fault.times:
            append(self.folder / "died", f"{operation} {counted[operation]}")
            raise apsw.exception_for(getattr(apsw, fault.code))

    # telling

    def _committed(self, scope: Scope, run_id: str, events: Any) -> None:
        for event in events:
            self._told(run_id, event, "committed")

    def _told(self, run_id: str, event: AnyEvent, how: Any) -> None:
        text = encode_event(event).decode()
        append(
            self.folder / "acks", checks.Ack(tenant(run_id), run_id, event.seq, how, text, pid=os.getpid())
        )

    def _returned(self, result: RunResult[Report]) -> None:
        output = msgspec.json.encode(result.value).decode() if result.has_output else None
        run_id = result.run_id
        append(
            self.folder / "acks",
            checks.Ack(tenant(run_id), run_id, result.seq, "returned", "", result.status, output),
        )

    # driving

    def work(self) -> None:
        if self.job.way == "sync":
            self._work_sync()
        elif self.job.way == "serve":
            asyncio.run(self._serve())
        elif self.job.way == "follow":
            asyncio.run(self._follow())
        else:
            asyncio.run(self._work())
        self.outcome.points = self.points.reached
        told = self.folder / f"outcome-{self.job.generation}"
        told.write_bytes(msgspec.json.encode(self.outcome))

    async def _work(self) -> None:
        if not await self._once(self._open):
            return
        for run_id, settlements in self.job.settle.items():
            if await self._once(lambda r=run_id, s=settlements: self._resume(r, s)) is None:  # type: ignore[misc]
                return await self.agent.runtime.close()
            self.outcome.settled.append(run_id)
        drive = self._stream if self.job.way == "stream" else self._run
        if self.job.recover:
            for result in await self.agent.recover():
                self._returned(result)
        if self.job.way == "together":
            results = await asyncio.gather(*[self._once(lambda r=r: drive(r)) for r in self.job.runs])  # type: ignore[misc]
            for result in results:
                self._note(result)
        else:
            for run_id in self.job.runs:
                if not self._note(await self._once(lambda r=run_id: drive(r))):  # type: ignore[misc]
                    break
        self.outcome.clock = self.store.clock()
        await self.agent.runtime.close()

    async def _serve(self) -> None:
        slots = asyncio.Semaphore(self.job.at_once)

        async def serve(run_id: str) -> None:
            async with slots:
                await self._once(lambda: self._run(run_id))

        async with self.agent:
            await asyncio.gather(*[serve(run_id) for run_id in self.job.runs])

    async def _follow(self) -> None:
        await self.agent.runtime.open()
        starts = (0, self.job.after)
        await asyncio.gather(*[self._follow_one(r, after) for r in self.job.runs for after in starts])
        await self.agent.runtime.close()

    async def _follow_one(self, run_id: str, after: int) -> None:
        """Tell of every number that a stream of a run gives, once somebody has begun it."""
        seen: list[int] = []
        while not seen:
            with contextlib.suppress(RunNotFound):
                async with self.agent.stream(run_id=run_id, tenant_id=tenant(run_id), after=after) as stream:
                    async for item in stream:
                        if isinstance(item, Event):
                            self._told(run_id, item, "streamed")  # type: ignore[arg-type]
                            seen.append(item.seq)
            await asyncio.sleep(0.02)
        append(self.folder / "followed", Followed(run_id, after, seen))

    def _work_sync(self) -> None:
        run_sync(self.agent.runtime.open())
        for run_id, settlements in self.job.settle.items():
            run_sync(self._resume(run_id, settlements))
        if self.job.recover:
            for result in run_sync(self.agent.recover()):
                self._returned(result)
        for run_id in self.job.runs:
            result = self.agent.run_sync(prompt(run_id), run_id=run_id, **identity(run_id))
            self._returned(result)
            if not self._note(result):
                break
        run_sync(self.agent.runtime.close())

    async def _open(self) -> bool:
        await self.agent.runtime.open()
        return True

    async def _once(self, drive: Callable[[], Awaitable[T]]) -> T | None:
        """A run, taken up again after a StoreError as often as the job says."""
        for attempt in range(self.job.again + 1):
            try:
                return await drive()
            except StoreError as error:
                self.outcome.errors.append(type(error).__name__)
                if attempt == self.job.again and not self.job.tolerant:
                    raise
            except ShipworthyError as error:
                self.outcome.errors.append(type(error).__name__)
                return None
        return None

    async def _run(self, run_id: str) -> RunResult[Report]:
        result = await self.agent.run(prompt(run_id), run_id=run_id, **identity(run_id))
        self._returned(result)
        return result

    async def _stream(self, run_id: str) -> RunResult[Report]:
        async with self.agent.stream(prompt(run_id), run_id=run_id, **identity(run_id)) as stream:
            async for item in stream:
                if isinstance(item, Event):
                    self._told(run_id, item, "streamed")  # type: ignore[arg-type]
        self._returned(stream.result)
        return stream.result

    async def _resume(self, run_id: str, settlements: dict[str, str | None]) -> RunResult[Report]:
        settle: dict[str, Settlement] = {
            call_id: DidNotHappen() if said is None else Happened(said)
            for call_id, said in settlements.items()
        }
        result = await self.agent.resume(run_id, tenant_id=tenant(run_id), settle=settle)
        self._returned(result)
        return result

    def _note(self, result: RunResult[Report] | None) -> bool:
        """Whether the next run may begin."""
        if result is None:
            return False
        for call in result.pending:
            self.outcome.pending.append(Pending(result.run_id, call.call_id, call.tool, call.arguments))
        return result.status != "paused"


if __name__ == "__main__":
    main(msgspec.json.decode(sys.stdin.buffer.read()))
