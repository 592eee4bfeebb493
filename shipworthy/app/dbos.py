"""Runs as DBOS workflows: DBOS says when a step is taken, and the journal says which.

A workflow that DBOS executes again, here or elsewhere, finds the run where its journal stands. Whoever holds the run is
asked for its next step by one workflow; any other stands by until the run is over, or is to be had.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, TypeVar

from shipworthy.adapters.dbos import Workflows
from shipworthy.app.service import is_mine
from shipworthy.domain.scope import Scope
from shipworthy.engine.driver import is_over, seat, step
from shipworthy.engine.follow import wait_until_over
from shipworthy.engine.live import LiveRun
from shipworthy.engine.plan import Resume
from shipworthy.engine.recover import load, take
from shipworthy.engine.runtime import Runtime, log
from shipworthy.errors import DriverError, RunBusy, StoreClosed

T = TypeVar("T")

_STANDBY = 0.25
"""Seconds between two looks at a run that another worker holds."""


class Sitting:
    """A run that is seated in this process, and the workflow whose execution has its steps taken, one at a time."""

    def __init__(self, runtime: Runtime, run: LiveRun, workflow: str) -> None:
        self.run = run
        self.workflow = workflow
        self.execution: str | None = None
        self.context = contextvars.copy_context()
        self.done: asyncio.Future[LiveRun] = run.loop.create_future()
        self.done.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # nobody need wait for it
        self._runtime = runtime
        self._task: asyncio.Task[object] | None = None
        self._reason: BaseException | None = None

    def belongs_to(self, execution: str) -> bool:
        """Whether that is who asks for the steps: the first execution of the workflow that does."""
        if self.execution is None and execution.startswith(f"{self.workflow}#"):
            self.execution = execution
        return self.execution == execution

    async def step(self) -> bool:
        """Take one step; False when the sitting is over. Raises what has the run left as a crash would leave it."""
        if self._task is None and not self.done.done():
            self._task = asyncio.current_task()
            await self._do(step(self._runtime, self.run))
        else:  # it is being stopped
            await asyncio.wait([self.done])
        if self.done.done() and not is_over(self.run):
            raise self._reason or RuntimeError("The run was left.")
        return not self.done.done()

    def stop(self, reason: BaseException | None = None) -> None:
        """Cancel the run; with a *reason*, which whoever waits is told, leave it to be resumed elsewhere."""
        if reason is not None:
            self._reason, self.run.abandoned = reason, True
        if self._task is not None:
            self._task.cancel()
        elif not self.done.done():  # between two steps, and nobody knows when DBOS wants the next one
            self._task = self.run.loop.create_task(self._do(step(self._runtime, self.run, _cancelled)))

    def expire(self) -> None:
        """The deadline is past; a step that is under way knows."""
        if self._task is None and not self.done.done():
            self._task = self.run.loop.create_task(self._do(step(self._runtime, self.run)))

    async def _do(self, work: Awaitable[object]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if is_over(self.run):
                self.done.set_result(self.run)  # whoever waits was not cancelled, if it was done in DBOS
            elif self._reason is not None:
                self.done.set_exception(self._reason)
            else:
                self.done.cancel()
        except BaseException as error:
            self._reason = error
            self.done.set_exception(error)
        else:
            if is_over(self.run):
                self.done.set_result(self.run)
        self._task = None


async def _cancelled(run: LiveRun) -> None:
    """The work of a run that is only to be stopped."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


class DBOSDriver:
    """Drives runs by DBOS workflows: in this process, or through *queue* by any process that has the agent.

    A run that a dead worker left goes on under a workflow of its own, and the one that it had is cancelled, unless
    DBOS recovers that one first.
    """

    by_name = True

    def __init__(self, url: str, *, name: str, executor_id: str, queue: str | None) -> None:
        self._queue = queue
        self._make = partial(Workflows, url, self, name=name, executor_id=executor_id, queue=queue)
        self._sittings: dict[tuple[str, str], Sitting] = {}
        self._left: set[str] = set()
        """Executions, and workflows without one, that had a run which was left: they are not to take it up again."""
        self._unknown: set[str] = set()
        self._opening = threading.Lock()
        self._opened: Workflows | None = None
        self._runtime: Runtime
        self._home: asyncio.AbstractEventLoop

    async def open(self, runtime: Runtime) -> None:
        """Launch DBOS, once, which recovers what this executor left. Raises DriverError."""
        with self._opening:
            if self._opened is None:
                self._runtime, self._home, self._opened = runtime, asyncio.get_running_loop(), self._make()
            workflows = self._opened
        try:
            await workflows.open()
        except DriverError:
            if self._opened is workflows:
                self._opened = None
                await workflows.close()
            raise

    async def close(self) -> None:
        """Leave every run to be resumed elsewhere, and stop DBOS."""
        workflows, self._opened = self._opened, None
        for sitting in list(self._sittings.values()):
            sitting.run.loop.call_soon_threadsafe(sitting.stop, StoreClosed("The runtime was closed."))
        here = [s.done for s in self._sittings.values() if s.run.loop is asyncio.get_running_loop()]
        if here:
            await asyncio.wait(here)
        if workflows is not None:
            await workflows.close()

    @property
    def _workflows(self) -> Workflows:
        if self._opened is None:
            raise StoreClosed("The runtime was closed.")
        return self._opened

    async def take(self, runtime: Runtime, asked: Resume) -> LiveRun:
        """Take the run over. Raises RunBusy, also for one that waits in the queue, RunNotFound, SettlementRefused."""
        if self._queue is not None and await self._workflows.found(
            _prefix(asked.scope, asked.run_id), "ENQUEUED"
        ):
            raise RunBusy(f"Run {asked.run_id!r} waits in the queue {self._queue!r}.")
        return await take(runtime, asked)

    async def drive(self, runtime: Runtime, run: LiveRun) -> LiveRun:
        """One sitting. Raises DriverError: the run is left to be resumed."""
        sitting = self._sittings.get(_key(run))
        if sitting is None and self._queue is not None:
            return await self._hand_over(runtime, run)
        if sitting is None:
            sitting = self._seated(run, _prefix(run.scope, run.run_id) + os.urandom(6).hex())
            try:
                await self._start(run, sitting.workflow)
            except Exception as error:
                sitting.stop(error)
            except asyncio.CancelledError as error:
                sitting.stop()
                return await self._wait(sitting, error)
        return await self._wait(sitting)

    def _seated(self, run: LiveRun, workflow: str) -> Sitting:
        key, sitting = _key(run), Sitting(self._runtime, run, workflow)

        def unseated(_: object) -> None:
            del self._sittings[key]
            if not is_over(run):
                self._left.add(sitting.execution or workflow)

        self._sittings[key] = sitting
        sitting.done.add_done_callback(unseated)
        return sitting

    async def _start(self, run: LiveRun, workflow: str) -> None:
        if run.state.seq > 1:
            await self._workflows.cancel(_prefix(run.scope, run.run_id))  # whose worker is gone
        await self._workflows.start(workflow, run.blueprint.name, run.scope.tenant, run.run_id)

    async def _wait(self, sitting: Sitting, cancelled: asyncio.CancelledError | None = None) -> LiveRun:
        while not sitting.done.done():
            deadline = sitting.run.deadline
            left = None if deadline is None else max(deadline - time.monotonic(), _STANDBY)
            try:
                await asyncio.wait([sitting.done], timeout=left)
                if deadline is not None and time.monotonic() > deadline:
                    sitting.expire()
            except asyncio.CancelledError as error:
                cancelled = error
                sitting.stop()
        run = sitting.done.result()
        if cancelled is not None:
            raise cancelled
        return run

    async def _hand_over(self, runtime: Runtime, run: LiveRun) -> LiveRun:
        """Let whoever takes it from the queue drive the run, and follow its journal."""
        workflow = _prefix(run.scope, run.run_id) + os.urandom(6).hex()
        try:
            await run.let_go()
        finally:
            runtime.leave(run)
        try:
            await self._start(run, workflow)
            await wait_until_over(runtime, run.scope, run.run_id, run.state.seq)
        except asyncio.CancelledError:
            await self._cancel(runtime, run, workflow)
            raise
        return await load(runtime.store, run.blueprint, run.scope, run.run_id)

    async def _cancel(self, runtime: Runtime, run: LiveRun, workflow: str) -> None:
        """Whoever drives the run is told by DBOS; if nobody does, it is cancelled here."""
        await self._workflows.cancel(workflow)
        while (await runtime.store.find(run.scope, run.run_id)).status == "running":
            try:
                taken = await take(runtime, runtime.agents[run.blueprint.name].resume(run.scope, run.run_id))
            except RunBusy:
                await runtime.store.news(run.scope, run.run_id, _STANDBY)
                continue
            if taken.state.ended is None:
                sitting = self._seated(taken, workflow)
                sitting.stop()
                await asyncio.wait([sitting.done])

    # what the workflows ask for, on DBOS's loop

    async def step(self, execution: str, agent: str, tenant: str, run_id: str) -> bool:
        """Take a step of the run, wherever it is seated."""
        return await self._carry(Scope(tenant), run_id, self._step(execution, agent, Scope(tenant), run_id))

    async def stop(self, execution: str, tenant: str, run_id: str, reason: Exception | None) -> None:
        """Cancel the run, or leave it, if it is this execution's."""
        await self._carry(Scope(tenant), run_id, self._stop(execution, (tenant, run_id), reason))

    async def _carry(self, scope: Scope, run_id: str, work: Coroutine[Any, Any, T]) -> T:
        """Have it done on the loop of the run, in the context of whoever waits for it."""
        run, sitting = self._runtime.active(scope, run_id), self._sittings.get((scope.tenant, run_id))
        loop = self._home if run is None else run.loop
        if loop.is_closed():
            work.close()
            raise StoreClosed(f"The event loop of run {run_id!r} is closed.")
        context = contextvars.Context() if sitting is None else sitting.context.copy()
        return await asyncio.wrap_future(context.run(asyncio.run_coroutine_threadsafe, work, loop))

    # on the loop of the run

    async def _step(self, execution: str, agent: str, scope: Scope, run_id: str) -> bool:
        sitting = await self._sitting(execution, agent, scope, run_id)
        return sitting is not None and await sitting.step()

    async def _stop(self, execution: str, key: tuple[str, str], reason: Exception | None) -> None:
        sitting = self._sittings.get(key)
        if sitting is not None and sitting.belongs_to(execution):
            sitting.stop(reason)
            await asyncio.wait([sitting.done])

    async def _sitting(self, execution: str, agent: str, scope: Scope, run_id: str) -> Sitting | None:
        """The run, seated here and this execution's to drive; None when it is over."""
        runtime, key = self._runtime, (scope.tenant, run_id)
        while True:
            sitting = self._sittings.get(key)
            if sitting is not None and sitting.belongs_to(execution):
                return sitting
            if {execution, execution.rpartition("#")[0]} & self._left:
                raise StoreClosed(f"Run {run_id!r} was left.")
            if sitting is not None:
                await asyncio.wait([sitting.done])
            elif (await runtime.store.find(scope, run_id)).status != "running":
                return None
            elif (run := await self._seat(agent, scope, run_id)) is None:
                await runtime.store.news(scope, run_id, _STANDBY)
            elif not is_over(run) and key not in self._sittings:
                sitting = self._seated(run, execution.rpartition("#")[0])
                runtime.spawn(run)  # as any run that no caller waits for

    async def _seat(self, agent: str, scope: Scope, run_id: str) -> LiveRun | None:
        """The run, or None while another worker has it, or its agent is not here."""
        plan = self._runtime.agents.get(agent)
        if plan is None or not is_mine(plan.blueprint, (await self._runtime.store.read(scope, run_id))[0]):
            if run_id not in self._unknown:
                log.warning("Run %r waits for its agent %r, which is not in this process.", run_id, agent)
                self._unknown.add(run_id)
            return None
        try:
            return await seat(self._runtime, plan, scope, run_id)
        except RunBusy:
            return None


def _key(run: LiveRun) -> tuple[str, str]:
    return run.scope.tenant, run.run_id


def _prefix(scope: Scope, run_id: str) -> str:
    """How the ids of a run's workflows begin, and those of no other run."""
    return f"{len(scope.tenant)}:{scope.tenant}:{len(run_id)}:{run_id}:"
