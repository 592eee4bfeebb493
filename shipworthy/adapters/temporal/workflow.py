"""A run as a workflow: `decide` says what is next, an activity does it, `fold` takes in what it recorded.

Deterministic: it knows no clock, I/O or randomness but Temporal's. Passed through the sandbox are msgspec and our pure
modules (values, rules, payloads), which hold no state of a run.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    import msgspec

    from shipworthy.adapters.temporal.payloads import (
        FORMAT,
        INTERRUPT,
        STEPS,
        STOP,
        TAKE,
        At,
        Given,
        Sitting,
        Taken,
    )
    from shipworthy.rules.decide import AskModel, Finished, Step, decide
    from shipworthy.rules.state import fold

PASSED_THROUGH = (
    "msgspec",
    "shipworthy.domain",
    "shipworthy.rules",
    "shipworthy.errors",
    "shipworthy.adapters.temporal.payloads",
)
_ONCE = RetryPolicy(maximum_attempts=1)
_UNTIL_FREE = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=2))
_LONG = timedelta(days=366)


@workflow.defn(name="shipworthy.run")
class RunWorkflow:
    """One run, from where it was handed over to its end, through any number of workers, pauses and continuations."""

    @workflow.init
    def __init__(self, given: Given) -> None:
        self._given = given
        self._sitting: Sitting | None = None
        self._until: float | None = None
        self._rests = given.rests
        self._failures = 0
        self._stopping = False
        if given.sitting is not None:
            self._sit(given.sitting)

    @workflow.run
    async def run(self, given: Given) -> None:
        """Until the run has ended. A cancellation stops the run, and the workflow ends with it."""
        if given.format > FORMAT:  # fails the task, not the workflow: Temporal offers it to other workers
            raise RuntimeError(
                f"Run {given.run_id!r} is of a newer release of shipworthy: upgrade this worker."
            )
        going = asyncio.create_task(self._go_on())
        while not going.done():
            try:
                await asyncio.shield(going)
            except asyncio.CancelledError:
                self._stopping = not self._rests
                await self._interrupt()
        await workflow.wait_condition(workflow.all_handlers_finished)
        if (following := going.result()) is not None:
            workflow.continue_as_new(following)

    @workflow.update
    async def resume(self, settlements: dict[str, Any]) -> None:
        """Have a parked run go on, with what a person found out. Fails with the worker's refusal, if it refuses."""
        self._rests = False
        try:
            self._sit(await self._take(settlements))
        except ActivityError as error:
            self._rests = True
            raise error.cause or error from None

    @resume.validator
    def _may_resume(self, settlements: dict[str, Any]) -> None:
        if not self._rests:
            raise ApplicationError("The run is not paused.", type="RunBusy")

    async def _go_on(self) -> Given | None:
        """Step by step; the input with which the workflow is to continue as new, None when the run has ended.

        A pause begins a new history: nothing in it depends on the release that parked the run.
        """
        if self._given.rests:
            await workflow.wait_condition(lambda: self._sitting is not None)
        while True:
            if self._sitting is None:
                self._sit(await self._take({}))
                continue
            step = decide(self._sitting.state)
            if isinstance(step, Finished):
                return None if self._sitting.state.ended is not None else self._continued(rests=True)
            if self._is_long() and not self._stopping:
                return self._continued(rests=False)
            await self._wait(step)
            if not await self._step(self._sitting, step):
                await self._without_worker()

    def _sit(self, sitting: Sitting) -> None:
        self._sitting = sitting
        self._until = None if sitting.left is None else workflow.time() + sitting.left

    def _is_long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > self._given.longest

    def _continued(self, *, rests: bool) -> Given:
        sitting = None if rests else self._sitting
        if sitting is not None and self._until is not None:
            sitting.left = max(0.0, self._until - workflow.time())
        return msgspec.structs.replace(self._given, rests=rests, sitting=sitting)

    async def _wait(self, step: Step) -> None:
        """What has to pass before the next attempt on the wire; not beyond the run's deadline."""
        if isinstance(step, AskModel) and step.delay:
            left = step.delay if self._until is None else min(step.delay, self._until - workflow.time())
            try:
                await workflow.wait_condition(lambda: self._stopping, timeout=max(left, 0.0))
            except TimeoutError:
                pass

    async def _step(self, sitting: Sitting, step: Step) -> bool:
        """One step, one activity, on the worker that holds the run; False if it is gone, or lost the run."""
        state, patience = sitting.state, timedelta(seconds=self._given.patience)
        stop = self._stopping and state.stopping is None
        try:
            taken = await workflow.execute_activity(
                STOP if stop else STEPS[type(step)],
                At(self._given.tenant, self._given.run_id, state.seq),
                result_type=Taken,
                task_queue=sitting.queue,
                schedule_to_start_timeout=patience,
                start_to_close_timeout=_LONG,
                heartbeat_timeout=patience,
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

    async def _without_worker(self) -> None:
        """Look for another worker; more slowly if that does not help."""
        self._sitting, self._failures = None, self._failures + 1
        if self._failures > 1:
            await workflow.sleep(min(0.1 * 2.0**self._failures, 10.0))

    async def _take(self, settlements: dict[str, Any]) -> Sitting:
        """Any worker's hold of the run, as soon as one can have it."""
        taken: Sitting = await workflow.execute_activity(
            TAKE,
            At(self._given.tenant, self._given.run_id, settlements=settlements),
            result_type=Sitting,
            start_to_close_timeout=_LONG,
            heartbeat_timeout=timedelta(seconds=self._given.patience),
            retry_policy=_UNTIL_FREE,
        )
        return taken

    async def _interrupt(self) -> None:
        """Cancel the step that is under way, where it is under way."""
        if self._sitting is None:
            return
        try:
            await workflow.execute_activity(
                INTERRUPT,
                At(self._given.tenant, self._given.run_id),
                task_queue=self._sitting.queue,
                schedule_to_close_timeout=timedelta(seconds=self._given.patience),
                retry_policy=_ONCE,
            )
        except ActivityError:
            pass  # that worker is gone: the next one is told to stop
