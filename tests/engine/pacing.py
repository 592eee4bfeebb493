"""What the laws of rate limits need: a model that notes who came and when, and a ledger that is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from shipworthy import (
    Agent,
    BudgetConfig,
    InMemoryLedger,
    InMemoryRuntime,
    NoBudget,
    RateLimit,
    StandardBudget,
    Usage,
)
from shipworthy.domain.ledger import Granted, Hold, Refused
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer, ModelRequest

CLOCK = 0.001
"""Seconds: ledgers count whole milliseconds."""
Passed = tuple[float, float]
"""When an attempt was last asked for, and when the model saw it: it was granted in between. Seconds, wall clock."""


class Paced:
    """A model that notes whose attempts it sees, in their order, and when. `tokens`: what it bills each time. `pauses`:
    how long its provider wants to be left alone after the n-th attempt. `gate`: what attempts wait for; `turns`: of the
    event loop, as long as one takes."""

    def __init__(
        self, name: str = "paced", *, tokens: int = 2, gate: asyncio.Event | None = None, turns: int = 0
    ) -> None:
        self.turns = turns
        self.name, self.tokens, self.gate = name, tokens, gate
        self.seen: list[str] = []
        self.at: dict[str, float] = {}
        self.pauses: dict[int, float] = {}
        self.disturbed: list[str] = []
        self._until = 0.0

    @property
    def paused_for(self) -> float:
        return max(self._until - time.monotonic(), 0.0)

    def pause(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        if self.paused_for > 0:
            self.disturbed.append(request.run_id)
        self.seen.append(request.run_id)
        self.at[request.run_id] = time.time()
        if (pause := self.pauses.get(len(self.seen))) is not None:
            self.pause(pause)
        if self.gate is not None:
            await self.gate.wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        usage = Usage(input_tokens=self.tokens // 2, output_tokens=self.tokens - self.tokens // 2)
        yield Answer(parts=(Text("ok"),), usage=usage, finish_reason="stop")

    async def close(self) -> None:
        pass


class Counted:
    """A ledger and how often it was `asked`, by hold; `at`: when, for the last time. `kept`: places in its order."""

    def __init__(self, ledger: Any = None) -> None:
        self.ledger = ledger or InMemoryLedger()
        self.asked: dict[str, int] = {}
        self.at: dict[str, float] = {}
        self.kept: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)

    async def reserve(self, hold: Hold) -> Granted | Refused:
        self.asked[hold.id] = self.asked.get(hold.id, 0) + 1
        self.at[hold.id] = time.time()
        answer: Granted | Refused = await self.ledger.reserve(hold)
        if hold.patient and not isinstance(answer, Granted):
            self.kept.append(hold.id)
        return answer

    def passed(self, model: Paced) -> list[Passed]:
        """What passed, by runs of one attempt each."""
        asked = {hold.split('"')[3]: at for hold, at in self.at.items()}
        return [(asked[run], seen) for run, seen in model.at.items()]


def paced(
    model: Any, *rates: RateLimit, ledger: Any = None, runtime: Any = None, **limits: Any
) -> Agent[Any, Any]:
    """An agent under rate limits; *limits* are fields of a BudgetConfig."""
    name = limits.pop("name", None)
    if not limits and not rates:
        return agent_of(model, NoBudget(), runtime, name)
    budget = StandardBudget(BudgetConfig(**limits), ledger=ledger, rate_limits=rates)
    return agent_of(model, budget, runtime, name)


def agent_of(
    model: Any, budget: StandardBudget | NoBudget, runtime: Any = None, name: str | None = None
) -> Agent[Any, Any]:
    """An agent under a budget that it may share."""
    named = {} if name is None else {"name": name}
    return Agent("Be brief.", model=model, budget=budget, runtime=runtime or InMemoryRuntime(), **named)


def waiting(agent: Agent[Any, Any]) -> Any:
    """Who waits for the agent's budget here."""
    assert agent.budget is not None
    return agent.runtime.bank(agent.budget).waiting


def too_many(passed: Sequence[Passed], limit: int, period: float, burst: int) -> tuple[int, float] | None:
    """A window in which more attempts passed than the rate affords: how many, and its seconds; None if there is none.

    What was asked for after one moment and seen before another was granted in between, so it is no slowness of the
    machine that is judged.
    """
    seen = sorted(passed, key=lambda each: each[1])
    for begin, _ in passed:
        count = 0
        for start, end in seen:
            count += start >= begin
            window = end - begin + CLOCK
            if count and count > burst + limit * window / period:
                return count, window
    return None


async def until(true: Any) -> None:
    """Wait for something that must happen; never for how long."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def dropped(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel runs that nobody waits for any more."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
