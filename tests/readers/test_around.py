"""What somebody who observes puts around a run: all that the run does is in it, and the body of a call in its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider

from shipworthy import Agent, Approve, Decision, Inbox, OTelTelemetry, StandardPermissions, ToolCall
from shipworthy.domain.events import AnyEvent
from shipworthy.engine import drive
from shipworthy.engine.live import LiveRun
from shipworthy.ports.readers import Sight
from tests.readers.world import ALICE, bot, refund, run

WHERE: ContextVar[tuple[str | None, ...]] = ContextVar("where", default=())


class Around:
    """A reader that keeps what it puts around what, in a context variable."""

    def sitting(self, sight: Sight) -> Around:
        return self

    def trace(self) -> str:
        return ""

    def saw(self, events: Sequence[AnyEvent]) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def around(self, call_id: str | None) -> Iterator[None]:
        before = WHERE.set((*WHERE.get(), call_id))
        yield
        WHERE.reset(before)

    def over(self, error: BaseException | None) -> None:
        assert WHERE.get() == ()


class Asked:
    """A policy that says where it is asked."""

    immediate = False

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.version, self._tell = "1", tell

    async def decide(self, scope: Any, action: Any) -> Decision:
        self._tell("policy")
        return Decision.allow_(rule="r")


def told_by_hooks(agent: Agent[Any, Any], tell: Callable[[str], None]) -> None:
    """Have every hook say where it is."""

    @agent.before_model
    async def before_model(ctx: Any, request: Any) -> None:
        tell("before_model")

    @agent.after_model
    def after_model(ctx: Any, answer: Any) -> None:
        tell("after_model")

    @agent.before_tool
    async def before_tool(ctx: Any, action: Any) -> None:
        tell("before_tool")

    @agent.after_tool
    def after_tool(ctx: Any, action: Any, content: Any) -> None:
        tell("after_tool")


def law_of_place() -> None:
    """Hooks and policies are in what is around their run; nothing of it is left when the run is over."""
    seen: set[tuple[str, tuple[str | None, ...]]] = set()

    def tell(what: str) -> None:
        seen.add((what, WHERE.get()))

    agent = bot(permissions=Asked(tell))
    told_by_hooks(agent, tell)
    agent.attach(Around())

    async def go() -> None:
        assert (await agent.run("?", **ALICE)).status == "completed"
        assert WHERE.get() == ()

    asyncio.run(go())
    everybody = ("before_model", "after_model", "policy", "before_tool", "after_tool")
    assert seen == {(what, (None,)) for what in everybody}


def test_hooks_and_policies_are_in_what_is_around_their_run() -> None:
    law_of_place()


def test_the_law_catches_a_run_that_nothing_is_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "around", lambda run, call_id: contextlib.nullcontext())
    with pytest.raises(AssertionError):
        law_of_place()


def test_nothing_is_put_around_a_run_that_nobody_observes(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(run: LiveRun, call_id: str | None) -> None:
        raise AssertionError(call_id)

    monkeypatch.setattr(drive, "around", never)
    assert run(bot()).status == "completed"


def test_spans_of_hooks_are_in_the_span_of_their_sitting() -> None:
    spans = TracerProvider(shutdown_on_exit=False)
    telemetry = OTelTelemetry(spans, NoOpMeterProvider())
    seen: list[tuple[str, str]] = []
    agent = bot(
        script=[ToolCall("refund", {"number": "17"}), "Done."],
        tools=[refund],
        permissions=StandardPermissions(),
        approval_handler=Inbox(),
        telemetry=telemetry,
    )
    told_by_hooks(agent, lambda what: seen.append((what, getattr(trace.get_current_span(), "name", "none"))))

    async def go() -> None:
        parked = await agent.run("?", **ALICE)
        assert {what for what, _ in seen} == {"before_model", "after_model", "before_tool"}
        assert {name for _, name in seen} == {"invoke_agent bot"}
        seen.clear()
        assert (await agent.resume(parked, answer=Approve(by="bob"))).status == "completed"

    asyncio.run(go())
    assert telemetry.close()
    assert {what for what, _ in seen} == {"before_model", "after_model", "before_tool", "after_tool"}
    assert {name for _, name in seen} == {"invoke_agent bot"}
