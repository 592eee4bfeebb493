"""What is missing, unreachable, unknown or set up in two ways is said, with its fix; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RetryConfig

from shipworthy import Happened, Image, InMemoryStore, Scope, TemporalRuntime, ToolResult
from shipworthy.adapters.temporal.payloads import Given
from shipworthy.domain.events import RunResumed
from shipworthy.engine.blueprint import UNNAMED
from shipworthy.errors import (
    ConfigurationError,
    DriverError,
    DriverUnavailable,
    MissingExtra,
    RunBusy,
    RunNotFound,
    SettlementRefused,
)
from tests.servers.temporal import OwnTemporal
from tests.temporal.world import SECRET, TENANT, Bank, activities, call, until, with_loop


@pytest.fixture
def bank(tmp_path: Path, temporal: str) -> Bank:
    return Bank(tmp_path, temporal)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "temporalio", None)
    with pytest.raises(MissingExtra, match=r"shipworthy\[temporal\]"):
        TemporalRuntime(store=f"sqlite:{tmp_path}/x.db")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"store": "inmemory"}, "share"),
        ({"store": InMemoryStore()}, "share"),
        ({"store": 7}, "share"),
        ({"store": "sqlite:x.db", "address": ""}, "names nothing"),
        ({"store": "sqlite:x.db", "namespace": None}, "names nothing"),
        ({"store": "sqlite:x.db", "task_queue": " "}, "names nothing"),
        ({"store": "sqlite:x.db", "patience": 0}, "not a time"),
    ],
)
def test_what_could_not_work_is_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TemporalRuntime(**options)


@with_loop
async def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    caller = Bank(tmp_path, "127.0.0.1:1").agent("over")
    with pytest.raises(DriverUnavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        await caller.run("Hello.", **TENANT)
    await caller.close()


@with_loop
async def test_an_unknown_namespace_is_named_with_the_command_that_makes_it(bank: Bank) -> None:
    bank.options["namespace"] = "nowhere"
    caller = bank.agent("over")
    with pytest.raises(DriverError, match="namespace create -n nowhere"):
        await caller.run("Hello.", **TENANT)
    await caller.close()


@with_loop
async def test_a_server_that_goes_away_loses_nothing(tmp_path: Path) -> None:
    with OwnTemporal() as server:
        bank = Bank(tmp_path, server.address, options={"retry_config": RetryConfig(max_retries=1)})
        caller = bank.agent("over")
        await caller.runtime.open()
        server.kill()
        with pytest.raises(DriverUnavailable, match="journal"):
            await caller.run("Hello.", **TENANT, run_id="r")
        assert (await caller.runtime.store.find(Scope("acme"), "r")).status == "running"
        server.start()
        async with bank.worker("over"):
            assert [r.output for r in await caller.recover()] == ["over"]
            assert (await caller.run("Hello.", **TENANT, run_id="r")).output == "over"
        await caller.close()


@with_loop
async def test_a_run_without_a_worker_waits_and_says_how_to_start_one(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    caller = bank.agent("over")
    with caplog.at_level(logging.WARNING, "shipworthy"):
        running = asyncio.create_task(caller.run("Hello.", **TENANT))
        await until(lambda: "shipworthy worker" in caplog.text)
    assert f"--temporal {bank.address} --namespace default --task-queue {bank.queue}" in caplog.text
    async with bank.worker("over"):
        assert (await running).output == "over"
    await caller.close()


@with_loop
async def test_a_run_that_no_worker_takes_in_its_time_is_stopped(bank: Bank) -> None:
    caller = bank.agent("over")
    result = await caller.run("Hello.", **TENANT, run_id="r", timeout=0.5)
    assert (result.status, result.stop_reason) == ("stopped", "timeout")
    async with bank.worker("over"):
        async with asyncio.timeout(20.0):
            client = await Client.connect(bank.address)
            await client.get_workflow_handle(bank.workflow("r")).result()
    assert activities(await bank.histories("r")) == ["take"]
    await caller.close()


@with_loop
async def test_a_worker_is_not_robbed_of_a_run_by_a_caller_in_its_process(bank: Bank) -> None:
    turns = (call("wait"), "over")
    async with bank.worker(*turns) as both:
        results = [both.run("Hello.", **TENANT, timeout=0.1 * n) for n in range(1, 11)]
        for result in await asyncio.gather(*results):
            assert (result.status, result.stop_reason) == ("stopped", "timeout")
            events = await both.runtime.store.read(Scope("acme"), result.run_id)
            assert len([event for event in events if isinstance(event, RunResumed)]) == 1


@with_loop
async def test_a_factory_that_fails_on_the_worker_is_said_by_the_name_of_its_error(bank: Bank) -> None:
    def broken(scope: Scope) -> str:
        raise ConnectionError(f"{SECRET} is down")

    caller = bank.agent("over", deps=lambda scope: "mine")
    async with bank.worker("over", deps=broken):
        with pytest.raises(DriverError, match="raised ConnectionError"):
            await caller.run("Hello.", **TENANT, run_id="r", timeout=20.0)
    (history,) = await bank.histories("r")
    assert SECRET.encode() not in b"".join([event.SerializeToString() for event in history.events])
    async with bank.worker("over", deps=lambda scope: "mine"):
        assert (await caller.resume("r", **TENANT)).output == "over"
    await caller.close()


@with_loop
async def test_a_worker_on_another_store_is_found_out(bank: Bank, tmp_path: Path) -> None:
    caller = bank.agent("over")
    async with bank.worker("over", store=f"sqlite:{tmp_path}/other.db"):
        with pytest.raises(DriverError, match="same store="):
            await caller.run("Hello.", **TENANT, run_id="r")
    async with bank.worker("over"):
        assert (await caller.resume("r", **TENANT)).output == "over"
    await caller.close()


@with_loop
async def test_a_run_of_an_agent_that_a_worker_does_not_have_is_left_to_another(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    caller = bank.agent("over")
    with caplog.at_level(logging.WARNING, "shipworthy"):
        async with bank.worker("wrong", name="shop"):
            running = asyncio.create_task(caller.run("Hello.", **TENANT))
            await until(lambda: "not have its agent 'bank'" in caplog.text)
            await until(lambda: "no worker with its agent 'bank' has taken it" in caplog.text)
            async with bank.worker("over"):
                assert (await running).output == "over"
    await caller.close()


@with_loop
async def test_a_run_of_an_agent_without_a_name_is_left_by_strangers_without_one(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    turns = (call("pay", amount=7), "over")
    caller = bank.agent("mine", name=UNNAMED)
    with caplog.at_level(logging.WARNING, "shipworthy"):
        async with bank.worker(*turns, name=UNNAMED, output=int):
            running = asyncio.create_task(caller.run("Hello.", **TENANT))
            await until(lambda: "not have its agent" in caplog.text)
            async with bank.worker("mine", name=UNNAMED):
                assert (await running).output == "mine"
    assert bank.happened == []
    await caller.close()


def test_two_agents_of_one_name_are_refused(bank: Bank) -> None:
    runtime = bank.agent("over").runtime

    async def both() -> None:
        async with bank.worker("over") as first:
            second = bank.agent("over")
            second._runtime = first.runtime
            with pytest.raises(ConfigurationError, match="name="):
                await second.run("Hello.", **TENANT)

    asyncio.run(both())
    asyncio.run(runtime.close())


@with_loop
async def test_a_run_that_is_not_there_is_not_found(bank: Bank) -> None:
    caller = bank.agent("over")
    with pytest.raises(RunNotFound):
        await caller.resume("nowhere", **TENANT)
    await caller.close()


@with_loop
async def test_an_operator_s_termination_is_said_and_resuming_starts_anew(bank: Bank) -> None:
    turns = (call("wait"), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        running = asyncio.create_task(caller.run("Wait.", **TENANT, run_id="r"))
        await until(bank.begun.is_set)
        client = await Client.connect(bank.address)
        await client.get_workflow_handle(bank.workflow("r")).terminate("enough")
        with pytest.raises(DriverError, match="starts it anew"):
            await running
        bank.gate.set()
        assert (await caller.resume("r", **TENANT)).output == "over"
    await caller.close()


@with_loop
async def test_an_operator_s_cancellation_stops_the_run(bank: Bank) -> None:
    turns = (call("wait"), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        running = asyncio.create_task(caller.run("Wait.", **TENANT, run_id="r"))
        await until(bank.begun.is_set)
        client = await Client.connect(bank.address)
        await client.get_workflow_handle(bank.workflow("r")).cancel()
        assert (await running).status == "cancelled"
    await caller.close()


@with_loop
async def test_a_settlement_that_cannot_travel_is_refused(bank: Bank) -> None:
    turns = (call("pay", amount=7), "over")
    bank.fails = ValueError("no answer")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        result = await caller.run("Pay.", **TENANT, run_id="r")
        with pytest.raises(SettlementRefused, match="plain data"):
            await caller.resume("r", **TENANT, settle={result.pending[0].call_id: Happened(object())})
    await caller.close()


@with_loop
async def test_what_settles_nothing_is_refused_and_the_run_can_still_be_settled(bank: Bank) -> None:
    turns = (call("pay", amount=7), "over")
    bank.fails = ValueError("no answer")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        (pending,) = (await caller.run("Pay.", **TENANT, run_id="r")).pending
        with pytest.raises(SettlementRefused, match="settles nothing"):
            await caller.resume("r", **TENANT, settle={pending.call_id: "happened"})  # type: ignore[dict-item]
        workflows = caller.runtime.driver._workflows  # type: ignore[attr-defined]

        async def send_what_another_release_would() -> None:
            while True:
                with contextlib.suppress(RunBusy):  # it is about to learn that it is paused
                    await workflows.resume(
                        Given(tenant="acme", run_id="r", rests=True), {pending.call_id: {"kind": 7}}, None
                    )
                await asyncio.sleep(0.05)

        with pytest.raises(DriverError, match="raised ValidationError"):
            await send_what_another_release_would()
        result = await caller.resume("r", **TENANT, settle={pending.call_id: Happened("it did")})
        assert result.output == "over"
    await caller.close()


@pytest.mark.parametrize(
    ("found", "content"),
    [
        ("it did", "it did"),
        (Image(data=b"\x89PNG", media_type="image/png"), b"\x89PNG"),
        ([Image(data=b"1", media_type="image/png"), "and"], b"1"),
        (float("nan"), "nan"),
        (None, "(no result)"),
        ({1: "\ud800"}, '{"1":"\ufffd"}'),
    ],
)
@with_loop
async def test_what_a_person_found_arrives_as_the_tool_would_have_shown_it(
    bank: Bank, found: Any, content: Any
) -> None:
    turns = (call("pay", amount=7), "over")
    bank.fails = ValueError("no answer")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        (pending,) = (await caller.run("Pay.", **TENANT, run_id="r")).pending
        with pytest.raises(SettlementRefused, match="bytes"):
            await caller.resume("r", **TENANT, settle={pending.call_id: Happened(b"raw")})
        result = await caller.resume("r", **TENANT, settle={pending.call_id: Happened(found)})
    (said,) = [p for m in result.messages for p in m.parts if isinstance(p, ToolResult)]
    assert content in (getattr(said.content[0], "text", None), getattr(said.content[0], "data", None))
    assert len(said.content) == (2 if isinstance(found, list) else 1)
    assert {part.origin for part in said.content} == {"tool:pay"}
    await caller.close()


@with_loop
async def test_a_worker_that_leaves_in_the_middle_of_a_step_hands_its_run_over(bank: Bank) -> None:
    turns = (call("wire", amount=7), "over")
    caller = bank.agent(*turns)
    async with bank.worker(*turns):
        running = asyncio.create_task(caller.run("Wire.", **TENANT, run_id="r"))
        await until(bank.begun.is_set)
    bank.gate.set()
    async with bank.worker(*turns):
        assert (await running).output == "over"
    assert bank.happened == [7]
    steps = activities(await bank.histories("r"))
    assert steps == ["take", "AskModel", "Judge", "Execute", "take", *steps[5:]]
    await caller.close()
