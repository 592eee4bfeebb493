"""What Temporal is told of a run: enough to decide what is next, and nothing that was said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from shipworthy.adapters.temporal import payloads
from shipworthy.adapters.temporal.payloads import thin, thin_state
from shipworthy.domain.events import AnyEvent, ParkReason
from shipworthy.rules import decide
from shipworthy.rules.codec import KNOWN_KINDS, decode_events
from shipworthy.rules.state import RunState, replay

JOURNALS = [
    json.loads(line)
    for path in sorted((Path(__file__).parents[1] / "golden").glob("journal-*.jsonl"))
    for line in path.read_text().splitlines()
]
MARK = "sesame"
MAY_BE_TOLD = {
    *("run_id", "tenant", "agent", "model", "call_id", "output_call", "id", "address", "tool"),
    *("limit", "unit", "stop_reason", "changed", "runs", "waiting"),
    *("parent.run_id", "parent.root", "parent.path", "parent.agents"),
    *("calls.call_id", "call.name", "call.call_id", "parts.name", "parts.call_id", "reserved.id"),
}
"""Names and codes, wherever they stand in an event."""


def filled(declared: inspect.Type) -> Any:
    """A value of this type in which every text is the mark."""
    kind = next(
        (k for k in payloads._kinds(declared) if not isinstance(k, inspect.NoneType)), inspect.NoneType()
    )
    match kind:
        case inspect.StrType():
            return MARK
        case inspect.BytesType():
            return MARK.encode()
        case inspect.IntType() | inspect.FloatType():
            return 1
        case inspect.BoolType():
            return True
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.VarTupleType(item_type=item):
            return tuple([filled(each) for each in payloads._kinds(item)])
        case inspect.StructType(cls=cls, fields=fields):
            return cls(**{field.name: filled(field.type) for field in fields})
        case inspect.DictType():
            return {MARK: MARK}
    return None


def marked(value: Any, path: str = "") -> Iterator[str]:
    """Where the mark stands in plain data, without numbers of elements."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from marked(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from marked(each, path)
    elif isinstance(value, str) and MARK in value:
        yield path


def told_of(thinned: Callable[[AnyEvent], AnyEvent]) -> set[str]:
    """Fields of events whose texts Temporal would be told."""
    found: set[str] = set()
    for kind in get_args(AnyEvent):
        event = filled(inspect.type_info(kind))
        told = msgspec.to_builtins(thinned(event))
        msgspec.convert(told, kind)  # it still is one
        found |= set(marked(told))
    return found


def test_no_text_of_any_event_is_told_but_names_and_codes() -> None:
    assert told_of(thin) == MAY_BE_TOLD


def test_a_text_that_is_told_is_found() -> None:
    def careless(event: AnyEvent) -> AnyEvent:
        """The reason of a question is told."""
        reason = getattr(event, "reason", None)
        return thin(event) if reason is None else msgspec.structs.replace(thin(event), reason=reason)

    assert told_of(careless) - MAY_BE_TOLD == {"reason"}


def texts(value: Any) -> set[str]:
    """Every text that somebody said, in decoded JSON."""
    said = ("text", "message", "problem", "detail", "reason", "token", "approver", "by", "rule", "policy")
    if isinstance(value, dict):
        found = {value[key] for key in said if isinstance(value.get(key), str)}
        return found.union(*map(texts, value.values())) - {""}
    return set().union(*map(texts, value)) if isinstance(value, list) else set()


def names(events: list[dict[str, Any]]) -> set[str]:
    """Texts that stand in a journal as names and codes too."""
    parts = [part for event in events for part in event.get("parts", ())]
    return {
        "false",
        "person",
        "verify",
        "cancelled",
        "crashed",
        *get_args(ParkReason),
        *[part["name"] for part in parts if "name" in part],
    }


def in_short(step: decide.Step) -> Any:
    """A step without what was said."""
    calls = [call.call.call_id for call in getattr(step, "calls", ())]
    return type(step), calls, getattr(step, "delay", None), getattr(step, "wake_at", None)


def misjudged(events: list[AnyEvent], thinned: Callable[[AnyEvent], AnyEvent]) -> list[int]:
    """Where a workflow that is told so would take another step than the journal."""
    wrong = []
    for number in range(1, len(events) + 1):
        there = replay([thinned(event) for event in events[:number]])
        told = msgspec.json.decode(msgspec.json.encode(there), type=RunState)
        if in_short(decide.decide(told)) != in_short(decide.decide(replay(events[:number]))):
            wrong.append(number)
    return wrong


@pytest.mark.parametrize("run", JOURNALS, ids=lambda run: str(run["run_id"]))
def test_what_temporal_is_told_decides_the_same_and_says_nothing(run: dict[str, Any]) -> None:
    events = decode_events(json.dumps(run["events"]))
    assert misjudged(events, thin) == []
    told = msgspec.json.encode([thin_state(events), *[thin(event) for event in events]])
    said = {text for text in texts(run["events"]) - names(run["events"]) if len(text) > 3}
    assert not [text for text in said if json.dumps(text)[1:-1].encode() in told]


def test_a_workflow_that_is_told_too_little_takes_another_step() -> None:
    def mean(event: AnyEvent) -> AnyEvent:
        """Whoever is asked has all the time in the world."""
        left = {"expires_at": None, "wake_at": None}
        fields = {name: nothing for name, nothing in left.items() if getattr(event, name, None) is not None}
        fields = {} if "token" in event.__struct_fields__ else fields
        return msgspec.structs.replace(thin(event), **fields)

    assert any([misjudged(decode_events(json.dumps(run["events"])), mean) for run in JOURNALS])


def test_the_journals_have_every_kind_of_event() -> None:
    assert {e["kind"] for run in JOURNALS for e in run["events"]} == KNOWN_KINDS
