"""The one session that appends: group commit, this worker's lease, and what is done when the server goes away.

The order of the lines is the guarantee: nobody is told of a batch before the server has acknowledged its transaction.
A group whose answer never came is sent again, and what had landed is recognised by its bytes.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from shipworthy.adapters.postgres.audit import Carried, Locked, Unwritten
from shipworthy.adapters.postgres.connection import Connection, Server, is_unanswered
from shipworthy.adapters.postgres.holds import (
    EXPIRED_AT_ONCE,
    REFUSED,
    Apply,
    Group,
    expire,
    outcomes,
    refusal,
)
from shipworthy.adapters.postgres.lanes import Session
from shipworthy.adapters.shared.entries import Entry
from shipworthy.adapters.shared.grants import GrantRow
from shipworthy.adapters.shared.lane import Job
from shipworthy.domain.journal import Fence
from shipworthy.domain.scope import Scope
from shipworthy.errors import AuditUnavailable, CommitUncertain, Fenced, HoldRefused, StoreError, StoreFull

AT_ONCE = 64
"""Batches of one transaction: more subtransactions than these would slow every snapshot of the server."""
BYTES_AT_ONCE = 1 << 26
"""Bytes of bodies after which a transaction takes no further batch: a statement holds less than a gigabyte."""
_APPEND = "SELECT nth, fate, handle, why FROM append(%s, %s, %s, %b, %b, %b, %s)"
_LANDED = ("landed", "again")
_CROSSED = ("40P01", "40001", "SW002")
"""A deadlock, a serialisation failure, or a counter that was dropped: nothing was done, and alone it will not come
again."""
_TRIES = 20
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

    def __call__(self, answer: tuple[str, int | None, str | None]) -> Any:
        fate, handle, why = answer
        if fate in _LANDED and handle is not None:
            made = self.fence is None
            return Fence(self.scope, self.run_id, self.token, handle) if made else outcomes(why)
        if fate == REFUSED:
            raise HoldRefused(refusal(why)[0])
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
    budget: list[Any] | None = None
    grants: tuple[GrantRow, ...] | None = None
    wake_at: int | None = None
    root: str | None = None


class _Operations(msgspec.Struct, gc=False):
    """Operations on the ledger alone, as the server reads them."""

    tenant: str
    budget: list[Any]


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

    def _append(self, group: list[Job[Any]], deadline: float, sent: bool = False, tries: int = 1) -> None:
        """*sent*: what became of an earlier attempt is not known. *tries*: how
        often it was tried."""
        batches: list[Any] = [job.work for job in group]

        def append(connection: Connection) -> list[Any]:
            nonlocal sent
            self._renew(connection)
            values = _values(self._lease.id, sent, batches)
            try:
                return _done(connection, values, batches)
            except psycopg.Error as error:
                sent = sent or is_unanswered(error, connection)
                raise

        try:
            rows = self._persist(append, deadline)
        except Unwritten as refusal:
            self._refused(group, refusal, deadline, sent, tries)
            return
        except (StoreError, ValueError, OverflowError) as error:
            self._failed(group, error, deadline, sent, tries)
            return
        for nth, *answer in rows:
            job = group[nth - 1]
            if tries < _TRIES and self._may_differ(answer, deadline):
                self._append([job], deadline, tries=tries + 1)
            else:
                try:
                    job.value = job.work(answer)
                except StoreError as error:
                    job.error = error

    def _refused(
        self, group: list[Job[Any]], refusal: Unwritten, deadline: float, sent: bool, tries: int
    ) -> None:
        """Nothing was committed. Those whose entries cannot be written are told, and the rest is done without them."""
        rest = []
        for nth, job in enumerate(group, 1):
            job.error = refusal.errors.get(nth)
            if job.error is None:
                rest.append(job)
        if len(rest) < len(group) or tries < _TRIES:
            if rest:
                self._append(rest, deadline, sent, tries + 1)
            return
        what = "The audit log of a batch could not be begun: others do so all the time."
        for job in rest:
            job.error = AuditUnavailable(what)

    def _failed(
        self, group: list[Job[Any]], error: Exception, deadline: float, sent: bool, tries: int
    ) -> None:
        """Nothing is known of any of them; it may be the fault of one."""
        crossed = getattr(error.__cause__, "sqlstate", None) in _CROSSED
        if crossed and tries < _TRIES and time.monotonic() < deadline:
            self._append(group, deadline, sent, tries + 1)
            return
        if len(group) > 1 and self._connection is not None:
            for job in group:
                self._append([job], deadline, sent)
            return
        what = error.what if isinstance(error, StoreError) else f"A batch cannot be sent: {error}."
        kind = CommitUncertain if sent else type(error) if isinstance(error, StoreError) else StoreError
        for job in group:
            job.error = kind(what, fix=None if sent else getattr(error, "fix", ""))

    def _may_differ(self, answer: Sequence[Any], deadline: float) -> bool:
        """Whether another attempt may be answered otherwise: a batch was crossed, or holds that had expired were in
        its way, and are charged now."""
        fate, _, why = answer
        if fate != REFUSED or not refusal(why)[1]:
            return fate in _CROSSED and time.monotonic() < deadline
        with contextlib.suppress(StoreError):  # the refusal stands
            while self._persist(expire, deadline) == EXPIRED_AT_ONCE:
                pass
            return True
        return False


def _done(connection: Connection, values: list[Any], batches: Sequence[Any]) -> list[Any]:
    """What `append` says of the batches. Where some have entries of an audit log, those of batches that land now are
    committed with them. Raises Unwritten: nothing was done."""
    names = {b.entry.audit.name for b in batches if type(b) is Append and b.entry.audit is not None}
    if not names:
        return connection.execute(_APPEND, values, prepare=True).fetchall()
    with connection.pipeline(), connection.transaction():
        appended = connection.execute(_APPEND, values, prepare=True)
        locked = Locked(connection, names)
        rows = appended.fetchall()
        locked.carry(_carried(batches, rows))
    return rows


def _carried(batches: Sequence[Any], rows: list[Any]) -> list[Carried]:
    """The entries of batches that landed now, and not in an earlier attempt, whose commit carried them."""
    said = {nth: (fate, handle) for nth, fate, handle, _ in rows}
    carried = []
    for nth, batch in enumerate(batches, 1):
        if type(batch) is not Append or batch.entry.audit is None:
            continue
        fate, handle = said.get(nth, ("landed", None))
        if fate == "landed":
            run = handle if batch.fence is None else batch.fence.key
            carried.append(Carried(nth, batch.entry.audit, run, batch.entry.first, batch.entry.last))
    return carried


def _order(job: Job[Any]) -> tuple[str, ...]:
    """New runs first, by what makes them unique; then the others, by their sessions; what appends nothing, last."""
    batch: Any = job.work
    if type(batch) is Apply:
        return ("2",)
    tenant, user, session = batch.scope.tenant, batch.scope.user or "", batch.scope.session or ""
    return ("", tenant, batch.run_id) if batch.fence is None else ("1", tenant, user, session, batch.run_id)


def _portions(group: list[Job[Any]]) -> Iterator[list[Job[Any]]]:
    portion, size = [], 0
    for job in group:
        portion.append(job)
        batch: Any = job.work
        if type(batch) is Append:
            size += sum([len(body) for body in batch.entry.bodies.values()])
        if len(portion) == AT_ONCE or size > BYTES_AT_ONCE or job is group[-1]:
            yield portion
            portion, size = [], 0


def _values(me: str, again: bool, batches: Sequence[Append | Apply]) -> list[Any]:
    """The group as `append` takes it (schema.sql): one document, beside it the bodies of all, and what of the ledger
    they touch."""
    group = Group()
    rows = [_row(batch, group) if type(batch) is Append else _operations(batch, group) for batch in batches]  # type: ignore[arg-type]
    bodies = [
        (n, *body)
        for n, batch in enumerate(batches, 1)
        if type(batch) is Append
        for body in batch.entry.bodies.items()
    ]
    columns = [[body[i] for body in bodies] for i in range(3)]
    wanted = group.wanted()
    return [me, again, _encode(rows).decode(), *columns, _encode(wanted).decode() if wanted else None]


def _operations(batch: Apply, group: Group) -> _Operations:
    return _Operations(batch.tenant, group.rows(batch.operations))


def _row(batch: Append, group: Group) -> _Row:
    key, token = (None, batch.token) if batch.fence is None else (batch.fence.key, batch.fence.token)
    e = batch.entry
    who = (batch.scope.tenant, batch.scope.user, batch.scope.session, batch.run_id)
    row = _Row(*who, key, token, e.first, e.last, e.started, e.at, e.status, e.joins, e.events)
    row.budget = group.rows(e.budget) if e.budget else None
    row.grants, row.wake_at, row.root = e.grants or None, e.wake_at, e.root
    return row
