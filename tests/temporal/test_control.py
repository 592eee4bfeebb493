"""People in control of runs under Temporal: what is asked, answered and resumed, by whom, and what Temporal is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from temporalio.client import Client

from shipworthy import (
    Agent,
    Approve,
    Happened,
    Inbox,
    Scope,
    ScriptedModel,
    SqliteRuntime,
    StandardPermissions,
    ask_human,
    tool,
)
from shipworthy.adapters.temporal.payloads import At
from shipworthy.app.holding import Holder
from shipworthy.domain.events import HumanAnswered, RunParked, ToolAttempted, ToolReturned
from shipworthy.domain.results import RunResult
from shipworthy.errors import CheckpointRefused, RunBusy, RunConflict
from tests.temporal.world import SECRET, TENANT, Bank, activities, call, until, with_loop

PAYS = (call("pay", amount=7), f"{SECRET}, done")
ASKS = (call("quiz"), "over")
ACME = Scope("acme")


@pytest.fixture
def bank(tmp_path: Path, temporal: str) -> Bank:
    return Bank(tmp_path, temporal)


def control(**of: Any) -> dict[str, Any]:
    """Options of an agent whose `once` calls need people."""
    return {"permissions": StandardPermissions(), "approval_handler": Inbox(**of)}


def quiz(answers: list[Any]) -> Any:
    """A tool that asks a person, who has half a second."""

    @tool(effect="read")
    async def quiz() -> str:
        answers.append(
            await asyncio.to_thread(str, ask_human(SECRET, schema=str, timeout=0.5, default="blue"))
        )
        return "asked"

    return quiz


def nesting(bank: Bank, *turns: Any) -> list[Any]:
    """The tools of an agent that has another one do the work."""
    clerk: Agent[Any, str] = Agent("", name="clerk", model=ScriptedModel(turns), tools=bank.tools())
    return [clerk.as_tool("clerk", "Works.")]


GIVES = (call("clerk", input="Pay."), "over")


async def ended(bank: Bank, agent: Agent[Any, str], run_id: str = "r") -> RunResult[str]:
    """The run, when somebody has driven it to its end."""
    async with asyncio.timeout(30.0):
        while (await agent.runtime.store.find(ACME, run_id)).status in ("running", "paused"):
            await agent.runtime.store.news(ACME, run_id, 0.05)
    return await agent.resume(run_id, **TENANT)


async def approved(bank: Bank, by: str = "maria") -> None:
    """Say yes to what waits, in a process that has no agent and knows nothing of Temporal."""
    runtime = SqliteRuntime(bank.path)
    inbox = Inbox(runtime=runtime)
    (request,) = await inbox.requests("acme")
    await inbox.approve(request, Approve(by=by))
    await runtime.close()


async def told(bank: Bank, run_id: str = "r") -> bytes:
    """All that Temporal has been told of a run."""
    histories = await bank.histories(run_id)
    return b"".join([event.SerializeToString() for history in histories for event in history.events])


async def closed(bank: Bank) -> None:
    """Return when no workflow of the run is open."""

    async with asyncio.timeout(30.0):
        while True:
            lasts = [history.events[-1] for history in await bank.histories("r")]
            if all([last.HasField("workflow_execution_completed_event_attributes") for last in lasts]):
                return
            await asyncio.sleep(0.05)


async def events(agent: Agent[Any, str], kind: type[Any], run_id: str = "r") -> list[Any]:
    return [e for e in await agent.runtime.store.read(ACME, run_id) if isinstance(e, kind)]


@with_loop
async def test_what_an_inbox_took_elsewhere_has_a_worker_go_on_and_temporal_learns_nothing_of_it(
    bank: Bank,
) -> None:
    asked: list[Any] = []
    caller = bank.agent(*PAYS, **control())
    async with bank.worker(*PAYS, **control(notify=asked.extend)) as worker:
        paused = await caller.run("Pay.", **TENANT, user_id="alice", run_id="r")
        assert (paused.status, [c.tool for c in paused.pending], bank.happened) == ("paused", ["pay"], [])
        await until(lambda: asked)  # the inbox of whoever drives the run is told
        await approved(bank)
        result = await ended(bank, worker)
    assert (result.output, bank.happened) == (f"{SECRET}, done", [7])
    assert [request.tool for request in asked] == ["pay"]
    assert len(await events(caller, ToolAttempted)) == 1
    said = await told(bank)
    assert not [word for word in (SECRET, "maria", "alice", "standard") if word.encode() in said]
    assert "Park" in activities(await bank.histories("r"))
    await caller.close()


@with_loop
async def test_an_inbox_that_is_not_told_waits_on(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(run: Any) -> None:
        """Tells nobody."""

    monkeypatch.setattr("shipworthy.engine.telling.tell", nothing)
    asked: list[Any] = []
    caller = bank.agent(*PAYS, **control())
    async with bank.worker(*PAYS, **control(notify=asked.extend)):
        assert (await caller.run("Pay.", **TENANT, run_id="r")).status == "paused"
    assert asked == []  # so that the test before this one would fail
    await caller.close()


@with_loop
async def test_a_worker_goes_on_with_a_run_whose_time_to_be_answered_is_over(bank: Bank) -> None:
    answers: list[Any] = []
    caller = bank.agent(*ASKS, tools=[quiz(answers)])
    async with bank.worker(*ASKS, tools=[quiz(answers)]) as worker:
        paused = await caller.run("Ask.", **TENANT, run_id="r")
        assert (paused.status, [c.kind for c in paused.pending]) == ("paused", ["answer"])
        result = await ended(bank, worker)
    assert (result.output, answers) == ("over", ["blue"])
    assert [e.by for e in await events(caller, HumanAnswered)] == [None]
    assert SECRET.encode() not in await told(bank)
    await caller.close()


def patient() -> dict[str, Any]:
    """The same, of an agent that does not look for paused runs that are due."""
    return control() | {"recovers": 3600.0}


@with_loop
async def test_of_many_who_bring_one_checkpoint_one_goes_on(bank: Bank) -> None:
    callers = [bank.agent(*PAYS, **patient()) for _ in range(3)]
    async with bank.worker(*PAYS, **patient()), bank.worker(*PAYS, **patient()):
        paused = await callers[0].run("Pay.", **TENANT, run_id="r")
        await approved(bank)
        every = [caller.resume(paused.checkpoint or {}) for caller in callers for _ in range(17)]
        results = await asyncio.gather(*every, return_exceptions=True)
        with pytest.raises(CheckpointRefused):
            await callers[1].resume(paused.checkpoint or {})
        await closed(bank)  # none is left waiting
    went_on = [result for result in results if isinstance(result, RunResult)]
    assert [result.output for result in went_on] == [f"{SECRET}, done"]
    assert {type(result) for result in results if not isinstance(result, RunResult)} == {CheckpointRefused}
    assert bank.happened == [7]
    assert len(await events(callers[0], RunParked)) == 1
    for caller in callers:
        await caller.close()


async def brought(caller: Agent[Any, str], pause: int) -> None:
    """Have the run go on from this pause, as a caller would that saw it there."""
    driver: Any = caller.runtime.driver
    given = driver._given(await caller._in_use().load(ACME, "r"), rests=True)
    while True:
        with contextlib.suppress(RunBusy):  # its workflow is about to end
            return await driver._workflows.resume(given, {}, pause)
        await asyncio.sleep(0.02)


async def brought_late(bank: Bank) -> None:
    """Checkpoints of a pause that is over, from callers who have not seen that."""
    caller = bank.agent(*PAYS, **patient())
    async with bank.worker(*PAYS, **patient()):
        paused = await caller.run("Pay.", **TENANT, run_id="r")
        pause = (paused.checkpoint or {})["seq"]
        assert (await caller.resume("r", **TENANT)).status == "paused"  # at another event
        with pytest.raises(CheckpointRefused):
            await brought(caller, pause)
        assert (await caller.resume("r", **TENANT, answer=Approve(by="maria"))).status == "completed"
        with pytest.raises(CheckpointRefused):
            await brought(caller, pause)
    assert bank.happened == [7]
    await caller.close()


@with_loop
async def test_a_worker_refuses_a_pause_that_is_over(bank: Bank) -> None:
    await brought_late(bank)


@with_loop
async def test_a_worker_that_takes_any_pause_is_found_out(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Holder.take

    async def of_any_pause(self: Holder, at: At, attempt: int) -> Any:
        return await take(self, replace(at, pause=None), attempt)

    monkeypatch.setattr(Holder, "take", of_any_pause)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await brought_late(bank)


@with_loop
async def test_a_nested_call_is_approved_and_settled_by_its_address(bank: Bank) -> None:
    bank.fails = ValueError("no answer")

    def tools() -> Sequence[Any]:
        return nesting(bank, call("pay", amount=7), f"{SECRET}, paid")

    caller = bank.agent(*GIVES, tools=tools(), **control())
    async with bank.worker(*GIVES, tools=tools(), **control()):
        asked = await caller.run("Pay.", **TENANT, run_id="r")
        assert (asked.status, [c.kind for c in asked.pending]) == ("paused", ["approval"])
        address = asked.pending[0].address
        assert (address.count("/"), asked.pending[0].agents) == (1, ("bank", "clerk"))
        with pytest.raises(RunConflict, match="nested"):
            await caller.resume(asked.pending[0].run_id, **TENANT)
        doubt = await caller.resume(asked, answer=Approve(by="maria"))
        assert [(c.kind, c.address) for c in doubt.pending] == [("in_doubt", address)]
        result = await caller.resume(doubt, settle={address: Happened("it did")})
    assert (result.output, bank.happened) == ("over", [])
    returned = await events(caller, ToolReturned)
    assert [e.content[0].text for e in returned] == [f"{SECRET}, paid"]
    assert not [word for word in (SECRET, "maria") if word.encode() in await told(bank)]
    assert await bank.histories(asked.pending[0].run_id) == []  # it has no workflow of its own
    await caller.close()


@with_loop
async def test_a_cancellation_takes_the_nested_run_along(bank: Bank) -> None:
    caller = bank.agent(*GIVES, tools=nesting(bank, call("wait"), "over"))
    async with bank.worker(*GIVES, tools=nesting(bank, call("wait"), "over")):
        async with caller.stream("Wait.", **TENANT, run_id="r") as stream:
            await until(bank.begun.is_set)
            await asyncio.sleep(1.5 * bank.options["patience"])  # its worker is heard all the while
        assert stream.result.status == "cancelled"
        runs = await caller.runtime.store.find(ACME, "r")
        (attempted,) = await events(caller, ToolAttempted)
        nested = await caller.runtime.store.find(ACME, f"r/{attempted.call_id}")
    assert (runs.status, nested.status) == ("cancelled", "cancelled")
    assert activities(await bank.histories("r")).count("take") == 1
    await caller.close()


@with_loop
async def test_a_paused_run_has_no_open_workflow_and_can_be_cancelled_without_one(bank: Bank) -> None:
    caller = bank.agent(*PAYS, **control())
    async with bank.worker(*PAYS, **control()):
        await caller.run("Pay.", **TENANT, run_id="r")
        await closed(bank)
        cancelled = await caller.cancel("r", **TENANT)
        assert (cancelled.status, bank.happened) == ("cancelled", [])
        assert (await caller.resume("r", **TENANT)).status == "cancelled"
        await closed(bank)
    await caller.close()


@with_loop
async def test_a_run_that_is_cancelled_while_it_is_being_parked_is_stopped(bank: Bank) -> None:
    telling = asyncio.Event()

    async def notify(requests: Any) -> None:
        telling.set()
        await asyncio.sleep(3600.0)

    caller = bank.agent(*PAYS, **control())
    async with bank.worker(*PAYS, **control(notify=notify)):
        running = asyncio.create_task(caller.run("Pay.", **TENANT, run_id="r"))
        await telling.wait()
        client = await Client.connect(bank.address)
        await client.get_workflow_handle(bank.workflow("r")).cancel()
        await asyncio.wait([running])
        result = await ended(bank, caller)
    assert (result.status, result.stop_reason) == ("cancelled", "cancelled")
    await caller.close()
