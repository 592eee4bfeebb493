"""What Temporal is told of a run: which it is and how it stands, never what is said in it. Bodies live in the store.

Pure, like the rules: the workflow's sandbox passes this module through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from shipworthy.domain.events import AnyEvent, Judged, Parent
from shipworthy.domain.messages import File, Image, Text, ToolCall
from shipworthy.domain.usage import Charge, Reserved, Usage
from shipworthy.rules.state import RunState, replay

FORMAT = 1
"""Version of the workflow's input; a worker of an older release leaves a newer one to others."""

STEPS = ("AskModel", "Recall", "Judge", "Execute", "Settle", "Park", "Deliver", "End", "Stop")
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
    """The workflow's input. `rests`: the run is parked, and about to be resumed. `stops`: it is to be stopped."""

    tenant: str
    run_id: str
    format: int = FORMAT
    rests: bool = False
    stops: bool = False
    patience: float = 10.0
    sitting: Sitting | None = None


class At(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run stands: a step is taken there, or not at all. `rests`: a paused run is to go on, and `pause` is the
    only pause that it may go on from."""

    tenant: str
    run_id: str
    seq: int = 0
    settlements: dict[str, Any] = {}
    rests: bool = False
    pause: int | None = None


Told = dict[str, str | tuple[Text | Image | File, ...] | None]
"""What a person found out of calls, as it travels: what each would have returned; None: it did not happen."""


class Taken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step recorded. `leaves`: its worker shuts down and let go of the run."""

    events: list[AnyEvent]
    leaves: bool = False


TOLD = frozenset(
    (
        *("run_id", "tenant", "agent", "agents", "root", "path", "runs"),
        *("call_id", "output_call", "id", "address", "tool", "changed", "waiting"),
        *("model", "limit", "unit", "stop_reason"),
    )
)
"""Fields whose texts Temporal is told: names and codes. No other text is told, whoever adds the field."""

_Left = Callable[[Any], Any]
_PLAIN = (inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType, inspect.LiteralType)
"""Types whose values say nothing: numbers, and one of a few words."""
_THINNED = (Judged, Parent, Usage, Charge, Reserved)


def _kinds(declared: inspect.Type) -> tuple[inspect.Type, ...]:
    return declared.types if isinstance(declared, inspect.UnionType) else (declared,)


def _call(call: ToolCall) -> ToolCall:
    return ToolCall(call.name, "", call.call_id)


def _left_of(kind: inspect.Type) -> _Left | None:
    """What is left of values of this type, where anything is."""
    if not isinstance(kind, inspect.StructType):
        return None
    if kind.cls is ToolCall:
        return lambda call: _call(call) if type(call) is ToolCall else None
    return _thinner(kind.cls) if kind.cls in _THINNED else None


def _left_in(field: inspect.Field) -> _Left:
    """What is left of a field's values: calls and numbers; nothing of texts."""
    for kind in _kinds(field.type):
        if (left := _left_of(kind)) is not None:
            return lambda value: None if value is None else left(value)
        for item in _kinds(kind.item_type) if isinstance(kind, inspect.VarTupleType) else ():
            if (each := _left_of(item)) is not None:
                return lambda values: tuple([some for value in values if (some := each(value)) is not None])
    nothing = field.default
    if nothing is msgspec.NODEFAULT:
        of_text = {inspect.StrType: "", inspect.VarTupleType: ()}
        nothing = of_text.get(type(_kinds(field.type)[0]), Text(""))
    return lambda _: nothing


@cache
def _thinner(kind: type[Any]) -> _Left:
    """How a struct is thinned."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    said = [
        field
        for field in info.fields
        if field.name not in TOLD and not all([isinstance(k, _PLAIN) for k in _kinds(field.type)])
    ]
    lefts = {field.name: _left_in(field) for field in said}

    def left(value: Any) -> Any:
        changes = {name: left(getattr(value, name)) for name, left in lefts.items()}
        return msgspec.structs.replace(value, **changes)

    return left


def thin(event: AnyEvent) -> AnyEvent:
    """*event* without what was said: enough for `fold` and `decide`."""
    thinned: AnyEvent = _thinner(type(event))(event)
    return thinned


def thin_state(events: list[AnyEvent]) -> RunState:
    """The state after a whole journal, without messages."""
    state = replay([thin(event) for event in events])
    state.messages.clear()
    return state
