"""What earlier releases wrote still folds, to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.domain.events import AnyEvent
from shipworthy.errors import UnknownEvent
from shipworthy.rules.codec import KNOWN_KINDS, decode_events, encode_events
from shipworthy.rules.decide import Finished, decide
from shipworthy.rules.state import replay, status_of

RUNS = [
    (path.name, json.loads(line))
    for path in sorted(Path(__file__).parent.glob("journal-*.jsonl"))
    for line in path.read_text().splitlines()
]


@pytest.mark.parametrize(("file", "golden"), RUNS, ids=[f"{f}:{g['run_id']}" for f, g in RUNS])
def test_a_golden_journal_folds_to_the_same_end(file: str, golden: dict[str, Any]) -> None:
    state = replay(decode_events(json.dumps(golden["events"])))
    assert status_of(state) == golden["status"]
    assert (state.ended.stop_reason if state.ended else None) == golden["stop_reason"]
    assert state.turns == golden["turns"]
    assert msgspec.to_builtins(state.usage) == golden["usage"]
    assert msgspec.to_builtins(state.charged) == golden.get("charged")
    assert [m.role for m in state.messages] == golden["roles"]
    assert decide(state) == Finished()


ADDED: dict[str, dict[str, Any]] = {"run_started": {"trace": ""}, "run_resumed": {"trace": ""}}
"""Fields that later releases added to events which are written whole, with their defaults."""


@pytest.mark.parametrize(("file", "golden"), RUNS, ids=[f"{f}:{g['run_id']}" for f, g in RUNS])
def test_a_golden_journal_is_written_back_as_it_was(file: str, golden: dict[str, Any]) -> None:
    expected = [{**ADDED.get(event["kind"], {}), **event} for event in golden["events"]]
    assert json.loads(encode_events(decode_events(json.dumps(golden["events"])))) == expected


def test_the_golden_journals_have_every_kind_of_event() -> None:
    kinds = {event["kind"] for _, golden in RUNS for event in golden["events"]}
    assert kinds == KNOWN_KINDS


def test_an_event_of_a_newer_release_is_never_skipped() -> None:
    events = [*RUNS[0][1]["events"], {"kind": "compacted_by_a_later_release", "seq": 99}]
    with pytest.raises(UnknownEvent, match="compacted_by_a_later_release"):
        decode_events(json.dumps(events))


def test_a_newer_format_is_refused() -> None:
    first = {**RUNS[0][1]["events"][0], "format": 99}
    with pytest.raises(UnknownEvent, match="format 99"):
        decode_events(json.dumps([first]))


def test_every_event_and_part_says_where_it_came_from_and_whether_it_may_be_obeyed() -> None:
    for kind in AnyEvent.__args__:  # type: ignore[attr-defined]
        assert {"origin", "trust"} <= set(kind.__struct_fields__)
    for _, golden in RUNS:
        for event in decode_events(json.dumps(golden["events"])):
            for part in (
                getattr(event, "parts", ()) or getattr(event, "prompt", ()) or getattr(event, "content", ())
            ):
                assert part.origin
                assert part.trust in ("trusted", "untrusted")
