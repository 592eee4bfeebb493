"""The caller's side: start a run's workflow, resume it, cancel it, and learn what became of it. Temporal's errors are
translated here."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec
from temporalio import converter
from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from shipworthy import errors
from shipworthy.adapters.temporal.payloads import Given, Place
from shipworthy.adapters.temporal.workflow import RunWorkflow
from shipworthy.errors import DriverError, DriverUnavailable, ShipworthyError

_DOWN = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


class _Structs(converter.EncodingPayloadConverter):
    @property
    def encoding(self) -> str:
        return "json/plain"

    def to_payload(self, value: Any) -> Payload:
        return Payload(metadata={"encoding": b"json/plain"}, data=msgspec.json.encode(value))

    def from_payload(self, payload: Payload, type_hint: Any = None) -> Any:
        return msgspec.json.decode(payload.data, type=Any if type_hint is None else type_hint)


class Converter(converter.CompositePayloadConverter):
    """Values as JSON, by their types."""

    def __init__(self) -> None:
        super().__init__(converter.BinaryNullPayloadConverter(), _Structs())


class Workflows:
    """The workflows of a task queue. Every method raises DriverUnavailable, or DriverError for what is refused."""

    def __init__(self, client: Client, place: Place) -> None:
        self.client = client
        self._place = place

    @classmethod
    async def connect(cls, place: Place) -> Workflows:
        """To a server that answers, and has the namespace."""
        data_converter = converter.DataConverter(payload_converter_class=Converter)
        with _translated(place):
            client = await Client.connect(
                place.address, namespace=place.namespace, data_converter=data_converter, **place.options
            )
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=place.namespace)
            )
        return cls(client, place)

    def _id(self, tenant: str, run_id: str) -> str:
        """The workflow's id: no two runs of the queue have the same."""
        name = f"{self._place.task_queue}/{len(tenant)}:{tenant}/{run_id}"
        return name if len(name.encode()) <= 500 else hashlib.sha256(name.encode()).hexdigest()

    def _starting(self, given: Given) -> dict[str, Any]:
        """How the run's workflow is had, whether it is there already or not."""
        return {
            "id": self._id(given.tenant, given.run_id),
            "task_queue": self._place.task_queue,
            "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
            "task_timeout": timedelta(seconds=max(self._place.patience, 2.0)),
        }

    async def start(self, given: Given) -> bool:
        """Have the run's workflow; whether it was not there."""
        options: dict[str, Any] = self._starting(given) | {
            "id_conflict_policy": WorkflowIDConflictPolicy.FAIL
        }
        with _translated(self._place), contextlib.suppress(WorkflowAlreadyStartedError):
            await self.client.start_workflow(RunWorkflow.run, given, **options)
            return True
        return False

    async def resume(self, given: Given, settlements: Mapping[str, Any], pause: int | None) -> None:
        """Have a parked run go on, from this *pause* if one is named. Raises SettlementRefused, CheckpointRefused,
        RunBusy."""
        start = WithStartWorkflowOperation(RunWorkflow.run, given, **self._starting(given))
        with _translated(self._place):
            await self.client.execute_update_with_start_workflow(
                RunWorkflow.resume, args=[dict(settlements), pause], start_workflow_operation=start
            )

    async def cancel(self, tenant: str, run_id: str) -> None:
        """Have a run stopped."""
        with _translated(self._place):
            await self.client.get_workflow_handle(self._id(tenant, run_id)).cancel()

    async def end(self, tenant: str, run_id: str) -> None:
        """Return when the workflow has ended, however long the server is away meanwhile. Raises what it failed with."""
        while True:
            try:
                with _translated(self._place):
                    await self.client.get_workflow_handle(self._id(tenant, run_id)).result()
                return
            except DriverUnavailable:
                await asyncio.sleep(1.0)

    async def waits(self, tenant: str, run_id: str) -> bool:
        """Whether a worker is yet to take the run."""
        with _translated(self._place):
            handle = self.client.get_workflow_handle(self._id(tenant, run_id))
            found = (await handle.describe()).raw_description
        taking = "take" in [activity.activity_type.name for activity in found.pending_activities]
        return taking or found.HasField("pending_workflow_task")


@contextlib.contextmanager
def _translated(place: Place) -> Iterator[None]:
    where = f"Temporal at {place.address}"
    try:
        yield
    except RPCError as error:
        if error.status in _DOWN:
            raise DriverUnavailable(f"{where} does not answer: {error.message}.") from error
        fix = (
            f"Create it: temporal operator namespace create -n {place.namespace}; or pass another namespace=."
        )
        raise DriverError(
            f"{where}: {error.message}", fix=fix if "amespace" in error.message else None
        ) from error
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise DriverUnavailable(f"{where} does not answer.") from error
    except RuntimeError as error:  # what the client raises when it cannot connect
        raise DriverUnavailable(f"{where} cannot be reached: {error}.") from error
    except (WorkflowUpdateFailedError, WorkflowFailureError) as error:
        raise _by_name(error) from error


def _by_name(error: WorkflowUpdateFailedError | WorkflowFailureError) -> ShipworthyError:
    """What a worker raised; a DriverError for anything that is not ours."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, ApplicationError):
        cause = getattr(cause, "cause", None)
    kind = getattr(errors, (cause.type if cause else None) or "", None)
    if cause is not None and isinstance(kind, type) and issubclass(kind, ShipworthyError):
        refused = kind.__new__(kind)  # whatever its own constructor takes
        ShipworthyError.__init__(refused, cause.message, fix=next(iter(cause.details), None))
        return refused
    return DriverError(
        f"The run's workflow did not come to its end: {error.cause}.",
        fix="Look at it in Temporal; agent.resume(run_id, tenant_id=...) starts it anew from the journal.",
    )
