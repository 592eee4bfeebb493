"""Whether the nested runs that a call has made can go on with the tool as live code has it now: others are never begun
in their place, for they would do again what those did."""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.domain.events import RunStarted
from shipworthy.domain.scope import Scope
from shipworthy.engine.nesting import Delegate, nested_id
from shipworthy.errors import RunNotFound
from shipworthy.ports.store import Store
from shipworthy.ports.tools import Tool
from shipworthy.rules.calls import Call


async def misfit(store: Store, outer: RunStarted, call: Call, tool: Tool) -> str:
    """Which run of a call of *outer* has no place in the tool any more; empty if each has. Raises StoreError."""
    if not call.attempts:
        return ""
    run_id, call_id = outer.run_id, call.call.call_id
    now: dict[str, str] = {}
    if isinstance(tool, Delegate):
        now = dict(zip(tool.runs_of(run_id, call_id), tool.names, strict=True))
    elif not call.children and (call.effect != "idempotent" or call.timeout is not None):
        return ""  # it never was a call of agents: theirs have no timeout
    for nested in _possible(run_id, call, [*now]):
        started = await _started(store, outer, call_id, nested)
        if started is None or now.get(nested) == started.agent:
            continue
        what = f"Run {nested!r} is one of the agent {started.agent!r}, and the tool {call.call.name!r} has "
        return f"{what}{now[nested]!r} in its place." if nested in now else f"{what}no place for it any more."
    return ""


def _possible(run_id: str, call: Call, now: Sequence[str]) -> list[str]:
    """The ids of runs that the call may have made: of an agent, of a group, and of one that had one agent more."""
    call_id = call.call.call_id
    group = [nested_id(run_id, call_id, index) for index in range(len(now) + 1)]
    return list(dict.fromkeys([*now, *call.children, nested_id(run_id, call_id), *group]))


async def _started(store: Store, outer: RunStarted, call_id: str, run_id: str) -> RunStarted | None:
    """The first event of a run, if the call made it: ids can be chosen."""
    try:
        first = (await store.read(Scope(outer.tenant), run_id))[0]
    except RunNotFound:
        return None
    path = (call_id,) if outer.parent is None else (*outer.parent.path, call_id)
    if not isinstance(first, RunStarted) or first.parent is None:
        return None
    return first if (first.parent.run_id, first.parent.path) == (outer.run_id, path) else None
