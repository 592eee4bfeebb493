"""What Temporal is told of a run: which it is and how it stands, never what is said in it. Bodies live in the store.

Pure, like the rules: the workflow's sandbox passes this module through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shipworthy.domain.events import (
    AnyEvent,
    Event,
    ModelAnswered,
    ModelFailed,
    OutputRejected,
    RunEnded,
    RunParked,
    RunStarted,
    ToolInDoubt,
    ToolReturned,
    ToolSettled,
)
from shipworthy.domain.messages import ToolCall
from shipworthy.rules.decide import AskModel, Deliver, End, Execute, Judge, Park, Settle
from shipworthy.rules.state import RunState, replay

FORMAT = 1
"""Version of the workflow's input; a worker of an older release leaves a newer one to others."""

STEPS = {
    AskModel: "ask_model",
    Judge: "judge",
    Execute: "execute",
    Settle: "settle",
    Park: "park",
    Deliver: "deliver",
    End: "end",
}
"""A step's activity. Each is one of its own."""

STOP, TAKE, INTERRUPT = "stop", "take", "interrupt"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service's workflows are. `patience`: seconds without a heartbeat, or in a worker's queue, after which
    that worker counts as gone. `options`: further arguments of the client's `connect`."""

    address: str
    namespace: str = "default"
    task_queue: str = "shipworthy"
    patience: float = 10.0
    options: Mapping[str, Any] = {}


class Sitting(msgspec.Struct, kw_only=True):
    """One worker's hold of a run: its state without messages, the worker's own task queue, and the seconds left."""

    state: RunState
    queue: str
    left: float | None = None


class Given(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The workflow's input. `rests`: the run is parked, and goes on when it is resumed. `longest`: events of a history
    after which another is begun, unless Temporal suggests it earlier."""

    tenant: str
    run_id: str
    format: int = FORMAT
    rests: bool = False
    patience: float = 10.0
    longest: int = 2_000
    sitting: Sitting | None = None


class At(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run stands: a step is taken there, or not at all."""

    tenant: str
    run_id: str
    seq: int = 0
    settlements: dict[str, Any] = {}


class Taken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step recorded. `leaves`: its worker shuts down and let go of the run."""

    events: list[AnyEvent]
    leaves: bool = False


_SAID: dict[type[Event], dict[str, Any]] = {
    RunStarted: {
        "prompt": (),
        "instructions": None,
        "history": None,
        "settings": None,
        "user": None,
        "session": None,
    },
    ModelFailed: {"message": ""},
    ToolReturned: {"content": (), "whole": None},
    ToolInDoubt: {"reason": ""},
    ToolSettled: {"content": (), "whole": None},
    RunParked: {"detail": ""},
    OutputRejected: {"problem": ""},
    RunEnded: {"output": None, "error": None},
}


def thin(event: AnyEvent) -> AnyEvent:
    """*event* without what was said: enough for `fold` and `decide`."""
    if isinstance(event, ModelAnswered):
        calls = [ToolCall(p.name, "", p.call_id) for p in event.parts if isinstance(p, ToolCall)]
        return msgspec.structs.replace(event, parts=tuple(calls))
    return msgspec.structs.replace(event, **_SAID.get(type(event), {}))


def thin_state(events: list[AnyEvent]) -> RunState:
    """The state after a whole journal, without messages."""
    state = replay([thin(event) for event in events])
    state.messages.clear()
    return state
