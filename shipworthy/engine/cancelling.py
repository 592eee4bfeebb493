"""Ending a paused run: nothing new is started, and the journal says that it was cancelled."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from msgspec.structs import force_setattr

from shipworthy.domain.events import AnyEvent, RunEnded, RunParked, RunResumed, StopRequested
from shipworthy.domain.journal import Batch
from shipworthy.domain.scope import Scope
from shipworthy.engine.live import LiveRun
from shipworthy.engine.plan import Plan
from shipworthy.engine.recover import load, take
from shipworthy.errors import Fenced, RunBusy, RunNotFound
from shipworthy.ports.store import Store
from shipworthy.rules.decide import End, decide
from shipworthy.rules.state import RunState, fold, replay, status_of

if TYPE_CHECKING:
    from shipworthy.engine.runtime import Runtime

log = logging.getLogger("shipworthy")


async def cancel(runtime: Runtime, plan: Plan, scope: Scope, run_id: str) -> LiveRun:
    """End a paused run as cancelled, with the nested runs that it waits for; one that has ended is left as it is. What
    is in doubt stays in doubt: the run waits on for whoever settles it, and ends then.

    Whatever drives the agent's runs, this is done here: no body, model or hook is called. Raises RunNotFound, RunBusy.
    """
    state = replay(await runtime.store.read(scope, run_id))
    if state.started.parent is not None:
        root = state.started.parent.root
        raise RunBusy(f"Run {run_id!r} belongs to run {root!r}.", fix=f"Cancel {root!r}: both end then.")
    if state.ended is None and not state.parked:
        raise RunBusy(
            f"Run {run_id!r} is not paused: somebody drives it, or has died doing so.",
            fix="Cancel the task that runs it, or recover it first: `shipworthy runs recover --agent ...`.",
        )
    here = Plan(plan.blueprint, _no_deps)
    if state.ended is None:
        run = await take(runtime.inner, here.resume(scope, run_id))
        if run.state.ended is None:
            run.record(StopRequested(cause="cancelled"))
            await run.commit()
            await _end_nested(runtime.store, run.state)
            await runtime.inner.drive(run)
    return await load(runtime, plan.blueprint, scope, run_id)


async def _no_deps(scope: Scope, given: object) -> None:
    """No code runs that could use any."""


async def end_left(run: LiveRun) -> None:
    """End the nested runs that a run has left, whose calls were answered without them. What cannot be ended now stays
    as it is, and nobody goes on with it."""
    left, run.left = run.left, []
    for run_id in left:
        try:
            await _end(run.store, run.scope, run_id)
        except RunNotFound:
            continue
        except (RunBusy, Fenced) as error:
            log.warning("The nested run %r was left as it is: %s", run_id, error)


async def _end_nested(store: Store, state: RunState) -> None:
    """End the runs that the calls of a run wait for, and theirs. Whoever drives them drives this one."""
    for call in state.calls.values():
        for run_id in call.children:
            try:
                await _end(store, Scope(state.started.tenant), run_id)
            except RunNotFound:
                continue


async def _end(store: Store, scope: Scope, run_id: str) -> None:
    if replay(await store.read(scope, run_id)).ended is not None:
        return
    claim = await store.claim(scope, run_id)
    state = replay(await store.read(scope, run_id))
    if state.ended is not None:
        await store.release(claim.fence)
        return
    await _end_nested(store, state)
    resumed = RunResumed(
        fence=claim.fence.token,
        previous=claim.previous,
        max_turns=state.max_turns,
        output_retries=state.output_retries,
        model_retries=state.model_retries,
        skew=store.skew,
    )
    events: list[AnyEvent] = []
    _record(state, events, resumed)
    _record(state, events, StopRequested(cause="cancelled"))
    step = decide(state)
    if isinstance(step, End):
        _record(state, events, RunEnded(status=step.status, stop_reason=step.stop_reason, error=step.error))
    else:
        _record(state, events, RunParked())
    await store.commit(claim.fence, Batch(events, {}, status_of(state)))


def _record(state: RunState, events: list[AnyEvent], event: AnyEvent) -> None:
    force_setattr(event, "seq", state.seq + 1)
    force_setattr(event, "at", time.time_ns() // 1_000_000)
    fold(state, event)
    events.append(event)
