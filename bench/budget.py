"""What a ledger costs, beside a bare dictionary and beside bare commits, in one interleaved run.

    python bench/budget.py [--quick] [--json FILE] [--dir FOLDER] [--rounds N] [--only WORD]

A *check and charge* is one attempt on the wire: the worst case is reserved on the counters of its run, its user and its
tenant, each under its own cap, all or none; then what was really used is put in its place. *governed* in the rows of
memory is `Caps`: the same on a bare dictionary, for one process, with nothing else that a ledger does (holds with
names, that expire, are settled once, wait in order, warn, and are clamped to what a cap affords). What tasks cost by
themselves is measured in the same sample and taken off both sides. In the rows of whole runs *raw* is the same agent
without a budget, and *governed* the loop of `floors.py`. `ledgers.py` has the rows of ledgers that outlive the process.
Ratios and figures as in `overhead.py`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from measure import Row, as_json, cpu_of, interleave, machine, progress, repeat, table, together
from workloads import Trio

from shipworthy import BudgetConfig, StandardBudget
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.domain.ledger import Account, Granted, Hold, Line, Settlement, Window
from shipworthy.ports.ledger import Ledger
from shipworthy.rules.ledger import account, keys_of

CAP = 10**12
INPUT, OUTPUT, USED = 180, 4096, 97
"""Tokens that an attempt may take at most, and what it takes."""


class Sizes(msgspec.Struct, frozen=True):
    """How much work one sample is."""

    rounds: int = 15
    charges: int = 20_000
    runs: tuple[int, int, int] = (400, 60, 1_000)
    durable: tuple[int, int] = (300, 30)


QUICK = Sizes(1, 100, (5, 2, 20), (3, 2))


# --- the floor --------------------------------------------------------------------------------


class OverCap(Exception):
    """The reservation would pass a cap."""


class Caps:
    """What is spent and what is reserved, by key: their sum never passes the key's cap."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, ...], int] = {}
        self._reserved: dict[tuple[str, ...], int] = {}

    def reserve(self, keys: tuple[tuple[str, ...], ...], caps: tuple[int, ...], amount: int) -> None:
        spent, reserved = self._spent, self._reserved
        for key, cap in zip(keys, caps, strict=True):
            if spent.get(key, 0) + reserved.get(key, 0) + amount > cap:
                raise OverCap(key)
        for key in keys:
            reserved[key] = reserved.get(key, 0) + amount

    def settle(self, keys: tuple[tuple[str, ...], ...], amount: int, used: int) -> None:
        for key in keys:
            self._reserved[key] -= amount
            self._spent[key] = self._spent.get(key, 0) + used


# --- tasks ------------------------------------------------------------------------------------

Task = Callable[[int, int], Coroutine[Any, Any, None]]
"""A task by its number, and how many attempts it makes. What it draws on is worked out when it is made."""


def idle(number: int, times: int) -> Coroutine[Any, Any, None]:
    """What a task costs that charges nothing."""

    async def task() -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    return task()


def on_caps() -> Task:
    ledger = Caps()
    caps = (CAP, CAP, CAP)

    def made(number: int, times: int) -> Coroutine[Any, Any, None]:
        tenant, user, run = names(number)
        keys = ((tenant,), (tenant, user), (tenant, user, run))

        async def task() -> None:
            for _ in range(times):
                ledger.reserve(keys, caps, INPUT + OUTPUT)
                await asyncio.sleep(0)
                ledger.settle(keys, INPUT + OUTPUT, USED)

        return task()

    return made


def in_memory() -> Task:
    ledger = InMemoryLedger()

    def made(number: int, times: int) -> Coroutine[Any, Any, None]:
        tenant, user, run = names(number)
        lines = lines_of(tenant, user, run)

        async def task() -> None:
            for attempt in range(times):
                hold = hold_of(f"{run}/{attempt}", tenant, lines)
                granted = await ledger.reserve(hold)
                assert type(granted) is Granted
                await asyncio.sleep(0)
                await ledger.settle(Settlement(id=hold.id, tenant=tenant, amounts=(USED, USED, USED)))

        return task()

    return made


def suspensions(ledger: Ledger, times: int) -> float:
    """How often a reservation and its settlement gave way to others, where nobody was in the way."""
    tenant, user, run = names(0)
    lines = lines_of(tenant, user, run)
    return float(
        sum(
            _steps(ledger.reserve(hold_of(f"{run}/{attempt}", tenant, lines)))
            + _steps(ledger.settle(Settlement(id=f"{run}/{attempt}", tenant=tenant, amounts=(USED,) * 3)))
            for attempt in range(times)
        )
    )


def _steps(asked: Coroutine[Any, Any, Any]) -> int:
    steps = 0
    while True:
        try:
            asked.send(None)
        except StopIteration:
            return steps
        steps += 1


def names(number: int) -> tuple[str, str, str]:
    return f"tenant-{number % 100}", f"user-{number}", f"run-{number}"


def lines_of(tenant: str, user: str, run: str) -> tuple[Line, ...]:
    """The counters of a run, its user and its tenant, as the engine makes them once for a run."""
    return (
        line_of(account("run", tenant, run)),
        line_of(account("user", tenant, user)),
        line_of(account("tenant", tenant)),
    )


def line_of(whose: Account) -> Line:
    window: Window = "run" if whose.level == "run" else "total"
    key, limit = keys_of(whose, "tokens", window, 0)
    return Line(key, limit, whose, "tokens", window, 0, 0, CAP, CAP * 4 // 5)


def hold_of(id: str, tenant: str, lines: tuple[Line, ...]) -> Hold:
    """As the engine asks for an attempt."""
    return Hold(
        id=id,
        tenant=tenant,
        lines=lines,
        base=(INPUT,) * len(lines),
        each=(1,) * len(lines),
        least=16,
        most=OUTPUT,
        patient=True,
    )


def memory_row(tasks: int, charges: int) -> Row:
    each = max(charges // tasks, 1)

    def cpu(task: Task) -> float:
        ones = [task(number, each) for number in range(tasks)]
        return cpu_of(together(ones)) / tasks / each

    def sample(made: Callable[[], Task]) -> Callable[[], float]:
        return lambda: cpu(made()) - cpu(idle)

    return Row(
        name=f"check and charge in memory, {tasks:,} task{'s' if tasks > 1 else ''}",
        unit="us",
        sides={"governed": sample(on_caps), "ours": sample(in_memory)},
        at_most=3,
        note="governed: a bare dictionary",
    )


# --- the run ----------------------------------------------------------------------------------


def metered_rows(sizes: Sizes) -> list[Row]:
    """Whole runs under limits of tokens for the run, its user and its tenant."""

    def budget() -> StandardBudget:
        return StandardBudget(
            BudgetConfig(max_tokens=CAP, per_user_max_tokens=CAP, per_tenant_max_tokens=CAP)
        )

    def row(name: str, trio: Trio, sample: Callable[[Callable[[int], Any]], float]) -> Row:
        return Row(
            name=f"{name} under a budget",
            unit="us",
            sides={
                "raw": lambda: sample(trio.ask_ours()),
                "governed": lambda: sample(trio.ask_governed()),
                "ours": lambda: sample(trio.ask_ours(budget())),
            },
            at_most=1.5,
            note="raw: the same agent without a budget",
        )

    def in_turn(times: int, parts: int) -> Callable[[Callable[[int], Any]], float]:
        def sample(ask: Callable[[int], Any]) -> float:
            asyncio.run(ask(0))
            return cpu_of(repeat(times, lambda: ask(7))) / times / parts

        return sample

    singles, tens, burst = sizes.runs
    return [
        row("single turn", Trio(), in_turn(singles, 1)),
        row("one turn of a ten-tool run", Trio(turns=10), in_turn(tens, 11)),
        row(
            f"{burst:,} concurrent runs: CPU a run",
            Trio("remote_weather", turns=1),
            lambda ask: cpu_of(together([ask(number) for number in range(burst)])) / burst,
        ),
    ]


def durable_rows(sizes: Sizes, folder: Path) -> list[Row]:
    import ledgers

    def rate(done: Any) -> float:
        return float(done.steps / done.seconds)

    def rows(kind: Any) -> list[Row]:
        one, many = sizes.durable
        made = [
            Row(
                name=f"{kind}: reservations and settlements, one at a time",
                unit="/s",
                sides={
                    "raw": lambda: rate(ledgers.bare(kind, folder, 2 * one)),
                    "ours": lambda: rate(ledgers.alone(kind, folder, 1, one)),
                },
                against="raw",
            ),
            Row(
                name=f"{kind}: reservations and settlements, 64 tasks",
                unit="/s",
                sides={
                    "raw": lambda: rate(ledgers.bare(kind, folder, 2 * one)),
                    "governed": lambda: rate(ledgers.grouped(kind, folder, 64, 2 * many)),
                    "ours": lambda: rate(ledgers.alone(kind, folder, 64, many)),
                },
            ),
        ]
        if kind == "Redis":
            return made
        beside = Row(
            name=f"{kind}: commits of 64 runs that settle and reserve, beside those that do not",
            unit="/s",
            sides={
                "governed": lambda: rate(ledgers.with_journal(kind, folder, 64, many, budget=False)),
                "ours": lambda: rate(ledgers.with_journal(kind, folder, 64, many, budget=True)),
            },
            note="governed: the same commits of the same store without budget operations",
        )
        return [*made, beside]

    return [row for kind in ("SQLite", "Postgres", "Redis") for row in rows(kind)]


def rows_of(sizes: Sizes, folder: Path) -> list[Row]:
    return [
        *[memory_row(tasks, sizes.charges) for tasks in (1, 64, 1000)],
        Row(
            name="suspensions of a check and charge in memory",
            unit="",
            sides={"ours": lambda: suspensions(InMemoryLedger(), 10) / 10},
            against=None,
            limit=0,
        ),
        *metered_rows(sizes),
        *durable_rows(sizes, folder),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a ledger costs, beside a bare dictionary.")
    parser.add_argument("--quick", action="store_true", help="every row once; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, samples included")
    parser.add_argument("--dir", type=Path, default=Path(), help="where files are made (default: here)")
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
    if asked.json:
        asked.json.write_text(as_json(rows, {"rounds": rounds, "quick": asked.quick}) + "\n")


if __name__ == "__main__":
    main()
