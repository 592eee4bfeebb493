"""The one session that appends: group commit, this worker's lease, and what is done when the server goes away.

The order of the lines is the guarantee: nobody is told of a batch before the server has acknowledged its transaction.
A group whose answer never came is sent again, and what had landed is recognised by its bytes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from shipworthy.adapters.postgres.connection import Connection, Server, is_unanswered
from shipworthy.adapters.postgres.lanes import Session
from shipworthy.adapters.shared.entries import Entry
from shipworthy.adapters.shared.lane import Job
from shipworthy.domain.journal import Fence
from shipworthy.domain.scope import Scope
from shipworthy.errors import CommitUncertain, Fenced, StoreError, StoreFull

AT_ONCE = 64
"""Batches of one transaction: more subtransactions than these would slow every snapshot of the server."""
BYTES_AT_ONCE = 1 << 26
"""Bytes of bodies after which a transaction takes no further batch: a statement holds less than a gigabyte."""
_APPEND = "SELECT nth, fate, handle, why FROM append(%s, %s, %s, %b, %b, %b)"
_CROSSED = ("40P01", "40001")
"""A deadlock, or a serialisation failure: nothing was done, and alone it will not come again."""
_SOON, _AGAIN_MS = 0.5, 200
"""How long a renewal is tried (seconds), and when it is tried again."""
_encode = msgspec.json.Encoder().encode


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
    token: int = 1

    def __call__(self, answer: tuple[str, int | None, str | None]) -> Fence | None:
        fate, handle, why = answer
        if fate == "landed" and handle is not None:
            return Fence(self.scope, self.run_id, self.token, handle)
        if fate == "53100":
            raise StoreFull(f"No room is left for run {self.run_id!r} ({why}).")
        if fate != "refused":
            what = f"A batch of run {self.run_id!r} failed ({fate}: {why})."
            raise StoreError(what, fix="Look at the server's log.")
        if self.fence is None:
            return None
        raise Fenced(f"Run {self.run_id!r} was taken over, released, or does not go on from there.")


class _Row(msgspec.Struct, gc=False, omit_defaults=True):
    """A batch as the server reads it."""

    tenant: str
    user_id: str | None
    session_id: str | None
    run_id: str
    key: int | None
    token: int | None
    first: int
    last: int
    started: int
    at: int
    status: str
    joins: bool
    events: bytes


class Lease:
    """This worker among the owners of runs. Milliseconds, on the server's clock; `slack`: how far ahead ours may be."""

    def __init__(self, ttl: int, skew: int) -> None:
        self.id, self.lock = secrets.token_hex(8), secrets.randbits(63)
        self.ttl, self.skew = ttl, skew
        self.slack = skew
        self.start_by = 0
        self._ahead: int | None = None
        self._last = 0

    def clock(self) -> int:
        """Now, or a round trip later, so that a body rather does not start; it goes back only with the server's."""
        self._last = max(self._last, boot_ms() + (self._ahead or 0))
        return self._last

    def beat(self, connection: Connection, *, fresh: bool) -> bool:
        """Write the lease anew; whether the session's lock was taken. A reading that took long sets no clock."""
        before = boot_ms()
        query = "SELECT at, until, locked FROM beat(%s, %s, %s, %s)"
        [(at, until, locked)] = connection.execute(query, (self.id, self.lock, self.ttl, fresh)).fetchall()
        took = boot_ms() - before
        if at + took + self.slack < self._last:  # the server's clock was set back, and its leases with it
            self._ahead, self._last = at - before, at
        if self._ahead is None or took <= max(self.skew // 2, 1):
            self._ahead, self.slack = at - before, max(self.slack, took)
        self.start_by = until
        return bool(locked)


class Writer(Session):
    """Commits what is queued in one transaction, with a savepoint for each batch."""

    def __init__(self, server: Server, lease: Lease) -> None:
        super().__init__("writer", server)
        self._lease = lease
        self._locked = False
        self._renew_at = 0
        self._persist(self._renew, self._deadline())

    # on the thread

    def _connect(self) -> Connection:
        self._locked, self._renew_at = False, 0
        return super()._connect()

    def _patience(self) -> float:
        return max(self._renew_at - boot_ms(), 0) / 1000

    def _renew(self, connection: Connection) -> None:
        """Write the lease, when it is due."""
        if boot_ms() >= self._renew_at:
            self._renew_at = boot_ms() + max(self._lease.ttl // 10, 1)
            self._locked = self._lease.beat(connection, fresh=not self._locked) or self._locked
            self._renew_at = boot_ms() + max(self._lease.ttl // 3, 1)

    def _perform(self, group: list[Job[Any]]) -> None:
        group.sort(key=_order)  # locks are taken in one order, whoever commits beside us
        deadline = self._deadline()
        for portion in _portions(group):
            self._append(portion, deadline)
        try:
            self._persist(self._renew, time.monotonic() + _SOON)
        except StoreError:  # bodies stop starting before the lease runs out
            self._renew_at = boot_ms() + _AGAIN_MS

    def renew_now(self) -> None:
        """Write the lease, and take its lock, though it is not due: sessions were ended. From any thread."""
        self._renew_at = 0
        self._queue.put([])

    def _append(self, group: list[Job[Any]], deadline: float, sent: bool = False) -> None:
        """*sent*: what became of an earlier attempt is not known."""
        batches: list[Any] = [job.work for job in group]

        def append(connection: Connection) -> list[Any]:
            nonlocal sent
            self._renew(connection)
            values = _values(self._lease.id, sent, batches)
            try:
                return connection.execute(_APPEND, values, prepare=True).fetchall()
            except psycopg.Error as error:
                sent = sent or is_unanswered(error, connection)
                raise

        try:
            rows = self._persist(append, deadline)
        except (StoreError, ValueError) as error:
            if len(group) > 1 and self._connection is not None:  # it may be the fault of one
                for job in group:
                    self._append([job], deadline, sent)
                return
            what = error.what if isinstance(error, StoreError) else f"A batch cannot be sent: {error}."
            kind = CommitUncertain if sent else type(error) if isinstance(error, StoreError) else StoreError
            for job in group:
                job.error = kind(what, fix=None if sent else getattr(error, "fix", ""))
            return
        for nth, *answer in rows:
            job = group[nth - 1]
            if answer[0] in _CROSSED and time.monotonic() < deadline:
                self._append([job], deadline)
                continue
            try:
                job.value = job.work(answer)
            except StoreError as refusal:
                job.error = refusal


def _order(job: Job[Any]) -> tuple[str, ...]:
    """New runs first, by what makes them unique; then the others, by their sessions."""
    batch: Any = job.work
    tenant, user, session = batch.scope.tenant, batch.scope.user or "", batch.scope.session or ""
    return ("", tenant, batch.run_id) if batch.fence is None else ("1", tenant, user, session, batch.run_id)


def _portions(group: list[Job[Any]]) -> Iterator[list[Job[Any]]]:
    portion, size = [], 0
    for job in group:
        portion.append(job)
        batch: Any = job.work
        size += sum([len(body) for body in batch.entry.bodies.values()])
        if len(portion) == AT_ONCE or size > BYTES_AT_ONCE or job is group[-1]:
            yield portion
            portion, size = [], 0


def _values(me: str, again: bool, batches: Sequence[Append]) -> list[Any]:
    """The group as `append` takes it (schema.sql): one document, and beside it the bodies of all."""
    rows = [_row(batch) for batch in batches]
    bodies = [(n, *body) for n, batch in enumerate(batches, 1) for body in batch.entry.bodies.items()]
    return [me, again, _encode(rows).decode(), *[[body[i] for body in bodies] for i in range(3)]]


def _row(batch: Append) -> _Row:
    key, token = (None, batch.token) if batch.fence is None else (batch.fence.key, batch.fence.token)
    e = batch.entry
    who = (batch.scope.tenant, batch.scope.user, batch.scope.session, batch.run_id)
    return _Row(*who, key, token, e.first, e.last, e.started, e.at, e.status, e.joins, e.events)
