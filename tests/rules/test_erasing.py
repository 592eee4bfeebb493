"""What is left of events says nothing of what was in them, and folds as they did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect
from msgspec.structs import replace

import shipworthy.rules.erasing as erasing
from shipworthy.domain.events import AnyEvent, MemoryRecalled, ToolInDoubt
from shipworthy.domain.scope import Scope
from shipworthy.rules.codec import decode_events, encode_event, encode_events
from shipworthy.rules.erasing import Names, erased, tombstones
from shipworthy.rules.ledger import account, keys_of
from shipworthy.rules.state import replay, status_of
from tests.engine.world import valid

CANARY = "Mme Żółć-4711"
KINDS: tuple[type[Any], ...] = get_args(AnyEvent)
GOLDEN = [
    json.loads(line)
    for path in sorted((Path(__file__).parents[1] / "golden").glob("journal-*.jsonl"))
    for line in path.read_text().splitlines()
]

# The developer's own names, which are meant to stay: `field`, or `Struct.field`.
KEPT = {
    *("RunStarted.tenant", "RunStarted.agent", "Parent.agents", "RunResumed.changed"),
    *("ModelRequested.model", "ModelAnswered.model", "ModelFailed.error", "RunEnded.stop_reason"),
    *("BudgetReached.limit", "BudgetReached.unit", "BudgetWarned.limit", "BudgetWarned.unit"),
    *("Judged.rule", "Judged.policy", "ToolReturned.rule", "ToolReturned.policy"),
    *("ApprovalRequested.rule", "ApprovalRequested.policy", "ApprovalGranted.rule"),
}


def samples(declared: inspect.Type, where: str) -> Iterator[Any]:  # noqa: C901 - a match over types
    """Values of a type that say the canary wherever they can: one for each alternative."""
    if where in KEPT:
        yield ("kept",) if isinstance(declared, inspect.VarTupleType) else "kept"
        return
    match declared:
        case inspect.UnionType():
            for each in declared.types:
                if not isinstance(each, inspect.NoneType):
                    yield from samples(each, where)
        case inspect.StrType():
            yield CANARY
        case inspect.BytesType():
            yield CANARY.encode()
        case inspect.LiteralType():
            yield declared.values[0]
        case inspect.VarTupleType():
            yield tuple(samples(declared.item_type, where))
        case inspect.DictType() | inspect.CollectionType():
            yield {CANARY: next(samples(getattr(declared, "value_type", inspect.AnyType()), where))}
        case inspect.StructType():
            yield from filled(declared.cls)
        case inspect.BoolType():
            yield True
        case inspect.IntType():
            yield 1
        case inspect.FloatType():
            yield 1.0
        case _:
            yield CANARY


def filled(kind: type[Any]) -> list[Any]:
    """A struct for each alternative of each of its fields, and canaries in all of them."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    choices = {f.name: list(samples(f.type, f"{kind.__name__}.{f.name}")) for f in info.fields}
    first = {name: values[0] for name, values in choices.items() if values}
    return [kind(**{**first, name: value}) for name, values in choices.items() for value in values]


def left_by(event: AnyEvent) -> str:
    """What is left, as it is written; a digest or a part of the canary would be found too."""
    return encode_event(erased(event, Names({}, ()))).decode()


def leaks(event: AnyEvent) -> bool:
    left = left_by(event)
    return CANARY in left or "4711" in left or "Żółć" in left


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_that_was_said_is_left_of_an_event(kind: type[Any]) -> None:
    events = filled(kind)
    assert all([CANARY in encode_event(event).decode() for event in events])
    for event in events:
        assert not leaks(event), left_by(event)
        assert type(erased(event, Names({}, ()))) is kind
        assert decode_events(f"[{left_by(event)}]")


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["run_id"]))
def test_a_golden_journal_folds_to_a_valid_conversation_when_it_is_erased(golden: dict[str, Any]) -> None:
    events = decode_events(json.dumps(golden["events"]))
    before = replay(events)
    [left] = tombstones([events], "erased-1")
    after = replay(decode_events(encode_events(left.events)))
    assert status_of(after) == status_of(before)
    assert (after.usage, after.charged, after.turns) == (before.usage, before.charged, before.turns)
    assert [m.role for m in after.messages] == [m.role for m in before.messages]
    assert not after.calls
    assert valid(after.messages)
    assert all([m.parts for m in after.messages])
    assert [(e.seq, e.at) for e in left.events] == [(e.seq, e.at) for e in events]
    assert {message.text for message in after.messages} <= {"", erasing.ERASED, f"{erasing.ERASED}" * 2}


def test_of_a_tools_name_that_a_model_made_up_nothing_is_left() -> None:
    run = next(g for g in GOLDEN if any(e["kind"] == "tools_judged" for e in g["events"]))
    data = json.dumps(run["events"])
    events = decode_events(data)
    name = next(p["name"] for e in run["events"] for p in e.get("parts", ()) if p["part"] == "tool_call")
    assert name in encode_events(tombstones([events], "a")[0].events).decode()
    unjudged = [e for e in events if type(e).__name__ != "ToolsJudged"]
    assert f'"name":"{name}"' not in encode_events(tombstones([unjudged], "a")[0].events).decode()


def test_a_forgotten_field_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = erasing._left

    def forgetful(value: Any, **kept: Any) -> Any:
        left = plain(value, **kept)
        if isinstance(value, ToolInDoubt):
            return replace(left, reason=value.reason)
        return replace(left, parts=value.parts) if isinstance(value, MemoryRecalled) else left

    monkeypatch.setattr(erasing, "_left", forgetful)
    assert any([leaks(event) for event in filled(ToolInDoubt)])
    assert any([leaks(event) for event in filled(MemoryRecalled)])


def test_a_field_that_somebody_adds_is_erased_until_it_is_named() -> None:
    class Newer(msgspec.Struct, frozen=True, kw_only=True):
        seq: int
        whispered: str
        loud: str | None = None
        count: int = 0

    left = erasing._left(Newer(seq=1, whispered=CANARY, loud=CANARY, count=3))
    assert left == Newer(seq=1, whispered="", count=3)


def test_the_accounts_of_one_user_are_those_of_nobody_else() -> None:
    def keys(*name: str | None, level: Any = "user", tenant: str = "acme") -> str:
        return keys_of(account(level, tenant, *name), "tokens", "day", 7)[0]

    user = erasing.accounts_of(Scope("acme", 'al"ice'))
    session = erasing.accounts_of(Scope("acme", 'al"ice', "trip"))
    tenant = erasing.accounts_of(Scope("acme"))
    own = [keys('al"ice'), keys('al"ice', "trip", level="session")]
    others = [keys("al"), keys('al"ice2'), keys('al"ice', tenant="acme2"), keys(level="tenant")]
    assert all([key.startswith(user) for key in own])
    assert [key.startswith(session) for key in own] == [False, True]
    assert not any([key.startswith((*user, *session)) for key in others])
    assert [key.startswith(tenant) for key in others] == [True, True, False, False]
