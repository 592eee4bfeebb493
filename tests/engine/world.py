"""What the engine's laws need: agents in memory or on a file, and effects counted outside the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from shipworthy import Agent, ScriptedModel, SqliteRuntime, tool
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.messages import Message, ToolCall, ToolResult
from shipworthy.domain.scope import Scope

T = TypeVar("T")
ALICE = {"tenant_id": "acme", "user_id": "alice"}


def go(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


LIMIT = 20.0
"""Seconds in which even a busy machine comes to where `too_long` is awaited."""


async def too_long() -> None:
    """Wait for ever. All that is to happen within `LIMIT` seconds on this event loop happens now, deadlines too: no
    law about a deadline depends on how long it took to come here."""
    loop: Any = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + LIMIT
    await asyncio.Event().wait()


def agent(*turns: Any, tools: Sequence[Any] = (), **options: Any) -> Agent[Any, Any]:
    """An agent that follows a script."""
    return Agent("Be brief.", model=ScriptedModel(turns), tools=tools, **options)


class Sink:
    """The world outside: what really happened, in order."""

    def __init__(self) -> None:
        self.effects: list[Any] = []

    def charge(self, effect: str = "once", **options: Any) -> Any:
        @tool(effect=effect, name="charge", **options)
        async def charge(amount: int) -> str:
            self.effects.append(amount)
            return f"charged {amount}"

        return charge


def valid(messages: Sequence[Message]) -> bool:
    """Every tool call has its one result, in the very next message, and no result is without its call."""
    for i, message in enumerate(messages):
        calls = [p.call_id for p in message.parts if isinstance(p, ToolCall)]
        results = [p.call_id for p in message.parts if isinstance(p, ToolResult)]
        if calls:
            after = messages[i + 1] if i + 1 < len(messages) else None
            if after is None or [p.call_id for p in after.parts if isinstance(p, ToolResult)] != calls:
                return False
        if results:
            before = messages[i - 1] if i else None
            if before is None or [p.call_id for p in before.parts if isinstance(p, ToolCall)] != results:
                return False
    return True


async def journal(of: Agent[Any, Any], run_id: str, tenant: str = "acme") -> list[AnyEvent]:
    return await of.runtime.store.read(Scope(tenant), run_id)


def kinds(events: Sequence[AnyEvent]) -> list[str]:
    return [type(e).__name__ for e in events]


def told(result: Any, slot: int = 0) -> str:
    """What the model was told of a call in the last answered round."""
    rounds = [m for m in result.messages if m.role == "tool"]
    part = rounds[-1].parts[slot]
    assert isinstance(part, ToolResult)
    return "".join(getattr(c, "text", "") for c in part.content)


async def on_file(path: Any, body: Callable[[SqliteRuntime], Awaitable[T]]) -> T:
    """A sitting on a SQLite file, closed at its end."""
    runtime = SqliteRuntime(path)
    try:
        return await body(runtime)
    finally:
        await runtime.close()
