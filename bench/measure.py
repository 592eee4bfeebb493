"""Measuring: samples of several sides in turn, medians, ratios within a round, and one table."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal

import msgspec

Side = Literal["raw", "governed", "ours"]
SIDES: tuple[Side, ...] = ("raw", "governed", "ours")

Sample = Callable[[], float]
Samples = dict[Side, list[float]]


class Row(msgspec.Struct, kw_only=True):
    """One metric. `sides` gives one sample each time it is called.

    `against`: the side that ours is divided by. `at_most` and `at_least` bound that ratio; `limit` bounds our own
    value, for goals that are absolute. `note` says what the floors are where they are special.
    """

    name: str
    unit: str
    sides: dict[Side, Sample]
    against: Side | None = "governed"
    at_most: float | None = None
    at_least: float | None = None
    limit: float | None = None
    note: str = ""
    samples: Samples = msgspec.field(default_factory=dict)

    def value(self, side: Side) -> float | None:
        """The median of what was measured."""
        taken = self.samples.get(side)
        return statistics.median(taken) if taken else None

    def ratio(self) -> float | None:
        """The median of the rounds' own ratios: what disturbed a round disturbed both of its sides."""
        if self.against is None or not self.samples.get(self.against):
            return None
        pairs = zip(self.samples["ours"], self.samples[self.against], strict=True)
        return statistics.median([ours / floor for ours, floor in pairs if floor])

    def goal(self) -> str:
        goals = []
        if self.at_most is not None:
            goals.append(f"<= {self.at_most:g}x {self.against}")
        if self.at_least is not None:
            goals.append(f">= {self.at_least:g}x {self.against}")
        if self.limit is not None:
            goals.append(f"<= {self.limit:g}{_spaced(self.unit)}")
        return ", ".join(goals) or "-"

    def reached(self) -> str:
        ratio, ours = self.ratio(), self.value("ours")
        checks = []
        if self.at_most is not None and ratio is not None:
            checks.append(ratio <= self.at_most)
        if self.at_least is not None and ratio is not None:
            checks.append(ratio >= self.at_least)
        if self.limit is not None and ours is not None:
            checks.append(ours <= self.limit)
        if not checks:
            return "-"
        return "yes" if all(checks) else "NO"


def interleave(rows: Sequence[Row], rounds: int, report: Callable[[str], None]) -> None:
    """Fill every row's samples: in each round every row, in each row every side in turn."""
    for row in rows:
        row.samples = {side: [] for side in row.sides}
    for number in range(rounds):
        for row in rows:
            report(f"round {number + 1} of {rounds}: {row.name}")
            for side, sample in row.sides.items():
                gc.collect()
                row.samples[side].append(sample())


def progress(text: str) -> None:
    """Where the run is, for who watches a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# --- one sample -------------------------------------------------------------------------------


def cpu_of(work: Coroutine[Any, Any, Any]) -> float:
    """Microseconds of CPU time of *work*, without the making of its event loop."""

    async def measured() -> float:
        begun = time.process_time_ns()
        await work
        return (time.process_time_ns() - begun) / 1000

    return asyncio.run(measured())


async def repeat(times: int, one: Callable[[], Awaitable[Any]]) -> None:
    for _ in range(times):
        await one()


async def together(ones: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """All at once, as a burst of requests is."""
    await asyncio.gather(*ones)


def construction(times: int, make: Callable[[], object]) -> float:
    """Microseconds for one call of *make*."""
    begun = time.process_time_ns()
    for _ in range(times):
        make()
    return (time.process_time_ns() - begun) / 1000 / times


def loop_lag(work: Coroutine[Any, Any, Any]) -> float:
    """The 99th percentile of how late the event loop is, in milliseconds, while *work* is under way.

    A moment is asked for every millisecond. A stall of N ms is met by N moments, each late by what was left of it, as N
    requests arriving meanwhile would be: so a stall counts by its length, and not once.
    """
    late: list[float] = []

    async def tick(done: asyncio.Event) -> None:
        due = time.perf_counter() + 0.001
        while not done.is_set():
            await asyncio.sleep(due - time.perf_counter())
            now = time.perf_counter()
            while due <= now:
                late.append(now - due)
                due += 0.001

    async def measured() -> None:
        done = asyncio.Event()
        ticking = asyncio.create_task(tick(done))
        await asyncio.sleep(0.005)
        late.clear()
        await work
        done.set()
        await ticking

    asyncio.run(measured())
    return statistics.quantiles(late, n=100)[98] * 1000 if len(late) > 1 else 0.0


def memory_in_flight(runs: int, start: Callable[[int], Coroutine[Any, Any, Any]], gate: Gate) -> float:
    """KiB of Python's memory for each run, at the peak until *runs* of them are in flight at *gate* at once."""

    async def measured() -> float:
        everybody = gate.shut(runs)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.ensure_future(start(number)) for number in range(runs)]
        await everybody.wait()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gate.open()
        await asyncio.gather(*tasks)
        return (peak - before) / 1024 / runs

    return asyncio.run(measured())


class Gate:
    """Where tools wait until all runs are there. Open at first."""

    def __init__(self) -> None:
        self._missing = 0
        self._everybody: asyncio.Event | None = None
        self._opened: asyncio.Event | None = None

    def shut(self, runs: int) -> asyncio.Event:
        """Hold everybody back; the event is set when *runs* of them are here."""
        self._missing, self._everybody, self._opened = runs, asyncio.Event(), asyncio.Event()
        return self._everybody

    def open(self) -> None:
        if self._opened is not None:
            self._opened.set()
        self._everybody = self._opened = None

    async def wait(self) -> None:
        if self._everybody is None or self._opened is None:
            return
        self._missing -= 1
        if not self._missing:
            self._everybody.set()
        await self._opened.wait()


# --- a fresh process --------------------------------------------------------------------------

_REPORT = """
import sys
def _peak():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except OSError:
        return 0
import time as _time
_cpu = _time.process_time()
import json as _json
print(_json.dumps({"cpu": _cpu * 1000, "modules": sorted(sys.modules), "kib": _peak()}))
"""


class Imported(msgspec.Struct):
    """A fresh process after its imports: CPU milliseconds with the interpreter's own start, modules, peak memory."""

    cpu: float
    modules: list[str]
    kib: int


def fresh_import(statements: str, root: str) -> Imported:
    """Run *statements* in a new interpreter, with the byte code cached as in any deployment."""
    env = {**os.environ, "PYTHONPATH": root}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", statements + _REPORT], env=env, capture_output=True, text=True, check=True
    )
    return msgspec.json.decode(done.stdout, type=Imported)


# --- the table --------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = ("metric", "raw", "governed", "ours", "ratio", "goal", "reached")
    body = [
        (
            f"{row.name}, {row.unit}" if row.unit else row.name,
            *[_figure(row.value(side)) for side in SIDES],
            _figure(row.ratio()),
            row.goal(),
            row.reached(),
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *[line(cells) for cells in body]])


def machine() -> str:
    """The machine in generic words: figures are worth something within one run only."""
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, Python {platform.python_version()}"


def as_json(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Everything that was measured, samples included."""
    made = [
        {
            "metric": row.name,
            "unit": row.unit,
            **{side: row.value(side) for side in SIDES},
            "against": row.against,
            "ratio": row.ratio(),
            "goal": row.goal(),
            "reached": row.reached(),
            "note": row.note,
            "samples": row.samples,
        }
        for row in rows
    ]
    return json.dumps({"machine": machine(), "facts": facts, "rows": made}, indent=1)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""
