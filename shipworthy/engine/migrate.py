"""Bringing the runs of one store to another, whatever they are kept in, so that each goes on in one of them only.

Ended runs are copied. A run that has not ended is moved: first the source's journal gets a last event that says where
it went, under a claim, so that no worker can own it there any more; then it is begun in the destination, whole, in one
batch. Wherever this stops, doing it again goes on from there: at each moment at most one of the two can be driven.
Nested runs come with the run that they belong to: after the source has given that up, for only it goes on with them,
and before it is begun in the destination, where it would begin those anew that it does not find.

What was spent is carried before the first run and after the last, so that a run that goes on finds its caps as they
were. While both stores are used, each counts for itself what is spent until the next carrying. So are the keys that
the source signed with, whichever tenant is asked for, and its grants (entrusting.py): an approval that was given there
is good in the destination.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shipworthy.domain.events import AnyEvent, RunEnded, ToolAttempted
from shipworthy.domain.journal import Batch, Claim, RunFilter, RunSummary
from shipworthy.domain.scope import LONGEST_ID, Operator, Scope, is_too_long
from shipworthy.engine.bodies import digests_of
from shipworthy.engine.entrusting import Entrusting
from shipworthy.engine.removal import Removal, closed
from shipworthy.engine.trees import Key, Trees, everything, key_of
from shipworthy.errors import (
    Fenced,
    InputError,
    JournalDamaged,
    RunBusy,
    RunConflict,
    RunNotFound,
    ShipworthyError,
    StoreError,
    UnknownEvent,
)
from shipworthy.ports.store import Store
from shipworthy.rules.codec import encode_events
from shipworthy.rules.state import RunState, replay, status_of

MOVED = "moved"
"""The stop reason of a run that goes on in another store."""
LARGEST = 256 * 1024 * 1024
"""Bytes of events and bodies up to which a run is brought over: it lands in one transaction."""
LONGEST_LEASE = 3_600_000
"""Milliseconds; a start that is further ahead than any lease was recorded on a clock that has begun anew since, by a
process that is gone with it."""
_OPERATOR = Operator("shipworthy runs migrate")
_OF_ONE_RUN = (InputError, JournalDamaged, UnknownEvent)
_KEEP = "Let it end where it is, and keep it there or export it."
_AGAIN = "Stop the service that drives it, or wait until it ends or pauses; then run the same command again."

Fate = Literal["copied", "moved", "there"]


class Left(msgspec.Struct, frozen=True):
    """A run that stays where it is, and why."""

    run: RunSummary
    error: ShipworthyError


class Report(msgspec.Struct):
    """What became of the source's runs: `copied` had ended, `moved` go on in the destination, `there` were in it.
    `counters`: how many of its ledger were carried; `grants`: how many were moved."""

    copied: int = 0
    moved: int = 0
    there: int = 0
    counters: int = 0
    grants: int = 0
    left: list[Left] = msgspec.field(default_factory=list)

    @property
    def runs(self) -> int:
        """All that the source holds."""
        return self.copied + self.moved + self.there + len(self.left)


class Migration:
    """Both stores are open. `to`: what the destination is called in the source's journal; it must be the same each
    time, for a run that was moved to one place is not brought to another. So must `origin`, what the source is called
    in the destination's ledger."""

    def __init__(
        self,
        source: Store,
        destination: Store,
        *,
        origin: str,
        to: str,
        tenant: str | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self.destination = destination
        self.report = Report()
        self._moved = f"Moved to {to}."
        self._tenant = tenant
        self._ledger = Removal(source.ledger, destination.ledger, origin=origin, to=to, tenant=tenant)
        self._trust = Entrusting(source, destination, tenant=tenant)
        self.advance = advance
        self._orphans: set[Key] = set()
        self._early: set[Key] = set()
        self._trees = Trees(source, tenant)
        self._fates: dict[Key, Fate | ShipworthyError] = {}

    async def count(self) -> int:
        """How many runs there are to look at."""
        return sum([1 async for _ in everything(self.source, self._tenant)])

    async def work(self) -> Report:
        """Bring over what can be brought over; what cannot is in the report. Raises StoreError or LedgerError where a
        store fails as a whole: do it again when that is mended."""
        await self._ledger.work()
        self.report.grants = await self._trust.work()
        self._orphans = {key_of(run) for run in await self.source.orphans(_OPERATOR)}
        await self._trees.look()
        async for run in everything(self.source, self._tenant):
            fate = await self._fate(run)
            if isinstance(fate, ShipworthyError):
                self.report.left.append(Left(run, fate))
            else:
                setattr(self.report, fate, getattr(self.report, fate) + 1)
            self.advance()
        self.report.counters = await self._ledger.work()
        self.report.grants += await self._trust.work()
        return self.report

    async def _fate(self, run: RunSummary) -> Fate | ShipworthyError:
        """What becomes of a run, or why it is left. A nested one goes with the run that it belongs to."""
        key = key_of(run)
        if key not in self._fates and (root := await self._trees.root_of(run)) is not None:
            why = await self._tried(root)
            if isinstance(why, ShipworthyError) and run.status in ("running", "paused"):
                return why
        fate = await self._tried(run)
        if not isinstance(fate, ShipworthyError):
            self._fates.pop(key)
        return fate

    async def _tried(self, run: RunSummary) -> Fate | ShipworthyError:
        key = key_of(run)
        if key not in self._fates:
            try:
                self._fates[key] = await self._one(run)
            except ShipworthyError as error:
                if not isinstance(error, _OF_ONE_RUN) and type(error) is not StoreError:
                    raise
                self._fates[key] = error
        return self._fates[key]

    async def _one(self, run: RunSummary) -> Fate:
        if self._is_driven(run):
            raise RunBusy(f"Run {run.run_id!r} is driven by a live worker of the source.", fix=_AGAIN)
        if run.scope.session is not None and key_of(run) not in self._early:
            await self._session(run.scope)
        if key_of(run) in self._early:
            self._early.discard(key_of(run))
            return "copied"
        if run.status in ("running", "paused"):
            return await self._move(run)
        return await self._copy(run)

    def _is_driven(self, run: RunSummary) -> bool:
        """Nobody but a run's own worker drives its nested ones."""
        return run.status == "running" and run.root is None and key_of(run) not in self._orphans

    # sessions

    async def _session(self, scope: Scope) -> None:
        """Copy what ended in a session, in the order of the ends: what goes on there sees the first so many of them."""
        for run in await self.source.list(scope, RunFilter("running", limit=1000)):
            if run.scope == scope and self._is_driven(run):
                raise RunBusy(
                    f"Run {run.run_id!r} of the same session is driven by a live worker of the source.",
                    fix=_AGAIN,
                )
        order = list(await self.source.session(scope))
        there = await self._order_there(scope, order)
        for run_id in order[there:]:
            run = await self.source.find(scope, run_id)
            await self._copy(run, joins=True)
            self._early.add(key_of(run))
        if there < len(order):
            await self._order_there(scope, order)

    async def _order_there(self, scope: Scope, order: Sequence[str]) -> int:
        """How much of the session the destination has. Raises RunConflict if it is another one."""
        there = list(await self.destination.session(scope))
        if there[: len(order)] != order[: len(there)]:
            raise RunConflict(
                f"Session {scope.session!r} of tenant {scope.tenant!r} went on in both stores.",
                fix="Nothing was overwritten. `shipworthy runs list --session` shows both; only one can be kept.",
            )
        return len(there)

    # runs

    async def _copy(self, run: RunSummary, *, joins: bool = False) -> Fate:
        """Bring over a run that has ended, or finish what was begun with one that was moved."""
        events = await self.source.read(run.scope, run.run_id)
        end = events[-1]
        if type(end) is not RunEnded or end.stop_reason != MOVED:
            return await self._put(run, events, joins=joins)
        if end.error != self._moved:
            raise RunConflict(
                f"Run {run.run_id!r} goes on elsewhere: {end.error}", fix="Name that place with --to."
            )
        await self._bring(await self._trees.of(run))
        return await self._go_on(run, events[:-1])

    async def _move(self, run: RunSummary) -> Fate:
        """Bring over a run that has not ended."""
        claim = await self._claimed(run)
        try:
            run = await self.source.find(
                run.scope, run.run_id
            )  # from here on nobody else says when it is due
            events = await self._ready(run, claim)
            nested = await self._trees.of(run)
            await self._movable(nested)
            at = time.time_ns() // 1_000_000
            last = await closed(self.source.ledger, run.scope, events, at)
        except BaseException:
            await self.source.release(claim.fence)
            raise
        events += last
        gone = RunEnded(seq=len(events) + 1, at=at, status="stopped", stop_reason=MOVED, error=self._moved)
        try:  # from here on no worker of the source can own the run
            # `wake_at` stays there for whoever has to finish this.
            batch = Batch([*last, gone], {}, status="stopped", wake_at=run.wake_at)
            await self.source.commit(claim.fence, batch)
        except Fenced:
            raise RunBusy(f"Run {run.run_id!r} was taken up by a worker of the source.", fix=_AGAIN) from None
        await self._bring(nested)
        return await self._go_on(run, events)

    async def _claimed(self, run: RunSummary) -> Claim:
        """The right to move a run that the destination can have."""
        if await self._has(run):
            raise _other(run)
        await self._nameable(run)
        try:
            return await self.source.claim(run.scope, run.run_id)
        except RunBusy as error:
            raise RunBusy(error.what, fix=_AGAIN) from None

    async def _movable(self, nested: Sequence[RunSummary]) -> None:
        """Copy those that have ended, and see that nothing keeps the others, while the source still has their root."""
        for run in nested:
            if run.status not in ("running", "paused"):
                self._fates[key_of(run)] = await self._copy(run)
                continue
            claim = await self._claimed(run)
            try:
                await self._ready(run, claim)
            finally:
                await self.source.release(claim.fence)

    async def _bring(self, nested: Sequence[RunSummary]) -> None:
        """Bring over the nested runs of a run that the source has given up, and the destination does not have yet."""
        for run in nested:
            if key_of(run) not in self._fates:
                self._fates[key_of(run)] = await self._one(run)

    async def _nameable(self, run: RunSummary) -> None:
        """Raises StoreError for a run whose ids the destination could not keep, while the source still has it."""
        scope = run.scope
        if any(map(is_too_long, (scope.tenant, scope.user, scope.session, run.run_id))):
            raise StoreError(
                f"An id of run {run.run_id[:64]!r} has more than {LONGEST_ID} bytes, too many for some stores.",
                fix=_KEEP,
            )
        await self.destination.list(scope, RunFilter(limit=1))  # fails where its database cannot spell them

    async def _ready(self, run: RunSummary, claim: Claim) -> list[AnyEvent]:
        """The events of a run that this worker owns; only if nothing can go wrong with it and nothing is under way."""
        events = await self.source.read(run.scope, run.run_id)
        state = replay(events)
        if state.ended is not None:
            raise RunBusy(f"Run {run.run_id!r} has ended just now.", fix="Run the same command again.")
        if wait := _still_possible(state, claim, self.source):
            raise RunBusy(
                f"A stopped worker of the source could still carry out a call of run {run.run_id!r}.",
                fix=f"Run the same command again in {wait / 1000:.1f} seconds.",
            )
        await self._bodies(run, events)
        return events

    async def _go_on(self, run: RunSummary, events: list[AnyEvent]) -> Fate:
        """Begin a run that the source has given up."""
        status = status_of(replay(events))
        now = self.destination.clock()
        here = [_without_start(event) if _start_of(event) > now else event for event in events]
        fate = await self._put(msgspec.structs.replace(run, status=status), here, moved=True)
        return "moved" if fate == "copied" else fate

    async def _put(
        self, run: RunSummary, events: list[AnyEvent], *, joins: bool = False, moved: bool = False
    ) -> Fate:
        """Begin the run in the destination, whole, if it is not there; and read it back either way. A moved one begins
        above its fence in the source, whose claims drive it no more: they only count on."""
        fence = None
        there = await self._has(run)
        if not there:
            bodies = await self._bodies(run, events)
            batch = Batch(events, bodies, status=run.status, joins_session=joins, wake_at=run.wake_at)
            token = (await self.source.claim(run.scope, run.run_id)).fence.token if moved else 1
            fence = await self.destination.begin(run.scope, run.run_id, batch, token)
        await self._verify(run, events, moved=moved)
        if fence is not None and run.status == "running":
            await self.destination.release(fence)
        return "copied" if fence is not None else "there"

    async def _has(self, run: RunSummary) -> bool:
        try:
            await self.destination.find(run.scope, run.run_id)
        except RunNotFound:
            return False
        return True

    async def _bodies(self, run: RunSummary, events: list[AnyEvent]) -> dict[str, bytes]:
        """The run's bodies. Raises StoreError if with its events they are too much for one transaction."""
        bodies: dict[str, bytes] = {}
        size = len(encode_events(events))
        for digest in digests_of(events):
            if size > LARGEST:
                break
            bodies[digest] = await _body(self.source, run, digest)
            size += len(bodies[digest])
        if size > LARGEST:
            what = f"Run {run.run_id!r} has more than {LARGEST >> 20} MB, too much for one transaction."
            raise StoreError(what, fix=_KEEP)
        return bodies

    async def _verify(self, run: RunSummary, events: list[AnyEvent], *, moved: bool) -> None:
        """That the destination has the run, event by event and body by body; a moved one may have gone on there."""
        found = await self.destination.find(run.scope, run.run_id)
        there = await self.destination.read(run.scope, run.run_id)
        same = len(there) >= len(events) and all(map(_same, events, there))
        if found.scope != run.scope or not same or (len(there) > len(events) and not moved):
            raise _other(run)
        if not moved and (found.status, found.started_at, found.updated_at) != (
            run.status,
            run.started_at,
            run.updated_at,
        ):
            raise _other(run)
        for digest in digests_of(events):
            await _body(self.destination, run, digest)


async def _body(store: Store, run: RunSummary, digest: str) -> bytes:
    """A body that is what it was when it was stored. Raises JournalDamaged."""
    body = await store.body(run.scope, run.run_id, digest)
    if hashlib.sha256(body).hexdigest() != digest:
        raise JournalDamaged(
            f"The body {digest[:12]} of run {run.run_id!r} is not what it was when it was stored."
        )
    return body


def _still_possible(state: RunState, claim: Claim, source: Store) -> int:
    """Milliseconds during which a stopped worker could still be inside a call: the destination could not tell."""
    now, last = source.clock(), 0
    for call in state.calls.values():
        if call.status == "returned" or call.start_by > now + LONGEST_LEASE:
            continue
        if claim.previous == "expired" and call.status == "attempted":
            last = max(last, call.start_by + int((call.timeout or 0.0) * 1000) + source.skew)
        last = max(last, call.not_before)
    return max(0, last - now)


def _start_of(event: AnyEvent) -> int:
    return event.start_by if type(event) is ToolAttempted else 0


def _without_start(event: AnyEvent) -> AnyEvent:
    """An attempt that is over, where its time is on a clock that the destination has not reached."""
    return msgspec.structs.replace(event, start_by=0) if type(event) is ToolAttempted else event


def _same(ours: AnyEvent, theirs: AnyEvent) -> bool:
    return ours == theirs or (_start_of(theirs) == 0 and _without_start(ours) == theirs)


def _other(run: RunSummary) -> RunConflict:
    return RunConflict(
        f"The destination has another run {run.run_id!r} of tenant {run.scope.tenant!r}.",
        fix="Nothing was overwritten. `shipworthy runs show` shows both; bring this one to a store without it.",
    )
