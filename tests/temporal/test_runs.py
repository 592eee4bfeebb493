"""Runs under Temporal, as callers see them: begun, followed, joined, cancelled, settled and resumed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shipworthy import DidNotHappen, Happened, Scope
from shipworthy.domain.events import Event, ModelFailed, RunStarted, ToolReturned
from shipworthy.errors import InvalidDeps, ModelUnavailable, SettlementRefused
from tests.temporal.world import SECRET, TENANT, Bank, activities, call, until, with_loop

TURNS = ([call("look", n=1), call("look", n=2)], call("pay", amount=7), f"{SECRET}, done")


@pytest.fixture
def bank(tmp_path: Path, temporal: str) -> Bank:
    return Bank(tmp_path, temporal)


@with_loop
async def test_each_step_is_an_activity_of_its_own_and_says_nothing_of_what_was_said(bank: Bank) -> None:
    caller = bank.agent(*TURNS)
    async with bank.worker(*TURNS):
        result = await caller.run(f"The word is {SECRET}.", **TENANT, user_id="alice", run_id="r")
        (started, *_) = await caller.runtime.store.read(Scope("acme"), "r")
    await caller.close()
    assert (result.status, result.output) == ("completed", f"{SECRET}, done")
    assert bank.happened == [7]
    histories = await bank.histories("r")
    steps = ["AskModel", "Judge", "Execute", "AskModel", "Judge", "Execute", "AskModel", "Deliver"]
    assert activities(histories) == ["take", *steps]
    written = [event.SerializeToString() for event in histories[0].events]
    assert SECRET.encode() not in b"".join(written)
    assert isinstance(started, RunStarted)
    assert started.digest.encode() not in b"".join(written)  # it lets a prompt be guessed
    assert max(map(len, written)) < 2_000


@with_loop
async def test_the_same_call_made_again_or_at_the_same_time_is_one_run(bank: Bank) -> None:
    first, second = bank.agent(*TURNS), bank.agent(*TURNS)
    async with bank.worker(*TURNS):
        calls = [agent.run("Pay.", **TENANT, run_id="r") for agent in (first, second, first)]
        results = await asyncio.gather(*calls)
        again = await second.run("Pay.", **TENANT, run_id="r")
    assert {r.output for r in (*results, again)} == {f"{SECRET}, done"}
    assert bank.happened == [7]
    assert len(await bank.histories("r")) == 1
    await first.close()
    await second.close()


@pytest.mark.parametrize("resumes", [False, True])
@with_loop
async def test_a_second_caller_that_is_cancelled_stops_nothing(bank: Bank, resumes: bool) -> None:
    turns = (call("wait"), "over")
    first, second = bank.agent(*turns), bank.agent(*turns)
    async with bank.worker(*turns):
        running = asyncio.create_task(first.run("Wait.", **TENANT, run_id="r"))
        await until(bank.begun.is_set)
        joins = second.resume("r", **TENANT) if resumes else second.run("Wait.", **TENANT, run_id="r")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(joins, 1.0)
        bank.gate.set()
        assert (await running).output == "over"
    assert "interrupt" not in activities(await bank.histories("r"))
    await first.close()
    await second.close()


@with_loop
async def test_of_many_who_settle_one_goes_on_and_the_others_are_told(bank: Bank) -> None:
    """Those who come when it has ended are told that, so that it waits until all of them are there."""
    turns = (call("pay", amount=7), call("wait"), "over")
    bank.fails = ValueError("no answer")
    callers = [bank.agent(*turns) for _ in range(3)]
    async with bank.worker(*turns):
        (pending,) = (await callers[0].run("Pay.", **TENANT, run_id="r")).pending
        settle = {pending.call_id: Happened("it did")}
        resumed = [asyncio.create_task(c.resume("r", **TENANT, settle=settle)) for c in callers]
        await until(lambda: sum([task.done() for task in resumed]) == 2)
        bank.gate.set()
        results = await asyncio.gather(*resumed, return_exceptions=True)
    assert sorted([type(result).__name__ for result in results]) == ["RunBusy", "RunBusy", "RunResult"]
    for caller in callers:
        await caller.close()


@with_loop
async def test_a_stream_follows_the_journal_of_a_run_that_others_drive(bank: Bank) -> None:
    caller, other = bank.agent(*TURNS), bank.agent(*TURNS)
    async with (
        bank.worker(*TURNS),
        caller.stream("Pay.", **TENANT, run_id="r") as stream,
        other.stream(run_id="r", **TENANT, after=3) as followed,
    ):
        seen, rest = [[e.seq async for e in each if isinstance(e, Event)] for each in (stream, followed)]
    assert seen == list(range(1, len(seen) + 1))
    assert rest == seen[3:]
    assert stream.result.output == followed.result.output == f"{SECRET}, done"
    await caller.close()
    await other.close()


@with_loop
async def test_a_run_in_doubt_waits_and_is_settled_by_any_process(bank: Bank) -> None:
    turns = (call("pay", amount=7), "over")
    bank.fails = ValueError("no answer")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        result = await caller.run("Pay.", **TENANT, run_id="r")
        assert result.status == "paused"
        (pending,) = result.pending
        other = bank.agent(*turns)
        with pytest.raises(SettlementRefused, match="not in doubt"):
            await other.resume("r", **TENANT, settle={"call_x": DidNotHappen()})
        with pytest.raises(SettlementRefused, match="reference"):
            await other.resume("r", **TENANT, settle={pending.call_id: Happened("x" * 300_000)})
        assert (await caller.run("Pay.", **TENANT, run_id="r")).status == "paused"
        result = await other.resume("r", **TENANT, settle={pending.call_id: Happened("it did")})
        assert (result.status, result.output) == ("completed", "over")
        with pytest.raises(SettlementRefused, match="has ended"):
            await caller.resume("r", **TENANT, settle={pending.call_id: DidNotHappen()})
    events = await other.runtime.store.read(Scope("acme"), "r")
    assert not [e for e in events if isinstance(e, ToolReturned)]
    assert bank.happened == []
    assert activities(await bank.histories("r"))[-3:] == ["take", "AskModel", "Deliver"]
    await caller.close()
    await other.close()


@with_loop
async def test_a_settlement_that_it_did_not_happen_makes_the_call(bank: Bank) -> None:
    turns = (call("pay", amount=7), "over")
    bank.fails = ValueError("no answer")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        result = await caller.run("Pay.", **TENANT, run_id="r")
        bank.fails = None
        settle = {result.pending[0].call_id: DidNotHappen()}
        result = await caller.resume(result, settle=settle)
    assert result.output == "over"
    assert bank.happened == [7]
    await caller.close()


@pytest.mark.parametrize("late", [False, True])
@with_loop
async def test_a_cancellation_reaches_the_run(bank: Bank, late: bool) -> None:
    turns = (call("wait"), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        async with caller.stream("Wait.", **TENANT, run_id="r") as stream:
            if late:
                await until(bank.begun.is_set)
        assert stream.result.status == "cancelled"
        result = await caller.resume("r", **TENANT)
    assert (result.status, result.stop_reason) == ("cancelled", "cancelled")
    assert activities(await bank.histories("r"))[-1] == "End"
    await caller.close()


@with_loop
async def test_a_cancelled_once_call_is_in_doubt_and_asks_the_world(bank: Bank) -> None:
    turns = (call("wire", amount=7), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        async with caller.stream("Wire.", **TENANT, run_id="r") as stream:
            await until(bank.begun.is_set)
        assert stream.result.status == "paused"
        result = await caller.resume("r", **TENANT)
    assert (result.status, result.stop_reason) == ("cancelled", "cancelled")
    assert bank.happened == []
    steps = activities(await bank.histories("r"))
    assert [s for s in steps if s != "interrupt"] == [
        *("take", "AskModel", "Judge", "Execute", "Park"),
        *("take", "Settle", "End"),
    ]
    await caller.close()


@with_loop
async def test_a_deadline_reaches_the_run(bank: Bank) -> None:
    turns = (call("wait"), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        result = await caller.run("Wait.", **TENANT, run_id="r", timeout=3.0)
    assert (result.status, result.stop_reason) == ("stopped", "timeout")
    assert activities(await bank.histories("r"))[-2:] == ["Execute", "End"]
    await caller.close()


@with_loop
async def test_a_retry_waits_in_the_workflow(bank: Bank) -> None:
    turns = (ModelUnavailable("down", retry_after=0.5), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        result = await caller.run("Hello.", **TENANT, run_id="r")
    assert result.output == "over"
    (history,) = await bank.histories("r")
    timers = [e for e in history.events if e.HasField("timer_fired_event_attributes")]
    assert len(timers) == 1
    await caller.close()


@with_loop
async def test_a_cancellation_ends_the_wait_for_a_retry(bank: Bank) -> None:
    caller = bank.agent(ModelUnavailable("down", retry_after=30.0), "over")
    async with bank.worker(ModelUnavailable("down", retry_after=30.0), "over"):
        async with caller.stream("Hello.", **TENANT, run_id="r") as stream:
            async for item in stream:
                if isinstance(item, ModelFailed):
                    break
        assert (await caller.resume("r", **TENANT)).status == "cancelled"
    assert activities(await bank.histories("r")) == ["take", "AskModel", "interrupt", "Stop", "End"]
    await caller.close()


@with_loop
async def test_dependencies_of_one_call_are_refused_and_a_factory_s_are_made_by_the_worker(
    bank: Bank,
) -> None:
    caller = bank.agent(*TURNS, deps=lambda scope: scope.tenant)
    async with bank.worker(*TURNS, deps=lambda scope: scope.tenant):
        with pytest.raises(InvalidDeps, match="factory"):
            await caller.run("Pay.", **TENANT, deps="mine")
        assert (await caller.run("Pay.", **TENANT, run_id="r")).status == "completed"
        assert (await caller.run("Pay.", **TENANT, run_id="r")).status == "completed"
        with pytest.raises(InvalidDeps, match="factory"):
            await caller.resume("r", **TENANT, deps="mine")
    await caller.close()


@with_loop
async def test_what_code_raises_pauses_the_run_and_another_release_goes_on(bank: Bank) -> None:
    caller = bank.agent("fine")

    async def broken(value: str) -> str:
        raise KeyError("oh")

    async with bank.worker("fine", output_validators=[broken]):
        result = await caller.run("Hello.", **TENANT, run_id="r")
        assert (result.status, result.error) == ("paused", "KeyError: 'oh'")
    async with bank.worker("fine"):
        result = await caller.resume("r", **TENANT)
    assert result.output == "fine"
    await caller.close()
