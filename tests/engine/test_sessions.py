"""A session is its ended runs in the order of their ends; a run sees what had ended when it began."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import Agent, EchoModel, RunContext, ScriptedModel, Text, ToolCall, tool
from shipworthy.errors import InvalidHistory
from tests.engine.world import ALICE, agent, go, valid


def said(result: Any) -> list[str]:
    return [m.text for m in result.messages]


def test_a_session_goes_on_from_the_journal() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel())
        for word in ("one", "two", "three"):
            result = await a.run(word, session_id="s", **ALICE)
        assert said(result) == ["one", "one", "two", "two", "three", "three"]
        assert [m.text for m in result.new_messages] == ["three", "three"]

    go(law())


def test_sessions_of_others_are_not_seen() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel())
        await a.run("secret", tenant_id="acme", user_id="alice", session_id="s")
        for scope in ({"tenant_id": "acme", "user_id": "bob"}, {"tenant_id": "other", "user_id": "alice"}):
            assert said(await a.run("hi", session_id="s", **scope)) == ["hi", "hi"]

    go(law())


def test_overlapping_runs_see_the_session_as_it_was_when_they_began() -> None:
    async def law() -> None:
        slow_may_end = asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            await slow_may_end.wait()
            return "waited"

        slow = agent(ToolCall("wait"), "slow done", tools=[wait])
        quick: Agent[Any, Any] = Agent(model=EchoModel(), runtime=slow.runtime)
        await quick.run("before", session_id="s", **ALICE)
        task = asyncio.create_task(slow.run("slow", session_id="s", **ALICE))
        await asyncio.sleep(0)
        during = await quick.run("during", session_id="s", **ALICE)
        assert said(during) == ["before", "before", "during", "during"]
        slow_may_end.set()
        assert said(await task)[:3] == ["before", "before", "slow"]
        after = await quick.run("after", session_id="s", **ALICE)
        assert said(after) == [
            "before",
            "before",
            "during",
            "during",
            "slow",
            "",
            "",
            "slow done",
            "after",
            "after",
        ]
        assert valid(after.messages)

    go(law())


def test_a_parked_run_frees_the_session() -> None:
    async def law() -> None:
        @tool(effect="once")
        async def pay() -> str:
            raise ValueError("?")

        paying = agent(ToolCall("pay"), "Paid.", tools=[pay])
        assert (await paying.run("pay", session_id="s", **ALICE)).status == "paused"
        other: Agent[Any, Any] = Agent(model=EchoModel(), runtime=paying.runtime)
        assert said(await other.run("hi", session_id="s", **ALICE)) == ["hi", "hi"]

    go(law())


def test_a_failed_run_leaves_its_session_as_it_was() -> None:
    async def law() -> None:
        from shipworthy.errors import RequestRejected

        runtime = agent().runtime
        bad: Agent[Any, Any] = Agent(model=ScriptedModel([RequestRejected("poison")]), runtime=runtime)
        assert (await bad.run("poison", session_id="s", **ALICE)).status == "failed"
        good: Agent[Any, Any] = Agent(model=EchoModel(), runtime=runtime)
        assert said(await good.run("hi", session_id="s", **ALICE)) == ["hi", "hi"]

    go(law())


def test_an_explicit_history_is_gone_on_from() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel())
        first = await a.run("one", **ALICE)
        second = await a.run("two", message_history=first.messages, run_id="r", **ALICE)
        assert said(second) == ["one", "one", "two", "two"]
        assert said(await a.resume("r", tenant_id="acme")) == said(second)

    go(law())


def test_a_history_and_a_session_do_not_compete() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(model=EchoModel())
        first = await a.run("one", **ALICE)
        with pytest.raises(InvalidHistory, match="session_id"):
            await a.run("two", message_history=first.messages, session_id="s", **ALICE)

    go(law())


def test_a_history_with_dangling_calls_is_refused() -> None:
    async def law() -> None:
        @tool(effect="read")
        async def look(ctx: RunContext[None]) -> str:
            return "seen"

        a = agent(ToolCall("look"), "Done.", tools=[look])
        result = await a.run("Look", **ALICE)
        for broken in (result.messages[:2], result.messages[2:], (result.messages[2],)):
            with pytest.raises(InvalidHistory):
                await a.run("Again", message_history=broken, **ALICE)

    go(law())


def test_a_long_prompt_is_stored_once_and_comes_back_whole() -> None:
    async def law() -> None:
        a: Agent[Any, Any] = Agent(lambda ctx: "i" * 10_000, model=EchoModel())
        long = "p" * 20_000
        await a.run([Text(long), "and more"], session_id="s", run_id="r", **ALICE)
        events = await a.runtime.store.read((await a.resume("r", tenant_id="acme")).scope, "r")
        assert {type(p).__name__ for p in events[0].prompt} == {"Stored", "Text"}  # type: ignore[union-attr]
        assert said(await a.run("again", session_id="s", **ALICE))[0] == long + "and more"

    go(law())
