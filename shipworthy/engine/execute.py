"""Running calls. The intent is durable before a body starts, the result after it.

Whoever wants to know what the guarantee is reads the order of the lines in `execute`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from shipworthy.domain.context import RunContext
from shipworthy.domain.events import (
    AgentPaused,
    AnyEvent,
    ReturnKind,
    ToolAttempted,
    ToolInDoubt,
    ToolReturned,
)
from shipworthy.domain.messages import RUNTIME, File, Image, Stored, Text
from shipworthy.domain.usage import Spent
from shipworthy.engine.live import LiveRun, idempotency_key
from shipworthy.engine.nesting import Delegate, Paused
from shipworthy.engine.observing import around
from shipworthy.engine.pausing import Asking, asking, asking_of, is_pause
from shipworthy.engine.refusing import missing, refuse, refused
from shipworthy.errors import InvalidArguments, ModelRetry, NotDone, UnserialisableResult
from shipworthy.ports.tools import Tool
from shipworthy.rules.calls import Call
from shipworthy.rules.codec import encode_parts
from shipworthy.rules.decide import Execute
from shipworthy.rules.text import clean, described, shown

_WITH_LEAK = sys.version_info < (3, 13)


class Attempt(msgspec.Struct):
    """One body, from its intent to what is recorded of it. `timeout` in seconds; nested runs keep their own time."""

    call: Call
    tool: Tool
    arguments: Any
    key: str
    timeout: float | None
    start_by: int = 0
    outcome: tuple[AnyEvent, ...] = ()
    asking: Asking | None = None


async def execute(run: LiveRun, step: Execute) -> None:
    """Run the calls of *step*: record the intents, commit, start the bodies, record what they gave."""
    attempts: list[Attempt] = []
    for call in step.calls:
        tool = run.blueprint.tools.get(call.call.name)
        if tool is None:
            missing(run, call.call.name)
            return
        try:
            attempts.append(await _prepare(run, call, tool))
        except InvalidArguments as problem:  # they were valid for the code that accepted the call
            refuse(run, call, f"Invalid arguments for {call.call.name}: {problem.what}")
    if run.withheld:
        await refused(run)
    if not attempts:
        return
    await _intend(run, attempts)
    if len(attempts) > 1:
        await _side_by_side(run, attempts)
        return
    try:
        await _perform(run, attempts[0])
    finally:
        _record(run, attempts[0])


async def _prepare(run: LiveRun, call: Call, tool: Tool) -> Attempt:
    call_id = call.call.call_id
    raw = await run.arguments_of(call.wanted)
    if call_id in run.arguments:
        arguments = run.arguments.pop(call_id)
    elif run.governance.judges or tool.asks:
        raise RuntimeError(f"The call {call_id} was not judged in this sitting.")
    else:
        arguments = tool.parse(raw)
    timeout: float | None = run.blueprint.limits.tool_timeout if tool.timeout is None else tool.timeout
    if isinstance(tool, Delegate):
        timeout = None
    return Attempt(call, tool, arguments, idempotency_key(run.scope, run.run_id, call_id, raw), timeout)


async def _intend(run: LiveRun, attempts: Sequence[Attempt]) -> None:
    """Make the intents durable; that of a `once` call anew, if so much time went by that the run may have another
    owner by now."""
    once = attempts[0].call.effect == "once"
    while True:
        start_by = run.store.start_by() if once else 0
        for each in attempts:
            call, each.start_by = each.call, start_by
            run.record(
                ToolAttempted(
                    call_id=call.call.call_id,
                    attempt=call.attempts + 1,
                    start_by=start_by,
                    timeout=each.timeout,
                )
            )
        await run.commit()
        if not once or run.store.clock() <= start_by:
            return


async def _side_by_side(run: LiveRun, attempts: Sequence[Attempt]) -> None:
    """Record each result as it comes; whoever reads along sees it at once. Leaves no body running behind."""
    finished: asyncio.Queue[Attempt] = asyncio.Queue()
    tasks = [asyncio.create_task(_perform(run, attempt)) for attempt in attempts]
    for task, attempt in zip(tasks, attempts, strict=True):
        task.add_done_callback(lambda _, a=attempt: finished.put_nowait(a))  # type: ignore[misc]
    try:
        for _ in attempts:
            _record(run, await finished.get())
            if run.watchers and finished.empty():
                await run.commit()
        for task in tasks:
            task.result()
    finally:
        waiting = [task for task in tasks if not task.done()]
        for task in waiting:
            task.cancel()
        again = await outlast(waiting)
        for attempt in attempts:
            _record(run, attempt)
        if again:
            raise asyncio.CancelledError


async def outlast(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Wait until every one of *tasks* is done, whoever cancels meanwhile; True if somebody did."""
    again = False
    while any([not task.done() for task in tasks]):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            again = True
    return again


def _record(run: LiveRun, attempt: Attempt) -> None:
    """Record what the body gave, once. A body that was cancelled without consequence gave nothing."""
    outcome, attempt.outcome = attempt.outcome, ()
    for event in outcome:
        run.record(event)
        run.urgent = run.urgent or attempt.call.effect != "read"


async def _perform(run: LiveRun, attempt: Attempt) -> None:
    """Run the body, again as often as the tool allows. Raises nothing but the run's own cancellation, and what stops
    the driving of nested runs."""
    tool = attempt.tool
    if isinstance(tool, Delegate):
        return await _delegate(run, attempt, tool)
    context = run.context(attempt.call.wanted, attempt.key, attempt.call.attempts)
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    start_by = attempt.start_by
    may_start = (lambda: _may_start(run, start_by)) if start_by and tool.threaded else None
    for retries_left in range(tool.retries, -1, -1):
        limit = asyncio.timeout(attempt.timeout)
        try:
            async with limit:
                content = await _invoke(run, attempt, context, may_start)
        except (KeyboardInterrupt, SystemExit) as error:
            _cancelled(attempt, context, error)
            raise
        except BaseException as error:
            _forget_leak(error, task, before)
            if task is not None and task.cancelling() > before:
                _cancelled(attempt, context, error)
                raise asyncio.CancelledError from error  # whatever the body made of it
            if _paused(run, attempt, error) or _failed(
                attempt, context, error, limit.expired(), retries_left
            ):
                return _retried(attempt, tool.retries - retries_left)
        else:
            await _returned(run, attempt, context, content)
            _retried(attempt, tool.retries - retries_left)
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError  # the body kept it to itself
            return


def _forget_leak(error: BaseException, task: asyncio.Task[Any] | None, before: int) -> None:
    """Where a group of tasks broke, and not because it was cancelled: before Python 3.13 its own cancellation of the
    task may stay behind, and it is not the run's."""
    broke = isinstance(error, BaseExceptionGroup) and error.subgroup(asyncio.CancelledError) is None
    if _WITH_LEAK and broke and task is not None:
        while task.cancelling() > before:
            task.uncancel()


async def _delegate(run: LiveRun, attempt: Attempt, tool: Delegate) -> None:
    """Have other agents carry the call out."""
    with around(run, attempt.call.call.call_id):
        found = await tool.delegate(run, attempt.call, attempt.arguments)
    call_id = attempt.call.call.call_id
    if isinstance(found, Paused):
        run.raises = run.raises or found.raises
        attempt.outcome = (AgentPaused(call_id=call_id, runs=found.runs, wake_at=found.wake_at),)
        return _count(attempt, found.nested)
    context = run.context(attempt.call.wanted, attempt.key, attempt.call.attempts)
    if found.ok:
        await _returned(run, attempt, context, found.content, handed_over=tool.hands_over)
    elif (no := await _withheld(run, attempt, context, found.content)) is not None:
        attempt.outcome = (no,)
    else:
        parts, whole = fit(run, found.content, attempt.tool.max_result or run.blueprint.limits.max_result)
        attempt.outcome = (ToolReturned(call_id=call_id, content=parts, whole=whole, outcome="error"),)
    _count(attempt, found.nested)


async def _withheld(
    run: LiveRun, attempt: Attempt, context: RunContext[Any], content: tuple[Text | Image | File, ...]
) -> ToolReturned | None:
    """What the model is told in place of a result that a hook objects to; whatever agents said is one, to the end or
    not."""
    if not run.governance.hooks.after_tool:
        return None
    from shipworthy.engine.reviewing import reviewed

    return await reviewed(run, attempt.call, attempt.tool, context, content)


def _count(attempt: Attempt, nested: Spent | None) -> None:
    """Have what is recorded of the call say what the nested runs used."""
    attempt.outcome = tuple([_with(event, nested) for event in attempt.outcome])


def _retried(attempt: Attempt, times: int) -> None:
    """Have what is recorded of the call say that its body was begun again so often."""
    if times:
        attempt.outcome = tuple(
            [replace(each, retries=times) if type(each) is ToolReturned else each for each in attempt.outcome]
        )


def _with(event: AnyEvent, nested: Spent | None) -> AnyEvent:
    """The event, with what the nested runs used."""
    return replace(event, nested=nested) if isinstance(event, (ToolReturned, AgentPaused)) else event


async def _invoke(
    run: LiveRun, attempt: Attempt, context: RunContext[Any], may_start: Callable[[], bool] | None
) -> tuple[Text | Image | File, ...]:
    """The body, which may ask people."""
    attempt.asking = await asking_of(run, attempt.call) if attempt.call.answers else Asking(attempt.call, ())
    before = asking.set(attempt.asking)
    try:
        if run.sittings:
            with around(run, attempt.call.call.call_id):
                content = await attempt.tool.invoke(context, attempt.arguments, may_start)
        else:
            content = await attempt.tool.invoke(context, attempt.arguments, may_start)
    finally:
        asking.reset(before)
    if attempt.asking.pending is not None:
        raise RuntimeError(
            "the body went on after it had asked; it must let the pause pass, as any BaseException"
        )
    return content


def _paused(run: LiveRun, attempt: Attempt, error: BaseException) -> bool:
    """Whether the body waits for an answer, which says that it has done nothing yet that must not be repeated."""
    if attempt.asking is None or attempt.asking.pending is None or not is_pause(error):
        return False
    attempt.outcome = tuple(attempt.asking.events(run))
    return True


def _may_start(run: LiveRun, start_by: int) -> bool:
    """Whether this worker surely owns the run still; also by its present lease, if the clock was set back meanwhile."""
    return run.store.clock() <= min(start_by, run.store.start_by())


async def _returned(
    run: LiveRun,
    attempt: Attempt,
    context: RunContext[Any],
    content: tuple[Text | Image | File, ...],
    *,
    handed_over: bool = False,
) -> None:
    tool, call = attempt.tool, attempt.call
    if (no := await _withheld(run, attempt, context, content)) is not None:
        attempt.outcome = (no,)
        return
    if call.edited is not None:
        content = (_edited(call, await run.arguments_of(call.wanted)), *content)
    limit = sys.maxsize if handed_over else tool.max_result or run.blueprint.limits.max_result
    parts, whole = fit(run, content, limit)
    attempt.outcome = (
        ToolReturned(
            call_id=call.call.call_id,
            content=parts,
            whole=whole,
            handed_over=handed_over,
            origin=f"tool:{tool.spec.name}",
        ),
    )


def _edited(call: Call, arguments: str) -> Text:
    """What the model is told of a call that was made with other arguments than its own."""
    who = "an approver" if call.edited_by.startswith("approver:") else "a rule of this service"
    return Text(f"[Called with arguments that {who} changed: {arguments}]\n", RUNTIME, "untrusted")


def _failed(
    attempt: Attempt, context: RunContext[Any], error: BaseException, expired: bool, retries_left: int
) -> bool:
    """What a body's exception means; False to start the body again."""
    if isinstance(error, asyncio.CancelledError):
        _without_result(attempt, context, "it was cancelled from within", "error")
    elif isinstance(error, NotDone):
        _say(attempt, f"Not done: {error.what}", "not_done")
    elif isinstance(error, ModelRetry) and attempt.call.effect != "once":
        _say(attempt, error.what, "rejected")
    elif isinstance(error, UnserialisableResult):
        # The body came to its end: a `once` effect happened, whatever its result looks like.
        words = f"The tool finished, but its result cannot be shown: {error.what}"
        _say(attempt, words, "ok" if attempt.call.effect == "once" else "error")
    elif expired:
        _without_result(attempt, context, f"it took longer than {attempt.timeout:g} s", "timeout")
    elif retries_left and attempt.call.effect != "once":
        return False
    else:
        _without_result(attempt, context, described(error), "error")
    return True


def _cancelled(attempt: Attempt, context: RunContext[Any], error: BaseException) -> None:
    """The run itself is being stopped: a call that may be repeated is left open, a `once` call is in doubt unless its
    body said that nothing happened."""
    if isinstance(error, NotDone):
        _say(attempt, f"Not done: {error.what}", "not_done")
    elif attempt.call.effect == "once" or (attempt.tool.threaded and attempt.tool.still_running(context)):
        _without_result(attempt, context, "it was cancelled", "error")


def _without_result(attempt: Attempt, context: RunContext[Any], why: str, outcome: ReturnKind) -> None:
    running = attempt.tool.threaded and attempt.tool.still_running(context)
    if attempt.call.effect == "once":
        reason = f"The body of this `once` call did not say whether its effect happened: {clean(why)}."
        call_id = attempt.call.call.call_id
        origin = f"tool:{attempt.tool.spec.name}"
        attempt.outcome = (
            ToolInDoubt(call_id=call_id, reason=reason, thread_running=running, origin=origin),
        )
    else:
        _say(attempt, f"The tool failed: {why}.", outcome, thread_running=running)


def _say(attempt: Attempt, words: str, outcome: ReturnKind, *, thread_running: bool = False) -> None:
    said = (Text(clean(words), f"tool:{attempt.tool.spec.name}", "untrusted"),)
    call_id = attempt.call.call.call_id
    attempt.outcome = (
        ToolReturned(call_id=call_id, content=said, outcome=outcome, thread_running=thread_running),
    )


def fit(
    run: LiveRun, content: tuple[Text | Image | File, ...], limit: int
) -> tuple[tuple[Text | Image | File | Stored, ...], Stored | None]:
    """A result's parts as events carry them: large ones stored; text beyond *limit* shown in part, and the result kept
    whole."""
    if len(content) == 1 and (type(content[0]) is not Text or len(content[0].text) <= limit):
        return (run.pack(content[0]),), None
    texts = [part for part in content if type(part) is Text]
    total = sum([len(text.text) for text in texts])
    if total <= limit:
        return tuple([run.pack(part) for part in content]), None
    first = texts[0]
    everything = "".join([text.text for text in texts])
    others = [part for part in content if type(part) is not Text]
    whole = run.bodies.keep(encode_parts(content), origin=first.origin, trust=first.trust)
    cut = Text(shown(everything, limit), first.origin, first.trust)
    return tuple([run.pack(part) for part in (cut, *others)]), whole


def settled_content(run: LiveRun, call: Call, value: Any) -> tuple[tuple[Any, ...], Stored | None]:
    """What a settlement says that the call returned, as its tool would have shown it."""
    tool = run.blueprint.tools.get(call.call.name)
    limit = run.blueprint.limits.max_result
    parts = parts_of(run, call, value)
    if call.edited is not None:
        long = call.wanted.stored is not None  # too long to be at hand
        parts = (_edited(call, "they are long" if long else call.wanted.raw_arguments), *parts)
    return fit(run, parts, limit if tool is None else tool.max_result or limit)


def parts_of(run: LiveRun, call: Call, value: Any) -> tuple[Text | Image | File, ...]:
    """The same, in whole; its own parts stay what they are."""
    tool = run.blueprint.tools.get(call.call.name)
    if tool is not None:
        return tool.parts(value)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return (Text(text, RUNTIME, "untrusted"),)
