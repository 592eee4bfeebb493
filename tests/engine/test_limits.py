"""What bounds a run: turns, time, and the caller's patience."""

from __future__ import annotations

import asyncio
import time

import pytest

from shipworthy import EchoModel, ToolCall, Tuning, tool
from shipworthy.domain.model import ModelRequest
from shipworthy.errors import ConfigurationError, RunStopped
from tests.engine.world import ALICE, LIMIT, Sink, agent, go, journal, kinds, told, too_long, valid


@tool(effect="read")
async def look() -> str:
    """Look."""
    return "seen"


@tool(effect="read")
async def sleep() -> str:
    """Sleep."""
    await asyncio.sleep(30)
    return "slept"


def test_max_turns_ends_with_one_answer_without_tools() -> None:
    asked: list[ModelRequest] = []

    def wrap_up(request: ModelRequest) -> str:
        asked.append(request)
        return "As far as I got."

    result = go(
        agent(ToolCall("look"), ToolCall("look"), wrap_up, tools=[look], max_turns=2).run("Look", **ALICE)
    )
    assert (result.status, result.stop_reason, result.output) == ("stopped", "max_turns", "As far as I got.")
    assert asked[0].purpose == "wrap_up"
    assert asked[0].settings.tool_choice == "none"


def test_calls_in_the_last_answer_are_not_executed() -> None:
    sink = Sink()
    calls = [ToolCall("charge", {"amount": 1})]
    result = go(agent(*[calls] * 3, tools=[sink.charge()], max_turns=2).run("Charge", **ALICE))
    assert (result.status, result.has_output, sink.effects) == ("stopped", False, [1, 1])
    assert valid(result.messages)
    with pytest.raises(RunStopped, match="max_turns"):
        result.output  # noqa: B018


def test_a_tool_that_takes_too_long_is_told_to_the_model() -> None:
    result = go(
        agent(ToolCall("sleep"), "Sorry.", tools=[sleep], tuning=Tuning(tool_timeout=0.02)).run("S", **ALICE)
    )
    assert result.output == "Sorry."
    assert "longer than 0.02 s" in told(result)


def test_the_deadline_reaches_the_tool_and_keeps_what_the_run_has() -> None:
    @tool(effect="read")
    async def stay() -> str:
        await too_long()
        return "never"

    result = go(agent(ToolCall("stay"), "Never.", tools=[stay], timeout=LIMIT).run("Stay", **ALICE))
    assert (result.status, result.stop_reason) == ("stopped", "timeout")
    assert valid(result.messages)


def test_the_deadline_reaches_the_model() -> None:
    closed: list[bool] = []

    class Slow(EchoModel):
        async def stream(self, request):  # type: ignore[no-untyped-def]
            try:
                await too_long()
                yield None
            finally:
                closed.append(True)

    from shipworthy import Agent

    result = go(Agent(model=Slow(), timeout=LIMIT).run("Hi", **ALICE))
    assert (result.status, result.stop_reason, closed) == ("stopped", "timeout", [True])


def test_a_tool_knows_the_deadline() -> None:
    from shipworthy import RunContext

    left: list[float | None] = []

    @tool(effect="read")
    async def ask_time(ctx: RunContext[None]) -> str:
        left.append(ctx.remaining())
        return "ok"

    go(agent(ToolCall("ask_time"), "Done.", tools=[ask_time], timeout=50).run("T", **ALICE))
    assert left[0] is not None
    assert 0 < left[0] <= 50


def test_cancelling_reaches_the_tool_and_is_recorded() -> None:
    async def law() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            started.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return "never"

        a = agent(ToolCall("wait"), "Never.", tools=[wait])
        task = asyncio.create_task(a.run("Wait", run_id="r", **ALICE))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled.is_set()
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, result.stop_reason) == ("cancelled", "cancelled")
        assert valid(result.messages)

    go(law())


def test_cancelling_reaches_every_one_of_parallel_tools() -> None:
    async def law() -> None:
        running = 0
        everyone = asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            nonlocal running
            running += 1
            if running == 3:
                everyone.set()
            try:
                await asyncio.sleep(30)
            finally:
                running -= 1
            return "never"

        a = agent([ToolCall("wait")] * 3, "Never.", tools=[wait])
        task = asyncio.create_task(a.run("Wait", **ALICE))
        await everyone.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running == 0

    go(law())


def test_a_once_call_that_is_cancelled_is_in_doubt_and_the_run_parks() -> None:
    async def law() -> None:
        started = asyncio.Event()

        @tool(effect="once")
        async def pay() -> str:
            started.set()
            await asyncio.sleep(30)
            return "paid"

        a = agent(ToolCall("pay"), "Never.", tools=[pay])
        task = asyncio.create_task(a.run("Pay", run_id="r", **ALICE))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        events = kinds(await journal(a, "r"))
        assert events[-3:] == ["ToolInDoubt", "StopRequested", "RunParked"]
        from shipworthy import Happened

        call = (await a.resume("r", tenant_id="acme")).pending[0]
        result = await a.resume("r", tenant_id="acme", settle={call.call_id: Happened("paid")})
        assert (result.status, told(result)) == ("cancelled", "paid")

    go(law())


def test_a_body_that_swallows_its_cancellation_and_returns_has_happened() -> None:
    async def law() -> None:
        @tool(effect="once", timeout=0.02)
        async def pay() -> str:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return "paid all the same"
            return "never"

        result = await agent(ToolCall("pay"), "Done.", tools=[pay]).run("Pay", **ALICE)
        assert (result.status, told(result)) == ("completed", "paid all the same")

    go(law())


def test_a_body_that_swallows_the_runs_cancellation_does_not_keep_the_run_alive() -> None:
    async def law() -> None:
        started = asyncio.Event()

        @tool(effect="once")
        async def pay() -> str:
            started.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return "paid all the same"
            return "never"

        a = agent(ToolCall("pay"), "Never.", tools=[pay])
        task = asyncio.create_task(a.run("Pay", run_id="r", **ALICE))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, told(result)) == ("cancelled", "paid all the same")

    go(law())


def test_a_run_in_a_cancelled_callers_clean_up_is_not_cancelled_itself() -> None:
    async def law() -> None:
        async def caller() -> str:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return (await agent(ToolCall("look"), "Cleaned up.", tools=[look]).run("Go", **ALICE)).output
            return "never"

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "Cleaned up."

    go(law())


def test_a_thread_that_outlives_its_time_is_reported() -> None:
    release = False

    @tool(effect="read", timeout=0.03)
    def stubborn() -> str:
        while not release:
            time.sleep(0.01)
        return "late"

    async def law() -> None:
        nonlocal release
        a = agent(ToolCall("stubborn"), "Sorry.", tools=[stubborn])
        try:
            assert (await a.run("Go", run_id="r", **ALICE)).output == "Sorry."
        finally:
            release = True
        (returned,) = [e for e in await journal(a, "r") if type(e).__name__ == "ToolReturned"]
        assert returned.thread_running  # type: ignore[union-attr]

    go(law())


@pytest.mark.parametrize(
    "bad", [{"timeout": 0}, {"timeout": -1}, {"max_turns": 0}, {"tuning": Tuning(max_result=0)}]
)
def test_bounds_that_bound_nothing_are_refused_when_the_agent_is_built(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        agent("Hi", **bad)
