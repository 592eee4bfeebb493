"""A run stops before the call that a limit does not afford, keeps what it has, and says which limit it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import BudgetExceeded, InMemoryRuntime, ModelSettings, ScriptedModel, ToolCall, tool
from shipworthy.domain.model import Answer
from shipworthy.engine import budgeting
from shipworthy.engine.reserving import Reserving
from shipworthy.errors import RunStopped
from tests.engine.spending import (
    Provider,
    Way,
    charges,
    go_by,
    of_kind,
    of_user,
    requests_of,
    runtime_of,
    spender,
    summed,
)
from tests.engine.world import ALICE, go, journal, told, valid

WAYS: list[Way] = ["run", "stream"]
SESSION = {**ALICE, "session_id": "s"}


@tool(effect="read")
async def look() -> str:
    """Look."""
    return "seen"


LIMITS: dict[str, Any] = {
    "max_cost_usd": 0.003,
    "max_tokens": 2_000,
    "max_input_tokens": 1_500,
    "max_output_tokens": 70,
    "max_requests": 3,
    "max_tool_calls": 2,
}


def spent_of(name: str, charged: Any, events: Any) -> float:
    return {
        "max_cost_usd": (charged.cost or 0) / 1e9,
        "max_tokens": charged.input_tokens + charged.output_tokens,
        "max_input_tokens": charged.input_tokens,
        "max_output_tokens": charged.output_tokens,
        "max_requests": requests_of(events),
        "max_tool_calls": len(of_kind(events, "ToolAttempted")),
    }[name]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LIMITS)
def test_a_run_stops_before_the_call_that_could_pass_a_limit(
    name: str, way: Way, kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            model = Provider(*[ToolCall("look")] * 60)
            limits = {name: LIMITS[name]}
            agent = spender(model, limits, tools=[look], runtime=runtime, name="a")
            result = await go_by(way, agent, run_id="r", **SESSION)
            assert (result.status, result.stop_reason) == ("stopped", f"budget:{name}")
            assert result.turns >= 2
            assert valid(result.messages)
            events = await journal(agent, "r")
            assert len(model.seen) == requests_of(events) == result.usage.requests
            assert spent_of(name, result.charged, events) <= LIMITS[name]
            assert summed(charges(events)) == result.charged
            with pytest.raises(BudgetExceeded, match=name) as error:
                result.raise_for_status()
            assert (error.value.limit, error.value.retry_after) == (name, None)

            after = spender(Provider(), {}, runtime=runtime, name="b")
            result = await after.run("And now?", **SESSION)
            assert (result.status, valid(result.messages)) == ("completed", True)
            assert result.inherited > 2

    go(law())


@pytest.mark.parametrize("way", WAYS)
def test_a_run_stops_when_its_time_is_up(way: Way) -> None:
    async def law() -> None:
        model = Provider(ToolCall("look"), gate=asyncio.Event())
        agent = spender(model, {"max_wall_clock": 0.05}, tools=[look])
        result = await go_by(way, agent, **ALICE)
        assert (result.status, result.stop_reason) == ("stopped", "budget:max_wall_clock")
        with pytest.raises(BudgetExceeded) as error:
            result.raise_for_status()
        assert error.value.limit == "max_wall_clock"

    go(law())


def test_the_shorter_of_a_timeout_and_a_wall_clock_counts() -> None:
    async def law() -> None:
        model = Provider(gate=asyncio.Event())
        agent = spender(model, {"max_wall_clock": 30}, timeout=0.05)
        assert (await agent.run("Hi", **ALICE)).stop_reason == "timeout"

    go(law())


def test_check_then_act_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter that reserves nothing, and charges afterwards, is the mutant: the last call passes the cap."""
    hold = budgeting.BudgetMeter._hold

    def only_looked(self: Any, run: Any, attempt: Any) -> Any:
        from msgspec.structs import replace

        held = hold(self, run, attempt)
        none = (0,) * len(held.lines)
        return replace(held, base=tuple([1 for _ in none]), each=none)

    monkeypatch.setattr(budgeting.BudgetMeter, "_hold", only_looked)
    with pytest.raises(AssertionError):
        test_a_run_stops_before_the_call_that_could_pass_a_limit("max_tokens", "run", "memory", Path())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("limits", "settings", "sent"),
    [
        ({"per_user_max_output_tokens": 100}, None, 100),
        ({"per_user_max_output_tokens": 100}, ModelSettings(max_tokens=30), 30),
        ({"per_user_max_output_tokens": 9_000}, None, 4096),
        ({"max_output_tokens_per_call": 50, "max_tokens": 5_000}, None, 50),
        ({"max_requests": 5}, None, None),
        ({"max_input_tokens": 5_000}, ModelSettings(max_tokens=30), 30),
    ],
)
def test_the_model_is_asked_for_no_more_than_a_cap_affords(
    limits: dict[str, Any], settings: ModelSettings | None, sent: int | None, way: Way
) -> None:
    async def law() -> None:
        model = Provider(output=10)
        result = await go_by(way, spender(model, limits, settings=settings), **ALICE)
        assert result.status == "completed"
        assert [r.settings.max_tokens for r in model.seen] == [sent]

    go(law())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "limits", [{"max_output_tokens": 50}, {"max_cost_usd": 0.0006, "max_tokens": 4_000}, {"max_tokens": 130}]
)
def test_an_answer_that_a_cap_cut_off_stops_the_run_in_the_name_of_that_cap(
    limits: dict[str, Any], way: Way
) -> None:
    async def law() -> None:
        model = Provider(output=1_000, input=60)
        agent = spender(model, limits)
        result = await go_by(way, agent, run_id="r", **ALICE)
        assert result.stop_reason == f"budget:{next(iter(limits))}"
        assert result.finish_reason == "length"
        assert len(model.seen) == 1
        assert "word" in result.messages[-1].text
        (reached,) = of_kind(await journal(agent, "r"), "BudgetReached")
        assert reached.needed > reached.cap - reached.spent

    go(law())


def test_an_answer_that_the_developers_own_bound_cut_off_is_an_answer() -> None:
    result = go(
        spender(Provider(output=1_000), {"max_tokens": 50_000}, settings=ModelSettings(max_tokens=20)).run(
            "Hi", **ALICE
        )
    )
    assert (result.status, result.finish_reason) == ("completed", "length")


def test_a_cut_that_nobody_tells_of_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(self: Any, run: Any) -> None:
        pass

    monkeypatch.setattr(budgeting.BudgetMeter, "cut", silent)
    with pytest.raises(AssertionError):
        test_an_answer_that_a_cap_cut_off_stops_the_run_in_the_name_of_that_cap(
            {"max_output_tokens": 50}, "run"
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_part_of_a_runs_caps_is_kept_for_one_last_answer(way: Way) -> None:
    async def law() -> None:
        script: list[Any] = [lambda r: "That is all." if r.purpose == "wrap_up" else ToolCall("look")] * 60
        limits = {"max_tokens": 4_000, "max_output_tokens": 200, "wrap_up": 0.4}
        agent = spender(Provider(*script), limits, tools=[look])
        result = await go_by(way, agent, run_id="r", **ALICE)
        assert (result.status, result.stop_reason) == ("stopped", "budget:max_output_tokens")
        assert result.output == "That is all."
        events = await journal(agent, "r")
        assert [e.purpose for e in of_kind(events, "ModelRequested")].count("wrap_up") == 1
        assert result.charged.output_tokens <= 200
        assert summed(charges(events)) == result.charged
        assert valid(result.messages)

    go(law())


def test_calls_beyond_a_limit_of_calls_are_told_not_to_have_run_before_the_last_answer() -> None:
    async def law() -> None:
        script: list[Any] = [lambda r: "Enough." if r.purpose == "wrap_up" else [ToolCall("look")] * 2] * 9
        agent = spender(Provider(*script), {"max_tool_calls": 3, "wrap_up": 0.2}, tools=[look])
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert (result.stop_reason, result.output) == ("budget:max_tool_calls", "Enough.")
        assert told(result).startswith("Not run: max_tool_calls is 3")
        assert len(of_kind(await journal(agent, "r"), "ToolAttempted")) == 2

    go(law())


@pytest.mark.parametrize("window", ["hour", "day", "month", "total"])
def test_a_limit_of_a_window_says_when_it_opens_again(window: str) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = spender(Provider(), {"per_user_max_requests": 1, "window": window}, runtime=runtime)
        await agent.run("Hi", **ALICE)
        result = await agent.run("Hi", **ALICE)
        assert result.stop_reason == "budget:per_user_max_requests"
        longest = {"hour": 3_600, "day": 86_400, "month": 31 * 86_400}.get(window)
        if longest is None:
            assert result.retry_after is None
        else:
            assert 0 <= result.retry_after <= longest
        with pytest.raises(RunStopped):
            result.output  # noqa: B018

    go(law())


def test_a_repeated_call_of_a_stopped_run_gives_the_same_result_and_asks_nobody() -> None:
    async def law() -> None:
        model = Provider(*[ToolCall("look")] * 9)
        agent = spender(model, {"max_requests": 2}, tools=[look])
        first = await agent.run("Hi", run_id="r", **ALICE)
        again = await agent.run("Hi", run_id="r", **ALICE)
        assert (again.stop_reason, again.charged, len(model.seen)) == (first.stop_reason, first.charged, 2)

    go(law())


def test_a_cap_below_one_call_says_both_numbers_at_once() -> None:
    async def law() -> None:
        model = Provider()
        result = await spender(model, {"max_tokens": 30}).run("A question of some length.", **ALICE)
        assert (result.stop_reason, model.seen) == ("budget:max_tokens", [])
        with pytest.raises(
            BudgetExceeded, match=r"One call may take \d+ tokens, more than all of max_tokens \(30"
        ):
            result.raise_for_status()

    go(law())


def test_an_agent_without_a_budget_charges_nothing() -> None:
    from shipworthy import Agent

    result = go(Agent(model=ScriptedModel(["Hi."])).run("Hi", **ALICE))
    assert (result.charged, result.cost_usd) == (None, None)


def test_nothing_is_sent_when_no_reservation_could_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(self: Any, hold: Any) -> Any:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(Reserving, "_asked", refused)

    async def law() -> None:
        model = Provider(Answer(parts=()))
        with pytest.raises(RuntimeError):
            await spender(model, {"max_tokens": 5_000}).run("Hi", run_id="r", **ALICE)
        assert model.seen == []

    go(law())


def test_what_a_user_spent_is_in_the_ledger_to_the_token() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = spender(Provider(input=41, output=23), {"per_user_max_tokens": 50_000}, runtime=runtime)
        for _ in range(3):
            await agent.run("Hi", **ALICE)
        assert await of_user(runtime.store.ledger, "tokens") == (3 * 64, 0)

    go(law())
