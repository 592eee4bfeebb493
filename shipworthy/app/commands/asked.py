"""What people are asked for, read from the journals of paused runs, with all that they need to decide."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from shipworthy.app.commands.answering import command
from shipworthy.domain.events import ApprovalRequested
from shipworthy.domain.messages import (
    AnyPart,
    File,
    Image,
    Message,
    Stored,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from shipworthy.domain.pausing import PendingCall
from shipworthy.domain.scope import Scope
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.listing import listed
from shipworthy.engine.pending import pending_of
from shipworthy.engine.recover import scope_of
from shipworthy.engine.sessions import read
from shipworthy.errors import InputError, JournalDamaged
from shipworthy.ports.store import Store
from shipworthy.rules.codec import decode_messages
from shipworthy.rules.state import RunState, replay


class Asked(msgspec.Struct, frozen=True):
    """A call that waits for a yes. `run_id`: the outermost run's. `since`: when it was first asked about with these
    arguments, in milliseconds since the epoch."""

    waiting: PendingCall
    scope: Scope
    run_id: str
    since: int


class Seen(msgspec.Struct, frozen=True):
    """One part of a conversation. `trusted`: whether it may be obeyed; `earlier`: said in the session before."""

    run_id: str
    role: str
    origin: str
    trusted: bool
    earlier: bool
    text: str


async def of_tenant(store: Store, scope: Scope) -> AsyncIterator[Asked]:
    """What the paused runs of a tenant, or of its user, wait for, newest first. Raises StoreError."""
    async for run in listed(store, scope, "paused"):
        for each in await of_run(store, scope, run.run_id):
            yield each


async def of_run(store: Store, scope: Scope, run_id: str) -> list[Asked]:
    """What one run waits for approval of; nothing for a nested run, for which the outermost one tells. Raises
    RunNotFound, StoreError."""
    state = replay(await store.read(scope, run_id))
    if state.started.parent is not None:
        return []
    waiting = [each for each in await pending_of(store, state) if each.kind == "approval"]
    return [await _asked(store, state, each) for each in waiting]


async def one_of_run(store: Store, scope: Scope, run_id: str, address: str | None) -> Asked:
    """The call of this address, which may be left out where one waits. Raises RunNotFound, InputError, StoreError."""
    found = {each.waiting.address: each for each in await of_run(store, scope, run_id)}
    addresses = ", ".join(found)
    if not found:
        raise InputError(
            f"Run {run_id!r} waits for no approval.",
            fix=f"`{command('approvals', 'list', '--tenant', scope.tenant)}` shows what waits; "
            "what a nested run waits for is with the outermost run.",
        )
    if address is None and len(found) > 1:
        raise InputError(
            f"{len(found)} calls of run {run_id!r} wait.", fix=f"Pass --address, one of: {addresses}."
        )
    if address is not None and address not in found:
        raise InputError(f"No call {address!r} of run {run_id!r} waits.", fix=f"These do: {addresses}.")
    return next(iter(found.values())) if address is None else found[address]


async def _asked(store: Store, state: RunState, waiting: PendingCall) -> Asked:
    events = await store.read(Scope(state.started.tenant), waiting.run_id)
    since = [
        event.at
        for event in events
        if isinstance(event, ApprovalRequested)
        and (event.call_id, event.rule, event.digest) == (waiting.call_id, waiting.rule, waiting.digest)
    ]
    if not since:
        raise JournalDamaged(
            f"The arguments of call {waiting.address!r} are not those that people were asked about."
        )
    return Asked(waiting, scope_of(state), state.started.run_id, since[0])


# what the run had seen


async def seen_by(store: Store, asked: Asked) -> list[Seen]:
    """The conversations that led to a call, those of the outermost run first. Raises StoreError."""
    chain: list[RunState] = []
    run_id: str | None = asked.waiting.run_id
    while run_id is not None:
        state = replay(await store.read(Scope(asked.scope.tenant), run_id))
        chain.append(state)
        run_id = None if state.started.parent is None else state.started.parent.run_id
    found: list[Seen] = []
    for state in reversed(chain):
        found += await _of_state(store, state)
    return found


async def _of_state(store: Store, state: RunState) -> list[Seen]:
    started, scope = state.started, scope_of(state)
    before: list[Message] = []
    if started.history is not None:
        body = await store.body(scope, started.run_id, started.history.digest)
        before = list(decode_messages(body))
    elif started.session_head:
        before = await read(store, scope, await store.session(scope, started.session_head))
    bodies = Bodies(lambda digest: store.body(scope, started.run_id, digest), used=True)
    said = [await bodies.message(message) for message in state.messages]
    return [
        _seen(started.run_id, message, part, earlier=number < len(before))
        for number, message in enumerate([*before, *said])
        for part in message.parts
    ]


def _seen(run_id: str, message: Message, part: AnyPart, *, earlier: bool) -> Seen:
    return Seen(run_id, message.role, part.origin, part.trust == "trusted", earlier, _words(part))


def _words(part: AnyPart) -> str:
    match part:
        case Text() | Thinking():
            return part.text
        case ToolCall():
            return f"{part.name}({part.raw_arguments})"
        case ToolResult():
            return "\n".join([_words(each) for each in part.content])
        case Image():
            return f"[image {part.url or part.media_type}]"
        case File():
            return f"[file {part.name}, {len(part.data):,} bytes]"
        case Stored():
            return f"[{part.size:,} bytes, body {part.digest[:12]}]"
