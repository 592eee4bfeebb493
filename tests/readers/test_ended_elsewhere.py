"""A paused run that is ended by somebody who does not drive it has its end told to whoever observes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Inbox,
    InMemoryMemory,
    InMemoryRuntime,
    InMemoryTelemetry,
    LogEvents,
    StandardPermissions,
    StatusLine,
    ToolCall,
)
from shipworthy.domain.scope import Scope
from shipworthy.engine import observing
from tests.readers.world import ALICE, Recorder, bot, refund

REFUND = [ToolCall("refund", {"number": "17"}), "Done."]
END = ["RunResumed", "StopRequested", "RunEnded"]


def paused(**options: Any) -> Agent[Any, Any]:
    """An agent whose runs wait for approval."""
    guarded: dict[str, Any] = {"permissions": StandardPermissions(), "approval_handler": Inbox()}
    return bot(script=REFUND, tools=[refund], **guarded, **options)


def kinds(events: Sequence[object]) -> list[str]:
    return [type(event).__name__ for event in events]


async def law_of_erasure() -> None:
    """Whoever observes an agent is told that its run was ended to be erased."""
    memory, telemetry, recorder, shown = InMemoryMemory(), InMemoryTelemetry(), Recorder(), list[str]()
    agent = paused(memory=memory, telemetry=telemetry)
    recordings = [
        agent.attach(recorder),
        agent.attach(StatusLine(shown.append, every=0)),
        agent.attach(LogEvents()),
    ]
    assert (await agent.run("?", **{**ALICE, "run_id": "r1"})).status == "paused"
    await memory.erase(Scope("acme", "alice"))
    for recording in recordings:
        assert await recording.flush()
    assert kinds(recorder.of("r1"))[-3:] == END
    assert recorder.told[-1][1].user == "alice"
    assert [event.seq for event in recorder.of("r1")] == list(range(1, len(recorder.told) + 1))
    assert shown[-1] == "Cancelled"
    assert telemetry.close()
    sittings = [span for span in telemetry.spans if span.name == "invoke_agent bot"]
    assert [span.attributes["shipworthy.run.status"] for span in sittings] == ["paused", "cancelled"]


def test_the_end_of_a_run_that_is_erased_is_told() -> None:
    asyncio.run(law_of_erasure())


async def law_of_cancelling() -> None:
    """Of a run whose nested run is not its tool's any more, both ends are told, to the outer agent's readers."""
    runtime, recorder = InMemoryRuntime(), Recorder()
    guarded: dict[str, Any] = {"permissions": StandardPermissions(), "approval_handler": Inbox()}
    clerk = bot(script=REFUND, tools=[refund], name="clerk")
    script = [ToolCall("clerk", {"input": "x"}), "Done."]
    boss = bot(runtime, script, tools=[clerk.as_tool()], name="boss", **guarded)
    assert (await boss.run("?", **{**ALICE, "run_id": "r1"})).status == "paused"
    later = bot(runtime, script, tools=[], name="boss", **guarded)
    recording = later.attach(recorder)
    assert (await later.cancel("r1", tenant_id="acme")).status == "cancelled"
    assert await recording.flush()
    assert kinds(recorder.of("r1"))[-1] == "RunEnded"
    (nested,) = {about.run_id for _, about in recorder.told} - {"r1"}
    assert kinds(recorder.of(nested)) == END
    about = next(about for _, about in recorder.told if about.run_id == nested)
    assert (about.user, about.path, about.root, about.resumed) == ("alice", ("boss", "clerk"), "r1", True)


def test_the_end_of_a_nested_run_without_its_agent_is_told() -> None:
    asyncio.run(law_of_cancelling())


@pytest.mark.parametrize("law", [law_of_erasure, law_of_cancelling])
def test_the_laws_catch_an_end_that_is_told_to_nobody(law: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "_sit", lambda readers, past, events: None)
    with pytest.raises((AssertionError, ValueError)):
        asyncio.run(law())
