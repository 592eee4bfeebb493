"""What was said of each call of a recorded run, and what the run looked like then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shipworthy.domain.effects import Effect
from shipworthy.domain.events import (
    AnyEvent,
    ApprovalRequested,
    RunStarted,
    ToolAttempted,
    ToolReturned,
    ToolsJudged,
)
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.policy import Ruling
from shipworthy.errors import JournalDamaged
from shipworthy.rules.state import RunState, begin, fold


class Recorded(msgspec.Struct):
    """A call as it was judged first. `call` has the arguments that were judged; `effect` is None where the journal does
    not say; `returned`: the results that the run had by then, and `allowed` the calls that were; `ran`: whether the
    call was attempted."""

    call_id: str
    call: ToolCall
    effect: Effect | None
    ruling: Ruling
    rule: str
    at: int
    returned: Mapping[str, int]
    allowed: Mapping[str, int]
    ran: bool = False


def recorded(events: Sequence[AnyEvent]) -> list[Recorded]:
    """Each call of a whole journal that was judged, in the order of the judgements. Raises JournalDamaged."""
    if not events or type(events[0]) is not RunStarted:
        raise JournalDamaged("The journal does not begin with run_started.")
    run = begin(events[0])
    found: dict[str, Recorded] = {}
    for event in events[1:]:
        if event.seq != run.seq + 1:
            raise JournalDamaged(f"The journal goes from event {run.seq} to event {event.seq}.")
        _note(run, event, found)
        fold(run, event)
    return list(found.values())


def _note(run: RunState, event: AnyEvent, found: dict[str, Recorded]) -> None:
    match event:
        case ToolsJudged():
            for each in event.calls:
                asked = bool(each.approvals)
                _add(run, event, found, each.call_id, "ask" if asked else "allow", each.rule, each.effect)
            for call_id in event.waiting:
                call = run.calls.get(call_id)
                if call is not None and call.ask is not None and call.question is None:
                    _add(run, event, found, call_id, "ask", call.ask.rule, call.ask.effect)
        case ApprovalRequested():
            _add(run, event, found, event.call_id, "ask", event.rule, event.effect)
        case ToolReturned(outcome="denied") if not _was_attempted(run, event.call_id):
            _add(run, event, found, event.call_id, "deny", event.rule, None)
        case ToolAttempted() if event.call_id in found:
            found[event.call_id].ran = True
        case _:
            pass


def _was_attempted(run: RunState, call_id: str) -> bool:
    """A result that a hook withheld is that of a call that had been allowed."""
    call = run.calls.get(call_id)
    return call is not None and call.attempts > 0


def _add(
    run: RunState,
    event: AnyEvent,
    found: dict[str, Recorded],
    call_id: str,
    ruling: Ruling,
    rule: str,
    effect: Effect | None,
) -> None:
    call = run.calls.get(call_id)
    if call is None:
        raise JournalDamaged(f"Event {event.seq} is about a call {call_id!r} that is not open.")
    if call_id not in found:  # what follows a resume, or an answer, is about the same call
        allowed = dict(run.allowed)
        for other in found.values():  # calls of the same answer, which are counted with its event
            open_call = run.calls.get(other.call_id)
            if open_call is not None and not open_call.allowed and other.ruling == "allow":
                allowed[other.call.name] = allowed.get(other.call.name, 0) + 1
        found[call_id] = Recorded(
            call_id, call.wanted, effect, ruling, rule, event.at, dict(run.returned), allowed
        )
