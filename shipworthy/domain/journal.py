"""What a store keeps: batches of events under a fence, and what a listing shows of a run."""

from __future__ import annotations

from typing import Literal

import msgspec

from shipworthy.domain.audit import Links
from shipworthy.domain.events import AnyEvent, RunStatus
from shipworthy.domain.grants import Grant
from shipworthy.domain.ledger import BudgetOp
from shipworthy.domain.scope import Scope


class Fence(msgspec.Struct, frozen=True, gc=False):
    """The right to append to one run. `token` grows with every change of owner; `key` is the store's own handle."""

    scope: Scope
    run_id: str
    token: int
    key: int = 0


class Batch(msgspec.Struct, gc=False):
    """What lands whole or not at all: consecutive events, the bodies they refer to (by SHA-256, hex), and the run's
    status after them. A status other than "running" releases the run's ownership; `joins_session` appends the run to
    its session's ended runs. `budget`: what is done to the store's own ledger with it, in this order; at most one hold.
    `grants`: approvals to be remembered for the run's user, and nobody else's. `wake_at`: milliseconds since the Unix
    epoch from which on a paused run is `due`; None: it waits for whoever resumes it. It is kept as a note with a run
    that has ended, and not with one that is running.

    `audit`: entries of the audit log that is kept at the store's place; they land with it.
    """

    events: list[AnyEvent]
    bodies: dict[str, bytes]
    status: RunStatus = "running"
    joins_session: bool = False
    budget: tuple[BudgetOp, ...] = ()
    grants: tuple[Grant, ...] = ()
    wake_at: int | None = None
    audit: Links | None = None


class Tombstones(msgspec.Struct, frozen=True, gc=False):
    """What is to be left of a run that ended: as many events as it has, and `alias` in the place of its id."""

    run_id: str
    alias: str
    events: list[AnyEvent]


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Ownership of an existing run, and why it could be had."""

    fence: Fence
    previous: Literal["released", "dead", "expired"]


class RunSummary(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A run in a listing. Times in milliseconds since the Unix epoch; `events` is the last sequence number. `wake_at`:
    that of its last batch. `root`: of a nested run, the outermost run that it belongs to."""

    scope: Scope
    run_id: str
    status: RunStatus
    started_at: int
    updated_at: int
    events: int
    wake_at: int | None = None
    root: str | None = None


class RunFilter(msgspec.Struct, frozen=True, gc=False):
    """Which runs a listing shows, newest first. `before`: the `started_at` of the last one of the page before.
    `nested`: the runs that belong to others too."""

    status: RunStatus | None = None
    limit: int = 50
    before: int | None = None
    nested: bool = False
