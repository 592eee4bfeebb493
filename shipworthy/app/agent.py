"""The agent: what a developer writes down once, and every request runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType, UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from shipworthy.app.approvals import Requires
from shipworthy.app.configuration import (
    NO_TUNING,
    Tuning,
    factory_of,
    flag_of,
    functions_of,
    instructions_of,
    limits_of,
    model_of,
    name_of,
    sequence_of,
    settings_of,
    type_of,
)
from shipworthy.app.inputs import (
    Prompt,
    nothing_but_a_run_id,
    scope_of,
    scope_of_run,
    sequence_number,
    tenant_of,
)
from shipworthy.app.outputs import OutputMode, output_for
from shipworthy.app.runtimes import runtime_for
from shipworthy.app.service import Service, deps_of
from shipworthy.app.stream import AgentStream, Reading
from shipworthy.app.tools import FunctionTool, tool
from shipworthy.domain.context import Deps
from shipworthy.domain.effects import Effect, Settlement
from shipworthy.domain.messages import Message
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.pausing import Checkpoint
from shipworthy.domain.results import OutputT, RunResult
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import UNNAMED, Blueprint, Instruction
from shipworthy.engine.governance import Governance
from shipworthy.engine.outcome import result_of
from shipworthy.engine.plan import Plan
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import AgentInUse, ConfigurationError, DuplicateTool, InvalidTool
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.budget import Budget
from shipworthy.ports.model import Model
from shipworthy.ports.policy import Policy
from shipworthy.ports.readers import Reader
from shipworthy.ports.tools import Tool

if TYPE_CHECKING:
    from shipworthy.app.agent_memory import AgentMemory
    from shipworthy.app.control import ApprovalHandler, Control
    from shipworthy.app.nested import AgentTool
    from shipworthy.app.recorders import Recording
    from shipworthy.domain.memory import Consolidated
    from shipworthy.engine.memory.memory import Memory

F = TypeVar("F", bound=Callable[..., Any])


class Agent(Generic[Deps, OutputT]):
    """A model, its instructions and its tools; immutable from its first run on, and shared by all requests.

    `instructions`: a text, or functions of the context that give one. `model`: 'provider:model' or a Model. `output`:
    `str`, or any type whose values the answer must be. `deps`: what tools are given, as a value made for each run by a
    function of the scope. `runtime`: where runs live (in memory by default). `timeout`: seconds for one sitting of a
    run. `max_turns`: answers of the model after which it is asked for a last one without tools. `budget`: what runs may
    spend, such as a StandardBudget. `permissions`: which calls may run, such as StandardPermissions; without them the
    tools listed in code may. `approval_handler`: who is asked where somebody has to be, a function of the request or an
    Inbox; without one, nobody is, and that is a no. `memory`: a Memory, or its address, such as "sqlite:./bot.db"; what
    it has for the prompt is recalled before the first turn, and what was said is kept when the run ends. Where it
    cannot be asked the run waits, unless `memory_required=False` lets it go on without. `auto_extract`: have facts
    learned from what was said, by the model, at the user's expense; on for real models. `audit_log`: where everything
    that is done is entered before it takes effect, such as a FileAuditLog; where it cannot be written, runs stop.
    `telemetry`: who makes spans and metrics of runs, such as OTelTelemetry.

    Raises ConfigurationError for anything that could not work later.
    """

    __slots__ = (
        "_audit_log",
        "_blueprint",
        "_budget",
        "_control",
        "_deps",
        "_deps_type",
        "_entered",
        "_instructions",
        "_limits",
        "_memory",
        "_model",
        "_output_mode",
        "_output_type",
        "_readers",
        "_recovering",
        "_require_identity",
        "_runtime",
        "_service",
        "_settings",
        "_tenant_id",
        "_tools",
        "_tuning",
        "_validators",
        "name",
    )

    def __init__(
        self,
        instructions: Instruction | Sequence[Instruction] = "",
        *,
        model: Model | str,
        tools: Sequence[Tool] = (),
        output: type[OutputT] | UnionType = str,  # type: ignore[assignment]
        output_mode: OutputMode = "auto",
        output_validators: Sequence[Callable[..., Any]] = (),
        runtime: Runtime | str | None = None,
        name: str = UNNAMED,
        deps: Callable[..., Any] | None = None,
        deps_type: type[Deps] | None = None,
        tenant_id: str | None = None,
        require_identity: bool = False,
        settings: ModelSettings | None = None,
        max_turns: int = 50,
        timeout: float | None = None,
        budget: Budget | None = None,
        permissions: Policy | None = None,
        approval_handler: ApprovalHandler | None = None,
        memory: Memory | str | None = None,
        memory_required: bool = True,
        auto_extract: bool | None = None,
        audit_log: AuditLog | None = None,
        telemetry: Reader | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.name = name if name == UNNAMED else name_of(name)
        self._runtime = None if runtime is None else runtime_for(runtime)
        self._instructions = instructions_of(instructions)
        self._model = model_of(model)
        self._tools: dict[str, Tool] = {}
        for each in sequence_of("tools", tools):
            self._add(each)
        self._output_type: Any = output
        self._output_mode: OutputMode = output_mode
        self._validators = functions_of("output_validators", output_validators)
        self._deps, self._deps_type = factory_of(deps), type_of(deps_type)
        self._tenant_id = tenant_of(tenant_id)
        self._require_identity = flag_of("require_identity", require_identity)
        self._settings = settings_of(settings)
        self._tuning = NO_TUNING if tuning is None else tuning
        self._limits = limits_of(max_turns, timeout, self._tuning)
        self._budget = None if budget is None else _budget_of(budget, self.name)
        self._control: Control | None = None
        if permissions is not None or approval_handler is not None:
            self._control = _control_of(permissions, approval_handler)
        self._memory: AgentMemory | None = None
        if memory is not None or auto_extract or not memory_required or self._tuning.auto_consolidate:
            self._memory = _memory_of(self._model, self._tuning, memory, memory_required, auto_extract)
            if self._runtime is not None:  # whoever erases before the first run erases its journals too
                self._memory.memory.covers(self._runtime)
        self._audit_log = None if audit_log is None else _audit_log_of(audit_log)
        if (
            self._audit_log is not None and self._runtime is not None
        ):  # erasing before the first run is entered too
            self._runtime.logs.register(self.name, self._audit_log)
        self._readers: list[Reader] = [] if telemetry is None else [_telemetry_of(telemetry)]
        self._blueprint: Blueprint | None = None
        self._service: Service | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._entered = 0
        if output is not str or output_mode != "auto":
            output_for(output, mode=output_mode, validators=())

    @property
    def runtime(self) -> Runtime:
        """Where the agent's runs live."""
        if self._runtime is None:
            self._runtime = runtime_for(None)
            if self._audit_log is not None:
                self._runtime.logs.register(self.name, self._audit_log)
        return self._runtime

    @property
    def budget(self) -> Budget | None:
        """What the agent's runs may spend; None where nothing is limited or priced."""
        return self._budget

    @property
    def memory(self) -> Memory | None:
        """What the agent's runs recall from and are remembered in."""
        return None if self._memory is None else self._memory.memory

    @property
    def audit_log(self) -> AuditLog | None:
        """Where everything that is done is entered."""
        return self._audit_log

    def attach(
        self,
        recorder: Callable[..., Any] | Reader,
        *,
        capacity: int | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Recording:
        """Have *recorder* told every event of this agent's runs, and of those nested in them, from their next sittings
        on: `recorder(event)` or `recorder(event, about)`, async or not, or a reader such as a StatusLine. It is told on
        a thread of its own, so a slow or failing one changes no run: at most *capacity* events wait, the others are
        dropped and counted. `loop`: where it is called instead, and which it may slow. Raises ConfigurationError."""
        from shipworthy.app.recorders import attach

        return attach(self._readers, recorder, capacity, loop)

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The agent's tools, by their names."""
        return MappingProxyType(self._tools)

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
        requires_approval: Requires = False,
        approvers: int = 1,
        labels: Sequence[str] = (),
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
                requires_approval=requires_approval,
                approvers=approvers,
                labels=labels,
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

    def before_tool(self, function: F) -> F:
        """Register `(ctx, action)`, asked before each call: it gives None where it has no objection, a Decision, or
        Replace(arguments). What it raises is a deny."""
        return self._hook("before_tool", function)

    def after_tool(self, function: F) -> F:
        """Register `(ctx, action, result)`, asked when a call gave a result: None, or a Decision; a deny withholds the
        result from the model."""
        return self._hook("after_tool", function)

    def before_model(self, function: F) -> F:
        """Register `(ctx, request)`, asked before each call of the model: None, or a Decision; a deny stops the run."""
        return self._hook("before_model", function)

    def after_model(self, function: F) -> F:
        """Register `(ctx, answer)`, asked when an answer is complete: None, or a Decision; a deny stops the run, and
        none of the answer's calls is made. Whoever streams has seen its text by then."""
        return self._hook("after_model", function)

    def _hook(self, stage: str, function: F) -> F:
        self._unused()
        if self._control is None:
            self._control = _control_of(None, None)
        self._control.hook(stage, function)
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
        if getattr(made, "agents", ()):
            from shipworthy.app.nested import refuse_namesakes

            refuse_namesakes(self.name, [*self._tools.values(), made])
        self._tools[name] = made

    def _unused(self) -> None:
        if getattr(self, "_blueprint", None) is not None:
            raise AgentInUse(f"Agent {self.name!r} has run, and no longer changes.")

    def as_tool(
        self,
        name: str | None = None,
        description: str | None = None,
        *,
        labels: Sequence[str] = (),
        timeout: float | None = None,
        requires_approval: Requires = False,
        approvers: int = 1,
    ) -> AgentTool:
        """The agent as a tool of another one, which gives it a task and gets its output.

        Each call is a run of its own, in the store, process and scope of the run that makes it. It keeps to that run's
        policies, hooks, budget and deadline, and adds this agent's; whom that run asks for approval is asked here too.
        Where it pauses, both do. `timeout`: seconds for one sitting of it. The name is the agent's by default. Raises
        ConfigurationError.
        """
        from shipworthy.app.nested import as_tool

        return as_tool(self, name, description, labels, timeout, requires_approval, approvers)

    @property
    def identified(self) -> bool:
        """Whether the agent works for nobody anonymous."""
        return self._require_identity

    def nested(self) -> Plan:
        """The agent as runs see it that are nested in another agent's. It no longer changes."""
        made, parent_has = self._frozen(), self._deps is None

        async def make_deps(scope: Scope, given: Any) -> Any:
            return await deps_of(self._deps, self._deps_type, scope, given if parent_has else None)

        return Plan(made, make_deps)

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
        service = self._in_use()
        start = await service.asked(
            scope,
            prompt,
            run_id=run_id,
            deps=deps,
            message_history=message_history,
            settings=settings,
            timeout=timeout,
        )
        run = await service.begin(start)
        if run is None:
            return await service.again(start)
        return await result_of(await self.runtime.drive(run))

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
        from shipworthy.app.sync import run_sync

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
        service = self._in_use()
        after = sequence_number(after)
        if prompt is None:
            nothing_but_a_run_id(user_id, session_id, deps, message_history, settings, timeout)
            scope, followed, _ = scope_of_run(run_id or "", tenant_id, self._tenant_id)
            return AgentStream(service, scope, lambda: service.find(scope, followed), after=after)
        scope = self._scope(tenant_id, user_id, session_id)

        async def start() -> Reading:
            asked = await service.asked(
                scope,
                prompt,
                run_id=run_id,
                deps=deps,
                message_history=message_history,
                settings=settings,
                timeout=timeout,
            )
            if (run := await service.begin(asked)) is not None:
                return run
            known = await service.known(asked)
            return known, lambda: service.adopt(asked, known)

        return AgentStream(service, scope, start, after=after)

    async def resume(
        self,
        run: str | Checkpoint | Mapping[str, Any] | RunResult[Any],
        *,
        tenant_id: str | None = None,
        answer: Any = None,
        settle: Mapping[str, Settlement] | None = None,
        deps: Deps | None = None,
    ) -> RunResult[OutputT]:
        """Go on with a run that crashed or is paused, from its journal; an ended one gives its result.

        `answer` is for the call that the run waits for, or a mapping of the addresses in `result.pending` to answers:
        Approve(by=) or Deny(by=) for an approval, what `ask_human` asks for otherwise. `settle` says of calls in doubt
        what happened. A checkpoint is good for one resume of the pause that it was made in; a run id says only which
        run. Raises RunNotFound, RunBusy, AnswerRefused, CheckpointRefused, SettlementRefused, MissingTool.
        """
        scope, run_id, checkpoint = scope_of_run(run, tenant_id, self._tenant_id)
        service = self._in_use()
        service.carry(deps)
        return await service.resume(scope, run_id, settle or {}, deps, checkpoint=checkpoint, answer=answer)

    async def cancel(self, run: str | RunResult[Any], *, tenant_id: str | None = None) -> RunResult[OutputT]:
        """End a paused run as cancelled, with the nested runs it waits for; one that has ended gives its result. Where
        a call is in doubt the run stays paused, starts nothing any more, and ends when that is settled. A run that is
        under way is cancelled by cancelling its task. Raises RunNotFound, RunBusy."""
        scope, run_id, _ = scope_of_run(run, tenant_id, self._tenant_id)
        return await self._in_use().cancel(scope, run_id)

    async def recover(self) -> list[RunResult[OutputT]]:
        """Resume this agent's runs, of every tenant, that nobody drives any more, and then those that learn from them.
        What cannot be resumed is logged."""
        results = await self._in_use().recover()
        if self._memory is not None:
            await self._memory.recover()
        return results

    async def consolidate(self, *, tenant_id: str | None = None, user_id: str | None = None) -> Consolidated:
        """Have facts learned of everything that this agent's memory has and that nothing was learned of yet, and join
        what says the same: of one user, or of everybody. Raises ConfigurationError where facts are not learned."""
        self._in_use()
        if self._memory is None:
            raise ConfigurationError("The agent has no memory.", fix='Pass memory="sqlite:./bot.db".')
        return await self._memory.consolidate(tenant_id, user_id)

    async def __aenter__(self) -> Agent[Deps, OutputT]:
        service = self._in_use()
        await self.runtime.acquire()
        self._entered += 1
        if self._entered == 1:
            if self._memory is not None:
                await self._enter_memory(self._memory)
            recovering = service.keep_recovering(self._tuning.recover_every)
            self._recovering = asyncio.create_task(recovering, name="shipworthy-recovery")
        return self

    async def _enter_memory(self, memory: AgentMemory) -> None:
        """Whoever cannot have it has entered nothing."""
        try:
            await memory.enter()
        except BaseException:
            self._entered -= 1
            await self.runtime.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave runs in flight to whoever resumes them, and give up connections."""
        self._entered -= 1
        blueprint = self._in_use().blueprint
        try:
            if not self._entered:
                if self._memory is not None:
                    await self._memory.leave(self.runtime)
                await self.runtime.abandon(blueprint)
                if self._recovering is not None:
                    self._recovering.cancel()
                    await asyncio.wait([self._recovering])
                await self._close_connections()
        finally:
            self.runtime.forget_leaving(blueprint)
            await self.runtime.release()

    async def close(self) -> None:
        """Give up connections, for whoever used the agent without `async with`, which also recovers orphaned runs."""
        await self._close_connections()
        if not self.runtime.held:
            await self.runtime.close()

    # parts

    async def _close_connections(self) -> None:
        """The connections of this agent, to its model and its memory, and of those that it has as tools."""
        open_, seen = [self], {id(self)}
        while open_:
            agent = open_.pop()
            await agent._model.close()
            if agent._memory is not None:
                await agent._memory.close()
            for each in agent._tools.values():
                inner = [a for a in getattr(each, "agents", ()) if id(a) not in seen]
                open_ += inner
                seen |= {id(a) for a in inner}

    def _in_use(self) -> Service:
        """The agent as its runs see it, from the first of them on."""
        if self._service is None:
            if self._control is not None and self._control.inbox is not None:
                self._control.inbox.of(self.runtime)
            self._service = Service(self.runtime, self._frozen(), self._deps, self._deps_type)
        return self._service

    def _frozen(self) -> Blueprint:
        """What every run has in common, from the first of them on."""
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
                budget=self._budget,
                governance=self._governance(),
                audit=self._audit_log,
                readers=self._readers,
            )
            if self._memory is not None:
                self._memory.attach(self._blueprint, self.runtime)
        return self._blueprint

    def _governance(self) -> Governance:
        patience, handler_patience = self._tuning.policy_timeout, self._tuning.approval_timeout
        if self._control is None:  # a tool may ask for approval all the same
            return Governance(patience=patience, handler_patience=handler_patience)
        return self._control.governance(patience, handler_patience)

    def _scope(self, tenant_id: str | None, user_id: str | None, session_id: str | None) -> Scope:
        scope = scope_of(
            tenant_id, user_id, session_id, default=self._tenant_id, required=self._require_identity
        )
        if self._memory is not None:
            self._memory.check(scope, required=self._require_identity)
        return scope


def _control_of(permissions: Policy | None, approval_handler: ApprovalHandler | None) -> Control:
    """Raises ConfigurationError."""
    from shipworthy.app.control import Control

    return Control(permissions, approval_handler)


def _memory_of(
    model: Model, tuning: Tuning, memory: Memory | str | None, required: bool, extract: bool | None
) -> AgentMemory:
    """Raises ConfigurationError."""
    from shipworthy.app.agent_memory import AgentMemory

    return AgentMemory(model, tuning, memory, required, extract)


def _audit_log_of(audit_log: AuditLog) -> AuditLog:
    """Raises ConfigurationError."""
    from shipworthy.app.evidence import audit_log_of

    return audit_log_of(audit_log)


def _telemetry_of(telemetry: Reader) -> Reader:
    """Raises ConfigurationError."""
    from shipworthy.app.evidence import telemetry_of

    return telemetry_of(telemetry)


def _budget_of(budget: Budget, agent: str) -> Budget | None:
    """A budget that is one, and that *agent* can be held to. Raises ConfigurationError."""
    from shipworthy.app.budgets import budget_of

    return budget_of(budget, agent)
