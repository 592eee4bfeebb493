"""Entering a run's events in the audit log: in the journal's own commit where the log is kept at the store's place, and
before it everywhere else, so that nothing takes effect of which the log knows nothing.

What is entered and then not committed is void by the format's own rule, for the run goes on from where its journal
stands, and its next entry says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from shipworthy.domain.audit import Draft, Links
from shipworthy.domain.events import AnyEvent, RunStarted
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import Outcome
from shipworthy.domain.scope import Scope
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.store import Store
from shipworthy.rules.audit.entries import Narrator, beside
from shipworthy.rules.erasing import concerns
from shipworthy.rules.learning import SUFFIX
from shipworthy.rules.state import RunState

_REMEMBERED = 10_000
"""Runs of which is remembered how far they are entered."""


def is_joined(log: AuditLog, store: Store) -> bool:
    """Whether the store's commits carry the log's entries."""
    return bool(log.place) and log.place == getattr(store, "place", None)


class Witness:
    """Enters the events of one run. `late`: events that may be in the journal and not in the log: its first one, since
    only the journal knows whether there was a run of this id, and what somebody appended who does not know the log."""

    __slots__ = ("_joined", "_late", "_narrator", "_store", "log")

    def __init__(self, log: AuditLog, store: Store, started: RunStarted, tools: Collection[str] = ()) -> None:
        scope = Scope(started.tenant, started.user, started.session)
        self.log, self._store = log, store
        self._joined = is_joined(log, store)
        self._narrator = Narrator(scope, started.run_id, started.agent, tools)
        self._late: tuple[AnyEvent, ...] = ()

    def of_first(self, event: RunStarted, token: int) -> Links | None:
        """What is to land with a new run, if anything may; otherwise its first event waits for its second."""
        if self._joined:
            return self.log.links([self._narrator.draft(event, token)])
        self._late = (event,)
        return None

    def resumed(self, state: RunState, appended: Sequence[AnyEvent]) -> Witness:
        """The same, for a run that goes on from there; *appended* while it was paused, by whomever."""
        self._narrator.recall(state.calls)
        self._late = (state.started,) if state.seq == 1 and not self._joined else tuple(appended)
        return self

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        """`Store.commit`, with entries of all that is in the batch. Raises AuditError: nothing was committed."""
        drafts = self._drafts(batch.events, fence.token)
        if self._joined:
            batch.audit = self.log.links(drafts)
            try:
                outcomes = await self._store.commit(fence, batch)
            except asyncio.CancelledError:
                self._late = ()  # a commit completes before it is cancelled
                raise
            self._late = ()
            self.log.carried()
            return outcomes
        cancelled = await _outlasting(self.log, drafts)
        self._late = ()
        outcomes = await self._store.commit(fence, batch)
        if cancelled:
            raise asyncio.CancelledError
        return outcomes

    def _drafts(self, events: Sequence[AnyEvent], token: int) -> list[Draft]:
        return [self._narrator.draft(event, token) for event in (*self._late, *events)]


async def _outlasting(log: AuditLog, drafts: Sequence[Draft]) -> bool:
    """Enter them; True if somebody cancelled meanwhile. That takes effect when the commit that follows is done, which
    is not abandoned by it either."""
    try:
        await log.append(drafts)
    except asyncio.CancelledError:
        return True
    return False


_holders: dict[int, set[int]] = {}
"""Which runtimes' logs hold one open, by their ids: it is closed by the last of them."""


class Logs:
    """The audit logs of a runtime's agents, by the agents' names."""

    def __init__(self) -> None:
        self._by_agent: dict[str, AuditLog] = {}
        self._open: list[AuditLog] = []
        self._entered: dict[tuple[str, str], int] = {}

    def register(self, agent: str, log: AuditLog) -> None:
        """What is done to runs of this agent, or of its learner, by whomever, goes into *log*."""
        self._by_agent.setdefault(agent.removesuffix(SUFFIX), log)

    def of(self, started: RunStarted) -> AuditLog | None:
        """The log of a run: that of the outermost agent, and its learner's."""
        outermost = started.agent if started.parent is None else started.parent.agents[0]
        return self._by_agent.get(outermost.removesuffix(SUFFIX))

    def entered(self, scope: Scope, run_id: str, seq: int) -> None:
        """A paused run's events are in its log up to this one."""
        if len(self._entered) >= _REMEMBERED:
            self._entered.clear()  # they are entered once more, which changes nothing
        self._entered[scope.tenant, run_id] = seq

    async def appended(self, store: Store, state: RunState) -> Sequence[AnyEvent]:
        """What was appended to a run while it was paused, and perhaps by somebody who does not know its log. An event
        that is entered again takes the place of the entry before, by the format's rule."""
        started = state.started
        entered = self._entered.pop((started.tenant, started.run_id), 0)
        if not state.parked or state.seq <= (after := max(state.parked_at, entered)):
            return ()
        return await store.read(Scope(started.tenant), started.run_id, after)

    def all(self) -> list[AuditLog]:
        """Each of them once."""
        return list({id(log): log for log in self._by_agent.values()}.values())

    async def opened(self, log: AuditLog) -> AuditLog:
        """*log*, ready. Raises AuditError."""
        if log not in self._open:
            holders = _holders.setdefault(id(log), set())
            holders.add(id(self))
            try:
                await log.open()
            except BaseException:
                holders.discard(id(self))
                raise
            if log not in self._open:
                self._open.append(log)
        return log

    async def enter(self, *drafts: Draft) -> None:
        """Enter in each log what is of no run. Raises AuditError."""
        for log in self.all():
            await (await self.opened(log)).append(drafts)

    async def note(self, action: str, scope: Scope, actor: str = "service", **facts: Any) -> None:
        """Enter what is done about a scope beside its runs. Raises AuditError."""
        if self._by_agent:
            await self.enter(beside(action, actor, scope, time.time_ns() // 1_000_000, **facts))

    async def erase(self, scope: Scope, run_ids: Collection[str]) -> None:
        """Forget what bodies of the scope's entries said, in each log, and enter that it was done, with these runs.
        Entries stay. Raises AuditError."""
        match = partial(concerns, scope, frozenset(run_ids))
        for log in self.all():
            await (await self.opened(log)).erase(match)
        await self.note("person.erased", scope, "operator", runs=len(run_ids))

    async def close(self) -> None:
        """Close those that were opened here, and that no other runtime has open."""
        opened, self._open = self._open, []
        for log in opened:
            holders = _holders.get(id(log), set())
            holders.discard(id(self))
            if not holders:
                _holders.pop(id(log), None)
                await log.close()


async def commit(store: Store, witness: Witness | None, fence: Fence, batch: Batch) -> Any:
    """Commit what somebody adds to a run who does not drive it."""
    return await (store.commit(fence, batch) if witness is None else witness.commit(fence, batch))
