"""Runs under Temporal: callers hand a run over and read along; workers hold it, and take a step when told to."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.adapters.temporal.payloads import Given, Place, Told
from shipworthy.app.configuration import seconds
from shipworthy.app.holding import Holder
from shipworthy.app.runtimes import runtime_for
from shipworthy.app.signing import SigningKeys, keys_of
from shipworthy.domain.effects import Happened, Settlement
from shipworthy.domain.events import (
    RunResumed,
    StopRequested,
)
from shipworthy.domain.messages import Text
from shipworthy.engine.driver import InProcess
from shipworthy.engine.execute import parts_of
from shipworthy.engine.live import LiveRun
from shipworthy.engine.plan import Resume
from shipworthy.engine.recover import check_whose, load, take
from shipworthy.engine.runtime import Runtime, log
from shipworthy.engine.settle import check
from shipworthy.errors import (
    CheckpointRefused,
    ConfigurationError,
    DriverError,
    MissingExtra,
    RunBusy,
    RunNotFound,
    SettlementRefused,
    ShipworthyError,
)
from shipworthy.ports.store import Store
from shipworthy.rules.state import fold

if TYPE_CHECKING:
    from shipworthy.adapters.temporal.client import Workflows

_FIRST_POLL, _SLOWEST_POLL = 0.02, 0.5
_LARGEST_SETTLEMENT = 256 * 1024


class TemporalRuntime(Runtime):
    """Runs as Temporal workflows: `agent.run` hands them over, and workers take their steps (`shipworthy worker`, or
    `serving`). What is said in them stays in *store*, which callers and workers share: "sqlite:<path>",
    "postgres://...", or a Store.

    `patience`: seconds after which a worker that gives no sign of life is given up. `options`: further arguments of
    `temporalio.client.Client.connect`, such as tls= and api_key=. `signing_keys`: as in SqliteRuntime, the same for
    callers and workers.
    """

    def __init__(
        self,
        address: str = "localhost:7233",
        *,
        store: Store | str,
        namespace: str = "default",
        task_queue: str = "shipworthy",
        patience: float = 10.0,
        options: Mapping[str, Any] | None = None,
        signing_keys: SigningKeys = (),
    ) -> None:
        if importlib.util.find_spec("temporalio") is None:
            raise MissingExtra(
                "TemporalRuntime needs the package temporalio.", fix='pip install "shipworthy[temporal]"'
            )
        for name, text in (("address", address), ("namespace", namespace), ("task_queue", task_queue)):
            if not isinstance(text, str) or not text.strip():
                raise ConfigurationError(
                    f"{name}={text!r} names nothing.", fix="Pass a text such as 'localhost:7233'."
                )
        if isinstance(store, str):
            store = runtime_for(store).store
        if isinstance(store, InMemoryStore) or not hasattr(store, "commit"):
            raise ConfigurationError(
                f"{store!r} is no store that callers and workers can share.",
                fix='Pass store="postgres://..." or store="sqlite:./bot.db".',
            )
        self.place = Place(
            address=address,
            namespace=namespace,
            task_queue=task_queue,
            patience=seconds("patience", patience),
            options=options or {},
        )
        self._temporal = TemporalDriver(self.place)
        super().__init__(store, self._temporal, signing_keys=keys_of(signing_keys))

    def serving(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Be a worker for this runtime's agents: `async with agent, agent.runtime.serving(): ...`. At the end, steps
        that are under way get *patience* to end, and the runs are left to other workers."""
        return self._temporal.serving(self)


class TemporalDriver:
    """Hands runs to the workers of a Temporal task queue, each under a workflow of its own."""

    by_name = True
    keeps = (
        "Temporal keeps a workflow for each run, whose name and history have the ids of the tenant, the run and its "
        "calls, and results that people gave of calls in doubt, until the retention period of its namespace is over "
        "(`temporal workflow delete` removes one at once); archives and visibility stores of the server may keep more."
    )

    def __init__(self, place: Place) -> None:
        self._place = place
        self._workflows: Workflows
        self._seats: Runtime

    async def open(self, runtime: Runtime) -> None:
        """Connect. Raises DriverUnavailable; DriverError for an unknown namespace."""
        from shipworthy.adapters.temporal.client import Workflows

        self._workflows = await Workflows.connect(self._place)
        self._seats = Runtime(runtime.store, InProcess(), of=runtime)

    async def close(self) -> None:
        """Nothing to give up: runs go on under their workflows."""

    async def take(self, runtime: Runtime, asked: Resume) -> LiveRun:
        """Have the run's workflow go on, with what a person found out. Raises SettlementRefused, CheckpointRefused,
        RunNotFound, RunConflict for a nested run or one of another agent, RunBusy for a settlement of a run that is
        driven."""
        run = await load(runtime, asked.plan.blueprint, asked.scope, asked.run_id)
        check_whose(run.state, asked)
        while run.state.parked:
            if asked.at not in (None, run.state.parked_at):
                raise CheckpointRefused
            if await self._resumed(runtime, run, asked):
                return run
            await asyncio.sleep(_FIRST_POLL)
            before, run = run, await load(runtime, run.blueprint, run.scope, run.run_id)
            if asked.settlements and _goes_on(before, run):
                raise RunBusy(f"Run {run.run_id!r} was resumed by somebody else.")
        if asked.at is not None:
            raise CheckpointRefused
        if run.state.ended is not None:
            if asked.settlements:
                raise SettlementRefused(f"Run {run.run_id!r} has ended.", fix="Nothing is left to settle.")
            return run
        joined = not await self._workflows.start(self._given(run, rests=False))
        if joined and asked.settlements:
            raise RunBusy(f"Run {run.run_id!r} is being driven.")
        if asked.settlements:
            await self.drive(runtime, run)
            return await self.take(runtime, asked)
        run.abandoned = joined  # whose sitting is another caller's to stop
        return run

    async def _resumed(self, runtime: Runtime, run: LiveRun, asked: Resume) -> bool:
        """Whether a paused run goes on for this caller; if not, its workflow is about to learn that it is paused, or
        somebody else was faster. Raises SettlementRefused, CheckpointRefused."""
        try:
            async with self._warning(run):
                settlements = _sent(run, asked.settlements)
                await self._workflows.resume(self._given(run, rests=True), settlements, asked.at)
        except RunBusy:
            return False
        except SettlementRefused:
            if _goes_on(run, await load(runtime, run.blueprint, run.scope, run.run_id)):
                return False
            raise
        return True

    async def drive(self, runtime: Runtime, run: LiveRun) -> LiveRun:
        """Hand the run over, and read along until it has ended or is paused. A cancellation stops the run."""
        handed = asyncio.create_task(self._hand_over(run))
        error: BaseException | None = None
        try:
            await asyncio.shield(handed)
            await self._follow(runtime, run)
        except asyncio.CancelledError:
            if run.abandoned:
                handed.cancel()
            else:
                await _outlasting(self._stop(runtime, run, handed))
            raise
        except ShipworthyError as raised:
            error = raised
            raise
        finally:
            runtime.leave(run, error)
        return run

    async def _hand_over(self, run: LiveRun) -> None:
        """Start the workflow of a run that was begun here; one that was taken goes on under its own."""
        if run.fence.token < 0:
            return
        await run.let_go()
        run.bodies.used = True
        await self._workflows.start(self._given(run, rests=False))

    def _given(self, run: LiveRun, *, rests: bool) -> Given:
        return Given(tenant=run.scope.tenant, run_id=run.run_id, rests=rests, patience=self._place.patience)

    async def _follow(self, runtime: Runtime, run: LiveRun) -> None:
        reading = asyncio.create_task(_read_along(runtime, run))
        ending = asyncio.create_task(self._workflows.end(run.scope.tenant, run.run_id))
        both, before = {reading, ending}, run.state.seq
        try:
            async with self._warning(run):
                left = None if run.deadline is None else run.deadline - time.monotonic()
                done, _ = await asyncio.wait(both, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done and run.state.seq == before and not run.abandoned:
                    await self._expire(runtime, run)
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    return await reading
                ending.result()
                reading.cancel()  # instead of waiting for its next look
                await _read_along(runtime, run)
        except RunNotFound:
            raise DriverError(
                f"The workers of the task queue {self._place.task_queue!r} have no run {run.run_id!r} in their store.",
                fix="Give callers and workers the same store=, or the callers another task_queue=.",
            ) from None
        finally:
            reading.cancel()
            ending.cancel()
            await asyncio.gather(reading, ending, return_exceptions=True)

    async def _expire(self, runtime: Runtime, run: LiveRun) -> None:
        """Stop a run that no worker took within its time; one that has just been taken has its own deadline there."""
        if (await runtime.store.find(run.scope, run.run_id)).events == run.state.seq:
            asked = runtime.agents[run.blueprint.name].resume(run.scope, run.run_id)
            with contextlib.suppress(RunBusy):
                taken = await take(self._seats, asked)
                if taken.state.ended is None:
                    taken.record(StopRequested(cause=run.deadline_cause))
                    await self._seats.drive(taken)

    @contextlib.asynccontextmanager
    async def _warning(self, run: LiveRun) -> AsyncIterator[None]:
        """Say so if this takes long because no worker takes the run."""
        place, before = self._place, run.state.seq

        async def warn() -> None:
            await asyncio.sleep(place.patience)
            with contextlib.suppress(DriverError):
                if run.state.seq == before and await self._workflows.waits(run.scope.tenant, run.run_id):
                    log.warning(
                        "Run %r waits: no worker with its agent %r has taken it from the task queue %r of %s. Start "
                        "one: shipworthy worker module:agent --temporal %s --namespace %s --task-queue %s",
                        *(run.run_id, run.blueprint.name, place.task_queue, place.address),
                        *(place.address, place.namespace, place.task_queue),
                    )

        warning = asyncio.create_task(warn())
        try:
            yield
        finally:
            warning.cancel()

    async def _stop(self, runtime: Runtime, run: LiveRun, handed: asyncio.Task[None]) -> None:
        """Have the run stopped, and wait until that is recorded, if a worker is there to do it."""
        try:
            await handed
            await self._workflows.cancel(run.scope.tenant, run.run_id)
            async with asyncio.timeout(self._place.patience):
                await self._follow(runtime, run)
        except (ShipworthyError, TimeoutError) as error:
            log.warning("Run %r was cancelled, and has not stopped yet: %s", run.run_id, error)

    @contextlib.asynccontextmanager
    async def serving(self, runtime: Runtime) -> AsyncIterator[None]:
        """Take steps of runs of the runtime's agents as long as this lasts; then leave them to other workers."""
        from shipworthy import __version__
        from shipworthy.adapters.temporal.worker import workers

        await runtime.open()
        holder = Holder(runtime.agents, self._seats, self._place.patience)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(holder.close)
            for worker in workers(self._workflows.client, holder, self._place, __version__):
                await stack.enter_async_context(worker)
            try:
                yield
            finally:
                holder.leaving = True


def _goes_on(before: LiveRun, now: LiveRun) -> bool:
    """Whether a paused run was resumed meanwhile."""
    return not now.state.parked or now.state.parked_at != before.state.parked_at


def _sent(run: LiveRun, settlements: Mapping[str, Settlement]) -> Told:
    """What a person found out, as it travels: as it would be recorded. Raises SettlementRefused."""
    check(run, settlements)
    told: Told = {}
    for address, settlement in settlements.items():
        told[address] = None
        if isinstance(settlement, Happened):
            outermost = run.state.calls[address.partition("/")[0]]
            parts = parts_of(run, outermost, settlement.result)
            told[address] = parts[0].text if len(parts) == 1 and isinstance(parts[0], Text) else parts
    if (size := len(msgspec.json.encode(told))) > _LARGEST_SETTLEMENT:
        raise SettlementRefused(
            f"The settlements take {size} bytes, and Temporal carries {_LARGEST_SETTLEMENT}.",
            fix="Put the result where the tools find it, and settle with a reference to it.",
        )
    return told


async def _read_along(runtime: Runtime, run: LiveRun) -> None:
    """Take in what is recorded, until the run has ended or is paused, and show it to whoever reads along."""
    pause = _FIRST_POLL
    while True:
        events = await runtime.store.read(run.scope, run.run_id, run.state.seq)
        for event in events:
            fold(run.state, event)
            if isinstance(event, RunResumed):
                run.changed = event.changed
            for watcher in run.watchers:
                watcher.put(event)
        if events and (run.state.parked or run.state.ended is not None):  # answers may have followed already
            return
        pause = _FIRST_POLL if events else min(pause * 2, _SLOWEST_POLL)
        if not events:
            await runtime.store.news(run.scope, run.run_id, pause)


async def _outlasting(work: Coroutine[Any, Any, None]) -> None:
    """Do *work* to its end, whoever cancels meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
