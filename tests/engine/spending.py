"""What the laws of budgets need: providers that bill, ledgers that are looked at, and journals that are added up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import (
    Agent,
    BudgetConfig,
    InMemoryRuntime,
    NoBudget,
    PriceTable,
    SqliteRuntime,
    StandardBudget,
    ToolCall,
    Usage,
    price_usd,
)
from shipworthy.domain.events import AnyEvent, ModelRequested
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer, ModelRequest, TextDelta
from shipworthy.domain.scope import Operator
from shipworthy.domain.usage import Charge
from shipworthy.engine.runtime import Runtime

Way = Literal["run", "stream"]
PRICES = PriceTable({"scripted": price_usd(input=1, output=10), "other:model": price_usd(input=2, output=20)})
"""1,000 billionths of a dollar for a token of input, 10,000 for one of output."""
TESTS = Operator("a test")


class Provider:
    """Answers with `output` tokens, as far as it may, and bills them with `input` others. `script`: what else it does
    on an attempt, by its number in the run: raise, or call a tool. `seen`: every request that reached it."""

    name = "scripted"

    def __init__(
        self,
        *script: Any,
        input: int | None = 40,
        output: int | None = 20,
        latency: float | None = None,
        gate: asyncio.Event | None = None,
        chunks: int = 4,
    ) -> None:
        self.script, self.input, self.output = script, input, output
        self.latency, self.gate, self.chunks = latency, gate, chunks
        self.seen: list[ModelRequest] = []
        self.under_way = self.most_under_way = 0

    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        self.seen.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.latency is not None:
                await asyncio.sleep(self.latency)
            turn = self.script[request.ordinal] if request.ordinal < len(self.script) else None
            if callable(turn):
                turn = turn(request)
            if isinstance(turn, BaseException):
                raise turn
            if isinstance(turn, Answer):
                yield turn
                return
            if request.stream:
                for _ in range(self.chunks):
                    yield TextDelta("word ")
                    await asyncio.sleep(0)
            yield self.answer(request, turn)
        finally:
            self.under_way -= 1

    def answer(self, request: ModelRequest, turn: Any = None) -> Answer:
        most = request.settings.max_tokens
        made, finish = self.output, "stop"
        if made is not None and most is not None and made > most:
            made, finish = most, "length"
        parts: tuple[Any, ...] = (Text("word " * self.chunks),)
        if turn is not None:
            turns = turn if isinstance(turn, Sequence) and not isinstance(turn, str) else [turn]
            parts = tuple(
                [ToolCall(t.name, "{}") if isinstance(t, ToolCall) else Text(str(t)) for t in turns]
            )
            finish = "tool_calls" if any([isinstance(p, ToolCall) for p in parts]) else finish
        return Answer(
            parts=parts,
            usage=Usage(input_tokens=self.input, output_tokens=made),
            finish_reason=finish,  # type: ignore[arg-type]
        )

    async def close(self) -> None:
        pass


def budget(ledger: Any = None, *, ttl: float | None = None, **limits: Any) -> StandardBudget:
    """`ttl`: seconds of a hold, fewer than anybody may write down."""
    made = StandardBudget(BudgetConfig(**limits), ledger=ledger, prices=PRICES)
    if ttl is not None and made.fixed is not None:
        made._terms = msgspec.structs.replace(made.fixed, ttl=ttl)
    return made


def spender(model: Any, limits: Any, **options: Any) -> Agent[Any, Any]:
    """An agent under *limits*: a budget, or the fields of a BudgetConfig."""
    return Agent(
        "Be brief.",
        model=model,
        budget=limits
        if not isinstance(limits, dict)
        else budget(**limits)
        if limits
        else NoBudget(prices=PRICES),
        **options,
    )


@contextlib.asynccontextmanager
async def runtime_of(kind: str, folder: Path) -> AsyncIterator[Runtime]:
    """A runtime of one test: in memory, or on a file of its own."""
    runtime = (
        InMemoryRuntime() if kind == "memory" else SqliteRuntime(folder / "bot.db", durability="process")
    )
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


async def go_by(way: Way, agent: Agent[Any, Any], prompt: str = "Hi", **options: Any) -> Any:
    """The result of one run, read along or not."""
    if way == "run":
        return await agent.run(prompt, **options)
    async with agent.stream(prompt, **options) as stream:
        async for _ in stream:
            pass
    return stream.result


# looking at ledgers


async def balances(
    ledger: Any, tenant: str | None, user: str | None = None
) -> dict[tuple[str, ...], tuple[int, int]]:
    """(spent, held) by level, account and unit, over all windows."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for b in await ledger.show(TESTS, tenant, user):
        key = b.account.level, b.account.name, b.unit
        spent, held = found.get(key, (0, 0))
        found[key] = spent + b.spent, held + b.held
    return found


async def of_user(ledger: Any, unit: str, tenant: str = "acme", user: str = "alice") -> tuple[int, int]:
    """What a user spent and holds."""
    found = [v for k, v in (await balances(ledger, tenant, user)).items() if k[2] == unit]
    return found[0] if found else (0, 0)


# adding journals up


def charges(events: Sequence[AnyEvent]) -> list[Charge]:
    """What the attempts of a journal are charged, in their order."""
    return [e.charged for e in events if isinstance(getattr(e, "charged", None), Charge)]  # type: ignore[union-attr]


def summed(all_of: Sequence[Charge]) -> Charge:
    """Their sum."""
    return Charge(
        sum([c.input_tokens for c in all_of]),
        sum([c.output_tokens for c in all_of]),
        sum([c.cost or 0 for c in all_of]),
    )


def requests_of(events: Sequence[AnyEvent]) -> int:
    """Attempts on the wire."""
    return len([e for e in events if isinstance(e, ModelRequested)])


def of_kind(events: Sequence[AnyEvent], kind: str) -> list[Any]:
    return [e for e in events if type(e).__name__ == kind]


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that must happen; never for how long."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
