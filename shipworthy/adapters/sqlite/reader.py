"""Reading, on a thread and a connection of its own: a WAL's readers never wait for its writer."""

from __future__ import annotations

import contextlib
from typing import Any

import apsw

from shipworthy.adapters.shared.entries import no_such_run
from shipworthy.adapters.shared.lane import Job, Lane, unexpected
from shipworthy.adapters.sqlite.connection import Database, connect, rows, translate
from shipworthy.adapters.sqlite.operations import CHAIN
from shipworthy.adapters.sqlite.workers import Worker
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.journal import RunFilter, RunSummary
from shipworthy.domain.scope import Scope
from shipworthy.errors import JournalDamaged, ShipworthyError
from shipworthy.rules.codec import decode_events

_SUMMARY = "SELECT tenant, user, session, run_id, status, started_at, updated_at, head FROM runs"
_BODY = """SELECT b.data FROM runs AS r LEFT JOIN bodies AS b ON b.run = r.key AND b.digest = ?3
WHERE r.tenant = ?1 AND r.run_id = ?2"""
_HISTORY = f"""{CHAIN.format(where="r.tenant = ?2 AND r.run_id = ?3")}
SELECT c.first, j.events, (SELECT head FROM runs AS r WHERE r.tenant = ?2 AND r.run_id = ?3)
FROM chain AS c JOIN journal AS j ON j.id = c.id"""


class Reader(Lane):
    """Does each job on its own; a connection that failed is replaced for the next one."""

    def __init__(self, database: Database) -> None:
        super().__init__("reader", database.path)
        self._database = database
        self._connection: apsw.Connection | None = None

    def _perform(self, group: list[Job[Any]]) -> None:
        for job in group:
            try:
                if self._connection is None:
                    self._connection = connect(self._database, reads=True)
                job.value = job.work(self._connection.cursor())
            except ShipworthyError as refusal:
                job.error = refusal
            except apsw.Error as error:
                job.error = translate(error, self._database)
                self._end()
            except Exception as error:
                job.error = unexpected(error)

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is not used again, whatever it says
                connection.close()


def history(cursor: apsw.Cursor, scope: Scope, run_id: str, after: int) -> list[AnyEvent]:
    """The run's events above *after*, without a gap up to its head. Raises JournalDamaged, UnknownEvent."""
    batches = rows(cursor, _HISTORY, (after, scope.tenant, run_id))  # one statement, so one snapshot
    head = batches[0][2] if batches else find(cursor, scope, run_id).events
    batches.sort()
    events = [event for _, data, _ in batches for event in decode_events(data) if event.seq > after]
    if [event.seq for event in events] != list(range(max(after, 0) + 1, head + 1)):
        raise JournalDamaged(f"The journal of run {run_id!r} has a gap: its {head} events are not all there.")
    return events


def body(cursor: apsw.Cursor, scope: Scope, run_id: str, digest: str) -> bytes:
    """A body of the run. Raises JournalDamaged."""
    found = rows(
        cursor,
        _BODY,
        (scope.tenant, run_id, digest),
    )
    if not found:
        raise no_such_run(scope, run_id)
    if found[0][0] is None:
        raise JournalDamaged(f"Run {run_id!r} refers to a body {digest[:12]} that is not stored.")
    data: bytes = found[0][0]
    return data


def find(cursor: apsw.Cursor, scope: Scope, run_id: str) -> RunSummary:
    """One run of the tenant."""
    found = rows(cursor, f"{_SUMMARY} WHERE tenant = ? AND run_id = ?", (scope.tenant, run_id))
    if not found:
        raise no_such_run(scope, run_id)
    return _summary(found[0])


def listing(cursor: apsw.Cursor, scope: Scope, which: RunFilter) -> list[RunSummary]:
    """Runs of the scope, newest first."""
    wanted: list[tuple[str, str | int]] = [("tenant = ?", scope.tenant)]
    if scope.user is not None:
        wanted.append(("user = ?", scope.user))
    if scope.session is not None:
        wanted.append(("session = ?", scope.session))
    if which.status is not None:
        wanted.append(("status = ?", which.status))
    if which.before is not None:
        wanted.append(("started_at < ?", which.before))
    where = " AND ".join([condition for condition, _ in wanted])
    values = [value for _, value in wanted]
    query = f"{_SUMMARY} WHERE {where} ORDER BY started_at DESC, key DESC LIMIT ?"
    return [_summary(row) for row in rows(cursor, query, [*values, which.limit])]


def session(cursor: apsw.Cursor, scope: Scope, head: int | None) -> list[str]:
    """A session's ended runs in the order of their ends."""
    query = """SELECT run_id FROM runs WHERE tenant = ? AND user IS ? AND session = ? AND position <= ?
    ORDER BY position"""
    last = head if head is not None else 2**62
    return [run_id for (run_id,) in rows(cursor, query, (scope.tenant, scope.user, scope.session, last))]


def orphans(cursor: apsw.Cursor, worker: Worker) -> list[RunSummary]:
    """Runs of every tenant that are running, with no owner, one that is gone, or this worker."""
    owners = rows(cursor, "SELECT DISTINCT worker FROM runs WHERE status = 'running'")
    found: list[RunSummary] = []
    for (owner,) in owners:
        if owner in (None, worker.id) or worker.standing(cursor, owner) != "alive":
            query = f"{_SUMMARY} WHERE status = 'running' AND worker IS ? ORDER BY key"
            found += [_summary(row) for row in rows(cursor, query, (owner,))]
    return found


def _summary(row: tuple[Any, ...]) -> RunSummary:
    tenant, user, session_id, run_id, status, started_at, updated_at, head = row
    return RunSummary(Scope(tenant, user, session_id), run_id, status, started_at, updated_at, head)
