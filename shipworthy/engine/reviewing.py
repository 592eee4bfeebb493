"""Hooks after a tool's result, and around the calls of the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from shipworthy.domain.context import RunContext
from shipworthy.domain.events import StopRequested, ToolReturned
from shipworthy.domain.messages import RUNTIME, File, Image, Text
from shipworthy.domain.model import Answer, ModelRequest
from shipworthy.domain.policy import Action, Decision, Replace
from shipworthy.engine.counting import shown
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import Delegate
from shipworthy.engine.objecting import decided
from shipworthy.ports.tools import Tool
from shipworthy.rules.approvals import canonical
from shipworthy.rules.calls import Call
from shipworthy.rules.text import clean


def action_of(run: LiveRun, call: Call, tool: Tool, data: Any) -> Action:
    """What the call is, to those who judge it."""
    allowed, returned = shown(run)
    return Action(
        kind=tool.kind,
        name=call.call.name,
        effect=tool.effect,
        arguments=data,
        path=run.agents,
        run_id=run.run_id,
        call_id=call.call.call_id,
        labels=tool.labels,
        source=tool.source,
        returned=returned,
        allowed=allowed,
        at=time.time_ns() // 1_000_000,
    )


def asked_about(tool: Tool, action: Action) -> list[Action]:
    """What policies are asked of one call: the call by its tool's name, and by the name of each agent that it puts to
    work, so that a rule about an agent holds for it whatever the tool is called."""
    agents = tool.names if isinstance(tool, Delegate) else ()
    return [action, *[replace(action, name=name) for name in agents if name != action.name]]


async def reviewed(
    run: LiveRun, call: Call, tool: Tool, context: RunContext[Any], content: Sequence[Text | Image | File]
) -> ToolReturned | None:
    """What the model is told in place of a result that a hook withholds; None where nobody objects."""
    found = canonical(await run.arguments_of(call.wanted))
    action = action_of(run, call, tool, MappingProxyType(found[0] if found is not None else {}))
    for hook in run.governance.hooks.after_tool:
        no = await _objection(lambda h=hook: h(context, action, content), run, hook.name)
        if no is not None:
            told = no.reason if no.tell is None else no.tell
            words = clean(
                f"The tool ran; its result is withheld: {told}"
                if told
                else "The tool ran; its result is withheld."
            )
            return ToolReturned(
                call_id=call.call.call_id,
                content=(run.pack(Text(words, RUNTIME, "untrusted")),),
                outcome="denied",
                rule=clean(no.rule),
                policy=run.governance.version,
                reason=clean(no.reason),
            )
    return None


async def may_be_sent(run: LiveRun, request: ModelRequest) -> bool:
    """Whether no hook objects to a request; where one does, the run is stopped. Each is shown a copy: what is sent is
    not theirs to change."""
    for hook in run.governance.hooks.before_model:
        no = await _objection(lambda h=hook: h(run.context(), replace(request)), run, hook.name)
        if no is not None:
            run.record(_stop(no))
            return False
    return True


async def objection(run: LiveRun, answer: Answer) -> StopRequested | None:
    """What stops the run, where a hook objects to the model's answer."""
    for hook in run.governance.hooks.after_model:
        no = await _objection(lambda h=hook: h(run.context(), answer), run, hook.name)
        if no is not None:
            return _stop(no)
    return None


async def _objection(ask: Any, run: LiveRun, name: str) -> Decision | None:
    """Here there is nothing to ask for and nothing to replace, so that whoever does so objects."""
    answer = await decided(ask, run.governance.patience, name)
    if answer is None or (isinstance(answer, Decision) and answer.ruling == "allow"):
        return None
    if isinstance(answer, Replace) or answer.ruling == "ask":
        return Decision.deny_(f"{name} may only allow or deny here.", rule=f"{name}:error")
    return answer


def _stop(no: Decision) -> StopRequested:
    return StopRequested(cause="denied", detail=clean(f"{no.rule}: {no.reason}" if no.reason else no.rule))
