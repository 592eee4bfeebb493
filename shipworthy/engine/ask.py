"""One attempt on the wire: request, stream, answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from shipworthy.domain.events import ModelAnswered, StopRequested
from shipworthy.domain.messages import Text, Thinking, ToolCall
from shipworthy.domain.model import Answer, ModelRequest, ModelSettings, Purpose
from shipworthy.engine.failures import failure_of
from shipworthy.engine.live import LiveRun
from shipworthy.engine.observing import around
from shipworthy.errors import (
    BudgetExceeded,
    ConfigurationError,
    IncompleteAnswer,
    ModelError,
)
from shipworthy.rules.decide import AskModel
from shipworthy.rules.values import sound

BREATHER = 64
"""Deltas, or turns, between two chances for others to run, where neither model nor tools ever wait."""

WRAP_UP = (
    "You have used all the turns of this run. Give your final answer now, from what you know; no further tool calls "
    "will be executed."
)

_NO_TOOLS = ModelSettings(tool_choice="none")
_ANY_TOOL = ModelSettings(tool_choice="required")


async def ask(run: LiveRun, step: AskModel) -> None:
    """Make one attempt and record its outcome, unless a budget does not afford it."""
    if step.delay:
        await run.commit()
        await asyncio.sleep(step.delay)
    ordinal = run.state.ordinal
    if ordinal % BREATHER == BREATHER - 1:
        await asyncio.sleep(0)
    request = await _request(run, step.purpose, ordinal)
    if run.governance.hooks.before_model and not await _may_be_sent(run, request):
        return
    metered = await run.meter.begin(run, request)
    if metered is not None:
        await _attempt(run, metered)


async def _may_be_sent(run: LiveRun, request: ModelRequest) -> bool:
    from shipworthy.engine.reviewing import may_be_sent

    return await may_be_sent(run, request)


async def _objection(run: LiveRun, answer: Answer) -> StopRequested | None:
    from shipworthy.engine.reviewing import objection

    return await objection(run, answer)


async def _attempt(run: LiveRun, request: ModelRequest) -> None:
    try:
        if run.sittings:
            with around(run, ""):
                answer = await _stream(run, request)
        else:
            answer = await _stream(run, request)
        no = await _objection(run, answer) if run.governance.hooks.after_model else None
    except BudgetExceeded as error:
        if (
            run.state.attempt is not None
        ):  # another run's limit; that a further attempt met this one's is recorded
            run.record(failure_of(run, run.meter, error))
    except ModelError as error:
        run.record(failure_of(run, run.meter, error))
    except Exception as error:
        if isinstance(error, ConfigurationError):
            run.raises = error
        run.record(failure_of(run, run.meter, error))
    except BaseException:
        run.meter.abandoned(run)
        raise
    else:
        await _complete(run, answer, no)
    if run.meter.near:
        await run.commit()  # a warning, if one is due, is told by this run


async def _complete(run: LiveRun, answer: Answer, no: StopRequested | None) -> None:
    """Record the answer, and in the same commit that somebody objects to it, so that none of its calls is made."""
    run.record(_answered(run, answer))
    if no is not None:
        run.record(no)
    if answer.finish_reason == "length":
        await run.meter.cut(run)


async def _request(run: LiveRun, purpose: Purpose, ordinal: int) -> ModelRequest:
    plan = run.blueprint
    instructions, settings, tools = run.instructions, run.settings, plan.specs
    if purpose == "wrap_up":
        instructions = f"{instructions}\n\n{WRAP_UP}" if instructions else WRAP_UP
        if plan.output_tools:
            tools = plan.output.tools
            settings = settings.merge(_ANY_TOOL)
        elif tools:
            settings = settings.merge(_NO_TOOLS)
    return ModelRequest(
        run_id=run.run_id,
        purpose=purpose,
        ordinal=ordinal,
        instructions=instructions,
        messages=await run.messages(),
        tools=tools,
        output=plan.output.native,
        settings=settings,
        stream=bool(run.watchers),
    )


async def _stream(run: LiveRun, request: ModelRequest) -> Answer:
    answer: Answer | None = None
    count = 0
    meter = run.meter if run.meter.counts else None
    stream = run.blueprint.model.stream(request)
    try:
        async for item in stream:
            if type(item) is Answer:
                answer = item
                continue
            if meter is not None:
                meter.arrived(item)  # type: ignore[arg-type]
            if run.watchers:
                run.show(item)  # type: ignore[arg-type]
                count += 1
                if count % BREATHER == 0:
                    await asyncio.sleep(0)
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    if answer is None:
        raise IncompleteAnswer(f"The stream of {run.blueprint.model.name} ended without its terminal event.")
    return answer


def _answered(run: LiveRun, answer: Answer) -> ModelAnswered:
    """The event of a complete answer: calls get their ids, from the event's own place in the journal."""
    seq = run.state.seq + 1
    parts: list[Text | Thinking | ToolCall] = []
    slot = 0
    for part in answer.parts:
        if type(part) is ToolCall:
            parts.append(run.pack(ToolCall(part.name, part.arguments, run.call_id(seq, slot))))
            slot += 1
        elif type(part) is not Text:
            parts.append(run.pack(part))
        elif part.text:
            parts.append(run.pack(Text(part.text, "model", "untrusted")))
    usage = sound(answer.usage)
    return ModelAnswered(
        ordinal=run.state.ordinal,
        parts=tuple(parts),
        usage=usage,
        finish_reason=answer.finish_reason,
        model=answer.model,
        charged=run.meter.answered(run, usage),
    )
