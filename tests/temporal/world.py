"""A bank whose runs are Temporal workflows; callers and workers share a SQLite file, and are of one process here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHistory

from shipworthy import (
    Agent,
    DidNotHappen,
    Happened,
    RunContext,
    ScriptedModel,
    TemporalRuntime,
    ToolCall,
    tool,
)
from shipworthy.app.configuration import Tuning
from tests.crash.proof import LONG
from tests.servers.temporal import fresh_name

SECRET = "sesame-4711"
TENANT: dict[str, Any] = {"tenant_id": "acme"}


def call(name: str, **args: Any) -> ToolCall:
    return ToolCall(name, args)


class Bank:
    """Agents of one service: each on a runtime of its own, all on one store and one task queue.

    `happened`: the effects outside. `gate`: what `wait` waits for.
    """

    def __init__(self, folder: Path, address: str, **options: Any) -> None:
        self.path, self.address = folder / "bank.db", address
        self.queue = fresh_name("bank")
        self.options: dict[str, Any] = {"patience": 2.0, "task_queue": self.queue, **options}
        self.happened: list[Any] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.fails: BaseException | None = None
        self.knows = True

    def agent(
        self,
        *turns: Any,
        name: str = "bank",
        store: str | None = None,
        tools: Sequence[Any] | None = None,
        recovers: float = 0.3,
        **options: Any,
    ) -> Agent[Any, str]:
        """A new agent, as another process would have it. `recovers`: how often it looks for runs that are left."""
        runtime = TemporalRuntime(self.address, store=store or f"sqlite:{self.path}", **self.options)
        return Agent(
            f"Keep {SECRET}.",
            name=name,
            model=ScriptedModel(turns),
            tools=self.tools() if tools is None else tools,
            runtime=runtime,
            tuning=Tuning(recover_every=recovers),
            **options,
        )

    def tools(self) -> Sequence[Any]:
        async def ask(ctx: RunContext[Any], args: Any) -> Happened | DidNotHappen:
            return Happened("seen") if args.amount in self.happened else DidNotHappen()

        @tool(effect="read")
        async def look(n: int) -> str:
            return f"{SECRET} {n}"

        @tool(effect="once")
        async def pay(amount: int) -> str:
            self.begun.set()
            if self.fails is not None:
                raise self.fails
            self.happened.append(amount)
            return f"{SECRET} paid {amount}"

        @tool(effect="once", verify=ask)
        async def wire(amount: int) -> str:
            self.begun.set()
            await self.gate.wait()
            self.happened.append(amount)
            return f"wired {amount}"

        @tool(effect="read")
        async def wait() -> str:
            self.begun.set()
            await self.gate.wait()
            return "waited"

        return [look, pay, wire, wait]

    @contextlib.asynccontextmanager
    async def worker(self, *turns: Any, **options: Any) -> AsyncIterator[Agent[Any, str]]:
        """A worker beside the caller."""
        agent = self.agent(*turns, **options)
        assert isinstance(agent.runtime, TemporalRuntime)
        async with agent, agent.runtime.serving():
            yield agent

    def workflow(self, run_id: str) -> str:
        """The id of the run's workflow."""
        return f"{self.queue}/4:acme/{run_id}"

    async def histories(self, run_id: str) -> list[WorkflowHistory]:
        """The histories of the run's workflow, the first one first."""
        client = await Client.connect(self.address)
        found = []
        async for one in client.list_workflows(f"WorkflowId = '{self.workflow(run_id)}'"):
            found.append(await client.get_workflow_handle(one.id, run_id=one.run_id).fetch_history())
        return sorted(found, key=lambda history: history.events[0].event_time.ToNanoseconds())


def activities(histories: Sequence[WorkflowHistory]) -> list[str]:
    """The types of the activities, in their order."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for history in histories
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


def with_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **options), 120.0 if not LONG else 900.0))

    return run


async def until(
    holds: Callable[[], Any], otherwise: Callable[[], str] = lambda: "It does not come.", within: float = 40.0
) -> None:
    """Wait until *holds*."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not holds():
        assert loop.time() < end, otherwise()
        await asyncio.sleep(0.01)
