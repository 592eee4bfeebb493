"""Everything is charged: by what the provider reported, by what arrived, or in full; and only its request where it
surely took nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy import Charge, InMemoryLedger, InMemoryRuntime, ModelSettings
from shipworthy.engine import budgeting, charging
from shipworthy.errors import IncompleteAnswer, ModelUnavailable, RateLimited, RequestRejected
from tests.engine.spending import (
    Provider,
    balances,
    budget,
    charges,
    of_kind,
    of_user,
    requests_of,
    runtime_of,
    spender,
    summed,
    until,
)
from tests.engine.world import ALICE, LIMIT, go, journal, too_long

EVERYTHING = {
    "per_user_max_tokens": 10**6,
    "per_user_max_input_tokens": 10**6,
    "per_user_max_output_tokens": 10**6,
    "per_user_max_cost_usd": 100,
    "per_user_max_requests": 10**4,
}


async def agree(agent: Any, ledger: Any, *runs: str, result: Any = None) -> Charge:
    """Ledger, journal and result say the same, to the billionth of a dollar."""
    journals = [await journal(agent, run_id) for run_id in runs]
    total = summed([charge for events in journals for charge in charges(events)])
    found = {unit: spent for (_, _, unit), spent in (await balances(ledger, "acme", "alice")).items()}
    assert found == {
        "tokens": (total.input_tokens + total.output_tokens, 0),
        "input_tokens": (total.input_tokens, 0),
        "output_tokens": (total.output_tokens, 0),
        "cost_usd": (total.cost, 0),
        "requests": (sum([requests_of(events) for events in journals]), 0),
    }
    if result is not None:
        assert result.charged == total
    return total


REJECTED = RequestRejected("no such model")
SLOW_DOWN = RateLimited("slow down")
LOST = ModelUnavailable("the connection broke")
NOT_TAKEN = ModelUnavailable("no route", billable=False)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("script", "free", "in_full"),
    [
        ([SLOW_DOWN, SLOW_DOWN], 2, 0),
        ([REJECTED], 1, 0),
        ([NOT_TAKEN, LOST], 1, 1),
        ([LOST, LOST], 0, 2),
        ([IncompleteAnswer("cut")], 0, 1),
        ([ZeroDivisionError("our own")], 0, 1),
    ],
)
def test_a_failed_attempt_is_charged_by_what_its_provider_may_bill(
    script: list[Any], free: int, in_full: int, kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            agent = spender(
                Provider(*script), EVERYTHING, runtime=runtime, settings=ModelSettings(max_tokens=500)
            )
            result = await agent.run("Hi", run_id="r", **ALICE)
            failed = of_kind(await journal(agent, "r"), "ModelFailed")
            assert [e.charged.output_tokens for e in failed].count(0) == free
            assert [e.charged.output_tokens for e in failed].count(500) == in_full
            assert all([e.charged.input_tokens >= 40 for e in failed if e.charged.output_tokens])
            await agree(agent, runtime.store.ledger, "r", result=result)

    go(law())


def test_failures_that_are_settled_for_nothing_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charging, "unfinished", lambda attempt: Charge(0, 0, 0))
    with pytest.raises(AssertionError):
        test_a_failed_attempt_is_charged_by_what_its_provider_may_bill([LOST, LOST], 0, 2, "memory", Path())


def test_a_settlement_that_the_ledger_never_gets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgeting.BudgetMeter, "_queue", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_failed_attempt_is_charged_by_what_its_provider_may_bill([SLOW_DOWN], 1, 0, "memory", Path())


class Broken(Provider):
    """A stream that breaks off, or hangs, after three words on its first attempt."""

    def __init__(self, hangs: bool = False) -> None:
        super().__init__()
        self.hangs = hangs
        self.is_hanging = asyncio.Event()

    async def stream(self, request: Any) -> Any:
        if request.ordinal:
            async for item in super().stream(request):
                yield item
            return
        from shipworthy import TextDelta

        for word in ("one ", "two ", "três"):
            yield TextDelta(word)
        self.is_hanging.set()
        if self.hangs:
            await too_long()
        raise IncompleteAnswer("the line went dead")


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_stream_that_breaks_off_is_charged_its_input_and_what_arrived(kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            agent = spender(Broken(), EVERYTHING, runtime=runtime)
            async with agent.stream("Hi", run_id="r", **ALICE) as stream:
                async for _ in stream:
                    pass
            (failed,) = of_kind(await journal(agent, "r"), "ModelFailed")
            asked = of_kind(await journal(agent, "r"), "ModelRequested")[0].reserved
            assert failed.charged == Charge(asked.input_tokens, 13, asked.base + 13 * asked.each)
            await agree(agent, runtime.store.ledger, "r", result=stream.result)

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("how", ["cancelled", "timeout", "left"])
def test_a_run_that_is_stopped_in_an_answer_is_charged_what_arrived(
    how: str, kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            model = Broken(hangs=True)
            agent = spender(model, EVERYTHING, runtime=runtime, timeout=LIMIT if how == "timeout" else None)

            async def read() -> None:
                async with agent.stream("Hi", run_id="r", **ALICE) as stream:
                    async for _ in stream:
                        if how == "left" and model.is_hanging.is_set():
                            break

            task = asyncio.create_task(read())
            if how == "cancelled":
                await model.is_hanging.wait()
                task.cancel()
            await asyncio.wait([task])
            events = await journal(agent, "r")
            (abandoned,) = of_kind(events, "ModelAbandoned")
            assert (abandoned.charged.output_tokens, abandoned.reason) == (13, "cancelled")
            result = await agent.resume("r", tenant_id="acme")
            assert result.status == ("stopped" if how == "timeout" else "cancelled")
            await agree(agent, runtime.store.ledger, "r", result=result)

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_an_attempt_that_nobody_read_along_with_is_charged_in_full_when_it_is_cancelled(
    kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            model = Provider(gate=asyncio.Event())
            agent = spender(model, EVERYTHING, runtime=runtime, settings=ModelSettings(max_tokens=500))
            task = asyncio.create_task(agent.run("Hi", run_id="r", **ALICE))
            await until(lambda: bool(model.seen))
            task.cancel()
            await asyncio.wait([task])
            total = await agree(agent, runtime.store.ledger, "r")
            assert total.output_tokens == 500

    go(law())


def test_asking_again_for_a_valid_output_is_charged() -> None:
    class City(msgspec.Struct):
        name: str

    async def law() -> None:
        script = ["not json", "{}", '{"name": "Tokyo"}']
        agent = spender(Provider(*script), EVERYTHING, output=City, output_mode="prompted")
        result = await agent.run("Where?", run_id="r", **ALICE)
        assert (result.output, result.usage.requests) == (City("Tokyo"), 3)
        total = await agree(agent, agent.runtime.store.ledger, "r", result=result)
        assert total == Charge(120, 60, 3 * (40 * 1_000 + 20 * 10_000))

    go(law())


def test_a_last_answer_is_charged() -> None:
    async def law() -> None:
        from shipworthy import ToolCall, tool

        @tool(effect="read")
        async def look() -> str:
            return "seen"

        script: list[Any] = [lambda r: "Enough." if r.purpose == "wrap_up" else ToolCall("look")] * 9
        agent = spender(Provider(*script), {**EVERYTHING, "max_requests": 5}, tools=[look], max_turns=2)
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert (result.stop_reason, result.usage.requests) == ("max_turns", 3)
        await agree(agent, agent.runtime.store.ledger, "r", result=result)

    go(law())


def test_prices_without_limits_say_what_a_run_cost_and_write_nothing_to_a_ledger() -> None:
    async def law() -> None:
        from shipworthy import NoBudget
        from tests.engine.spending import PRICES

        agent = spender(Provider(LOST), NoBudget(prices=PRICES), settings=ModelSettings(max_tokens=500))
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert result.charged == summed(charges(await journal(agent, "r")))
        assert result.cost_usd is not None
        assert result.cost_usd > 0.005
        assert await balances(agent.runtime.store.ledger, "acme") == {}

    go(law())


# holds that expire


@pytest.mark.parametrize("apart", [False, True])
def test_a_settlement_that_comes_after_its_hold_expired_corrects_it(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def law() -> None:
        from tests.engine.spending import TESTS

        async def stopped(*_: Any) -> None:
            """As in a process that is stopped."""

        monkeypatch.setattr(InMemoryLedger, "renew", stopped)
        ledger = InMemoryLedger() if apart else None
        runtime = InMemoryRuntime()
        kept: Any = ledger or runtime.store.ledger
        gate = asyncio.Event()
        model = Provider(gate=gate)
        agent = spender(model, budget(ledger, **EVERYTHING, ttl=0.02), runtime=runtime)
        task = asyncio.create_task(agent.run("Hi", run_id="r", **ALICE))
        await until(lambda: bool(model.seen))
        await asyncio.sleep(0.03)
        assert await kept.sweep(TESTS) == 1
        assert (await of_user(kept, "output_tokens")) == (4096, 0)
        gate.set()
        await agree(agent, kept, "r", result=await task)
        assert (await of_user(kept, "output_tokens")) == (20, 0)

    go(law())


def test_a_hold_is_kept_alive_for_as_long_as_its_attempt_is(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[str] = []

    async def renew(self: Any, tenant: str, holds: Any, ttl: int) -> None:
        renewed.extend(holds)

    monkeypatch.setattr(InMemoryLedger, "renew", renew)

    async def law() -> None:
        gate = asyncio.Event()
        agent = spender(Provider(gate=gate), {**EVERYTHING, "ttl": 0.1})
        task = asyncio.create_task(agent.run("Hi", run_id="r", **ALICE))
        await until(lambda: len(renewed) >= 3)
        gate.set()
        await task
        (asked,) = of_kind(await journal(agent, "r"), "ModelRequested")
        assert set(renewed) == {asked.reserved.id}
        before = len(renewed)
        await asyncio.sleep(0.2)
        assert len(renewed) == before
        await agree(agent, agent.runtime.store.ledger, "r")

    go(law())
