"""Which calls of an answer may run. Nothing runs that did not pass here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache

from shipworthy.domain.events import Judged, RunStarted, ToolInDoubt
from shipworthy.engine.counting import is_current
from shipworthy.engine.deliver import deliver_call
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import Delegate
from shipworthy.engine.refusing import missing, refuse, refused
from shipworthy.errors import InvalidArguments
from shipworthy.ports.store import Store
from shipworthy.ports.tools import Tool
from shipworthy.rules.calls import Call
from shipworthy.rules.decide import Judge, budget_words


async def judge(run: LiveRun, step: Judge) -> None:
    """Record what `_judge` says; nested runs that a call made before, and may not go on with, are stopped first."""
    run.withheld.clear()
    if run.governance.judges:
        run.counts.begin(step.calls)
    try:
        await _judge(run, step)
    finally:
        run.counts.end()
    if run.withheld:
        await refused(run)


async def _judge(run: LiveRun, step: Judge) -> None:
    """Record for each call that it may run, what the model is told instead, or who is asked. Live code decides, also
    after a resume. An output tool's call ends the run."""
    judged: list[Judged] = []
    for call in step.calls:
        name = call.call.name
        if name in run.blueprint.output_tools:
            if await deliver_call(run, call):
                return
        elif (tool := run.blueprint.tools.get(name)) is not None:
            if call.attempts and (why := await _misfit()(run.store, run.state.started, call, tool)):
                return missing(run, name, why)
            if (allowed := await _may_run_now(run, call, tool, judged)) is not None:
                judged.append(allowed)
        elif call.effect is not None:
            return missing(run, name)
        else:
            known = ", ".join(run.blueprint.tools) or "none"
            refuse(run, call, f"There is no tool {name!r}. Available tools: {known}.")
    if judged and not await run.meter.judged(run, judged) and (limit := run.state.limit) and limit.wrap_up:
        for each in judged:
            refuse(run, run.state.calls[each.call_id], f"Not run: {budget_words(limit)}")


def _is_handed_over(run: LiveRun, call: Call, tool: Tool, judged: Sequence[Judged]) -> bool:
    """Whether this is a hand-off, and another one of the same answer was allowed before it."""
    if not isinstance(tool, Delegate) or not tool.hands_over or call.allowed:
        return False
    if run.state.handed_over is not None:
        return True
    now = {each.call_id for each in judged}
    for other in run.state.calls.values():
        before = run.blueprint.tools.get(other.call.name)
        hands_over = isinstance(before, Delegate) and before.hands_over and other.result is None
        if hands_over and (other.allowed or other.call.call_id in now):
            return True
    return False


async def _may_run_now(run: LiveRun, call: Call, tool: Tool, judged: Sequence[Judged]) -> Judged | None:
    """Judged anew for as long as other runs of the tree are allowed calls meanwhile: none is allowed by counts that are
    not true any more."""
    if _is_handed_over(run, call, tool, judged):
        refuse(run, call, "Not done: the conversation was handed over already.")
        return None
    while True:
        allowed = await _may_run(run, call, tool)
        if not run.governance.judges or allowed is None:
            return allowed
        if is_current(run):
            run.counts.allow(call)
            return allowed


async def _may_run(run: LiveRun, call: Call, tool: Tool) -> Judged | None:
    """Valid arguments are enough where nobody may object."""
    call_id = call.call.call_id
    if tool.effect == "once" and call.open_attempt:
        reason = "An earlier attempt has no recorded result, and the tool's effect is `once` now."
        run.record(ToolInDoubt(call_id=call_id, reason=reason))
        return None
    if not run.governance.judges and not tool.asks and call.ask is None and call.question is None:
        try:
            run.arguments[call_id] = tool.parse(await run.arguments_of(call.wanted))
        except InvalidArguments as problem:
            refuse(run, call, f"Invalid arguments for {call.call.name}: {problem.what}")
            return None
        return Judged(call_id, tool.effect)
    return await _rule()(run, call, tool)


@cache
def _rule() -> Callable[[LiveRun, Call, Tool], Awaitable[Judged | None]]:
    """Imported where somebody may object, once."""
    from shipworthy.engine.judging import rule

    return rule


@cache
def _misfit() -> Callable[[Store, RunStarted, Call, Tool], Awaitable[str]]:
    """Imported where a call is made again, once."""
    from shipworthy.engine.going_on import misfit

    return misfit
