"""What the crash proof found, each reduced to one law."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from shipworthy import (
    Agent,
    DidNotHappen,
    Happened,
    NotDone,
    RunContext,
    ScriptedModel,
    SqliteRuntime,
    ToolCall,
    tool,
)
from shipworthy.adapters.sqlite.power import PowerLossVfs
from shipworthy.domain.events import Event
from shipworthy.domain.scope import Scope
from shipworthy.errors import RunBusy, SettlementRefused, StoreError

pytestmark = pytest.mark.crash
ALICE: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice"}
_number = itertools.count()


class Slow:
    """A disk whose next sync takes its time, and fails if it is told to."""

    def __init__(self) -> None:
        self.name = f"slow-{next(_number)}"
        self.vfs = PowerLossVfs(self.name)
        self.vfs.before = self._before
        self.fails_after: float | None = None
        self.under_way = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def _before(self, operation: str, path: str) -> None:
        if operation == "sync" and self.fails_after is not None:
            after, self.fails_after = self.fails_after, None
            self.loop.call_soon_threadsafe(self.under_way.set)
            time.sleep(after)
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)


def go(law: Any) -> None:
    asyncio.run(asyncio.wait_for(law, 20))


def test_a_cancellation_during_a_commit_that_fails_shows_nothing_that_is_not_durable(tmp_path: Path) -> None:
    async def law() -> None:
        slow = Slow()

        @tool(effect="once")
        async def pay(amount: int) -> str:
            slow.fails_after = 0.2
            return "paid"

        runtime = SqliteRuntime(tmp_path / "runs.db", vfs=slow.name)
        agent = Agent(
            "", model=ScriptedModel([ToolCall("pay", {"amount": 1}), "Done."]), tools=[pay], runtime=runtime
        )
        seen: list[Event] = []

        async def read() -> None:
            async with agent.stream("Pay", run_id="r", **ALICE) as stream:
                async for item in stream:
                    if isinstance(item, Event):
                        seen.append(item)

        reading = asyncio.create_task(read())
        await slow.under_way.wait()
        driving = next(t for t in asyncio.all_tasks() if t.get_name() == "shipworthy-run-r")
        driving.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        durable = [e.seq for e in await runtime.store.read(Scope("acme"), "r")]
        assert [e.seq for e in seen] == durable[: len(seen)]
        await runtime.close()

    go(law())


def test_a_deadline_during_a_last_commit_that_fails_returns_no_result_that_is_not_durable(
    tmp_path: Path,
) -> None:
    async def law() -> None:
        slow = Slow()

        class Model:
            name = "late"

            async def stream(self, request: Any) -> Any:
                slow.fails_after = 0.6
                async for item in ScriptedModel(["Done."]).stream(request):
                    yield item

            async def close(self) -> None: ...

        runtime = SqliteRuntime(tmp_path / "runs.db", vfs=slow.name)
        agent = Agent("", model=Model(), runtime=runtime)
        try:
            result = await agent.run("Go", run_id="r", timeout=0.3, **ALICE)
        except StoreError:
            pass
        else:
            last = (await runtime.store.read(Scope("acme"), "r"))[-1]
            assert last.seq == result.seq
        await runtime.close()

    go(law())


def test_a_refused_settlement_leaves_the_run_to_others(tmp_path: Path) -> None:
    async def law() -> None:
        @tool(effect="once")
        async def pay(amount: int) -> str:
            raise ValueError("network")

        def agent() -> Agent[Any, Any]:
            model = ScriptedModel([ToolCall("pay", {"amount": 1}), "Done."])
            return Agent("", model=model, tools=[pay], runtime=SqliteRuntime(tmp_path / "runs.db"))

        here, there = agent(), agent()
        paused = await here.run("Pay", run_id="r", **ALICE)
        with pytest.raises(SettlementRefused):
            await here.resume("r", tenant_id="acme", settle={"call_of_nobody": Happened("paid")})
        settled = await there.resume(
            "r", tenant_id="acme", settle={paused.pending[0].call_id: Happened("paid")}
        )
        assert settled.output == "Done."
        await here.runtime.close()
        await there.runtime.close()

    try:
        go(law())
    except RunBusy as busy:
        raise AssertionError(str(busy)) from busy


def test_a_body_that_always_fails_is_not_started_again_and_again(tmp_path: Path) -> None:
    """verify= says each time, truly, that nothing happened; a service that is down must not be hammered."""
    starts = 0

    async def law() -> None:
        async def verify(ctx: RunContext[Any], args: Any) -> DidNotHappen:
            return DidNotHappen()

        @tool(effect="once", verify=verify)
        async def pay(amount: int) -> str:
            nonlocal starts
            starts += 1
            if starts == 20:
                raise NotDone("that is enough")
            raise ConnectionError("the service is down")

        agent = Agent("", model=ScriptedModel([ToolCall("pay", {"amount": 1}), "Sorry."]), tools=[pay])
        await agent.run("Pay", run_id="r", timeout=1.0, **ALICE)

    go(law())
    assert starts < 20


def test_closing_leaves_no_body_behind_that_another_process_cannot_know_of(tmp_path: Path) -> None:
    """Whoever takes a released run over may believe that nothing is under way any more."""
    effects: list[str] = []

    async def law() -> None:
        inside = asyncio.Event()

        async def verify(ctx: RunContext[Any], args: Any) -> Any:
            return Happened("paid") if effects else DidNotHappen()

        def agent(name: str, wait: float) -> Agent[Any, Any]:
            @tool(effect="once", verify=verify, timeout=1.0)
            async def pay(amount: int) -> str:
                inside.set()
                await asyncio.sleep(wait)
                effects.append(name)
                return "paid"

            model = ScriptedModel([ToolCall("pay", {"amount": 1}), "Done."])
            return Agent(
                "", model=model, tools=[pay], runtime=SqliteRuntime(tmp_path / "runs.db", lease_ttl=1.0)
            )

        here, there = agent("here", 0.5), agent("there", 0.0)
        running = asyncio.create_task(here.run("Pay", run_id="r", **ALICE))
        await inside.wait()
        await here.runtime.close()
        await there.resume("r", tenant_id="acme")
        await asyncio.gather(running, return_exceptions=True)
        await there.runtime.close()

    go(law())
    assert len(effects) == 1


def test_a_read_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    """The journal cannot be read for a moment: the sitting stops, and the run can be resumed."""

    async def law() -> None:
        @tool(effect="once")
        async def pay(amount: int) -> str:
            raise ValueError("?")

        runtime = SqliteRuntime(tmp_path / "runs.db")
        model = ScriptedModel([ToolCall("pay", {"amount": 1}), "Done."])
        agent = Agent("", model=model, tools=[pay], runtime=runtime)
        paused = await agent.run("x" * 10_000, run_id="r", **ALICE)
        body = runtime.store.body
        fails = 1

        async def failing(*args: Any) -> bytes:
            nonlocal fails
            fails -= 1
            if fails == 0:
                raise StoreError("The disk did not answer.")
            return await body(*args)

        runtime.store.body = failing  # type: ignore[method-assign]
        call = paused.pending[0].call_id
        with pytest.raises(StoreError):
            await agent.resume("r", tenant_id="acme", settle={call: Happened("paid")})
        result = await agent.resume("r", tenant_id="acme")
        assert result.output == "Done."
        await runtime.close()

    go(law())


def test_a_run_that_was_cancelled_as_it_began_is_not_begun_by_somebody_else(tmp_path: Path) -> None:
    async def law() -> None:
        def agent() -> Agent[Any, Any]:
            return Agent("", model=ScriptedModel(["Done."]), runtime=SqliteRuntime(tmp_path / "runs.db"))

        here, there = agent(), agent()
        await here.runtime.open()
        task = asyncio.create_task(here.run("Go", run_id="r", **ALICE))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await here.runtime.close()
        assert await there.recover() == []
        await there.runtime.close()

    go(law())


def test_a_stream_takes_over_when_the_worker_that_it_follows_dies(tmp_path: Path) -> None:
    async def law() -> None:
        def agent(wait: float) -> Agent[Any, Any]:
            @tool(effect="read")
            async def look() -> str:
                await asyncio.sleep(wait)
                return "seen"

            model = ScriptedModel([ToolCall("look"), "Done."])
            return Agent("", model=model, tools=[look], runtime=SqliteRuntime(tmp_path / "runs.db"))

        here, there = agent(30.0), agent(0.0)
        running = asyncio.create_task(here.run("Go", run_id="r", **ALICE))
        await asyncio.sleep(0.2)

        async def follow() -> Any:
            async with there.stream("Go", run_id="r", **ALICE) as stream:
                async for _ in stream:
                    pass
            return stream.result

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.3)
        here.runtime.store._worker.lock.drop()  # type: ignore[attr-defined]  # as its death would
        result = await asyncio.wait_for(following, 5)
        assert result.output == "Done."
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await there.runtime.close()

    go(law())


def test_a_stream_does_not_miss_an_end_that_comes_while_it_looks(tmp_path: Path) -> None:
    """Between its two looks, at the journal and at the run, another process drives the run to its end."""

    async def law() -> None:
        going_on, inside = asyncio.Event(), asyncio.Event()

        def agent() -> Agent[Any, Any]:
            @tool(effect="read")
            async def look() -> str:
                inside.set()
                await going_on.wait()
                return "seen"

            model = ScriptedModel([ToolCall("look"), "Done."])
            return Agent("", model=model, tools=[look], runtime=SqliteRuntime(tmp_path / "runs.db"))

        here, there = agent(), agent()
        running = asyncio.create_task(here.run("Go", run_id="r", **ALICE))
        await inside.wait()
        read = there.runtime.store.read

        async def read_and_be_late(*args: Any) -> Any:
            events = await read(*args)
            if not events:
                going_on.set()
                await running
            return events

        there.runtime.store.read = read_and_be_late  # type: ignore[method-assign]
        async with there.stream(run_id="r", tenant_id="acme") as stream:
            seen = [item.seq async for item in stream if isinstance(item, Event)]
        assert seen == list(range(1, (await running).seq + 1))
        await here.runtime.close()
        await there.runtime.close()

    go(law())
