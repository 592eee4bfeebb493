"""A run while it is driven in this process: its state, its journal's one writer here, and its surroundings.

What must outlive the process is in `state`, and `state` follows from what was recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

from msgspec.structs import force_setattr

from shipworthy.domain.context import RunContext
from shipworthy.domain.effects import Settlement
from shipworthy.domain.events import AnyEvent, ApprovalGranted, RunEnded, StopCause, ToolReturned, ToolsJudged
from shipworthy.domain.grants import Grant
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import BudgetOp, Granted, Hold, Outcome, Refused
from shipworthy.domain.messages import Message, Stored, Text, ToolCall, ToolResult
from shipworthy.domain.model import Delta, ModelSettings
from shipworthy.domain.scope import Scope
from shipworthy.engine.auditing import Witness
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.bodies import INLINE, Bodies
from shipworthy.engine.counting import Counts
from shipworthy.engine.keyring import Keyring
from shipworthy.engine.metering import UNMETERED, Meter
from shipworthy.engine.observing import readers_of, tell
from shipworthy.engine.watch import Watcher
from shipworthy.errors import HoldRefused
from shipworthy.ports.readers import Sitting
from shipworthy.ports.store import Store
from shipworthy.rules.calls import Call, wait_on
from shipworthy.rules.state import RunState, fold, status_of

if TYPE_CHECKING:
    from shipworthy.engine.runtime import Runtime

NO_SETTLEMENTS: Mapping[str, Settlement] = {}


class View(Sequence[Message]):
    """The first *n* messages of a list that only grows: a snapshot without a copy."""

    __slots__ = ("_messages", "_n")

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self._n = len(messages)

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        if isinstance(index, slice):
            return self._messages[: self._n][index]
        if not -self._n <= index < self._n:
            raise IndexError(index)
        return self._messages[index if index >= 0 else self._n + index]


class Home(Protocol):
    """Where a run lives (`Runtime`)."""

    store: Store
    keyring: Keyring

    @property
    def inner(self) -> Runtime: ...


class LiveRun:
    """One run in this process. `urgent`: something waits for its commit that cannot be had again, such as the result of
    an effect. `raises`: what the caller is told once the journal is in order. `agents`: the names from the outermost
    agent to its own. `settlements`: what a person found out of calls of nested runs. `grants`: approvals to be
    remembered with the next commit. `counts`: how often calls were allowed, in its tree. `withheld`: refusals, by call,
    to be recorded once the nested runs of those calls are stopped. `asked`: addresses of the calls that people are
    newly asked about. `witness`: enters its events in the audit log; `readers`: who observes
    it, and `sittings`: as what."""

    __slots__ = (
        "_abandoned",
        "_own",
        "_pending",
        "_short",
        "agents",
        "arguments",
        "asked",
        "blueprint",
        "bodies",
        "changed",
        "counts",
        "deadline",
        "deadline_cause",
        "deps",
        "fence",
        "governance",
        "grants",
        "history",
        "home",
        "instructions",
        "keyring",
        "loop",
        "meter",
        "operations",
        "parent",
        "raises",
        "readers",
        "remembered",
        "run_id",
        "scope",
        "settings",
        "settlements",
        "sittings",
        "state",
        "store",
        "timeout",
        "transcript",
        "urgent",
        "watchers",
        "withheld",
        "witness",
    )

    def __init__(
        self,
        blueprint: Blueprint,
        home: Home,
        fence: Fence,
        state: RunState,
        bodies: Bodies,
        *,
        scope: Scope,
        deps: Any,
        settings: ModelSettings,
        instructions: str,
        history: Sequence[Message],
        timeout: float | None,
        meter: Meter = UNMETERED,
        parent: LiveRun | None = None,
        settlements: Mapping[str, Settlement] = NO_SETTLEMENTS,
        witness: Witness | None = None,
    ) -> None:
        self.blueprint = blueprint
        self.home, self.store, self.keyring = home, home.store, home.keyring
        self.parent = parent
        self.governance = blueprint.governance
        self.agents: tuple[str, ...] = (blueprint.name,)
        if parent is not None:
            self.governance = parent.governance.around(blueprint.governance)
            self.agents = (*parent.agents, blueprint.name)
        elif state.started.parent is not None:
            self.agents = (*state.started.parent.agents, blueprint.name)
        self.settlements = settlements
        self.witness = witness
        self.readers = readers_of(blueprint.readers, parent)
        self.sittings: tuple[Sitting, ...] = ()
        self.grants: list[Grant] = []
        self.counts = Counts()
        self.asked: set[str] = set() if parent is None else parent.asked
        self.remembered: list[ApprovalGranted] = [] if parent is None else parent.remembered
        self.state = state
        self.bodies = bodies
        self.scope = scope
        self.deps = deps
        self.settings = settings
        self.instructions = instructions
        self.history = len(history)
        self.transcript: list[Message] = list(history)
        self.timeout = timeout
        self.meter = meter
        self.operations: list[BudgetOp] = []
        self.deadline: float | None
        self.deadline_cause: StopCause
        self.deadline, self.deadline_cause = _deadline(timeout, meter, state, parent)
        self.run_id = state.started.run_id
        self.withheld: dict[str, ToolReturned] = {}
        self._short = ""
        self.arguments: dict[str, Any] = {}
        self.changed: tuple[str, ...] = ()
        self._abandoned = False
        self.loop = asyncio.get_running_loop()
        self.raises: Exception | None = None
        self.urgent = False
        self.watchers: list[Watcher] = []
        self.fence = fence
        self._own = 0
        self._pending: list[AnyEvent] = []

    @property
    def abandoned(self) -> bool:
        """Whether it is left as a crash would leave it, and not cancelled; with it the nested runs that it made."""
        return self._abandoned if self.parent is None else self.parent.abandoned

    @abandoned.setter
    def abandoned(self, left: bool) -> None:
        self._abandoned = left

    # the journal

    def record(self, event: AnyEvent) -> None:
        """Append *event* to what the next commit makes durable, and let the state follow."""
        force_setattr(event, "seq", self.state.seq + 1)
        force_setattr(event, "at", time.time_ns() // 1_000_000)
        fold(self.state, event)
        self._pending.append(event)

    def wait_on(self, call: Call) -> None:
        """Record that *call* goes on waiting for exactly what people were asked before; in one event with those of
        which that was recorded last."""
        last = self._pending[-1] if self._pending else None
        if type(last) is not ToolsJudged or not last.waiting:
            self.record(ToolsJudged(calls=(), waiting=(call.call.call_id,)))
            return
        force_setattr(last, "waiting", (*last.waiting, call.call.call_id))
        wait_on(call)

    async def commit(self) -> None:
        """Make everything recorded so far durable, then show it. Raises StoreError: the run stops in this process."""
        if not self._pending:
            return
        if self.operations and not self.meter.joined:
            await self._settle()
        batch = self._batch()
        events = batch.events
        try:
            outcomes = await self._written(batch)
        except asyncio.CancelledError:
            self._publish(events)  # a commit completes before it is cancelled
            raise
        if batch.budget:
            self.meter.told(self, outcomes)
        if self.watchers or self.sittings:
            self._publish(events)
        if self.operations and not self.meter.joined:
            await self._settle()  # the run has ended, and nothing draws on its own counters any more

    def _batch(self) -> Batch:
        """What the next commit makes durable."""
        events, self._pending = self._pending, []
        self.urgent = False
        batch = Batch(events, self.bodies.take() if self.bodies.fresh else {})
        if self.state.ended is not None or self.state.parked:
            batch.status = status_of(self.state)
            if self.state.started.parent is None:  # a nested run wakes with the one that it belongs to
                batch.wake_at = self.state.wake_at
            batch.joins_session = joins_session(self.state, events[-1])
            if self.state.ended is not None:
                self.meter.ending(self)
        if self.operations and self.meter.joined:
            batch.budget, self.operations = tuple(self.operations), []
        if self.grants:
            batch.grants, self.grants = tuple(self.grants), []
        return batch

    async def _settle(self) -> None:
        """Settle in a ledger that no commit of the store reaches: before the events that say so, for what was settled
        and not recorded is found when the run is resumed, and not the other way round."""
        operations = tuple(self.operations)
        outcomes = await self.meter.settle(operations)
        del self.operations[: len(operations)]
        self.meter.told(self, outcomes)

    async def propose(self, event: AnyEvent, hold: Hold) -> Granted | Refused:
        """Commit what waits and *event* together with *hold*, in the store's own ledger. Where that refuses, nothing is
        written, *event* is not recorded, and what waited waits on."""
        force_setattr(event, "seq", self.state.seq + 1)
        force_setattr(event, "at", time.time_ns() // 1_000_000)
        events, operations = [*self._pending, event], self.operations[:]
        bodies = dict(self.bodies.fresh) if self.bodies.fresh else {}
        batch = Batch(events, bodies, budget=(*operations, hold), grants=tuple(self.grants))
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        try:
            outcomes = await self._written(batch)
        except HoldRefused as no:
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError from None  # the refusal outranked it
            refused: Refused = no.refused
            return refused
        except asyncio.CancelledError:
            self._land(event, operations)
            self._publish(events)
            raise
        self._land(event, operations)
        if self.watchers or self.sittings:
            self._publish(events)
        if operations:
            self.meter.told(self, outcomes[:-1])
        granted = outcomes[-1]
        assert isinstance(granted, Granted)
        return granted

    def _land(self, event: AnyEvent, operations: Sequence[BudgetOp]) -> None:
        """What was proposed is in the journal, and with it everything that waited."""
        fold(self.state, event)
        self._pending, self.grants = [], []
        self.bodies.take()
        del self.operations[: len(operations)]
        self.urgent = False

    async def let_go(self) -> None:
        """Commit what was recorded, and leave the run to whoever claims it."""
        await self.commit()
        await self.store.release(self.fence)

    def _written(self, batch: Batch) -> Awaitable[Sequence[Outcome]]:
        """Commit, with the entries of the audit log, where there is one."""
        if self.witness is None:
            return self.store.commit(self.fence, batch)
        return self.witness.commit(self.fence, batch)

    def _publish(self, events: list[AnyEvent]) -> None:
        if self.sittings:
            tell(self, events)
        for watcher in self.watchers:
            for event in events:
                watcher.put(event)

    def show(self, delta: Delta) -> None:
        """A provisional piece of an answer, to whoever reads along."""
        for watcher in self.watchers:
            watcher.put(delta)

    # what the journal carries

    def pack(self, part: Any) -> Any:
        """*part* as an event carries it: itself, or what stands for its body."""
        if type(part) is Text:
            plain = len(part.text) <= INLINE and part.text.isascii()
        elif type(part) is ToolCall and type(part.arguments) is str:
            plain = len(part.arguments) <= INLINE and part.arguments.isascii() and part.name.isascii()
        else:
            plain = False
        if plain:
            return part
        return self.bodies.pack(part)

    async def arguments_of(self, call: ToolCall) -> str:
        """A call's arguments as JSON text, wherever they are."""
        if call.stored is None and type(call.arguments) is str:
            return call.arguments
        return await self.bodies.arguments(call)

    async def messages(self) -> View:
        """The conversation so far, with every body in its place. Costs what is new since it was last asked."""
        messages = self.state.messages
        for message in messages[self._own :]:
            if self.bodies.used and _is_packed(message):
                message = await self.bodies.message(message)
            self.transcript.append(message)
            self._own += 1
        return View(self.transcript)

    def call_id(self, seq: int, slot: int) -> str:
        """The id of an answer's call: from the answer's place in the journal, and unlike that of any other run of the
        same conversation."""
        if not self._short:
            tenant = self.scope.tenant
            self._short = hashlib.sha256(f"{len(tenant)}:{tenant}{self.run_id}".encode()).hexdigest()[:8]
        return f"call_{self._short}_{seq}_{slot}"

    def context(self, call: ToolCall | None = None, key: str = "", attempt: int = 1) -> RunContext[Any]:
        """What user code may know of this run."""
        return RunContext(
            deps=self.deps,
            scope=self.scope,
            run_id=self.run_id,
            agent=self.blueprint.name,
            tool="" if call is None else call.name,
            call_id="" if call is None else call.call_id,
            idempotency_key=key,
            attempt=attempt,
            deadline=self.deadline,
            fence=self.fence.token,
        )


def _deadline(
    timeout: float | None, meter: Meter, state: RunState, parent: LiveRun | None
) -> tuple[float | None, StopCause]:
    """The first of the times at which a sitting has to end, on the monotonic clock, and what it is stopped for then."""
    cause: StopCause = "timeout"
    deadline = None if timeout is None else time.monotonic() + timeout
    if meter.max_wall_clock is not None:
        left = meter.max_wall_clock - (state.at - state.started.at - state.paused_ms) / 1000
        if timeout is None or left < timeout:
            deadline, cause = time.monotonic() + left, "budget:max_wall_clock"
    outer = None if parent is None else parent.deadline
    if parent is not None and outer is not None and (deadline is None or outer < deadline):
        return outer, parent.deadline_cause
    return deadline, cause


def _is_packed(message: Message) -> bool:
    """Whether a body of *message* lies in the store."""
    for part in message.parts:
        kind = type(part)
        if kind is Stored or (kind is ToolCall and part.stored is not None):  # type: ignore[union-attr]
            return True
        if kind is ToolResult and Stored in [type(c) for c in part.content]:  # type: ignore[union-attr]
            return True
    return False


def joins_session(state: RunState, last: AnyEvent) -> bool:
    """Whether the run becomes part of its session: not a nested one, nor a failed one, which would make every later one
    fail."""
    started = state.started
    if type(last) is not RunEnded or last.status == "failed":
        return False
    return started.session is not None and started.parent is None


def idempotency_key(scope: Scope, run_id: str, call_id: str, arguments: str) -> str:
    """The same for every attempt of one call; lengths go in, so that no two calls compose to the same text."""
    text = f"{len(scope.tenant)}:{scope.tenant}{len(run_id)}:{run_id}{call_id}:{arguments}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
