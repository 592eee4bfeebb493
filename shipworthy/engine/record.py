"""Appending to a run: stamp, fold, and commit. Nothing is shown to anybody before it is durable."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from msgspec.structs import force_setattr

from shipworthy.domain.events import AnyEvent, RunEnded, RunStatus
from shipworthy.domain.journal import Batch, Fence
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.watch import Watcher
from shipworthy.ports.store import Store
from shipworthy.rules.state import RunState, fold


class Recorder:
    """The one writer of a run's journal in this process.

    `urgent`: something waits for its commit that cannot be had again, such as the result of an effect.
    """

    __slots__ = ("_fence", "_pending", "_store", "bodies", "state", "urgent", "watchers")

    def __init__(self, store: Store, fence: Fence, state: RunState, bodies: Bodies) -> None:
        self._store = store
        self._fence = fence
        self._pending: list[AnyEvent] = []
        self.state = state
        self.bodies = bodies
        self.urgent = False
        self.watchers: list[Watcher] = []

    @property
    def token(self) -> int:
        return self._fence.token

    def record(self, event: AnyEvent) -> None:
        """Append *event* to what the next commit makes durable, and let the state follow."""
        stamp(event, self.state.seq + 1)
        fold(self.state, event)
        self._pending.append(event)

    async def commit(self) -> None:
        """Make everything recorded so far durable, then show it. Raises StoreError: the run stops in this process."""
        events = self._pending
        if not events:
            return
        self._pending = []
        fresh, self.bodies.fresh = self.bodies.fresh, {}
        self.urgent = False
        status = status_of(self.state)
        batch = Batch(events, fresh, status, status != "running" and self._joins_session(events))
        try:
            await self._store.commit(self._fence, batch)
        except asyncio.CancelledError:
            self._publish(events)  # a commit completes before it is cancelled
            raise
        self._publish(events)

    def _publish(self, events: list[AnyEvent]) -> None:
        for watcher in self.watchers:
            for event in events:
                watcher.put(event)

    def show(self, delta: Any) -> None:
        """A provisional piece of an answer, to whoever reads along."""
        for watcher in self.watchers:
            watcher.put(delta)

    def _joins_session(self, events: list[AnyEvent]) -> bool:
        end = events[-1]
        return type(end) is RunEnded and end.status != "failed" and self.state.started.session is not None


def stamp(event: AnyEvent, seq: int) -> None:
    """Give a new event its place and time."""
    force_setattr(event, "seq", seq)
    force_setattr(event, "at", time.time_ns() // 1_000_000)


def status_of(state: RunState) -> RunStatus:
    """The run's status as a listing shows it."""
    if state.ended is not None:
        return state.ended.status
    return "paused" if state.parked else "running"
