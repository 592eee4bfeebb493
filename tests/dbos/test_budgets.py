"""Budgets of runs whose steps DBOS has taken: the cap holds, and ledger, journal and result agree."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    Agent,
    BudgetConfig,
    BudgetExceeded,
    BudgetWarned,
    RunResult,
    Scope,
    ScriptedModel,
    ScriptedTurn,
    StandardBudget,
    ToolCall,
    Usage,
    tool,
)
from shipworthy.domain.events import ModelAbandoned, ModelRequested
from shipworthy.domain.scope import Operator
from shipworthy.domain.usage import Charge
from shipworthy.engine.budgeting import BudgetMeter
from shipworthy.errors import RunBusy
from shipworthy.rules.state import replay
from tests.dbos.test_queues import opened
from tests.dbos.world import ALICE, go, runtime_on
from tests.engine.world import LIMIT, too_long

ROOT = Path(__file__).parents[2]
OPERATOR = Operator("the tests of budgets")
LOOK = ScriptedTurn(ToolCall("look", {}), usage=Usage(input_tokens=70, output_tokens=30))
DONE = ScriptedTurn("Done.", usage=Usage(input_tokens=70, output_tokens=30))

DYING = """
    # Dies in its first attempt, under DBOS.
    import asyncio, os, signal, sys
    from pathlib import Path
    from tests.dbos.test_budgets import ALICE, spender
    from tests.dbos.world import runtime_on

    def die(request):
        os.kill(os.getpid(), signal.SIGKILL)

    async def main():
        place = sys.argv[1]
        async with runtime_on(place if "://" in place else Path(place)) as runtime:
            await spender(runtime, die).run("Go.", run_id="r", **ALICE)

    asyncio.run(main())
"""


def spender(runtime: Any, *turns: Any, **limits: Any) -> Agent[Any, str]:
    """An agent that may look, and say so many words; 100 tokens an answer."""

    @tool(effect="read")
    async def look() -> str:
        return "nothing"

    given = {"per_user_max_tokens": 5_000, **limits}
    budget = StandardBudget(BudgetConfig(max_output_tokens_per_call=1_000, **given))
    model = ScriptedModel(turns)
    return Agent("Look.", name="spender", model=model, tools=[look], runtime=runtime, budget=budget)


async def sums(agent: Agent[Any, Any], result: RunResult[Any]) -> set[int]:
    """Tokens by the ledger, the journal and the result: one number, if all is well. Nothing is held."""
    assert result.charged is not None
    store = agent.runtime.store
    (user,) = [b for b in await store.ledger.show(OPERATOR, "acme", "alice") if b.unit == "tokens"]
    charged = replay(await store.read(Scope("acme"), result.run_id)).charged
    assert charged is not None
    assert user.held == 0
    told = result.charged
    return {
        user.spent,
        charged.input_tokens + charged.output_tokens,
        told.input_tokens + told.output_tokens,
    }


def test_a_run_stops_before_the_call_that_its_cap_does_not_afford(place: Any) -> None:
    async def law() -> None:
        async with runtime_on(place) as runtime:
            agent = spender(runtime, LOOK, LOOK, DONE, max_requests=2, soft_warning_at=0.5)
            result = await agent.run("Go.", run_id="r", **ALICE)
            assert (result.status, result.stop_reason) == ("stopped", "budget:max_requests")
            with pytest.raises(BudgetExceeded, match="max_requests is 2") as raised:
                result.raise_for_status()
            assert raised.value.limit == "max_requests"
            events = await runtime.store.read(Scope("acme"), "r")
            assert len([e for e in events if type(e) is ModelRequested]) == 2
            assert [e.limit for e in events if type(e) is BudgetWarned] == ["max_requests"]
            assert await sums(agent, result) == {200}

    go(law)


def test_one_that_waited_in_a_queue_tells_its_caller_the_same(tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_on(tmp_path, queue="desk") as runtime:
            agent = spender(runtime, LOOK, DONE, max_requests=1)
            await opened(runtime, "desk/spender")
            result = await agent.run("Go.", run_id="r", **ALICE)
            with pytest.raises(BudgetExceeded, match="max_requests is 1"):
                result.raise_for_status()
            assert await sums(agent, result) == {100}

    go(law)


def _killed(folder: Path, place: Any) -> None:
    script = folder / "dying.py"
    script.write_text(textwrap.dedent(DYING))
    died = subprocess.run(
        [sys.executable, str(script), str(place)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()


async def _resumed(place: Any) -> Sequence[Any]:
    """The sums after the killed run went on here, what its journal says of the attempt, and its end."""
    async with runtime_on(place) as runtime:
        agent = spender(runtime, DONE)
        while True:
            try:
                result = await agent.resume("r", tenant_id="acme")
                break
            except RunBusy:  # its worker's lease has not ended
                await asyncio.sleep(0.1)
        events = await runtime.store.read(Scope("acme"), "r")
        left = [e.reason for e in events if type(e) is ModelAbandoned]
        return await sums(agent, result), left, result.status


def test_an_attempt_whose_process_was_killed_is_charged_once_and_in_full(place: Any, tmp_path: Path) -> None:
    _killed(tmp_path, place)

    async def law() -> None:
        found, left, status = await _resumed(place)
        (amount,) = found
        assert (left, status) == (["crashed"], "completed")
        assert amount > 1_100

    go(law)


def test_a_crash_that_costs_nothing_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what a crash left open costs nothing."""
    _killed(tmp_path, tmp_path)

    async def free(self: BudgetMeter, run: Any) -> None:
        run.record(ModelAbandoned(charged=Charge(0, 0, None), reason="crashed"))

    monkeypatch.setattr(BudgetMeter, "recover", free)

    async def law() -> None:
        await _resumed(tmp_path)

    with pytest.raises(AssertionError, match="held"):
        go(law)


class Gated:
    """Answers when it is let."""

    name = "gated"

    def __init__(self) -> None:
        self.entered, self.gate = asyncio.Event(), asyncio.Event()

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        self.entered.set()
        await self.gate.wait()
        yield DONE.answer

    async def close(self) -> None:
        pass


class Hanging(Gated):
    """Never answers."""

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        await too_long()
        yield DONE.answer


def gated(runtime: Any, model: Gated | None = None, **limits: Any) -> tuple[Agent[Any, str], Gated]:
    model = model or Gated()
    budget = StandardBudget(BudgetConfig(max_output_tokens_per_call=1_000, **limits))
    return Agent("Look.", name="gated", model=model, runtime=runtime, budget=budget), model


def test_a_step_waits_for_room_that_others_hold_and_not_beyond_its_deadline(place: Any) -> None:
    async def law() -> None:
        async with runtime_on(place) as runtime:
            agent, model = gated(runtime, per_user_max_tokens=1_500)
            first = asyncio.create_task(agent.run("Go.", run_id="first", **ALICE))
            await model.entered.wait()
            second = asyncio.create_task(agent.run("Go.", run_id="second", **ALICE))
            late = await agent.run("Go.", run_id="late", timeout=0.3, **ALICE)
            assert (late.status, late.stop_reason) == ("stopped", "timeout")
            assert not second.done()
            model.gate.set()
            results = await asyncio.gather(first, second)
            assert [result.output for result in results] == ["Done.", "Done."]
            (user,) = await runtime.store.ledger.show(OPERATOR, "acme", "alice")
            assert (user.spent, user.held) == (200, 0)

    go(law)


def test_the_wall_clock_stops_a_run_and_its_attempt_is_charged(tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_on(tmp_path) as runtime:
            agent, _ = gated(runtime, Hanging(), per_user_max_tokens=1_500, max_wall_clock=LIMIT)
            result = await agent.run("Go.", run_id="r", **ALICE)
            assert (result.status, result.stop_reason) == ("stopped", "budget:max_wall_clock")
            with pytest.raises(BudgetExceeded):
                result.raise_for_status()
            (amount,) = await sums(agent, result)
            assert amount > 1_000

    go(law)
