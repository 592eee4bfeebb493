"""What a journal says of the judging of its calls: each as it was judged first, with what the run had found by then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from shipworthy.domain.events import (
    AnyEvent,
    ApprovalRequested,
    ArgumentsReplaced,
    Judged,
    ModelAnswered,
    RunResumed,
    RunStarted,
    ToolAttempted,
    ToolReturned,
    ToolsJudged,
)
from shipworthy.domain.messages import Text, ToolCall
from shipworthy.errors import JournalDamaged
from shipworthy.rules.policies.replay import Recorded, recorded


def journal(*events: AnyEvent) -> list[AnyEvent]:
    started = RunStarted(run_id="run_1", tenant="acme", prompt=(Text("Go"),), agent="support")
    made: list[Any] = [started, *events]
    for number, event in enumerate(made, 1):
        made[number - 1] = type(event)(
            **{name: getattr(event, name) for name in event.__struct_fields__}
            | {"seq": number, "at": number * 10}
        )
    return made


def answer(*ids: str) -> ModelAnswered:
    return ModelAnswered(ordinal=1, parts=tuple([ToolCall("refund", '{"amount": 90}', id) for id in ids]))


def allowed(*ids: str, approvals: tuple[str, ...] = (), rule: str = "") -> ToolsJudged:
    return ToolsJudged(calls=tuple([Judged(id, "once", rule=rule, approvals=approvals) for id in ids]))


def asked(id: str) -> ApprovalRequested:
    return ApprovalRequested(
        call_id=id, tool="refund", effect="once", digest="d", rule="large", policy="1", expires_at=10**13
    )


def returned(id: str, outcome: Any = "ok", rule: str = "") -> ToolReturned:
    return ToolReturned(call_id=id, content=(Text("said"),), outcome=outcome, rule=rule)


def words(found: Sequence[Recorded]) -> list[tuple[str, str, str, bool]]:
    return [(each.call_id, each.ruling, each.rule, each.ran) for each in found]


def test_calls_are_allowed_asked_about_or_denied() -> None:
    found = recorded(
        journal(
            answer("c1", "c2", "c3", "c4"),
            returned("c1", "denied", "hours"),
            returned("c4", "rejected"),
            asked("c2"),
            allowed("c3", rule="small"),
            ToolAttempted(call_id="c3"),
            returned("c3"),
        )
    )

    assert words(found) == [
        ("c1", "deny", "hours", False),
        ("c2", "ask", "large", False),
        ("c3", "allow", "small", True),
    ]
    assert [each.effect for each in found] == [None, "once", "once"]


def test_a_result_that_a_hook_withheld_is_that_of_an_allowed_call() -> None:
    found = recorded(
        journal(
            answer("c1"), allowed("c1"), ToolAttempted(call_id="c1"), returned("c1", "denied", "hook:secrets")
        )
    )

    assert words(found) == [("c1", "allow", "", True)]


def test_what_was_remembered_counts_as_asked() -> None:
    assert words(recorded(journal(answer("c1"), allowed("c1", approvals=("a1",), rule="large")))) == [
        ("c1", "ask", "large", False)
    ]


def test_a_call_is_recorded_as_it_was_judged_first() -> None:
    found = recorded(
        journal(
            answer("c1"),
            ArgumentsReplaced(call_id="c1", call=ToolCall("refund", '{"amount": 40}', "c1"), by="hook:cap"),
            asked("c1"),
            ArgumentsReplaced(call_id="c1", call=ToolCall("refund", '{"amount": 30}', "c1"), by="mia"),
            allowed("c1", approvals=("a1",)),
            RunResumed(fence=2, previous="released"),
            allowed("c1", approvals=("a1",)),
        )
    )

    assert words(found) == [("c1", "ask", "large", False)]
    assert (found[0].call.raw_arguments, found[0].at) == ('{"amount": 40}', 40)


def test_results_count_from_the_next_judging_on() -> None:
    found = recorded(
        journal(
            answer("c1"),
            allowed("c1"),
            ToolAttempted(call_id="c1"),
            returned("c1"),
            answer("c2", "c3"),
            allowed("c2"),
            ToolAttempted(call_id="c2"),
            returned("c2", "error"),
            allowed("c3"),
        )
    )

    assert [dict(each.returned) for each in found] == [{}, {"refund": 1}, {"refund": 1}]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [answer("c1")],
        journal(allowed("c1")),
        [*journal(answer("c1"))[:1], *journal(answer("c1"), answer("c2"))[2:]],
    ],
)
def test_a_damaged_journal_is_not_guessed_at(events: list[AnyEvent]) -> None:
    with pytest.raises(JournalDamaged):
        recorded(events)
