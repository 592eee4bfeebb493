"""Which calls of an answer may run, and which answer is the output. Live code decides, also after a resume."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.events import (
    Judged,
    OutputRejected,
    ReturnKind,
    RunEnded,
    RunParked,
    ToolInDoubt,
    ToolReturned,
    ToolsJudged,
)
from shipworthy.domain.messages import RUNTIME, Text
from shipworthy.engine.live import LiveRun
from shipworthy.errors import InvalidArguments, InvalidOutput, MissingTool, ModelRetry
from shipworthy.ports.tools import Tool
from shipworthy.rules.decide import Judge
from shipworthy.rules.state import Call

_EMPTY = "Your answer was empty. Answer the user, or call a tool."


async def judge(run: LiveRun, step: Judge) -> None:
    """Record for each call that it may run, or what the model is told instead. An output tool's call ends the run."""
    outputs = run.blueprint.output_tools
    judged: list[Judged] = []
    for call in step.calls:
        name = call.call.name
        if name in outputs:
            if await _deliver_call(run, call):
                return
        elif (tool := run.blueprint.tools.get(name)) is None:
            if not _unknown(run, call):
                return
        elif (allowed := await _judge(run, call, tool)) is not None:
            judged.append(allowed)
    if judged:
        run.recorder.record(ToolsJudged(calls=tuple(judged)))


async def _judge(run: LiveRun, call: Call, tool: Tool) -> Judged | None:
    call_id = call.call.call_id
    if tool.effect == "once" and call.open_attempt:
        reason = "An earlier attempt has no recorded result, and the tool's effect is `once` now."
        run.recorder.record(ToolInDoubt(call_id=call_id, reason=reason))
        return None
    try:
        run.arguments[call_id] = tool.parse(await run.bodies.arguments(call.call))
    except InvalidArguments as problem:
        refuse(run, call_id, f"Invalid arguments for {call.call.name}: {problem.what}", "rejected")
        return None
    return Judged(call_id, tool.effect)


def _unknown(run: LiveRun, call: Call) -> bool:
    """Tell the model that there is no such tool; park the run if there was one when the call was accepted."""
    name = call.call.name
    if call.effect is None:
        known = ", ".join(run.blueprint.tools) or "none"
        refuse(run, call.call.call_id, f"There is no tool {name!r}. Available tools: {known}.", "rejected")
        return True
    missing_tool(run, name)
    return False


def missing_tool(run: LiveRun, name: str) -> None:
    """Park the run, and let the developer know why."""
    run.raises = MissingTool(
        f"Run {run.run_id!r} has a call of the tool {name!r}, which the agent no longer has."
    )
    run.recorder.record(RunParked(reason="missing_tool", detail=name))


def refuse(run: LiveRun, call_id: str, words: str, outcome: ReturnKind) -> None:
    """Answer a call in place of its tool."""
    said = (Text(words, origin=RUNTIME, trust="untrusted"),)
    run.recorder.record(ToolReturned(call_id=call_id, content=said, outcome=outcome))


async def _deliver_call(run: LiveRun, call: Call) -> bool:
    text = await run.bodies.arguments(call.call)
    return await _deliver(run, text, call.call.name, call.call.call_id)


async def deliver(run: LiveRun) -> None:
    """Make the answer's text the output, or tell the model what is wrong with it."""
    message = (await run.messages())[-1]
    if run.state.wrapping_up:
        return await _deliver_wrap_up(run)
    text = message.text if message.role == "assistant" else ""
    if not text:
        run.recorder.record(OutputRejected(problem=_EMPTY))
    else:
        await _deliver(run, text, None, None)


async def _deliver(run: LiveRun, text: str, tool: str | None, call_id: str | None) -> bool:
    try:
        value = await _value(run, text, tool)
    except (InvalidOutput, ModelRetry) as problem:
        run.recorder.record(OutputRejected(problem=problem.what, call_id=call_id))
        return False
    run.recorder.record(RunEnded(status="completed", output=_pack(run, value), output_call=call_id))
    return True


async def _deliver_wrap_up(run: LiveRun) -> None:
    """The last answer of a run that used up its turns: an output if it is a valid one."""
    answer = (await run.messages())[-1]
    value, call_id = None, None
    candidates = [(c.call.name, c.call.call_id) for c in run.state.calls.values()]
    texts: list[tuple[str, str | None, str | None]] = [
        (await run.bodies.arguments(run.state.calls[i].call), n, i)
        for n, i in candidates
        if n in run.blueprint.output_tools
    ]
    if answer.role == "assistant" and answer.text:
        texts.append((answer.text, None, None))
    for text, tool, called in texts:
        try:
            value, call_id = _pack(run, await _value(run, text, tool)), called
            break
        except (InvalidOutput, ModelRetry):
            continue
    run.recorder.record(
        RunEnded(status="stopped", stop_reason="max_turns", output=value, output_call=call_id)
    )


async def _value(run: LiveRun, text: str, tool: str | None) -> Any:
    output = run.blueprint.output
    return await output.check(run.context(), output.parse(text, tool))


def _pack(run: LiveRun, value: Any) -> Any:
    return run.bodies.pack(Text(run.blueprint.output.encode(value), origin="model", trust="untrusted"))
