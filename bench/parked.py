"""Runs that wait for a person, on SQLite: going on with one whose journal is long, and many that wait at once.

*Resuming* begins with `agent.resume(checkpoint, answer=Approve(...))` and ends where the tool's body begins, in an
agent and on a store that have nothing of the run in memory. In the row of CPU time *raw* is reading the journal's rows
and decoding them; in that of wall time it makes as many bare commits besides as a resume has: the answer's and the
run's claim, the answer, the new sitting, and the intent of the call.

*Many that wait*: all parked in this process, in one file (`durability="process"`), and nobody holds their results.
*raw* is the same in a file that has those of a few tenants. Memory is resident, and what it grew by from the first
runs to the last.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import msgspec
from durable import Folder, full_commits
from measure import Row

from shipworthy import (
    Agent,
    Approve,
    Inbox,
    Operator,
    ScriptedModel,
    SqliteRuntime,
    StandardPermissions,
    ToolCall,
    tool,
)
from shipworthy.rules.codec import decode_events

PAYMENT = '{"amount":50,"to":"ACME-2231"}'
FOUND = "ACME-2231: three invoices are open, the oldest of them since the second of March."
FOREVER = 2**53
COMMITS = 5
OPERATOR = Operator("bench")


class Sizes(msgspec.Struct, frozen=True):
    """How much is waiting. `looks`: calls of the model before the one that waits, at five events each."""

    looks: int = 199
    tenants: int = 100
    beside: int = 5
    each: int = 100
    times: int = 30


QUICK = Sizes(3, 3, 2, 4, 2)

reached: list[tuple[int, int]] = []


@tool(effect="read", timeout=30.0)
async def look_up(to: str) -> str:
    """What is open."""
    return FOUND


@tool(effect="once", timeout=30.0)
async def pay(amount: int, to: str) -> str:
    """Pay."""
    reached.append((time.process_time_ns(), time.perf_counter_ns()))
    return "paid"


def clerk(path: Path, looks: int = 0, **settings: Any) -> Agent[Any, str]:
    """Pays, after so many looks, when somebody has said yes."""
    script: list[Any] = [ToolCall("look_up", '{"to":"ACME-2231"}')] * looks
    return Agent(
        "You pay invoices.",
        name="clerk",
        model=ScriptedModel([*script, ToolCall("pay", PAYMENT), "It is paid."]),
        tools=[look_up, pay],
        runtime=SqliteRuntime(path, **settings),
        permissions=StandardPermissions(),
        approval_handler=Inbox(),
        max_turns=1_000_000,
    )


class Waiting:
    """What waits, made when it is first looked at, in a folder that is gone afterwards."""

    def __init__(self, parent: Path, sizes: Sizes) -> None:
        self._parent, self._sizes = parent, sizes
        self._crowds: dict[int, Crowd] = {}
        self._parked: Any = None
        self._resumed: tuple[float, float] = (0.0, 0.0)

    def __enter__(self) -> Waiting:
        self._folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=self._parent))
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        for crowd in self._crowds.values():
            self._runner.run(crowd.agent.close())
        self._runner.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # one with a long journal

    def resume_rows(self) -> list[Row]:
        def ours() -> float:
            self._resumed = asyncio.run(self._resume())
            return self._resumed[0]

        def floor() -> float:
            return self._read(time.process_time_ns)

        def floor_on_disk() -> float:
            return self._read(time.perf_counter_ns) + self._commits()

        name = f"resuming a parked run of {5 * self._sizes.looks + 5:,} events"
        return [
            Row(
                name=f"{name}: CPU",
                unit="ms",
                sides={"raw": floor, "ours": ours},
                against="raw",
                limit=20,
                note="raw: its rows read and decoded",
            ),
            Row(
                name=f"{name}: wall",
                unit="ms",
                sides={"raw": floor_on_disk, "ours": lambda: self._resumed[1]},
                against="raw",
                note=f"raw: its rows read and decoded, and {COMMITS} bare FULL commits",
            ),
        ]

    def _original(self) -> Path:
        path = self._folder / "long.db"
        if self._parked is None:
            self._parked = asyncio.run(self._park(path))
        return path

    async def _park(self, path: Path) -> Any:
        agent = clerk(path, self._sizes.looks)
        result = await agent.run("Pay what is open.", tenant_id="acme", user_id="ada")
        await agent.close()
        assert result.status == "paused", result
        return result.checkpoint

    async def _resume(self) -> tuple[float, float]:
        """Milliseconds of CPU and of wall time until the tool's body begins."""
        with Folder(self._folder) as folder:
            shutil.copy(self._original(), folder / "long.db")
            agent = clerk(folder / "long.db", self._sizes.looks)
            await agent.runtime.open()
            reached.clear()
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            result = await agent.resume(self._parked, answer=Approve(by="maria"))
            assert result.output == "It is paid.", result
            await agent.close()
        return (reached[0][0] - cpu) / 1e6, (reached[0][1] - wall) / 1e6

    def _read(self, clock: Callable[[], int]) -> float:
        """Milliseconds for the whole journal, by a connection that is open."""
        connection = apsw.Connection(str(self._original()))
        try:
            connection.execute("SELECT count(*) FROM runs").fetchall()
            begun = clock()
            for (events,) in connection.execute("SELECT events FROM journal ORDER BY id"):
                decode_events(events)
            return (clock() - begun) / 1e6
        finally:
            connection.close()

    def _commits(self) -> float:
        return full_commits(self._folder, [b"x" * 500] * COMMITS).seconds * 1000

    # many

    def parked_rows(self) -> list[Row]:
        few, many = self._sizes.each, self._sizes.each * self._sizes.tenants
        rows = self._kept_rows(many)
        for name, unit, work in (
            ("asking the store what is due, where nothing is", "us", Crowd.due),
            ("a page of what is due, where all are", "us", Crowd.all_due),
            (f"the requests of one tenant, {few:,}", "ms", Crowd.requests),
            ("a fresh run, wall", "us", Crowd.fresh),
        ):
            rows.append(
                Row(
                    name=f"beside {many:,} parked runs: {name}",
                    unit=unit,
                    sides={
                        "raw": self._sampled(self._sizes.beside, work),
                        "ours": self._sampled(self._sizes.tenants, work),
                    },
                    against="raw",
                    note=f"raw: beside those of {self._sizes.beside} tenants",
                )
            )
        return rows

    def _kept_rows(self, many: int) -> list[Row]:
        def row(name: str, unit: str, what: str, limit: float | None) -> Row:
            return Row(
                name=f"{many:,} parked runs: {name}",
                unit=unit,
                sides={"ours": lambda: float(getattr(self._crowd(self._sizes.tenants), what))},
                against=None,
                limit=limit,
            )

        return [
            row("tasks", "", "tasks", 0),
            row("open files", "", "files", 0),
            row("resident memory a run", "KiB", "memory", None),
        ]

    def _sampled(self, tenants: int, work: Callable[..., Coroutine[Any, Any, float]]) -> Callable[[], float]:
        def sample() -> float:
            crowd = self._crowd(tenants)
            return self._runner.run(work(crowd, self._sizes.times))

        return sample

    def _crowd(self, tenants: int) -> Crowd:
        if tenants not in self._crowds:
            made = self._crowds[tenants] = Crowd(self._folder / f"{tenants}.db")
            self._runner.run(made.park(tenants, self._sizes.each))
        return self._crowds[tenants]


class Crowd:
    """Parked runs of so many tenants. What they keep: `tasks`, open `files`, resident `memory` in KiB a run."""

    def __init__(self, path: Path) -> None:
        self.agent = clerk(path, durability="process")
        self._inbox = Inbox(runtime=self.agent.runtime)
        self._numbers = iter(range(FOREVER))
        self.tasks = self.files = 0
        self.memory = 0.0

    async def park(self, tenants: int, each: int) -> None:
        """Park them, those of a tenant at once; what the first two tenants' leave behind is not counted."""
        first = min(2, tenants - 1)
        await self._park(range(first), each)
        before = await _kept()
        await self._park(range(first, tenants), each)
        after = await _kept()
        self.tasks, self.files = after.tasks - before.tasks, after.files - before.files
        self.memory = (after.resident - before.resident) / each / (tenants - first)

    async def _park(self, tenants: range, each: int) -> None:
        for number in tenants:
            results = await asyncio.gather(*[self._run(f"tenant-{number}") for _ in range(each)])
            assert all([result.status == "paused" for result in results])

    async def _run(self, tenant: str) -> Any:
        return await self.agent.run(f"Pay invoice {next(self._numbers)}.", tenant_id=tenant, user_id="ada")

    async def due(self, times: int) -> float:
        """Microseconds of CPU time."""
        return await self._looked(times, time.time_ns() // 1_000_000, found=False)

    async def all_due(self, times: int) -> float:
        """The same, far in the future."""
        return await self._looked(times, FOREVER, found=True)

    async def _looked(self, times: int, now: int, *, found: bool) -> float:
        store = self.agent.runtime.store
        begun = time.process_time_ns()
        for _ in range(times):
            assert bool(await store.due(OPERATOR, now)) is found
        return (time.process_time_ns() - begun) / 1000 / times

    async def requests(self, times: int) -> float:
        """Milliseconds of CPU time."""
        begun = time.process_time_ns()
        assert await self._inbox.requests("tenant-0")
        return (time.process_time_ns() - begun) / 1e6

    async def fresh(self, times: int) -> float:
        """Microseconds of wall time, until a run that is new is parked."""
        taken: list[int] = []
        for _ in range(times):
            begun = time.perf_counter_ns()
            await self._run("fresh")
            taken.append(time.perf_counter_ns() - begun)
        return statistics.median(taken) / 1000


class Kept(msgspec.Struct):
    """What a process holds: tasks, open files, and KiB of resident memory; where /proc is missing, only tasks."""

    tasks: int
    files: int
    resident: int


async def _kept() -> Kept:
    await asyncio.sleep(0.05)
    gc.collect()
    return Kept(len(asyncio.all_tasks()), *_of_process())


def _of_process() -> tuple[int, int]:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return len(os.listdir("/proc/self/fd")), resident
    except OSError:
        return 0, 0
