"""What a careful reader found in the code; each a law since."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    Agent,
    EchoModel,
    File,
    Happened,
    InMemoryRuntime,
    ModelSettings,
    RunContext,
    Scope,
    ScriptedTurn,
    SqliteRuntime,
    Text,
    ToolCall,
    Tuning,
    tool,
)
from shipworthy.app import threads
from shipworthy.domain.events import Event
from shipworthy.domain.model import ModelRequest, TextDelta
from shipworthy.engine.watch import COALESCE, Watcher
from shipworthy.errors import RunBusy
from tests.engine.world import ALICE, LIMIT, Sink, agent, go, told, too_long


@tool(effect="read")
async def sleep() -> str:
    await asyncio.sleep(30)
    return "never"


def test_a_worker_whose_lock_file_was_removed_is_not_dead(tmp_path: Path) -> None:
    async def law() -> None:
        one, two = SqliteRuntime(tmp_path / "r.db"), SqliteRuntime(tmp_path / "r.db")
        a = agent(ToolCall("sleep"), tools=[sleep], runtime=one)
        running = asyncio.create_task(a.run("x", run_id="r", **ALICE))
        await asyncio.sleep(0.1)
        await two.open()
        shutil.rmtree(tmp_path / "r.db-workers")
        with pytest.raises(RunBusy):
            await two.store.claim(Scope("acme"), "r")
        running.cancel()
        await asyncio.wait([running])
        await one.close()
        await two.close()

    go(law())


def test_a_once_body_does_not_start_in_its_thread_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import concurrent.futures

    pool = concurrent.futures.ThreadPoolExecutor(1)
    monkeypatch.setattr(threads, "_pool", pool)
    busy = threading.Event()
    sink = Sink()

    @tool(effect="once")
    def pay() -> str:
        sink.effects.append(1)
        return "paid"

    async def law() -> None:
        runtime = SqliteRuntime(tmp_path / "r.db", lease_ttl=0.3)
        a = agent(ToolCall("pay"), "Sorry.", tools=[pay], runtime=runtime)
        pool.submit(busy.wait, 10)
        asyncio.get_running_loop().call_later(0.8, busy.set)
        result = await a.run("x", **ALICE)
        assert "time to start had passed" in told(result)
        await a.close()

    go(law())
    pool.shutdown()
    assert sink.effects == []


def test_readers_that_have_gone_leave_nothing_behind() -> None:
    async def law() -> None:
        a = agent(ToolCall("sleep"), tools=[sleep])
        running = asyncio.create_task(a.run("x", run_id="r", **ALICE))
        await asyncio.sleep(0.01)
        for _ in range(20):
            async with a.stream(run_id="r", tenant_id="acme") as stream:
                await anext(stream)
        live = a.runtime.active(Scope("acme"), "r")
        assert live is not None
        assert live.watchers == []
        running.cancel()
        await asyncio.wait([running])

    go(law())


def test_a_backlog_of_deltas_costs_what_is_new_and_keeps_every_piece() -> None:
    async def law() -> None:
        watcher = Watcher()
        shared = [TextDelta(f"{i} ") for i in range(COALESCE + 5_000)]
        for delta in shared:
            watcher.put(delta)
        watcher.close()
        got = [item async for item in watcher]
        assert len(got) == COALESCE
        assert "".join([item.text for item in got]) == "".join([f"{i} " for i in range(COALESCE + 5_000)])  # type: ignore[union-attr]
        assert shared[COALESCE - 1].text == f"{COALESCE - 1} "

    go(law())


def test_deltas_do_not_come_after_their_answer() -> None:
    async def law() -> None:
        a = agent(ScriptedTurn("a b c", chunks=["a ", "b ", "c"]))
        read = a.runtime.store.read

        async def slow(*args: Any) -> Any:
            await asyncio.sleep(0.02)
            return await read(*args)

        a.runtime.store.read = slow  # type: ignore[method-assign]
        async with a.stream("x", **ALICE) as stream:
            names = [type(i).__name__ for i in [i async for i in stream]]
        assert "TextDelta" not in names[names.index("ModelAnswered") :]

    go(law())


def test_a_run_that_was_stopped_in_doubt_asks_the_world_when_it_is_resumed() -> None:
    async def law() -> None:
        async def verify(ctx: RunContext[Any], args: Any) -> Any:
            return Happened("paid")

        @tool(effect="once", verify=verify)
        async def pay() -> str:
            await too_long()
            return "never"

        a = agent(ToolCall("pay"), "Never.", tools=[pay], timeout=LIMIT)
        assert (await a.run("x", run_id="r", **ALICE)).status == "paused"
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, result.stop_reason, told(result)) == ("stopped", "timeout", "paid")

    go(law())


def test_the_narrower_limits_win_when_a_run_is_resumed() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()

        @tool(effect="once")
        async def pay() -> str:
            raise ValueError("?")

        def build(retries: int) -> Agent[Any, Any]:
            turns = [ToolCall("pay"), *["not a number"] * 9]
            tuning = Tuning(output_retries=retries)
            return agent(*turns, tools=[pay], output=int, runtime=runtime, tuning=tuning)

        paused = await build(9).run("x", **ALICE)
        result = await build(0).resume(paused, settle={paused.pending[0].call_id: Happened("ok")})
        assert (result.status, result.usage.requests) == ("failed", 2)

    go(law())


def test_an_interrupted_attempt_is_counted_as_unreported() -> None:
    class Slow(EchoModel):
        async def stream(self, request: ModelRequest) -> Any:  # type: ignore[override]
            await too_long()
            yield None

    result = go(Agent(model=Slow(), timeout=LIMIT).run("x", **ALICE))
    assert (result.usage.requests, result.usage.unreported) == (1, 1)


def test_the_last_answer_of_a_typed_run_may_be_its_output_whatever_tool_was_chosen() -> None:
    asked: list[ModelRequest] = []

    def last(request: ModelRequest) -> ToolCall:
        asked.append(request)
        return ToolCall("final_answer", {"response": 7})

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    settings = ModelSettings(tool_choice="look")
    a = agent(ToolCall("look"), last, tools=[look], output=int, max_turns=1, settings=settings)
    assert go(a.run("x", **ALICE)).output == 7
    assert asked[0].settings.tool_choice == "required"


def test_max_result_bounds_a_result_of_many_parts_and_keeps_all_of_it() -> None:
    @tool(effect="read", max_result=10)
    async def dump() -> list[Any]:
        return [Text("a" * 20), File(data=b"x", name="f"), Text("b" * 30)]

    async def law() -> None:
        a = agent(ToolCall("dump"), "Done.", tools=[dump])
        result = await a.run("x", run_id="r", **ALICE)
        assert told(result).startswith("a" * 10 + "\n")
        events: list[Event] = list(await a.runtime.store.read(result.scope, "r"))
        (returned,) = [e for e in events if type(e).__name__ == "ToolReturned"]
        body = await a.runtime.store.body(result.scope, "r", returned.whole.digest)  # type: ignore[attr-defined]
        assert b"a" * 20 in body
        assert b"b" * 30 in body

    go(law())


def test_a_full_store_does_not_drop_the_conversation_that_goes_on() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel(), runtime=InMemoryRuntime(max_runs=3))
        for i in range(3):
            result = await a.run("x", session_id="s", **ALICE)
            assert len(result.history) == 2 * i

    go(law())


def test_run_sync_outlives_an_exit() -> None:
    def leave(value: str) -> str:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        agent("Hi.", output_validators=[leave]).run_sync("x", **ALICE)
    assert agent("Hi.").run_sync("x", **ALICE).output == "Hi."


def test_a_second_cancellation_leaves_no_body_behind() -> None:
    async def law() -> None:
        inside = asyncio.Event()
        done: list[int] = []

        @tool(effect="idempotent")
        async def put() -> str:
            inside.set()
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.05)
                done.append(1)
            return "put"

        a = agent([ToolCall("put"), ToolCall("put")], tools=[put])
        task = asyncio.create_task(a.run("x", run_id="r", **ALICE))
        await inside.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert done == [1, 1]

    go(law())


def test_leaving_an_agent_leaves_its_runs_to_others(tmp_path: Path) -> None:
    async def law() -> None:
        held = SqliteRuntime(tmp_path / "r.db")
        await held.acquire()
        a = agent(ToolCall("sleep"), tools=[sleep], runtime=held, name="a")
        async with a, a.stream("x", run_id="r", **ALICE) as stream:
            while type(await anext(stream)).__name__ != "ToolAttempted":
                pass
            stream.detach()

        @tool(effect="read", name="sleep")
        async def quick() -> str:
            return "at once"

        b = agent(
            ToolCall("sleep"), "Done.", tools=[quick], runtime=SqliteRuntime(tmp_path / "r.db"), name="a"
        )
        assert [r.output for r in await b.recover()] == ["Done."]
        await b.close()
        await held.release()

    go(law())
