"""What is true of a run after its events: `fold`, and nothing else, changes it.

`fold` updates the state that its run owns in place (copying it would make a turn cost its history); it reads nothing
but the event, and is total: forgetting an event is a type error.
"""

from __future__ import annotations

from typing import assert_never

import msgspec
from msgspec.structs import replace

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
    RunStatus,
    StopCause,
    StopRequested,
    ToolAttempted,
    ToolInDoubt,
    ToolReturned,
    ToolSettled,
    ToolsJudged,
)
from shipworthy.domain.messages import RUNTIME, ContentPart, Message, Text, ToolCall, ToolResult
from shipworthy.domain.model import FinishReason
from shipworthy.domain.usage import Charge, Spent, Tally, TotalUsage, Usage
from shipworthy.errors import JournalDamaged
from shipworthy.rules.calls import (
    UNKNOWN,
    WORDS_AT_THE_END,
    Answer,
    Call,
    answer,
    ask_anew,
    drop_edits,
    drop_grants,
    wait_on,
)
from shipworthy.rules.spending import plus
from shipworthy.rules.tallies import note


class RunState(msgspec.Struct, kw_only=True):
    """A run as it stands. `messages` is a valid conversation whenever `calls` is empty.

    `attempt`: one on the wire that has no outcome yet. `charged`: the sum over all attempts; `nested`: what the runs of
    each call used, by its id. `counted`: tokens of the first `counted_to` messages, as the provider of the model
    `counted_by` counted them. `paused_ms`: time in which nobody drove the run. `parked_at`: the event with which it was
    parked; `wake_at`: when it stops waiting by itself; `refusals`: answers that were refused since, `answered`: that
    some were not; `woken`: how often in a row it went on because of that, or of its time, and failed. `returned`:
    results by tool, and `allowed`: calls that were; `tallies`: the same of nested runs and those within, and `below`
    its sum. `remembered`: approvals that hold for the whole run. `handed_over`:
    the call whose result is the answer. `taken`: names of the tokens that were taken. `prefix`: what the addresses of
    its calls begin with. `recalled`: its memory was asked.
    """

    started: RunStarted
    seq: int = 0
    at: int = 0
    max_turns: int = 50
    output_retries: int = 2
    model_retries: int = 2
    messages: list[Message]
    calls: dict[str, Call]
    open_calls: int = 0
    turns: int = 0
    ordinal: int = 0
    failures: int = 0
    failure: ModelFailed | None = None
    rejections: int = 0
    rejection: str = ""
    answer: ModelAnswered | None = None
    wrapping_up: bool = False
    finish_reason: FinishReason | None = None
    parked: bool = False
    waiting_for: str | None = None
    stopping: StopCause | None = None
    stopped_here: bool = False
    usage: TotalUsage
    attempt: ModelRequested | None = None
    charged: Charge | None = None
    nested: dict[str, Spent] | None = None
    counted: int = 0
    counted_to: int = 0
    counted_by: str = ""
    limit: BudgetReached | None = None
    paused_ms: int = 0
    parked_at: int = 0
    answered: bool = False
    woken: int = 0
    wake_at: int | None = None
    refusals: int = 0
    returned: dict[str, int] = {}
    allowed: dict[str, int] = {}
    tallies: dict[str, Tally] = {}
    below: Tally | None = None
    remembered: tuple[ApprovalGranted, ...] = ()
    handed_over: str | None = None
    taken: set[str] = set()
    prefix: str = ""
    stop_detail: str = ""
    recalled: bool = False
    ended: RunEnded | None = None


def begin(event: RunStarted) -> RunState:
    """The state after a run's first event."""
    return RunState(
        started=event,
        seq=event.seq,
        at=event.at,
        max_turns=event.max_turns,
        output_retries=event.output_retries,
        model_retries=event.model_retries,
        messages=[Message("user", event.prompt)],
        calls={},
        usage=TotalUsage(),
        returned={},
        allowed={},
        tallies={},
        taken=set(),
        prefix="" if event.parent is None else "/".join((*event.parent.path, "")),
    )


def replay(events: list[AnyEvent]) -> RunState:
    """The state after a whole journal. Raises JournalDamaged if it does not begin with `RunStarted`, or has a gap."""
    if not events or type(events[0]) is not RunStarted:
        raise JournalDamaged("The journal does not begin with run_started.")
    return catch_up(begin(events[0]), events[1:])


def catch_up(run: RunState, events: list[AnyEvent]) -> RunState:
    """The state, in place, after the events that came since. Raises JournalDamaged for a gap."""
    for event in events:
        if event.seq != run.seq + 1:
            raise JournalDamaged(f"The journal goes from event {run.seq} to event {event.seq}.")
        fold(run, event)
    return run


def _call(run: RunState, call_id: str) -> Call:
    call = run.calls.get(call_id)
    if call is None:
        raise JournalDamaged(f"Event {run.seq} is about a call {call_id!r} that is not open.")
    return call


def status_of(run: RunState) -> RunStatus:
    """The run's status as a listing shows it."""
    if run.ended is not None:
        return run.ended.status
    return "paused" if run.parked else "running"


def fold(run: RunState, event: AnyEvent) -> RunState:  # noqa: C901 - an exhaustive match
    """What is true after *event*."""
    run.seq = event.seq
    before, run.at = run.at, event.at
    match event:
        case ModelRequested():
            run.attempt = event
            run.wrapping_up = event.purpose == "wrap_up"
            run.usage.requests += 1
            run.usage.unreported += 1  # until its answer says what it used
        case ModelAnswered():
            _answered(run, event)
        case RunEnded():
            _ended(run, event)
        case ToolsJudged():
            for judged in event.calls:
                call = _call(run, judged.call_id)
                call.status, call.effect = "ready", judged.effect
                call.charged, call.approvals = call.charged or event.charged, judged.approvals
                if not call.allowed:
                    call.allowed, name = True, call.call.name
                    run.allowed[name] = run.allowed.get(name, 0) + 1
            for call_id in event.waiting:
                wait_on(_call(run, call_id))
        case ToolAttempted():
            call = _call(run, event.call_id)
            call.status, call.attempts, call.used = "attempted", event.attempt, call.approvals
            call.start_by, call.timeout, call.open_attempt = event.start_by, event.timeout, True
        case ToolReturned():
            _nest(run, event)
            if event.outcome == "ok":
                _count_result(run, event)
            _returned(run, event.call_id, event.content, is_error=event.outcome != "ok")
        case ToolInDoubt():
            call = _call(run, event.call_id)
            call.status, call.doubt = "in_doubt", event.reason
        case ToolSettled():
            _settled(run, event)
        case OutputRejected():
            _output_rejected(run, event)
        case ModelFailed():
            run.ordinal += 1
            run.failures += 1
            run.failure = event
            _spend(run.usage, event.usage)
            _charge(run, event.charged)
        case ModelAbandoned():
            _charge(run, event.charged)
        case BudgetReached():
            run.limit = event if run.limit is None else replace(run.limit, wrap_up=False)
        case ArgumentsReplaced():
            call = _call(run, event.call_id)
            call.edited, call.edited_by = event.call, event.by
        case ApprovalRequested():
            ask_anew(_call(run, event.call_id), event)
        case ApprovalGranted() | ApprovalDenied() | HumanAnswered():
            run.answered = True
            take_answer(run, event)
        case HumanAsked():
            call = _call(run, event.call_id)
            call.status, call.question, call.children = "waiting", event, ()
            call.open_attempt = False
        case AgentPaused():
            call = _call(run, event.call_id)
            call.status, call.question, call.children = "waiting", None, event.runs
            call.wake_at, call.open_attempt, call.doubted = event.wake_at, False, event.in_doubt
            _nest(run, event)
        case AnswerDropped():
            call = _call(run, event.call_id)
            call.answers = call.answers[: event.ordinal]
        case AnswerRejected():
            run.refusals += 1
            if event.reason == "arguments":  # those that an approver gave do not fit the tool
                drop_edits(_call(run, event.address.removeprefix(run.prefix)))
            elif event.reason in ("expired", "signature"):
                drop_grants(_call(run, event.address.removeprefix(run.prefix)), event.by)
        case MemoryRecalled():
            _recalled(run, event)
        case BudgetWarned() | BudgetUnchecked() | MemoryWritten() | FactsLearned():
            pass
        case RunParked():
            run.parked, run.waiting_for = True, event.detail or event.reason
            run.parked_at, run.wake_at, run.refusals = event.seq, event.wake_at, 0
            if event.reason not in ("error", "missing_tool"):
                run.woken = 0
        case RunResumed():
            run.paused_ms += max(event.at - before, 0)
            _resumed(run, event)
        case StopRequested():
            run.stopping, run.stopped_here = run.stopping or event.cause, True
            run.stop_detail = run.stop_detail or event.detail
        case RunStarted():
            raise JournalDamaged(f"Event {event.seq} starts a run that has begun.")
        case _:
            assert_never(event)
    return run


def _recalled(run: RunState, event: MemoryRecalled) -> None:
    """What memory gave stands before what was asked, in the same message."""
    run.recalled = True
    if run.messages:  # a driver that only decides keeps none
        run.messages[0] = Message("user", (*event.parts, *run.messages[0].parts))


def _answered(run: RunState, event: ModelAnswered) -> None:
    run.ordinal += 1
    run.turns += 1
    run.failures = 0
    run.failure = None
    run.answer = event
    run.finish_reason = event.finish_reason
    _spend(run.usage, event.usage)
    asked, run.attempt = run.attempt, None
    if event.charged is not None:
        _charge(run, event.charged)
    if event.parts:
        run.messages.append(Message("assistant", event.parts))
    if asked is not None and asked.reserved is not None:
        _count(run, event.usage, asked.model)
    for part in event.parts:
        if type(part) is ToolCall:
            run.calls[part.call_id] = Call(part)
    run.open_calls = len(run.calls)


def _charge(run: RunState, charge: Charge | None) -> None:
    """The attempt has its outcome, and what it is charged joins the sum; money is unknown once a part of it is."""
    run.attempt = None
    if charge is None:
        return
    run.charged = charge if run.charged is None else plus(run.charged, charge)


def _count(run: RunState, usage: Usage, model: str) -> None:
    """Remember how long the conversation is by the counting of this model's provider."""
    if usage.input_tokens and usage.output_tokens is not None and usage.output_tokens >= 0:
        run.counted, run.counted_to = usage.input_tokens + usage.output_tokens, len(run.messages)
        run.counted_by = model


def _spend(total: TotalUsage, usage: Usage) -> None:
    if usage.input_tokens is not None or usage.output_tokens is not None:
        total.unreported -= 1
    for field in Usage.__struct_fields__:
        if (more := getattr(usage, field)) is not None:
            setattr(total, field, (getattr(total, field) or 0) + more)


def _nest(run: RunState, event: ToolReturned | AgentPaused) -> None:
    """What the runs of a call used, in place of what was known of that before."""
    if event.nested is not None:
        run.nested = {**(run.nested or {}), event.call_id: event.nested}
        if event.nested.tallies:
            note(run, event.nested.tallies)


def take_answer(run: RunState, event: Answer) -> None:
    """Keep it with the call that it is for, or with the one that made the run of that call."""
    if event.id:
        run.taken.add(event.id)
    head, _, rest = event.address.removeprefix(run.prefix).partition("/")
    call = _call(run, head)
    if isinstance(event, ApprovalGranted) and event.remember == "run":
        run.remembered = (*run.remembered, event)
    if rest:
        call.down = (*call.down, event)
    else:
        answer(call, event)


def _count_result(run: RunState, event: ToolReturned) -> None:
    name = _call(run, event.call_id).call.name
    run.returned[name] = run.returned.get(name, 0) + 1
    if event.handed_over:
        run.handed_over = event.call_id


def _returned(run: RunState, call_id: str, content: tuple[ContentPart, ...], *, is_error: bool) -> None:
    call = _call(run, call_id)
    call.status = "returned"
    name = call.call.name
    call.result = ToolResult(
        call_id=call_id, name=name, content=content, is_error=is_error, origin=f"tool:{name}"
    )
    run.open_calls -= 1
    if not run.open_calls:
        _close_answer(run)


def _close_answer(run: RunState) -> None:
    """Every call has its one result: the conversation is valid again."""
    results = tuple([c.result for c in run.calls.values() if c.result is not None])
    run.messages.append(Message("tool", results))
    run.calls = {}
    run.open_calls = 0
    run.answer = None


def _settled(run: RunState, event: ToolSettled) -> None:
    call = _call(run, event.call_id)
    if event.happened:
        run.returned[call.call.name] = run.returned.get(call.call.name, 0) + 1
        return _returned(run, event.call_id, event.content, is_error=False)
    call.status, call.doubt, call.not_before, call.open_attempt = "unjudged", "", 0, False
    return None


def _output_rejected(run: RunState, event: OutputRejected) -> None:
    run.rejections += 1
    run.rejection = event.problem
    run.handed_over = None
    if event.call_id is not None:
        said = (Text(event.problem, origin=RUNTIME),)
        return _returned(run, event.call_id, said, is_error=True)
    run.messages.append(Message("user", (Text(event.problem, origin=RUNTIME),)))
    run.answer = None
    return None


def _resumed(run: RunState, event: RunResumed) -> None:
    """Live code judges again what was not attempted; what was attempted is in doubt if repeating it could hurt."""
    run.woken = run.woken + 1 if run.parked and (run.wake_at is not None or run.answered) else 0
    run.answered = False
    run.parked, run.waiting_for, run.wake_at = False, None, None
    run.failures = 0
    run.failure = None
    run.stopped_here = False
    if event.changed:
        run.counted = run.counted_to = 0
    run.max_turns = min(run.max_turns, event.max_turns)
    run.output_retries = min(run.output_retries, event.output_retries)
    run.model_retries = min(run.model_retries, event.model_retries)
    for call in run.calls.values():
        if call.status in ("ready", "asked", "waiting"):
            call.status = "unjudged"
        elif call.status == "attempted":
            if event.previous == "expired":
                call.not_before = call.start_by + int((call.timeout or 0.0) * 1000) + event.skew
            if call.effect == "once":
                call.status, call.doubt = (
                    "in_doubt",
                    "The process that made this call ended before its result was recorded.",
                )
            else:
                call.status = "unjudged"


def _ended(run: RunState, event: RunEnded) -> None:
    run.ended = event
    run.parked = False
    if run.calls:
        for call in run.calls.values():
            if call.result is None:
                words = WORDS_AT_THE_END.get(call.status, UNKNOWN)
                if call.call.call_id == event.output_call:
                    words = "Accepted as the final output."
                call.result = ToolResult(
                    call_id=call.call.call_id,
                    name=call.call.name,
                    content=(Text(words, origin=RUNTIME),),
                    is_error=call.call.call_id != event.output_call,
                    origin=RUNTIME,
                )
        _close_answer(run)
