"""An agent with a till, on a runtime that DBOS drives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dbos import DBOS

from shipworthy import (
    Agent,
    DBOSRuntime,
    ScriptedModel,
    SqliteRuntime,
    ToolCall,
    tool,
)

ALICE: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice"}


class Till:
    """Takes money, and waits, fails or goes on as it is told to."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.wait: Callable[[], Awaitable[object]] = self.go_on.wait
        self.fails = False

    def charge(self) -> Any:
        @tool(effect="once")
        async def charge(amount: int) -> str:
            """Charge."""
            self.entered.set()
            await self.wait()
            self.taken.append(amount)
            if self.fails:
                raise OSError("no answer")
            return "charged"

        return charge


def agent(runtime: Any, till: Till, **options: Any) -> Agent[Any, str]:
    model = ScriptedModel([ToolCall("charge", {"amount": 5}), "Charged."])
    return Agent("Take it.", name="clerk", model=model, tools=[till.charge()], runtime=runtime, **options)


def go(law: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await law()

    asyncio.run(bounded())


@asynccontextmanager
async def runtime_on(place: str | Path, lease_ttl: float = 0.5, **options: Any) -> AsyncIterator[DBOSRuntime]:
    url = place if isinstance(place, str) else f"sqlite:{place / 'bot.db'}"
    store = None if isinstance(place, str) else SqliteRuntime(place / "bot.db", lease_ttl=lease_ttl).store
    runtime = DBOSRuntime(url, store=store, **options)
    try:
        yield runtime
    finally:
        await runtime.close()


def statuses() -> list[str]:
    """Of the workflows that DBOS knows, from the oldest on."""
    return [found.status for found in DBOS.list_workflows()]


async def until(met: Callable[[list[str]], bool]) -> list[str]:
    """Their statuses, when they are so; DBOS notes an end a little after the run has come to it."""
    for _ in range(1000):
        if met(now := await asyncio.to_thread(statuses)):
            return now
        await asyncio.sleep(0.01)
    raise AssertionError(now)


async def over(count: int) -> list[str]:
    """The same, of so many, when they are over."""
    return await until(lambda now: len(now) == count and not {"PENDING", "ENQUEUED"} & {*now})


def set_polling(queue: str, seconds: float) -> None:
    """Seconds between two looks at the queue."""
    DBOS.register_queue(queue, polling_interval_sec=seconds, on_conflict="always_update")
