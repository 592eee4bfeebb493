"""What holds of runs that DBOS drives, seen from the agent's own surface."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from shipworthy import Agent, DBOSRuntime, Happened, ScriptedModel, SqliteRuntime, TextDelta, ToolCall, tool
from shipworthy.domain.events import Event
from shipworthy.errors import ConfigurationError, DriverUnavailable, InvalidDeps, RunBusy, StoreClosed
from tests.servers.postgres import a_database

ALICE: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice"}


class Till:
    """Takes money, and waits, fails or goes on as it is told to."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.fails = False

    def charge(self) -> Any:
        @tool(effect="once")
        async def charge(amount: int) -> str:
            """Charge."""
            self.entered.set()
            await self.go_on.wait()
            self.taken.append(amount)
            if self.fails:
                raise OSError("no answer")
            return "charged"

        return charge


def agent(runtime: Any, till: Till, **options: Any) -> Agent[Any, str]:
    model = ScriptedModel([ToolCall("charge", {"amount": 5}), "Charged."])
    return Agent("Take it.", name="clerk", model=model, tools=[till.charge()], runtime=runtime, **options)


def go(law: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await law()

    asyncio.run(bounded())


@asynccontextmanager
async def runtime_on(place: str | Path, **options: Any) -> AsyncIterator[DBOSRuntime]:
    url = place if isinstance(place, str) else f"sqlite:{place / 'bot.db'}"
    store = None if isinstance(place, str) else SqliteRuntime(place / "bot.db", lease_ttl=0.5).store
    runtime = DBOSRuntime(url, store=store, **options)
    try:
        yield runtime
    finally:
        await runtime.close()


def statuses() -> list[str]:
    """Of the workflows that DBOS knows, from the oldest on."""
    return [found.status for found in DBOS.list_workflows()]


async def until(met: Callable[[list[str]], bool]) -> list[str]:
    """Their statuses, when they are so; DBOS notes an end a little after the run has come to it."""
    for _ in range(1000):
        if met(now := await asyncio.to_thread(statuses)):
            return now
        await asyncio.sleep(0.01)
    raise AssertionError(now)


async def over(count: int) -> list[str]:
    """The same, of so many, when they are over."""
    return await until(lambda now: len(now) == count and not {"PENDING", "ENQUEUED"} & {*now})


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where a run's journal and DBOS's tables are."""
    if request.param == "sqlite":
        yield tmp_path
    else:
        with a_database() as dsn:
            yield dsn


def test_a_run_is_one_workflow_and_the_same_call_again_is_the_same_run(place: Any) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(place) as runtime:
            a = agent(runtime, till)
            first, second = await asyncio.gather(*[a.run("Go", run_id="r", **ALICE) for _ in range(2)])
            third = await a.run("Go", run_id="r", **ALICE)
            assert {first.output, second.output, third.output} == {"Charged."}
            assert till.taken == [5]
            assert await over(1) == ["SUCCESS"]
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            assert workflow.workflow_id.startswith("4:acme:1:r:")
            assert workflow.input == {"args": ("clerk", "acme", "r"), "kwargs": {}}

    go(law)


def test_a_run_that_is_parked_is_settled_and_resumed_in_a_workflow_of_its_own(place: Any) -> None:
    async def law() -> None:
        till = Till()
        till.fails = True
        async with runtime_on(place) as runtime:
            a = agent(runtime, till)
            parked = await a.run("Go", run_id="r", **ALICE)
            assert (parked.status, [c.tool for c in parked.pending]) == ("paused", ["charge"])
            settle = {parked.pending[0].call_id: Happened("charged")}
            resumed = await a.resume("r", tenant_id="acme", settle=settle)
            assert (resumed.output, till.taken) == ("Charged.", [5])
            assert await over(2) == ["SUCCESS", "SUCCESS"]

    go(law)


def test_a_stream_shows_each_event_once_and_deltas_between_them(place: Any) -> None:
    async def law() -> None:
        async with runtime_on(place) as runtime:
            async with agent(runtime, Till()).stream("Go", run_id="r", **ALICE) as stream:
                items = [item async for item in stream]
            seqs = [item.seq for item in items if isinstance(item, Event)]
            assert seqs == list(range(1, len(seqs) + 1))
            assert "".join([item.text for item in items if isinstance(item, TextDelta)]) == "Charged."
            assert stream.result.output == "Charged."

    go(law)


def test_runs_go_side_by_side(place: Any) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(place) as runtime:
            a = agent(runtime, till)
            results = await asyncio.gather(*[a.run("Go", **ALICE) for _ in range(12)])
            assert {r.output for r in results} == {"Charged."}
            assert till.taken == [5] * 12

    go(law)


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
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            result = await agent(runtime, till, timeout=0.3).run("Go", **ALICE)
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


def test_a_workflow_that_is_cancelled_in_dbos_has_its_run_cancelled(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        till.go_on.clear()
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, till)
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await till.entered.wait()
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            await asyncio.to_thread(DBOS.cancel_workflow, workflow.workflow_id)
            till.go_on.set()
            assert ((await task).status, till.taken) == ("cancelled", [5])
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


def test_the_callers_loop_keeps_its_executor(tmp_path: Path) -> None:
    async def law() -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as mine:
            asyncio.get_running_loop().set_default_executor(mine)
            async with runtime_on(tmp_path) as runtime:
                await agent(runtime, Till()).run("Go", **ALICE)
            assert (await asyncio.to_thread(lambda: threading.current_thread().name)).startswith("mine")

    go(law)


# queues


def test_a_run_waits_in_the_queue_until_a_process_takes_it(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await runtime.open()
            await asyncio.to_thread(set_polling, "desk", 0.05)
            result = await a.run("Go", run_id="r", **ALICE)
            assert (result.output, till.taken) == ("Charged.", [5])
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            assert workflow.queue_name == "desk"

    go(law)


def test_a_run_in_the_queue_is_nobodys_to_take_and_can_be_cancelled(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await runtime.open()
            await asyncio.to_thread(set_polling, "desk", 3600.0)
            await asyncio.sleep(1.5)  # the last look before that
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await until(lambda now: now == ["ENQUEUED"])
            with pytest.raises(RunBusy, match="queue"):
                await a.resume("r", tenant_id="acme")
            assert await a.recover() == []
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await a.resume("r", tenant_id="acme")).status == "cancelled"
            assert (till.taken, await over(1)) == ([], ["CANCELLED"])

    go(law)


def set_polling(queue: str, seconds: float) -> None:
    DBOS.register_queue(queue, polling_interval_sec=seconds, on_conflict="always_update")


# what cannot work


def test_a_process_has_one(tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_on(tmp_path) as runtime:
            await runtime.open()
            other = DBOSRuntime(f"sqlite:{tmp_path / 'other.db'}")
            with pytest.raises(ConfigurationError, match="Share one DBOSRuntime"):
                await other.open()
            await other.store.close()
        async with runtime_on(tmp_path) as runtime:
            assert (await agent(runtime, Till()).run("Go", **ALICE)).output == "Charged."

    go(law)


def test_what_cannot_reach_a_worker_is_refused(tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, Till())
            with pytest.raises(InvalidDeps, match="factory"):
                await a.run("Go", deps=1, **ALICE)
            with pytest.raises(ConfigurationError, match="name"):
                await agent(runtime, Till()).run("Go", **ALICE)

    go(law)


@pytest.mark.parametrize("url", ["", "sqlite:", "mysql://host/db", 5, "postgres://"])
def test_a_place_that_dbos_cannot_use_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="DBOS"):
        DBOSRuntime(url)


def test_a_database_that_cannot_be_reached_is_said_so(tmp_path: Path) -> None:
    async def law() -> None:
        store = SqliteRuntime(tmp_path / "bot.db").store
        runtime = DBOSRuntime("postgresql://nobody:secret@127.0.0.1:9/db", store=store)
        started = time.monotonic()
        with pytest.raises(DriverUnavailable) as caught:
            await agent(runtime, Till()).run("Go", **ALICE)
        assert time.monotonic() - started < 5
        assert "secret" not in str(caught.value)
        await runtime.close()

    go(law)


def test_without_the_package_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['dbos'] = None\nfrom shipworthy import DBOSRuntime\nDBOSRuntime('sqlite:a.db')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingExtra" in done.stderr
    assert "shipworthy[dbos]" in done.stderr
