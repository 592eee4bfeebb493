"""The workflow: replayed in Temporal's sandbox, continued as new, left to newer releases, asleep for a month."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import NondeterminismError

from shipworthy import Happened
from shipworthy.adapters.temporal.client import Converter
from shipworthy.adapters.temporal.payloads import FORMAT, STEPS, Given
from shipworthy.adapters.temporal.workflow import PASSED_THROUGH, RunWorkflow
from shipworthy.errors import DriverError
from shipworthy.rules import decide
from shipworthy.rules.decide import Execute, Judge
from shipworthy.rules.state import RunState
from tests.servers.temporal import OwnTemporal, SkippingTemporal, fresh_name
from tests.temporal.world import TENANT, Bank, activities, call, until, with_loop

decide_now = decide.decide
GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def bank(tmp_path: Path, temporal: str) -> Bank:
    return Bank(tmp_path, temporal)


def replayer() -> Replayer:
    """As a worker would run the workflow: in the sandbox."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
    return Replayer(
        workflows=[RunWorkflow],
        data_converter=DataConverter(payload_converter_class=Converter),
        workflow_runner=SandboxedWorkflowRunner(restrictions=restrictions),
    )


def another_order(state: RunState) -> decide.Step:
    """Rules that judge no call before it runs."""
    step = decide_now(state)
    return Execute(step.calls) if isinstance(step, Judge) else step


def golden() -> list[WorkflowHistory]:
    """Histories that a real server recorded (`python -m tests.temporal.make`), of every release."""
    return [
        WorkflowHistory.from_json(path.stem, json.loads(path.read_text()))
        for path in sorted(GOLDEN.glob("*.json"))
    ]


@with_loop
async def test_the_golden_histories_replay() -> None:
    histories = golden()
    assert {step for history in histories for step in activities([history])} >= {*STEPS, "take"}
    for history in histories:
        await replayer().replay_workflow(history)


@with_loop
async def test_a_workflow_that_takes_its_steps_in_another_order_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decide, "decide", another_order)
    refused = 0
    for history in golden():
        if "Judge" in activities([history]):
            with pytest.raises(NondeterminismError):
                await replayer().replay_workflow(history)
            refused += 1
    assert refused


@with_loop
async def test_a_long_run_continues_as_new_and_stays_with_its_worker(tmp_path: Path) -> None:
    turns = (*[call("look", n=n) for n in range(8)], call("pay", amount=7), "over")
    with OwnTemporal({"limit.historyCount.suggestContinueAsNew": "40"}) as server:
        bank = Bank(tmp_path, server.address)
        caller = bank.agent(*turns)
        async with bank.worker(*turns):
            result = await caller.run("Look.", **TENANT, run_id="r")
        histories = await bank.histories("r")
        await caller.close()
    assert (result.output, bank.happened) == ("over", [7])
    assert len(histories) > 3
    assert max(len(history.events) for history in histories) < 60
    assert activities(histories) == ["take", *["AskModel", "Judge", "Execute"] * 9, "AskModel", "Deliver"]
    for history in histories:
        await replayer().replay_workflow(history)


@with_loop
async def test_a_run_in_doubt_for_thirty_days_is_settled_and_goes_on(tmp_path: Path) -> None:
    turns = (call("pay", amount=7), "over")
    with SkippingTemporal() as server:
        bank = Bank(tmp_path, server.address)
        bank.fails = ValueError("no answer")
        first, other = bank.agent(*turns), bank.agent(*turns)
        client = await Client.connect(server.address)
        async with bank.worker(*turns):
            paused = await first.run("Pay.", **TENANT, run_id="r")
            before = await client.get_workflow_handle(bank.workflow("r")).describe()
            await server.skip(client, timedelta(days=30))
            settle = {paused.pending[0].call_id: Happened("it did")}
            result = await other.resume("r", **TENANT, settle=settle)
            await client.get_workflow_handle(bank.workflow("r")).result()
            after = await client.get_workflow_handle(bank.workflow("r")).describe()
        await first.close()
        await other.close()
    assert (paused.status, result.status, result.output) == ("paused", "completed", "over")
    assert after.close_time is not None
    assert after.close_time - before.start_time > timedelta(days=30)


@with_loop
async def test_a_workflow_of_a_newer_release_is_left_to_a_newer_worker(bank: Bank) -> None:
    turns = ("over",)
    caller = bank.agent(*turns)
    client = await Client.connect(
        bank.address, data_converter=DataConverter(payload_converter_class=Converter)
    )
    newer = msgspec.to_builtins(Given(tenant="acme", run_id="newer", format=FORMAT + 1)) | {"more": 1}
    handle = await client.start_workflow(
        "shipworthy.run", newer, id=fresh_name("newer"), task_queue=bank.queue
    )
    async with bank.worker(*turns):
        assert (await caller.run("Hello.", **TENANT)).output == "over"
        await asyncio.sleep(1.0)
        history = await handle.fetch_history()
    assert not activities([history])
    failures = [e.workflow_task_failed_event_attributes.failure.message for e in history.events]
    assert any("newer release" in message for message in failures)
    assert (await handle.describe()).close_time is None
    await handle.terminate()
    await caller.close()


@with_loop
async def test_a_history_of_other_rules_ends_its_workflow_and_the_journal_starts_another(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = (call("wait"), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        running = asyncio.create_task(caller.run("Wait.", **TENANT, run_id="r"))
        await until(bank.begun.is_set)
    bank.gate.set()
    async with bank.worker(*turns):
        with monkeypatch.context() as patched:
            patched.setattr(decide, "decide", another_order)
            with pytest.raises(DriverError, match="starts it anew"):
                await running
        assert (await caller.resume("r", **TENANT)).output == "over"
    await caller.close()
