"""A hold and its event are one commit, whatever comes in between."""

from __future__ import annotations

import asyncio
from typing import Any

from shipworthy import (
    Agent,
    BudgetConfig,
    Charge,
    InMemoryRuntime,
    InMemoryStore,
    Operator,
    ScriptedModel,
    StandardBudget,
)
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from tests.engine.world import ALICE, go


class Slow(InMemoryStore):
    """A store whose commits take a while and complete before they are cancelled, as the durable ones' do: that a
    reservation is refused outranks the cancellation."""

    async def commit(self, fence: Any, batch: Any) -> Any:
        if batch.budget:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                await super().commit(fence, batch)
                raise
        return await super().commit(fence, batch)


class Endless:
    """A model that holds what it was granted for a while."""

    name = "endless"

    async def stream(self, request: Any) -> Any:
        await asyncio.sleep(30)
        yield None

    async def close(self) -> None:
        pass


def test_a_cancellation_is_not_lost_behind_a_refusal() -> None:
    """The deadline passes while a commit is under way that the ledger refuses: the run still ends there."""

    async def main() -> None:
        runtime = Runtime(Slow(), InProcess())
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=5_000))
        holder = Agent("Hold.", model=Endless(), runtime=runtime, budget=budget, name="holder")
        waiter = Agent("Wait.", model=ScriptedModel(["Hi."]), runtime=runtime, budget=budget, name="waiter")
        holding = asyncio.create_task(holder.run("hold", **ALICE))
        await asyncio.sleep(0.1)

        result = await asyncio.wait_for(waiter.run("wait", timeout=0.02, **ALICE), 5)

        assert (result.status, result.stop_reason) == ("stopped", "timeout")
        holding.cancel()
        await asyncio.wait([holding])

    go(main())


def test_what_was_granted_to_a_cancelled_run_is_given_back() -> None:
    """The commit lands, and the deadline passes meanwhile: nothing was sent, and nothing is charged."""

    async def main() -> None:
        runtime = Runtime(Slow(), InProcess())
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=5_000, per_user_max_requests=5))
        agent = Agent("Hi.", model=ScriptedModel(["Hi."]), runtime=runtime, budget=budget)

        result = await agent.run("hello", timeout=0.02, **ALICE)

        balances = await runtime.store.ledger.show(Operator("test"), "acme", "alice")
        assert (result.status, result.stop_reason) == ("stopped", "timeout")
        assert {(b.unit, b.spent, b.held) for b in balances} == {("tokens", 0, 0), ("requests", 0, 0)}
        assert result.charged == Charge(0, 0)

    go(main())


def test_what_waited_with_a_refused_hold_is_kept() -> None:
    """Results that were not committed yet are committed before the run waits, and once."""

    async def main() -> None:
        budget = StandardBudget(BudgetConfig(max_requests=1))
        runtime = InMemoryRuntime()
        agent = Agent("Be brief.", model=ScriptedModel(["", "Never asked."]), runtime=runtime, budget=budget)

        result = await agent.run("hello", **ALICE)

        events = await runtime.store.read(result.scope, result.run_id)
        assert result.stop_reason == "budget:max_requests"
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        kinds = [type(event).__name__ for event in events]
        assert kinds == [
            "RunStarted",
            "ModelRequested",
            "ModelAnswered",
            "BudgetWarned",
            "OutputRejected",
            "BudgetReached",
            "RunEnded",
        ]

    go(main())
