"""Reading along with a run: from its journal, and live where this process drives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from shipworthy.domain.events import AnyEvent, Event, RunEnded, RunParked
from shipworthy.domain.journal import RunSummary
from shipworthy.domain.model import Delta
from shipworthy.domain.scope import Scope
from shipworthy.engine.live import LiveRun
from shipworthy.engine.runtime import Runtime
from shipworthy.engine.watch import Watcher

_POLL = 0.02
_SLOWEST_POLL = 0.5

Adopt = Callable[[], Awaitable[None]]


class Follower:
    """Every event after *after*, each once and in order, until the run ends or is paused; deltas where they are to be
    had. A run that another process drives is polled, and *adopt* may take it over if that process died.

    A read that is cancelled loses nothing: the next one goes on. Raises RunNotFound.
    """

    __slots__ = ("_adopt", "_over", "_poll", "_read", "_run_id", "_runtime", "_scope", "_seen", "_watcher")

    def __init__(
        self, runtime: Runtime, scope: Scope, run_id: str, after: int = 0, adopt: Adopt | None = None
    ) -> None:
        self._runtime = runtime
        self._scope = scope
        self._run_id = run_id
        self._seen = after
        self._adopt = adopt
        self._read: deque[AnyEvent] = deque()
        self._watcher: Watcher | None = None
        self._over = False
        self._poll = _POLL

    def begin_with(self, run: LiveRun) -> None:
        """Read along with a run that was just begun here, from before its first step on: no delta is missed."""
        if self._seen < run.state.seq:
            self._read.append(run.state.started)
        self._watcher = self._runtime.watch(self._scope, self._run_id)

    def __aiter__(self) -> Follower:
        return self

    def close(self) -> None:
        """Read along no more."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self._runtime.unwatch(self._scope, self._run_id, watcher)

    def at_hand(self) -> AnyEvent | Delta | None:
        """The next item, if it is there already."""
        if self._read:
            return self._note(self._read.popleft())
        if self._watcher is not None:
            while self._watcher.items:
                item = self._watcher.pop()
                if not isinstance(item, Event):
                    return item
                if item.seq > self._seen:
                    return self._note(item)
        return None

    async def __anext__(self) -> AnyEvent | Delta:
        while True:
            if (item := self.at_hand()) is not None:
                return item
            if self._watcher is not None and (item := await self._live(self._watcher)) is not None:
                return item
            if self._over:
                raise StopAsyncIteration
            await self._look()

    async def _live(self, watcher: Watcher) -> AnyEvent | Delta | None:
        """The next item of the sitting that is watched; None when it is over."""
        async for item in watcher:
            if not isinstance(item, Event):
                return item
            if item.seq > self._seen:
                return self._note(item)
        self._watcher = None
        return None

    async def _look(self) -> None:
        """Read what is new in the journal, and watch the run if it is driven here; otherwise wait a little."""
        store = self._runtime.store
        watcher = self._runtime.watch(self._scope, self._run_id)
        try:
            events = await store.read(self._scope, self._run_id, self._seen)
            resting = not events and self._rests(await store.find(self._scope, self._run_id))
        except BaseException:
            if watcher is not None:
                self._runtime.unwatch(self._scope, self._run_id, watcher)
            raise
        self._watcher = watcher
        self._read.extend(events)
        if watcher is not None and events:
            watcher.skip(events[-1].seq)
        if events:
            self._poll = _POLL
        elif watcher is None and resting:
            self._over = True
        elif watcher is None:
            if self._adopt is not None:
                await self._adopt()
            await store.news(self._scope, self._run_id, self._poll)
            self._poll = min(self._poll * 2, _SLOWEST_POLL)

    def _rests(self, run: RunSummary) -> bool:
        """Whether nothing follows: it may have come to its end since its journal was read."""
        return run.status != "running" and run.events <= self._seen

    def _note(self, event: AnyEvent) -> AnyEvent:
        self._seen = event.seq
        self._over = isinstance(event, (RunEnded, RunParked))
        return event


async def wait_until_over(runtime: Runtime, scope: Scope, run_id: str, after: int = 0) -> None:
    """Return when the run has ended or is paused."""
    follower = Follower(runtime, scope, run_id, after)
    try:
        async for _ in follower:
            pass
    finally:
        follower.close()
