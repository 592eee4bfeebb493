"""A run as a workflow: `decide` says what is next, an activity does it, `fold` takes in what it recorded.

Deterministic: it knows no clock, I/O or chance but Temporal's. Passed through the sandbox are msgspec and our pure
modules, which hold nothing of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    import msgspec

    from shipworthy.adapters.temporal.payloads import FORMAT, At, Given, Sitting, Taken
    from shipworthy.rules.decide import AskModel, Finished, Step, decide
    from shipworthy.rules.state import fold

_HERE = "shipworthy.adapters.temporal.payloads"
PASSED_THROUGH = ("msgspec", "shipworthy.domain", "shipworthy.errors", "shipworthy.rules", _HERE)
LONGEST = 2_000
"""Events of a history after which another is begun, unless Temporal suggests it earlier."""

_ONCE = RetryPolicy(maximum_attempts=1)
_UNTIL_FREE = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=2))
_LONG = timedelta(days=366)


@workflow.defn(name="shipworthy.run")
class RunWorkflow:
    """One run, from where it was handed over to its end or a pause, through any number of workers and histories. A
    pause costs Temporal nothing: resuming begins another workflow."""

    @workflow.init
    def __init__(self, given: Given) -> None:
        self._given = given
        self._at = At(given.tenant, given.run_id)
        self._patience = timedelta(seconds=given.patience)
        self._rests, self._stopping, self._failures = given.rests, given.stops, 0
        self._refused = False
        self._sit(given.sitting)

    def _sit(self, sitting: Sitting | None) -> None:
        self._sitting = sitting
        left = None if sitting is None else sitting.left
        self._until = None if left is None else workflow.time() + left

    @workflow.run
    async def run(self, given: Given) -> None:
        """Until the run has ended or is paused. A cancellation stops the run, and the workflow ends with it."""
        if given.format > FORMAT:  # fails the task, not the workflow: Temporal offers it to other workers
            raise RuntimeError(
                f"Run {given.run_id!r} is of a newer release: upgrade shipworthy on this worker."
            )
        going, cancelled = asyncio.create_task(self._go_on()), False
        while True:
            try:
                following = await asyncio.shield(going)
                await workflow.wait_condition(workflow.all_handlers_finished)
                break
            except asyncio.CancelledError:
                if cancelled:  # it is let go of: a workflow is cancelled once
                    raise
                self._stopping = cancelled = True
                await self._interrupt()
        if following is not None:
            stopped = self._sitting is not None and self._sitting.state.stopping is not None
            stops = self._stopping and not stopped
            workflow.continue_as_new(msgspec.structs.replace(following, stops=stops))

    @workflow.update
    async def resume(self, settlements: dict[str, Any], pause: int | None = None) -> None:
        """Have a parked run go on, with what a person found out; from this *pause*, or not at all. Fails with the
        worker's refusal, if it refuses, and the workflow ends."""
        self._rests = False
        try:
            brought = msgspec.structs.replace(self._at, rests=True, settlements=settlements, pause=pause)
            self._sit(sitting := await self._take(brought))
        except ActivityError as error:
            self._refused = True
            raise error.cause or error from None
        if sitting.state.ended is not None and (settlements or pause is not None):
            refused = "SettlementRefused" if pause is None else "CheckpointRefused"
            raise ApplicationError("The run has ended.", type=refused)

    @resume.validator
    def _may_resume(self, settlements: dict[str, Any], pause: int | None = None) -> None:
        if not self._rests:
            raise ApplicationError("The run is not paused.", type="RunBusy")

    async def _go_on(self) -> Given | None:
        """Step by step; the input with which the workflow is to continue as new, None when the run rests."""
        if self._given.rests:
            await workflow.wait_condition(
                lambda: self._sitting is not None or self._refused or (self._stopping and self._rests)
            )
            self._rests = False
            if self._refused:
                return None
        while True:
            if self._sitting is None:
                self._sit(await self._take(msgspec.structs.replace(self._at, rests=self._stopping)))
                continue
            step = decide(self._sitting.state)
            if isinstance(step, Finished):
                if not self._stopping or self._sitting.state.ended or self._sitting.state.stopping:
                    return None
                self._sitting = None  # it was cancelled while it was being parked
                continue
            if self._is_long() and not self._stopping:
                self._sitting.left = None if self._until is None else max(0.0, self._until - workflow.time())
                return msgspec.structs.replace(self._given, rests=False, sitting=self._sitting)
            await self._wait(step)
            if not await self._step(self._sitting, step):
                self._sitting, self._failures = None, self._failures + 1
                if self._failures > 1:
                    await workflow.sleep(min(0.1 * 2.0**self._failures, 10.0))

    def _is_long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > LONGEST

    async def _wait(self, step: Step) -> None:
        """What has to pass before the next attempt on the wire; not beyond the run's deadline."""
        if isinstance(step, AskModel) and step.delay:
            left = step.delay if self._until is None else min(step.delay, self._until - workflow.time())
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(lambda: self._stopping, timeout=max(left, 0.0))

    async def _step(self, sitting: Sitting, step: Step) -> bool:
        """One step, one activity, on the worker that holds the run; False if it is gone, or lost the run."""
        state = sitting.state
        try:
            taken = await workflow.execute_activity(
                "Stop" if self._stopping and state.stopping is None else type(step).__name__,
                msgspec.structs.replace(self._at, seq=state.seq),
                result_type=Taken,
                task_queue=sitting.queue,
                schedule_to_start_timeout=self._patience,
                start_to_close_timeout=_LONG,
                heartbeat_timeout=self._patience,
                retry_policy=_ONCE,
            )
        except ActivityError:
            return False
        for event in taken.events:
            fold(state, event)
        state.messages.clear()
        self._failures = 0
        if taken.leaves and not isinstance(decide(state), Finished):
            self._sitting = None
        return True

    async def _take(self, at: At) -> Sitting:
        """Any worker's hold of the run, as soon as one can have it; of one that rests, how it stands."""
        taken: Sitting = await workflow.execute_activity(
            "take",
            at,
            result_type=Sitting,
            start_to_close_timeout=_LONG,
            heartbeat_timeout=self._patience,
            retry_policy=_UNTIL_FREE,
        )
        return taken

    async def _interrupt(self) -> None:
        """Cancel the step that is under way, on its worker; if that is gone, the next one is told to stop."""
        if (sitting := self._sitting) is not None:
            with contextlib.suppress(ActivityError):
                await workflow.execute_activity(
                    "interrupt",
                    self._at,
                    task_queue=sitting.queue,
                    schedule_to_close_timeout=self._patience,
                    retry_policy=_ONCE,
                )
