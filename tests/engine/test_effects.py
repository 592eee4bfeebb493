"""What repeating a tool means, and what happens when nobody knows whether it happened."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from shipworthy import (
    DidNotHappen,
    Happened,
    ModelRetry,
    NotDone,
    RunContext,
    ToolCall,
    Unknown,
    is_paused,
    tool,
)
from shipworthy.errors import MissingTool, RunPaused, SettlementRefused
from tests.engine.world import ALICE, Sink, agent, go, journal, kinds, told, valid


def failing(error: Exception, **options: Any) -> Any:
    @tool(effect="once", name="pay", **options)
    async def pay(amount: int) -> str:
        raise error

    return pay


PAY = ToolCall("pay", {"amount": 50})


@pytest.mark.parametrize(
    "error", [ValueError("network"), TimeoutError(), ModelRetry("again"), asyncio.CancelledError()]
)
def test_a_once_body_that_raises_is_in_doubt(error: Any) -> None:
    result = go(agent(PAY, "Never.", tools=[failing(error)]).run("Pay", **ALICE))
    assert is_paused(result)
    assert [(c.tool, c.arguments) for c in result.pending] == [("pay", '{"amount":50}')]
    with pytest.raises(RunPaused, match=r"settle="):
        result.output  # noqa: B018


def test_not_done_is_the_one_error_that_a_once_body_may_tell() -> None:
    result = go(agent(PAY, "Too bad.", tools=[failing(NotDone("card declined"))]).run("Pay", **ALICE))
    assert (result.status, told(result)) == ("completed", "Not done: card declined")


def test_a_once_body_that_takes_too_long_is_in_doubt() -> None:
    @tool(effect="once", timeout=0.02)
    async def pay(amount: int) -> str:
        await asyncio.sleep(30)
        return "never"

    result = go(agent(PAY, "Never.", tools=[pay]).run("Pay", **ALICE))
    assert "longer than 0.02 s" in result.pending[0].reason


def test_a_person_settles_that_it_happened() -> None:
    async def law() -> None:
        a = agent(PAY, "Paid.", tools=[failing(ValueError("?"))])
        paused = await a.run("Pay", **ALICE)
        result = await a.resume(paused, settle={paused.pending[0].call_id: Happened("receipt 7")})
        assert (result.output, told(result)) == ("Paid.", "receipt 7")
        assert valid(result.messages)

    go(law())


def test_a_person_settles_that_it_did_not_and_the_call_is_made() -> None:
    attempts: list[tuple[str, int]] = []

    @tool(effect="once")
    async def pay(ctx: RunContext[None], amount: int) -> str:
        attempts.append((ctx.idempotency_key, amount))
        if len(attempts) == 1:
            raise ConnectionError("lost")
        return "paid"

    async def law() -> None:
        a = agent(PAY, "Paid.", tools=[pay])
        paused = await a.run("Pay", **ALICE)
        result = await a.resume(paused, settle={paused.pending[0].call_id: DidNotHappen()})
        assert (result.output, told(result)) == ("Paid.", "paid")

    go(law())
    assert len(attempts) == 2
    assert len(set(attempts)) == 1


@pytest.mark.parametrize(
    ("verdict", "status", "effects"),
    [(Happened("receipt"), "completed", 1), (DidNotHappen(), "completed", 2), (Unknown(), "paused", 1)],
)
def test_verify_asks_the_world(verdict: Any, status: str, effects: int) -> None:
    bodies: list[int] = []

    async def verify(ctx: RunContext[None], args: Any) -> Any:
        assert args.amount == 50
        return verdict

    @tool(effect="once", verify=verify)
    async def pay(amount: int) -> str:
        bodies.append(amount)
        if len(bodies) == 1:
            raise ConnectionError("lost")
        return "paid"

    result = go(agent(PAY, "Done.", tools=[pay]).run("Pay", **ALICE))
    assert (result.status, len(bodies)) == (status, effects)


def test_a_verify_that_raises_settles_nothing() -> None:
    async def verify(ctx: RunContext[None], args: Any) -> Any:
        raise ValueError("the bank is down")

    result = go(agent(PAY, "Never.", tools=[failing(ValueError("?"), verify=verify)]).run("Pay", **ALICE))
    assert is_paused(result)


@pytest.mark.parametrize("settle", [{"call_x": Happened(1)}, {"PENDING": Unknown()}, {"PENDING": "yes"}])
def test_a_settlement_that_settles_nothing_is_refused_and_changes_nothing(settle: dict[str, Any]) -> None:
    async def law() -> None:
        a = agent(PAY, "Never.", tools=[failing(ValueError("?"))])
        paused = await a.run("Pay", run_id="r", **ALICE)
        call_id = paused.pending[0].call_id
        before = len(await journal(a, "r"))
        with pytest.raises(SettlementRefused):
            await a.resume(paused, settle={call_id if k == "PENDING" else k: v for k, v in settle.items()})
        assert len(await journal(a, "r")) == before
        assert is_paused(await a.resume(paused))

    go(law())


def test_a_settlement_is_used_once() -> None:
    async def law() -> None:
        sink = Sink()
        a = agent(
            PAY, ToolCall("charge", {"amount": 1}), "Paid.", tools=[failing(ValueError("?")), sink.charge()]
        )
        paused = await a.run("Pay", **ALICE)
        settle = {paused.pending[0].call_id: Happened("ok")}
        assert (await a.resume(paused, settle=settle)).status == "completed"
        with pytest.raises(SettlementRefused):
            await a.resume(paused, settle=settle)
        assert sink.effects == [1]

    go(law())


def test_the_calls_after_one_in_doubt_wait_for_it() -> None:
    async def law() -> None:
        sink = Sink()
        calls = [PAY, ToolCall("charge", {"amount": 2})]
        a = agent(calls, "Done.", tools=[failing(ValueError("?")), sink.charge()])
        paused = await a.run("Pay", **ALICE)
        assert sink.effects == []
        result = await a.resume(paused, settle={paused.pending[0].call_id: Happened("ok")})
        assert (result.status, sink.effects) == ("completed", [2])
        assert valid(result.messages)

    go(law())


def test_a_thread_in_doubt_is_not_settled_as_not_happened_while_it_runs() -> None:
    release = threading.Event()

    @tool(effect="once", timeout=0.02)
    def pay(amount: int) -> str:
        release.wait(10)
        return "paid after all"

    async def law() -> None:
        a = agent(PAY, "Done.", tools=[pay])
        paused = await a.run("Pay", **ALICE)
        with pytest.raises(SettlementRefused, match="thread"):
            await a.resume(paused, settle={paused.pending[0].call_id: DidNotHappen()})
        release.set()

    try:
        go(law())
    finally:
        release.set()


def test_the_key_of_a_call_is_its_own() -> None:
    keys: list[str] = []

    @tool(effect="idempotent")
    async def put(ctx: RunContext[None], n: int) -> str:
        keys.append(ctx.idempotency_key)
        return "put"

    a = agent(
        [ToolCall("put", {"n": 1}), ToolCall("put", {"n": 1})],
        ToolCall("put", {"n": 1}),
        "Done.",
        tools=[put],
    )
    go(a.run("Put", run_id="r", **ALICE))
    assert len(set(keys)) == 3


def test_a_once_result_that_cannot_be_shown_has_happened_all_the_same() -> None:
    @tool(effect="once")
    async def pay(amount: int) -> object:
        return object()

    result = go(agent(PAY, "Done.", tools=[pay]).run("Pay", **ALICE))
    assert result.status == "completed"
    assert "finished" in told(result)


def test_a_tool_that_the_code_no_longer_has_parks_the_run_with_a_clear_error() -> None:
    async def law() -> None:
        sink = Sink()
        old = agent(PAY, "Done.", tools=[failing(ValueError("?"))])
        paused = await old.run("Pay", run_id="r", **ALICE)
        settle = {paused.pending[0].call_id: DidNotHappen()}
        new = agent(PAY, "Done.", tools=[sink.charge()], runtime=old.runtime)
        with pytest.raises(MissingTool, match="'pay'"):
            await new.resume(paused, settle=settle)
        assert kinds(await journal(new, "r"))[-1] == "RunParked"

        @tool(effect="once")
        async def pay(amount: int) -> str:
            return "paid at last"

        mended = agent(PAY, "Done.", tools=[pay], runtime=old.runtime)
        result = await mended.resume("r", tenant_id="acme")
        assert (result.status, told(result)) == ("completed", "paid at last")

    go(law())


def test_resuming_joins_a_sitting_that_is_under_way() -> None:
    async def law() -> None:
        may_end = asyncio.Event()

        @tool(effect="once")
        async def pay(amount: int) -> str:
            await may_end.wait()
            return "paid"

        a = agent(PAY, "Done.", tools=[pay])
        running = asyncio.create_task(a.run("Pay", run_id="r", **ALICE))
        await asyncio.sleep(0.01)
        joined = asyncio.create_task(a.resume("r", tenant_id="acme"))
        await asyncio.sleep(0.01)
        may_end.set()
        assert (await joined).output == (await running).output == "Done."

    go(law())


def test_a_changed_configuration_is_reported() -> None:
    async def law() -> None:
        old = agent(PAY, "Done.", tools=[failing(ValueError("?"))])
        paused = await old.run("Pay", run_id="r", **ALICE)
        new = agent(PAY, "Done.", tools=[failing(ValueError("?")), Sink().charge()], runtime=old.runtime)
        result = await new.resume(paused, settle={paused.pending[0].call_id: Happened("ok")})
        assert result.changed == ("tools",)

    go(law())


def test_a_later_different_request_never_gets_an_old_result() -> None:
    async def law() -> None:
        sink = Sink()
        a = agent(
            ToolCall("charge", {"amount": 1}),
            ToolCall("charge", {"amount": 1}),
            "Done.",
            tools=[sink.charge()],
        )
        for i in range(2):
            await a.run("Charge", run_id=f"r{i}", session_id="s", **ALICE)
        assert sink.effects == [1, 1, 1, 1]

    go(law())


def test_a_defect_in_the_developers_code_parks_the_run() -> None:
    async def law() -> None:
        broken = True

        def check(value: str) -> str:
            if broken:
                raise KeyError("a bug")
            return value

        a = agent("Hello.", output_validators=[check])
        with pytest.raises(KeyError):
            await a.run("Hi", run_id="r", **ALICE)
        broken = False
        assert (await a.resume("r", tenant_id="acme")).output == "Hello."

    go(law())
