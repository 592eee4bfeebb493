"""Which answer is the run's output."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.events import OutputRejected, RunEnded
from shipworthy.domain.messages import RUNTIME, Message, Text, ToolResult
from shipworthy.engine.live import LiveRun
from shipworthy.errors import InvalidOutput, ModelRetry
from shipworthy.rules.calls import Call
from shipworthy.rules.decide import budget_words, why_stopped
from shipworthy.rules.text import clean

_EMPTY = "Your answer was empty. Answer the user, or call a tool."


async def deliver_call(run: LiveRun, call: Call) -> bool:
    """Make an output tool's arguments the output; False if they are not a valid one."""
    text = await run.arguments_of(call.call)
    return await _deliver(run, text, call.call.name, call.call.call_id)


async def deliver(run: LiveRun) -> None:
    """Make the answer's text the output, or tell the model what is wrong with it."""
    message = (await run.messages())[-1]
    if run.state.wrapping_up:
        return await _deliver_wrap_up(run)
    if (call_id := run.state.handed_over) is not None:
        return await _deliver_handed_over(run, message, call_id)
    text = message.text if message.role == "assistant" else ""
    if not text:
        run.record(OutputRejected(problem=_EMPTY))
    else:
        await _deliver(run, text, None, None)


async def _deliver_handed_over(run: LiveRun, message: Message, call_id: str) -> None:
    """Make another agent's output the output, in whatever way this agent's own would be given."""
    text, problem = _said(message, call_id), _EMPTY
    for tool in (None, *run.blueprint.output_tools) if text else ():
        try:
            value = await _value(run, text, tool)
        except (InvalidOutput, ModelRetry) as error:
            problem = f"What the other agent gave is not a valid output: {clean(error.what)}"
        else:
            await _end(run, RunEnded(status="completed", output=_pack(run, value)), value)
            return
    run.record(OutputRejected(problem=problem))


def _said(message: Message, call_id: str) -> str:
    """The result of a call, without what the runtime remarked on it."""
    for part in message.parts:
        if isinstance(part, ToolResult) and part.call_id == call_id:
            texts = [each for each in part.content if isinstance(each, Text) and each.origin != RUNTIME]
            return "".join([each.text for each in texts])
    return ""


async def _deliver(run: LiveRun, text: str, tool: str | None, call_id: str | None) -> bool:
    try:
        value = await _value(run, text, tool)
    except (InvalidOutput, ModelRetry) as problem:
        run.record(OutputRejected(problem=clean(problem.what), call_id=call_id))
        return False
    await _end(run, RunEnded(status="completed", output=_pack(run, value), output_call=call_id), value)
    return True


async def _end(run: LiveRun, ended: RunEnded, value: Any) -> None:
    """Record the end; before it, and in one commit with it, that the run is remembered, or what was learned. Both can
    be done again after a crash."""
    plan = run.blueprint
    if plan.learns is not None and ended.output is not None:
        await plan.learns(run, value)
    if plan.memory is not None:
        await plan.memory.remember(run, ended)
    run.record(ended)


async def _deliver_wrap_up(run: LiveRun) -> None:
    """The last answer of a run that used up its turns or a budget: an output if it is a valid one."""
    answer = (await run.messages())[-1]
    value, packed, call_id = None, None, None
    candidates = [(c.call.name, c.call.call_id) for c in run.state.calls.values()]
    texts: list[tuple[str, str | None, str | None]] = [
        (await run.arguments_of(run.state.calls[i].call), n, i)
        for n, i in candidates
        if n in run.blueprint.output_tools
    ]
    if answer.role == "assistant" and answer.text:
        texts.append((answer.text, None, None))
    for text, tool, called in texts:
        try:
            value = await _value(run, text, tool)
            packed, call_id = _pack(run, value), called
            break
        except (InvalidOutput, ModelRetry):
            continue
    limit = run.state.limit
    ended = RunEnded(
        status="stopped",
        stop_reason=why_stopped(run.state),
        output=packed,
        output_call=call_id,
        error=None if limit is None else budget_words(limit),
    )
    await _end(run, ended, value)


async def _value(run: LiveRun, text: str, tool: str | None) -> Any:
    output = run.blueprint.output
    return await output.check(run.context(), output.parse(text, tool))


def _pack(run: LiveRun, value: Any) -> Any:
    return run.pack(Text(run.blueprint.output.encode(value), origin="model", trust="untrusted"))
