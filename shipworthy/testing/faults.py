"""Points at which a run can be made to fail: every durable write, and every effect that a test encloses.

    points = Points(at=Point("commit", 7, "after"))     # SIGKILL right after the seventh commit
    runtime = SqliteRuntime("bot.db")
    points.watch(runtime)
    ...
    with points.around("charge"):                       # in a tool's body, around its effect
        bank.charge(amount)

A first run with `Points()` gives in `reached` all the points that there are; then each is tried, in a process of
its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import msgspec

from shipworthy.domain.events import AnyEvent
from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.journal import Batch, Claim, Fence, RunFilter, RunSummary, Tombstones
from shipworthy.domain.ledger import Outcome
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.runtime import Runtime
from shipworthy.ports.store import OwnLedger, Store

Side = Literal["before", "after"]
Acknowledged = Callable[[Scope, str, Sequence[AnyEvent]], None]


class Point(msgspec.Struct, frozen=True, gc=False):
    """The moment before or after the `ordinal`th write or effect (from 1) of its kind."""

    kind: str
    ordinal: int
    side: Side

    def __str__(self) -> str:
        return f"{self.side} {self.kind} {self.ordinal}"


def kill(point: Point) -> None:
    """End this process as a power switch would: nothing is flushed, closed or told."""
    os.kill(os.getpid(), signal.SIGKILL)


class Points:
    """Counts what is reached and does `action` at the point `at`. Bodies in threads are counted too."""

    def __init__(self, at: Point | None = None, action: Callable[[Point], None] = kill) -> None:
        self.at = at
        self.action = action
        self.reached: list[Point] = []
        self._ordinals: dict[str, int] = {}
        self._lock = threading.Lock()

    def watch(
        self, runtime: Runtime, *, acknowledged: Acknowledged = lambda scope, run_id, events: None
    ) -> None:
        """Number the durable writes of *runtime*; `acknowledged` is told of each that its store acknowledged."""
        runtime.store = PointedStore(runtime.store, self, acknowledged)

    @contextlib.contextmanager
    def around(self, kind: str) -> Iterator[None]:
        """The points before and after what is done inside, if it is done: an exception has no point after it."""
        with self._lock:
            ordinal = self._ordinals[kind] = self._ordinals.get(kind, 0) + 1
        self._reach(Point(kind, ordinal, "before"))
        yield
        self._reach(Point(kind, ordinal, "after"))

    def _reach(self, point: Point) -> None:
        with self._lock:
            self.reached.append(point)
        if point == self.at:
            self.action(point)


class PointedStore(Store):
    """A store whose durable writes are numbered as `begin`, `claim` and `commit`."""

    def __init__(self, store: Store, points: Points, acknowledged: Acknowledged) -> None:
        self._store = store
        self._points = points
        self._acknowledged = acknowledged

    async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
        with self._points.around("begin"):
            fence = await self._store.begin(scope, run_id, batch, token)
            if fence is not None:
                self._acknowledged(scope, run_id, batch.events)
        return fence

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        with self._points.around("claim"):
            return await self._store.claim(scope, run_id)

    async def release(self, fence: Fence) -> None:
        with self._points.around("release"):
            await self._store.release(fence)

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        with self._points.around("commit"):
            outcomes = await self._store.commit(fence, batch)
            self._acknowledged(fence.scope, fence.run_id, batch.events)
        return outcomes

    @property
    def ledger(self) -> OwnLedger:
        return self._store.ledger

    @property
    def place(self) -> str | None:
        """That of the store, whose commits carry what is kept there as well."""
        return getattr(self._store, "place", None)

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def read(self, scope: Scope, run_id: str, after: int = 0) -> list[AnyEvent]:
        return await self._store.read(scope, run_id, after)

    async def news(self, scope: Scope, run_id: str, within: float) -> None:
        await self._store.news(scope, run_id, within)

    async def body(self, scope: Scope, run_id: str, digest: str) -> bytes:
        return await self._store.body(scope, run_id, digest)

    async def find(self, scope: Scope, run_id: str) -> RunSummary:
        return await self._store.find(scope, run_id)

    async def list(self, scope: Scope, which: RunFilter) -> Sequence[RunSummary]:
        return await self._store.list(scope, which)

    async def session(self, scope: Scope, head: int | None = None) -> Sequence[str]:
        return await self._store.session(scope, head)

    async def orphans(self, operator: Operator) -> Sequence[RunSummary]:
        return await self._store.orphans(operator)

    async def due(self, operator: Operator, now: int, skip: int = 0) -> Sequence[RunSummary]:
        return await self._store.due(operator, now, skip)

    async def everything(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, RunSummary]]:
        return await self._store.everything(operator, after)

    async def prune(self, operator: Operator, ended_before: int) -> int:
        return await self._store.prune(operator, ended_before)

    async def signing_keys(self) -> Sequence[SigningKey]:
        return await self._store.signing_keys()

    async def rotate_signing_key(self, operator: Operator, keep: int = 4) -> SigningKey:
        return await self._store.rotate_signing_key(operator, keep)

    async def grants(self, scope: Scope) -> Sequence[Grant]:
        return await self._store.grants(scope)

    async def revoke(self, scope: Scope, grant_id: str) -> bool:
        with self._points.around("revoke"):
            return await self._store.revoke(scope, grant_id)

    async def everyones_grants(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, Grant]]:
        return await self._store.everyones_grants(operator, after)

    async def adopt(
        self, operator: Operator, keys: Sequence[SigningKey], grants: Sequence[Grant] = ()
    ) -> None:
        with self._points.around("adopt"):
            await self._store.adopt(operator, keys, grants)

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        with self._points.around("bury"):
            await self._store.bury(scope, tombstones)

    async def disown(self, scope: Scope, run_ids: Collection[str] = ()) -> Sequence[str]:
        with self._points.around("disown"):
            return await self._store.disown(scope, run_ids)

    async def scrub(self, operator: Operator) -> Sequence[str]:
        with self._points.around("scrub"):
            return await self._store.scrub(operator)

    def clock(self) -> int:
        return self._store.clock()

    def start_by(self) -> int:
        return self._store.start_by()

    @property
    def skew(self) -> int:
        return self._store.skew


__all__ = ["Point", "PointedStore", "Points", "kill"]
