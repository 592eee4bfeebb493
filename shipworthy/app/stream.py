"""A run as it happens: its durable events with their sequence numbers, and provisional deltas between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic

from shipworthy.app.service import Service
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.model import Delta, TextDelta
from shipworthy.domain.results import OutputT, RunResult
from shipworthy.domain.scope import Scope
from shipworthy.engine.follow import Adopt, Follower
from shipworthy.engine.live import LiveRun
from shipworthy.engine.outcome import result_of
from shipworthy.errors import NotFinished
from shipworthy.rules.state import status_of

Reading = LiveRun | tuple[str, Adopt | None]
"""A run to be driven here; or the id of one that is known, and how to take it over if a dead worker left it."""


class AgentStream(Generic[OutputT]):
    """Reads a run, from its own start or one that is under way.

    Iterating gives every event after `after` once and in order, and deltas as they come; an event is shown only when it
    is durable. Leaving the `async with` block early cancels a run that was started here, unless `detach()` was called.
    """

    def __init__(
        self, service: Service, scope: Scope, start: Callable[[], Awaitable[Reading]], *, after: int
    ) -> None:
        self._service = service
        self._start = start
        self._scope = scope
        self._after = after
        self._run: LiveRun | None = None
        self._task: asyncio.Task[LiveRun] | None = None
        self._detached = False
        self._result: RunResult[OutputT] | None = None
        self._items: Follower | None = None
        self.run_id = ""

    async def __aenter__(self) -> AgentStream[OutputT]:
        started = await self._start()
        adopt: Adopt | None = None
        if isinstance(started, LiveRun):
            self._run, self.run_id = started, started.run_id
        else:
            self.run_id, adopt = started
        self._items = Follower(self._service.runtime, self._scope, self.run_id, self._after, adopt)
        if self._run is not None:
            self._items.begin_with(self._run)
            self._task = self._service.runtime.spawn(self._run)
        return self

    def detach(self) -> None:
        """Let the run go on when the block is left; `agent.stream(run_id=...)` finds it again."""
        self._detached = True

    def __aiter__(self) -> AgentStream[OutputT]:
        return self

    async def __anext__(self) -> AnyEvent | Delta:
        """The next item. A read that is cancelled, by `asyncio.wait_for` say, loses nothing and stops nothing."""
        if self._items is None:
            raise NotFinished(
                "The stream was not entered.", fix="Use `async with agent.stream(...) as stream`."
            )
        try:
            return await anext(self._items)
        except StopAsyncIteration:
            await self._finish()
            raise

    async def text(self) -> AsyncIterator[str]:
        """Only the text, as it comes. Provisional: an attempt that fails and is made again starts its text anew."""
        while True:
            item = None if self._items is None else self._items.at_hand()
            if item is None:
                try:
                    item = await anext(self)
                except StopAsyncIteration:
                    return
            if type(item) is TextDelta:
                yield item.text

    @property
    def result(self) -> RunResult[OutputT]:
        """The run's result, once the stream was read to its end. Raises NotFinished before."""
        if self._result is None:
            raise NotFinished(f"Run {self.run_id!r} has not ended in this stream.")
        return self._result

    async def _finish(self) -> None:
        if self._task is not None:
            self._run = await asyncio.shield(self._task)
        self._result = await result_of(self._run or await self._service.load(self._scope, self.run_id))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._items is not None:
            self._items.close()
        run, task = self._run, self._task
        if run is None or task is None or self._detached:
            return
        if not task.done():
            await self._service.runtime.cancel(task)
        if not task.cancelled():
            if (failure := task.exception()) is None:
                run = task.result()
            elif kind is None:
                raise failure
        if self._result is None and status_of(run.state) != "running":
            self._result = await result_of(run)
