"""A ledger that is down: nothing is sent that was not reserved, unless the developer said otherwise, and that is on
record."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from shipworthy import InMemoryLedger, InMemoryRuntime, Scope, ToolCall, tool
from shipworthy.engine import bank, reserving
from shipworthy.errors import LedgerUnavailable, ShipworthyError
from tests.engine.spending import TESTS, Provider, budget, charges, go_by, of_kind, of_user, spender, summed
from tests.engine.world import ALICE, go, journal, valid

LIMITS = {"per_user_max_tokens": 9_000, "per_user_max_tool_calls": 9, "max_output_tokens_per_call": 500}
WAYS: list[Any] = ["run", "stream"]


@tool(effect="read")
async def look() -> str:
    """Look."""
    return "seen"


class Flaky(InMemoryLedger):
    """A ledger of which some operations fail. `late`: they are done all the same, and nobody is told."""

    def __init__(self, *down: str, late: bool = False) -> None:
        super().__init__()
        self.down, self.late = set(down), late

    async def _do(self, name: str, *given: Any) -> Any:
        operation = getattr(super(), name)
        if name not in self.down:
            return await operation(*given)
        if self.late:
            await operation(*given)
        raise LedgerUnavailable(f"{name}: no answer")

    async def reserve(self, hold: Any) -> Any:
        return await self._do("reserve", hold)

    async def settle(self, settlement: Any) -> Any:
        return await self._do("settle", settlement)

    async def spent(self, scope: Any, keys: Any) -> Any:
        return await self._do("spent", scope, keys)

    async def open(self) -> None:
        await self._do("open")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "_PAUSE", 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [False, True])
def test_nothing_is_sent_while_the_ledger_is_down_and_the_run_goes_on_later(late: bool, way: Any) -> None:
    async def law() -> None:
        ledger = Flaky("reserve", late=late)
        model = Provider()
        agent = spender(model, budget(ledger, **LIMITS))
        with pytest.raises(LedgerUnavailable, match="no answer"):
            await go_by(way, agent, run_id="r", **ALICE)
        assert model.seen == []
        parked = of_kind(await journal(agent, "r"), "RunParked")
        assert [p.reason for p in parked] == ["error"]
        ledger.down.clear()
        result = await agent.resume("r", tenant_id="acme")
        assert (result.status, len(model.seen)) == ("completed", 1)
        await asyncio.sleep(0.05)
        spent, held = await of_user(ledger, "tokens")
        assert spent == summed(charges(await journal(agent, "r"))).input_tokens + 20
        assert held == 0  # what nobody was told of was given back

    go(law())


@pytest.mark.parametrize("way", WAYS)
def test_a_ledger_that_goes_down_between_two_calls_stops_the_second(way: Any) -> None:
    async def law() -> None:
        ledger = Flaky()

        @tool(effect="read")
        async def cut() -> str:
            ledger.down |= {"reserve", "settle"}
            return "cut"

        model = Provider(ToolCall("cut"), "Done.")
        agent = spender(model, budget(ledger, **LIMITS), tools=[cut])
        with pytest.raises(LedgerUnavailable):
            await go_by(way, agent, run_id="r", **ALICE)
        assert len(model.seen) == 1
        ledger.down.clear()
        result = await agent.resume("r", tenant_id="acme")
        assert (result.status, result.usage.requests, valid(result.messages)) == ("completed", 2, True)

    go(law())


@pytest.mark.parametrize("way", WAYS)
def test_calls_without_a_reservation_are_made_only_if_that_was_said_and_are_on_record(way: Any) -> None:
    async def law() -> None:
        ledger = Flaky("reserve", "settle")
        agent = spender(
            Provider(ToolCall("look"), "Done."),
            budget(ledger, **LIMITS, on_ledger_error="allow"),
            tools=[look],
        )
        result = await go_by(way, agent, run_id="r", **ALICE)
        events = await journal(agent, "r")
        assert result.status == "completed"
        assert [e.error for e in of_kind(events, "BudgetUnchecked")] == ["reserve: no answer"] * 3
        kinds = [type(e).__name__ for e in events]
        assert kinds[1:3] == ["BudgetUnchecked", "ModelRequested"]
        assert result.charged == summed(charges(events))
        assert await of_user(ledger, "tokens") == (0, 0)

    go(law())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("gives_up", [False, True])
def test_a_settlement_that_cannot_be_had_now_is_made_when_the_ledger_is_back(
    late: bool, gives_up: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then its hold is charged in full; the mutant gives up, and the ledger never agrees with the journal."""
    if gives_up:
        monkeypatch.setattr(bank, "_persistently", lambda work, patience: asyncio.sleep(0))

    async def law() -> tuple[int, int]:
        ledger = Flaky("settle", late=late)
        agent = spender(Provider(), budget(ledger, **LIMITS, hold_ttl=1.0))
        with caplog.at_level(logging.WARNING, "shipworthy"):
            result = await agent.run("Hi", **ALICE)
        assert (result.status, result.charged.output_tokens) == ("completed", 20)
        assert "tried again" in caplog.text
        await asyncio.sleep(1.05)
        await ledger.sweep(TESTS)
        spent, held = await of_user(ledger, "tokens")
        assert held == 0
        assert (spent == 60) if late else (spent > 500)
        ledger.down.clear()
        for _ in range(100):
            await asyncio.sleep(0.01)
        return await of_user(ledger, "tokens")

    assert (go(law()) == (60, 0)) is (late or not gives_up)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_reservation_that_was_not_answered_is_given_back(
    keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have landed, and nothing was sent; the mutant leaves it to be charged."""
    if keeps:
        monkeypatch.setattr(bank.Bank, "give_up", lambda self, tenant, hold: None)

    async def law() -> tuple[int, int]:
        ledger = Flaky("reserve", late=True)
        with pytest.raises(LedgerUnavailable):
            await spender(Provider(), budget(ledger, **LIMITS)).run("Hi", **ALICE)
        await asyncio.sleep(0.05)
        return await of_user(ledger, "tokens")

    assert (go(law()) == (0, 0)) is not keeps


def test_a_settlement_that_fails_once_is_made_again() -> None:
    async def law() -> None:
        class Hiccup(InMemoryLedger):
            times = 0

            async def settle(self, settlement: Any) -> Any:
                self.times += 1
                if self.times < 3:
                    raise LedgerUnavailable("a hiccup")
                return await super().settle(settlement)

        ledger = Hiccup()
        await spender(Provider(), budget(ledger, **LIMITS)).run("Hi", **ALICE)
        assert await of_user(ledger, "tokens") == (60, 0)

    go(law())


def test_a_run_that_crashed_waits_for_the_ledger_to_be_resumed() -> None:
    async def law() -> None:
        runtime, ledger = InMemoryRuntime(), Flaky()
        model = Provider(gate=asyncio.Event())
        left = asyncio.create_task(
            spender(model, budget(ledger, **LIMITS), runtime=runtime, name="a").run("Hi", run_id="r", **ALICE)
        )
        while not model.seen:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        run = runtime.active(Scope("acme", "alice"), "r")
        assert run is not None
        runtime.leave(run)
        await runtime.store.release(run.fence)

        agent = spender(Provider(), budget(ledger, **LIMITS), runtime=runtime, name="a")
        ledger.down.add("settle")
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await agent.resume("r", tenant_id="acme")
        ledger.down.clear()
        result = await agent.resume("r", tenant_id="acme")
        events = await journal(agent, "r")
        assert (result.status, len(of_kind(events, "ModelAbandoned"))) == ("completed", 1)
        spent, held = await of_user(ledger, "tokens")
        total = summed(charges(events))
        assert (spent, held) == (total.input_tokens + total.output_tokens, 0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)

    go(law())


def test_a_ledger_that_does_not_open_lets_nothing_start() -> None:
    async def law() -> None:
        ledger = Flaky("open")
        model = Provider()
        agent = spender(model, budget(ledger, **LIMITS))
        with pytest.raises(LedgerUnavailable):
            await agent.run("Hi", run_id="r", **ALICE)
        assert model.seen == []
        ledger.down.clear()
        assert (await agent.run("Hi", run_id="r", **ALICE)).status == "completed"

    go(law())


def test_a_cut_answer_stops_the_run_though_nobody_can_say_what_was_spent() -> None:
    async def law() -> None:
        ledger = Flaky("spent")
        agent = spender(Provider(output=900), budget(ledger, max_output_tokens=100))
        result = await agent.run("Hi", **ALICE)
        assert result.stop_reason == "budget:max_output_tokens"

    go(law())


def test_calls_that_are_made_all_the_same_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To allow what could not be asked, without having been told to, is the mutant."""
    asked = reserving.Reserving._asked

    async def allowing(self: Any, hold: Any) -> Any:
        from msgspec.structs import replace

        self._terms = replace(self._terms, on_ledger_error="allow")
        return await asked(self, hold)

    monkeypatch.setattr(reserving.Reserving, "_asked", allowing)
    with pytest.raises((AssertionError, ShipworthyError, pytest.fail.Exception)):
        test_nothing_is_sent_while_the_ledger_is_down_and_the_run_goes_on_later(False, "run")
