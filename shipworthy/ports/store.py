"""The store: the port on which the guarantees rest.

Laws that every adapter keeps are in `shipworthy.testing.contracts.store`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from shipworthy.domain.events import AnyEvent
from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.journal import Batch, Claim, Fence, RunFilter, RunSummary, Tombstones
from shipworthy.domain.ledger import Outcome
from shipworthy.domain.scope import Operator, Scope
from shipworthy.ports.ledger import Accounts, Ledger, Removal


class Journal(Protocol):
    """Appending to runs and reading them back. A commit is not abandoned by cancellation: it completes first, and that
    it failed outranks the cancellation."""

    async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
        """Create a run with its first batch, owned by this worker under a fence of this *token*: above those that it
        had elsewhere, if it was there. None if the tenant has a run of this id.

        A cancellation waits: this returns first, and the task is cancelled where it waits next, so that somebody holds
        the fence of a run that was begun.
        """
        ...

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        """Take a run that nobody drives: released, its worker dead or its lease expired, or this worker's own.

        The token grows, so the previous owner commits nothing any more. Raises RunNotFound, RunBusy.
        """
        ...

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        """Append *batch*, durably, whole or not at all, if *fence* holds and the sequence numbers go on from the last.
        Gives what became of its budget operations, one by one.

        Raises Fenced, HoldRefused, StoreFull (nothing was written), CommitUncertain (the fate is unknown).
        """
        ...

    async def release(self, fence: Fence) -> None:
        """Let go of a run that is not driven any more, so that any worker may claim it; nothing if the fence is old."""
        ...

    async def read(self, scope: Scope, run_id: str, after: int = 0) -> list[AnyEvent]:
        """The run's events with a sequence number above *after*, in order. Raises RunNotFound, UnknownEvent."""
        ...

    async def news(self, scope: Scope, run_id: str, within: float) -> None:
        """Wait for news of a run that another worker may drive, at most *within* seconds; it may return early, and may
        miss some. Raises nothing for a run that is not there."""
        ...

    async def body(self, scope: Scope, run_id: str, digest: str) -> bytes:
        """A body of the run. Raises RunNotFound, JournalDamaged."""
        ...


class Directory(Protocol):
    """Finding runs."""

    async def find(self, scope: Scope, run_id: str) -> RunSummary:
        """One run of the tenant. Raises RunNotFound."""
        ...

    async def list(self, scope: Scope, which: RunFilter) -> Sequence[RunSummary]:
        """Runs of the scope (of its tenant; its user and session too where they are given), newest first."""
        ...

    async def session(self, scope: Scope, head: int | None = None) -> Sequence[str]:
        """Run ids of a session's ended runs in the order of their ends, the first *head* of them (None: all)."""
        ...

    async def orphans(self, operator: Operator) -> Sequence[RunSummary]:
        """Runs of every tenant that are running and that no other live worker owns; nested ones are their roots'. This
        worker's own are among them: its engine knows which of them it drives."""
        ...

    async def due(self, operator: Operator, now: int, skip: int = 0) -> Sequence[RunSummary]:
        """Some of the paused runs of every tenant whose last batch had a `wake_at` of at most *now*, the longest due
        first, without the first *skip*; nested ones are their roots'. None: that was all."""
        ...

    async def everything(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, RunSummary]]:
        """Some of the runs of every tenant in the order in which they were begun, each with its place; only those whose
        place is above *after*. None: that was all."""
        ...

    async def prune(self, operator: Operator, ended_before: int) -> int:
        """Forget runs that ended before this time (milliseconds since the epoch), and whole sessions whose every run
        did; what a session still reaches is kept, and the nested runs of one that has not ended, for it goes on with
        what they gave. Returns how many runs were forgotten."""
        ...


class Signing(Protocol):
    """The store's own keys, for whoever was given no others, and what was signed to be remembered."""

    async def signing_keys(self) -> Sequence[SigningKey]:
        """The keys, newest first: the same for every worker. The first one is made when it is first asked for, by
        whoever comes first."""
        ...

    async def rotate_signing_key(self, operator: Operator, keep: int = 4) -> SigningKey:
        """Make a new key, with which is signed from now on; the *keep* newest ones are kept, to verify with."""
        ...

    async def grants(self, scope: Scope) -> Sequence[Grant]:
        """What is remembered for the scope's user (nothing where it names none), expired ones left out."""
        ...

    async def revoke(self, scope: Scope, grant_id: str) -> bool:
        """Take a grant back, for good: one of this id is not taken again. It is the scope's user's, or anybody's of the
        tenant where the scope names no user. False if none of this id is in force among those."""
        ...

    async def everyones_grants(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, Grant]]:
        """Some of the grants in force of every tenant, each with its place; only those whose place is above *after*.
        None: that was all."""
        ...

    async def adopt(
        self, operator: Operator, keys: Sequence[SigningKey], grants: Sequence[Grant] = ()
    ) -> None:
        """Take over what another store had: its *keys*, newest first, to verify with, as older than all that are here;
        and grants. What was here before is left as it is: a key that was dropped and a grant that was revoked do not
        come back."""
        ...


class Erasure(Protocol):
    """Forgetting whose something was. Doing any of it again after it was interrupted completes it."""

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        """Put tombstones in the place of the journals of runs of the tenant, all of them at once or none: their bodies
        are forgotten, they are nobody's from now on, in no session, and known by their aliases, and what the ledger
        keeps under their names goes.

        Raises RunBusy, with nothing written, unless each has ended and has as many events; RunNotFound.
        """
        ...

    async def disown(self, scope: Scope, run_ids: Collection[str] = ()) -> Sequence[str]:
        """Forget what is kept under the name of the scope's user, or of its session, or of every user of the tenant,
        beside runs: approvals for later runs, counters of budgets, rates and caps; who changed those, and when, stays,
        without for whom and why. What is the tenant's or everybody's is left as it is.

        So are the entries of the audit logs that the store keeps; bodies and salts of the scope's are forgotten, for
        which no key is needed, and with a session's those of the user's *run_ids*, which learned from it and are in
        none. Gives the names of these logs, which nobody tells of it here."""
        ...

    async def scrub(self, operator: Operator) -> Sequence[str]:
        """Leave no byte of what was replaced or forgotten where the store can reach it. What it cannot reach, as
        sentences. Raises StoreError."""
        ...


class Lease(Protocol):
    """The clock on which ownership is measured: the same for every worker of the store."""

    def clock(self) -> int:
        """Now, in milliseconds."""
        ...

    def start_by(self) -> int:
        """Until when this worker surely owns its runs: a body starts by then, or not at all."""
        ...

    @property
    def skew(self) -> int:
        """Milliseconds by which two workers' readings may differ."""
        ...


class OwnLedger(Ledger, Accounts, Removal, Protocol):
    """A store's ledger, with its accounts; it goes where the store's runs go."""


class Store(Journal, Directory, Signing, Erasure, Lease, Protocol):
    """A journal, its directory, its keys and its lease, in one place, with a ledger that shares its commits."""

    @property
    def ledger(self) -> OwnLedger:
        """The ledger in the store: what a batch does to it lands with the batch, or not at all."""
        ...

    async def open(self) -> None:
        """Make ready, once; calling again does nothing. Raises a StoreError that says what is wrong."""
        ...

    async def close(self) -> None:
        """Give up ownership and connections; what was acknowledged is durable."""
        ...
