"""The rule table, read as a table, and what `fold` promises for any journal."""

from __future__ import annotations

from typing import Any

import pytest
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
    Judged,
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
from shipworthy.domain.messages import Text, ToolCall
from shipworthy.domain.usage import Charge
from shipworthy.errors import JournalDamaged
from shipworthy.rules.decide import (
    AskModel,
    Deliver,
    End,
    Execute,
    Finished,
    Judge,
    Park,
    Settle,
    budget_words,
    decide,
)
from shipworthy.rules.state import RunState, fold, replay


def numbered(*events: AnyEvent) -> list[AnyEvent]:
    return [replace(e, seq=i) for i, e in enumerate(events, 1)]


def start(**options: Any) -> RunStarted:
    return RunStarted(run_id="r", tenant="t", prompt=(Text("hi"),), **options)


ASKED = ModelRequested(ordinal=0, model="m")
ASKED_LAST = ModelRequested(ordinal=0, model="m", purpose="wrap_up")
LIMIT = BudgetReached(
    limit="max_tokens", unit="tokens", cap=100, spent=90, held=0, needed=20, reopens_at=None
)
WRAPPING = replace(LIMIT, wrap_up=True)
TEXT = ModelAnswered(ordinal=0, parts=(Text("hello"),))
CALLS = ModelAnswered(
    ordinal=0, parts=(ToolCall("a", "{}", "a"), ToolCall("b", "{}", "b"), ToolCall("c", "{}", "c"))
)
JUDGED = ToolsJudged(calls=(Judged("a", "once"), Judged("b", "read"), Judged("c", "once")))
READ = (ToolAttempted(call_id="b"), ToolReturned(call_id="b", content=()))
DOUBT = (ToolAttempted(call_id="a"), ToolInDoubt(call_id="a", reason="?"))
RESUMED = RunResumed(fence=2, previous="dead")
OF_B = ToolsJudged(calls=(Judged("b", "read"),))
OF_BC = ToolsJudged(calls=(Judged("b", "read"), Judged("c", "once")))
OF_C = ToolsJudged(calls=(Judged("c", "once"),))
GOES_ON = ToolsJudged(calls=(), waiting=("b",))
C_DONE = (ToolAttempted(call_id="c"), ToolReturned(call_id="c", content=()))
MAY_A = ApprovalRequested(
    call_id="a", tool="a", effect="once", digest="d", rule="r", policy="1", expires_at=7_000
)
MAY_C = replace(MAY_A, call_id="c", tool="c", expires_at=5_000)
YES = ApprovalGranted(
    id="1", address="a", approver="maria", tool="a", digest="d", rule="r", expires_at=9_000, token="t"
)
NO = ApprovalDenied(id="2", address="a", approver="maria", token="t")
QUESTION = HumanAsked(call_id="b", ordinal=0, digest="q", data=Text("{}"), expires_at=6_000)
ANSWER = HumanAnswered(address="b", ordinal=0, digest="q", answer=Text("1"), by="person")
NESTED = AgentPaused(call_id="b", runs=("r.b",), wake_at=4_000)
DOUBTED = AgentPaused(call_id="b", runs=("r.b",), in_doubt=True)
WAITS = (CALLS, MAY_A, OF_BC, *READ)
"""`a` waits for a yes, `b` is done, and `c` may run."""
HANDED = ModelAnswered(ordinal=0, parts=(ToolCall("b", "{}", "b"),))

DONE_A = (ToolAttempted(call_id="a"), ToolReturned(call_id="a", content=()))


def of_a() -> list[AnyEvent]:
    return [ToolsJudged(calls=(Judged("a", "once"),))]


TABLE: list[tuple[str, list[AnyEvent], object]] = [
    ("a new run asks the model", [], AskModel()),
    ("an open request is made again", [ASKED], AskModel()),
    ("text is delivered", [ASKED, TEXT], Deliver()),
    ("an ended run is finished", [ASKED, TEXT, RunEnded(status="completed")], Finished()),
    ("calls are judged", [CALLS], (Judge, ["a", "b", "c"])),
    ("reads come first, together", [CALLS, JUDGED], (Execute, ["b"])),
    ("then one once call", [CALLS, JUDGED, *READ], (Execute, ["a"])),
    ("a doubt comes before anything else", [CALLS, JUDGED, *READ, *DOUBT], (Settle, ["a"])),
    ("a parked run waits", [CALLS, JUDGED, *READ, *DOUBT, RunParked()], Finished()),
    ("resuming asks again", [CALLS, JUDGED, *READ, *DOUBT, RunParked(), RESUMED], (Settle, ["a"])),
    (
        "what did not happen is judged again, by those who may object now",
        [CALLS, JUDGED, *READ, *DOUBT, ToolSettled(call_id="a", happened=False, by="person")],
        (Judge, ["a"]),
    ),
    ("reads run while people are asked", [CALLS, MAY_A, OF_BC], (Execute, ["b"])),
    (
        "a once call does not overtake one that people are asked about",
        [*WAITS],
        Park("approval", "a", 7_000),
    ),
    (
        "a call that goes on waiting is waited for as before",
        [*WAITS, RunParked(), RESUMED, OF_C, ToolsJudged(calls=(), waiting=("a",))],
        Park("approval", "a", 7_000),
    ),
    (
        "so is one whose body asks",
        [
            CALLS,
            JUDGED,
            ToolAttempted(call_id="b"),
            QUESTION,
            *DONE_A,
            *C_DONE,
            RunParked(),
            RESUMED,
            GOES_ON,
        ],
        Park("answer", "b", 6_000),
    ),
    ("one that comes before it runs", [CALLS, MAY_C, OF_B, *READ, *of_a()], (Execute, ["a"])),
    (
        "the first of several times ends the waiting",
        [CALLS, MAY_A, MAY_C, OF_B, *READ],
        Park("approval", "a, c", 5_000),
    ),
    (
        "nobody has to answer by a time that was not set",
        [CALLS, replace(MAY_A, expires_at=None), OF_BC, *READ],
        Park("approval", "a"),
    ),
    ("a run that is parked takes answers and waits on", [*WAITS, RunParked(), YES], Finished()),
    ("a yes is judged by the next sitting", [*WAITS, RunParked(), YES, RESUMED], (Judge, ["a", "c"])),
    ("and so is a no", [*WAITS, RunParked(), NO, RESUMED], (Judge, ["a", "c"])),
    ("a yes alone starts nothing", [*WAITS, YES], Park("approval", "a", 7_000)),
    ("an asked call that was judged again runs", [*WAITS, YES, *of_a()], (Execute, ["a"])),
    (
        "a read whose body asks holds nobody up",
        [CALLS, JUDGED, *DONE_A, READ[0], QUESTION],
        (Execute, ["c"]),
    ),
    (
        "a once call whose body asks does",
        [CALLS, JUDGED, *READ, ToolAttempted(call_id="a"), replace(QUESTION, call_id="a")],
        Park("answer", "a", 6_000),
    ),
    (
        "when nothing else is to be done, the answer is waited for",
        [CALLS, OF_BC, *of_a(), *C_DONE, *DONE_A, READ[0], QUESTION],
        Park("answer", "b", 6_000),
    ),
    (
        "a body that was answered is judged again, as every call that is to begin",
        [CALLS, OF_B, READ[0], QUESTION, *DONE_A, *C_DONE, RunParked(), ANSWER, RESUMED],
        (Judge, ["b"]),
    ),
    (
        "nested runs that wait are waited for",
        [CALLS, OF_BC, *of_a(), *C_DONE, *DONE_A, READ[0], NESTED],
        Park("agent", "b", 4_000),
    ),
    (
        "approval is what is said of a run that waits for several things",
        [CALLS, MAY_A, OF_BC, READ[0], QUESTION],
        Park("approval", "a, b", 6_000),
    ),
    (
        "a stop waits for what is in doubt of nested runs",
        [CALLS, OF_BC, READ[0], DOUBTED, StopRequested(cause="timeout")],
        Park("in_doubt", "b"),
    ),
    (
        "and is tried anew with the next sitting",
        [CALLS, OF_BC, READ[0], DOUBTED, StopRequested(cause="timeout"), RunParked(), RESUMED],
        End("stopped", "timeout"),
    ),
    (
        "a call that is denied with such a doubt lets the others run first",
        [CALLS, OF_BC, *of_a(), READ[0], DOUBTED],
        (Execute, ["a"]),
    ),
    (
        "and then it is waited for",
        [CALLS, OF_BC, *of_a(), *C_DONE, *DONE_A, READ[0], DOUBTED],
        Park("in_doubt", "b"),
    ),
    ("a stop does not wait for people", [*WAITS, StopRequested(cause="timeout")], End("stopped", "timeout")),
    (
        "a hook that objects stops the run, and says why",
        [TEXT, StopRequested(cause="denied", detail="never: not today")],
        End("stopped", "denied", "never: not today"),
    ),
    (
        "what was handed over is delivered",
        [HANDED, OF_B, READ[0], ToolReturned(call_id="b", content=(), handed_over=True)],
        Deliver(),
    ),
    (
        "and asked for again if it is no valid output",
        [
            HANDED,
            OF_B,
            READ[0],
            ToolReturned(call_id="b", content=(), handed_over=True),
            OutputRejected(problem="p"),
        ],
        AskModel(),
    ),
    (
        "a hand-over that gave nothing is none",
        [HANDED, OF_B, READ[0], ToolReturned(call_id="b", content=(), outcome="error", handed_over=True)],
        AskModel(),
    ),
    (
        "other arguments, an answer that was refused and one that was dropped decide nothing",
        [
            *WAITS,
            ArgumentsReplaced(call_id="a", call=ToolCall("a", '{"x":1}', "a"), by="hook:h"),
            AnswerRejected(reason="no"),
            AnswerDropped(call_id="a", ordinal=0, reason="another question"),
        ],
        Park("approval", "a", 7_000),
    ),
    (
        "what happened is not",
        [CALLS, JUDGED, *READ, *DOUBT, ToolSettled(call_id="a", happened=True, by="verify")],
        (Execute, ["c"]),
    ),
    ("a resumed read is judged again", [CALLS, JUDGED, READ[0], RESUMED], (Judge, ["a", "b", "c"])),
    ("a resumed once call is in doubt", [CALLS, JUDGED, *READ, DOUBT[0], RESUMED], (Settle, ["a"])),
    ("stopping ends", [ASKED, StopRequested(cause="timeout")], End("stopped", "timeout")),
    ("cancelling ends", [ASKED, StopRequested(cause="cancelled")], End("cancelled", "cancelled")),
    ("a doubt outlives the stop", [CALLS, JUDGED, *READ, *DOUBT, StopRequested(cause="timeout")], Park()),
    (
        "a failure that can pass is tried again, later",
        [ModelFailed(ordinal=0, error="E", message="m", retry_after=1.5)],
        AskModel(delay=1.5),
    ),
    (
        "one that cannot ends",
        [ModelFailed(ordinal=0, error="E", message="m")],
        End("failed", "model_error", "m"),
    ),
    (
        "patience ends too",
        [ModelFailed(ordinal=i, error="E", message="m", retry_after=0.0) for i in range(3)],
        End("failed", "model_error", "m"),
    ),
    (
        "a limit ends the run before the call",
        [LIMIT],
        End("stopped", "budget:max_tokens", budget_words(LIMIT)),
    ),
    ("or leaves it a last answer", [WRAPPING], AskModel("wrap_up")),
    ("which is delivered", [WRAPPING, ASKED_LAST, TEXT], Deliver()),
    (
        "or ends it, if there is no room for it either",
        [WRAPPING, LIMIT],
        End("stopped", "budget:max_tokens", budget_words(LIMIT)),
    ),
    (
        "also where an attempt had failed before",
        [ModelFailed(ordinal=0, error="E", message="m", retry_after=0.5), WRAPPING],
        AskModel("wrap_up", 0.5),
    ),
    (
        "even where trying again cannot help",
        [ModelFailed(ordinal=0, error="E", message="m"), WRAPPING],
        AskModel("wrap_up"),
    ),
    (
        "a last answer that is refused as well leaves the first reason",
        [WRAPPING, replace(LIMIT, limit="max_requests")],
        End("stopped", "budget:max_tokens", budget_words(LIMIT)),
    ),
    (
        "an abandoned attempt is made again",
        [ASKED, ModelAbandoned(charged=Charge(1, 1), reason="crashed")],
        AskModel(),
    ),
    (
        "a warning changes nothing",
        [
            BudgetWarned(limit="max_tokens", unit="tokens", cap=10, soft=8),
            BudgetUnchecked(error="e"),
            MemoryRecalled(),
            MemoryWritten(),
            FactsLearned(),
        ],
        AskModel(),
    ),
    ("a rejected output is asked for again", [TEXT, OutputRejected(problem="p")], AskModel()),
    ("but not for ever", [TEXT, OutputRejected(problem="p")] * 3, End("failed", "invalid_output", "p")),
]


@pytest.mark.parametrize(
    ("events", "step"), [(e, s) for _, e, s in TABLE], ids=[name for name, _, _ in TABLE]
)
def test_the_table(events: list[AnyEvent], step: Any) -> None:
    got = decide(replay(numbered(start(), *events)))
    if isinstance(step, tuple):
        kind, ids = step
        assert isinstance(got, kind)
        assert [c.call.call_id for c in got.calls] == ids  # type: ignore[union-attr]
    else:
        assert got == step


def test_the_last_turn_is_a_wrap_up() -> None:
    answered = [ToolsJudged(calls=(Judged("a", "read"),)), ToolAttempted(call_id="a")]
    one = ModelAnswered(ordinal=0, parts=(ToolCall("a", "{}", "a"),))
    run = replay(numbered(start(max_turns=1), one, *answered, ToolReturned(call_id="a", content=())))
    assert decide(run) == AskModel("wrap_up")


def test_a_resumed_run_keeps_the_narrower_limit() -> None:
    wide = replay(numbered(start(max_turns=5), RunResumed(fence=2, previous="dead", max_turns=50)))
    narrow = replay(numbered(start(max_turns=50), RunResumed(fence=2, previous="dead", max_turns=5)))
    assert (wide.max_turns, narrow.max_turns) == (5, 5)


def test_an_expired_owner_may_still_act_until_start_by_and_timeout_and_skew() -> None:
    attempted = ToolAttempted(call_id="a", start_by=1_000, timeout=2.0)
    expired = RunResumed(fence=2, previous="expired", skew=500)
    run = replay(numbered(start(), CALLS, JUDGED, *READ, attempted, expired))
    assert run.calls["a"].not_before == 3_500
    dead = replay(
        numbered(start(), CALLS, JUDGED, *READ, attempted, RunResumed(fence=2, previous="dead", skew=500))
    )
    assert dead.calls["a"].not_before == 0


def test_a_yes_counts_for_the_question_that_it_answers() -> None:
    """The fold keeps it while rule and arguments are the same, and forgets it when people are asked something else."""
    asked = numbered(start(), *WAITS, YES)
    assert replay(asked).calls["a"].grants != ()
    again = numbered(start(), *WAITS, YES, MAY_A)
    assert replay(again).calls["a"].grants != ()
    for other in (replace(MAY_A, rule="other"), replace(MAY_A, digest="other")):
        assert replay(numbered(start(), *WAITS, YES, other)).calls["a"].grants == ()


def test_an_answer_that_is_dropped_takes_those_after_it_along() -> None:
    second = replace(ANSWER, ordinal=1)
    dropped = AnswerDropped(call_id="b", ordinal=0, reason="another question")
    asked = (CALLS, OF_B, READ[0], QUESTION, ANSWER, second)
    assert len(replay(numbered(start(), *asked)).calls["b"].answers) == 2
    assert replay(numbered(start(), *asked, dropped)).calls["b"].answers == ()


def test_an_answer_for_a_nested_run_waits_with_the_call_that_made_it() -> None:
    deep = replace(YES, address="b/x/y")
    run = replay(numbered(start(), CALLS, OF_B, READ[0], NESTED, RunParked(), deep))
    assert run.calls["b"].down == (replace(deep, seq=run.seq),)
    assert run.calls["a"].grants == ()


def test_arguments_that_an_approver_gave_and_that_do_not_fit_are_forgotten() -> None:
    edited = replace(YES, call=ToolCall("a", '{"x":2}', "a"))
    refused = AnswerRejected(reason="arguments", address="a", by="approver:maria")
    run = replay(numbered(start(), *WAITS, YES, edited, refused))
    assert [grant.call for grant in run.calls["a"].grants] == [None]


def test_a_pause_is_known_by_the_event_that_made_it_and_forgets_the_refusals_before_it() -> None:
    refused = AnswerRejected(reason="forged")
    first = replay(numbered(start(), *WAITS, RunParked(wake_at=7_000), refused, refused))
    assert (first.parked_at, first.refusals, first.wake_at) == (first.seq - 2, 2, 7_000)
    second = replay(numbered(start(), *WAITS, RunParked(), refused, RESUMED, MAY_A, RunParked()))
    assert (second.parked_at, second.refusals, second.wake_at) == (second.seq, 0, None)


def test_the_end_closes_every_call() -> None:
    run = replay(numbered(start(), CALLS, JUDGED, READ[0], RunEnded(status="cancelled")))
    (results,) = [m for m in run.messages if m.role == "tool"]
    assert [p.call_id for p in results.parts] == ["a", "b", "c"]  # type: ignore[union-attr]


def test_folding_is_deterministic() -> None:
    for _, events, _ in TABLE:
        whole = numbered(start(), *events)
        assert replay(whole) == replay(whole)


@pytest.mark.parametrize("broken", [[], [ASKED], [start(), start()]])
def test_a_journal_that_cannot_be_one_is_refused(broken: list[AnyEvent]) -> None:
    with pytest.raises(JournalDamaged):
        replay(numbered(*broken))


def test_a_gap_is_damage() -> None:
    events = numbered(start(), ASKED, TEXT)
    with pytest.raises(JournalDamaged, match="goes from event 1 to event 3"):
        replay([events[0], events[2]])


def test_fold_knows_every_event() -> None:
    """Total: an event that `fold` forgot would end in assert_never."""
    samples: dict[type, AnyEvent] = {type(e): e for _, events, _ in TABLE for e in events}
    samples[RunStarted] = start()
    assert set(samples) == set(AnyEvent.__args__)  # type: ignore[attr-defined]
    for kind, event in samples.items():
        run: RunState = replay(numbered(start(), CALLS, JUDGED))
        if kind is RunStarted:
            with pytest.raises(JournalDamaged):
                fold(run, event)
        else:
            assert fold(run, event) is run
