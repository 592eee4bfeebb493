"""Tools from functions: `@tool(effect=...)` reads a function once and makes it callable by a model."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, get_args, overload

import msgspec

from shipworthy.app.approvals import NO_OBJECTION, Requires, ToolApproval, approval_of, is_async, labels_of
from shipworthy.app.results import Parts, to_parts
from shipworthy.app.schemas import Mismatch, Record, Unsupported, codec_for
from shipworthy.app.signatures import Signature, read_signature
from shipworthy.app.threads import Key, guarded, in_thread, still_running
from shipworthy.domain.context import RunContext
from shipworthy.domain.effects import DidNotHappen, Effect, Happened, Unknown, Verdict
from shipworthy.domain.messages import Text
from shipworthy.domain.model import ToolSpec
from shipworthy.domain.policy import ActionKind, Decision
from shipworthy.errors import EffectRequired, InvalidArguments, InvalidTool, NotDone, UnserialisableResult

P = ParamSpec("P")
R = TypeVar("R")
Verify = Callable[[RunContext[Any], Any], Verdict | Awaitable[Verdict]]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_log = logging.getLogger("shipworthy.tools")


class FunctionTool(Generic[P, R]):
    """A function that a model may call, and that stays callable as it was. Made by `tool`.

    Plain functions run in threads of a pool that the process shares (`threads.SIZE`); async ones on the loop.
    """

    __wrapped__: Callable[P, R]
    __name__: str

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        spec: ToolSpec,
        effect: Effect,
        record: Record,
        signature: Signature,
        timeout: float | None,
        retries: int,
        verify: Verify | None,
        max_result: int | None,
        labels: frozenset[str] = frozenset(),
        approval: ToolApproval | None = None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self.kind: ActionKind = "tool"
        self.labels = labels
        self.source = "code"
        self.asks = approval is not None
        self._approval = approval
        self.spec = spec
        self.effect: Effect = effect
        self.timeout = timeout
        self.retries = retries
        self.max_result = max_result
        self.threaded = not is_async(fn)
        self.verifies = verify is not None
        self._fn: Callable[..., Any] = fn
        self._verify = verify
        self._verify_threaded = verify is not None and not is_async(verify)
        self._record = record
        self._takes_context = signature.takes_context
        self._by_keyword = signature.by_keyword
        self._origin = f"tool:{spec.name}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself: no schema, no thread, no journal."""
        return self.__wrapped__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.spec.name} ({self.effect})>"

    def parse(self, arguments: str) -> Any:
        """The arguments as an object with an attribute for each parameter. An empty text or `null` stands for
        no arguments. Raises InvalidArguments, in words that the model can use."""
        try:
            return self._record.decode(arguments)
        except Mismatch as mismatch:
            raise InvalidArguments(str(mismatch)) from mismatch

    async def approval(self, ctx: RunContext[Any], arguments: Any) -> Decision:
        """Whether this call needs a person's approval, as `requires_approval=` says. Raises what that raises."""
        return NO_OBJECTION if self._approval is None else await self._approval.decide(arguments)

    async def invoke(
        self, ctx: RunContext[Any], arguments: Any, may_start: Callable[[], bool] | None = None
    ) -> Parts:
        """Run the body and give its result as parts.

        Raises what the body raises; UnserialisableResult only after the body returned. A cancelled call
        raises at once, and where the body runs in a thread, `still_running` says whether it still does.
        """
        args: tuple[Any, ...] = (ctx,) if self._takes_context else ()
        kwargs: dict[str, Any] = {}
        if self._by_keyword:
            kwargs = msgspec.structs.asdict(arguments)
        else:
            args += msgspec.structs.astuple(arguments)
        try:
            if self.threaded:
                body = self._fn if may_start is None else functools.partial(_started, self._fn, may_start)
                value = await in_thread(_key(ctx), body, *args, **kwargs)
                if hasattr(value, "__await__"):  # a plain wrapper around an async function
                    value = await value
            else:
                value = await self._fn(*args, **kwargs)
        except (UnserialisableResult, SystemExit) as error:
            raise RuntimeError(f"The body raised {type(error).__name__}: {error}") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError("The body was cancelled from within.") from error
        if type(value) is str and value.isascii():
            return (Text(value, self._origin, "untrusted"),)
        return to_parts(value, self._origin)

    def still_running(self, ctx: RunContext[Any]) -> bool:
        """Whether a thread of this call goes on after the call was cancelled, or still waits to start."""
        return self.threaded and still_running(_key(ctx))

    def parts(self, value: Any) -> Parts:
        """The parts for a result that did not come from the body, as in `Happened(result)`. Raises
        UnserialisableResult."""
        return to_parts(value, self._origin)

    async def verify(self, ctx: RunContext[Any], arguments: Any) -> Verdict:
        """Ask the world. Whatever is not a verdict, an exception included, is Unknown: a gate that fails
        stays shut."""
        if self._verify is None:
            return Unknown()
        try:
            if self._verify_threaded:
                verdict = await in_thread(None, self._verify, ctx, arguments)
            else:
                verdict = guarded(self._verify, ctx, arguments)
            if hasattr(verdict, "__await__"):
                verdict = await verdict
        except (Exception, SystemExit) as error:
            _log.warning("verify= of tool %r raised %s: %s", self.spec.name, type(error).__name__, error)
            return Unknown()
        if isinstance(verdict, (Happened, DidNotHappen, Unknown)):
            return verdict
        _log.warning(
            "verify= of tool %r returned %s; it must return Happened(result), DidNotHappen() or Unknown()",
            self.spec.name,
            type(verdict).__name__,
        )
        return Unknown()


def _started(fn: Callable[..., Any], may_start: Callable[[], bool], /, *args: Any, **kwargs: Any) -> Any:
    """The body, unless the time in which it may start went by while it waited for its thread."""
    if not may_start():
        raise NotDone("its time to start had passed before it got a thread")
    return fn(*args, **kwargs)


@overload
def tool(
    fn: Callable[P, R],
    *,
    effect: Effect,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    verify: Verify | None = None,
    max_result: int | None = None,
    requires_approval: Requires = False,
    approvers: int = 1,
    labels: Sequence[str] = (),
) -> FunctionTool[P, R]: ...


@overload
def tool(
    fn: None = None,
    *,
    effect: Effect,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    verify: Verify | None = None,
    max_result: int | None = None,
    requires_approval: Requires = False,
    approvers: int = 1,
    labels: Sequence[str] = (),
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(
    fn: Callable[..., Any] | None = None,
    *,
    effect: Effect | None = None,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    verify: Verify | None = None,
    max_result: int | None = None,
    requires_approval: Requires = False,
    approvers: int = 1,
    labels: Sequence[str] = (),
) -> Any:
    """Make a function callable by a model. Everything is read and checked here, nothing per call.

    `effect` says what repeating a call means: "read" changes nothing; "idempotent" is safe to repeat with the
    same `ctx.idempotency_key`; "once" must never happen twice. `timeout` is in seconds (None: the agent's
    default). `retries` is how often a body that raised runs again by itself. `verify` is `async (ctx, args)
    -> Happened(result) | DidNotHappen() | Unknown()` for a `once` call in doubt; `args` has an attribute for
    each parameter, as in `args.amount`. `max_result` bounds the characters that the model is shown of a
    result. `requires_approval`: True, or a function of the arguments that says whether a person has to approve of
    the call, and `approvers` how many. `labels` are what policies may know the tool by.

    A first parameter annotated `RunContext` or `RunContext[Deps]` gets the context and is not shown to the
    model. Raises EffectRequired, InvalidTool.
    """
    if effect is None or effect not in get_args(Effect):
        raise EffectRequired(_without_effect(fn, effect))
    if fn is None:
        return functools.partial(
            tool,
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
        )
    named = _name_of(fn, name)
    _check_options(named, effect, timeout, retries, max_result)
    _check_verify(named, effect, verify)
    signature = read_signature(fn, named)
    record = _record(named, signature)
    spec = ToolSpec(named, signature.description if description is None else description, record.schema)
    return FunctionTool(
        fn,
        spec=spec,
        effect=effect,
        record=record,
        signature=signature,
        timeout=timeout,
        retries=retries,
        verify=verify,
        max_result=max_result,
        labels=labels_of(named, labels),
        approval=approval_of(named, requires_approval, approvers),
    )


def _record(named: str, signature: Signature) -> Record:
    for p in signature.parameters:
        try:
            codec_for(p.type)
        except Unsupported as error:
            raise InvalidTool(
                f"Parameter `{p.name}` of tool {named!r}: {error.what}", fix=error.fix
            ) from error
    return Record(signature.parameters)


def _without_effect(fn: Any, effect: object) -> str:
    named = f"Tool {fn.__name__!r}" if hasattr(fn, "__name__") else "A tool"
    if effect is None:
        return f"{named} does not say what repeating it means."
    return f"{named} has effect={effect!r}, which is none of the three."


def _name_of(fn: object, name: str | None) -> str:
    if not callable(fn) or isinstance(fn, type):
        raise InvalidTool(
            f"{fn!r} is not a function.", fix="Pass a function, a bound method or a callable object."
        )
    named = getattr(fn, "__name__", "") if name is None else name
    if not _NAME.fullmatch(named):
        raise InvalidTool(
            f"{named!r} is not a name that providers accept.",
            fix='Use 1 to 64 letters, digits, "_" and "-": @tool(effect=..., name="...").',
        )
    return named


def _check_options(
    named: str, effect: Effect, timeout: float | None, retries: int, max_result: int | None
) -> None:
    for option, value in (("timeout", timeout), ("retries", retries), ("max_result", max_result)):
        wanted = (int, float) if option == "timeout" else (int,)
        if value is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            raise InvalidTool(f"Tool {named!r} has {option}={value!r}.", fix="Give a number.")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidTool(f"Tool {named!r} has timeout={timeout!r}.", fix="Give seconds above 0, or None.")
    if max_result is not None and max_result < 1:
        raise InvalidTool(
            f"Tool {named!r} has max_result={max_result!r}.", fix="Give characters above 0, or None."
        )
    if retries < 0:
        raise InvalidTool(f"Tool {named!r} has retries={retries!r}.", fix="Give 0 or more.")
    if retries and effect == "once":
        raise InvalidTool(
            f'Tool {named!r} is effect="once" and has retries={retries}: a second run could do it twice.',
            fix='Remove retries=, or make it safe to repeat with ctx.idempotency_key and say "idempotent".',
        )


def _check_verify(named: str, effect: Effect, verify: Verify | None) -> None:
    if verify is None:
        return
    if effect != "once":
        raise InvalidTool(
            f'Tool {named!r} has verify= and effect="{effect}": only a "once" call can be in doubt.',
            fix="Remove verify=; a call that may be repeated is repeated.",
        )
    try:
        inspect.signature(verify).bind(None, None)
    except (TypeError, ValueError) as error:
        raise InvalidTool(
            f"verify= of tool {named!r} does not take (ctx, args): {error}.",
            fix="Write `async def verify(ctx, args)`; args.<parameter> is what the call was made with.",
        ) from error


def _key(ctx: RunContext[Any]) -> Key:
    return (ctx.scope.tenant, ctx.run_id, ctx.call_id)
