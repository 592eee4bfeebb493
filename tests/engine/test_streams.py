"""Reading along: durable events with their numbers, provisional deltas, and what leaving early means."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from shipworthy import Agent, EchoModel, ScriptedTurn, TextDelta, ToolCall, tool
from shipworthy.domain.events import Event
from shipworthy.engine.follow import Follower
from shipworthy.errors import NotFinished, RateLimited, RunNotFound, ScriptError
from tests.engine.world import ALICE, Sink, agent, go, journal


async def read(stream: Any) -> list[Any]:
    return [item async for item in stream]


def test_a_stream_shows_the_journal_and_the_deltas_between() -> None:
    async def law() -> None:
        sink = Sink()
        a = agent(ToolCall("charge", {"amount": 5}), "All done now.", tools=[sink.charge()])
        async with a.stream("Charge", run_id="r", **ALICE) as stream:
            items = await read(stream)
        events = [i for i in items if isinstance(i, Event)]
        assert events == await journal(a, "r")
        assert "".join([i.text for i in items if isinstance(i, TextDelta)]) == "All done now."
        assert stream.result.output == "All done now."

    go(law())


def test_an_event_is_durable_before_it_is_shown() -> None:
    async def law() -> None:
        a = agent(ToolCall("charge", {"amount": 5}), "Done.", tools=[Sink().charge()])
        async with a.stream("Charge", run_id="r", **ALICE) as stream:
            async for item in stream:
                if isinstance(item, Event):
                    assert item in await journal(a, "r")

    go(law())


def test_text_is_only_the_text() -> None:
    async def law() -> None:
        async with agent(ScriptedTurn("abc", chunks=["a", "b", "c"])).stream("Hi", **ALICE) as stream:
            assert [t async for t in stream.text()] == ["a", "b", "c"]
        assert stream.result.output == "abc"

    go(law())


def test_a_stream_goes_on_after_a_number() -> None:
    async def law() -> None:
        a = agent(ToolCall("charge", {"amount": 5}), "Done.", tools=[Sink().charge()])
        await a.run("Charge", run_id="r", **ALICE)
        whole = await journal(a, "r")
        for after in range(len(whole) + 1):
            async with a.stream(run_id="r", tenant_id="acme", after=after) as stream:
                assert await read(stream) == whole[after:]
            assert stream.result.output == "Done."

    go(law())


def test_many_readers_of_one_run_each_see_every_event_once() -> None:
    async def law() -> None:
        may_end = asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            await may_end.wait()
            return "waited"

        a = agent(ToolCall("wait"), "Done.", tools=[wait])
        running = asyncio.create_task(a.run("Wait", run_id="r", **ALICE))
        await asyncio.sleep(0.01)

        async def follow(after: int) -> list[int]:
            async with a.stream(run_id="r", tenant_id="acme", after=after) as stream:
                return [i.seq async for i in stream if isinstance(i, Event)]

        readers = [asyncio.create_task(follow(after)) for after in (0, 1, 2, 3)]
        await asyncio.sleep(0.01)
        may_end.set()
        total = (await running).seq
        for after, reader in enumerate(readers):
            assert await reader == list(range(after + 1, total + 1))

    go(law())


def test_leaving_early_cancels_the_run() -> None:
    async def law() -> None:
        stopped = asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            try:
                await asyncio.sleep(30)
            finally:
                stopped.set()
            return "never"

        a = agent(ToolCall("wait"), "Never.", tools=[wait])
        async with a.stream("Wait", run_id="r", **ALICE) as stream:
            async for item in stream:
                if type(item).__name__ == "ToolAttempted":
                    break
        assert stopped.is_set()
        assert stream.result.status == "cancelled"

    go(law())


def test_leaving_early_leaves_the_run_running_if_asked() -> None:
    async def law() -> None:
        may_end = asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            await may_end.wait()
            return "waited"

        a = agent(ToolCall("wait"), "Done.", tools=[wait])
        async with a.stream("Wait", run_id="r", **ALICE) as stream:
            stream.detach()
        may_end.set()
        async with a.stream(run_id="r", tenant_id="acme") as again:
            await read(again)
        assert again.result.output == "Done."

    go(law())


def test_the_result_is_not_there_before_the_end() -> None:
    async def law() -> None:
        async with agent("Done.").stream("Hi", **ALICE) as stream:
            with pytest.raises(NotFinished):
                stream.result  # noqa: B018
            await read(stream)
            assert stream.result.output == "Done."

    go(law())


def test_a_failed_attempt_is_seen_between_the_deltas() -> None:
    async def law() -> None:
        async with agent(RateLimited("slow"), "Done.").stream("Hi", **ALICE) as stream:
            names = [type(i).__name__ for i in await read(stream)]
        assert names.index("ModelFailed") < names.index("TextDelta")

    go(law())


def test_a_developers_mistake_is_raised_to_the_reader() -> None:
    async def law() -> None:
        with pytest.raises(ScriptError):
            async with agent().stream("Hi", **ALICE) as stream:
                await read(stream)

    go(law())


def test_following_an_unknown_run_is_an_error() -> None:
    async def law() -> None:
        with pytest.raises(RunNotFound):
            async with agent("Hi").stream(run_id="nope", tenant_id="acme"):
                pass

    go(law())


def test_a_slow_reader_slows_nobody_and_loses_no_text() -> None:
    async def law() -> None:
        chunks = [f"{i} " for i in range(5_000)]
        a = agent(ScriptedTurn("".join(chunks), chunks=chunks))
        got: list[str] = []
        async with a.stream("Hi", **ALICE) as stream:
            async for text in stream.text():
                got.append(text)
                if len(got) < 5:
                    await asyncio.sleep(0.01)
        assert "".join(got) == "".join(chunks)
        assert len(got) < len(chunks)

    go(law())


def test_run_stream_and_run_sync_leave_the_same_journal() -> None:
    def facts(events: list[Any]) -> list[Any]:
        return [(type(e).__name__, e.seq) for e in events]

    def build() -> Agent[Any, Any]:
        return agent(ToolCall("charge", {"amount": 5}), "Done.", tools=[Sink().charge()])

    async def by_run() -> list[Any]:
        a = build()
        await a.run("Charge", run_id="r", **ALICE)
        return facts(await journal(a, "r"))

    async def by_stream() -> list[Any]:
        a = build()
        async with a.stream("Charge", run_id="r", **ALICE) as stream:
            await read(stream)
        return facts(await journal(a, "r"))

    a = build()
    a.run_sync("Charge", run_id="r", **ALICE)
    assert go(by_run()) == go(by_stream()) == facts(go(journal(a, "r")))


def test_run_sync_works_inside_a_running_loop() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel())
        assert a.run_sync("Hi", **ALICE).output == "Hi"

    go(law())


@pytest.mark.parametrize("how", ["leave", "raise"])
def test_a_stream_that_is_left_before_its_first_step_cancels_the_run(how: str) -> None:
    async def law() -> None:
        @tool(effect="read")
        async def wait() -> str:
            await asyncio.sleep(30)
            return "never"

        a = agent(ToolCall("wait"), "Never.", tools=[wait])
        with contextlib.suppress(KeyError):
            async with a.stream("Hi", run_id="r", **ALICE) as stream:
                if how == "raise":
                    raise KeyError
        assert stream.result.status == "cancelled"
        assert (await a.run("Hi", run_id="r", **ALICE)).status == "cancelled"

    go(law())


@pytest.mark.parametrize("from_its_start", [True, False])
def test_a_stream_that_begins_a_run_misses_no_delta_however_slow_its_journal_is_read(
    from_its_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the journal first, and then what came meanwhile, is the mutant."""
    if not from_its_start:
        monkeypatch.setattr(Follower, "begin_with", lambda self, run: None)

    async def law() -> None:
        a = agent("All done now.")
        read_now = a.runtime.store.read

        async def read_late(*args: Any) -> Any:
            await asyncio.sleep(0.1)
            return await read_now(*args)

        monkeypatch.setattr(a.runtime.store, "read", read_late)
        async with a.stream("Charge", run_id="r", **ALICE) as stream:
            items = await read(stream)
        text = "".join([i.text for i in items if isinstance(i, TextDelta)])
        assert text == ("All done now." if from_its_start else "")

    go(law())
