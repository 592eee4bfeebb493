"""A new run: what it pins, and its first commit."""

from __future__ import annotations

import hashlib
import inspect
import os
import time
from typing import Any

import msgspec

from shipworthy.domain.context import RunContext
from shipworthy.domain.events import RunStarted
from shipworthy.domain.journal import Batch
from shipworthy.domain.messages import DEVELOPER, MODEL, USER, Message, Stored, Text, UserPart
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import Blueprint, Limits, joined
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import parent_of
from shipworthy.engine.observing import observe, readers_of, tell, trace_of
from shipworthy.engine.runtime import Runtime
from shipworthy.rules import state as rules
from shipworthy.rules.codec import encode_messages


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, checked; of a nested run, what `call` of the run `parent` asks for."""

    scope: Scope
    prompt: tuple[UserPart, ...]
    run_id: str | None
    history: tuple[Message, ...]
    deps: Any
    settings: ModelSettings | None
    limits: Limits
    parent: LiveRun | None = None
    call: str = ""

    def digest(self) -> str:
        """What the same call, made again, agrees in."""
        same = [self.scope.user, self.scope.session, self.prompt, self.history]
        return hashlib.sha256(msgspec.json.encode(same)).hexdigest()


async def begin(runtime: Runtime, blueprint: Blueprint, start: Start) -> LiveRun | None:
    """Commit the run's first event; the run is to be driven. None if the tenant has a run of this id already."""
    store = runtime.store
    scope, run_id = start.scope, start.run_id or os.urandom(16).hex()
    bodies = Bodies(lambda digest: store.body(scope, run_id, digest))
    head, history = 0, start.history
    if scope.session is not None and start.parent is None:
        head, history = await runtime.conversations.of(store, scope)
    instructions = blueprint.fixed
    if instructions is None:
        instructions = await _instructions(blueprint, start, run_id)
    timeout = start.limits.timeout
    meter = await runtime.meter(blueprint, scope, run_id, start.settings, timeout, start.parent)
    readers = readers_of(blueprint.readers, start.parent)
    trace = trace_of(readers) if readers else ""
    event = _first(blueprint, start, run_id, bodies, instructions, head, trace)
    witness = await runtime.witness(event, blueprint, start.parent)
    batch = Batch([event], bodies.take(), audit=None if witness is None else witness.of_first(event, 1))
    runtime.expect(scope, run_id)
    try:
        fence = await store.begin(scope, run_id, batch)
        if fence is None:
            return None
        run = LiveRun(
            blueprint,
            runtime,
            fence,
            rules.begin(event),
            bodies,
            scope=scope,
            deps=start.deps,
            settings=blueprint.settings.merge(start.settings),
            instructions=instructions,
            history=history,
            timeout=timeout,
            meter=meter,
            parent=start.parent,
            witness=witness,
        )
        if readers:
            observe(run, ())
            tell(run, [event])
        runtime.enter(run)
    finally:
        runtime.expected(scope, run_id)
    return run


def _first(
    blueprint: Blueprint,
    start: Start,
    run_id: str,
    bodies: Bodies,
    instructions: str,
    head: int,
    trace: str,
) -> RunStarted:
    """What the run pins."""
    scope, limits, parent = start.scope, start.limits, start.parent
    return RunStarted(
        seq=1,
        at=time.time_ns() // 1_000_000,
        run_id=run_id,
        tenant=scope.tenant,
        user=scope.user,
        session=scope.session,
        agent=blueprint.name,
        prompt=tuple([bodies.pack(part) for part in start.prompt]),
        instructions=bodies.pack(Text(instructions, origin=DEVELOPER)) if instructions else None,
        history=_kept(bodies, start.history),
        session_head=head,
        digest=start.digest() if start.run_id is not None and parent is None else "",
        fingerprint=blueprint.fingerprint,
        settings=start.settings,
        max_turns=limits.max_turns,
        output_retries=limits.output_retries,
        model_retries=limits.model_retries,
        timeout=limits.timeout,
        parent=None if parent is None else parent_of(parent, start.call),
        remembers=blueprint.memory is not None,
        trace=trace,
        origin=USER if parent is None else MODEL,
        trust="trusted" if parent is None else "untrusted",
    )


def _kept(bodies: Bodies, history: tuple[Message, ...]) -> Stored | None:
    """A conversation that a caller brought, as the journal carries it."""
    if not history:
        return None
    return bodies.keep(encode_messages(history), origin="user", trust="untrusted")


async def _instructions(blueprint: Blueprint, start: Start, run_id: str) -> str:
    """The instructions as this run sees them, to its end."""
    context: RunContext[Any] = RunContext(
        deps=start.deps, scope=start.scope, run_id=run_id, agent=blueprint.name
    )
    texts: list[str] = []
    for instruction in blueprint.instructions:
        said: Any = instruction
        if not isinstance(said, str):
            said = said(context) if inspect.signature(said).parameters else said()
            if inspect.isawaitable(said):
                said = await said
        texts.append(said)
    return joined([*texts, blueprint.output.words])
