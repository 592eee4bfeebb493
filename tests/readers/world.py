"""Agents to be observed, and what may be asked of whoever observes them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from shipworthy import Agent, InMemoryRuntime, Observed, ScriptedModel, ToolCall, tool
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.scope import Scope
from shipworthy.ports.readers import Sight

ALICE: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice", "session_id": "s1"}
SECRET = "the-secret-of-alice"


@tool(effect="read")
async def lookup_order(number: str) -> str:
    """Look up an order."""
    return f"shipped, {SECRET}"


@tool(effect="once")
async def refund(number: str) -> str:
    """Pay an order back."""
    return "refunded"


SCRIPT = [ToolCall("lookup_order", {"number": SECRET}), f"It is on its way, {SECRET}."]


def bot(runtime: Any = None, script: list[Any] | None = None, **options: Any) -> Agent[Any, str]:
    """An agent that looks up an order, and says so."""
    given = {"tools": [lookup_order], "name": "bot", **options}
    return Agent(model=ScriptedModel(script or SCRIPT), runtime=runtime or InMemoryRuntime(), **given)


class Recorder:
    """Keeps what it is told, of whom, and on which thread."""

    def __init__(self) -> None:
        self.told: list[tuple[AnyEvent, Observed]] = []
        self.threads: set[int] = set()

    def __call__(self, event: AnyEvent, about: Observed) -> None:
        self.threads.add(threading.get_ident())
        self.told.append((event, about))

    def of(self, run_id: str) -> list[AnyEvent]:
        """What it was told of one run."""
        return [event for event, about in self.told if about.run_id == run_id]


class Hanging:
    """Returns from the first call only when it is let."""

    def __init__(self) -> None:
        self.called, self.let = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, event: Any) -> None:
        self.calls += 1
        self.called.set()
        assert self.let.wait(30)


async def journal(agent: Agent[Any, Any], run_id: str) -> list[AnyEvent]:
    """What the store has of a run."""
    return await agent.runtime.store.read(Scope("acme"), run_id)


def sight(run_id: str = "r1", past: tuple[AnyEvent, ...] = ()) -> Sight:
    """What a reader sees of a run of the agent `bot`."""
    return Sight(Scope("acme", "alice", "s1"), run_id, ("bot",), "scripted", past, {"lookup_order"})


def run(agent: Agent[Any, Any], **options: Any) -> Any:
    """One run, to its end."""
    return asyncio.run(agent.run("Where is my order?", **{**ALICE, "run_id": "r1", **options}))
