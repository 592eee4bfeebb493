"""A journal as a timeline: what each event says, in a line."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, assert_never

from shipworthy.domain.events import (
    AgentPaused,
    AnswerDropped,
    AnswerRejected,
    AnyEvent,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    ArgumentsReplaced,
    BudgetReached,
    BudgetUnchecked,
    BudgetWarned,
    FactsLearned,
    HumanAnswered,
    HumanAsked,
    MemoryRecalled,
    MemoryWritten,
    ModelAbandoned,
    ModelAnswered,
    ModelFailed,
    ModelRequested,
    OutputRejected,
    RunEnded,
    RunParked,
    RunResumed,
    RunStarted,
    StopRequested,
    ToolAttempted,
    ToolInDoubt,
    ToolReturned,
    ToolSettled,
    ToolsJudged,
)
from shipworthy.domain.memory import Why
from shipworthy.domain.messages import File, Image, Stored, Text, Thinking, ToolCall
from shipworthy.domain.usage import Charge
from shipworthy.rules.decide import budget_words, shown_amount

_STYLES = {
    "run_ended": "bold",
    "run_resumed": "yellow",
    "run_parked": "yellow",
    "tool_in_doubt": "yellow",
    "model_failed": "red",
    "budget_reached": "red",
    "budget_warned": "yellow",
    "budget_unchecked": "red",
    "output_rejected": "red",
    "tool_attempted": "cyan",
    "tool_settled": "green",
}
_PREVIOUS = {
    "dead": "the process before it died",
    "expired": "the process before it was stopped for too long",
    "released": "it was waiting",
}


class Line(NamedTuple):
    """One event for people."""

    seq: int
    at: int
    kind: str
    what: str
    style: str


def lines(events: Iterable[AnyEvent], names: dict[str, str] | None = None) -> list[Line]:
    """What each event says. Tools go by their names, which only the answers before know; *names* are those so far."""
    names = {} if names is None else names
    told: list[Line] = []
    for event in events:
        if isinstance(event, ModelAnswered):
            names.update({p.call_id: p.name for p in event.parts if isinstance(p, ToolCall)})
        kind = str(event.__struct_config__.tag)
        told.append(Line(event.seq, event.at, kind, one_line(_what(event, names)), _STYLES.get(kind, "")))
    return told


def table(events: Sequence[AnyEvent], *, full: bool = False) -> Any:
    """The timeline as a table of rich; *full* shows what does not fit in a line."""
    from rich.table import Table
    from rich.text import Text as Styled

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    made.add_column("seq", justify="right", style="dim", min_width=3)
    made.add_column("time", style="dim", no_wrap=True, min_width=12)
    made.add_column("event", no_wrap=True, min_width=15)
    made.add_column("what", no_wrap=not full, overflow="fold" if full else "ellipsis", ratio=1)
    for line in lines(events):
        made.add_row(str(line.seq), clock(line.at), Styled(line.kind, line.style), Styled(line.what))
    return made


def clock(at: int) -> str:
    """The time of day, here, to the millisecond."""
    return _local(at).strftime("%H:%M:%S.%f")[:-3]


def moment(at: int) -> str:
    """Date and time, here."""
    return _local(at).strftime("%Y-%m-%d %H:%M:%S")


def _local(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at / 1000)


def one_line(text: str) -> str:
    """*text* without line breaks and control characters: a tool's result must not move the terminal's cursor."""
    return " ".join("".join([c if c.isprintable() else " " for c in text]).split())


def _what(event: AnyEvent, names: dict[str, str]) -> str:
    match event:
        case RunStarted() | RunResumed() | RunParked() | StopRequested() | RunEnded():
            return _of_run(event)
        case ModelRequested() | ModelAnswered() | ModelFailed() | OutputRejected():
            return _of_model(event)
        case ModelAbandoned() | BudgetReached() | BudgetWarned() | BudgetUnchecked():
            return _of_budget(event)
        case ToolsJudged() | ToolAttempted() | ToolReturned() | ToolInDoubt() | ToolSettled():
            return _of_tool(event, names)
        case ApprovalRequested() | ApprovalGranted() | ApprovalDenied() | ArgumentsReplaced():
            return _of_approval(event, names)
        case HumanAsked() | HumanAnswered() | AgentPaused() | AnswerRejected() | AnswerDropped():
            return _of_people(event, names)
        case MemoryRecalled() | MemoryWritten() | FactsLearned():
            return _of_memory(event)
        case _:
            assert_never(event)


def _of_memory(event: MemoryRecalled | MemoryWritten | FactsLearned) -> str:
    match event:
        case MemoryRecalled():
            what = ", ".join([f"{item.kind} {item.id} ({why(item.why)})" for item in event.items])
            return "; ".join([part for part in (what or "nothing", event.problem) if part])
        case MemoryWritten():
            learning = f"; facts are learned in run {event.learning}" if event.learning else ""
            return (
                f"{len(event.ids)} things kept{learning}" if event.ids else f"nothing kept: {event.problem}"
            )
        case FactsLearned():
            counts = {
                name: len(getattr(event, name))
                for name in ("added", "confirmed", "superseded", "quarantined")
            } | {"left out": event.left_out}
            return ", ".join([f"{count} {name}" for name, count in counts.items() if count]) or "nothing new"


def why(reason: Why) -> str:
    """Why something was recalled, in words."""
    if reason.always:
        return "always given"
    found = []
    if reason.words is not None:
        found.append(f"words: rank {reason.words}")
    if reason.vector is not None:
        found.append(f"meaning: rank {reason.vector}, cosine {reason.nearness:.2f}")
    return ", ".join(found)


def _of_approval(
    event: ApprovalRequested | ApprovalGranted | ApprovalDenied | ArgumentsReplaced, names: dict[str, str]
) -> str:
    match event:
        case ApprovalRequested():
            return f"{names.get(event.call_id, event.call_id)}: asked by {event.rule}. {event.reason}"
        case ApprovalGranted():
            return f"{event.tool}: {event.approver} approves ({event.address})"
        case ApprovalDenied():
            return f"{event.approver} denies ({event.address}) {event.reason}"
        case ArgumentsReplaced():
            return f"{names.get(event.call_id, event.call_id)}: other arguments by {event.by}. {event.reason}"
        case _:
            assert_never(event)


def _of_people(
    event: HumanAsked | HumanAnswered | AgentPaused | AnswerRejected | AnswerDropped, names: dict[str, str]
) -> str:
    match event:
        case HumanAsked():
            return f"{names.get(event.call_id, event.call_id)}: {_part(event.data)}"
        case HumanAnswered():
            return f"{event.by or 'nobody in time'} ({event.address}): {_part(event.answer)}"
        case AgentPaused():
            why = ", which have calls in doubt" if event.in_doubt else ""
            return f"{names.get(event.call_id, event.call_id)}: waits for {', '.join(event.runs)}{why}"
        case AnswerRejected():
            return f"{event.address} {event.reason}"
        case AnswerDropped():
            return f"{names.get(event.call_id, event.call_id)}: {event.reason}"
        case _:
            assert_never(event)


def _of_budget(event: ModelAbandoned | BudgetReached | BudgetWarned | BudgetUnchecked) -> str:
    match event:
        case ModelAbandoned():
            return f"{event.reason}: charged {charge_words(event.charged)}"
        case BudgetReached():
            return budget_words(event)
        case BudgetWarned():
            soft, cap = shown_amount(event.unit, event.soft), shown_amount(event.unit, event.cap)
            return f"{event.limit}: {soft} of {cap} are spent"
        case BudgetUnchecked():
            return f"made without a reservation: {one_line(event.error)}"
        case _:
            assert_never(event)


def charge_words(charge: Charge) -> str:
    """What is charged, in tokens of input and output, and in money where a price is known."""
    tokens = f"{charge.input_tokens} + {charge.output_tokens} tokens"
    return tokens if charge.cost is None else f"{tokens}, {shown_amount('cost_usd', charge.cost)}"


def _of_run(event: RunStarted | RunResumed | RunParked | StopRequested | RunEnded) -> str:
    match event:
        case RunStarted():
            who = " / ".join([part for part in (event.tenant, event.user, event.session) if part])
            return f"{who}: {content(event.prompt)}"
        case RunResumed():
            changed = f"; changed: {', '.join(event.changed)}" if event.changed else ""
            return f"by fence {event.fence}; {_PREVIOUS[event.previous]}{changed}"
        case RunParked():
            return f"waits for a person ({event.reason}{': ' if event.detail else ''}{event.detail})"
        case StopRequested():
            return event.cause
        case RunEnded():
            said = content([event.output]) if event.output is not None else event.error or ""
            reason = f" ({event.stop_reason})" if event.stop_reason else ""
            return f"{event.status}{reason}{': ' if said else ''}{said}"


def _of_model(event: ModelRequested | ModelAnswered | ModelFailed | OutputRejected) -> str:
    match event:
        case ModelRequested():
            return f"{event.model}, request {event.ordinal + 1}{_unless(event.purpose, 'turn')}"
        case ModelAnswered():
            return content(event.parts) or "(nothing)"
        case ModelFailed():
            return f"{event.error}: {event.message}"
        case OutputRejected():
            return event.problem


def _of_tool(
    event: ToolsJudged | ToolAttempted | ToolReturned | ToolInDoubt | ToolSettled, names: dict[str, str]
) -> str:
    if isinstance(event, ToolsJudged):
        may = [f"{names.get(c.call_id, c.call_id)} may run ({c.effect})" for c in event.calls]
        return ", ".join([*may, *[f"{names.get(id, id)} goes on waiting" for id in event.waiting]])
    name = names.get(event.call_id, event.call_id)
    match event:
        case ToolAttempted():
            return f"{name}, attempt {event.attempt}"
        case ToolReturned():
            return f"{name}{_unless(event.outcome, 'ok')}: {content(event.content)}"
        case ToolInDoubt():
            return f"{name}: {event.reason}"
        case ToolSettled():
            who = "verify=" if event.by == "verify" else "a person"
            return f"{name} {'happened' if event.happened else 'did not happen'}, says {who}"


def _unless(value: str, usual: str) -> str:
    return "" if value == usual else f" ({value})"


def content(parts: Iterable[Any]) -> str:
    """Parts of a message, in words."""
    return " ".join([words for part in parts if (words := _part(part))])


def _part(part: Any) -> str:
    match part:
        case Text():
            return part.text
        case ToolCall():
            return f"→ {part.name}({_size(part.stored) if part.stored else part.raw_arguments})"
        case Thinking():
            return f"(thinks: {part.text})"
        case Stored():
            return _size(part)
        case Image():
            return f"[image {part.media_type}]"
        case File():
            return f"[file {part.name}]"
        case _:
            return str(part)


def _size(stored: Stored) -> str:
    return f"[{stored.size:,} bytes, body {stored.digest[:12]}]"
