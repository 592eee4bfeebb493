"""What the laws of nested agents need: a store that several processes see, agents that follow scripts, and effects that
are counted outside the journal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shipworthy import Agent, ScriptedModel, SqliteRuntime, ToolCall, tool
from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.domain.events import AnyEvent, ToolAttempted
from shipworthy.domain.messages import Text, ToolResult
from shipworthy.domain.scope import Scope
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from shipworthy.testing.faults import Point, PointedStore, Points
from tests.engine.world import ALICE, go, journal, kinds, told, valid

Make = Callable[[Runtime], Agent[Any, Any]]
R = {**ALICE, "run_id": "r"}
HERE = Scope("acme", "alice")


class World:
    """One store, and one process at a time that works on it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._memory = InMemoryStore(1000)
        self._open: list[Runtime] = []

    def process(self) -> Runtime:
        """A new process's runtime."""
        made = (
            Runtime(self._memory, InProcess())
            if self._path is None
            else SqliteRuntime(self._path, durability="process")
        )
        self._open.append(made)
        return made

    async def end(self) -> None:
        """Every process ends; what it drove is left to others."""
        for runtime in self._open:
            await runtime.close()
        self._open.clear()

    @contextlib.asynccontextmanager
    async def agent(self, make: Make) -> AsyncIterator[Agent[Any, Any]]:
        """An agent in a process of its own."""
        try:
            made = make(runtime := self.process())
            await runtime.open()
            yield made
        finally:
            await self.end()


@contextlib.asynccontextmanager
async def process(world: World, make: Make) -> AsyncIterator[Agent[Any, Any]]:
    async with world.agent(make) as agent:
        yield agent


class Crash(BaseException):
    """The process died."""


class Mortal(Points):
    """Points at one of which the process dies: nothing reaches the store from then on."""

    def __init__(self, at: Point | None = None) -> None:
        super().__init__(at, self._die)
        self.dead = False

    def _die(self, point: Point) -> None:
        self.dead = True
        raise Crash

    @contextlib.contextmanager
    def around(self, kind: str) -> Iterator[None]:
        if self.dead:
            raise Crash
        with super().around(kind):
            yield


class Sink:
    """The world outside: what really happened, in order."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def pay(self, **options: Any) -> Any:
        @tool(effect="once", name="pay", **options)
        async def pay(amount: int) -> str:
            self.paid.append(amount)
            return f"paid {amount}"

        return pay


def calls(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def asks(name: str, task: str = "Do it") -> ToolCall:
    return ToolCall(name, {"input": task})


def scripted(name: str, *turns: Any, tools: Sequence[Any] = (), **options: Any) -> Agent[Any, Any]:
    return Agent("Be brief.", name=name, model=ScriptedModel(turns), tools=tools, **options)


def deep(sink: Sink, **pay: Any) -> Make:
    """boss asks clerk, clerk asks cashier, cashier pays."""
    return lambda runtime: boss_of(clerk_of(cashier_of(sink, **pay)), runtime=runtime)


def cashier_of(sink: Sink, **pay: Any) -> Agent[Any, Any]:
    return scripted("cashier", calls("pay", amount=50), "Paid.", tools=[sink.pay(**pay)])


def clerk_of(cashier: Agent[Any, Any], **options: Any) -> Agent[Any, Any]:
    return scripted("clerk", asks("cashier"), "Seen to.", tools=[cashier.as_tool()], **options)


def boss_of(clerk: Agent[Any, Any], **options: Any) -> Agent[Any, Any]:
    return scripted("boss", asks("clerk"), "All done.", tools=[clerk.as_tool()], **options)


async def act(agent: Agent[Any, Any], how: str, prompt: str = "Go", **given: Any) -> Any:
    """Run, or stream to the end."""
    if how == "run":
        return await agent.run(prompt, **{**R, **given})
    async with agent.stream(prompt, **{**R, **given}) as stream:
        async for _ in stream:
            pass
        return stream.result


async def child_of(agent: Agent[Any, Any], run_id: str = "r", nth: int = 0) -> str:
    """The id of the nested run that the nth attempted call made."""
    events = await journal(agent, run_id)
    made = [e.call_id for e in events if isinstance(e, ToolAttempted)]
    return f"{run_id}/{list(dict.fromkeys(made))[nth]}"


async def whole(agent: Agent[Any, Any], run_id: str = "r") -> dict[str, list[AnyEvent]]:
    """The journals of a run and all that are nested in it."""
    found = {run_id: await journal(agent, run_id)}
    for event in found[run_id]:
        if isinstance(event, ToolAttempted):
            for nested in (f"{run_id}/{event.call_id}", *[f"{run_id}/{event.call_id}.{i}" for i in range(4)]):
                with contextlib.suppress(Exception):
                    if nested not in found:
                        found |= await whole(agent, nested)
    return found


def texts(results: ToolResult) -> str:
    return "".join([c.text for c in results.content if isinstance(c, Text)])


__all__ = [
    "ALICE",
    "HERE",
    "Crash",
    "Make",
    "Mortal",
    "Point",
    "PointedStore",
    "R",
    "Sink",
    "World",
    "act",
    "asks",
    "boss_of",
    "calls",
    "cashier_of",
    "child_of",
    "clerk_of",
    "deep",
    "go",
    "journal",
    "kinds",
    "process",
    "pytest",
    "scripted",
    "told",
    "valid",
    "whole",
]
