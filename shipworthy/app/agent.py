"""The agent: what a developer writes down once, and every request runs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import msgspec

from shipworthy.app.inputs import Prompt, Tuning, history_of, prompt_of, run_id_of, scope_of
from shipworthy.app.outputs import OutputMode, output_for
from shipworthy.app.runtimes import runtime_for
from shipworthy.app.stream import AgentStream
from shipworthy.app.sync import run_sync
from shipworthy.app.tools import FunctionTool, tool
from shipworthy.domain.context import Deps
from shipworthy.domain.effects import Effect, Settlement
from shipworthy.domain.events import RunStarted
from shipworthy.domain.messages import Message
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.results import Checkpoint, RunResult
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.begin import Start, begin
from shipworthy.engine.blueprint import Blueprint, Instruction, Limits
from shipworthy.engine.follow import follow
from shipworthy.engine.live import LiveRun
from shipworthy.engine.outcome import result_of
from shipworthy.engine.recover import Resume, load, resume
from shipworthy.engine.runtime import Runtime, log
from shipworthy.errors import (
    AgentInUse,
    ConfigurationError,
    DuplicateTool,
    IdentityMissing,
    InvalidDeps,
    InvalidTool,
    RunBusy,
    RunConflict,
    ShipworthyError,
)
from shipworthy.ports.model import Model
from shipworthy.ports.tools import Tool

OutputT = TypeVar("OutputT")
F = TypeVar("F", bound=Callable[..., Any])

_RECOVERY = Operator("recovery of orphaned runs")
_AT_ONCE = 16


class Agent(Generic[Deps, OutputT]):
    """A model, its instructions and its tools; immutable from its first run on, and shared by all requests.

    `instructions`: a text, or functions of the context that give one. `model`: 'provider:model' or a Model. `output`:
    `str`, or any type whose values the answer must be. `deps`: what tools are given, as a value made for each run by a
    function of the scope. `runtime`: where runs live (in memory by default). `timeout`: seconds for one sitting of a
    run. `max_turns`: answers of the model after which it is asked for a last one without tools.

    Raises ConfigurationError for anything that could not work later.
    """

    __slots__ = (
        "_blueprint",
        "_deps",
        "_deps_type",
        "_entered",
        "_instructions",
        "_limits",
        "_model",
        "_output_mode",
        "_output_type",
        "_recovering",
        "_require_identity",
        "_settings",
        "_tenant_id",
        "_tools",
        "_tuning",
        "_validators",
        "name",
        "runtime",
    )

    def __init__(
        self,
        instructions: Instruction | Sequence[Instruction] = "",
        *,
        model: Model | str,
        tools: Sequence[Tool] = (),
        output: Any = str,
        output_mode: OutputMode = "auto",
        output_validators: Sequence[Callable[..., Any]] = (),
        runtime: Runtime | str | None = None,
        name: str = "agent",
        deps: Callable[..., Any] | None = None,
        deps_type: type[Deps] | None = None,
        tenant_id: str | None = None,
        require_identity: bool = False,
        settings: ModelSettings | None = None,
        max_turns: int = 50,
        timeout: float | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.name = name
        self.runtime = runtime_for(runtime)
        self._instructions = _instructions(instructions)
        self._model = _model(model)
        self._tools: dict[str, Tool] = {}
        for each in tools:
            self._add(each)
        self._output_type, self._output_mode = output, output_mode
        self._validators = list(output_validators)
        self._deps, self._deps_type = deps, deps_type
        self._tenant_id, self._require_identity = tenant_id, require_identity
        self._settings = settings or _NO_SETTINGS
        self._tuning = tuning or _NO_TUNING
        self._limits = _limits(max_turns, timeout, self._tuning)
        self._blueprint: Blueprint | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._entered = 0
        if output is not str:
            output_for(output, mode=output_mode, validators=())

    # building

    def tool(
        self,
        *,
        effect: Effect,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        verify: Callable[..., Any] | None = None,
        max_result: int | None = None,
    ) -> Callable[[Callable[..., Any]], FunctionTool[..., Any]]:
        """Register a function as a tool, as `@tool` does. Raises AgentInUse after the first run."""

        def register(function: Callable[..., Any]) -> FunctionTool[..., Any]:
            made = tool(
                effect=effect,
                name=name,
                description=description,
                timeout=timeout,
                retries=retries,
                verify=verify,
                max_result=max_result,
            )(function)
            self._add(made)
            return made

        return register

    def output_validator(self, function: F) -> F:
        """Register a check of the output: `(value)` or `(ctx, value)`; what it returns is the output. It raises
        InvalidOutput or ModelRetry to have the model asked again."""
        self._unused()
        self._validators.append(function)
        return function

    def _add(self, made: Tool) -> None:
        self._unused()
        if not hasattr(made, "spec") or not hasattr(made, "effect"):
            raise InvalidTool(
                f"{made!r} is not a tool.", fix='Decorate the function with @tool(effect="...").'
            )
        name = made.spec.name
        if name in self._tools:
            raise DuplicateTool(f"There are two tools named {name!r}.")
        self._tools[name] = made

    def _unused(self) -> None:
        if getattr(self, "_blueprint", None) is not None:
            raise AgentInUse(f"Agent {self.name!r} has run, and no longer changes.")

    def blueprint(self) -> Blueprint:
        """The agent as its runs see it; made at the first run."""
        if self._blueprint is None:
            output = output_for(self._output_type, mode=self._output_mode, validators=tuple(self._validators))
            for spec in output.tools:
                if spec.name in self._tools:
                    raise DuplicateTool(f"The tool {spec.name!r} has the name of the output's own tool.")
            self._blueprint = Blueprint.build(
                name=self.name,
                instructions=self._instructions,
                model=self._model,
                tools=self._tools,
                output=output,
                settings=self._settings,
                limits=self._limits,
            )
        return self._blueprint

    # running

    async def run(
        self,
        prompt: Prompt,
        *,
        tenant_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        deps: Deps | None = None,
        message_history: Sequence[Message] | None = None,
        settings: ModelSettings | None = None,
        timeout: float | None = None,
    ) -> RunResult[OutputT]:
        """Run to an end or a pause. With `run_id` the same call made again returns or continues that run.

        Raises InputError before anything is started, and StoreError when the journal cannot be written; how the run
        itself ended is in the result.
        """
        scope = self._scope(tenant_id, user_id, session_id)
        start = await self._asked(scope, prompt, run_id, deps, message_history, settings, timeout)
        run = await self._begin(start)
        if run is None:
            return await self._again(start)
        await self.runtime.drive(run)
        return await result_of(run)

    def run_sync(
        self,
        prompt: Prompt,
        *,
        tenant_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        deps: Deps | None = None,
        message_history: Sequence[Message] | None = None,
        settings: ModelSettings | None = None,
        timeout: float | None = None,
    ) -> RunResult[OutputT]:
        """`run` for callers without an event loop."""
        return run_sync(
            self.run(
                prompt,
                tenant_id=tenant_id,
                user_id=user_id,
                session_id=session_id,
                run_id=run_id,
                deps=deps,
                message_history=message_history,
                settings=settings,
                timeout=timeout,
            )
        )

    @overload
    def stream(
        self,
        prompt: Prompt,
        *,
        tenant_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        deps: Deps | None = None,
        message_history: Sequence[Message] | None = None,
        settings: ModelSettings | None = None,
        timeout: float | None = None,
        after: int = 0,
    ) -> AgentStream[OutputT]: ...
    @overload
    def stream(
        self, prompt: None = None, *, run_id: str, tenant_id: str | None = None, after: int = 0
    ) -> AgentStream[OutputT]: ...
    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        tenant_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        deps: Deps | None = None,
        message_history: Sequence[Message] | None = None,
        settings: ModelSettings | None = None,
        timeout: float | None = None,
        after: int = 0,
    ) -> AgentStream[OutputT]:
        """Run and read along; without a prompt, follow the run `run_id`. `after` leaves out events up to that number.

        Use as `async with agent.stream(...) as stream`.
        """
        if prompt is None:
            scope = self._scope_of_run(run_id or "", tenant_id)[0]
        else:
            scope = self._scope(tenant_id, user_id, session_id)

        async def start() -> LiveRun | str:
            await self._ready()
            if prompt is None:
                await self.runtime.store.find(scope, run_id or "")
                return run_id or ""
            asked = await self._asked(scope, prompt, run_id, deps, message_history, settings, timeout)
            run = await self._begin(asked)
            return run if run is not None else await self._continue(asked)

        async def find(run_id: str) -> LiveRun:
            return await load(self.runtime.store, self.blueprint(), scope, run_id)

        return AgentStream(self.runtime, start, find, scope=scope, after=after)

    async def resume(
        self,
        run: str | Checkpoint | RunResult[Any],
        *,
        tenant_id: str | None = None,
        settle: Mapping[str, Settlement] | None = None,
        deps: Deps | None = None,
    ) -> RunResult[OutputT]:
        """Go on with a run that crashed or is paused, from its journal; an ended one gives its result.

        `settle` says of calls in doubt what happened. Raises RunNotFound, RunBusy, SettlementRefused, MissingTool.
        """
        await self._ready()
        scope, run_id = self._scope_of_run(run, tenant_id)
        asked = Resume(
            scope=scope,
            run_id=run_id,
            deps=deps,
            make_deps=self._make_deps,
            limits=self._limits,
            settlements=settle or {},
        )
        return await result_of(await resume(self.runtime, self.blueprint(), asked))

    async def recover(self) -> list[RunResult[OutputT]]:
        """Resume this agent's runs, of every tenant, that nobody drives any more. What cannot be resumed is logged."""
        await self._ready()
        slots = asyncio.Semaphore(_AT_ONCE)
        results: list[RunResult[OutputT]] = []

        async def one(scope: Scope, run_id: str) -> None:
            async with slots:
                try:
                    results.append(await self.resume(run_id, tenant_id=scope.tenant))
                except RunBusy:
                    return
                except ShipworthyError as error:
                    log.warning("Run %r could not be recovered: %s", run_id, error)

        async with asyncio.TaskGroup() as group:
            for run in await self.runtime.store.orphans(_RECOVERY):
                if self.runtime.active(run.scope, run.run_id) is None and await self._is_mine(
                    run.scope, run.run_id
                ):
                    group.create_task(one(run.scope, run.run_id))
        return results

    async def __aenter__(self) -> Agent[Deps, OutputT]:
        await self._ready()
        self._entered += 1
        if self._entered == 1:
            self._recovering = asyncio.create_task(self._keep_recovering(), name="shipworthy-recovery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave runs in flight to whoever resumes them, and give up connections."""
        self._entered -= 1
        if self._entered:
            return
        await self.runtime.abandon()
        if self._recovering is not None:
            self._recovering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._recovering
        await self._model.close()
        await self.runtime.close()

    # parts

    async def _ready(self) -> None:
        self.blueprint()
        await self.runtime.open()

    async def _keep_recovering(self) -> None:
        while True:
            try:
                await self.recover()
            except ShipworthyError as error:
                log.warning("The look for orphaned runs failed: %s", error)
            await asyncio.sleep(self._tuning.recover_every)

    async def _is_mine(self, scope: Scope, run_id: str) -> bool:
        first = (await self.runtime.store.read(scope, run_id))[0]
        return isinstance(first, RunStarted) and first.agent == self.name

    def _scope(self, tenant_id: str | None, user_id: str | None, session_id: str | None) -> Scope:
        return scope_of(
            tenant_id, user_id, session_id, default=self._tenant_id, required=self._require_identity
        )

    def _scope_of_run(
        self, run: str | Checkpoint | RunResult[Any], tenant_id: str | None
    ) -> tuple[Scope, str]:
        if isinstance(run, RunResult):
            run = run.checkpoint
        if isinstance(run, Checkpoint):
            if tenant_id is not None and tenant_id != run.tenant_id:
                raise IdentityMissing("tenant_id is not that of the checkpoint.", fix="Leave tenant_id out.")
            return Scope(run.tenant_id), run.run_id
        tenant = tenant_id or self._tenant_id
        if not tenant:
            raise IdentityMissing("A run is found by its tenant and its id, and tenant_id is missing.")
        return Scope(tenant), run_id_of(run) or ""

    async def _asked(
        self,
        scope: Scope,
        prompt: Prompt,
        run_id: str | None,
        deps: Any,
        message_history: Sequence[Message] | None,
        settings: ModelSettings | None,
        timeout: float | None,
    ) -> Start:
        limits = self._limits
        if timeout is not None:
            limits = msgspec.structs.replace(limits, timeout=_seconds("timeout", timeout))
        return Start(
            scope=scope,
            prompt=prompt_of(prompt),
            run_id=run_id_of(run_id),
            history=history_of(message_history, scope),
            deps=await self._make_deps(scope, deps),
            settings=settings,
            limits=limits,
        )

    async def _make_deps(self, scope: Scope, given: Any) -> Any:
        deps = given
        if deps is None and self._deps is not None:
            deps = self._deps(scope)
            if inspect.isawaitable(deps):
                deps = await deps
        if self._deps_type is not None and not isinstance(deps, self._deps_type):
            raise InvalidDeps(
                f"deps is a {type(deps).__name__}; this agent needs a {self._deps_type.__name__}."
            )
        return deps

    async def _begin(self, start: Start) -> LiveRun | None:
        await self._ready()
        return await begin(self.runtime, self.blueprint(), start)

    async def _continue(self, start: Start) -> str:
        """The id of a run that was begun before with the same input. Raises RunConflict for another input."""
        assert start.run_id is not None
        first = (await self.runtime.store.read(start.scope, start.run_id))[0]
        if not isinstance(first, RunStarted) or first.digest != start.digest():
            raise RunConflict(f"Run {start.run_id!r} exists, with another user or another input.")
        return start.run_id

    async def _again(self, start: Start) -> RunResult[OutputT]:
        """The result of a call that was made before: there already, under way, or left by a dead worker."""
        run_id = await self._continue(start)
        while True:
            run = await load(self.runtime.store, self.blueprint(), start.scope, run_id)
            result = await result_of(run)
            if result.status != "running":
                return result
            if self.runtime.active(start.scope, run_id) is None:
                with contextlib.suppress(RunBusy):
                    return await self.resume(run_id, tenant_id=start.scope.tenant, deps=start.deps)
            async for _ in follow(self.runtime, start.scope, run_id, run.state.seq):
                pass


_NO_SETTINGS = ModelSettings()
_NO_TUNING = Tuning()
_LIMITS = Limits()


def _model(given: Model | str) -> Model:
    if isinstance(given, str):
        from shipworthy.app.models import resolve_model

        return resolve_model(given)
    if not hasattr(given, "stream") or not hasattr(given, "name"):
        raise ConfigurationError(f"{given!r} is not a model.", fix="Pass 'provider:model' or a Model object.")
    return given


def _instructions(given: Instruction | Sequence[Instruction]) -> tuple[Instruction, ...]:
    if isinstance(given, str) or callable(given):
        return (given,) if given else ()
    made = tuple(given)
    for each in made:
        if not isinstance(each, str) and not callable(each):
            raise ConfigurationError(
                f"instructions has a {type(each).__name__}.", fix="Use texts and functions."
            )
    return made


def _limits(max_turns: int, timeout: float | None, tuning: Tuning) -> Limits:
    if max_turns == 50 and timeout is None and tuning is _NO_TUNING:
        return _LIMITS
    if not isinstance(max_turns, int) or max_turns < 1:
        raise ConfigurationError(f"max_turns={max_turns!r} allows no turn.", fix="Pass an int of at least 1.")
    return Limits(
        max_turns=max_turns,
        output_retries=tuning.output_retries,
        model_retries=tuning.model_retries,
        timeout=None if timeout is None else _seconds("timeout", timeout),
        tool_timeout=_seconds("tool_timeout", tuning.tool_timeout),
        max_result=tuning.max_result,
    )


def _seconds(name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"{name}={value!r} is not a time.", fix="Pass seconds, more than 0.")
    return float(value)
