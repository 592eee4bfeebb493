"""Reading along with a run: from its journal, and live where this process drives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from shipworthy.domain.events import AnyEvent, Event, RunEnded, RunParked
from shipworthy.domain.model import Delta
from shipworthy.domain.scope import Scope
from shipworthy.engine.runtime import Runtime

_POLL = 0.02
_SLOWEST_POLL = 0.5


Adopt = Callable[[], Awaitable[None]]


async def follow(
    runtime: Runtime, scope: Scope, run_id: str, after: int = 0, adopt: Adopt | None = None
) -> AsyncIterator[AnyEvent | Delta]:
    """Every event after *after*, each once and in order, until the run ends or is paused; deltas where they are to be
    had. A run that another process drives is polled, and *adopt* may take it over if that process died. Raises
    RunNotFound."""
    seen = after
    poll = _POLL
    while True:
        watcher = runtime.watch(scope, run_id)
        over = False
        for event in await runtime.store.read(scope, run_id, seen):
            seen, poll = event.seq, _POLL
            over = isinstance(event, (RunEnded, RunParked))
            yield event
        if watcher is not None:
            async for item in watcher:
                if not isinstance(item, Event):
                    yield item
                elif item.seq > seen:
                    seen = item.seq
                    over = isinstance(item, (RunEnded, RunParked))
                    yield item
        if over or (seen == after and await _resting(runtime, scope, run_id)):
            return
        if watcher is None:
            if adopt is not None:
                await adopt()
            await asyncio.sleep(poll)
            poll = min(poll * 2, _SLOWEST_POLL)


async def _resting(runtime: Runtime, scope: Scope, run_id: str) -> bool:
    return (await runtime.store.find(scope, run_id)).status != "running"
