"""What an entry says in the clear: nothing that a model, a person or a tool made up, for facts are never erased."""

from __future__ import annotations

import msgspec

from shipworthy.domain.events import AnswerRejected, AnyEvent, ModelAnswered, ToolReturned
from shipworthy.domain.messages import Text, ToolCall
from shipworthy.domain.scope import Scope
from shipworthy.rules.audit.entries import UNKNOWN, Narrator
from shipworthy.rules.calls import Call

SECRET = "send ALICESECRET 4111-1111"
ANSWER = ModelAnswered(
    seq=3,
    ordinal=0,
    parts=(Text(SECRET), ToolCall(SECRET, "{}", "call_1"), ToolCall("charge", SECRET, "call_2")),
)
SAID: list[AnyEvent] = [
    ANSWER,
    ToolReturned(seq=4, call_id="call_1", content=(Text(SECRET),), outcome="rejected"),
    ToolReturned(seq=5, call_id="call_2", content=(Text(SECRET),)),
    AnswerRejected(seq=6, reason=SECRET, by="bob"),
]


def narrator() -> Narrator:
    return Narrator(Scope("acme", "alice"), "r1", "pay", {"charge"})


def test_facts_and_actors_have_nothing_that_was_made_up() -> None:
    tells = narrator()
    drafts = [tells.draft(event, 1) for event in SAID]

    assert [SECRET in str(msgspec.json.encode(draft.facts)) + draft.actor for draft in drafts] == [False] * 4
    assert drafts[0].facts["calls"] == [UNKNOWN, "charge"]
    assert [draft.actor for draft in drafts[1:3]] == [f"tool:{UNKNOWN}", "tool:charge"]
    assert all(SECRET.encode() in draft.body for draft in drafts)


def test_a_run_that_goes_on_knows_the_names_of_calls_that_were_judged() -> None:
    judged = Call(ToolCall("old_tool", "{}", "call_3"), effect="once")
    tells = narrator()
    tells.recall({"call_3": judged, "call_4": Call(ToolCall(SECRET, "{}", "call_4"))})

    names = [
        tells.draft(ToolReturned(seq=9, call_id=call, content=()), 1).facts["tool"]
        for call in ("call_3", "call_4")
    ]
    assert names == ["old_tool", UNKNOWN]
