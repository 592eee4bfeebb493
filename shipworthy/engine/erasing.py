"""Erasing the journals of a user, a session or a tenant: each run is ended, and tombstones take the place of events.

A run and those nested in it are buried in one commit, so that an interruption leaves each as it was or erased; doing
it again goes on with what is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import msgspec
from msgspec.structs import force_setattr

from shipworthy.domain.events import AnyEvent, RunEnded, RunResumed, RunStarted, StopRequested
from shipworthy.domain.journal import Batch, Claim, RunSummary
from shipworthy.domain.scope import ERASED_RUN, Operator, Scope
from shipworthy.engine.auditing import commit, is_joined
from shipworthy.engine.listing import listed
from shipworthy.engine.observing import readers_by_name, told, trace_of
from shipworthy.engine.recover import claimed, leave
from shipworthy.engine.removal import closed
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import (
    ErasureIncomplete,
    InputError,
    JournalDamaged,
    LedgerError,
    RunBusy,
    RunNotFound,
    UnknownEvent,
)
from shipworthy.rules.erasing import tombstones
from shipworthy.rules.learning import ATTEMPTS, attempt_of, learning_of
from shipworthy.rules.state import RunState, fold, replay

_OPERATOR = Operator("erasing journals")
LOG_ELSEWHERE = (
    "An audit log that agents write elsewhere (a file, another database) keeps the bodies of entries of whoever was "
    "erased, until they are erased through an agent that has the log."
)
_LOOKS = 10
"""How often runs are looked for that were begun meanwhile."""
ERASED = "erased"
"""The `stop_reason` of a run that had to be ended."""


class JournalsErased(msgspec.Struct, frozen=True, gc=False):
    """What was done to journals: the ids that runs had which were erased, those of nested ones too, and what may still
    hold copies, as sentences."""

    run_ids: tuple[str, ...]
    remains: tuple[str, ...]

    @property
    def runs(self) -> int:
        """How many runs were erased."""
        return len(self.run_ids)


async def erase_journals(runtime: Runtime, scope: Scope) -> JournalsErased:
    """Erase every run of the scope's user, of its session or of every user of the tenant, nested ones and those that
    learn from them too, and what the store keeps under their names. A run that waits, or was left, is ended first.

    Raises ErasureIncomplete, when all others are erased, if somebody drives a run of the scope; StoreError.
    """
    if scope.session is not None and scope.user is None:
        raise InputError("A session belongs to a user.", fix="Pass Scope(tenant, user, session).")
    was_open = runtime.is_open
    await runtime.open()
    try:
        return await _Erasing(runtime, scope).work()
    finally:
        if not was_open:
            await runtime.close()


async def runs_of(runtime: Runtime, scope: Scope) -> list[str]:
    """The ids of the scope's runs, those of nested ones too."""
    was_open = runtime.is_open
    await runtime.open()
    try:
        found = [run.run_id async for run in listed(runtime.store, scope, nested=True)]
        return [run_id for run_id in found if not run_id.startswith(ERASED_RUN)]
    finally:
        if not was_open:
            await runtime.close()


class _Erasing:
    """One erasure. `left`: runs that are still there, and why."""

    def __init__(self, runtime: Runtime, scope: Scope) -> None:
        self._runtime, self._store, self._scope = runtime, runtime.store, scope
        self._tenant = Scope(scope.tenant)
        self._erased: list[str] = []
        self._doubts: list[str] = []
        self._unlogged: set[str] = set()
        self.left: dict[str, str] = {}

    async def work(self) -> JournalsErased:
        looks = 0
        while (trees := await self._trees()) and looks < _LOOKS:
            looks += 1
            for root, members in trees.items():
                await self._tree(root, members)
        self._runtime.forget(self._scope)
        logs = await self._store.disown(self._scope, self._erased)
        await self._runtime.logs.erase(self._scope, self._erased)
        remains = [*self._doubts, *await self._store.scrub(_OPERATOR), self._runtime.driver.keeps]
        remains += self._untold(logs)
        if self._runtime.budgets_elsewhere:
            remains.append(
                "A ledger of budgets that is not the store's own keeps counters under the ids of users and sessions "
                "until their windows are over, and holds under those of runs for a day."
            )
        if trees:
            self.left |= dict.fromkeys(trees, "runs are begun all the time")
        if self.left:
            raise _incomplete(self.left, self._erased)
        return JournalsErased(tuple(self._erased), tuple([each for each in remains if each]))

    def _untold(self, kept: Sequence[str]) -> list[str]:
        """What is to be said of audit logs that no agent has here: of those that the store keeps, and of others."""
        logs, remains = self._runtime.logs.all(), []
        told = {log.name for log in logs if is_joined(log, self._store)}
        if unknown := [repr(name) for name in kept if name not in told]:
            remains.append(
                f"Audit logs that the store keeps, and no agent has here ({', '.join(unknown)}): what bodies of "
                "entries said of whoever was erased is forgotten in them too, but `person.erased` could not be "
                "entered, since their keys are not here."
            )
        if not logs:
            return [*remains, LOG_ELSEWHERE]
        if self._unlogged:
            agents = ", ".join(sorted(self._unlogged))
            remains.append(f"No audit log is known here of {agents}. {LOG_ELSEWHERE}")
        return remains

    def _look_for_log(self, begun: Sequence[AnyEvent]) -> None:
        """Note which agents' runs are erased that may have entries in a log that is not here."""
        for first in begun:
            if isinstance(first, RunStarted) and self._runtime.logs.of(first) is None:
                agent = first.agent if first.parent is None else first.parent.agents[0]
                self._unlogged.add(repr(agent))

    async def _trees(self) -> dict[str, list[RunSummary]]:
        """The scope's runs that are still to be erased: nested ones by their roots."""
        trees: dict[str, list[RunSummary]] = {}
        async for run in listed(self._store, self._scope, nested=True):
            root = run.root or run.run_id
            if root not in self.left and not run.run_id.startswith(ERASED_RUN):
                trees.setdefault(root, []).append(run)
        return trees

    async def _tree(self, root: str, members: Sequence[RunSummary]) -> None:
        """Erase a run and those nested in it, unless somebody drives it."""
        await self._runtime.stop_learning(self._tenant, root)
        try:
            if not self._runtime.expect(self._tenant, root):
                raise RunBusy("this process drives it")
            await self._bury(root, members)
        except (RunBusy, JournalDamaged, UnknownEvent, LedgerError) as error:
            self.left[root] = error.what
        except RunNotFound:
            pass  # somebody else was faster; what is left is found at the next look
        finally:
            self._runtime.expected(self._tenant, root)

    async def _bury(self, root: str, members: Sequence[RunSummary]) -> None:
        """Of the root that was pruned, what was nested in it is left."""
        if any([run.run_id == root for run in members]):
            if await self._is_open(root):
                await self._end(root)
                members = [
                    run async for run in listed(self._store, self._scope, nested=True) if run.root == root
                ]
            nested = [run.run_id for run in members if run.run_id != root]
            run_ids = [root, *nested]
        else:
            nested = run_ids = [run.run_id for run in members]
        for run_id in nested:
            await self._end(run_id)
        journals = [await self._store.read(self._tenant, run_id) for run_id in run_ids]
        self._look_for_log([events[0] for events in journals])
        for run_id in run_ids:  # by its name: who died after it was begun has recorded nothing of it
            first = learning_of(self._tenant.tenant, run_id)
            for learning in [attempt_of(first, nth) for nth in range(1, ATTEMPTS + 1)]:
                await self._learned(learning)
                if learning in self.left:
                    raise RunBusy(f"run {learning!r}, which learns from it, could not be erased")
        await self._store.bury(self._tenant, tombstones(journals, ERASED_RUN + os.urandom(12).hex()))
        self._erased += run_ids

    async def _learned(self, run_id: str) -> None:
        """Erase a run that learned from one of the scope, and is perhaps not the scope's: first, or nothing would say
        which it is."""
        try:
            run = await self._store.find(self._tenant, run_id)
        except RunNotFound:
            return
        if run_id not in self.left:
            await self._tree(run_id, [run])

    async def _is_open(self, run_id: str) -> bool:
        """Whether a run is still to be ended. Raises RunBusy for one that a driver's workers have, or may have."""
        run = await self._store.find(self._tenant, run_id)
        if run.status == "running" and self._runtime.driver.by_name:
            raise RunBusy("workers drive it")
        return run.status in ("running", "paused")

    async def _end(self, run_id: str) -> None:
        """End a run that nobody drives, whatever it waits for. Raises RunBusy."""
        store, scope = self._store, self._tenant
        state = replay(await store.read(scope, run_id))
        if state.ended is not None:
            return
        claim = await claimed(store, scope, run_id)
        try:
            events = await store.read(scope, run_id)  # nobody else appends any more
            state = replay(events)
            if state.ended is not None:
                return await store.release(claim.fence)
            witness = await self._runtime.witness(state)
            readers = readers_by_name(self._runtime.agents, state.started)
            last = await self._last_events(state, events, claim, trace_of(readers))
            with told(readers, events, last):
                await commit(store, witness, claim.fence, Batch(last, {}, "cancelled"))
        except BaseException:
            await leave(store, claim.fence)
            raise

    async def _last_events(
        self, state: RunState, events: list[AnyEvent], claim: Claim, trace: str
    ) -> list[AnyEvent]:
        """What ends a run; what a crash left open of its budget is closed. The state follows."""
        resumed = RunResumed(
            fence=claim.fence.token,
            previous=claim.previous,
            max_turns=state.max_turns,
            output_retries=state.output_retries,
            model_retries=state.model_retries,
            skew=self._store.skew,
            trace=trace,
        )
        attempt = await closed(self._store.ledger, self._scope, events, 0)
        last: list[AnyEvent] = [resumed, StopRequested(cause="cancelled"), *attempt]
        for event in last:
            _record(state, event)
        for call in state.calls.values():
            if call.status == "in_doubt":
                self._doubts.append(
                    f"Run {state.started.run_id!r}: whether the effect of its call of {call.call.name!r} happened was "
                    "not known when it was erased, and nothing will tell any more."
                )
        last.append(RunEnded(status="cancelled", stop_reason=ERASED))
        _record(state, last[-1])
        return last


def _record(state: RunState, event: AnyEvent) -> None:
    force_setattr(event, "seq", state.seq + 1)
    force_setattr(event, "at", time.time_ns() // 1_000_000)
    fold(state, event)


def _incomplete(left: dict[str, str], erased: Sequence[str]) -> ErasureIncomplete:
    some = "; ".join([f"{run_id!r}: {why.rstrip('.')}" for run_id, why in list(left.items())[:5]])
    more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
    return ErasureIncomplete(
        f"{len(erased)} runs were erased, and {len(left)} could not be: {some}{more}.",
        fix="Cancel those runs, or wait until they have ended, and erase again: it goes on where it was.",
    )
