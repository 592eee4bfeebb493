"""Ending a paused run: nothing new is started, and the journal says that it was cancelled."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import force_setattr

from shipworthy.domain.events import (
    AgentPaused,
    AnyEvent,
    RunEnded,
    RunParked,
    RunResumed,
    RunStarted,
    StopRequested,
)
from shipworthy.domain.journal import Batch, Claim
from shipworthy.domain.scope import Scope
from shipworthy.engine.auditing import commit
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import Delegate, unfinished
from shipworthy.engine.observing import told, trace_of
from shipworthy.engine.plan import Plan, no_deps
from shipworthy.engine.recover import claimed, leave, load, take
from shipworthy.errors import Fenced, MissingTool, RunBusy, RunNotFound, StoreError
from shipworthy.ports.readers import Reader
from shipworthy.ports.store import Store
from shipworthy.rules.calls import Call
from shipworthy.rules.decide import End, decide
from shipworthy.rules.state import RunState, catch_up, fold, replay, status_of

if TYPE_CHECKING:
    from shipworthy.engine.runtime import Runtime

log = logging.getLogger("shipworthy")

_AGAIN = 30_000
"""Milliseconds until a run is tried again that could not be ended, for somebody is at a nested run of it."""


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
    here = Plan(plan.blueprint, no_deps)
    if state.ended is None:
        run = await take(runtime.inner, here.resume(scope, run_id))
        if run.state.ended is None:
            run.record(StopRequested(cause="cancelled"))
            try:
                await runtime.inner.drive(run)
            except BaseException:
                await leave(runtime.store, run.fence)
                raise
    return await load(runtime, plan.blueprint, scope, run_id)


async def stop_nested(run: LiveRun, call: Call) -> AgentPaused | None:
    """Stop the nested runs of a call that is not to go on, having settled what is known of them; each ends, unless
    something of it is in doubt. What is given then says that the call waits for whoever settles that. Raises
    StoreError."""
    waiting: list[str] = []
    wake_at: int | None = None
    for run_id in unfinished(run, call):
        try:
            state = await _stopped(run, call, run_id)
        except RunNotFound:
            continue
        except (RunBusy, Fenced) as error:
            log.warning("The nested run %r could not be stopped yet: %s", run_id, error)
            state = replay(await run.store.read(run.scope, run_id))
            wake_at = time.time_ns() // 1_000_000 + _AGAIN
        if state is not None and state.ended is None:
            waiting.append(run_id)
    if not waiting:
        return None
    return AgentPaused(call_id=call.call.call_id, runs=tuple(waiting), wake_at=wake_at, in_doubt=True)


async def _stopped(run: LiveRun, call: Call, run_id: str) -> RunState | None:
    """The nested run as it stands then. By its agent, if the tool still has that; otherwise nothing can be settled."""
    tool, call_id = run.blueprint.tools.get(call.call.name), call.call.call_id
    if isinstance(tool, Delegate) and run_id in tool.runs_of(run.run_id, call_id):
        try:
            return await tool.stop(run, call, run_id)
        except (RunNotFound, RunBusy, StoreError):
            raise
        except MissingTool as error:
            run.raises = run.raises or (error if run.settlements else None)
        except Exception as error:
            log.warning("The nested run %r is stopped without its agent: %s", run_id, error)
    elif run.settlements:
        run.raises = run.raises or MissingTool(
            f"Run {run_id!r} has a call to be settled, and the agent has no tool {call.call.name!r} for it any more.",
            fix="Give the agent the tool again, and settle the call; nothing was lost.",
        )
    return await _end(run.home.inner, run.state.started, call_id, run_id, run.readers)


async def _end_nested(runtime: Runtime, state: RunState, readers: Sequence[Reader]) -> list[AgentPaused]:
    """End the runs that the calls of a run wait for, and theirs; whoever drives them drives this one. What says of the
    calls that something of them is in doubt, so that they wait."""
    waits: list[AgentPaused] = []
    for call_id, call in state.calls.items():
        waiting: list[str] = []
        for run_id in call.children:
            try:
                nested = await _end(runtime, state.started, call_id, run_id, readers)
            except RunNotFound:
                continue
            if nested is not None and nested.ended is None:
                waiting.append(run_id)
        if waiting:
            waits.append(AgentPaused(call_id=call_id, runs=tuple(waiting), in_doubt=True))
    return waits


async def _end(
    runtime: Runtime, outer: RunStarted, call_id: str, run_id: str, readers: Sequence[Reader]
) -> RunState | None:
    """The run that a call of *outer* made, ended unless something of it is in doubt; None: it is another run, for ids
    can be chosen. *readers* observe what is around it, and are told."""
    store, scope = runtime.store, Scope(outer.tenant)
    past = await store.read(scope, run_id)
    state = replay(past)
    if not _is_made_by(state.started, outer, call_id):
        return None
    if state.ended is not None or (state.parked and state.stopping is not None):
        return state
    claim = await claimed(store, scope, run_id)
    try:
        more = await store.read(scope, run_id, state.seq)  # nobody else appends any more
        catch_up(state, more)
        if state.ended is not None:
            await store.release(claim.fence)
            return state
        witness = await runtime.witness(state)
        waits = await _end_nested(runtime, state, readers)
        events = _last_events(store, state, claim, waits, trace_of(readers))
        with told(readers, [*past, *more], events):
            await commit(store, witness, claim.fence, Batch(events, {}, status_of(state)))
    except BaseException:
        await leave(store, claim.fence)
        raise
    return state


def _is_made_by(started: RunStarted, outer: RunStarted, call_id: str) -> bool:
    """Whether a run is the one that a call of *outer* made."""
    path = () if outer.parent is None else outer.parent.path
    parent = started.parent
    return parent is not None and (parent.run_id, parent.path) == (outer.run_id, (*path, call_id))


def _last_events(
    store: Store, state: RunState, claim: Claim, waits: Sequence[AgentPaused], trace: str
) -> list[AnyEvent]:
    """What a sitting that only stops the run records; the state follows."""
    resumed = RunResumed(
        fence=claim.fence.token,
        previous=claim.previous,
        max_turns=state.max_turns,
        output_retries=state.output_retries,
        model_retries=state.model_retries,
        skew=store.skew,
        trace=trace,
    )
    events: list[AnyEvent] = []
    first: list[AnyEvent] = [resumed, StopRequested(cause="cancelled"), *waits]
    for event in first:
        _record(state, events, event)
    step = decide(state)
    if isinstance(step, End):
        _record(state, events, RunEnded(status=step.status, stop_reason=step.stop_reason, error=step.error))
    else:
        _record(state, events, RunParked())
    return events


def _record(state: RunState, events: list[AnyEvent], event: AnyEvent) -> None:
    force_setattr(event, "seq", state.seq + 1)
    force_setattr(event, "at", time.time_ns() // 1_000_000)
    fold(state, event)
    events.append(event)
