"""Many users of many tenants on one agent, each with a conversation of their own and under a budget.

    python bench/multi_tenant.py [--users 1000] [--turns 3] [--tenants 10] [--runtime inmemory|sqlite:<path>]
                                 [--json FILE] [--plant FAULT]

All users talk at once, each one turn after the other in a session: a question, a call of a tool, an answer. What a user
says, what the tool gives and what the model answers carry the user's mark. Then each aspect of `ASPECTS` is checked:

* isolation: no request that reached the model, and no journal, has a mark of anybody else, and each request has all
  marks of its own history, in order;
* accounting: for each user, what its runs say they were charged, what the ledger says is spent, and what the script
  says was used are one number, in tokens and in billionths of a dollar; a tenant's counter is the sum of its users';
  nothing is held.

`--plant` breaks one thing for one user, and the check must then fail (`FAULTS`). An aspect that joins later (memory,
permissions, audit) is a function in `ASPECTS`, with its faults.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from measure import loop_lag, machine

from shipworthy import (
    Agent,
    BudgetConfig,
    InMemoryRuntime,
    PriceTable,
    RunContext,
    SqliteRuntime,
    StandardBudget,
    ToolCall,
    Usage,
    price_usd,
    tool,
)
from shipworthy.domain.ledger import Settlement
from shipworthy.domain.messages import Message, Text, ToolResult
from shipworthy.domain.model import Answer, ModelRequest
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine import charging
from shipworthy.rules.ledger import account_of

MARK = re.compile(r"\[u\d+(?:/\d+)?\]")
INPUT_PRICE, OUTPUT_PRICE = 1, 10
PRICES = PriceTable({"bench:marking": price_usd(input=INPUT_PRICE, output=OUTPUT_PRICE)})
BENCH = Operator("the benchmark of many tenants")
CAP_TOKENS, CAP_USD = 10**12, 10**6
VICTIM = 0


class Asked(msgspec.Struct, frozen=True):
    """What the command line says."""

    users: int = 1000
    turns: int = 3
    tenants: int = 10
    runtime: str = "inmemory"
    plant: str = ""


class Spent(msgspec.Struct):
    """Tokens, and billionths of a dollar."""

    tokens: int = 0
    cost: int = 0

    def add(self, tokens: int, cost: int) -> None:
        self.tokens += tokens
        self.cost += cost


class World:
    """One agent and everybody who talks to it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.faults: list[str] = []
        self.latencies: list[float] = []
        self.charged = [Spent() for _ in range(asked.users)]
        self.notes: dict[str, str] = {}
        self.agent = Agent(
            "You keep notes.",
            model=Marking(self),
            tools=[recall],
            runtime=_runtime(asked),
            budget=StandardBudget(
                BudgetConfig(
                    max_tokens=CAP_TOKENS,
                    per_user_max_tokens=CAP_TOKENS,
                    per_user_max_cost_usd=CAP_USD,
                    per_tenant_max_tokens=CAP_TOKENS,
                    per_tenant_max_cost_usd=CAP_USD,
                ),
                prices=PRICES,
            ),
            deps=lambda _: self,
            name="bench",
        )

    def scope(self, user: int) -> Scope:
        return Scope(f"tenant-{user % self.asked.tenants}", f"u{user}", "chat")

    async def talk(self, user: int) -> None:
        """One user's turns, one after the other."""
        whose = self.scope(user)
        for turn in range(self.asked.turns):
            begun = time.perf_counter()
            result = await self.agent.run(
                f"[u{user}/{turn}] Go on.",
                tenant_id=whose.tenant,
                user_id=whose.user,
                session_id=whose.session,
                run_id=run_id(user, turn),
            )
            self.latencies.append(time.perf_counter() - begun)
            if result.status != "completed" or result.charged is None or result.charged.cost is None:
                self.faults.append(f"u{user}/{turn} is {result.status} ({result.stop_reason})")
                continue
            charge = result.charged
            self.charged[user].add(charge.input_tokens + charge.output_tokens, result.charged.cost)


def run_id(user: int, turn: int) -> str:
    return f"u{user}-{turn}"


def _runtime(asked: Asked) -> Any:
    kind, _, path = asked.runtime.partition(":")
    if kind == "sqlite" and path:
        if Path(path).exists():
            raise SystemExit(f"{path} exists already: name a new file, for its counters would be counted.")
        return SqliteRuntime(path)
    if asked.runtime != "inmemory":
        raise SystemExit(f"--runtime {asked.runtime} is unknown: use inmemory or sqlite:<path>.")
    return InMemoryRuntime(max_runs=asked.users * asked.turns + 1)


# --- the script -------------------------------------------------------------------------------


def usage_of(user: int, turn: int, ordinal: int) -> Usage:
    """Each attempt's own, so that sums which happen to be equal are few."""
    return Usage(
        input_tokens=40 + user % 97 + 7 * turn, output_tokens=5 + (3 * user + turn) % 11 + 2 * ordinal
    )


def marks_until(user: int, turn: int, ordinal: int) -> list[str]:
    """The marks of a conversation: question, what the tool gave, answer."""
    marks: list[str] = []
    for past in range(turn):
        marks += [f"[u{user}/{past}]", f"[u{user}]", f"[u{user}/{past}]"]
    return [*marks, f"[u{user}/{turn}]", *[f"[u{user}]"] * ordinal]


class Marking:
    """Calls the tool, then answers with the mark of the question, and looks at all that it is sent."""

    name = "bench:marking"

    def __init__(self, world: World) -> None:
        self._world = world

    async def stream(self, request: ModelRequest) -> AsyncIterator[Answer]:
        await asyncio.sleep(0)
        user, turn = [int(part) for part in request.run_id[1:].split("-")]
        found, due = marks_of(request.messages), marks_until(user, turn, request.ordinal)
        if found != due:
            self._world.faults.append(
                f"isolation: the conversation of u{user}/{turn} has {found}, and not {due}"
            )
        part = Text(f"[u{user}/{turn}] Noted.") if request.ordinal else ToolCall("recall", "{}")
        yield Answer(
            parts=(part,),
            usage=usage_of(user, turn, request.ordinal),
            finish_reason="stop" if request.ordinal else "tool_calls",
        )

    async def close(self) -> None:
        """Nothing to close."""


def marks_of(messages: Sequence[Message]) -> list[str]:
    """All marks of a conversation, in their order."""
    return [mark for message in messages for part in message.parts for mark in _marks(part)]


def _marks(part: Any) -> list[str]:
    if isinstance(part, Text):
        return MARK.findall(part.text)
    if isinstance(part, ToolResult):
        return [mark for content in part.content for mark in _marks(content)]
    return []


@tool(effect="read", timeout=60.0)
async def recall(ctx: RunContext[World]) -> str:
    """What the user noted."""
    await asyncio.sleep(0)
    return note_of(ctx)


def note_of(ctx: RunContext[World]) -> str:
    return f"[{ctx.scope.user}] has noted nothing."


# --- what is checked --------------------------------------------------------------------------


async def isolation(world: World) -> list[str]:
    """Of the journals; `Marking` looks at the requests."""
    faults: list[str] = []
    store, encode = world.agent.runtime.store, msgspec.json.Encoder().encode
    for user in range(world.asked.users):
        for turn in range(world.asked.turns):
            journal = encode(await store.read(world.scope(user), run_id(user, turn))).decode()
            foreign = {m for m in MARK.findall(journal) if m not in (f"[u{user}]", f"[u{user}/{turn}]")}
            if foreign or not MARK.search(journal):
                faults.append(f"isolation: the journal of u{user}/{turn} has marks {sorted(foreign)}")
    return faults


async def accounting(world: World) -> list[str]:
    faults: list[str] = []
    asked = world.asked
    ledger = await _counters(world)
    of_tenants: dict[str, Spent] = {}
    for user in range(asked.users):
        due, whose = expected(user, asked.turns), world.scope(user)
        of_tenants.setdefault(whose.tenant, Spent()).add(due.tokens, due.cost)
        for unit in ("tokens", "cost"):
            charged, wanted = getattr(world.charged[user], unit), getattr(due, unit)
            kept = ledger[account_of("user", whose), unit]
            if not charged == kept == wanted:
                faults.append(
                    f"accounting: u{user} used {wanted} {unit}; runs say {charged}, the ledger {kept}"
                )
    for tenant, due in of_tenants.items():
        for unit in ("tokens", "cost"):
            kept = ledger[account_of("tenant", Scope(tenant, None, None)), unit]
            if kept != getattr(due, unit):
                faults.append(
                    f"accounting: users of {tenant} used {getattr(due, unit)} {unit}, the ledger says {kept}"
                )
    if held := ledger["held", ""]:
        faults.append(f"accounting: {held} are held when all is over")
    return faults


def expected(user: int, turns: int) -> Spent:
    """By the script."""
    spent = Spent()
    for turn in range(turns):
        for ordinal in (0, 1):
            usage = usage_of(user, turn, ordinal)
            given, made = usage.input_tokens or 0, usage.output_tokens or 0
            spent.add(given + made, 1000 * (given * INPUT_PRICE + made * OUTPUT_PRICE))
    return spent


async def _counters(world: World) -> Counter[tuple[Any, str]]:
    """What is spent, by account and unit, and what is held in all."""
    ledger: Any = world.agent.runtime.store.ledger
    found: Counter[tuple[Any, str]] = Counter()
    for number in range(world.asked.tenants):
        for balance in await ledger.show(BENCH, f"tenant-{number}", None):
            found[balance.account, "cost" if balance.unit == "cost_usd" else balance.unit] += balance.spent
            found["held", ""] += balance.held
    return found


ASPECTS: list[Callable[[World], Awaitable[list[str]]]] = [isolation, accounting]


# --- faults that must be found ----------------------------------------------------------------


def leak(world: World) -> None:
    """The tool keeps what it gave by a key that leaves out the user."""

    def cached(ctx: RunContext[World]) -> str:
        note = f"[{ctx.scope.user}] has noted nothing."
        victims = world.scope(VICTIM).user, world.scope(world.asked.tenants).user
        return world.notes.setdefault("note", note) if ctx.scope.user in victims else note

    globals()["note_of"] = cached


def foreign_history(world: World) -> None:
    """Somebody gets the session of another user of the tenant, once there is something in it."""

    async def another(session: Session, scope: Scope) -> Sequence[str]:
        theirs = msgspec.structs.replace(scope, user=f"u{world.asked.tenants}")
        while not (found := await session(theirs)):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
        return found

    _sessions(world, another)


def lost_history(world: World) -> None:
    """Somebody gets an empty session."""

    async def empty(session: Session, scope: Scope) -> Sequence[str]:
        return []

    _sessions(world, empty)


Session = Callable[..., Awaitable[Sequence[str]]]


def _sessions(world: World, planted: Callable[[Session, Scope], Awaitable[Sequence[str]]]) -> None:
    store: Any = world.agent.runtime.store
    session = store.session

    async def answer(scope: Scope, head: int | None = None) -> Sequence[str]:
        if scope == world.scope(VICTIM):
            return await planted(session, scope)
        found: Sequence[str] = await session(scope, head)
        return found

    store.session = answer


def lost_charge(world: World) -> None:
    """What somebody used is settled with nothing."""
    _settlements(world, lambda amounts: (0,) * len(amounts))


def double_charge(world: World) -> None:
    """What somebody used is settled twice as high."""
    _settlements(world, lambda amounts: tuple([2 * amount for amount in amounts]))


def tenant_charge(world: World) -> None:
    """What somebody used is kept from the tenant's counters: the last two lines."""
    _settlements(world, lambda amounts: (*amounts[:-2], 0, 0))


def _settlements(world: World, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    made = charging.settlement

    def planted(run: Any, *rest: Any) -> Settlement:
        settlement = made(run, *rest)
        if run.scope == world.scope(VICTIM):
            settlement = msgspec.structs.replace(settlement, amounts=change(settlement.amounts or ()))
        return settlement

    vars(charging)["settlement"] = planted


FAULTS: dict[str, Callable[[World], None]] = {
    "leak": leak,
    "foreign-history": foreign_history,
    "lost-history": lost_history,
    "lost-charge": lost_charge,
    "double-charge": double_charge,
    "tenant-charge": tenant_charge,
}


# --- the run ----------------------------------------------------------------------------------


def memory() -> int:
    """Bytes that this process has in memory; 0 where that cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def measured(world: World) -> dict[str, float]:
    """Everybody talks; then, with the store opened anew, everything is checked."""
    took: list[float] = []

    async def talk() -> None:
        async with world.agent:
            begun = time.perf_counter()
            await asyncio.gather(*[world.talk(user) for user in range(world.asked.users)])
            took.append(time.perf_counter() - begun)

    async def check() -> None:
        async with world.agent:
            for aspect in ASPECTS:
                world.faults += await aspect(world)

    gc.collect()
    before = memory()
    lag = loop_lag(talk())
    gc.collect()
    grown = memory() - before
    asyncio.run(check())
    late = statistics.quantiles(world.latencies, n=100)
    return {
        "latency of a turn, p50, ms": late[49] * 1000,
        "latency of a turn, p99, ms": late[98] * 1000,
        "turns a second": len(world.latencies) / took[0],
        "memory growth a user, KiB": grown / 1024 / world.asked.users,
        "loop lag, p99, ms": lag,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Many users of many tenants on one agent.")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3, help="of each user")
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--runtime", default="inmemory", help="inmemory, or sqlite:<path of a new file>")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plant", choices=FAULTS, default="", help="break something that must be found")
    given = parser.parse_args()
    asked = Asked(given.users, given.turns, given.tenants, given.runtime, given.plant)
    if not 0 < asked.tenants < asked.users or asked.turns < 2:
        parser.error(
            "use more users than tenants, so that one has two, and two turns, so that there is a past"
        )
    world = World(asked)
    if asked.plant:
        FAULTS[asked.plant](world)
    figures = measured(world)
    print(f"{asked.users:,} users of {asked.tenants} tenants, {asked.turns} turns each, {asked.runtime}")
    for name, figure in figures.items():
        print(f"  {name:<28} {figure:,.1f}")
    print(machine())
    if given.json:
        given.json.write_text(json.dumps({"figures": figures, "faults": world.faults}, indent=1) + "\n")
    if world.faults:
        print(
            f"\n{len(world.faults)} faults, of which the first:",
            *world.faults[:5],
            sep="\n  ",
            file=sys.stderr,
        )
        raise SystemExit(1)
    print("Nobody saw anything of anybody else, and every token is accounted for.")


if __name__ == "__main__":
    main()
