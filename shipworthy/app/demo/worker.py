"""A worker process of the demo: starts, resumes or settles one run, and tells its parent what it sees, line by line.

It can be told to stop at a point in a tool's body, so that its parent can kill it exactly there:
"refund:before" and "refund:after" are just before and just after the effect.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from shipworthy import Agent, AgentStream, DidNotHappen, Happened, RunResult, TextDelta
from shipworthy.app.demo import audited
from shipworthy.app.demo.desk import Ledger, Notes
from shipworthy.app.demo.script import scripted
from shipworthy.app.demo.support import Desk, support_agent
from shipworthy.app.demo.world import database_in, desk_in

STREAMING = "streaming"
_DELTAS = 8
"""Pieces of text after which a worker that is to stop while streaming does so."""

_TELLING = 0.25
"""Seconds in which the stream tells what is durable, before the end."""


class Task(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a worker is to do. Without a prompt it resumes; `settle` says of calls in doubt whether they happened."""

    folder: str
    tenant: str
    run_id: str
    user: str = ""
    session: str = ""
    prompt: str | None = None
    settle: dict[str, bool] = {}
    model: str | None = None
    base_url: str | None = None
    stop: str | None = None
    mutant: str | None = None


_telling = threading.Lock()


def tell(**said: Any) -> None:
    """One line to the parent; tools say theirs from threads."""
    with _telling:
        sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
        sys.stdout.flush()


class Stop:
    """The point at which this worker waits for its end."""

    def __init__(self, at: str | None) -> None:
        self._at = at

    def here(self, point: str) -> None:
        if point == self._at:
            time.sleep(_TELLING)
            tell(inside=point)
            time.sleep(60)
            os._exit(1)  # nobody came to kill it: its parent is gone


class WatchedLedger(Ledger):
    """The ledger, with a stop around its effects."""

    def __init__(self, path: Path, stop: Stop, *, forgetful: bool) -> None:
        super().__init__(path)
        self._stop = stop
        self._forgetful = forgetful

    def append(self, kind: str, reference: str, **details: Any) -> None:
        self._stop.here(f"{kind}:before")
        super().append(kind, reference, **details)
        self._stop.here(f"{kind}:after")

    def find(self, reference: str) -> dict[str, Any] | None:
        return None if self._forgetful else super().find(reference)


class WatchedNotes(Notes):
    """The notes, with a stop around their effects."""

    def __init__(self, folder: Path, stop: Stop) -> None:
        super().__init__(folder)
        self._stop = stop

    def write(self, key: str, text: str) -> None:
        self._stop.here("save_note:before")
        super().write(key, text)
        self._stop.here("save_note:after")


def model_of(name: str | None, base_url: str | None) -> Any:
    """The scripted model, a provider's by its name, or what a local server has."""
    if name is None:
        return scripted()
    if base_url is None:
        return name
    from shipworthy.adapters.openai import OpenAIChat

    return OpenAIChat(name, base_url=base_url)


async def work(task: Task) -> None:
    """Do it, and tell how the run stands in the end."""
    stop = Stop(task.stop)
    desk = desk_in(Path(task.folder))
    desk.ledger = WatchedLedger(desk.ledger.path, stop, forgetful=task.mutant == "twice")
    desk.notes = WatchedNotes(desk.notes.folder, stop)
    folder = Path(task.folder)
    database = database_in(folder)
    agent = support_agent(
        model_of(task.model, task.base_url), database, desk, audited.log_in(folder, database)
    )
    tell(pid=os.getpid())
    result = await (_resume(agent, task, stop) if task.prompt is None else _start(agent, task, stop))
    tell(status=result.status, error=result.error, pending=[c.call_id for c in result.pending])
    await agent.runtime.close()


async def _start(agent: Agent[Desk, str], task: Task, stop: Stop) -> RunResult[str]:
    async with agent.stream(
        task.prompt or "",
        tenant_id=task.tenant,
        user_id=task.user,
        session_id=task.session,
        run_id=task.run_id,
    ) as stream:
        await _read(stream, stop)
        return stream.result


async def _resume(agent: Agent[Desk, str], task: Task, stop: Stop) -> RunResult[str]:
    settle = {call: Happened("It was done.") if yes else DidNotHappen() for call, yes in task.settle.items()}
    resuming = asyncio.create_task(agent.resume(task.run_id, tenant_id=task.tenant, settle=settle))
    if settle:  # its journal says "parked" until the resuming has begun, so that a stream could end before it
        return await resuming
    async with agent.stream(run_id=task.run_id, tenant_id=task.tenant) as stream:
        reading = asyncio.create_task(_read(stream, stop))
        try:
            return await resuming
        except BaseException:
            reading.cancel()
            raise
        finally:
            await asyncio.wait([reading])


async def _read(stream: AgentStream[str], stop: Stop) -> None:
    """Tell every durable event, as it was streamed."""
    deltas = 0
    async for item in stream:
        if not isinstance(item, TextDelta):
            tell(event=item) if hasattr(item, "seq") else None
        elif (deltas := deltas + 1) == _DELTAS:
            stop.here(STREAMING)


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.argv[1], type=Task)))
