"""The one session that appends: group commit, this worker's lease, and what is done when the server goes away.

The order of the lines is the guarantee: nobody is told of a batch before the server has acknowledged its transaction.
A group whose answer never came is sent again, and what had landed is recognised by its bytes.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from shipworthy.adapters.postgres.connection import Connection, Server, connect, is_lost, translate
from shipworthy.adapters.shared.entries import Entry
from shipworthy.adapters.shared.lane import Job, Lane
from shipworthy.domain.journal import Fence
from shipworthy.domain.scope import Scope
from shipworthy.errors import CommitUncertain, Fenced, StoreError, StoreFull, StoreUnavailable

AT_ONCE = 64
"""Batches of one transaction; more subtransactions than these would slow every snapshot of the server."""
_APPEND = f"SELECT fate, handle, why FROM shipworthy.append({', '.join(['%b'] * 18)})"
_BEAT = "SELECT at, until, locked FROM shipworthy.beat(%s, %s, %s, %s)"
_RETRY = 0.05


def boot_ms() -> int:
    """A clock that goes on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


class Append(msgspec.Struct, frozen=True, gc=False):
    """A batch for a run, or for a new one. As a job's work it makes of the server's answer what its caller gets."""

    scope: Scope
    run_id: str
    fence: Fence | None
    entry: Entry

    def __call__(self, row: tuple[str, int | None, str | None]) -> Fence | None:
        fate, handle, why = row
        if fate == "landed" and handle is not None:
            return self.fence or Fence(self.scope, self.run_id, 1, handle)
        if fate == "53100":
            raise StoreFull(f"No room is left for run {self.run_id!r} ({why}).")
        if fate != "refused":
            raise StoreError(
                f"A batch of run {self.run_id!r} failed ({fate}: {why}).", fix="Look at the server's log."
            )
        if self.fence is None:
            return None
        raise Fenced(f"Run {self.run_id!r} was taken over, released, or does not go on from there.")


class Lease:
    """This worker among the owners of runs. Milliseconds, on the server's clock."""

    def __init__(self, ttl: int, skew: int) -> None:
        self.id = secrets.token_hex(8)
        self.lock = secrets.randbits(63)
        self.ttl, self.skew = ttl, skew
        self.start_by = 0
        self._ahead: int | None = None
        self._last = 0

    def clock(self) -> int:
        """Now, or up to a round trip later, so that a body rather does not start; it never goes back."""
        self._last = max(self._last, boot_ms() + (self._ahead or 0))
        return self._last

    def beat(self, connection: Connection, *, fresh: bool) -> bool:
        """Write the lease anew; whether the session's lock was taken. A reading that took long sets no clock."""
        before = boot_ms()
        [(at, until, locked)] = connection.execute(_BEAT, (self.id, self.lock, self.ttl, fresh)).fetchall()
        if self._ahead is None or boot_ms() - before <= max(self.skew // 2, 1):
            self._ahead = at - before
        self.start_by = until
        return bool(locked)


class Writer(Lane):
    """Commits what is queued in one transaction, with a savepoint for each batch."""

    def __init__(self, server: Server, lease: Lease) -> None:
        super().__init__("writer", server.name)
        self._server, self._lease = server, lease
        self._connection: Connection | None = None
        self._locked = False
        self._renew_at = 0
        with self._translated():
            self._renew(self._session())

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except psycopg.Error as error:
            self._end()
            raise translate(error, self._server) from error

    # on the thread

    def _patience(self) -> float:
        return max(self._renew_at - boot_ms(), 0) / 1000

    def _perform(self, group: list[Job[Any]]) -> None:
        if boot_ms() >= self._renew_at:
            try:
                self._renew(self._session())
            except (psycopg.Error, StoreError):
                self._end()  # the lease runs out unless a later try succeeds; bodies stop starting before that
        # Locks are taken in one order, whoever commits beside us.
        group.sort(key=_order)
        for start in range(0, len(group), AT_ONCE):
            self._append(group[start : start + AT_ONCE])

    def _session(self) -> Connection:
        if self._connection is None:
            self._connection, self._locked = connect(self._server), False
            self._renew_at = 0
        return self._connection

    def _renew(self, connection: Connection) -> None:
        self._renew_at = boot_ms() + max(self._lease.ttl // 10, 1)
        self._locked = self._lease.beat(connection, fresh=not self._locked) or self._locked
        self._renew_at = boot_ms() + max(self._lease.ttl // 3, 1)

    def _append(self, group: list[Job[Any]]) -> None:
        sent, deadline = False, time.monotonic() + self._server.patience
        while True:
            connection: Connection | None = None
            try:
                connection = self._session()
                if not self._locked:
                    self._renew(connection)
                values = _values(self._lease.id, sent, [job.work for job in group])  # type: ignore[misc]
                sent = True
                rows = connection.execute(_APPEND, values, prepare=True).fetchall()
                break
            except psycopg.Error as error:
                if connection is not None and not is_lost(error, connection):
                    return self._fail(group, translate(error, self._server))
                self._end()
                if time.monotonic() > deadline:
                    return self._fail(group, self._gave_up(error, sent))
                time.sleep(_RETRY)
        for job, row in zip(group, rows, strict=True):
            try:
                job.value = job.work(row)
            except StoreError as refusal:
                job.error = refusal

    def _gave_up(self, error: psycopg.Error, sent: bool) -> StoreError:
        meaning = translate(error, self._server)
        if sent and isinstance(meaning, StoreUnavailable):
            return CommitUncertain(f"{meaning.what} It did not answer a commit.")
        return meaning

    def _fail(self, group: list[Job[Any]], error: StoreError) -> None:
        for job in group:
            job.error = type(error)(error.what, fix=error.fix)

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _order(job: Job[Any]) -> tuple[str, str]:
    batch: Any = job.work
    return batch.scope.tenant, batch.run_id


def _values(me: str, again: bool, entries: Sequence[Append]) -> list[Any]:
    """The group as the arrays that `append` takes (schema.sql)."""
    bodies = [(n, d, x) for n, a in enumerate(entries, 1) for d, x in a.entry.bodies.items()]
    return [
        me,
        again,
        [a.scope.tenant for a in entries],
        [a.scope.user for a in entries],
        [a.scope.session for a in entries],
        [a.run_id for a in entries],
        [a.fence.key if a.fence else None for a in entries],
        [a.fence.token if a.fence else None for a in entries],
        [a.entry.first for a in entries],
        [a.entry.last for a in entries],
        [a.entry.started for a in entries],
        [a.entry.at for a in entries],
        [a.entry.status for a in entries],
        [a.entry.joins for a in entries],
        [a.entry.events for a in entries],
        [n for n, _, _ in bodies],
        [d for _, d, _ in bodies],
        [x for _, _, x in bodies],
    ]
