"""The rule table, read as a table, and what `fold` promises for any journal."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shipworthy.domain.events import (
    AnyEvent,
    BudgetReached,
    BudgetUnchecked,
    BudgetWarned,
    Judged,
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
        "what did not happen is done",
        [CALLS, JUDGED, *READ, *DOUBT, ToolSettled(call_id="a", happened=False, by="person")],
        (Execute, ["a"]),
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
        [BudgetWarned(limit="max_tokens", unit="tokens", cap=10, soft=8), BudgetUnchecked(error="e")],
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
