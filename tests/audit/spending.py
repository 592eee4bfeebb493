"""Agents that spend, on a moody provider: attempts fail, users run out, one agent asks another."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from shipworthy import (
    Agent,
    BudgetConfig,
    PriceTable,
    StandardBudget,
    ToolCall,
    Tuning,
    Usage,
    price_usd,
    tool,
)
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer
from shipworthy.errors import ModelUnavailable, RateLimited, RequestRejected
from shipworthy.testing.faults import Points
from tests.audit import books
from tests.audit.chaos import Pointed, World
from tests.audit.evidence import journal_of

PRICES = PriceTable({"scripted": price_usd(input=3, output=15)}, then=None)
LIMITS: dict[str, Any] = {
    "max_tokens": 4_000,
    "per_user_max_input_tokens": 12_000,
    "per_user_max_output_tokens": 12_000,
    "per_user_max_cost_usd": 0.08,
    "max_output_tokens_per_call": 300,
}
LESSON = {"facts": []}


class Moody:
    """Answers, asks for tools, and fails in every way; a few attempts are as slow as a death needs."""

    name = "scripted"

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    async def stream(self, request: Any) -> Any:
        chance = self.chance
        mood = chance.random()
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01]))
        if mood < 0.06:
            raise RateLimited("slow down", retry_after=0.001)
        if mood < 0.08:
            raise RequestRejected("no")
        if mood < 0.14:
            raise ModelUnavailable("the line went dead")
        usage = Usage(input_tokens=chance.randint(1, 60), output_tokens=chance.randint(1, 60))
        parts: tuple[Any, ...] = (Text("Done."),)
        named = [spec.name for spec in request.tools]
        if "extract facts" in request.instructions:
            parts = (ToolCall("final_answer", '{"facts":[]}'),)
        elif mood < 0.55 and named:
            names = [chance.choice(named) for _ in range(chance.randint(1, 2))]
            parts = tuple([ToolCall(name, '{"input":"Do it."}') for name in names])
        yield Answer(parts=parts, usage=usage)

    async def close(self) -> None:
        """Nothing to close."""


@tool(effect="read")
async def look(input: str) -> str:
    """Look."""
    return "seen"


def agent(runtime: Any, log: Any, chance: random.Random, **options: Any) -> Agent[Any, Any]:
    """One that asks another one."""
    model, budget = Moody(chance), StandardBudget(BudgetConfig(**LIMITS), prices=PRICES)
    helper = Agent("Help.", name="helper", model=model, tools=[look])
    options.setdefault("tuning", Tuning(recover_every=60.0, model_retries=4))
    tools = [look, helper.as_tool()]
    return Agent(
        "Be brief.",
        name="clerk",
        model=model,
        tools=tools,
        budget=budget,
        runtime=runtime,
        audit_log=log,
        **options,
    )


class Spending(World):
    """The same, in processes that die."""

    def agent(self, points: Points, recover_every: float = 60.0) -> Agent[Any, Any]:
        runtime = self.place.runtime()
        points.watch(runtime, acknowledged=self.acknowledged)
        chance = random.Random(os.getpid() ^ time.time_ns())
        tuning = Tuning(recover_every=recover_every, model_retries=4, tool_timeout=2.0)
        return agent(runtime, Pointed(self.log(), points), chance, tuning=tuning)

    async def at_the_end(self, runs: int) -> list[str]:
        """The books agree."""
        runtime = self.place.runtime()
        await runtime.open()
        try:
            journal = await journal_of(runtime.store)
            told = [each.entry for each in self.place.told()]
            users = {(each[0].tenant, each[0].user) for each in journal.values()}  # type: ignore[union-attr]
            ledger = await books.of_ledger(runtime.store.ledger, users)
            audit = books.of_audit(told)
            return [*self.lost(), *books.disagreements(audit, journal, ledger, books.replayed(journal))]
        finally:
            await runtime.close()
