"""The activities: what a worker does for a run, each reported to Temporal as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Protocol

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import NondeterminismError

from shipworthy.adapters.temporal.payloads import STEPS, At, Place, Sitting, Taken, thin, thin_state
from shipworthy.adapters.temporal.workflow import PASSED_THROUGH, RunWorkflow
from shipworthy.domain.events import AnyEvent
from shipworthy.errors import DriverError, LedgerUnavailable, RunBusy, ShipworthyError, StoreError


class Hands(Protocol):
    """What this process does for the runs that it holds: `take` gives a run's journal and the seconds left for the
    sitting, `step` what was recorded (cancelled, it lets go of the run), `interrupt` cancels the step under way."""

    leaving: bool

    async def take(self, at: At, attempt: int) -> tuple[list[AnyEvent], float | None]: ...
    async def step(self, at: At, name: str) -> list[AnyEvent]: ...
    def interrupt(self, at: At) -> None: ...


def workers(client: Client, hands: Hands, place: Place, release: str) -> list[Worker]:
    """Those that poll the shared queue and this process's own. A shutdown gives steps *patience* seconds to end."""
    own, patience = f"{place.task_queue}@{os.urandom(8).hex()}", timedelta(seconds=place.patience)
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
    common: dict[str, Any] = {
        "build_id": release,
        "max_concurrent_activities": 1_000,
        "graceful_shutdown_timeout": patience,
    }

    @activity.defn
    async def take(at: At) -> Sitting:
        async with _reported():
            events, left = await hands.take(at, activity.info().attempt)
        return Sitting(thin_state(events), own, left)

    @activity.defn
    async def interrupt(at: At) -> None:
        hands.interrupt(at)

    def step(name: str) -> Callable[..., Any]:
        @activity.defn(name=name)
        async def step(at: At) -> Taken:
            async with _reported():
                events = await hands.step(at, name)
            return Taken([thin(event) for event in events], leaves=hands.leaving)

        return step

    shared = Worker(
        client,
        task_queue=place.task_queue,
        workflows=[RunWorkflow],
        activities=[take],
        workflow_runner=SandboxedWorkflowRunner(restrictions=restrictions),
        # A history that another release's rules wrote ends its workflow; the journal starts the next one.
        workflow_failure_exception_types=[NondeterminismError],
        sticky_queue_schedule_to_start_timeout=patience,
        **common,
    )
    return [shared, Worker(client, task_queue=own, activities=[interrupt, *map(step, STEPS)], **common)]


@contextlib.asynccontextmanager
async def _reported() -> AsyncIterator[None]:
    """Heartbeats as long as this lasts; errors by their names, and final only where no other worker could do better."""

    async def beat(every: float) -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(every)

    patience = activity.info().heartbeat_timeout or timedelta(seconds=10)
    beating = asyncio.create_task(beat(patience.total_seconds() / 4))
    try:
        yield
    except Exception as error:
        passes = isinstance(error, (RunBusy, StoreError, LedgerUnavailable, DriverError))
        if not isinstance(error, ShipworthyError):
            logging.getLogger("shipworthy").error("A worker's code raised.", exc_info=error)
            error = DriverError(f"A worker's code raised {type(error).__name__}.", fix="Its log says more.")
        raise ApplicationError(
            *(error.what, error.fix),
            type=type(error).__name__,
            non_retryable=not passes,
            category=ApplicationErrorCategory.BENIGN,
        ) from None
    finally:
        beating.cancel()
