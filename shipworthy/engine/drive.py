"""The loop: decide, perform, record. One sitting of a run, from where its journal stands to an end or a pause, or one
step of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import assert_never

from shipworthy.domain.events import MemoryRecalled, RunEnded, RunParked, StopCause, StopRequested
from shipworthy.engine.ask import ask
from shipworthy.engine.deliver import deliver
from shipworthy.engine.execute import execute
from shipworthy.engine.gate import judge
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import unfinished
from shipworthy.engine.observing import around
from shipworthy.engine.settle import settle
from shipworthy.errors import StoreError
from shipworthy.rules.decide import (
    MINUTE,
    AskModel,
    Deliver,
    End,
    Execute,
    Finished,
    Judge,
    Park,
    Recall,
    Settle,
    Step,
    again_at,
    decide,
)
from shipworthy.rules.text import described

Leave = Callable[[LiveRun, BaseException | None], None]
Work = Callable[[LiveRun], Awaitable[None]]


async def drive(run: LiveRun) -> None:
    """Until nothing is left to do: what is next, do it, and let the state follow from what was recorded."""
    await run.commit()
    if run.sittings:
        with around(run, None):
            await _on(run)
    else:
        await _on(run)


async def _on(run: LiveRun) -> None:
    while type(step := decide(run.state)) is not Finished:
        await perform(run, step)
    await run.commit()
    if run.asked:
        await _tell(run)


async def one_step(run: LiveRun, step: Step | None = None) -> None:
    """What is next, or this *step* in its place, and no more, for a driver that keeps an account of steps; durable when
    this returns."""
    await run.commit()
    with around(run, None):
        await perform(run, decide(run.state) if step is None else step)
    await run.commit()
    if run.asked and run.state.parked:
        await _tell(run)


async def sit(run: LiveRun, leave: Leave, work: Work = drive, finish: Work = drive) -> LiveRun:
    """Do *work* on *run* within its deadline, and tell *leave* how it went. A cancellation, or that the deadline is
    past, is recorded before *finish* goes on: whatever the work was, the run is driven to its end or its pause, unless
    its driver takes those steps one by one as well.

    An abandoned run is left as a crash would leave it: somebody else resumes it.
    Raises StoreError when the journal cannot be written: the run stops in this process, and resuming reads it back.
    """
    limit = None
    if run.deadline is not None and run.state.stopping is None:
        limit = asyncio.timeout(max(run.deadline - time.monotonic(), 0.0))
    task = asyncio.current_task()
    error: BaseException | None = None
    try:
        if limit is None:
            await work(run)
        else:
            async with limit:
                if run.deadline is not None and run.deadline <= time.monotonic():
                    await asyncio.sleep(0)  # it is past: nothing is begun that would have to be cancelled
                await work(run)
    except BaseException as raised:
        if isinstance(raised, asyncio.CancelledError) and task is not None and not task.cancelling():
            raised = RuntimeError("Something in the run cancelled itself.")
        error = await _interrupted(run, raised, finish, expired=limit is not None and limit.expired())
    finally:
        error = error or run.raises
        leave(run, error)
    if error is not None:
        raise error
    return run


async def _interrupted(
    run: LiveRun, error: BaseException, finish: Work, *, expired: bool
) -> BaseException | None:
    """Bring the journal in order after *error*; what is returned is raised to the caller."""
    try:
        if isinstance(error, asyncio.CancelledError):
            await (run.let_go() if run.abandoned else _stop(run, "cancelled", finish))
        elif expired and isinstance(error, TimeoutError):
            await _stop(run, run.deadline_cause, finish)
            return None
        elif isinstance(error, Exception) and not isinstance(error, StoreError):
            await _park(run, error)
    except BaseException as worse:
        return worse
    return error


async def perform(run: LiveRun, step: Step) -> None:
    """Do one step, and record what happened."""
    match step:
        case AskModel():
            await ask(run, step)
        case Recall():
            await _recall(run)
        case Judge():
            await judge(run, step)
        case Execute():
            await execute(run, step)
        case Deliver():
            await deliver(run)
        case Settle():
            await settle(run, step)
        case Park():
            run.record(RunParked(reason=step.reason, detail=step.detail, wake_at=step.wake_at))
        case End():
            await _end(run, step)
        case Finished():
            pass
        case _:
            assert_never(step)


async def _end(run: LiveRun, step: End) -> None:
    """The end; the nested runs of calls that have no result end first. As long as something of them is in doubt, the
    run does not end: it waits for whoever settles that."""
    if open_calls := [call for call in run.state.calls.values() if unfinished(run, call)]:
        from shipworthy.engine.cancelling import stop_nested

        await run.commit()
        waits = [found for call in open_calls if (found := await stop_nested(run, call)) is not None]
        for found in waits:
            run.record(found)
        if waits:
            return
    run.record(RunEnded(status=step.status, stop_reason=step.stop_reason, error=step.error))


async def _recall(run: LiveRun) -> None:
    """What memory gave is durable before a model sees it. A run whose agent has none any more goes on without."""
    if run.blueprint.memory is None:
        run.record(MemoryRecalled(problem="The agent has no memory any more."))
    else:
        await run.blueprint.memory.recall(run)


async def _tell(run: LiveRun) -> None:
    from shipworthy.engine.telling import tell

    await tell(run)


async def _stop(run: LiveRun, cause: StopCause, finish: Work) -> None:
    """Bring the run to its end, or park it, without starting anything new, as far as *finish* goes; further
    cancellations wait until then."""
    cancelled = False
    while True:
        try:
            if run.state.stopping is None and type(decide(run.state)) is not Finished:
                run.record(StopRequested(cause=cause))
            await finish(run)
            break
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def _park(run: LiveRun, error: Exception) -> None:
    """A defect in code that is not ours to answer for ends the sitting, not the run."""
    if type(decide(run.state)) is not Finished:
        now = time.time_ns() // 1_000_000
        wake_at = again_at(run.state, now)
        if wake_at is None and run.blueprint.learns is not None:  # nobody waits for it who would resume it
            wake_at = now + MINUTE
        run.record(RunParked(reason="error", detail=described(error), wake_at=wake_at))
    await run.commit()
