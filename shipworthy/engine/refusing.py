"""Answering a call in place of its tool."""

from __future__ import annotations

import time

from shipworthy.domain.events import RunParked, ToolReturned
from shipworthy.domain.messages import RUNTIME, Text
from shipworthy.domain.policy import Decision
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import unfinished
from shipworthy.errors import MissingTool
from shipworthy.rules.calls import Call
from shipworthy.rules.decide import again_at
from shipworthy.rules.text import clean

RESTORE = "Give the tool its agents again (same form, same names, same place), and resume; nothing was lost."


def deny(run: LiveRun, call: Call, decision: Decision) -> None:
    """The call may not run; the model is told what the decision says it may be told."""
    told = decision.reason if decision.tell is None else decision.tell
    words = clean(f"Denied: {told}" if told else "Denied: this call is not allowed.")
    _answer(
        run,
        call,
        ToolReturned(
            call_id=call.call.call_id,
            content=(run.pack(Text(words, RUNTIME, "untrusted")),),
            outcome="denied",
            rule=clean(decision.rule),
            policy=run.governance.version,
            reason=clean(decision.reason),
        ),
    )


def refuse(run: LiveRun, call: Call, words: str) -> None:
    """The call is none that could be made."""
    said = run.pack(Text(words, RUNTIME, "untrusted"))
    _answer(run, call, ToolReturned(call_id=call.call.call_id, content=(said,), outcome="rejected"))


def _answer(run: LiveRun, call: Call, answer: ToolReturned) -> None:
    """Record it, or keep it back until the nested runs that the call made before are stopped (`refused`)."""
    if unfinished(run, call):
        run.withheld[call.call.call_id] = answer
    else:
        run.record(answer)


async def refused(run: LiveRun) -> None:
    """Stop the nested runs of calls that were refused, and record the refusals; a call of which something is in doubt
    waits in place of that, and is judged again when the run is resumed."""
    while run.withheld:
        from shipworthy.engine.cancelling import stop_nested

        call_id = next(iter(run.withheld))
        waits = await stop_nested(run, run.state.calls[call_id])
        answer = run.withheld.pop(call_id)
        run.record(answer if waits is None else waits)


def missing(run: LiveRun, name: str, misfit: str = "") -> None:
    """A tool is gone that was there when its call was accepted, or is another one now (*misfit*): park the run, and let
    the developer know."""
    what = f"Run {run.run_id!r} has a call of the tool {name!r}, which the agent no longer has."
    run.raises = MissingTool(misfit, fix=RESTORE) if misfit else MissingTool(what)
    wake_at = again_at(run.state, time.time_ns() // 1_000_000)
    run.record(RunParked(reason="missing_tool", detail=name, wake_at=wake_at))
