"""After chaos the books are in balance: for each user the ledger, the journals and the results say the same, nothing is
held, no cap is passed, and nobody was charged less than a provider may bill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from shipworthy import InMemoryLedger, InMemoryRuntime, TextDelta, ToolCall, Usage, tool
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer
from shipworthy.domain.usage import Charge
from shipworthy.engine import budgeting, charging, live
from shipworthy.errors import IncompleteAnswer, ModelUnavailable, RateLimited, RequestRejected
from tests.engine.spending import balances, budget, charges, of_kind, requests_of, runtime_of, spender, summed
from tests.engine.world import go, journal

RUNS = 60
USERS = [("acme", "alice"), ("acme", "bob"), ("acme", "carol"), ("umbrella", "alice"), ("umbrella", "bob")]
SEED = int(os.environ.get("SHIPWORTHY_SEED", random.randrange(10**6)))
LIMITS = {
    "max_tokens": 3_000,
    "per_user_max_tokens": 9_000,
    "per_user_max_input_tokens": 9_000,
    "per_user_max_output_tokens": 8_000,
    "per_user_max_cost_usd": 0.05,
    "per_user_max_requests": 60,
    "per_user_max_tool_calls": 40,
    "per_tenant_max_cost_usd": 0.14,
    "max_output_tokens_per_call": 300,
}


class Moody:
    """A provider that fails in every way there is, and keeps its own books of what it bills, by run."""

    name = "scripted"

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.billed: dict[str, int] = defaultdict(int)

    async def stream(self, request: Any) -> Any:
        chance, run = self.chance, request.run_id
        mood = chance.random()
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
        if mood < 0.08:
            raise RateLimited("slow down")
        if mood < 0.12:
            raise RequestRejected("no")
        self.billed[run] += (taken := chance.randint(1, 60))
        most = request.settings.max_tokens
        if mood < 0.20:
            self.billed[run] += most
            raise ModelUnavailable("the line went dead")
        made = chance.randint(1, min(most, 60))
        if request.stream:
            for i in range(made):
                self.billed[run] += 1
                yield TextDelta("abc ")
                if i % 8 == 0:
                    await asyncio.sleep(0)
                if mood < 0.28 and i > made // 2:
                    raise IncompleteAnswer("cut")
        else:
            self.billed[run] += made
            await asyncio.sleep(chance.choice([0, 0.003]))
        parts: tuple[Any, ...] = (Text("abc " * made),)
        if mood < 0.6:
            parts = tuple([ToolCall("look", "{}")] * chance.randint(1, 3))
        elif mood < 0.65:
            parts = ()  # asked again
        yield Answer(parts=parts, usage=Usage(input_tokens=taken, output_tokens=made))

    async def close(self) -> None:
        pass


class Remote(InMemoryLedger):
    """A ledger over a slow wire: it may be cancelled before and after it did what it was asked."""

    async def reserve(self, hold: Any) -> Any:
        await asyncio.sleep(random.choice([0, 0.001]))
        answer = await super().reserve(hold)
        await asyncio.sleep(random.choice([0, 0.001]))
        return answer

    async def settle(self, settlement: Any) -> Any:
        await asyncio.sleep(random.choice([0, 0.001]))
        answer = await super().settle(settlement)
        await asyncio.sleep(random.choice([0, 0.001]))
        return answer


@tool(effect="read")
async def look() -> str:
    """Look."""
    await asyncio.sleep(random.choice([0, 0.002]))
    return "seen"


async def chaos(runtime: Any, ledger: Any, seed: int) -> tuple[Any, Moody]:
    """Many runs of several users at once, some cancelled, some read along with, some left."""
    chance = random.Random(seed)
    model = Moody(chance)
    agent = spender(model, budget(ledger, **LIMITS), tools=[look], runtime=runtime, name="moody")

    async def one(i: int) -> None:
        tenant, user = USERS[i % len(USERS)]
        who = {"tenant_id": tenant, "user_id": user, "run_id": f"r{i}"}
        await asyncio.sleep(chance.random() * 0.05)
        timeout = chance.choice([None, None, None, 0.02, 0.1])
        if chance.random() < 0.5:
            await agent.run("Hi", timeout=timeout, **who)
            return
        leaves = chance.choice([None, None, 3, 20])
        async with agent.stream("Hi", timeout=timeout, **who) as stream:
            n = 0
            async for _ in stream:
                n += 1
                if n == leaves:
                    break

    tasks = [asyncio.create_task(one(i)) for i in range(RUNS)]

    async def cancel(task: Any) -> None:
        await asyncio.sleep(chance.random() * 0.15)
        task.cancel()

    cancelling = [asyncio.create_task(cancel(task)) for task in tasks if chance.random() < 0.35]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*cancelling)
    assert {type(e) for e in done} <= {type(None), asyncio.CancelledError}, done
    return agent, model


async def reconcile(agent: Any, model: Moody, ledger: Any) -> None:
    """The books, to the unit, for each user."""
    tenants: dict[str, int] = defaultdict(int)
    for tenant, user in USERS:
        runs = [f"r{i}" for i in range(RUNS) if USERS[i % len(USERS)] == (tenant, user)]
        journals = {}
        for run_id in runs:
            with contextlib.suppress(Exception):  # cancelled before it began
                journals[run_id] = await journal(agent, run_id, tenant)
        for run_id, events in journals.items():
            result = await agent.resume(run_id, tenant_id=tenant)
            assert (result.charged or Charge(0, 0, 0)) == summed(charges(events))
            assert result.status in ("completed", "stopped", "failed", "cancelled")
            assert requests_of(events) == len(charges(events)), "an attempt has no charge"
            assert charged_tokens(events) >= model.billed[run_id]
        found = {unit: amounts for (_, _, unit), amounts in (await balances(ledger, tenant, user)).items()}
        total = summed([c for events in journals.values() for c in charges(events)])
        tenants[tenant] += total.cost or 0
        unsent = sum(
            [
                len([c for c in charges(e) if not c.input_tokens and is_unsent(e, c)])
                for e in journals.values()
            ]
        )
        expected = {
            "tokens": total.input_tokens + total.output_tokens,
            "input_tokens": total.input_tokens,
            "output_tokens": total.output_tokens,
            "cost_usd": total.cost,
            "requests": sum([requests_of(e) for e in journals.values()]) - unsent,
            "tool_calls": sum([calls_of(e) for e in journals.values()]),
        }
        assert {unit: found.get(unit, (0, 0)) for unit in expected} == {
            unit: (amount, 0) for unit, amount in expected.items()
        }
        for unit, amount in expected.items():
            cap = LIMITS[f"per_user_max_{unit}"]
            assert amount <= (cap * 10**9 if unit == "cost_usd" else cap)
    for tenant, cost in tenants.items():
        assert (await balances(ledger, tenant))["tenant", "[]", "cost_usd"] == (cost, 0)
        assert cost <= LIMITS["per_tenant_max_cost_usd"] * 10**9


def charged_tokens(events: Any) -> int:
    total = summed(charges(events))
    return total.input_tokens + total.output_tokens


def is_unsent(events: Any, charge: Charge) -> bool:
    """Whether it is of an attempt that was cancelled before it was made: it is not even charged its request."""
    return any([e.charged is charge for e in of_kind(events, "ModelAbandoned")])


def calls_of(events: Any) -> int:
    return sum([len(e.calls) for e in of_kind(events, "ToolsJudged") if e.charged])


async def settled_down(ledger: Any) -> None:
    """What is given back beside a cancelled caller takes a moment."""
    for _ in range(200):
        held = [
            held for tenant in ("acme", "umbrella") for _, held in (await balances(ledger, tenant)).values()
        ]
        if not any(held):
            return
        await asyncio.sleep(0.01)


def balanced(kind: str, folder: Path, seed: int) -> None:
    print(f"SHIPWORTHY_SEED={seed}")  # shown by pytest when this fails

    async def law() -> None:
        if kind == "remote":
            runtime: Any = InMemoryRuntime()
            ledger = Remote()
            agent, model = await chaos(runtime, ledger, seed)
            await settled_down(ledger)
            await reconcile(agent, model, ledger)
            return
        async with runtime_of(kind, folder) as runtime:
            agent, model = await chaos(runtime, None, seed)
            await settled_down(runtime.store.ledger)
            await reconcile(agent, model, runtime.store.ledger)

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite", "remote"])
@pytest.mark.parametrize("nth", range(3))
def test_the_books_are_in_balance_after_chaos(kind: str, nth: int, tmp_path: Path) -> None:
    balanced(kind, tmp_path, SEED + nth)


# planted faults


def often(kind: str, folder: Path) -> None:
    for nth in range(5):
        balanced(kind, folder, SEED + nth)


def settles_nothing_for_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charging, "unfinished", lambda attempt: Charge(0, 0, 0))


def settles_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    put = InMemoryLedger.put

    def twice(self: Any, settlement: Any) -> Any:
        answer = put(self, settlement)
        if random.random() < 0.2 and (held := self._holds.get(settlement.id)) is not None:
            for line, amount in zip(held.hold.lines, held.amounts, strict=True):
                if (counter := self._counters.get(line.key)) is not None:
                    counter.spent += amount
        return answer

    monkeypatch.setattr(InMemoryLedger, "put", twice)


def frees_what_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    def abandoned(self: Any, run: Any) -> None:
        if (attempt := self._attempt) is not None:
            self._attempt = None
            self._give_back(run, attempt)

    monkeypatch.setattr(budgeting.BudgetMeter, "abandoned", abandoned)


def forgets_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = budgeting.BudgetMeter.failed

    def unsaid(self: Any, run: Any, error: Exception) -> Any:
        failed(self, run, error)
        return Charge(0, 0, 0)  # in the ledger, and not in the journal

    monkeypatch.setattr(budgeting.BudgetMeter, "failed", unsaid)


@pytest.mark.parametrize(
    "plant", [settles_nothing_for_failures, settles_twice, frees_what_is_cancelled, forgets_retries]
)
def test_a_planted_fault_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        often("memory", tmp_path)


def test_a_cancellation_that_loses_a_batch_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To settle elsewhere after the batch was taken is the mutant: a cancellation there leaves a gap in the journal."""
    commit = live.LiveRun.commit

    async def careless(self: Any) -> None:
        if self.operations and self._pending:
            events, self._pending = self._pending, []
            await self._settle()
            self._pending = events
        await commit(self)

    monkeypatch.setattr(live.LiveRun, "commit", careless)
    with pytest.raises(AssertionError):
        often("remote", tmp_path)
