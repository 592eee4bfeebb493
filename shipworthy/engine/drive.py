"""The loop: decide, perform, record. One sitting of a run, from where its journal stands to an end or a pause."""

from __future__ import annotations

import asyncio
from typing import assert_never

from shipworthy.domain.events import RunEnded, RunParked, StopRequested
from shipworthy.engine.ask import ask
from shipworthy.engine.execute import execute
from shipworthy.engine.judge import deliver, judge
from shipworthy.engine.live import LiveRun
from shipworthy.engine.settle import settle
from shipworthy.errors import StoreError
from shipworthy.rules.decide import (
    AskModel,
    Deliver,
    End,
    Execute,
    Finished,
    Judge,
    Park,
    Settle,
    Step,
    decide,
)
from shipworthy.rules.text import clean


async def sit(run: LiveRun) -> None:
    """Drive *run* until it ends or parks, within its deadline. A cancellation is recorded before it goes on.

    An abandoned run is left as a crash would leave it: somebody else resumes it.
    Raises StoreError when the journal cannot be written: the run stops in this process, and resuming reads it back.
    """
    try:
        if run.timeout is None:
            await drive(run)
        else:
            await _within_deadline(run, run.timeout)
    except asyncio.CancelledError:
        if run.abandoned:
            await run.recorder.commit()
        else:
            await _stop(run, StopRequested(cause="cancelled"))
        raise
    except StoreError:
        raise
    except Exception as error:
        await _park(run, error)
        raise
    if run.raises is not None:
        raise run.raises


async def _park(run: LiveRun, error: Exception) -> None:
    """A defect in code that is not ours to answer for ends the sitting, not the run."""
    if type(decide(run.state)) is not Finished:
        run.recorder.record(RunParked(reason="error", detail=clean(f"{type(error).__name__}: {error}")))
    await run.recorder.commit()


async def _within_deadline(run: LiveRun, timeout: float) -> None:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await drive(run)
    except TimeoutError:
        if not limit.expired():
            raise
        await _stop(run, StopRequested(cause="timeout"))


async def drive(run: LiveRun) -> None:
    """Until nothing is left to do: what is next, do it, and let the state follow from what was recorded."""
    while type(step := decide(run.state)) is not Finished:
        await perform(run, step)
    await run.recorder.commit()


async def perform(run: LiveRun, step: Step) -> None:
    """Do one step and record what happened."""
    match step:
        case AskModel():
            await ask(run, step)
        case Judge():
            await judge(run, step)
        case Execute():
            await execute(run, step)
        case Deliver():
            await deliver(run)
        case Settle():
            await settle(run, step)
        case Park():
            run.recorder.record(RunParked())
        case End(status, stop_reason, error):
            run.recorder.record(RunEnded(status=status, stop_reason=stop_reason, error=error))
        case Finished():
            pass
        case _:
            assert_never(step)


async def _stop(run: LiveRun, request: StopRequested) -> None:
    """Bring the run to its end, or park it, without starting anything new; further cancellations wait until then."""
    cancelled = False
    while True:
        try:
            if run.state.stopping is None and type(decide(run.state)) is not Finished:
                run.recorder.record(request)
            await drive(run)
            break
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
