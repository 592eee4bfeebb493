"""DBOS, on an event loop of its own: a sitting of a run is a workflow, and a `Worker` takes its steps.

Knows nothing of what a step does. One that DBOS executes again is taken again: whoever takes it knows what was done.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import Context
from typing import Any, Protocol, TypeVar

from shipworthy.errors import ConfigurationError, DriverError, DriverUnavailable, Fenced, MissingExtra

try:
    import dbos._dbos
    from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
    from dbos._error import DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError
    from sqlalchemy.exc import DBAPIError
except ImportError as error:
    raise MissingExtra(
        f"DBOSRuntime needs the package dbos: {error}.", fix="pip install 'shipworthy[dbos]'"
    ) from None

T = TypeVar("T")

VERSION = "shipworthy-1"
"""DBOS recovers a workflow only in executors of its application version, because changed code might not replay it. The
one workflow here is a loop over one step; that runs outlive a change of the agent's code is the journal's doing."""


class Worker(Protocol):
    """Who takes the steps. An execution is the workflow's id, "#", and a name of its own."""

    async def step(self, execution: str, agent: str, tenant: str, run_id: str) -> bool | str:
        """Take a step; False when none is left, and a text that says why none can be taken, which ends the workflow in
        an error. Raising leaves the workflow as a crash would, to be recovered."""
        ...

    async def stop(self, execution: str, tenant: str, run_id: str, reason: Exception | None) -> None:
        """No more steps are asked for, for this *reason*; None: somebody cancelled the workflow."""
        ...


@DBOS.workflow(name="shipworthy.sitting")
async def sitting(agent: str, tenant: str, run_id: str) -> None:
    """One sitting. What DBOS records of it is how many steps it had."""
    task = asyncio.current_task()
    assert _live is not None
    assert task is not None
    _live.executions.add(task)
    task.add_done_callback(_live.executions.discard)
    worker, workflow = _live.worker, str(DBOS.workflow_id)
    execution = f"{workflow}#{os.urandom(6).hex()}"

    async def step() -> bool | str:
        try:
            return await worker.step(execution, agent, tenant, run_id)
        except Exception:
            raise asyncio.CancelledError from None  # DBOS records nothing of it

    more: bool | str = True
    try:
        while more is True:
            # Preemptible: where the workflow is cancelled, so is the step under way, within a second.
            more = await DBOS.run_step_async({"name": "step", "preemptible": True}, step)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        reason: Exception | None = _translated(error)
        if isinstance(error, (DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError)):
            asked = asyncio.create_task(DBOS.get_workflow_status_async(workflow), context=Context())
            status = await asked  # from outside, or it would be a step
            cancelled = status is not None and status.status == "CANCELLED"
            reason = None if cancelled else Fenced(f"DBOS has another executor drive run {run_id!r}.")
        await worker.stop(execution, tenant, run_id, reason)
        raise asyncio.CancelledError from None  # else DBOS records it, or waits here for what another makes of it
    if more:
        raise RuntimeError(more)


class _Listened(list[str]):
    """The queues that DBOS takes workflows from, as they are each time it asks, about once a second."""

    def __init__(self, queues: Callable[[], list[str]]) -> None:
        super().__init__()
        self._queues = queues

    def __iter__(self) -> Iterator[str]:
        return iter(self._queues())


class Workflows:
    """One DBOS executor; a process has one. When it is launched, DBOS recovers what the last one called *executor_id*
    left. *queues*: those that this process takes from, now."""

    def __init__(
        self, url: str, worker: Worker, *, name: str, executor_id: str, queues: Callable[[], list[str]]
    ) -> None:
        self.worker = worker
        self.executions: set[asyncio.Task[Any]] = set()
        self._queues = queues
        self._registered: set[str] = set()
        self._config = DBOSConfig(
            name=name,
            system_database_url=url,
            application_version=VERSION,
            executor_id=executor_id,
            serializer=DBOSPortableJSONSerializer(),  # the default is pickle, which executes what it reads
            log_level="WARNING",
            notification_listener_polling_interval_sec=0.1,  # closing waits for it, and nothing else does
        )
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._serve, name="shipworthy-dbos", daemon=True)
        self._launched: Future[None] = Future()
        self._made: DBOS | None = None

    async def open(self) -> None:
        """Launch DBOS; whoever else opens it meanwhile waits for that. Raises DriverError, and ConfigurationError where
        DBOS runs in this process already."""
        global _live
        if _live is not self:
            if _live is not None or getattr(dbos._dbos, "_dbos_global_instance", None) is not None:
                fix = "Share one DBOSRuntime among a process's agents."
                raise ConfigurationError("DBOS runs in this process already.", fix=fix)
            _live, self._loop = self, asyncio.new_event_loop()
            self._thread.start()
        await asyncio.shield(asyncio.wrap_future(self._launched))

    async def start(self, workflow: str, queue: str | None, *arguments: str) -> None:
        """Have the workflow executed: here at once, or by whoever takes it from the *queue*. Raises DriverError."""
        await self._call(self._start(workflow, queue, *arguments))

    async def cancel(self, workflows: list[str]) -> None:
        """Cancel those that are not over. Raises DriverError."""
        if workflows:
            await self._call(DBOS.cancel_workflows_async(workflows))

    async def ended(self, workflow: str) -> tuple[str, str]:
        """Its status, and the error that it ended in, if it did. Raises DriverError."""
        found = await self._call(DBOS.get_workflow_status_async(workflow))
        return ("", "") if found is None else (found.status, str(found.error or ""))

    async def found(self, prefix: str, *status: str) -> list[str]:
        """The workflows of such a status whose ids begin so. Raises DriverError."""
        seen = await self._call(
            DBOS.list_workflows_async(
                workflow_id_prefix=prefix, status=[*status], load_input=False, load_output=False
            )
        )  # without regard to case, on SQLite
        return [each.workflow_id for each in seen if each.workflow_id.startswith(prefix)]

    async def close(self) -> None:
        """Stop executing; what is under way stays pending. Whoever is cancelled meanwhile does not prevent it."""
        if _live is self:
            await asyncio.shield(asyncio.to_thread(self._end))

    def _end(self) -> None:
        global _live
        self._give_up()
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()
        DBOS.destroy()  # its threads may wait for the loop, which is still running
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        _live = None

    def _give_up(self) -> None:
        """No more tries where the database is away: DBOS has no end to them, and the process would have none."""
        if self._made is not None and self._made._sys_db_field is not None:
            self._made._sys_db_field._retry_connection_errors = False

    # on DBOS's loop: it makes a loop's to_thread its own, so that no other loop should know it

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._launch())
            self._launched.set_result(None)
        except Exception as error:
            self._launched.set_exception(_translated(error))
        self._loop.run_forever()
        self._loop.close()

    async def _launch(self) -> None:
        self._made = DBOS(config=self._config)
        self._made._listening_queues = _Listened(self._queues)
        DBOS.launch()  # blocks this loop, which waits for nothing else, and which DBOS keeps to from now on
        for queue in self._queues():
            await self._register(queue)

    async def _register(self, queue: str) -> None:
        if queue not in self._registered:
            await DBOS.register_queue_async(queue, on_conflict="never_update")
            self._registered.add(queue)

    async def _start(self, workflow: str, queue: str | None, *arguments: str) -> None:
        if queue is not None:
            await self._register(queue)
        with SetWorkflowID(workflow):
            if queue is None:
                await DBOS.start_workflow_async(sitting, *arguments)
            else:
                await DBOS.enqueue_workflow_async(queue, sitting, *arguments)

    async def _drop(self) -> None:
        if self.executions:
            await asyncio.wait(self.executions, timeout=1.0)  # most have only their last entry to make
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.shield(
                asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
            )
        except Exception as error:
            raise _translated(error) from error


def _translated(error: BaseException) -> DriverError:
    if isinstance(error, DBAPIError):
        return DriverUnavailable(f"DBOS cannot use its database: {str(error.orig).splitlines()[0]}.")
    what = f"DBOS failed: {type(error).__name__}: {error}"
    return DriverError(what, fix="Mend that, and resume the run.")


_live: Workflows | None = None
