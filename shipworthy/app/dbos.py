"""Runs as DBOS workflows: DBOS says when a step is taken, and the journal says which.

A workflow that DBOS executes again, here or elsewhere, finds the run where its journal stands. Whoever holds the run is
asked for its next step by one workflow; any other stands by until the run is over, or is to be had.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from shipworthy.adapters.dbos import Workflows
from shipworthy.app.service import is_mine
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import UNNAMED, Blueprint
from shipworthy.engine.driver import is_over, seat, step
from shipworthy.engine.follow import wait_until_over
from shipworthy.engine.live import LiveRun
from shipworthy.engine.plan import Resume
from shipworthy.engine.recover import load, take
from shipworthy.engine.runtime import Runtime, log
from shipworthy.errors import ConfigurationError, DriverError, RunBusy, StoreClosed

T = TypeVar("T")

_STANDBY = 0.25
"""Seconds between two looks at a run that another worker holds."""

_LOOK = 1.0
"""Seconds between two looks at the workflow of a run that was handed over."""


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
        except GeneratorExit:
            raise  # its event loop is closed, and nobody waits there any more
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
    """Drives runs by DBOS workflows: in this process, or through a queue of the agent's in *queue* by any process that
    has the agent.

    A run that a dead worker left goes on under a workflow of its own, unless DBOS recovers first the one that it had,
    and that one is cancelled: at once where the run is driven here, else once the run has ended, since the worker may
    be alive, and about to have the run.
    """

    by_name = True
    keeps = (
        "DBOS keeps a workflow for each sitting of a run, whose name and input have the ids of the tenant and the run "
        "(nothing that was said), until its own retention or DBOS.garbage_collect removes it."
    )

    def __init__(self, url: str, *, name: str, executor_id: str, queue: str | None) -> None:
        if not isinstance(name, str) or not re.fullmatch("[a-z0-9_-]{3,256}", name):
            fix = "Choose 3 to 256 of a-z, 0-9, - and _."
            raise ConfigurationError(f"name={name!r} is not a name that DBOS takes.", fix=fix)
        self._queue = queue
        self._make = partial(Workflows, url, self, name=name, executor_id=executor_id, queues=self._queues)
        self._sittings: dict[tuple[str, str], Sitting] = {}
        self._left: deque[str] = deque(maxlen=10_000)
        """Executions, and workflows without one, that had a run which was left: they are not to take it up again."""
        self._unknown: set[str] = set()
        """Agents that are not here, and that the log was told of."""
        self._handed: set[LiveRun] = set()
        """Runs that are being let go of, for whoever takes them from the queue: not to be seated as they are."""
        self._opening = threading.Lock()
        self._opened: Workflows | None = None
        self._runtime: Runtime
        self._home: asyncio.AbstractEventLoop

    async def open(self, runtime: Runtime) -> None:
        """Launch DBOS, once, which recovers what this executor left. Raises DriverError."""
        with self._opening:
            if self._opened is None:
                self._runtime, self._opened = runtime, self._make()
                self._home = asyncio.get_running_loop()
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
        sittings = [s for key in list(self._sittings) if (s := self._seated_here(key)) is not None]
        for sitting in sittings:
            with contextlib.suppress(RuntimeError):  # its loop was closed this very moment
                sitting.run.loop.call_soon_threadsafe(sitting.stop, StoreClosed("The runtime was closed."))
        try:
            if here := [s.done for s in sittings if s.run.loop is asyncio.get_running_loop()]:
                await asyncio.wait(here)
        finally:
            if workflows is not None:
                await workflows.close()

    @property
    def _workflows(self) -> Workflows:
        if self._opened is None:
            raise StoreClosed("The runtime was closed.")
        return self._opened

    async def take(self, runtime: Runtime, asked: Resume) -> LiveRun:
        """Take the run over. Raises RunBusy, also for one that waits in the queue, RunNotFound, SettlementRefused."""
        self._note_loop()
        if self._queue is not None and await self._workflows.found(
            _prefix(asked.scope, asked.run_id), "ENQUEUED"
        ):
            raise RunBusy(f"Run {asked.run_id!r} waits in the queue {self._queue!r}.")
        return await take(runtime, asked)

    async def drive(self, runtime: Runtime, run: LiveRun) -> LiveRun:
        """One sitting. Raises DriverError: the run is left to be resumed."""
        self._note_loop()
        sitting = self._seated_here(_key(run))
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

    def _note_loop(self) -> None:
        """Runs that come from a queue are driven on a loop that runs, as this one does."""
        if not self._home.is_running():
            self._home = asyncio.get_running_loop()

    def _queues(self) -> list[str]:
        """Those of the agents that are here."""
        return [q for plan in list(self._runtime.agents.values()) if (q := self._queue_of(plan.blueprint))]

    def _queue_of(self, blueprint: Blueprint) -> str | None:
        """The agent's own: a run that waits there is not taken by a process that does not have the agent."""
        if self._queue is None or blueprint.name != UNNAMED:
            return self._queue and f"{self._queue}/{blueprint.name}"
        return (
            f"{self._queue}/{UNNAMED}-{hashlib.sha256(repr(blueprint.fingerprint).encode()).hexdigest()[:16]}"
        )

    def _seated_here(self, key: tuple[str, str]) -> Sitting | None:
        """The run's sitting; one whose loop was closed is forgotten."""
        sitting = self._sittings.get(key)
        if sitting is not None and sitting.run.loop.is_closed():
            self._sittings.pop(key, None)
            return None
        return sitting

    def _seated(self, run: LiveRun, workflow: str) -> Sitting:
        key, sitting = _key(run), Sitting(self._runtime, run, workflow)

        def unseated(_: object) -> None:
            del self._sittings[key]
            if not is_over(run):
                self._left.append(sitting.execution or workflow)

        self._sittings[key] = sitting
        sitting.done.add_done_callback(unseated)
        return sitting

    async def _start(self, run: LiveRun, workflow: str) -> None:
        if run.state.seq > 1:
            await self._workflows.cancel(await self._under_way(run))  # whose worker is gone
        await self._workflows.start(workflow, None, run.blueprint.name, run.scope.tenant, run.run_id)

    async def _under_way(self, run: LiveRun) -> list[str]:
        return await self._workflows.found(_prefix(run.scope, run.run_id), "PENDING", "ENQUEUED")

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
        """Let whoever takes it from the queue drive the run, and follow its journal. Workflows that it has already are
        met in `seat`: whoever has the run drives it."""
        workflow = _prefix(run.scope, run.run_id) + os.urandom(6).hex()
        queue, arguments = self._queue_of(run.blueprint), (run.blueprint.name, run.scope.tenant, run.run_id)
        self._handed.add(run)
        try:
            await run.let_go()
        finally:
            self._handed.discard(run)
            runtime.leave(run)
        try:
            older = await self._under_way(run) if run.state.seq > 1 else []
            await self._workflows.start(workflow, queue, *arguments)
            await self._follow(runtime, run, workflow)
        except asyncio.CancelledError:
            while (
                not runtime.is_leaving(run.blueprint)
                and (await runtime.store.find(run.scope, run.run_id)).status == "running"
            ):
                await self._workflows.cancel(await self._under_way(run))  # which tells whoever drives it
                await self._cancel(runtime, run, workflow)
            raise
        over = await load(runtime, run.blueprint, run.scope, run.run_id)
        if over.state.ended is not None:
            with contextlib.suppress(DriverError):
                await self._workflows.cancel(older)
        return over

    async def _follow(self, runtime: Runtime, run: LiveRun, workflow: str) -> None:
        """Return when the sitting is over. Raises DriverError where the workflow ended without it."""
        over = asyncio.create_task(wait_until_over(runtime, run.scope, run.run_id, run.state.seq))
        try:
            while not (await asyncio.wait([over], timeout=_LOOK))[0]:
                status, error = await self._workflows.ended(workflow)
                if status == "CANCELLED":  # maybe in the queue, where nobody else is told
                    await self._cancel(runtime, run, workflow)
                elif status == "ERROR":
                    raise DriverError(
                        error, fix="Mend that in the process that drives it, and resume the run."
                    )
            await over
        finally:
            over.cancel()

    async def _cancel(self, runtime: Runtime, run: LiveRun, workflow: str) -> None:
        """Cancel the run, unless somebody drives it."""
        try:
            taken = await take(runtime, runtime.agents[run.blueprint.name].resume(run.scope, run.run_id))
        except RunBusy:
            await runtime.store.news(run.scope, run.run_id, _STANDBY)
            return
        if taken.state.ended is None:
            sitting = self._seated(taken, workflow)
            sitting.stop()
            await asyncio.wait([sitting.done])

    # what the workflows ask for, on DBOS's loop

    async def step(self, execution: str, agent: str, tenant: str, run_id: str) -> bool | str:
        """Take a step of the run, wherever it is seated."""
        scope = Scope(tenant)
        return await self._carry(scope, run_id, lambda: self._step(execution, agent, scope, run_id))

    async def stop(self, execution: str, tenant: str, run_id: str, reason: Exception | None) -> None:
        """Cancel the run, or leave it, if it is this execution's."""
        await self._carry(Scope(tenant), run_id, lambda: self._stop(execution, (tenant, run_id), reason))

    async def _carry(self, scope: Scope, run_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have it done on the loop of the run, in the context of whoever waits for it."""
        while True:
            run = self._runtime.active(scope, run_id)
            if run is not None or self._home.is_running():
                break
            await asyncio.sleep(_STANDBY)
        sitting = self._sittings.get((scope.tenant, run_id))
        context = contextvars.Context() if sitting is None else sitting.context.copy()
        loop = self._home if run is None else run.loop
        return await asyncio.wrap_future(context.run(asyncio.run_coroutine_threadsafe, work(), loop))

    # on the loop of the run

    async def _step(self, execution: str, agent: str, scope: Scope, run_id: str) -> bool | str:
        try:
            sitting = await self._sitting(execution, agent, scope, run_id)
        except StoreClosed:
            raise
        except Exception as error:  # of the agent's deps= factory, whose text may say anything
            return f"Agent {agent!r} could not take run {run_id!r} up: {type(error).__name__}."
        return sitting is not None and await sitting.step()

    async def _stop(self, execution: str, key: tuple[str, str], reason: Exception | None) -> None:
        sitting = self._seated_here(key)
        if sitting is not None and sitting.belongs_to(execution):
            sitting.stop(reason)
            await asyncio.wait([sitting.done])

    async def _sitting(self, execution: str, agent: str, scope: Scope, run_id: str) -> Sitting | None:
        """The run, seated here and this execution's to drive; None when it is over."""
        runtime, key = self._runtime, (scope.tenant, run_id)
        while True:
            sitting = self._seated_here(key)
            if sitting is not None and sitting.belongs_to(execution):
                return sitting
            if execution in self._left or execution.rpartition("#")[0] in self._left:
                raise StoreClosed(f"Run {run_id!r} was left.")
            if sitting is not None:
                await asyncio.wait([sitting.done])
            elif (await runtime.store.find(scope, run_id)).status != "running":
                return None
            elif (run := await self._seat(agent, scope, run_id)) is None or run in self._handed:
                await runtime.store.news(scope, run_id, _STANDBY)
            elif not is_over(run) and key not in self._sittings:
                sitting = self._seated(run, execution.rpartition("#")[0])
                runtime.spawn(run)  # as any run that no caller waits for

    async def _seat(self, agent: str, scope: Scope, run_id: str) -> LiveRun | None:
        """The run, or None while another worker has it, or its agent is not here."""
        plan = self._runtime.agents.get(agent)
        if plan is None or not is_mine(plan.blueprint, (await self._runtime.store.read(scope, run_id))[0]):
            if agent not in self._unknown:
                log.warning("Run %r waits for its agent %r, which is not in this process.", run_id, agent)
                self._unknown.add(agent)
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
