"""What the audit log costs, beside bare logs and beside agents without one, in one interleaved run.

    python bench/audit.py [--quick] [--json FILE] [--dir FOLDER] [--rounds N] [--only WORD]

The bare logs and the bare verifier are in `chains.py`. In the rows of appends *raw* is one caller of the bare log and
*governed* its group commit; in those of verifying *raw* is the bare verifier, on the very same file. In the rows of
runs and turns *raw* is the same agent on the same runtime without an audit log, and ours the one with it; *governed*
is the loop of `floors.py`, which has an audit log of its own, in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import chains
import durable
import msgspec
from measure import Row, as_json, cpu_of, interleave, machine, progress, repeat, table
from workloads import ARGUMENTS, DONE, OURS, PROMPT, USAGE, Trio

from shipworthy import (
    Agent,
    FileAuditLog,
    InMemoryAuditLog,
    ScriptedModel,
    ScriptedTurn,
    SqliteAuditLog,
    ToolCall,
)
from shipworthy.app.commands.opening_audit import opened
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.verifying import Verifier

WRITERS = 16


class Sizes(msgspec.Struct, frozen=True):
    """How much work one sample is."""

    rounds: int = 15
    appends: int = 300
    grouped: int = 100
    verified: int = 20_000
    counted: tuple[int, int] = (100_000, 1_000_000)
    single: int = 100
    many: int = 10
    runs: int = 64
    singles: int = 300
    tens: int = 40
    grown: int = 200


QUICK = Sizes(1, 5, 3, 200, (500, 1_000), 3, 2, 4, 5, 2, 4)


# --- writing ------------------------------------------------------------------------------------


def append_rows(sizes: Sizes, folder: Path) -> list[Row]:
    return [
        Row(
            name="append, synced, one at a time",
            unit="us",
            sides={
                "raw": lambda: chains.bare_appends(folder, sizes.appends),
                "ours": lambda: chains.our_appends(folder, 1, sizes.appends) * 1e6 / sizes.appends,
            },
            against="raw",
            at_most=1.5,
            note="raw: bare hmac, JSON, write and fdatasync, in the caller's own thread",
        ),
        Row(
            name="append, synced, one at a time, beside a bare thread",
            unit="us",
            sides={
                "governed": lambda: 1e6 / chains.grouped_appends(folder, 1, sizes.appends),
                "ours": lambda: chains.our_appends(folder, 1, sizes.appends) * 1e6 / sizes.appends,
            },
            note="governed: the bare group commit, with one writer",
        ),
        Row(
            name=f"append, synced, {WRITERS} writers",
            unit="/s",
            sides={
                "governed": lambda: chains.grouped_appends(folder, WRITERS, sizes.grouped),
                "ours": lambda: WRITERS * sizes.grouped / chains.our_appends(folder, WRITERS, sizes.grouped),
            },
            at_least=0.6,
            note="governed: the bare group commit",
        ),
    ]


# --- verifying ----------------------------------------------------------------------------------


def ours(path: Path) -> float:
    """Microseconds of CPU time an entry, the file's seal and checkpoints included."""
    begun = time.process_time_ns()
    log = opened(str(path))
    verifier = Verifier([Secret(chains.SECRET)], seals=log.seals(), checkpoints=log.checkpoints())
    feed = verifier.feed
    for line, whole in log.lines():
        feed(line, whole)
    report = verifier.report()
    assert report.verdict == "ok", report
    return (time.process_time_ns() - begun) / 1000 / report.entries


def theirs(path: Path) -> float:
    """The same by `shipworthy_verify`, which imports nothing of the package."""
    import shipworthy_verify

    begun = time.process_time_ns()
    report = shipworthy_verify.verify_file(path, secrets=[chains.SECRET])
    assert report.verdict == "ok", report
    return (time.process_time_ns() - begun) / 1000 / report.entries


def peak(path: Path) -> float:
    """MiB that `shipworthy audit verify` takes at most."""
    command = [sys.executable, "-m", "shipworthy.app.cli", "audit", "verify", str(path)]
    process = subprocess.Popen(
        [*command, "--secret-env", "BENCH_SECRET", "--json"],
        env={**os.environ, "BENCH_SECRET": chains.SECRET},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss / 1024


def verify_rows(sizes: Sizes, folder: Path) -> list[Row]:
    @cache
    def made(entries: int, bodies: bool) -> Path:
        return chains.make(folder / f"{entries}-{bodies}.jsonl", entries, bodies)

    @cache
    def peak_of(entries: int) -> float:
        path = made(entries, False)
        try:
            return peak(path)
        finally:
            path.unlink()

    def row(name: str, bodies: bool, one: Callable[[Path], float], at_most: float | None) -> Row:
        return Row(
            name=f"verify: {name}, an entry",
            unit="us",
            sides={
                "raw": lambda: chains.bare_verify(made(sizes.verified, bodies)),
                "ours": lambda: one(made(sizes.verified, bodies)),
            },
            against="raw",
            at_most=at_most,
            note="raw: JSON, HMAC, hashes",
        )

    few, many = sizes.counted
    rows = [row("without bodies", False, ours, 1.3), row("with bodies", True, ours, 1.3)]
    if _is_there("shipworthy_verify"):
        rows.append(row("shipworthy-verify, with bodies", True, theirs, None))
    rows.append(
        Row(
            name=f"verify: memory, {many:,} entries beside {few:,}",
            unit="MiB",
            sides={"raw": lambda: peak_of(few), "ours": lambda: peak_of(many)},
            against="raw",
            at_most=1.1,
            note="the most that `shipworthy audit verify` takes; measured once",
        )
    )
    return rows


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


# --- runs ---------------------------------------------------------------------------------------


def joined(folder: Path) -> Any:
    return SqliteAuditLog(folder / "runs.db", secret=chains.SECRET)


def in_a_file(folder: Path) -> Any:
    return FileAuditLog(folder / "audit.jsonl", secret=chains.SECRET)


def none(folder: Path) -> None:
    return None


LOGS: dict[str, Callable[[Path], Any]] = {
    "SqliteAuditLog in the runtime's file": joined,
    "FileAuditLog": in_a_file,
}


def durable_rows(sizes: Sizes, folder: Path) -> list[Row]:
    def step(log: Callable[[Path], Any]) -> float:
        done = durable.ours(folder, 1, sizes.single, log)
        return done.seconds * 1e6 / done.steps

    def rate(log: Callable[[Path], Any]) -> float:
        done = durable.ours(folder, sizes.runs, sizes.many, log)
        return done.steps / done.seconds

    rows = []
    for name, log in LOGS.items():
        rows.append(
            Row(
                name=f"durable step, one run: {name}",
                unit="us",
                sides={"raw": lambda: step(none), "ours": lambda log=log: step(log)},  # type: ignore[misc]
                against="raw",
                note="raw: without an audit log",
            )
        )
        rows.append(
            Row(
                name=f"durable steps, {sizes.runs} runs: {name}",
                unit="/s",
                sides={"raw": lambda: rate(none), "ours": lambda log=log: rate(log)},  # type: ignore[misc]
                against="raw",
                note="raw: without an audit log",
            )
        )
    for name, log in LOGS.items():
        rows.append(
            Row(
                name=f"growth of all files a turn: {name}",
                unit="B",
                sides={
                    "raw": lambda: durable.bytes_a_turn(folder, sizes.grown),
                    "ours": lambda log=log: durable.bytes_a_turn(folder, sizes.grown, log),  # type: ignore[misc]
                },
                against="raw",
                note="raw: without an audit log",
            )
        )
    return rows


def turn_rows(sizes: Sizes) -> list[Row]:
    def cpu(turns: int, audited: bool) -> float:
        script = [ScriptedTurn(ToolCall("weather", ARGUMENTS), usage=USAGE)] * turns
        agent = Agent(
            "You are a travel assistant. Answer in one sentence.",
            model=ScriptedModel([*script, ScriptedTurn(DONE, usage=USAGE)]),
            tools=[OURS["weather"]],
            name="bench",
            max_turns=1_000_000,
            audit_log=InMemoryAuditLog(chains.SECRET) if audited else None,
        )
        times, parts = (sizes.tens, turns + 1) if turns else (sizes.singles, 1)

        async def ask() -> None:
            await agent.run(PROMPT, tenant_id="tenant-7", user_id="user-7")

        asyncio.run(ask())
        return cpu_of(repeat(times, ask)) / times / parts

    def governed(turns: int) -> float:
        ask = Trio(turns=turns).ask_governed()
        times, parts = (sizes.tens, turns + 1) if turns else (sizes.singles, 1)
        asyncio.run(ask(0))
        return cpu_of(repeat(times, lambda: ask(7))) / times / parts

    return [
        Row(
            name=f"{'one turn of a ten-tool run' if turns else 'single turn'}: InMemoryAuditLog",
            unit="us",
            sides={
                "raw": lambda t=turns: cpu(t, False),  # type: ignore[misc]
                "governed": lambda t=turns: governed(t),  # type: ignore[misc]
                "ours": lambda t=turns: cpu(t, True),  # type: ignore[misc]
            },
            at_most=1.5,
            note="raw: the same agent without an audit log; governed: the loop of floors.py, with its own",
        )
        for turns in (0, 10)
    ]


# --- the run ------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="What the audit log costs.")
    parser.add_argument("--quick", action="store_true", help="every row once; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, samples included")
    parser.add_argument("--dir", type=Path, default=Path(), help="where files are made (default: here)")
    parser.add_argument("--rounds", type=int, help="samples of each side")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows whose name contains this")
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else Sizes()
    rounds = asked.rounds or sizes.rounds
    with tempfile.TemporaryDirectory(dir=asked.dir, prefix=".bench-") as made:
        folder = Path(made)
        rows = [*append_rows(sizes, folder), *verify_rows(sizes, folder)]
        rows += [*durable_rows(sizes, folder), *turn_rows(sizes)]
        rows = [row for row in rows if asked.only in row.name]
        interleave(rows, rounds, progress)
    progress("")
    print(table(rows))
    print()
    print(f"{machine()}; medians of {rounds} interleaved rounds; ratios are the median of each round's own.")
    print(f"Load while it ended: {os.getloadavg()[0]:.1f}.")
    if asked.json:
        asked.json.write_text(as_json(rows, {"rounds": rounds, "quick": asked.quick}) + "\n")


if __name__ == "__main__":
    main()
