"""What the engine asks of a run's meter. The meter of a run without a budget is a null object on the same path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shipworthy.domain.events import AnyEvent, Judged, ModelRequested, ToolsJudged
from shipworthy.domain.journal import Fence
from shipworthy.domain.ledger import BudgetOp, Granted, Hold, Outcome, Refused
from shipworthy.domain.messages import Message
from shipworthy.domain.model import Delta, ModelRequest
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, Usage
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.watch import Watcher
from shipworthy.rules.state import RunState


class Run(Protocol):
    """What a meter may know of its run, and do with it (`LiveRun`)."""

    state: RunState
    scope: Scope
    run_id: str
    fence: Fence
    blueprint: Blueprint
    instructions: str
    transcript: list[Message]
    history: int
    operations: list[BudgetOp]
    urgent: bool
    watchers: list[Watcher]

    def record(self, event: AnyEvent) -> None: ...
    async def commit(self) -> None: ...
    async def propose(self, event: AnyEvent, hold: Hold) -> Granted | Refused: ...


class Meter(Protocol):
    """What the engine asks of a run's meter. `counts`: whether what arrives of a stream is to be counted."""

    counts: bool

    @property
    def joined(self) -> bool:
        """Whether operations go with the commits of the store."""
        ...

    near: bool
    max_wall_clock: float | None

    async def begin(self, run: Run, request: ModelRequest) -> ModelRequest | None:
        """Record that an attempt is about to be made; the request as it may be sent. None: a limit was reached, and
        that is recorded in its place."""
        ...

    def answered(self, run: Run, usage: Usage) -> Charge | None:
        """What a complete answer is charged."""
        ...

    async def cut(self, run: Run) -> None:
        """The answer ended for its length: record that a limit was reached, if it was one that set the length."""
        ...

    def failed(self, run: Run, error: Exception) -> Charge | None:
        """What an attempt is charged that gave no answer."""
        ...

    def abandoned(self, run: Run) -> None:
        """Record what an attempt is charged that is being cancelled."""
        ...

    def arrived(self, delta: Delta) -> None:
        """A piece of the output arrived."""
        ...

    async def judged(self, run: Run, calls: Sequence[Judged]) -> bool:
        """Record calls that may run; False at a limit, which is recorded in their place."""
        ...

    async def recover(self, run: Run) -> None:
        """Charge the attempt that a crash left open."""
        ...

    def ending(self, run: Run) -> None:
        """The run is about to end."""
        ...

    async def settle(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        """Do what no commit of the store carries."""
        ...

    def told(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        """What became of the operations of a commit."""
        ...


class Unmetered:
    """The meter of a run whose agent has no budget: nothing is reserved, and nothing has a price."""

    counts = False
    joined = True
    near = False
    max_wall_clock: float | None = None

    async def begin(self, run: Run, request: ModelRequest) -> ModelRequest | None:
        """Record the attempt; what waits for its commit urgently is committed first."""
        run.record(
            ModelRequested(ordinal=request.ordinal, model=run.blueprint.model.name, purpose=request.purpose)
        )
        if run.urgent or run.watchers:
            await run.commit()
        return request

    def answered(self, run: Run, usage: Usage) -> Charge | None:
        return None

    async def cut(self, run: Run) -> None:
        pass

    def failed(self, run: Run, error: Exception) -> Charge | None:
        return None

    def abandoned(self, run: Run) -> None:
        pass

    def arrived(self, delta: Delta) -> None:
        pass

    async def judged(self, run: Run, calls: Sequence[Judged]) -> bool:
        run.record(ToolsJudged(calls=tuple(calls)))
        return True

    async def recover(self, run: Run) -> None:
        pass

    def ending(self, run: Run) -> None:
        pass

    async def settle(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        return []

    def told(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        pass


UNMETERED = Unmetered()
