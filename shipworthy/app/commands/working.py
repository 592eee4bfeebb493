"""`shipworthy worker`: take steps of an agent's runs for Temporal, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import msgspec
from msgspec.structs import asdict

from shipworthy.app.agent import Agent
from shipworthy.app.commands.printing import OK, Printer
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.app.temporal import TemporalRuntime
from shipworthy.errors import ConfigurationError


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What `worker` was asked for; what is None is as the agent's own runtime has it."""

    agent: str
    address: str | None
    namespace: str | None
    task_queue: str | None
    as_json: bool


def work(request: Request) -> int:
    """Serve until SIGTERM or SIGINT, then leave the runs to other workers; gives the exit code."""
    printer = Printer(as_json=request.as_json)
    with printer.user_code():
        asyncio.run(_work(printer, request))
    return OK


async def _work(printer: Printer, request: Request) -> None:
    agent = load_agent(request.agent)
    runtime = _runtime(agent, request)
    runtime.register(agent._in_use().plan)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        # Only where its runs are Temporal's are its orphans, too.
        await stack.enter_async_context(agent if runtime is agent.runtime else closing(agent))
        await stack.enter_async_context(runtime.serving())
        place = runtime.place
        if printer.as_json:
            told = {"address": place.address, "namespace": place.namespace, "task_queue": place.task_queue}
            printer.emit({"serving": {"agent": agent.name, **told}})
        else:
            where = f"task queue {place.task_queue}, namespace {place.namespace}, {place.address}"
            printer.say(f"Serving {agent.name} ({where}). Ctrl-C leaves its runs to other workers.")
        await stop.wait()


def _runtime(agent: Agent[Any, Any], request: Request) -> TemporalRuntime:
    """The agent's own, or another one on the store of the agent. Raises ConfigurationError."""
    own = agent.runtime
    asked = {"address": request.address, "namespace": request.namespace, "task_queue": request.task_queue}
    changes: dict[str, Any] = {name: text for name, text in asked.items() if text is not None}
    keys = [key.secret for key in own.keyring.given]
    if isinstance(own, TemporalRuntime):
        place: dict[str, Any] = asdict(own.place) | changes
        return TemporalRuntime(store=own.store, signing_keys=keys, **place) if changes else own
    if request.address is None:
        raise ConfigurationError(
            f"{request.agent} has no TemporalRuntime, and nothing else says where Temporal is.",
            fix="Pass --temporal host:port.",
        )
    return TemporalRuntime(store=own.store, signing_keys=keys, **changes)
