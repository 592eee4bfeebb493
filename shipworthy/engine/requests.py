"""What people are asked for, read from the journals of paused runs."""

from __future__ import annotations

from typing import Any

import msgspec

from shipworthy.domain.approvals import ApprovalRequest
from shipworthy.domain.messages import Message
from shipworthy.domain.scope import Scope
from shipworthy.engine.approving import request_of
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.listing import listed
from shipworthy.engine.pending import pending_of
from shipworthy.ports.store import Store
from shipworthy.rules.approvals import root_of
from shipworthy.rules.state import RunState, replay


async def of_run(store: Store, scope: Scope, run_id: str) -> list[ApprovalRequest]:
    """What a run waits for approval of. Raises RunNotFound, StoreError."""
    return await of_state(store, replay(await store.read(scope, run_id)))


async def of_state(store: Store, state: RunState) -> list[ApprovalRequest]:
    """The same of a run that was read; what a nested run waits for, the outermost one tells."""
    if state.started.parent is not None:
        return []
    waiting = [each for each in await pending_of(store, state) if each.kind == "approval"]
    seen: dict[str, list[Message]] = {}
    found: list[ApprovalRequest] = []
    scope = Scope(state.started.tenant, state.started.user, state.started.session)
    for each in waiting:
        if each.run_id not in seen:
            seen[each.run_id] = await _conversation(store, scope, each.run_id)
        data: dict[str, Any] = msgspec.json.decode(each.arguments)
        found.append(request_of(each, scope, root_of(state.started), data, seen[each.run_id]))
    return found


async def of_tenant(store: Store, scope: Scope) -> list[ApprovalRequest]:
    """What all paused runs of a tenant wait for approval of, those that began first at first. Raises StoreError."""
    found = [await of_run(store, scope, run.run_id) async for run in listed(store, scope, "paused")]
    return [request for requests in reversed(found) for request in requests]


async def _conversation(store: Store, scope: Scope, run_id: str) -> list[Message]:
    state = replay(await store.read(scope, run_id))
    bodies = Bodies(lambda digest: store.body(scope, run_id, digest), used=True)
    return [await bodies.message(message) for message in state.messages]
