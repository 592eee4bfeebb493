"""What the durable stores have in common: how a batch is written, and how a refusal is said."""

from __future__ import annotations

import msgspec

from shipworthy.domain.events import RunStatus
from shipworthy.domain.journal import Batch
from shipworthy.domain.ledger import BudgetOp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, Fenced, RunNotFound
from shipworthy.rules.codec import encode_events

PAGE = 500
"""Runs that `everything` gives at once."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A batch, encoded by whoever commits it, so that the writer's thread has little left to do. `budget` is what it
    does to the ledger."""

    first: int
    last: int
    started: int
    at: int
    events: bytes
    bodies: dict[str, bytes]
    status: RunStatus
    joins: bool
    budget: tuple[BudgetOp, ...] = ()


def entry_of(batch: Batch) -> Entry:
    """The batch as it is written. Raises Fenced for one whose events do not follow one another."""
    events = batch.events
    if not events:
        raise ValueError("A batch has at least one event.")
    first, last = events[0], events[-1]
    if [event.seq for event in events] != list(range(first.seq, first.seq + len(events))):
        raise Fenced(f"The events {first.seq} to {last.seq} of a batch have a gap; nothing was written.")
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
    )


def demand(operator: Operator) -> None:
    """Raises ConfigurationError unless the caller holds the capability to look at every tenant."""
    if not isinstance(operator, Operator):
        raise ConfigurationError(
            "This looks at the runs of every tenant.", fix='Pass Operator(reason="...") where that is meant.'
        )


def no_such_run(scope: Scope, run_id: str) -> RunNotFound:
    """The one answer for a run that does not exist and for one of another tenant."""
    return RunNotFound(f"There is no run {run_id!r} of tenant {scope.tenant!r}.")
