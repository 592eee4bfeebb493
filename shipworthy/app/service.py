"""One agent's runs in this process: from a caller's words to the engine and back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.app.configuration import seconds, settings_of
from shipworthy.app.inputs import Prompt, history_of, new_run_id, prompt_of
from shipworthy.domain.effects import Settlement
from shipworthy.domain.events import Event, RunStarted
from shipworthy.domain.journal import RunFilter, RunSummary
from shipworthy.domain.messages import Message
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.pausing import Checkpoint
from shipworthy.domain.results import RunResult
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.begin import Start, begin
from shipworthy.engine.blueprint import UNNAMED, Blueprint
from shipworthy.engine.follow import wait_until_over
from shipworthy.engine.live import LiveRun
from shipworthy.engine.outcome import result_of
from shipworthy.engine.plan import Plan, Resume
from shipworthy.engine.recover import load
from shipworthy.engine.runtime import Runtime, log
from shipworthy.errors import (
    CheckpointRefused,
    ConfigurationError,
    Fenced,
    InvalidDeps,
    InvalidOption,
    RunBusy,
    RunConflict,
    RunNotFound,
    SessionPaused,
)
from shipworthy.rules.state import status_of

_RECOVERY = Operator("recovery of orphaned runs")
_AT_ONCE = 16
_TRIES = 20
_DUE_AT_ONCE = 1_000
_OTHERS = 100_000
"""Runs of other agents, or nested ones, that are remembered not to be looked at again."""
_FIRST_POLL, _SLOWEST_POLL = 0.02, 0.5


class Service:
    """What an agent is after its first use: a blueprint on a runtime."""

    __slots__ = ("_deps", "_deps_type", "_others", "blueprint", "plan", "runtime")

    def __init__(
        self,
        runtime: Runtime,
        blueprint: Blueprint,
        deps: Callable[..., Any] | None,
        deps_type: type[Any] | None,
    ) -> None:
        self.runtime = runtime
        self.blueprint = blueprint
        self._others: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._deps = deps
        self._deps_type = deps_type
        self.plan = Plan(blueprint, self._make_deps)
        runtime.register(self.plan)

    async def asked(
        self,
        scope: Scope,
        prompt: Prompt,
        *,
        run_id: str | None,
        deps: Any,
        message_history: Sequence[Message] | None,
        settings: ModelSettings | None,
        timeout: float | None,
    ) -> Start:
        """A call, checked. Raises InputError."""
        self.carry(deps)
        limits = self.blueprint.limits
        try:
            if timeout is not None:
                limits = msgspec.structs.replace(limits, timeout=seconds("timeout", timeout))
            if settings is not None:
                settings_of(settings)
        except ConfigurationError as error:
            raise InvalidOption(error.what, fix=error.fix) from None
        return Start(
            scope=scope,
            prompt=prompt_of(prompt),
            run_id=new_run_id(run_id),
            history=history_of(message_history, scope),
            deps=await self._make_deps(scope, deps),
            settings=settings,
            limits=limits,
        )

    def carry(self, deps: Any) -> None:
        """Refuse what one call brings and no worker would see. Raises InvalidDeps."""
        if deps is not None and self.runtime.driver.by_name:
            raise InvalidDeps(
                "deps= of one call cannot reach the worker that will drive the run.",
                fix="Give the Agent a deps= factory, which every worker can call.",
            )

    async def _make_deps(self, scope: Scope, given: Any) -> Any:
        return await deps_of(self._deps, self._deps_type, scope, given)

    async def begin(self, start: Start) -> LiveRun | None:
        """A new run, to be driven; None if the tenant has a run of this id. Raises SessionPaused."""
        await self.runtime.admit()
        if start.limits.wait_for_paused and start.scope.session is not None:
            await self._refuse_beside_paused(start)
        return await begin(self.runtime, self.blueprint, start)

    async def _refuse_beside_paused(self, start: Start) -> None:
        which = RunFilter(status="paused", limit=2)
        for run in await self.runtime.store.list(start.scope, which):
            if run.run_id != start.run_id:
                raise SessionPaused(f"Run {run.run_id!r} of this session is paused.")

    async def known(self, start: Start) -> str:
        """The id of a run that was begun before with the same input. Raises RunConflict for another input."""
        assert start.run_id is not None
        first = (await self.runtime.store.read(start.scope, start.run_id))[0]
        if not isinstance(first, RunStarted) or first.digest != start.digest():
            raise RunConflict(f"Run {start.run_id!r} exists, with another user or another input.")
        if not is_mine(self.blueprint, first):
            raise RunConflict(
                f"Run {start.run_id!r} exists, begun by another agent.",
                fix="Choose another run_id; give each Agent a name= of its own, so that it knows its runs.",
            )
        return start.run_id

    async def again(self, start: Start) -> RunResult[Any]:
        """The result of a call that was made before: there already, under way, or left by a dead worker."""
        run_id = await self.known(start)
        pause = _FIRST_POLL
        while True:
            run = await self.load(start.scope, run_id)
            if status_of(run.state) != "running":
                return await result_of(run)
            if self.runtime.active(start.scope, run_id) is not None:
                await wait_until_over(self.runtime, start.scope, run_id, run.state.seq)
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(RunBusy, Fenced):
                return await self.resume(start.scope, run_id, {}, start.deps)
            await self.runtime.store.news(start.scope, run_id, pause)
            pause = min(pause * 2, _SLOWEST_POLL)

    async def find(self, scope: Scope, run_id: str) -> tuple[str, None]:
        """A run that is there, to be read along with and nothing else. Raises RunNotFound."""
        await self.runtime.open()
        return (await self.runtime.store.find(scope, run_id)).run_id, None

    async def load(self, scope: Scope, run_id: str) -> LiveRun:
        """A run as its journal has it."""
        return await load(self.runtime, self.blueprint, scope, run_id)

    async def adopt(self, start: Start, run_id: str) -> None:
        """Drive a run that a dead worker left, beside its readers."""
        if self.runtime.active(start.scope, run_id) is not None:
            return
        if (await self.runtime.store.find(start.scope, run_id)).status == "running":
            with contextlib.suppress(RunBusy, Fenced):
                run = await self.runtime.driver.take(
                    self.runtime, self.plan.resume(start.scope, run_id, deps=start.deps)
                )
                if run.state.ended is None:
                    self.runtime.spawn(run)

    async def resume(
        self,
        scope: Scope,
        run_id: str,
        settlements: Mapping[str, Settlement],
        deps: Any,
        *,
        checkpoint: Checkpoint | None = None,
        answer: Any = None,
    ) -> RunResult[Any]:
        """Go on with a run, from its journal; a sitting that is under way in this process is joined, unless something
        is brought that only a pause takes."""
        await self.runtime.open()
        if checkpoint is not None or answer is not None:
            return await self._answer(scope, run_id, settlements, deps, checkpoint, answer)
        asked = self.plan.resume(scope, run_id, settlements, deps)
        while self.runtime.active(scope, run_id) is not None:
            await wait_until_over(self.runtime, scope, run_id)
            await asyncio.sleep(0)
            if not settlements:
                return await result_of(await self.load(scope, run_id))
        return await self._go_on(asked)

    async def _go_on(self, asked: Resume) -> RunResult[Any]:
        """Take the run, and drive it. One that is still paused may be taken by several at once, also by those who
        bring an answer that is refused: who loses it to them tries again. Raises RunBusy when another one drives it."""
        for turn in range(_TRIES):
            try:
                return await result_of(await self.runtime.resume(asked))
            except (Fenced, RunBusy) as error:
                if not (await self.load(asked.scope, asked.run_id)).state.parked:
                    if isinstance(error, RunBusy):
                        raise  # it says who has the run
                    raise RunBusy(f"Run {asked.run_id!r} is being driven by somebody else.") from error
            await _someone_first(turn)
        raise RunBusy(
            f"Run {asked.run_id!r} is being answered or resumed by others all the time.",
            fix="Resume it again; what was answered is recorded, and is not to be brought again.",
        )

    async def _answer(
        self,
        scope: Scope,
        run_id: str,
        settlements: Mapping[str, Settlement],
        deps: Any,
        checkpoint: Checkpoint | None,
        answer: Any,
    ) -> RunResult[Any]:
        """Take the answer, and go on from the pause that it is for."""
        from shipworthy.engine.answering import GRACE, Answering

        answering = Answering(self.runtime, scope, run_id, checkpoint)
        try:
            pause = await (answering.use() if answer is None else answering.take(answer, wake_in=GRACE))
        except RunNotFound:
            if checkpoint is None:
                raise
            raise CheckpointRefused from None
        at = None if checkpoint is None else pause
        return await self._go_on(self.plan.resume(scope, run_id, settlements, deps, at))

    async def cancel(self, scope: Scope, run_id: str) -> RunResult[Any]:
        """End a paused run as cancelled; one that has ended gives its result."""
        from shipworthy.engine.cancelling import cancel

        await self.runtime.open()
        return await result_of(await cancel(self.runtime, self.plan, scope, run_id))

    async def recover(self) -> list[RunResult[Any]]:
        """Resume this agent's orphaned runs, and the paused ones that wait no longer, some at once. What cannot be
        resumed is logged and left as it is."""
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._recover_one(orphan.scope, orphan.run_id, slots))
                for orphan in await self._orphans()
            ]
        return [result for task in tasks if (result := task.result()) is not None]

    async def _recover_one(
        self, scope: Scope, run_id: str, slots: asyncio.Semaphore
    ) -> RunResult[Any] | None:
        async with slots:
            try:
                first = (await self.runtime.store.read(scope, run_id))[0]
                if not is_mine(self.blueprint, first) or is_nested(first):
                    self._others[scope.tenant, run_id] = None
                    if len(self._others) > _OTHERS:
                        self._others.popitem(last=False)
                    return None
                result = await self.resume(Scope(scope.tenant), run_id, {}, None)
                if result.status == "paused":
                    waits = ", ".join([c.tool for c in result.pending]) or result.error
                    log.warning(
                        "Run %r of tenant %r is paused; it waits for: %s", run_id, scope.tenant, waits
                    )
                return result
            except (RunBusy, Fenced):
                return None
            except Exception as error:
                log.warning("Run %r could not be recovered: %s", run_id, error)
                return None

    async def keep_recovering(self, every: float) -> None:
        """Look for orphaned runs again and again; one that takes long keeps nobody waiting but itself."""
        slots = asyncio.Semaphore(_AT_ONCE)
        tasks: dict[tuple[Scope, str], asyncio.Task[Any]] = {}
        try:
            while True:
                try:
                    for orphan in await self._orphans():
                        key = orphan.scope, orphan.run_id
                        if key not in tasks or tasks[key].done():
                            tasks[key] = asyncio.create_task(self._recover_one(*key, slots))
                    await self.runtime.sweep()
                except Exception as error:
                    log.warning("The look for orphaned runs failed: %s", error)
                tasks = {key: task for key, task in tasks.items() if not task.done()}
                await asyncio.sleep(every)
        finally:
            for task in tasks.values():
                task.cancel()
            if tasks:
                await asyncio.wait(tasks.values())

    async def _due(self) -> list[RunSummary]:
        """Paused runs that wait no longer, without those that were found to be another agent's."""
        now, found, seen = time.time_ns() // 1_000_000, list[RunSummary](), 0
        while len(found) < _DUE_AT_ONCE:
            page = await self.runtime.store.due(_RECOVERY, now, seen)
            seen += len(page)
            found += [run for run in page if (run.scope.tenant, run.run_id) not in self._others]
            if not page:
                break
        return found

    async def _orphans(self) -> list[RunSummary]:
        await self.runtime.open()
        orphans = [*await self.runtime.store.orphans(_RECOVERY), *await self._due()]
        return [o for o in orphans if self.runtime.active(o.scope, o.run_id) is None]


async def deps_of(
    factory: Callable[..., Any] | None, wanted: type[Any] | None, scope: Scope, given: Any
) -> Any:
    """What was given, else what the factory makes. Raises InvalidDeps."""
    deps = given
    if deps is None and factory is not None:
        deps = factory(scope)
        if inspect.isawaitable(deps):
            deps = await deps
    if wanted is not None and not isinstance(deps, wanted):
        raise InvalidDeps(f"deps is a {type(deps).__name__}; this agent needs a {wanted.__name__}.")
    return deps


async def _someone_first(turn: int) -> None:
    """Wait, each for another time, so that one of those who try at once is first."""
    import random

    await asyncio.sleep(random.uniform(0, min(0.002 * 2**turn, 0.1)))


def is_nested(first: Event) -> bool:
    """Whether a run belongs to another one, which goes on with it."""
    return isinstance(first, RunStarted) and first.parent is not None


def is_mine(blueprint: Blueprint, first: Event) -> bool:
    """An agent's name says whose a run is; one without a name recovers only what was begun with the very same
    configuration, since others on the store have no name either."""
    if not isinstance(first, RunStarted) or first.agent != blueprint.name:
        return False
    return first.agent != UNNAMED or first.fingerprint == blueprint.fingerprint
