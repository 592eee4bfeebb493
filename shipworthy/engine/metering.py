"""What the engine asks of a run's meter. The meter of a run without a budget is a null object on the same path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from shipworthy.domain.events import Judged, ModelRequested, ToolsJudged
from shipworthy.domain.ledger import BudgetOp, Outcome
from shipworthy.domain.model import Delta, ModelRequest
from shipworthy.domain.usage import Charge, Usage

if TYPE_CHECKING:
    from shipworthy.domain.scope import Scope
    from shipworthy.engine.blueprint import Blueprint
    from shipworthy.engine.live import LiveRun
    from shipworthy.engine.runtime import Runtime


class Meter(Protocol):
    """What the engine asks of a run's meter. `counts`: whether what arrives of a stream is to be counted."""

    counts: bool

    @property
    def joined(self) -> bool:
        """Whether operations go with the commits of the store."""
        ...

    near: bool
    max_wall_clock: float | None

    async def begin(self, run: LiveRun, request: ModelRequest) -> ModelRequest | None:
        """Record that an attempt is about to be made; the request as it may be sent. None: a limit was reached, and
        that is recorded in its place."""
        ...

    def answered(self, run: LiveRun, usage: Usage) -> Charge | None:
        """What a complete answer is charged."""
        ...

    async def cut(self, run: LiveRun) -> None:
        """The answer ended for its length: record that a limit was reached, if it was one that set the length."""
        ...

    def failed(self, run: LiveRun, error: Exception) -> Charge | None:
        """What an attempt is charged that gave no answer."""
        ...

    def abandoned(self, run: LiveRun) -> None:
        """Record what an attempt is charged that is being cancelled."""
        ...

    def arrived(self, delta: Delta) -> None:
        """A piece of the output arrived."""
        ...

    async def judged(self, run: LiveRun, calls: Sequence[Judged]) -> bool:
        """Record calls that may run; False at a limit, which is recorded in their place."""
        ...

    async def recover(self, run: LiveRun) -> None:
        """Charge the attempt that a crash left open."""
        ...

    def ending(self, run: LiveRun) -> None:
        """The run is about to end."""
        ...

    async def settle(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        """Do what no commit of the store carries."""
        ...

    def told(self, run: LiveRun, outcomes: Sequence[Outcome]) -> None:
        """What became of the operations of a commit."""
        ...


class Unmetered:
    """The meter of a run whose agent has no budget: nothing is reserved, and nothing has a price."""

    counts = False
    joined = True
    near = False
    max_wall_clock: float | None = None

    async def begin(self, run: LiveRun, request: ModelRequest) -> ModelRequest | None:
        """Record the attempt; what waits for its commit urgently is committed first."""
        run.record(
            ModelRequested(ordinal=request.ordinal, model=run.blueprint.model.name, purpose=request.purpose)
        )
        if run.urgent or run.watchers:
            await run.commit()
        return request

    def answered(self, run: LiveRun, usage: Usage) -> Charge | None:
        return None

    async def cut(self, run: LiveRun) -> None:
        pass

    def failed(self, run: LiveRun, error: Exception) -> Charge | None:
        return None

    def abandoned(self, run: LiveRun) -> None:
        pass

    def arrived(self, delta: Delta) -> None:
        pass

    async def judged(self, run: LiveRun, calls: Sequence[Judged]) -> bool:
        run.record(ToolsJudged(calls=tuple(calls)))
        return True

    async def recover(self, run: LiveRun) -> None:
        pass

    def ending(self, run: LiveRun) -> None:
        pass

    async def settle(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        return []

    def told(self, run: LiveRun, outcomes: Sequence[Outcome]) -> None:
        pass


UNMETERED = Unmetered()


async def meter_for(runtime: Runtime, blueprint: Blueprint, scope: Scope, run_id: str) -> Meter:
    """The meter of a run's next sitting, by what its budget says now. Raises ConfigurationError, LedgerError."""
    if blueprint.budget is None:
        return UNMETERED
    from shipworthy.engine.budgeting import budgeted

    return await budgeted(runtime, blueprint, blueprint.budget, scope, run_id)
