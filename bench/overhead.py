"""What shipworthy costs, beside two hand-written floors, in one interleaved run.

    python bench/overhead.py [--quick] [--json FILE] [--dir FOLDER] [--rounds N] [--only WORD]

*raw* is a bare loop over dicts, *governed* the same loop with everything that production asks for (`floors.py`).
In the rows of durable steps *raw* is a bare SQLite commit with `synchronous=FULL` and *governed* a bare group
commit (`durable.py` says what a step is); `machines.py` has the floors of Postgres, DBOS and Temporal, on servers that
it starts itself. Every round takes one sample of each side in turn. Figures are medians; a ratio is the median of the
rounds' own ratios. Times are CPU time of the process, except those of steps, of durable turns and the loop's lag, which
are wall time.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import durable
import machines
import msgspec
from durable import BOOKED, SEAT, Durable
from floors import Service
from measure import (
    Imported,
    Row,
    Sample,
    Side,
    as_json,
    construction,
    cpu_of,
    fresh_import,
    interleave,
    loop_lag,
    machine,
    memory_in_flight,
    progress,
    repeat,
    table,
    together,
)
from workloads import PROMPT, Trio, gate, marks

from shipworthy import ToolCall

ROOT = str(Path(__file__).resolve().parents[1])

Ask = Callable[[int], Any]


class Sizes(msgspec.Struct, frozen=True):
    """How much work one sample is."""

    rounds: int = 15
    builds: int = 2_000
    singles: int = 400
    tens: int = 60
    parallels: int = 40
    burst: int = 1_000
    chunks: int = 10_000
    long_turns: int = 500
    durable_turns: tuple[int, int, int] = (300, 80, 40)
    engine_runs: tuple[int, int] = (16, 10)
    counted_turns: int = 20


QUICK = Sizes(1, 20, 5, 2, 2, 20, 200, 20, (3, 2, 1), (2, 1), 2)


# --- import -----------------------------------------------------------------------------------

IMPORTS: dict[Side, str] = {
    "raw": "import asyncio, json",
    "governed": "import asyncio, collections, hashlib, hmac, random, uuid, msgspec",
    "ours": "import asyncio, json\nfrom shipworthy import Agent, tool",
}
HEAVY = ("anthropic", "apsw", "httpx", "openai", "pydantic", "rich", "typer")


class Imports:
    """One fresh process for each side and round; the other rows look at what it found."""

    def __init__(self) -> None:
        self.last: dict[Side, Imported] = {}

    def sample(self, side: Side) -> Sample:
        def take() -> float:
            self.last[side] = fresh_import(IMPORTS[side], ROOT)
            return self.last[side].cpu

        return take

    def more(self, side: Side, count: Callable[[Imported], float]) -> Sample:
        return lambda: count(self.last[side]) - count(self.last["raw"])

    def heavy(self, side: Side) -> Sample:
        return lambda: float(sum(name in self.last[side].modules for name in HEAVY))


def import_rows() -> list[Row]:
    imports = Imports()
    both: tuple[Side, ...] = ("governed", "ours")
    return [
        Row(
            name="import",
            unit="ms",
            sides={side: imports.sample(side) for side in IMPORTS},
            against="raw",
            at_most=1.5,
        ),
        Row(
            name="modules imported beyond raw",
            unit="",
            sides={side: imports.more(side, lambda i: float(len(i.modules))) for side in both},
            against=None,
            limit=60,
        ),
        Row(
            name="memory imported beyond raw",
            unit="MiB",
            sides={side: imports.more(side, lambda i: i.kib / 1024) for side in both},
            against=None,
            limit=5,
        ),
        Row(
            name="of " + ", ".join(HEAVY) + " imported",
            unit="",
            sides={side: imports.heavy(side) for side in IMPORTS},
            against=None,
            limit=0,
        ),
    ]


# --- one process, in memory -------------------------------------------------------------------


def build_rows(sizes: Sizes) -> list[Row]:
    trio = Trio(turns=1)
    service = Service()
    times, firsts = sizes.builds, sizes.singles
    single = Trio()
    built: dict[Side, Callable[[], Ask]] = {
        "raw": single.ask_raw,
        "governed": lambda: single.ask_governed(service),
        "ours": single.ask_ours,
    }

    def first_runs(made: Callable[[], Ask]) -> Sample:
        return lambda: cpu_of(repeat(firsts, lambda: made()(7))) / firsts

    return [
        Row(
            name="build an agent with one tool",
            unit="us",
            sides={
                "raw": lambda: construction(times, trio.raw),
                "governed": lambda: construction(times, lambda: trio.governed(service)),
                "ours": lambda: construction(times, trio.ours),
            },
            at_most=5,
        ),
        Row(
            name="build it and run a single turn",
            unit="us",
            sides={side: first_runs(ask) for side, ask in built.items()},
        ),
    ]


def three(trio: Trio, sample: Callable[[Ask], float]) -> dict[Side, Sample]:
    """A sample of each side, of agents that are made anew, so that no side drags its past along."""
    return {
        "raw": lambda: sample(trio.ask_raw()),
        "governed": lambda: sample(trio.ask_governed()),
        "ours": lambda: sample(trio.ask_ours()),
    }


def one_after_the_other(trio: Trio, times: int, parts: int = 1) -> dict[Side, Sample]:
    """CPU time of a *parts*-th of a run."""

    def sample(ask: Ask) -> float:
        asyncio.run(ask(0))
        return cpu_of(repeat(times, lambda: ask(7))) / times / parts

    return three(trio, sample)


def run_rows(sizes: Sizes) -> list[Row]:
    return [
        Row(name="single turn", unit="us", sides=one_after_the_other(Trio(), sizes.singles), at_most=1.5),
        Row(
            name="one turn of a ten-tool run",
            unit="us",
            sides=one_after_the_other(Trio(turns=10), sizes.tens, parts=11),
            at_most=1.5,
        ),
        Row(
            name="ten parallel tools",
            unit="us",
            sides=one_after_the_other(Trio("slow_weather", turns=1, calls=10), sizes.parallels),
            at_most=1.3,
        ),
    ]


def burst_rows(sizes: Sizes) -> list[Row]:
    runs = sizes.burst
    trio = Trio("remote_weather", turns=1)
    gated = Trio("gated_weather", turns=1)
    name = f"{runs:,} concurrent runs"
    return [
        Row(
            name=f"{name}: CPU a run",
            unit="us",
            sides=three(trio, lambda ask: cpu_of(together([ask(n) for n in range(runs)])) / runs),
            at_most=1.5,
        ),
        Row(
            name=f"{name}: memory a run in flight",
            unit="KiB",
            sides=three(gated, lambda ask: memory_in_flight(runs, ask, gate)),
            limit=10,
        ),
        Row(
            name=f"{name}: loop lag, p99",
            unit="ms",
            sides=three(trio, lambda ask: loop_lag(together([ask(n) for n in range(runs)]))),
            limit=20,
        ),
    ]


def stream_row(sizes: Sizes) -> Row:
    chunks = [f"word{n} " for n in range(sizes.chunks)]
    length = sum([len(chunk) for chunk in chunks])
    trio = Trio(chunks=chunks)

    async def read(texts: Any) -> None:
        got = 0
        async for text in texts:
            got += len(text)
        assert got == length

    async def stream_ours() -> None:
        async with trio.ours().stream(PROMPT, tenant_id="acme", user_id="ada") as stream:
            await read(stream.text())

    def governed() -> Any:
        return trio.governed(Service()).stream(PROMPT, "acme", "ada")

    return Row(
        name=f"stream of {sizes.chunks:,} chunks: CPU a token",
        unit="us",
        sides={
            "raw": lambda: cpu_of(read(trio.raw().stream(PROMPT))) / sizes.chunks,
            "governed": lambda: cpu_of(read(governed())) / sizes.chunks,
            "ours": lambda: cpu_of(stream_ours()) / sizes.chunks,
        },
        at_most=3,
    )


def long_rows(sizes: Sizes) -> list[Row]:
    turns = sizes.long_turns
    trio = Trio("marked_weather", turns=turns - 1)
    flat: dict[Side, float] = {}

    def timed(side: Side, asking: Callable[[], Ask]) -> Sample:
        def sample() -> float:
            ask = asking()
            marks.clear()
            cpu = cpu_of(ask(0))
            span = max(len(marks) // 5, 1)
            flat[side] = (marks[-1] - marks[-1 - span]) / (marks[span] - marks[0])
            return cpu / 1000

        return sample

    asking: dict[Side, Callable[[], Ask]] = {
        "raw": trio.ask_raw,
        "governed": trio.ask_governed,
        "ours": trio.ask_ours,
    }
    return [
        Row(
            name=f"{turns}-turn run",
            unit="ms",
            sides={side: timed(side, made) for side, made in asking.items()},
            at_most=1.5,
        ),
        Row(
            name=f"{turns}-turn run: its last fifth against its first",
            unit="x",
            sides={side: partial(flat.__getitem__, side) for side in asking},
            against=None,
            limit=1.2,
        ),
    ]


# --- on disk ----------------------------------------------------------------------------------


def durable_rows(sizes: Sizes, folder: Path) -> list[Row]:
    blobs = durable.payloads(folder, max(sizes.durable_turns))
    alone, some, many = sizes.durable_turns
    return [
        step_row(folder, blobs[: 2 * alone], alone),
        steps_row(folder, blobs[: 2 * some], 16, some, None),
        steps_row(folder, blobs[: 2 * many], 64, many, 0.45),
        turns_row(folder, blobs, 1, alone),
        turns_row(folder, blobs, 16, some),
        turns_row(folder, blobs, 64, many),
    ]


def step_row(folder: Path, blobs: list[bytes], turns: int) -> Row:
    def microseconds(done: Durable) -> float:
        return done.seconds / done.steps * 1e6

    return Row(
        name="durable step, one run",
        unit="us",
        sides={
            "raw": lambda: microseconds(durable.full_commits(folder, blobs)),
            "governed": lambda: microseconds(durable.group_commits(folder, blobs, 1)),
            "ours": lambda: microseconds(durable.ours(folder, 1, turns)),
        },
        against="raw",
        at_most=1.3,
        note="raw: bare FULL commit; governed: bare group commit with one committer",
    )


def steps_row(folder: Path, blobs: list[bytes], runs: int, turns: int, at_least: float | None) -> Row:
    def rate(done: Durable) -> float:
        return done.steps / done.seconds

    return Row(
        name=f"durable steps, {runs} runs",
        unit="/s",
        sides={
            "raw": lambda: rate(durable.full_commits(folder, blobs)),
            "governed": lambda: rate(durable.group_commits(folder, blobs, runs)),
            "ours": lambda: rate(durable.ours(folder, runs, turns)),
        },
        at_least=at_least,
        note=f"raw: bare FULL commits, one by one; governed: bare group commit with {runs} committers",
    )


def turns_row(folder: Path, blobs: list[bytes], runs: int, turns: int) -> Row:
    def rate(done: Durable) -> float:
        return done.turns / done.seconds

    return Row(
        name=f"durable turns, {runs} run{'s' if runs > 1 else ''}",
        unit="/s",
        sides={
            "governed": lambda: rate(durable.governed(folder, blobs, runs, turns)),
            "ours": lambda: rate(durable.ours(folder, runs, turns)),
        },
        note="governed: the governed loop, with a bare group commit before and after each tool",
    )


def disk_rows(sizes: Sizes, folder: Path) -> list[Row]:
    once, read = ToolCall("book", SEAT), ToolCall("look_up", SEAT)
    turns = sizes.counted_turns

    def syncs(name: str, each: list[ToolCall], limit: float) -> Row:
        return Row(
            name=f"syncs a turn with {name}",
            unit="",
            sides={"ours": lambda: durable.syncs_per_turn(folder, each, turns)},
            against=None,
            limit=limit,
        )

    return [
        syncs("a `once` call", [once], 2),
        syncs("three `once` calls", [once] * 3, 4),
        syncs("three reads", [read] * 3, 1),
        Row(
            name=f"file growth a turn beyond its {len(SEAT) + len(BOOKED)} bytes of content",
            unit="B",
            sides={"ours": lambda: durable.bytes_beyond_content(folder, sizes.long_turns)},
            against=None,
            limit=2048,
        ),
    ]


# --- for many machines ------------------------------------------------------------------------


def machine_rows(sizes: Sizes, folder: Path) -> list[Row]:
    def rate(done: Durable) -> float:
        return done.steps / done.seconds

    def alone(turns: int, blobs: list[bytes]) -> Row:
        return Row(
            name="Postgres: durable steps, 1 run",
            unit="/s",
            sides={
                "raw": lambda: rate(machines.single_commits(blobs)),
                "ours": lambda: rate(machines.on_postgres(1, turns)),
            },
            against="raw",
            note="raw: bare commits, one by one",
        )

    def together(runs: int, turns: int, blobs: list[bytes], savepoints: bool) -> Row:
        what = "with savepoints" if savepoints else "without savepoints"
        return Row(
            name=f"Postgres: durable steps, {runs} runs, beside groups {what}",
            unit="/s",
            sides={
                "governed": lambda: rate(machines.grouped_commits(blobs, runs, savepoints)),
                "ours": lambda: rate(machines.on_postgres(runs, turns)),
            },
            at_least=0.5,
            note=f"governed: bare grouped commit with {runs} committers, {what}",
        )

    def engine(name: str, bare: Callable[..., Durable], ours: Callable[..., Durable]) -> Row:
        runs, turns = sizes.engine_runs
        return Row(
            name=f"{name}: steps, {runs} runs",
            unit="/s",
            sides={"governed": lambda: rate(bare(runs, turns)), "ours": lambda: rate(ours(runs, turns))},
            note=f"governed: as many empty steps of {name} alone",
        )

    single, _, many = sizes.durable_turns
    blobs = durable.payloads(folder, max(sizes.durable_turns))
    return [
        alone(single, blobs[: 2 * single]),
        together(64, many, blobs[: 2 * many], False),
        together(64, many, blobs[: 2 * many], True),
        engine("DBOS", machines.bare_dbos, machines.on_dbos),
        engine("Temporal", machines.bare_temporal, machines.on_temporal),
    ]


# --- the run ----------------------------------------------------------------------------------


def rows_of(sizes: Sizes, folder: Path) -> list[Row]:
    return [
        *import_rows(),
        *build_rows(sizes),
        *run_rows(sizes),
        *burst_rows(sizes),
        stream_row(sizes),
        *long_rows(sizes),
        *durable_rows(sizes, folder),
        *disk_rows(sizes, folder),
        *machine_rows(sizes, folder),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="What shipworthy costs, beside two hand-written floors.")
    parser.add_argument(
        "--quick", action="store_true", help="every row once, too little work to mean anything"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, samples included")
    parser.add_argument(
        "--dir", type=Path, default=Path(), help="where the SQLite files are made (default: here)"
    )
    parser.add_argument("--rounds", type=int, help="samples of each side")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows whose name contains this")
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else Sizes()
    rounds = asked.rounds or sizes.rounds
    rows = [row for row in rows_of(sizes, asked.dir) if asked.only in row.name]
    interleave(rows, rounds, progress)
    progress("")
    print(table(rows))
    print()
    print(f"{machine()}; medians of {rounds} interleaved rounds; ratios are the median of each round's own.")
    if asked.quick:
        print("A quick run checks that everything works; its figures mean nothing.")
    if asked.json:
        asked.json.write_text(as_json(rows, {"rounds": rounds, "quick": asked.quick}) + "\n")


if __name__ == "__main__":
    main()
