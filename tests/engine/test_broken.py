"""What somebody broke once, through the public API; each a law since."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    Agent,
    EchoModel,
    File,
    Happened,
    Image,
    InMemoryRuntime,
    Message,
    ModelSettings,
    NotDone,
    Scope,
    SqliteRuntime,
    Text,
    ToolCall,
    Tuning,
    tool,
)
from shipworthy.app import threads
from shipworthy.domain.events import Event
from shipworthy.errors import (
    ConfigurationError,
    InputError,
    InvalidOption,
    InvalidTool,
    JournalDamaged,
    RunConflict,
    SettlementRefused,
)
from shipworthy.rules.codec import decode_events
from tests.engine.world import ALICE, LIMIT, Sink, agent, go, told, too_long, valid


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Abort(BaseException):
    pass


@tool(effect="read")
async def ok() -> str:
    return "ok"


@pytest.mark.parametrize("error", [Unspeakable(), Abort(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("beside", [True, False])
def test_whatever_a_body_raises_its_call_has_a_result(error: BaseException, beside: bool) -> None:
    @tool(effect="read")
    async def odd() -> str:
        raise error

    calls = [ToolCall("ok"), ToolCall("odd")] if beside else [ToolCall("odd")]
    result = go(agent([Text("Let me check."), *calls], "Done.", tools=[ok, odd]).run("x", **ALICE))
    assert (result.status, result.output) == ("completed", "Done.")
    assert "failed" in told(result, len(calls) - 1)
    assert valid(result.messages)


@pytest.mark.parametrize("error", [ValueError("clean-up failed"), NotDone("not yet")])
def test_a_deadline_outranks_what_the_clean_up_of_a_body_raises(error: Exception) -> None:
    @tool(effect="read")
    async def work() -> str:
        try:
            await too_long()
        finally:
            raise error

    result = go(agent(ToolCall("work"), "Never.", tools=[work], timeout=LIMIT).run("x", **ALICE))
    assert (result.status, result.stop_reason) == ("stopped", "timeout")


def test_a_cancellation_outranks_what_the_clean_up_of_a_body_raises() -> None:
    async def law() -> None:
        started = asyncio.Event()

        @tool(effect="read")
        async def work() -> str:
            started.set()
            try:
                await asyncio.sleep(30)
            finally:
                raise ValueError("clean-up failed")

        a = agent(ToolCall("work"), "Never.", tools=[work])
        task = asyncio.create_task(a.run("x", run_id="r", **ALICE))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await a.resume("r", tenant_id="acme")).status == "cancelled"

    go(law())


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": Image(data="%%%")},
        {"prompt": Image(url=5)},  # type: ignore[arg-type]
        {"prompt": File(data=b"", name=None)},  # type: ignore[arg-type]
        {"prompt": File(data=b"", name="\ud800")},
        {"prompt": ["x", Text("x", trust="maybe")]},  # type: ignore[arg-type]
        {"prompt": Text("x", origin="\ud800")},
        {"prompt": "x", "settings": ModelSettings(temperature="hot")},  # type: ignore[arg-type]
        {"prompt": "x", "message_history": [Message("system", (Text("x"),))]},  # type: ignore[arg-type]
        {"prompt": "x", "message_history": [Message("user", ("x",))]},  # type: ignore[arg-type]
        {"prompt": "x", "message_history": [Message("user", (Text("\ud800"),))]},
        {"prompt": "x", "message_history": 5},
    ],
    ids=str,
)
def test_what_could_not_be_read_back_is_refused_before_anything_is_begun(call: dict[str, Any]) -> None:
    async def law() -> None:
        a = agent("Hi.")
        with pytest.raises(InputError):
            await a.run(run_id="r", **call, **ALICE)
        assert (await a.run("Hi", run_id="r", **ALICE)).output == "Hi."

    go(law())


def test_a_result_that_could_not_be_read_back_does_not_poison_its_session() -> None:
    async def law() -> None:
        @tool(effect="once")
        async def receipt() -> File:
            return File(data="Paid: 50 EUR", name="receipt.txt")  # type: ignore[arg-type]

        a = agent(ToolCall("receipt"), "Done.", tools=[receipt])
        result = await a.run("x", session_id="s", run_id="r", **ALICE)
        assert "finished" in told(result)
        assert (await a.resume("r", tenant_id="acme")).output == "Done."
        assert len((await a.run("y", session_id="s", **ALICE)).history) == 4

    go(law())


def test_unencodable_words_of_models_and_validators_are_mended(tmp_path: Path) -> None:
    async def law() -> None:
        def check(value: str) -> str:
            if value == "bad":
                raise ValueError("no such file: \udcff")
            return value

        runtime = SqliteRuntime(tmp_path / "r.db")
        a = agent(ToolCall("\ud800x"), "bad", "good", output_validators=[check], runtime=runtime)
        assert (await a.run("x", **ALICE)).output == "good"
        await a.close()

    go(law())


def test_run_sync_does_not_wait_for_itself() -> None:
    inner: Agent[Any, Any] = Agent(model=EchoModel())

    @tool(effect="read")
    async def sub() -> str:
        return inner.run_sync("q", tenant_id="t").output

    result = agent(ToolCall("sub"), "Done.", tools=[sub]).run_sync("x", **ALICE)
    assert "await agent.run" in told(result)


def test_a_run_id_belongs_to_the_agent_that_began_it() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        for first, second in (({"name": "a"}, {"name": "b"}), ({}, {"max_turns": 9, "tools": [ok]})):
            run_id = str(first)
            await agent("spam", runtime=runtime, **first).run("x", run_id=run_id, **ALICE)
            with pytest.raises(RunConflict, match="another agent"):
                await agent("summary", runtime=runtime, **second).run("x", run_id=run_id, **ALICE)

    go(law())


def test_a_read_of_a_stream_that_times_out_loses_nothing() -> None:
    async def law() -> None:
        @tool(effect="read")
        async def wait() -> str:
            await asyncio.sleep(0.1)
            return "waited"

        a = agent(ToolCall("wait"), "Done.", tools=[wait])
        seen: list[int] = []
        async with a.stream("x", run_id="r", **ALICE) as stream:
            while True:
                try:
                    item = await asyncio.wait_for(anext(stream), 0.02)
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    break
                if isinstance(item, Event):
                    seen.append(item.seq)
        assert seen == list(range(1, stream.result.seq + 1))
        assert stream.result.output == "Done."

    go(law())


def test_one_long_recovery_keeps_no_other_orphan_waiting(tmp_path: Path) -> None:
    async def law() -> None:
        runtime = SqliteRuntime(tmp_path / "r.db")
        begun, over = asyncio.Event(), asyncio.Event()

        @tool(effect="read")
        async def work() -> str:
            if not begun.is_set():
                begun.set()
                await asyncio.sleep(30)
            over.set()
            return "worked"

        often = Tuning(recover_every=0.05)
        a = agent(ToolCall("work"), "Done.", tools=[work], runtime=runtime, tuning=often, name="worker")
        await runtime.open()

        async def orphan(run_id: str) -> None:
            """A run that was begun, and that nobody drives."""
            service = a._in_use()
            call: dict[str, Any] = dict.fromkeys(["deps", "message_history", "settings", "timeout"])
            left = await service.begin(await service.asked(Scope("acme"), "x", run_id=run_id, **call))
            assert left is not None
            runtime.leave(left)

        await orphan("slow")
        async with a:
            await begun.wait()
            await orphan("quick")
            await asyncio.wait_for(over.wait(), 5)

    go(law())


def test_a_call_that_found_no_thread_was_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    monkeypatch.setattr(threads, "_pool", pool)
    release = threading.Event()
    sink = Sink()

    @tool(effect="once", timeout=0.05)
    def pay() -> str:
        sink.effects.append(1)
        return "paid"

    pool.submit(release.wait, 10)
    result = go(agent(ToolCall("pay"), "Sorry.", tools=[pay]).run("x", **ALICE))
    release.set()
    pool.shutdown()
    assert (result.output, sink.effects) == ("Sorry.", [])
    assert "never started" in told(result)


def test_a_settlement_that_cannot_be_recorded_is_refused() -> None:
    async def law() -> None:
        @tool(effect="once")
        async def pay() -> str:
            raise ValueError("?")

        a = agent(ToolCall("pay"), "Done.", tools=[pay])
        paused = await a.run("x", **ALICE)
        with pytest.raises(SettlementRefused, match="recorded"):
            await a.resume(paused, settle={paused.pending[0].call_id: Happened(object())})

    go(law())


@pytest.mark.parametrize("after", [-1, "2", True, None])
def test_a_stream_goes_on_after_a_number_only(after: Any) -> None:
    with pytest.raises(InvalidOption):
        agent("Hi.").stream("x", after=after, **ALICE)


def test_a_stream_that_only_follows_takes_nothing_else() -> None:
    with pytest.raises(InvalidOption, match="only follows"):
        agent("Hi.").stream(None, run_id="r", tenant_id="acme", user_id="mallory")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "bad",
    [
        {"instructions": 5},
        {"tools": None},
        {"tools": ok},
        {"output_validators": len},
        {"output_validators": [5]},
        {"tuning": {}},
        {"output_mode": "bogus"},
        {"deps_type": 5},
        {"require_identity": "no"},
        {"model": EchoModel},
        {"timeout": 10**400},
    ],
    ids=str,
)
def test_wrong_types_are_refused_when_the_agent_is_built(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Agent(**{"model": EchoModel(), **bad})


@pytest.mark.parametrize("bad", [{"timeout": "5"}, {"retries": 1.5}, {"max_result": 1.5}], ids=str)
def test_wrong_types_are_refused_when_a_tool_is_made(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidTool):
        tool(effect="read", **bad)(ok.__wrapped__)


@pytest.mark.parametrize("make", [lambda: InMemoryRuntime(max_runs=0), lambda: SqliteRuntime(":memory:")])
def test_runtimes_that_could_not_keep_a_run_are_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_an_event_about_a_call_that_is_not_there_is_damage() -> None:
    from shipworthy.rules.state import replay

    started = '{"kind":"run_started","seq":1,"run_id":"r","tenant":"t","prompt":[]}'
    rows = f'[{started},{{"kind":"tool_attempted","seq":2,"call_id":"x"}}]'
    with pytest.raises(JournalDamaged, match="'x'"):
        replay(decode_events(rows))


def test_a_body_that_was_changed_in_place_is_damage() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel())
        await a.run("p" * 10_000, run_id="r", **ALICE)
        store: Any = a.runtime.store
        (run,) = store._runs.values()
        digest = hashlib.sha256(next(iter(run.bodies.values()))).hexdigest()
        run.bodies[digest] = b'{"part":"text","text":"EDITED"}'
        with pytest.raises(JournalDamaged, match="not what it was"):
            await a.resume("r", tenant_id="acme")

    go(law())


def test_an_agent_that_could_not_be_entered_can_be_entered_later(tmp_path: Path) -> None:
    async def law() -> None:
        a = agent("Hi.", runtime=SqliteRuntime(tmp_path / "missing" / "r.db"))
        with pytest.raises(Exception, match="missing"):
            await a.__aenter__()
        (tmp_path / "missing").mkdir()
        async with a:
            assert a._recovering is not None
            assert (await a.run("x", **ALICE)).output == "Hi."

    go(law())


def test_a_run_that_a_closed_loop_left_can_be_resumed() -> None:
    waits = iter([30, 0])

    @tool(effect="read")
    async def wait() -> str:
        await asyncio.sleep(next(waits))
        return "waited"

    a = agent(ToolCall("wait"), "Done.", tools=[wait])

    async def start() -> None:
        async with a.stream("x", run_id="r", **ALICE) as stream:
            while type(await anext(stream)).__name__ != "ToolAttempted":
                pass
            stream.detach()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    for left in asyncio.all_tasks(loop):
        left._log_destroy_pending = False  # type: ignore[attr-defined]  # it is never finished: that is the case here
    loop.close()
    assert go(a.resume("r", tenant_id="acme")).output == "Done."
