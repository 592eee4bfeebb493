"""The driver in this process, and what other drivers do in theirs: have a run at hand, and take one step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from shipworthy.domain.effects import Settlement
from shipworthy.domain.scope import Scope
from shipworthy.engine.drive import Work, drive, one_step, sit
from shipworthy.engine.live import LiveRun
from shipworthy.engine.plan import NOTHING, Plan, Resume
from shipworthy.engine.recover import take
from shipworthy.rules.decide import Finished, decide

if TYPE_CHECKING:
    from shipworthy.engine.runtime import Runtime


class InProcess:
    """Drives each run where it was begun or resumed, from its first step to its last."""

    by_name = False
    keeps = ""

    async def open(self, runtime: Runtime) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    def take(self, runtime: Runtime, asked: Resume) -> Coroutine[Any, Any, LiveRun]:
        """Take the run over from whoever left it."""
        return take(runtime, asked)

    def drive(self, runtime: Runtime, run: LiveRun) -> Coroutine[Any, Any, LiveRun]:
        """One sitting."""
        return sit(run, runtime.leave)


async def seat(
    runtime: Runtime, plan: Plan, scope: Scope, run_id: str, settlements: Mapping[str, Settlement] = NOTHING
) -> LiveRun:
    """The run, owned by this process: it is driven here already, or is taken over. Raises RunNotFound, RunBusy,
    SettlementRefused."""
    run = runtime.active(scope, run_id)
    if run is not None and not settlements:
        return run
    return await take(runtime, plan.resume(scope, run_id, settlements))


def is_over(run: LiveRun) -> bool:
    """Whether nothing is left to do in this sitting."""
    return type(decide(run.state)) is Finished


async def step(runtime: Runtime, run: LiveRun, work: Work = one_step, finish: Work = drive) -> bool:
    """Take one step of a run that is seated here, within its deadline; False when that was the last one. The run
    leaves this process with its last step, and when it fails; stopped with steps left to take, it stays. Raises what
    `sit` raises."""

    def leave(run: LiveRun, error: BaseException | None) -> None:
        stopped = isinstance(error, asyncio.CancelledError) and not run.abandoned
        if is_over(run) or (error is not None and not stopped):
            runtime.leave(run, error)

    await sit(run, leave, work, finish)
    return not is_over(run)
