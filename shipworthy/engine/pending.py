"""What a paused run waits for, nested runs included."""

from __future__ import annotations

import msgspec

from shipworthy.domain.pausing import PendingCall
from shipworthy.domain.scope import Scope
from shipworthy.engine.approving import pending_approval
from shipworthy.engine.bodies import Bodies
from shipworthy.errors import RunNotFound
from shipworthy.ports.store import Store
from shipworthy.rules.approvals import address_of
from shipworthy.rules.calls import Answer, Call
from shipworthy.rules.state import RunState, replay, take_answer


async def pending_of(store: Store, state: RunState) -> tuple[PendingCall, ...]:
    """Each call that a paused run waits for, and that nobody has answered yet. Raises StoreError."""
    if not state.parked:
        return ()
    started = state.started
    bodies = Bodies(lambda digest: store.body(Scope(started.tenant), started.run_id, digest), used=True)
    found: list[PendingCall] = []
    for call in state.calls.values():
        found += await _of_call(store, state, call, bodies)
    return tuple(found)


async def _of_call(store: Store, state: RunState, call: Call, bodies: Bodies) -> list[PendingCall]:
    match call.status:
        case "in_doubt":
            return [await _in_doubt(state, call, bodies)]
        case "asked" if call.denied is None and not _is_edited(call):
            text = await bodies.arguments(call.wanted)
            waiting = pending_approval(
                call, _address(state, call), _agents(state), state.started.run_id, text
            )
            return [waiting] if len(waiting.approved_by) < waiting.approvers else []
        case "waiting" if call.children:
            return await _of_nested(store, state, call)
        case "waiting" if call.question is not None and len(call.answers) <= call.question.ordinal:
            return [await _question(state, call, bodies)]
    return []


def _is_edited(call: Call) -> bool:
    """Whether somebody said yes to other arguments than those that were asked about: they are judged next."""
    return call.ask is not None and any([g.call and g.digest != call.ask.digest for g in call.grants])


async def _of_nested(store: Store, state: RunState, call: Call) -> list[PendingCall]:
    found: list[PendingCall] = []
    for run_id in call.children:
        try:
            nested = replay(await store.read(Scope(state.started.tenant), run_id))
        except RunNotFound:
            continue
        for answer in call.down:
            if answer.address.startswith(nested.prefix) and not has(nested, answer):
                take_answer(nested, answer)
        found += await pending_of(store, nested)
    return found


def has(state: RunState, answer: Answer) -> bool:
    """Whether a run has been told of an answer already, or has no such call (any more): it may be another's that the
    same call made."""
    head = answer.address.removeprefix(state.prefix).partition("/")[0]
    return answer.id in state.taken or head not in state.calls


async def _in_doubt(state: RunState, call: Call, bodies: Bodies) -> PendingCall:
    return PendingCall(
        call_id=call.call.call_id,
        tool=call.call.name,
        arguments=await bodies.arguments(call.wanted),
        reason=call.doubt,
        kind="in_doubt",
        address=_address(state, call),
        agents=_agents(state),
        run_id=state.started.run_id,
        effect=call.effect or "",
    )


async def _question(state: RunState, call: Call, bodies: Bodies) -> PendingCall:
    asked = call.question
    assert asked is not None
    data = msgspec.json.decode((await bodies.part(asked.data)).text)
    schema = None if asked.schema is None else msgspec.json.decode((await bodies.part(asked.schema)).text)
    return PendingCall(
        call_id=call.call.call_id,
        tool=call.call.name,
        arguments=await bodies.arguments(call.wanted),
        reason="",
        kind="answer",
        address=_address(state, call),
        agents=_agents(state),
        run_id=state.started.run_id,
        effect=call.effect or "",
        digest=asked.digest,
        expires_at=asked.expires_at,
        data=data,
        schema=schema,
        ordinal=asked.ordinal,
    )


def _address(state: RunState, call: Call) -> str:
    return address_of(state.started.parent, call.call.call_id)


def _agents(state: RunState) -> tuple[str, ...]:
    started = state.started
    return (started.agent,) if started.parent is None else (*started.parent.agents, started.agent)
