"""Agents over the wire: the real loop, the real adapters, an emulator that others wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Reply as Scripted
from llmock.scenarios import StreamFault
from llmock.scenarios import ToolCall as ScriptedCall

from shipworthy import Agent, SqliteRuntime, Tuning, tool
from shipworthy.domain.events import ModelFailed
from shipworthy.domain.scope import Scope
from shipworthy.ports.real_calls import allow_model_calls
from tests.contracts import test_models as laws

CALLS, TEXT, TOOL = laws.CALLS, laws.TEXT, laws.TOOL
PROMPT = "What is the weather in Paris and in Rome?"

pytestmark = pytest.mark.wire

SUITES = [laws.TestOpenAIChatOnLlmock, laws.TestOpenAIResponsesOnLlmock, laws.TestAnthropicOnLlmock]
EVERY_ADAPTER = pytest.mark.parametrize("suite", SUITES)
BOTH_WAYS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "run"])
WHO = {"tenant_id": "acme", "user_id": "alice"}


class Weather:
    """A tool that must not be repeated, and its effects."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

        @tool(effect="once", name=TOOL)
        async def weather(city: str, unit: str = "celsius") -> str:
            """The current weather of a city."""
            self.asked.append({"city": city, "unit": unit})
            return f"fine in {city}"

        self.tool = weather


def build(suite: type[laws.OnLlmock], llmock: LLMock, weather: Weather, **options: Any) -> Agent[Any, str]:
    model = suite().model(f"{llmock.url}{suite.path}")
    return Agent("You know the weather.", model=model, tools=[weather.tool], **options)


async def once(agent: Agent[Any, str], stream: bool) -> Any:
    if not stream:
        return await agent.run(PROMPT, run_id="r", **WHO)
    async with agent.stream(PROMPT, run_id="r", **WHO) as reading:
        async for _ in reading:
            pass
    return reading.result


def go(agent: Agent[Any, str], body: Coroutine[Any, Any, Any]) -> Any:
    async def entered() -> Any:
        async with agent:
            return await body

    with allow_model_calls():
        return asyncio.run(entered())


@EVERY_ADAPTER
@BOTH_WAYS
def test_parallel_calls_are_executed_once_each_and_answered(
    suite: type[laws.OnLlmock], stream: bool, llmock: LLMock, tmp_path: Any
) -> None:
    weather = Weather()
    calls = Scripted(tool_calls=tuple(ScriptedCall(TOOL, arguments) for arguments in CALLS), times=1)
    llmock.reset().add(calls, Scripted(text=TEXT, times=None))
    agent = build(suite, llmock, weather, runtime=SqliteRuntime(tmp_path / "bot.db"))
    result = go(agent, once(agent, stream))
    assert result.output == TEXT
    assert weather.asked == list(CALLS)
    assert (result.usage.requests, len(llmock.requests)) == (2, 2)


@EVERY_ADAPTER
def test_a_stream_cut_in_a_calls_json_runs_no_tool(suite: type[laws.OnLlmock], llmock: LLMock) -> None:
    weather = Weather()
    laws_of = suite()
    laws_of.llmock = llmock
    llmock.reset().add(*laws_of._behaviors("cut in call"))
    agent = build(suite, llmock, weather, tuning=Tuning(model_retries=1))

    async def body() -> Any:
        result = await once(agent, stream=True)
        return result, await agent.runtime.store.read(Scope("acme"), "r")

    result, events = go(agent, body())
    assert (result.status, result.stop_reason) == ("failed", "model_error")
    assert weather.asked == []
    assert [e.error for e in events if isinstance(e, ModelFailed)] == ["IncompleteAnswer"] * 2
    assert len(llmock.requests) == 2


@EVERY_ADAPTER
def test_an_attempt_that_was_cut_is_made_again_and_its_calls_run_once(
    suite: type[laws.OnLlmock], llmock: LLMock
) -> None:
    weather = Weather()
    calls = Scripted(tool_calls=tuple(ScriptedCall(TOOL, arguments) for arguments in CALLS), times=2)
    cut = StreamFault("truncate", after_chunks=suite.in_call, times=1)
    llmock.reset().add(calls, Scripted(text=TEXT, times=None), cut)
    agent = build(suite, llmock, weather)
    result = go(agent, once(agent, stream=True))
    assert result.output == TEXT
    assert weather.asked == list(CALLS)
    assert (result.usage.requests, len(llmock.requests)) == (3, 3)
