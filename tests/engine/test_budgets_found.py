"""What breakers found in budgets, as laws."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shipworthy import (
    Agent,
    BudgetConfig,
    InMemoryLedger,
    InMemoryRuntime,
    Operator,
    ScriptedModel,
    ScriptedTurn,
    StandardBudget,
    ToolCall,
    Usage,
    tool,
)
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer, Delta, ModelRequest
from shipworthy.errors import Fenced
from tests.engine.world import ALICE, go

OPERATOR = Operator("test")
USED = Usage(input_tokens=30, output_tokens=6)


async def spent(ledger: Any, unit: str, user: str | None = "alice") -> int:
    balances = await ledger.show(OPERATOR, "acme", user)
    return sum([balance.spent for balance in balances if balance.unit == unit])


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_run_id_that_is_used_again_elsewhere_is_charged_again(
    forgetful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime in memory that starts anew, beside a ledger that stays: the same run id is another run. The mutant
    names holds by run and place alone, and each run after the first is free."""
    if forgetful:
        monkeypatch.setattr(os, "urandom", lambda size: bytes(size))

    async def law() -> tuple[int, list[str]]:
        ledger = InMemoryLedger()
        budget = StandardBudget(BudgetConfig(per_user_max_requests=2), ledger=ledger)
        statuses = []
        for _ in range(4):
            model = ScriptedModel([ScriptedTurn("Done.", usage=USED)])
            agent = Agent("Work.", model=model, runtime=InMemoryRuntime(), budget=budget)
            result = await agent.run("go", run_id="nightly", **ALICE)
            statuses.append(result.status)
        return await spent(ledger, "requests"), statuses

    requests, statuses = go(law())
    held = requests == 2 and statuses == ["completed", "completed", "stopped", "stopped"]
    assert held is not forgetful


def test_tool_calls_are_charged_once_though_their_worker_died_between_ledger_and_journal() -> None:
    """With a ledger elsewhere: the answer is durable before its calls are charged, so that they are the same after."""

    async def law() -> None:
        @tool(effect="read")
        async def look() -> str:
            """Look."""
            return "seen"

        runtime, ledger = InMemoryRuntime(), InMemoryLedger()
        commit, dying = runtime.store.commit, [True]

        async def fails(fence: Any, batch: Any) -> Any:
            if dying[0] and any([type(event).__name__ == "ToolsJudged" for event in batch.events]):
                dying[0] = False
                raise Fenced("The process is gone.")
            return await commit(fence, batch)

        runtime.store.commit = fails  # type: ignore[method-assign]
        budget = StandardBudget(BudgetConfig(per_user_max_tool_calls=1), ledger=ledger)
        turns = [ScriptedTurn(ToolCall("look"), usage=USED), ScriptedTurn("Done.", usage=USED)]
        agent = Agent("Work.", model=ScriptedModel(turns), tools=[look], runtime=runtime, budget=budget)
        with pytest.raises(Fenced):
            await agent.run("go", run_id="r", **ALICE)

        result = await agent.resume("r", tenant_id="acme")

        assert result.status == "completed"
        assert await spent(ledger, "tool_calls") == 1

    go(law())


class Reports:
    """A model whose provider reports what it is told to."""

    def __init__(self, *reports: Any) -> None:
        self.name = "test:reports"
        self._reports = reports

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        yield Answer(parts=(Text("Hi."),), usage=self._reports[request.ordinal])

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("nonsense", ["20", 1.5, True, [20], -3, 2**63])
def test_a_report_that_is_no_number_of_tokens_is_none(nonsense: Any) -> None:
    """It is charged in full, nothing is left held, and the journal can be read back."""

    async def law() -> None:
        ledger = InMemoryLedger()
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=9_000), ledger=ledger)
        report = Usage(input_tokens=nonsense, output_tokens=6)
        agent = Agent("Work.", model=Reports(report), budget=budget, settings=None)
        result = await agent.run("go", **ALICE)
        assert result.status == "completed"
        assert result.usage.input_tokens is None
        assert result.charged is not None
        assert await spent(ledger, "tokens") == result.charged.input_tokens + 6
        (balance,) = await ledger.show(OPERATOR, "acme", "alice")
        assert balance.held == 0

    go(law())


def test_what_a_provider_counts_apart_as_cached_is_input() -> None:
    async def law() -> None:
        report = Usage(input_tokens=10, output_tokens=6, cache_read_tokens=2_000)
        agent = Agent(
            "Work.", model=Reports(report), budget=StandardBudget(BudgetConfig(per_user_max_tokens=9_000))
        )
        result = await agent.run("go", **ALICE)
        assert result.charged is not None
        assert result.charged.input_tokens == 2_010

    go(law())


class Switching:
    """Falls back to another model, whose tokenizer makes four times fewer tokens of the same text."""

    name = "test:bytes"

    def __init__(self) -> None:
        self.bounds: list[tuple[int, int]] = []

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        real = sum([len(message.text) + 30 for message in request.messages])
        if request.ordinal == 0:
            assert request.meter is not None
            await request.meter.again("test:words", RuntimeError("falls back"))
            yield Answer(
                parts=(ToolCall("look", "{}"),), usage=Usage(input_tokens=real // 4, output_tokens=5)
            )
        else:
            yield Answer(parts=(Text("Done."),), usage=Usage(input_tokens=real, output_tokens=5))

    async def close(self) -> None:
        pass


def test_one_models_count_is_no_bound_for_anothers() -> None:
    """After a fallback, the agent's own model is bounded by bytes again."""

    async def law() -> None:
        @tool(effect="read")
        async def look() -> str:
            """Look."""
            return "seen"

        agent = Agent(
            "Work.", model=Switching(), tools=[look], budget=StandardBudget(BudgetConfig(max_tokens=200_000))
        )
        result = await agent.run("x" * 20_000, run_id="r", **ALICE)
        events = await agent.runtime.store.read(result.scope, "r")
        last = [event for event in events if type(event).__name__ == "ModelRequested"][-1]
        answer = [event for event in events if type(event).__name__ == "ModelAnswered"][-1]
        assert last.model == "test:bytes"
        assert answer.usage.input_tokens <= last.reserved.input_tokens

    go(law())


def test_a_last_answer_is_bounded_by_what_the_provider_counted() -> None:
    """The words of a long run are four times fewer tokens than bytes: what is kept back suffices for a last answer."""

    async def law() -> None:
        @tool(effect="read")
        async def look() -> str:
            """Look."""
            return "x" * 8_000

        turns = [
            ScriptedTurn(ToolCall("look"), usage=Usage(input_tokens=2_100 * (n + 1), output_tokens=20))
            for n in range(12)
        ]
        script = [
            lambda request, n=n: turns[n] if request.purpose == "turn" else "In short." for n in range(12)
        ]
        budget = StandardBudget(BudgetConfig(max_tokens=60_000, wrap_up=0.35, max_output_tokens_per_call=500))
        agent = Agent("Work.", model=ScriptedModel(script), tools=[look], budget=budget)
        result = await agent.run("go", **ALICE)
        assert (result.status, result.stop_reason) == ("stopped", "budget:max_tokens")
        assert result.has_output
        assert result.output == "In short."
        assert "max_tokens" in str(result.error)

    go(law())


def test_names_of_calls_that_arrived_are_counted() -> None:
    async def law() -> None:
        class Cut:
            name = "test:cut"

            async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
                from shipworthy.domain.model import ToolCallDelta
                from shipworthy.errors import IncompleteAnswer

                yield ToolCallDelta(0, "a_name_of_twenty_byt", "{")
                yield ToolCallDelta(0, "a_name_of_twenty_byt", "}")
                raise IncompleteAnswer("It broke off.")

            async def close(self) -> None:
                pass

        agent = Agent("Work.", model=Cut(), budget=StandardBudget(BudgetConfig(per_user_max_tokens=90_000)))
        async with agent.stream("go", run_id="r", **ALICE) as stream:
            events = [event async for event in stream]
        failed = [event for event in events if type(event).__name__ == "ModelFailed"]
        assert {event.charged.output_tokens for event in failed} == {22}
        await asyncio.sleep(0)

    go(law())
