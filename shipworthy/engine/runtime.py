"""A store plus a driver: what one process drives of a store's runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from shipworthy.domain.events import RunStarted
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.scope import Scope
from shipworthy.engine.admission import Admission
from shipworthy.engine.auditing import Logs, Witness
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.keyring import Keyring
from shipworthy.engine.live import LiveRun
from shipworthy.engine.metering import UNMETERED, Meter
from shipworthy.engine.observing import over
from shipworthy.engine.plan import Plan, Resume
from shipworthy.engine.sessions import Conversations
from shipworthy.engine.watch import Watcher
from shipworthy.errors import ConfigurationError, ShipworthyError
from shipworthy.ports.budget import Budget
from shipworthy.ports.store import Store
from shipworthy.rules.per_loop import PerLoop
from shipworthy.rules.state import RunState

if TYPE_CHECKING:
    from shipworthy.engine.bank import Bank

log = logging.getLogger("shipworthy")


class Driver(Protocol):
    """Who takes a run from step to step: this process, or another engine that does it through workers.

    `by_name`: runs reach their agent by its name, wherever it is, so that a caller's `deps=` cannot go with them.
    `keeps`: what of runs is kept beside their journals, where no erasure reaches, as a sentence; "" for nothing.
    """

    @property
    def by_name(self) -> bool: ...

    @property
    def keeps(self) -> str: ...

    async def open(self, runtime: Runtime) -> None:
        """Make ready, on an open store. Raises a DriverError that says what is wrong."""
        ...

    async def close(self) -> None:
        """Take no more runs, and give up connections."""
        ...

    def take(self, runtime: Runtime, asked: Resume) -> Coroutine[Any, Any, LiveRun]:
        """Have a run go on that is left or paused; it is to be driven unless it has ended. Raises RunNotFound, RunBusy,
        SettlementRefused."""
        ...

    def drive(self, runtime: Runtime, run: LiveRun) -> Coroutine[Any, Any, LiveRun]:
        """One sitting of *run*, to an end or a pause; the run as it stands then. Raises StoreError, DriverError."""
        ...


class Runtime:
    """A store and a driver, and the runs that are driven in this process. `of`: a runtime on the same store, which
    opens and closes for both, budgets and keys too. `signing_keys`: those of approvals and checkpoints, in place of the
    store's own."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        of: Runtime | None = None,
        signing_keys: Sequence[SigningKey] = (),
    ) -> None:
        self.store = store
        self.keyring: Keyring = Keyring(store, signing_keys) if of is None else of.keyring
        self.driver = driver
        self.agents: dict[str, Plan] = {}
        self._active: dict[tuple[str, str], LiveRun] = {}
        self._expected: dict[tuple[str, str], int] = {}
        self.conversations = Conversations()
        self._banks: dict[int, Bank] = {} if of is None else of._banks
        self._opened = False
        self._inner: Runtime | None = None
        self._leaving: set[int] = set()
        self._holders = 0
        self._doors: PerLoop[Admission] = PerLoop()
        self._tasks: dict[asyncio.Task[LiveRun], LiveRun] = {}
        self.logs: Logs = Logs() if of is None else of.logs

    async def open(self) -> None:
        """Open the store, once. Raises a StoreError that says what is wrong."""
        if not self._opened:
            await self.store.open()
            await self.driver.open(self)
            self._opened = True

    async def admit(self) -> None:
        """Open, and wait for a turn if many runs begin at once."""
        if not self._opened:
            await self.open()
        loop = asyncio.get_running_loop()
        if (turn := self._doors.get(loop, lambda: Admission(loop)).admit()) is not None:
            await turn

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._opened

    @property
    def budgets_elsewhere(self) -> bool:
        """Whether a budget that was used here counts in another ledger than the store's."""
        return any([not bank.joined for bank in self._banks.values()])

    def forget(self, scope: Scope) -> None:
        """Keep nothing in memory of the conversations of a session, a user or a tenant."""
        self.conversations.forget(scope)
        if self._inner is not None and self._inner is not self:
            self._inner.forget(scope)

    async def stop_learning(self, scope: Scope, run_id: str) -> None:
        """Leave a run that learns as a crash would, if it is driven here: nobody waits for it."""
        mine = [
            task
            for task, run in self._tasks.items()
            if (run.scope.tenant, run.run_id) == (scope.tenant, run_id)
            and run.blueprint.learns is not None
            and run.loop is asyncio.get_running_loop()
        ]
        for task in mine:
            self._tasks[task].abandoned = True
            task.cancel()
        if mine:
            await asyncio.wait(mine)

    async def acquire(self) -> None:
        """Open, and stay open until `release`: several agents may share a runtime."""
        await self.open()
        self._holders += 1

    @property
    def held(self) -> bool:
        """Whether somebody acquired the runtime and did not release it yet."""
        return self._holders > 0

    async def release(self) -> None:
        """Close, if nobody else holds the runtime."""
        self._holders -= 1
        if not self._holders:
            await self.close()

    async def close(self) -> None:
        """Give up the store. Runs still in flight stop here and can be resumed elsewhere."""
        self._opened = False
        try:
            await self.driver.close()
        finally:
            try:
                for bank in self._banks.values():
                    await bank.close()
            finally:
                try:
                    await self.logs.close()
                finally:
                    await self.store.close()

    @property
    def inner(self) -> Runtime:
        """Where nested runs are driven: in the process that drives the run they belong to."""
        if self._inner is None:
            from shipworthy.engine.driver import InProcess

            here = isinstance(self.driver, InProcess)
            self._inner = self if here else Runtime(self.store, InProcess(), of=self)
        return self._inner

    def bank(self, budget: Budget) -> Bank:
        """A budget on this runtime's store."""
        bank = self._banks.get(id(budget))
        if bank is None:
            from shipworthy.engine.bank import Bank

            bank = self._banks[id(budget)] = Bank(budget, self.store, self._banks.values())
        return bank

    async def meter(
        self,
        blueprint: Blueprint,
        scope: Scope,
        run_id: str,
        settings: ModelSettings | None,
        timeout: float | None,
        parent: LiveRun | None = None,
    ) -> Meter:
        """The meter of a run's next sitting, by what its budget says now, within *timeout* seconds; of a nested one,
        also by what holds for its *parent*. Raises ConfigurationError, LedgerError."""
        around = UNMETERED if parent is None else parent.meter
        if blueprint.budget is None and around is UNMETERED:
            return UNMETERED
        from shipworthy.engine.budgeting import budgeted

        bank = None if blueprint.budget is None else self.bank(blueprint.budget)
        merged = blueprint.settings.merge(settings)
        return await budgeted(bank, blueprint, scope, run_id, merged, timeout, around)

    async def witness(
        self, run: RunStarted | RunState, blueprint: Blueprint | None = None, parent: LiveRun | None = None
    ) -> Witness | None:
        """Who enters the events of a run, one that begins or goes on, in the audit log: that of the run around it, or
        its agent's; without those, as nobody drives it here, that of the agent of its name. Raises AuditError."""
        started = run if isinstance(run, RunStarted) else run.started
        log = None if blueprint is None else blueprint.audit
        if parent is not None and parent.witness is not None:
            log = parent.witness.log
        elif log is None:
            log = self.logs.of(started)
        if log is None:
            return None
        tools = () if blueprint is None else {*blueprint.tools, *blueprint.output_tools}
        witness = Witness(await self.logs.opened(log), self.store, started, tools)
        if isinstance(run, RunStarted):
            return witness
        return witness.resumed(run, await self.logs.appended(self.store, run))

    async def sweep(self) -> None:
        """Charge the expired holds of every budget."""
        for bank in self._banks.values():
            await bank.sweep()

    def register(self, plan: Plan) -> None:
        """Make an agent known by its name. Raises ConfigurationError if runs could reach another one by that name."""
        if plan.blueprint.audit is not None:
            self.logs.register(plan.blueprint.name, plan.blueprint.audit)
        known = self.agents.setdefault(plan.blueprint.name, plan)
        if known is not plan and self.driver.by_name:
            raise ConfigurationError(
                f"Two agents of one runtime are named {plan.blueprint.name!r}, and this runtime finds them by name.",
                fix="Give each of them a name= of its own.",
            )

    def active(self, scope: Scope, run_id: str) -> LiveRun | None:
        """The run, if this runtime drives it now."""
        run = self._active.get((scope.tenant, run_id))
        if run is not None and run.loop.is_closed():  # its task will take no further step
            self.leave(run)
            return None
        return run

    def expect(self, scope: Scope, run_id: str) -> bool:
        """From now until `expected` a run is begun or taken over here; False if it is driven, or somebody is at it."""
        key = (scope.tenant, run_id)
        self._expected[key] = self._expected.get(key, 0) + 1
        return self._expected[key] == 1 and self.active(scope, run_id) is None

    def expected(self, scope: Scope, run_id: str) -> None:
        """The run was entered, or will not be."""
        key = (scope.tenant, run_id)
        self._expected[key] -= 1
        if not self._expected[key]:
            del self._expected[key]

    def watch(self, scope: Scope, run_id: str) -> Watcher | None:
        """Read along with a run that is driven on this event loop; None if it is not."""
        run = self.active(scope, run_id)
        if run is None or run.loop is not asyncio.get_running_loop():
            return None
        watcher = Watcher()
        run.watchers.append(watcher)
        return watcher

    def unwatch(self, scope: Scope, run_id: str, watcher: Watcher) -> None:
        """Read along no more."""
        run = self.active(scope, run_id)
        if run is not None and watcher in run.watchers:
            run.watchers.remove(watcher)

    def enter(self, run: LiveRun) -> None:
        """From now on the run is found here, before its first step is taken."""
        self._active[run.scope.tenant, run.run_id] = run
        run.abandoned = run.abandoned or id(run.blueprint) in self._leaving

    def leave(self, run: LiveRun, error: BaseException | None = None) -> None:
        """The run is not driven here any more."""
        if self._active.get((run.scope.tenant, run.run_id)) is run:
            del self._active[run.scope.tenant, run.run_id]
        if run.sittings:
            over(run, error)
        for watcher in run.watchers:
            watcher.close(error if isinstance(error, ShipworthyError) else None)
        run.watchers.clear()

    async def abandon(self, blueprint: Blueprint) -> None:
        """Leave an agent's runs as a crash would, those that no caller waits for: somebody resumes them. Runs that are
        taken over until `forget_leaving` are left as well."""
        self._leaving.add(id(blueprint))
        for run in self._active.values():
            run.abandoned = run.abandoned or run.blueprint is blueprint
        tasks = [task for task, run in self._tasks.items() if run.blueprint is blueprint]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def is_leaving(self, blueprint: Blueprint) -> bool:
        """Whether the agent's runs are left, rather than cancelled, now."""
        return id(blueprint) in self._leaving

    def forget_leaving(self, blueprint: Blueprint) -> None:
        """The agent has left; it may come back."""
        self._leaving.discard(id(blueprint))

    async def cancel(self, task: asyncio.Task[LiveRun]) -> None:
        """Cancel a run that was spawned, and wait until that is recorded."""
        # A task that is cancelled before its first step takes none, and could record nothing.
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait([task])

    def spawn(self, run: LiveRun) -> asyncio.Task[LiveRun]:
        """Drive *run* beside the caller; the task is kept until it ends."""
        self.enter(run)
        task = asyncio.create_task(self.drive(run), name=f"shipworthy-run-{run.run_id}")
        self._tasks[task] = run
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[LiveRun]) -> None:
        self.leave(self._tasks.pop(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s stopped: %s", task.get_name(), error)

    def drive(self, run: LiveRun) -> Coroutine[Any, Any, LiveRun]:
        """One sitting of *run*; whoever reads along is told of its end, whatever it was."""
        self.enter(run)
        return self.driver.drive(self, run)

    async def resume(self, asked: Resume) -> LiveRun:
        """Have a run go on, to an end or a pause. Raises RunNotFound, RunBusy, SettlementRefused, and what driving
        raises."""
        run = await self.driver.take(self, asked)
        return run if run.state.ended is not None else await self.drive(run)
