"""What Temporal is told of a run: which it is and how it stands, never what is said in it. Bodies live in the store.

Pure, like the rules: the workflow's sandbox passes this module through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shipworthy.domain.events import AnyEvent, ModelAnswered, ToolInDoubt
from shipworthy.domain.messages import File, Image, Text, ToolCall
from shipworthy.rules.state import RunState, replay

FORMAT = 1
"""Version of the workflow's input; a worker of an older release leaves a newer one to others."""

STEPS = ("AskModel", "Judge", "Execute", "Settle", "Park", "Deliver", "End", "Stop")
"""Activities, each one step of a run: those of `decide`, by their names, and the record that the caller cancelled."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service's workflows are. `patience`: seconds without a heartbeat, or in a worker's queue, after which
    that worker counts as gone. `options`: further arguments of the client's `connect`."""

    address: str
    namespace: str = "default"
    task_queue: str = "shipworthy"
    patience: float = 10.0
    options: Mapping[str, Any] = {}


class Sitting(msgspec.Struct):
    """One worker's hold of a run: its state without messages, the worker's own task queue, and the seconds left."""

    state: RunState
    queue: str
    left: float | None = None


class Given(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The workflow's input. `rests`: the run is parked, going on when it is resumed. `stops`: it is to be stopped."""

    tenant: str
    run_id: str
    format: int = FORMAT
    rests: bool = False
    stops: bool = False
    patience: float = 10.0
    sitting: Sitting | None = None


class At(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run stands: a step is taken there, or not at all."""

    tenant: str
    run_id: str
    seq: int = 0
    settlements: dict[str, Any] = {}


Told = dict[str, str | tuple[Text | Image | File, ...] | None]
"""What a person found out of calls, as it travels: what each would have returned; None: it did not happen."""


class Taken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step recorded. `leaves`: its worker shuts down and let go of the run."""

    events: list[AnyEvent]
    leaves: bool = False


_SAID: dict[str, Any] = dict.fromkeys(("message", "problem", "detail", "error", "digest"), "")
_SAID |= dict.fromkeys(("prompt", "content"), ())
_SAID |= dict.fromkeys(("instructions", "history", "settings", "user", "session", "whole", "output"))


def thin(event: AnyEvent) -> AnyEvent:
    """*event* without what was said: enough for `fold` and `decide`."""
    without = {name: nothing for name, nothing in _SAID.items() if name in event.__struct_fields__}
    if isinstance(event, ModelAnswered):
        calls = [ToolCall(p.name, "", p.call_id) for p in event.parts if isinstance(p, ToolCall)]
        without["parts"] = tuple(calls)
    elif isinstance(event, ToolInDoubt):
        without["reason"] = ""
    return msgspec.structs.replace(event, **without)


def thin_state(events: list[AnyEvent]) -> RunState:
    """The state after a whole journal, without messages."""
    state = replay([thin(event) for event in events])
    state.messages.clear()
    return state
