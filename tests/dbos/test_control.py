"""People in control of runs that DBOS drives: what is asked, answered and resumed, and by whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from shipworthy import (
    Agent,
    Approve,
    DBOSRuntime,
    Happened,
    Inbox,
    PostgresRuntime,
    Scope,
    ScriptedModel,
    SqliteRuntime,
    StandardPermissions,
    ToolCall,
    ask_human,
    tool,
)
from shipworthy.app.configuration import Tuning
from shipworthy.domain.events import HumanAnswered, RunParked, ToolAttempted
from shipworthy.domain.results import RunResult
from shipworthy.errors import CheckpointRefused, RunBusy, RunConflict
from tests.dbos.world import ALICE, Till, go, over, runtime_on, until

ACME = Scope("acme")


def clerk(runtime: DBOSRuntime, till: Till, **options: Any) -> Agent[Any, str]:
    """An agent whose `once` calls need people."""
    usual: dict[str, Any] = {
        "model": ScriptedModel([ToolCall("charge", {"amount": 5}), "Charged."]),
        "tools": [till.charge()],
        "permissions": StandardPermissions(),
        "approval_handler": Inbox(),
    }
    tuning = Tuning(recover_every=0.1)
    return Agent("Take it.", name="clerk", runtime=runtime, tuning=tuning, **usual | options)


async def approved(place: str | Path) -> None:
    """Say yes to what waits, in a process that has no agent and knows nothing of DBOS."""
    runtime = PostgresRuntime(place) if isinstance(place, str) else SqliteRuntime(place / "bot.db")
    inbox = Inbox(runtime=runtime)
    (request,) = await inbox.requests("acme")
    await inbox.approve(request, Approve(by="maria"))
    await runtime.close()


async def ended(runtime: DBOSRuntime) -> str:
    """How the run ended, when somebody has driven it to its end."""
    while (status := (await runtime.store.find(ACME, "r")).status) in ("running", "paused"):
        await runtime.store.news(ACME, "r", 0.05)
    return status


async def events(runtime: DBOSRuntime, kind: type[Any]) -> list[Any]:
    return [e for e in await runtime.store.read(ACME, "r") if isinstance(e, kind)]


@pytest.mark.parametrize("queue", [None, "desk"])
def test_what_an_inbox_took_elsewhere_has_an_entered_agent_go_on(place: Any, queue: str | None) -> None:
    async def law() -> None:
        till, asked = Till(), list[Any]()
        inbox = Inbox(notify=asked.extend)
        async with (
            runtime_on(place, queue=queue) as runtime,
            clerk(runtime, till, approval_handler=inbox) as a,
        ):
            paused = await a.run("Go", run_id="r", **ALICE)
            assert ([c.tool for c in paused.pending], till.taken) == (["charge"], [])
            await until(lambda now: not {"PENDING", "ENQUEUED"} & {*now})
            assert [request.tool for request in asked] == ["charge"]
            await approved(place)
            assert (await ended(runtime), till.taken) == ("completed", [5])
            assert len(await events(runtime, ToolAttempted)) == 1

    go(law)


def test_an_entered_agent_goes_on_with_a_run_whose_time_to_be_answered_is_over(tmp_path: Path) -> None:
    answers: list[str] = []

    @tool(effect="read")
    async def charge(amount: int) -> str:
        """Ask."""
        answers.append(ask_human("Which colour?", schema=str, timeout=0.3, default="blue"))
        return "asked"

    class Asking(Till):
        def charge(self) -> Any:
            return charge

    async def law() -> None:
        async with runtime_on(tmp_path) as runtime, clerk(runtime, Asking()) as a:
            assert (await a.run("Go", run_id="r", **ALICE)).status == "paused"
            assert (await ended(runtime), answers) == ("completed", ["blue"])
            assert [e.by for e in await events(runtime, HumanAnswered)] == [None]

    go(law)


@pytest.mark.parametrize("queue", [None, "desk"])
def test_of_many_who_bring_one_checkpoint_one_goes_on(place: Any, queue: str | None) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(place, queue=queue) as runtime:
            a = clerk(runtime, till)
            paused = await a.run("Go", run_id="r", **ALICE)
            await approved(place)
            every = [a.resume(paused.checkpoint or {}) for _ in range(50 if queue is None else 12)]
            results = await asyncio.gather(*every, return_exceptions=True)
            went_on = [result for result in results if isinstance(result, RunResult)]
            assert [result.output for result in went_on] == ["Charged."]
            refused = {type(result) for result in results if not isinstance(result, RunResult)}
            assert refused <= {CheckpointRefused, RunBusy}
            with pytest.raises(CheckpointRefused):
                await a.resume(paused.checkpoint or {})
            assert till.taken == [5]
            assert len(await events(runtime, RunParked)) == 1

    go(law)


def nesting(runtime: DBOSRuntime, till: Till, **options: Any) -> Agent[Any, str]:
    """An agent that has another one do the work."""
    model = ScriptedModel([ToolCall("charge", {"amount": 5}), "Charged."])
    worker: Agent[Any, str] = Agent("", name="worker", model=model, tools=[till.charge()])
    turns = [ToolCall("worker", {"input": "Charge."}), "Over."]
    tools = [worker.as_tool("worker", "Works.")]
    return clerk(runtime, till, model=ScriptedModel(turns), tools=tools, **options)


def test_a_nested_call_is_approved_and_settled_by_its_address(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.fails = True
        async with runtime_on(tmp_path) as runtime:
            a = nesting(runtime, till)
            asked = await a.run("Go", run_id="r", **ALICE)
            assert [(c.kind, c.agents) for c in asked.pending] == [("approval", ("clerk", "worker"))]
            (waiting,) = asked.pending
            with pytest.raises(RunConflict, match="nested"):
                await a.resume(waiting.run_id, tenant_id="acme")
            doubt = await a.resume(asked, answer=Approve(by="maria"))
            assert [(c.kind, c.address) for c in doubt.pending] == [("in_doubt", waiting.address)]
            result = await a.resume(doubt, settle={waiting.address: Happened("charged")})
            assert (result.output, till.taken) == ("Over.", [5])
            assert {*await over(3)} <= {"SUCCESS", "CANCELLED"}  # who resumes first cancels what is not noted
            found = await asyncio.to_thread(DBOS.list_workflows)
            assert {(w.input or {})["args"][2] for w in found} == {
                "r"
            }  # a nested run has no workflow of its own

    go(law)


def test_a_cancellation_in_dbos_takes_the_nested_run_along(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            a = nesting(runtime, till, permissions=None)
            running = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await till.entered.wait()
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            await asyncio.to_thread(DBOS.cancel_workflow, workflow.workflow_id)
            result = await running
            assert (result.status, till.taken) == ("paused", [])
            assert [call.kind for call in result.pending] == ["in_doubt"]  # as of a call of its own
            (attempted,) = await events(runtime, ToolAttempted)
            nested = await runtime.store.find(ACME, f"r/{attempted.call_id}")
            assert nested.status != "running"

    go(law)
