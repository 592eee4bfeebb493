"""Runs that wait in a queue of their agent's: who takes them, and what their caller is told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from shipworthy import Agent, Scope, ScriptedModel
from shipworthy.app.dbos import DBOSDriver
from shipworthy.engine.live import LiveRun
from shipworthy.errors import DriverError
from tests.dbos.world import ALICE, Till, agent, go, over, runtime_on, set_polling, until


async def opened(runtime: Any, *queues: str, every: float = 0.05) -> None:
    """Open it, with queues that are looked into so often."""
    await runtime.open()
    for queue in queues:
        await asyncio.to_thread(set_polling, queue, every)
    await asyncio.sleep(1.5 if every > 1 else 0.0)  # the last look before that


def test_a_run_that_is_taken_from_the_queue_while_another_takes_it_over_is_not_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has two workflows then, and one of them has been cancelled by nobody."""
    begun: list[str] = []
    both = threading.Event()
    real = DBOSDriver.step

    async def late(self: DBOSDriver, execution: str, *of: str) -> Any:
        begun.append(execution)
        if len(begun) == 2:
            both.set()
        await asyncio.to_thread(both.wait, 8)  # neither has the run
        return await real(self, execution, *of)

    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await opened(runtime, "desk/clerk")
            monkeypatch.setattr(DBOSDriver, "step", late)
            caller = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await until(lambda now: len(begun) == 1)
            recovering = asyncio.create_task(a.recover())
            await till.entered.wait()
            await asyncio.sleep(1.5)  # DBOS tells a workflow within a second that it is cancelled
            till.go_on.set()
            assert ((await caller).status, till.taken) == ("completed", [5])
            assert [result.status for result in await recovering] == ["completed"]
            assert len(await over(2)) == 2

    go(law)


class Seatable(set[Any]):
    """The mutant: a run that is being handed over may be seated as it is."""

    def add(self, _: object) -> None:
        pass


async def handed_over_while_asked_for(place: Path, patch: pytest.MonkeyPatch, mutant: bool) -> None:
    """Recovery takes a run, and a workflow that it had already asks for a step while it is let go of."""
    begun, late = list[str](), threading.Event()
    step, let_go = DBOSDriver.step, LiveRun.let_go

    async def waiting(self: DBOSDriver, execution: str, *of: str) -> Any:
        begun.append(execution)
        await asyncio.to_thread(late.wait, 30)
        return await step(self, execution, *of)

    till = Till()
    till.go_on.clear()

    async def slow(run: LiveRun) -> None:
        late.set()
        entered = asyncio.create_task(till.entered.wait())
        await asyncio.wait([entered], timeout=30.0 if mutant else 1.0)
        entered.cancel()
        await let_go(run)

    async with runtime_on(place, queue="desk", lease_ttl=30.0) as runtime:
        a = agent(runtime, till)
        await opened(runtime, "desk/clerk")
        if mutant:
            runtime.driver._handed = Seatable()  # type: ignore[attr-defined]
        patch.setattr(DBOSDriver, "step", waiting)
        caller = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
        await until(lambda now: len(begun) == 1)
        patch.setattr(LiveRun, "let_go", slow)
        recovering = asyncio.create_task(a.recover())
        await till.entered.wait()
        await asyncio.sleep(0.1)
        till.go_on.set()
        assert ((await caller).status, till.taken) == ("completed", [5])
        assert [result.status for result in await recovering] == ["completed"]
        assert len(await over(2)) == 2


def test_a_run_that_is_being_handed_over_is_driven_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(lambda: handed_over_while_asked_for(tmp_path, monkeypatch, mutant=False))


def test_a_run_that_is_driven_while_it_is_handed_over_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="paused"):
        go(lambda: handed_over_while_asked_for(tmp_path, monkeypatch, mutant=True))


def test_a_process_takes_no_run_of_an_agent_that_it_does_not_have(tmp_path: Path) -> None:
    """And takes them once it has, without being opened again."""

    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await opened(runtime, "desk/clerk", every=3600.0)
            caller = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await until(lambda now: now == ["ENQUEUED"])
        await asyncio.wait([caller])
        async with runtime_on(tmp_path, queue="desk") as runtime:
            other = Agent("", name="other", model=ScriptedModel(["Hi."]), runtime=runtime)
            await opened(runtime, "desk/clerk", "desk/other")
            assert (await other.run("Hi", **ALICE)).output == "Hi."
            await asyncio.sleep(1.2)
            found = await asyncio.to_thread(DBOS.list_workflows)
            assert {w.queue_name: w.status for w in found} == {
                "desk/clerk": "ENQUEUED",
                "desk/other": "SUCCESS",
            }
            async with agent(runtime, till):
                assert await over(2) == ["SUCCESS", "SUCCESS"]
                summary = await runtime.store.find(Scope("acme"), "r")
                assert (summary.status, till.taken) == ("completed", [5])

    go(law)


def test_a_worker_that_cannot_make_deps_has_the_caller_told(tmp_path: Path) -> None:
    """By the name of what was raised; its text may say anything."""
    fails = [False, True]

    def deps(_: Scope) -> int:
        if fails and fails.pop(0):
            raise LookupError("secret")
        return 1

    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till, deps=deps)
            await opened(runtime, "desk/clerk")
            with pytest.raises(DriverError, match="LookupError") as caught:
                await a.run("Go", run_id="r", **ALICE)
            assert "secret" not in str(caught.value)
            assert ((await a.resume("r", tenant_id="acme")).output, till.taken) == ("Charged.", [5])
            assert await over(2) == ["ERROR", "SUCCESS"]

    go(law)


def test_a_run_whose_workflow_is_cancelled_in_the_queue_is_cancelled(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await opened(runtime, "desk/clerk", every=3600.0)
            caller = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await until(lambda now: now == ["ENQUEUED"])
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            await asyncio.to_thread(DBOS.cancel_workflow, workflow.workflow_id)
            assert ((await caller).status, till.taken) == ("cancelled", [])

    go(law)


def test_an_agent_that_leaves_cancels_no_run_that_it_has_handed_over(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            other = Agent("", name="other", model=ScriptedModel(["Hi."]), runtime=runtime)
            async with other:
                async with agent(runtime, till) as a:
                    await opened(runtime, "desk/clerk", every=3600.0)
                    async with a.stream("Go", run_id="r", **ALICE) as stream:
                        await until(lambda now: now == ["ENQUEUED"])
                        stream.detach()
                assert (await runtime.store.find(Scope("acme"), "r")).status == "running"
                assert await until(bool) == ["ENQUEUED"]

    go(law)
