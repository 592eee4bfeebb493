"""A run's state as the result that its caller sees."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.messages import Text
from shipworthy.domain.pausing import Checkpoint, PendingCall
from shipworthy.domain.results import RunResult
from shipworthy.engine.live import LiveRun
from shipworthy.rules.spending import spent
from shipworthy.rules.state import status_of


async def result_of(run: LiveRun) -> RunResult[Any]:
    """The result of a run that ended or is paused (or, of a run driven elsewhere, how it stands)."""
    state = run.state
    end = state.ended
    value, has_output = None, False
    if end is not None and end.output is not None:
        text = await run.bodies.part(end.output)
        if isinstance(text, Text):
            value, has_output = run.blueprint.output.decode(text.text), True
    used = spent(state)
    return RunResult(
        run_id=run.run_id,
        scope=run.scope,
        status=status_of(state),
        stop_reason=None if end is None else end.stop_reason,
        error=state.waiting_for if end is None else end.error,
        value=value,
        has_output=has_output,
        pending=await _pending(run) if state.parked else (),
        checkpoint=await _checkpoint(run) if state.parked else None,
        seq=state.seq,
        usage=used.usage,
        turns=state.turns,
        finish_reason=state.finish_reason,
        conversation=await run.messages(),
        inherited=run.history,
        changed=run.changed,
        charged=used.charged,
        reopens_at=None if state.limit is None else state.limit.reopens_at,
    )


async def _pending(run: LiveRun) -> tuple[PendingCall, ...]:
    from shipworthy.engine.pending import pending_of

    return await pending_of(run.store, run.state)


async def _checkpoint(run: LiveRun) -> Checkpoint | None:
    """A reference to this pause; a nested run is resumed through the one that it belongs to."""
    if run.state.started.parent is not None:
        return None
    from shipworthy.rules.approvals import checkpoint

    return checkpoint(await run.keyring.newest(), run.scope.tenant, run.run_id, run.state.parked_at)
