"""The runs that a Temporal worker holds, from one step to the next."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

import msgspec

from shipworthy.adapters.temporal.payloads import At, Told
from shipworthy.app.service import is_mine
from shipworthy.domain.effects import DidNotHappen, Happened
from shipworthy.domain.events import AnyEvent, RunStarted, StopRequested, ToolSettled
from shipworthy.domain.scope import Scope
from shipworthy.engine.drive import one_step
from shipworthy.engine.driver import is_over, seat, step
from shipworthy.engine.live import LiveRun
from shipworthy.engine.plan import Plan
from shipworthy.engine.recover import take
from shipworthy.engine.runtime import Runtime, log
from shipworthy.errors import DriverError, RunBusy, ShipworthyError, StoreError
from shipworthy.rules.decide import AskModel, decide
from shipworthy.rules.state import replay


class Holder:
    """The runs that this worker holds between two steps. One that nobody asks for is let go of after a while."""

    def __init__(self, agents: Mapping[str, Plan], seats: Runtime, patience: float) -> None:
        self.leaving = False
        self._agents = agents
        self._seats = seats
        self._patience = patience
        self._steps: dict[tuple[str, str], asyncio.Task[bool]] = {}
        self._idle: dict[LiveRun, asyncio.TimerHandle] = {}

    async def take(self, at: At, attempt: int) -> tuple[list[AnyEvent], float | None]:
        """Hold a run that nobody drives; one that rests, and is not to go on, is as it is. Raises RunBusy,
        SettlementRefused, CheckpointRefused, RunNotFound, StoreError, DriverError."""
        scope, store = Scope(at.tenant), self._seats.store
        events = await store.read(scope, at.run_id)
        name = events[0].agent if isinstance(events[0], RunStarted) else ""
        plan = self._agents.get(name)
        if plan is None or not is_mine(plan.blueprint, events[0]):
            log.warning(
                "Run %r is left to another worker: this one does not have its agent %r.", at.run_id, name
            )
            raise DriverError(
                f"This worker does not have the agent {name!r} of the run.", fix="Start a worker that has it."
            )
        held = self._seats.active(scope, at.run_id)
        driven = held is not None and held not in self._idle
        if self.leaving or driven or (at.tenant, at.run_id) in self._steps:
            raise RunBusy(
                f"Run {at.run_id!r} cannot be taken here: a step of it, or the worker, is about to end."
            )
        state, pause = replay(events), at.pause
        if state.ended is not None or (state.parked and not at.rests):
            return events, None
        told = msgspec.convert(at.settlements, Told)
        if attempt > 1:  # an earlier one may have recorded them, and died before it could say so
            known = {e.call_id for e in events if isinstance(e, ToolSettled) and e.by == "person"}
            told = {call_id: found for call_id, found in told.items() if call_id not in known}
            pause = None if not state.parked and state.parked_at == pause else pause
        settlements = {id: DidNotHappen() if found is None else Happened(found) for id, found in told.items()}
        if pause is None:
            run = await seat(self._seats, plan, scope, at.run_id, settlements)
        else:
            run = await take(self._seats, plan.resume(scope, at.run_id, settlements, at=pause))
        if run.state.ended is None:
            try:
                await run.commit()
            except BaseException:
                self._seats.leave(run)
                raise
            self._rest(run)
        left = None if run.deadline is None else run.deadline - time.monotonic()
        return await store.read(scope, at.run_id), left

    async def step(self, at: At, name: str) -> list[AnyEvent]:
        """Take the step *name* of a run that is held and stands at this event. Raises DriverError, StoreError."""
        key = at.tenant, at.run_id
        run = self._seats.active(Scope(at.tenant), at.run_id)
        if run is None or key in self._steps or not _stands(run, at, name):
            if run is not None and key not in self._steps:
                await self._let_go(run)
            raise DriverError(f"Run {at.run_id!r} does not stand here any more.", fix="Take it again.")
        if (timer := self._idle.pop(run, None)) is not None:
            timer.cancel()
        task = self._steps[key] = asyncio.create_task(
            step(self._seats, run, _stopped if name == "Stop" else _one_step, LiveRun.commit)
        )
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            run.abandoned = True
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            del self._steps[key]
            await self._after(run, task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, StoreError) or not is_over(run):
                raise error
            log.warning("Run %r is paused: %s", at.run_id, error)
        return await self._seats.store.read(run.scope, at.run_id, at.seq)

    def interrupt(self, at: At) -> None:
        """Cancel the step that is being taken."""
        if (task := self._steps.get((at.tenant, at.run_id))) is not None:
            task.cancel()

    async def close(self) -> None:
        """Leave every run to other workers."""
        for run in list(self._idle):
            await self._let_go(run)

    async def _after(self, run: LiveRun, task: asyncio.Task[bool]) -> None:
        """Hold the run further, if it stays here; what failed or is left, anybody may take."""
        failed = not task.cancelled() and isinstance(task.exception(), StoreError)
        if failed or self.leaving or run.abandoned:
            await self._let_go(run)
        elif not is_over(run):
            self._rest(run)

    def _rest(self, run: LiveRun) -> None:
        """Hold the run until its next step, and not for good: its workflow may be gone."""
        if run in self._idle:
            self._idle[run].cancel()
        following = decide(run.state)
        longest = 4 * self._patience + (following.delay if isinstance(following, AskModel) else 0.0)
        loop = asyncio.get_running_loop()
        self._idle[run] = loop.call_later(longest, lambda: asyncio.ensure_future(self._let_go(run)))

    async def _let_go(self, run: LiveRun) -> None:
        if (timer := self._idle.pop(run, None)) is not None:
            timer.cancel()
        self._seats.leave(run)
        with contextlib.suppress(ShipworthyError):
            await run.let_go()


def _stands(run: LiveRun, at: At, name: str) -> bool:
    """Whether the workflow and the journal agree on what is next."""
    return run.state.seq == at.seq and name in ("Stop", type(decide(run.state)).__name__)


async def _one_step(run: LiveRun) -> None:
    """What is next; the time that had to pass has passed in the workflow."""
    following = decide(run.state)
    if isinstance(following, AskModel):
        following = msgspec.structs.replace(following, delay=0.0)
    await one_step(run, following)


async def _stopped(run: LiveRun) -> None:
    """Record that the caller cancelled; the steps to the end are those of the workflow."""
    run.record(StopRequested(cause="cancelled"))
    await run.commit()
