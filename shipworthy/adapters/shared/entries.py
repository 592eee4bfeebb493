"""What the durable stores have in common: how a batch is written, and how a refusal is said."""

from __future__ import annotations

import msgspec

from shipworthy.adapters.shared.grants import GrantRow, demand_own, rows_of
from shipworthy.domain.audit import Links
from shipworthy.domain.events import AnyEvent, RunStarted, RunStatus
from shipworthy.domain.journal import Batch
from shipworthy.domain.ledger import BudgetOp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, Fenced, RunBusy, RunNotFound
from shipworthy.rules.codec import encode_events

PAGE = 500
"""Runs, or grants, that a store gives at once."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A batch, encoded by whoever commits it, so that the writer's thread has little left to do. `budget` is what it
    does to the ledger; `wake_at` is nothing while the run is running."""

    first: int
    last: int
    started: int
    at: int
    events: bytes
    bodies: dict[str, bytes]
    status: RunStatus
    joins: bool
    budget: tuple[BudgetOp, ...] = ()
    grants: tuple[GrantRow, ...] = ()
    wake_at: int | None = None
    root: str | None = None
    audit: Links | None = None


def entry_of(batch: Batch, scope: Scope) -> Entry:
    """The batch of a run of this scope as it is written. Raises Fenced for one whose events do not follow one another,
    StoreError for one that would remember something for somebody else."""
    events = batch.events
    if not events:
        raise ValueError("A batch has at least one event.")
    first, last = events[0], events[-1]
    if [event.seq for event in events] != list(range(first.seq, first.seq + len(events))):
        raise Fenced(f"The events {first.seq} to {last.seq} of a batch have a gap; nothing was written.")
    if batch.grants:
        demand_own(scope, batch.grants)
    return Entry(
        first.seq,
        last.seq,
        first.at,
        last.at,
        encode_events(events),
        batch.bodies,
        batch.status,
        batch.joins_session,
        batch.budget,
        rows_of(batch.grants) if batch.grants else (),
        None if batch.status == "running" else batch.wake_at,
        root_of(first),
        batch.audit,
    )


def root_of(first: AnyEvent) -> str | None:
    """The outermost run that a nested one belongs to, as its first event says."""
    return first.parent.root if type(first) is RunStarted and first.parent is not None else None


def demand(operator: Operator) -> None:
    """Raises ConfigurationError unless the caller holds the capability to look at every tenant."""
    if not isinstance(operator, Operator):
        raise ConfigurationError(
            "This looks at the runs of every tenant.", fix='Pass Operator(reason="...") where that is meant.'
        )


def no_such_run(scope: Scope, run_id: str) -> RunNotFound:
    """The one answer for a run that does not exist and for one of another tenant."""
    return RunNotFound(f"There is no run {run_id!r} of tenant {scope.tenant!r}.")


def not_to_bury(run_id: str) -> RunBusy:
    """The refusal of tombstones for a run that has not ended, or has other events than they were made of."""
    return RunBusy(f"Run {run_id!r} has not ended, or somebody was at it; nothing of it was erased.")
