"""Budgets of runs whose steps are activities: the cap holds over workers, and ledger, journal and result agree."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
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
    ScriptedTurn,
    StandardBudget,
    Usage,
)
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.temporal import worker
from shipworthy.domain.events import ModelAbandoned, ModelRequested
from shipworthy.domain.ledger import Settled, Settlement
from shipworthy.domain.scope import Operator
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import LedgerUnavailable
from shipworthy.rules.state import replay
from tests.temporal.world import TENANT, Bank, activities, call, until, with_loop

ROOT = Path(__file__).parents[2]
OPERATOR = Operator("the tests of budgets")
ADA: dict[str, Any] = {**TENANT, "user_id": "ada"}
USED = Usage(input_tokens=70, output_tokens=30)
LOOK, DONE = ScriptedTurn(call("look", n=1), usage=USED), ScriptedTurn("Done.", usage=USED)

DYING = """
    # A worker that dies in the first attempt.
    import asyncio, os, signal, sys
    from pathlib import Path
    from tests.temporal.test_budgets import limit
    from tests.temporal.world import Bank

    def die(request):
        os.kill(os.getpid(), signal.SIGKILL)

    async def main():
        folder, address, queue = sys.argv[1:]
        bank = Bank(Path(folder), address, task_queue=queue)
        async with bank.worker(die, budget=limit()):
            await asyncio.sleep(60)

    asyncio.run(main())
"""


def limit(ledger: Any = None, **limits: Any) -> StandardBudget:
    given = {"per_user_max_tokens": 5_000, **limits}
    return StandardBudget(BudgetConfig(max_output_tokens_per_call=1_000, **given), ledger=ledger)


@pytest.fixture
def bank(tmp_path: Path, temporal: str) -> Bank:
    return Bank(tmp_path, temporal)


async def sums(agent: Agent[Any, Any], result: RunResult[Any], ledger: Any = None) -> set[int]:
    """Tokens by the ledger, the journal and the result: one number, if all is well. Nothing is held."""
    assert result.charged is not None
    store = agent.runtime.store
    (user,) = await (ledger or store.ledger).show(OPERATOR, "acme", "ada")
    charged = replay(await store.read(Scope("acme"), result.run_id)).charged
    assert charged is not None
    assert user.held == 0
    told = result.charged
    return {
        user.spent,
        charged.input_tokens + charged.output_tokens,
        told.input_tokens + told.output_tokens,
    }


@with_loop
async def test_a_run_stops_before_the_call_that_its_cap_does_not_afford(bank: Bank) -> None:
    limits = {"max_requests": 2, "soft_warning_at": 0.5}
    async with (
        bank.agent(LOOK, budget=limit(**limits)) as caller,
        bank.worker(LOOK, LOOK, DONE, budget=limit(**limits)),
    ):
        result = await caller.run("Go.", run_id="r", **ADA)
        assert (result.status, result.stop_reason) == ("stopped", "budget:max_requests")
        with pytest.raises(BudgetExceeded, match="max_requests is 2") as raised:
            result.raise_for_status()
        assert raised.value.limit == "max_requests"
        events = await caller.runtime.store.read(Scope("acme"), "r")
        assert len([e for e in events if type(e) is ModelRequested]) == 2
        assert [e.limit for e in events if type(e) is BudgetWarned] == ["max_requests"]
        assert await sums(caller, result) == {200}
    steps = ["AskModel", "Judge", "Execute", "AskModel", "Judge", "Execute", "AskModel", "End"]
    assert activities(await bank.histories("r")) == ["take", *steps]


async def _goes_on_after_a_kill(bank: Bank, folder: Path) -> tuple[set[int], list[str], str]:
    """A worker dies in an attempt, and another one goes on: the sums, what the journal says of it, and the end."""
    script = folder / "dying.py"
    script.write_text(textwrap.dedent(DYING))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(folder), bank.address, bank.queue),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        async with bank.agent(DONE, budget=limit()) as caller:
            running = asyncio.create_task(caller.run("Go.", run_id="r", **ADA))
            assert await process.wait() == -signal.SIGKILL
            async with bank.worker(DONE, budget=limit()):
                result = await running
            events = await caller.runtime.store.read(Scope("acme"), "r")
            left = [e.reason for e in events if type(e) is ModelAbandoned]
            return await sums(caller, result), left, result.status
    finally:
        if process.returncode is None:
            process.kill()


@with_loop
async def test_an_attempt_whose_worker_was_killed_is_charged_once_and_in_full(
    bank: Bank, tmp_path: Path
) -> None:
    (amount,), left, status = await _goes_on_after_a_kill(bank, tmp_path)
    assert (left, status) == (["crashed"], "completed")
    assert amount > 1_100


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


def gated(bank: Bank, budget: StandardBudget) -> tuple[Agent[Any, str], Gated]:
    agent = bank.agent(DONE)
    model = Gated()
    return Agent("Go.", name="gated", model=model, runtime=agent.runtime, budget=budget), model


@with_loop
async def test_an_activity_waits_for_room_that_others_hold_and_not_beyond_its_deadline(bank: Bank) -> None:
    caller, _ = gated(bank, limit(per_user_max_tokens=1_500))
    worker, model = gated(bank, limit(per_user_max_tokens=1_500))
    async with caller, worker, worker.runtime.serving():  # type: ignore[attr-defined]
        first = asyncio.create_task(caller.run("Go.", run_id="first", **ADA))
        await until(model.entered.is_set)
        second = asyncio.create_task(caller.run("Go.", run_id="second", **ADA))
        late = await caller.run("Go.", run_id="late", timeout=1.0, **ADA)
        assert (late.status, late.stop_reason) == ("stopped", "timeout")
        assert not second.done()
        model.gate.set()
        results = await asyncio.gather(first, second)
        assert [result.output for result in results] == ["Done.", "Done."]
        (user,) = await caller.runtime.store.ledger.show(OPERATOR, "acme", "ada")
        assert (user.spent, user.held) == (200, 0)


@pytest.mark.parametrize("served", [True, False], ids=["in an attempt", "before any worker comes"])
@with_loop
async def test_the_wall_clock_stops_a_run(bank: Bank, served: bool) -> None:
    limits = limit(max_wall_clock=3.0 if served else 1.0)  # in which a busy machine begins an attempt
    caller, _ = gated(bank, limits)
    worker, _ = gated(bank, limits)
    async with caller, worker:
        if served:
            async with worker.runtime.serving():  # type: ignore[attr-defined]
                result = await caller.run("Go.", run_id="r", **ADA)
            (amount,) = await sums(caller, result)
            assert amount > 1_000
        else:
            result = await caller.run("Go.", run_id="r", **ADA)
        assert (result.status, result.stop_reason) == ("stopped", "budget:max_wall_clock")
        with pytest.raises(BudgetExceeded):
            result.raise_for_status()


class Counted(InMemoryLedger):
    """Counts who has it open, and sweeps; refuses at first if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.users = self.sweeps = self.refusals = 0
        self.refused = 0

    async def open(self) -> None:
        if self.refusals:
            self.refusals, self.refused = self.refusals - 1, self.refused + 1
            raise LedgerUnavailable("It is away.")
        self.users += 1

    async def close(self) -> None:
        self.users -= 1

    async def sweep(self, operator: Operator) -> int:
        self.sweeps += 1
        return await super().sweep(operator)

    async def settle(self, settlement: Settlement) -> Settled:
        assert self.users > 0
        return await super().settle(settlement)


async def _elsewhere(bank: Bank) -> None:
    theirs, ours = Counted(), Counted()
    theirs.refusals = 2
    async with bank.agent(DONE, budget=limit(ours)) as caller:
        async with bank.worker(DONE, budget=limit(theirs)) as serving:
            result = await caller.run("Go.", run_id="r", **ADA)
            assert await sums(caller, result, theirs) == {100}
            await serving.runtime.sweep()
            assert theirs.sweeps > 0
        assert (theirs.refused, theirs.users, ours.users) == (2, 0, 1)
    assert ours.users == 0


@with_loop
async def test_a_ledger_elsewhere_is_waited_for_swept_and_closed_by_its_worker(bank: Bank) -> None:
    await _elsewhere(bank)


def _for_itself(patch: pytest.MonkeyPatch) -> None:
    """Who takes the steps has ledgers that nobody else knows."""
    build = Runtime.__init__
    patch.setattr(Runtime, "__init__", lambda self, store, driver, of=None, **_: build(self, store, driver))


def _no_second_look(patch: pytest.MonkeyPatch) -> None:
    """A ledger that is away ends the run's workflow."""
    patch.setattr(worker, "LedgerUnavailable", ())


@pytest.mark.parametrize("mutant", [_for_itself, _no_second_look])
@with_loop
async def test_a_mutant_is_caught(
    bank: Bank, mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, LedgerUnavailable)):
        await _elsewhere(bank)
