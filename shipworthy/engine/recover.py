"""Going on with a run that another sitting left: read its journal back, and drive from where it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from shipworthy.domain.effects import Settlement
from shipworthy.domain.events import ApprovalGranted, Fingerprint, HumanAnswered, RunResumed
from shipworthy.domain.journal import Claim, Fence
from shipworthy.domain.messages import Message, Text
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import UNNAMED, Blueprint, Limits
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.execute import outlast
from shipworthy.engine.live import NO_SETTLEMENTS, LiveRun
from shipworthy.engine.metering import UNMETERED, Meter
from shipworthy.engine.observing import observe, over, trace_of
from shipworthy.engine.plan import Resume
from shipworthy.engine.sessions import read
from shipworthy.engine.settle import is_nested, settle_by_person
from shipworthy.errors import CheckpointRefused, Fenced, RunBusy, RunConflict, RunNotFound, SettlementRefused
from shipworthy.ports.store import Store
from shipworthy.rules.calls import Answer
from shipworthy.rules.codec import decode_messages
from shipworthy.rules.state import RunState, catch_up, replay

if TYPE_CHECKING:
    from shipworthy.engine.runtime import Runtime

log = logging.getLogger("shipworthy")


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
    past = await store.read(asked.scope, asked.run_id)
    state = replay(past)
    if state.ended is not None:
        if asked.at is not None:
            raise CheckpointRefused
        if asked.settlements:
            raise SettlementRefused(f"Run {asked.run_id!r} has ended.", fix="Nothing is left to settle.")
        return await _revive(
            runtime, blueprint, state, _no_fence(asked.scope, asked.run_id), None, blueprint.limits
        )
    await _check(store, state, asked)
    deps = await asked.plan.make_deps(scope_of(state), asked.deps)
    pinned, timeout = state.started.settings, _narrower(state.started.timeout, asked.limits.timeout)
    meter = await runtime.meter(blueprint, scope_of(state), asked.run_id, pinned, timeout, asked.parent)
    claim = await claimed(store, asked.scope, asked.run_id)
    run: LiveRun | None = None
    try:
        more = await store.read(asked.scope, asked.run_id, state.seq)  # nobody else appends any more
        catch_up(state, more)
        if asked.at is not None and (not state.parked or state.parked_at != asked.at):
            raise CheckpointRefused
        run = await _revive(runtime, blueprint, state, claim.fence, deps, asked.limits, meter, asked)
        if state.ended is None:
            if run.readers:
                observe(run, [*past, *more])
            run.witness = await runtime.witness(state, blueprint, asked.parent)
            _take_over(run, claim, asked)
            await meter.recover(run)
            if asked.at is not None:
                await run.commit()  # of those who bring one checkpoint at once, one gets here
    except BaseException as error:
        if run is not None:
            over(run, error)
        await leave(store, claim.fence)
        raise
    return run


async def claimed(store: Store, scope: Scope, run_id: str) -> Claim:
    """Take a run that nobody drives; whoever is cancelled meanwhile lets go of it again. Raises RunNotFound, RunBusy,
    StoreError."""
    claiming = asyncio.ensure_future(store.claim(scope, run_id))
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        await outlast([claiming])
        if not claiming.cancelled() and claiming.exception() is None:
            await leave(store, claiming.result().fence)
        raise


async def leave(store: Store, fence: Fence) -> None:
    """Let go of a run that was claimed and is not driven, whatever keeps it from that, so that others can take it."""
    leaving = asyncio.ensure_future(store.release(fence))
    await outlast([leaving])
    error = None if leaving.cancelled() else leaving.exception()
    if error is not None and not isinstance(error, Fenced):
        log.warning("Run %r could not be let go of: %s", fence.run_id, error)


async def _check(store: Store, state: RunState, asked: Resume) -> None:
    """Raises RunConflict for a nested run that goes on by itself and for one of another agent, SettlementRefused for
    calls of nested runs that are not in doubt."""
    if asked.parent is None and not await _is_left(store, state):
        check_whose(state, asked)
    if asked.parent is not None or not asked.settlements:
        return
    waiting = [call for call in state.calls.values() if call.status == "waiting" and call.children]
    if waiting or any([is_nested(state, address) for address in asked.settlements]):
        from shipworthy.engine.pending import pending_of

        doubts = [call.address for call in await pending_of(store, state) if call.kind == "in_doubt"]
        if unknown := [address for address in asked.settlements if address not in doubts]:
            raise SettlementRefused(
                f"Call {unknown[0]!r} of run {asked.run_id!r} is not in doubt.",
                fix=f"Calls in doubt: {', '.join(doubts) or 'none'}.",
            )


async def _is_left(store: Store, state: RunState) -> bool:
    """Whether the run is a nested one that was stopped, and that its root, which has ended, cannot go on with any more:
    what of it is in doubt can still be settled, and it starts nothing."""
    if state.started.parent is None or state.stopping is None:
        return False
    try:
        root = await store.find(Scope(state.started.tenant), state.started.parent.root)
    except RunNotFound:
        return True
    return root.status not in ("running", "paused")


def check_whose(state: RunState, asked: Resume) -> None:
    """Raises RunConflict for a nested run, which does not go on by itself, and for a run of another agent."""
    started, mine = state.started, asked.plan.blueprint.name
    if started.parent is not None:
        root = started.parent.root
        raise RunConflict(
            f"Run {started.run_id!r} is a nested run, and goes on with run {root!r}, which it belongs to.",
            fix=f"Resume run {root!r}: its pending calls are those of its nested runs, too.",
        )
    if started.agent not in ("", mine):
        raise RunConflict(
            f"Run {started.run_id!r} was begun by the agent {started.agent!r}, and this one is {mine!r}.",
            fix="Resume it with the agent of that name: the run is held to its permissions, hooks and budget.",
        )
    if (
        mine == UNNAMED
        and started.fingerprint.permissions
        and not asked.plan.blueprint.fingerprint.permissions
    ):
        raise RunConflict(
            f"Run {started.run_id!r} was begun by an agent with permissions, and this one has none.",
            fix="Give each Agent a name= of its own: those without one cannot be told apart.",
        )


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
            trace=trace_of(run.readers) if run.readers else "",
        )
    )
    if asked.answers:
        _hear(run, asked.answers)
    settle_by_person(run, asked.settlements)


def _hear(run: LiveRun, answers: Sequence[Answer]) -> None:
    """Record the answers that the run does not have yet."""
    from shipworthy.engine.pending import has

    for answer in answers:
        if not has(run.state, answer):
            run.record(_packed(run, answer))


def _packed(run: LiveRun, answer: Answer) -> Answer:
    """The answer as an event of this run, which keeps its bodies itself."""
    if isinstance(answer, HumanAnswered):
        return replace(answer, answer=run.pack(answer.answer))
    if isinstance(answer, ApprovalGranted) and answer.call is not None:
        return replace(answer, call=run.pack(answer.call))
    return replace(answer)


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
    asked: Resume | None = None,
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
        parent=None if asked is None else asked.parent,
        settlements=NO_SETTLEMENTS if asked is None else _for_nested(state, asked.settlements),
    )


def _for_nested(state: RunState, settlements: Mapping[str, Settlement]) -> Mapping[str, Settlement]:
    """Those for calls of nested runs, by their addresses."""
    if not settlements:
        return NO_SETTLEMENTS
    return {address: each for address, each in settlements.items() if is_nested(state, address)}


def _changed(before: Fingerprint, now: Fingerprint) -> tuple[str, ...]:
    return tuple([f for f in Fingerprint.__struct_fields__ if getattr(before, f) != getattr(now, f)])


def _narrower(pinned: float | None, live: float | None) -> float | None:
    if pinned is None or live is None:
        return live if pinned is None else pinned
    return min(pinned, live)


def _no_fence(scope: Scope, run_id: str) -> Fence:
    """Of a run that is only looked at: no store accepts it."""
    return Fence(scope, run_id, -1, -1)
