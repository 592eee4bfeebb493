"""Everything but appending: each operation is one transaction that names its tenant, and may be made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.writer import Lease
from shipworthy.adapters.shared.entries import no_such_run
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.journal import Claim, Fence, RunFilter, RunSummary
from shipworthy.domain.scope import Scope
from shipworthy.errors import JournalDamaged, RunBusy
from shipworthy.rules.codec import decode_events

WATCHED = 60_000
"""Milliseconds for which a run's commits are told after somebody asked."""
PRUNED_AT_ONCE = 64
_SUMMARY = (
    "SELECT tenant, user_id, session_id, run_id, status, started_at, updated_at, head FROM shipworthy.runs"
)
_HISTORY = """SELECT r.head, j.first, j.events FROM shipworthy.runs AS r
LEFT JOIN shipworthy.journal AS j ON j.run = r.key AND j.last > %s
WHERE r.tenant = %s AND r.run_id = %s ORDER BY j.first"""
_BODY = """SELECT b.data FROM shipworthy.runs AS r LEFT JOIN shipworthy.bodies AS b ON b.run = r.key AND b.digest = %s
WHERE r.tenant = %s AND r.run_id = %s"""
_SESSION = """SELECT run_id FROM shipworthy.runs WHERE tenant = %s AND session_id = %s
AND user_id IS NOT DISTINCT FROM %s AND position <= %s ORDER BY position"""
_RELEASE = """UPDATE shipworthy.runs SET worker = NULL
WHERE key = %s AND fence = %s AND worker = %s AND status = 'running'"""
_WATCH = """UPDATE shipworthy.runs SET watched = shipworthy.now_ms() + %s
WHERE tenant = %s AND run_id = %s RETURNING key"""
_ENDED = "status NOT IN ('running', 'paused')"


@contextmanager
def of(connection: Connection, name: str, value: str) -> Iterator[None]:
    """A transaction in which the rows of a tenant can be seen, or as operator ("on") those of all."""
    with connection.pipeline(), connection.transaction():
        connection.execute("SELECT set_config(%s, %s, true)", (f"shipworthy.{name}", value))
        yield


def rows(connection: Connection, scope: Scope, query: str, *values: Any) -> list[Any]:
    """What one statement finds, of this tenant."""
    with of(connection, "tenant", scope.tenant):
        return connection.execute(query, values).fetchall()


def history(connection: Connection, scope: Scope, run_id: str, after: int) -> list[AnyEvent]:
    """The run's events above *after*, without a gap up to its head. Raises JournalDamaged, UnknownEvent."""
    found = rows(connection, scope, _HISTORY, after, scope.tenant, run_id)
    if not found:
        raise no_such_run(scope, run_id)
    batches = [data for _, first, data in found if first is not None]
    events = [event for data in batches for event in decode_events(data) if event.seq > after]
    if [event.seq for event in events] != list(range(max(after, 0) + 1, found[0][0] + 1)):
        raise JournalDamaged(f"The journal of run {run_id!r} has a gap: its events are not all there.")
    return events


def body(connection: Connection, scope: Scope, run_id: str, digest: str) -> bytes:
    """A body of the run. Raises JournalDamaged."""
    found = rows(connection, scope, _BODY, digest, scope.tenant, run_id)
    if not found:
        raise no_such_run(scope, run_id)
    if found[0][0] is None:
        raise JournalDamaged(f"Run {run_id!r} refers to a body {digest[:12]} that is not stored.")
    return bytes(found[0][0])


def watch(connection: Connection, scope: Scope, run_id: str) -> int:
    """Have the run's commits told for a while; its key. A mark that is lost is made again: it is not synced."""
    with of(connection, "tenant", scope.tenant):
        connection.execute("SET LOCAL synchronous_commit = off")
        found = connection.execute(_WATCH, (WATCHED, scope.tenant, run_id)).fetchall()
    return int(found[0][0]) if found else 0


def claim(connection: Connection, lease: Lease, scope: Scope, run_id: str) -> Claim:
    """Make this worker the owner of a run that nobody drives. Raises RunNotFound, RunBusy."""
    query = "SELECT * FROM shipworthy.claim(%s, %s, %s, %s)"
    [(key, token, user, session, previous, owner)] = rows(
        connection, scope, query, lease.id, lease.skew, scope.tenant, run_id
    )
    if key is None:
        raise no_such_run(scope, run_id)
    if token is None:
        raise RunBusy(f"Run {run_id!r} is driven by worker {owner}, which is alive.")
    return Claim(Fence(Scope(scope.tenant, user, session), run_id, token, key), previous)


def release(connection: Connection, lease: Lease, fence: Fence) -> None:
    """Make a run anybody's, if the fence still holds."""
    with of(connection, "tenant", fence.scope.tenant):
        connection.execute(_RELEASE, (fence.key, fence.token, lease.id))


# the directory


def find(connection: Connection, scope: Scope, run_id: str) -> RunSummary:
    """One run of the tenant."""
    found = rows(connection, scope, f"{_SUMMARY} WHERE tenant = %s AND run_id = %s", scope.tenant, run_id)
    if not found:
        raise no_such_run(scope, run_id)
    return _summary(found[0])


def listing(connection: Connection, scope: Scope, which: RunFilter) -> list[RunSummary]:
    """Runs of the scope, newest first."""
    wanted = {
        "tenant = %s": scope.tenant,
        "user_id = %s": scope.user,
        "session_id = %s": scope.session,
        "status = %s": which.status,
        "started_at < %s": which.before,
    }
    given = {condition: value for condition, value in wanted.items() if value is not None}
    query = f"{_SUMMARY} WHERE {' AND '.join(given)} ORDER BY started_at DESC, key DESC LIMIT %s"
    return [_summary(row) for row in rows(connection, scope, query, *given.values(), which.limit)]


def session(connection: Connection, scope: Scope, head: int | None) -> list[str]:
    """A session's ended runs in the order of their ends."""
    last = head if head is not None else 2**31 - 1
    found = rows(connection, scope, _SESSION, scope.tenant, scope.session, scope.user, last)
    return [run_id for (run_id,) in found]


def orphans(connection: Connection, lease: Lease) -> list[RunSummary]:
    """Runs of every tenant that are running, with no owner, one that is gone, or this worker."""
    with of(connection, "operator", "on"):
        found = connection.execute(
            f"""WITH owners AS MATERIALIZED (
              SELECT worker, worker = %s OR shipworthy.gone(worker, %s) AS gone
              FROM (SELECT DISTINCT worker FROM shipworthy.runs WHERE status = 'running' AND worker IS NOT NULL) AS o)
            {_SUMMARY} WHERE status = 'running' AND (worker IS NULL OR worker IN (SELECT worker FROM owners WHERE gone))
            ORDER BY key""",
            (lease.id, lease.skew),
        ).fetchall()
    return [_summary(row) for row in found]


def resign(connection: Connection, lease: Lease) -> None:
    """Release the runs that this worker drives, and its lease; forget workers that are long gone. Listeners wake up."""
    with of(connection, "operator", "on"):
        connection.execute(
            "UPDATE shipworthy.runs SET worker = NULL WHERE worker = %s AND status = 'running'", (lease.id,)
        )
        connection.execute(
            "DELETE FROM shipworthy.workers WHERE id = %s OR lease_until < shipworthy.now_ms() - 86400000",
            (lease.id,),
        )
        connection.execute("SELECT pg_notify('shipworthy', '0')")


def prune(connection: Connection, ended_before: int) -> int:
    """Forget some of the runs that ended before this time and are in no session, or one session whose every run did."""
    singles = (
        f"SELECT key FROM shipworthy.runs WHERE {_ENDED} AND updated_at < %s AND position IS NULL LIMIT %s"
    )
    sessions = f"""SELECT tenant, user_id, session_id FROM shipworthy.runs WHERE session_id IS NOT NULL
    GROUP BY 1, 2, 3 HAVING bool_and({_ENDED} AND updated_at < %s) AND bool_or(position IS NOT NULL) LIMIT 1"""
    with of(connection, "operator", "on"):
        keys = connection.execute(singles, (ended_before, PRUNED_AT_ONCE)).fetchall()
        if not keys and (old := connection.execute(sessions, (ended_before,)).fetchall()):
            mine = "tenant = %s AND user_id IS NOT DISTINCT FROM %s AND session_id = %s"
            keys = connection.execute(
                f"SELECT key FROM shipworthy.runs WHERE {mine} FOR UPDATE", old[0]
            ).fetchall()
        gone = [key for (key,) in keys]
        for table, column in (("journal", "run"), ("bodies", "run"), ("runs", "key")):
            connection.execute(f"DELETE FROM shipworthy.{table} WHERE {column} = ANY(%s)", (gone,))
    return len(gone)


def _summary(row: tuple[Any, ...]) -> RunSummary:
    tenant, user, session_id, run_id, status, started_at, updated_at, head = row
    return RunSummary(Scope(tenant, user, session_id), run_id, status, started_at, updated_at, head)
