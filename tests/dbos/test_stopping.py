"""Runs that DBOS drives are cancelled, time out, are left and go on like others."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dbos import DBOS
from dbos._sys_db import SystemDatabase, db_retry
from sqlalchemy.exc import OperationalError

from shipworthy import (
    Agent,
    Scope,
    ScriptedModel,
)
from shipworthy.adapters.dbos import Workflows
from shipworthy.domain.events import Event
from shipworthy.errors import (
    DriverError,
    StoreClosed,
)
from tests.dbos.world import ALICE, Till, agent, go, over, runtime_on, until
from tests.engine.world import LIMIT, too_long


def test_cancelling_reaches_the_tool_and_is_recorded(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await till.entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            left = await a.resume("r", tenant_id="acme")
            assert (left.status, [c.tool for c in left.pending], till.taken) == ("paused", ["charge"], [])

    go(law)


def test_a_run_that_dbos_has_not_begun_to_drive_is_cancelled_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shipworthy.adapters.dbos import Workflows

    async def never(*_: Any) -> None:
        await asyncio.sleep(3600)

    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            await runtime.open()
            monkeypatch.setattr(Workflows, "start", never)
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ((await a.resume("r", tenant_id="acme")).status, till.taken) == ("cancelled", [])

    go(law)


def test_the_deadline_reaches_the_tool(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.wait = too_long
        async with runtime_on(tmp_path) as runtime:
            result = await agent(runtime, till, timeout=LIMIT).run("Go", **ALICE)
            assert (result.status, till.taken) == (
                "paused",
                [],
            )  # a `once` call that was cut short is in doubt

    go(law)


def test_whoever_leaves_a_stream_early_cancels_its_run(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            async with a.stream("Go", run_id="r", **ALICE):
                await till.entered.wait()
            assert (await a.resume("r", tenant_id="acme")).status == "paused"
            assert till.taken == []

    go(law)


@pytest.mark.parametrize("waits", [False, True])
def test_a_workflow_that_is_cancelled_in_dbos_has_its_run_cancelled(tmp_path: Path, waits: bool) -> None:
    """Its caller is not cancelled, and a tool that takes its time is."""

    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await till.entered.wait()
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            await asyncio.to_thread(DBOS.cancel_workflow, workflow.workflow_id)
            if not waits:
                till.go_on.set()
            status, taken = ("paused", []) if waits else ("cancelled", [5])
            assert ((await task).status, till.taken) == (status, taken)
            assert await over(1) == ["CANCELLED"]

    go(law)


def test_a_workflow_that_dbos_executes_twice_at_once_takes_each_step_once(tmp_path: Path) -> None:
    """The second execution stands by until DBOS stops the first, which lets go of the run."""

    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            async with a.stream("Go", run_id="r", **ALICE) as stream:
                await till.entered.wait()
                (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
                await asyncio.to_thread(DBOS.resume_workflow, workflow.workflow_id)
                await until(lambda now: now == ["PENDING"])  # from the queue it has gone to
                await asyncio.sleep(0.1)
                till.go_on.set()
                stream.detach()
            async with a.stream(run_id="r", tenant_id="acme") as follower:
                seqs = [item.seq async for item in follower if isinstance(item, Event)]
            assert seqs == list(range(1, len(seqs) + 1))
            assert (follower.result.output, till.taken) == ("Charged.", [5])
            assert await over(1) == ["SUCCESS"]

    go(law)


def test_a_failure_of_dbos_leaves_the_run_to_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no room")

    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            with monkeypatch.context() as broken:
                broken.setattr(SystemDatabase, "record_operation_result", fail)
                with pytest.raises(DriverError, match="no room"):
                    await a.run("Go", run_id="r", **ALICE)
            assert (await a.run("Go", run_id="r", **ALICE)).output == "Charged."
            assert (till.taken, sorted(await over(2))) == ([5], ["CANCELLED", "SUCCESS"])

    go(law)


def test_the_deadline_holds_while_dbos_waits_for_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    record = SystemDatabase.record_operation_result

    def wait(*args: Any, **options: Any) -> None:
        back.wait(10)
        record(*args, **options)

    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till, timeout=0.3)
            monkeypatch.setattr(SystemDatabase, "record_operation_result", wait)
            result = await a.run("Go", run_id="r", **ALICE)
            assert (result.status, result.stop_reason, till.taken) == ("stopped", "timeout", [])
            back.set()
            assert await over(1) == ["SUCCESS"]

    go(law)


def test_an_agent_that_leaves_takes_up_none_of_its_runs_again(tmp_path: Path) -> None:
    """Another agent keeps the runtime open, and DBOS goes on."""

    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            other = Agent("", name="other", model=ScriptedModel(["Hi."]), runtime=runtime)
            async with other:
                async with agent(runtime, till) as a, a.stream("Go", run_id="r", **ALICE) as stream:
                    await till.entered.wait()
                    stream.detach()
                till.go_on.set()
                await asyncio.sleep(0.3)
                assert (await runtime.store.find(Scope("acme"), "r")).status == "running"
                assert (till.taken, (await other.run("Hi", **ALICE)).output) == ([], "Hi.")

    go(law)


def test_what_is_in_flight_when_the_runtime_is_closed_is_resumed_by_the_next(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.go_on.clear()
        before = set(threading.enumerate())
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await till.entered.wait()
        with pytest.raises(StoreClosed):
            await task
        assert {
            t.name for t in set(threading.enumerate()) - before if not t.name.startswith("asyncio")
        } == set()
        till.go_on.set()
        async with runtime_on(tmp_path) as runtime, agent(runtime, till) as a:
            result = await a.run("Go", run_id="r", **ALICE)
            assert (result.status, till.taken) == ("paused", [])
            assert sorted(await over(2)) == ["CANCELLED", "SUCCESS"]

    go(law)


def goes_on_trying(path: Path, monkeypatch: pytest.MonkeyPatch, patience: float) -> bool:
    """Whether a thread of DBOS's whose database is away still tries to reach it, so long after the runtime was closed.
    It sleeps between two tries for 75 ms at most, and not for a minute."""
    tried = threading.Event()

    @db_retry(initial_backoff=0.05, max_backoff=0.05)
    def away(*_: Any) -> None:
        tried.set()
        raise OperationalError("SELECT", {}, psycopg.OperationalError("connection failed: refused"))

    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(path) as runtime:
            task = asyncio.create_task(agent(runtime, till).run("Go", run_id="r", **ALICE))
            assert await asyncio.to_thread(tried.wait, 10)
        with pytest.raises(StoreClosed):
            await task

    monkeypatch.setattr(SystemDatabase, "get_cancelled_workflow_ids", away)
    before = set(threading.enumerate())
    go(law)
    left, until = set(threading.enumerate()) - before, time.monotonic() + patience
    while (alive := any([thread.is_alive() for thread in left])) and time.monotonic() < until:
        time.sleep(0.01)
    return alive


def test_a_closed_runtime_leaves_no_thread_that_tries_to_reach_a_database_which_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a thread has no end, and a process waits for it when it ends."""
    assert not goes_on_trying(tmp_path, monkeypatch, 10)


def test_a_runtime_that_lets_it_try_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []
    monkeypatch.setattr(Workflows, "_give_up", lambda self: left.append(self._made._sys_db))

    try:
        assert goes_on_trying(tmp_path, monkeypatch, 0.5)
    finally:
        for database in left:
            database._retry_connection_errors = False
