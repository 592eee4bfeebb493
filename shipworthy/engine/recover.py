"""Going on with a run that another sitting left: read its journal back, and drive from where it stands."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.events import Fingerprint, RunResumed
from shipworthy.domain.journal import Claim, Fence
from shipworthy.domain.messages import Message, Text
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import Blueprint, Limits
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.live import LiveRun
from shipworthy.engine.metering import UNMETERED, Meter
from shipworthy.engine.plan import Resume
from shipworthy.engine.runtime import Runtime, log
from shipworthy.engine.sessions import read
from shipworthy.engine.settle import settle_by_person
from shipworthy.errors import CheckpointRefused, RunBusy, SettlementRefused
from shipworthy.rules.codec import decode_messages
from shipworthy.rules.state import RunState, replay


async def load(runtime: Runtime, blueprint: Blueprint, scope: Scope, run_id: str) -> LiveRun:
    """A run as its journal has it, to be looked at: it cannot be appended to."""
    state = replay(await runtime.store.read(scope, run_id))
    return await _revive(runtime, blueprint, state, _no_fence(scope, run_id), None, blueprint.limits)


async def take(runtime: Runtime, asked: Resume) -> LiveRun:
    """Take the run over; it is to be driven unless it has ended. Raises RunNotFound, RunBusy, SettlementRefused."""
    try:
        if not runtime.expect(asked.scope, asked.run_id):
            raise RunBusy(f"Run {asked.run_id!r} is being driven by this process.")
        run = await _claim(runtime, asked)
        if run.state.ended is None:
            runtime.enter(run)
    finally:
        runtime.expected(asked.scope, asked.run_id)
    return run


async def _claim(runtime: Runtime, asked: Resume) -> LiveRun:
    """The run, owned by this worker, with its next sitting recorded; as it is, if it has ended."""
    store, blueprint = runtime.store, asked.plan.blueprint
    state = replay(await store.read(asked.scope, asked.run_id))
    if state.ended is not None:
        if asked.at is not None:
            raise CheckpointRefused
        if asked.settlements:
            raise SettlementRefused(f"Run {asked.run_id!r} has ended.", fix="Nothing is left to settle.")
        return await load(runtime, blueprint, asked.scope, asked.run_id)
    deps = await asked.plan.make_deps(scope_of(state), asked.deps)
    pinned, timeout = state.started.settings, _narrower(state.started.timeout, asked.limits.timeout)
    meter = await runtime.meter(blueprint, scope_of(state), asked.run_id, pinned, timeout)
    claim = await store.claim(asked.scope, asked.run_id)
    state = replay(await store.read(asked.scope, asked.run_id))  # nobody else appends any more
    if asked.at is not None and (not state.parked or state.parked_at != asked.at):
        raise CheckpointRefused
    run = await _revive(runtime, blueprint, state, claim.fence, deps, asked.limits, meter)
    if state.ended is None:
        _take_over(run, claim, asked)
        try:
            await meter.recover(run)
        except BaseException:
            await store.release(claim.fence)  # another process may reach the ledger
            raise
        if asked.at is not None:
            await run.commit()  # of those who bring one checkpoint at once, one gets here
    return run


def _take_over(run: LiveRun, claim: Claim, asked: Resume) -> None:
    """Record that another sitting began, and what a person settled meanwhile; driving begins with their commit."""
    run.changed = _changed(run.state.started.fingerprint, run.blueprint.fingerprint)
    if run.changed:
        log.warning(
            "Run %r goes on with another configuration: %s changed.", run.run_id, ", ".join(run.changed)
        )
    run.record(
        RunResumed(
            fence=claim.fence.token,
            previous=claim.previous,
            changed=run.changed,
            max_turns=asked.limits.max_turns,
            output_retries=asked.limits.output_retries,
            model_retries=asked.limits.model_retries,
            skew=run.store.skew,
        )
    )
    settle_by_person(run, asked.settlements)


def scope_of(state: RunState) -> Scope:
    """Whose run it is: as it was pinned, never from the process."""
    return Scope(state.started.tenant, state.started.user, state.started.session)


async def _revive(
    runtime: Runtime,
    blueprint: Blueprint,
    state: RunState,
    fence: Fence,
    deps: Any,
    limits: Limits,
    meter: Meter = UNMETERED,
) -> LiveRun:
    started, store = state.started, runtime.store
    scope = scope_of(state)
    bodies = Bodies(lambda digest: store.body(scope, started.run_id, digest), used=True)
    history: tuple[Message, ...] = ()
    if started.history is not None:
        history = decode_messages(await store.body(scope, started.run_id, started.history.digest))
    elif started.session_head:
        history = tuple(await read(store, scope, await store.session(scope, started.session_head)))
    instructions = "" if started.instructions is None else await bodies.part(started.instructions)
    return LiveRun(
        blueprint,
        runtime,
        fence,
        state,
        bodies,
        scope=scope,
        deps=deps,
        settings=blueprint.settings.merge(started.settings),
        instructions=instructions.text if isinstance(instructions, Text) else "",
        history=history,
        timeout=_narrower(started.timeout, limits.timeout),
        meter=meter,
    )


def _changed(before: Fingerprint, now: Fingerprint) -> tuple[str, ...]:
    return tuple([f for f in Fingerprint.__struct_fields__ if getattr(before, f) != getattr(now, f)])


def _narrower(pinned: float | None, live: float | None) -> float | None:
    if pinned is None or live is None:
        return live if pinned is None else pinned
    return min(pinned, live)


def _no_fence(scope: Scope, run_id: str) -> Fence:
    """Of a run that is only looked at: no store accepts it."""
    return Fence(scope, run_id, -1, -1)
