"""A body that is begun again within one attempt is one span, which says how often; so does the journal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import Agent, InMemoryRuntime, InMemoryTelemetry, ScriptedModel, ToolCall, tool
from shipworthy.domain.events import ToolReturned
from shipworthy.domain.scope import Scope
from shipworthy.engine import execute
from shipworthy.rules.telemetry import names


async def law_of_retries(failures: int) -> None:
    begun: list[int] = []

    @tool(effect="read", retries=2)
    async def flaky() -> str:
        """Fail at first."""
        begun.append(1)
        if len(begun) <= failures:
            raise ConnectionError
        return "ok"

    telemetry, runtime = InMemoryTelemetry(), InMemoryRuntime()
    model = ScriptedModel([ToolCall("flaky", {}), "Done."])
    agent: Agent[Any, str] = Agent(
        model=model, tools=[flaky], runtime=runtime, telemetry=telemetry, name="bot"
    )
    await agent.run("?", tenant_id="acme", run_id="r1")
    assert telemetry.close()
    (span,) = [each for each in telemetry.spans if each.name == "execute_tool flaky"]
    (returned,) = [
        event for event in await runtime.store.read(Scope("acme"), "r1") if isinstance(event, ToolReturned)
    ]
    assert len(begun) == 1 + returned.retries
    assert span.attributes.get(names.RETRIES, 0) == returned.retries
    assert (span.attributes[names.ATTEMPT], returned.outcome) == (1, "ok" if failures < 3 else "error")


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_a_span_says_how_often_the_body_was_begun_again(failures: int) -> None:
    asyncio.run(law_of_retries(failures))


def test_the_law_catches_retries_that_nobody_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "_retried", lambda attempt, times: None)
    with pytest.raises(AssertionError):
        asyncio.run(law_of_retries(1))
