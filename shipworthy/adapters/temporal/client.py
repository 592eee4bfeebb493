"""The caller's side: start a run's workflow, resume it, cancel it, and learn what became of it. Temporal's errors are
translated here."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.converter import (
    BinaryNullPayloadConverter,
    CompositePayloadConverter,
    DataConverter,
    EncodingPayloadConverter,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from shipworthy import errors
from shipworthy.adapters.temporal.payloads import Given, Place
from shipworthy.adapters.temporal.workflow import RunWorkflow
from shipworthy.errors import DriverError, DriverUnavailable, ShipworthyError

_EXISTING = WorkflowIDConflictPolicy.USE_EXISTING
_AGAIN = 1.0


class _Structs(EncodingPayloadConverter):
    """Every value as JSON, by its type."""

    @property
    def encoding(self) -> str:
        return "json/plain"

    def to_payload(self, value: Any) -> Payload:
        return Payload(metadata={"encoding": b"json/plain"}, data=msgspec.json.encode(value))

    def from_payload(self, payload: Payload, type_hint: Any = None) -> Any:
        return msgspec.json.decode(payload.data, type=Any if type_hint is None else type_hint)


class Converter(CompositePayloadConverter):
    """Temporal's payload converter for all of the above."""

    def __init__(self) -> None:
        super().__init__(BinaryNullPayloadConverter(), _Structs())


class Workflows:
    """The workflows of one task queue in one namespace of a server that is connected to."""

    def __init__(self, client: Client, place: Place) -> None:
        self.client = client
        self._place = place

    @classmethod
    async def connect(cls, place: Place) -> Workflows:
        """Raises DriverUnavailable, and DriverError for a namespace that is not there."""
        converter = DataConverter(payload_converter_class=Converter)
        with _translated(place):
            client = await Client.connect(
                place.address, namespace=place.namespace, data_converter=converter, **place.options
            )
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=place.namespace)
            )
        return cls(client, place)

    def id_of(self, tenant: str, run_id: str) -> str:
        """The workflow's id: no two runs of the queue have the same."""
        name = f"{self._place.task_queue}/{len(tenant)}:{tenant}/{run_id}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        return name if len(name.encode()) <= 500 else f"{self._place.task_queue[:100]}/{digest}"

    async def start(self, given: Given) -> None:
        """Have the run's workflow, whether it is there already or not. Raises DriverError."""
        with _translated(self._place):
            await self.client.start_workflow(
                RunWorkflow.run,
                given,
                id=self.id_of(given.tenant, given.run_id),
                task_queue=self._place.task_queue,
                id_conflict_policy=_EXISTING,
            )

    async def resume(self, given: Given, settlements: Mapping[str, Any]) -> None:
        """Have a parked run go on. Raises SettlementRefused, RunBusy, DriverError."""
        start = WithStartWorkflowOperation(
            RunWorkflow.run,
            given,
            id=self.id_of(given.tenant, given.run_id),
            task_queue=self._place.task_queue,
            id_conflict_policy=_EXISTING,
        )
        with _translated(self._place):
            await self.client.execute_update_with_start_workflow(
                RunWorkflow.resume, dict(settlements), start_workflow_operation=start
            )

    async def cancel(self, tenant: str, run_id: str) -> None:
        """Have a run stopped. Raises DriverError."""
        with _translated(self._place):
            await self.client.get_workflow_handle(self.id_of(tenant, run_id)).cancel()

    async def end(self, tenant: str, run_id: str) -> None:
        """Return when the workflow has ended, however long the server is away meanwhile. Raises what it failed with."""
        handle = self.client.get_workflow_handle(self.id_of(tenant, run_id))
        while True:
            try:
                with _translated(self._place):
                    await handle.result()
                return
            except DriverUnavailable:
                await asyncio.sleep(_AGAIN)

    async def is_served(self) -> bool:
        """Whether a worker polls the queue. Raises DriverError."""
        request = DescribeTaskQueueRequest(
            namespace=self.client.namespace,
            task_queue=TaskQueue(name=self._place.task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
        with _translated(self._place):
            return bool((await self.client.workflow_service.describe_task_queue(request)).pollers)


@contextlib.contextmanager
def _translated(place: Place) -> Iterator[None]:
    address = place.address
    try:
        yield
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and "amespace" in error.message:
            fix = f"Create it: temporal operator namespace create -n {place.namespace}; or pass another namespace=."
            raise DriverError(f"Temporal at {address}: {error.message}", fix=fix) from error
        if error.status in (
            RPCStatusCode.UNAVAILABLE,
            RPCStatusCode.DEADLINE_EXCEEDED,
            RPCStatusCode.CANCELLED,
        ):
            raise DriverUnavailable(f"Temporal at {address} does not answer: {error.message}") from error
        raise DriverError(f"Temporal at {address} refused: {error.message}") from error
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise DriverUnavailable(f"Temporal at {address} does not answer.") from error
    except RuntimeError as error:  # what the client raises when it cannot connect
        raise DriverUnavailable(f"Temporal at {address} cannot be reached: {error}.") from error
    except (WorkflowUpdateFailedError, WorkflowFailureError) as error:
        raise _by_name(error) from error


def _by_name(error: WorkflowUpdateFailedError | WorkflowFailureError) -> ShipworthyError:
    """What a worker raised; a DriverError for anything that is not ours."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, ApplicationError):
        cause = getattr(cause, "cause", None)
    kind = getattr(errors, (cause.type if cause else None) or "", None)
    if cause is not None and isinstance(kind, type) and issubclass(kind, ShipworthyError):
        return kind(cause.message, fix=next(iter(cause.details), None))
    return DriverError(
        f"The run's workflow did not come to its end: {error.cause}.",
        fix="Look at it in Temporal; agent.resume(run_id, tenant_id=...) starts it anew from the journal.",
    )
