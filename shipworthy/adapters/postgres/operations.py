"""Everything but appending and reading: each operation is one transaction, and may be made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.connection import of as of
from shipworthy.adapters.postgres.writer import Lease
from shipworthy.adapters.shared.entries import no_such_run
from shipworthy.adapters.shared.queries import SUMMARY, UNNEEDED, summary
from shipworthy.domain.journal import Claim, Fence, RunSummary
from shipworthy.domain.scope import Scope
from shipworthy.errors import RunBusy

WATCHED = 60
"""Seconds for which a run's commits are told after somebody asked."""
PRUNED_AT_ONCE = 64
HISTORY = """SELECT r.head, j.first, j.events FROM runs AS r LEFT JOIN journal AS j ON j.run = r.key AND j.last > ?
WHERE r.tenant = ? AND r.run_id = ? ORDER BY j.first"""
_ENDED = "status NOT IN ('running', 'paused')"
_ORPHANS = f"""WITH owners AS MATERIALIZED (
  SELECT worker FROM (SELECT DISTINCT worker FROM runs WHERE status = 'running') AS running
  WHERE worker = ? OR gone(worker, ?))
{SUMMARY} WHERE status = 'running' AND root IS NULL AND (worker IS NULL OR worker IN (SELECT worker FROM owners))
ORDER BY key"""
_OLD_SINGLES = f"""SELECT key FROM runs WHERE {_ENDED} AND updated_at < ? AND position IS NULL AND {UNNEEDED}
LIMIT ?"""
_OLD_SESSIONS = f"""SELECT DISTINCT tenant, "user", session FROM runs
WHERE {_ENDED} AND updated_at < ? AND position IS NOT NULL"""
_OF_SESSION = f"""SELECT key, {_ENDED} AND updated_at < ? FROM runs
WHERE tenant = ? AND "user" IS NOT DISTINCT FROM ? AND session = ? FOR UPDATE"""


def do(connection: Connection, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
    """Have a statement executed; in a pipeline, when its rows are asked for or the transaction ends."""
    return connection.execute(statement.replace("?", "%s").encode(), values)


def ask(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[Any]:
    """The rows that a query gives."""
    return do(connection, query, values).fetchall()


def watch(connection: Connection, scope: Scope, run_id: str) -> int:
    """Have the run's commits told for a while; its key. A mark that is lost is made again: it is not synced."""
    with of(connection, "tenant", scope.tenant):
        do(connection, "SET LOCAL synchronous_commit = off")
        query = "UPDATE runs SET watched = now_ms() + ? WHERE tenant = ? AND run_id = ? RETURNING key"
        found = ask(connection, query, (WATCHED * 1000, scope.tenant, run_id))
    return int(found[0][0]) if found else 0


def claim(connection: Connection, lease: Lease, scope: Scope, run_id: str) -> Claim:
    """Make this worker the owner of a run that nobody drives. Raises RunNotFound, RunBusy."""
    with of(connection, "tenant", scope.tenant):
        [(key, token, user, session, previous, owner)] = ask(
            connection, "SELECT * FROM claim(?, ?, ?, ?)", (lease.id, lease.skew, scope.tenant, run_id)
        )
    if key is None:
        raise no_such_run(scope, run_id)
    if token is None:
        raise RunBusy(f"Run {run_id!r} is driven by worker {owner}, which is alive.")
    return Claim(Fence(Scope(scope.tenant, user, session), run_id, token, key), previous)


def release(connection: Connection, lease: Lease, fence: Fence) -> None:
    """Make a run anybody's, if the fence still holds."""
    query = """UPDATE runs SET worker = NULL
    WHERE key = ? AND tenant = ? AND fence = ? AND worker = ? AND status = 'running'"""
    with of(connection, "tenant", fence.scope.tenant):
        do(connection, query, (fence.key, fence.scope.tenant, fence.token, lease.id))


# of every tenant


def orphans(connection: Connection, lease: Lease) -> list[RunSummary]:
    """Runs that are running, with no owner, one that is gone, or this worker."""
    with of(connection, "operator", "on"):
        return [summary(row) for row in ask(connection, _ORPHANS, (lease.id, lease.skew))]


def resign(connection: Connection, lease: Lease) -> None:
    """Release the runs that this worker drives, and its lease; forget workers that are long gone. Listeners wake up."""
    with of(connection, "operator", "on"):
        do(connection, "UPDATE runs SET worker = NULL WHERE worker = ? AND status = 'running'", (lease.id,))
        do(connection, "DELETE FROM workers WHERE id = ? OR lease_until < now_ms() - 86400000", (lease.id,))
        do(connection, "SELECT pg_notify('shipworthy', '0')")


def prune_singles(connection: Connection, ended_before: int) -> int:
    """Forget some of the runs that ended before this time and are in no session's order. Gives how many."""
    with of(connection, "operator", "on"):
        gone = [key for (key,) in ask(connection, _OLD_SINGLES, (ended_before, PRUNED_AT_ONCE))]
        return _forget(connection, gone)


def old_sessions(connection: Connection, ended_before: int) -> list[tuple[Any, ...]]:
    """Sessions of which at least one run ended before this time."""
    with of(connection, "operator", "on"):
        return ask(connection, _OLD_SESSIONS, (ended_before,))


def prune_session(connection: Connection, session: tuple[Any, ...], ended_before: int) -> int:
    """Forget a session if its every run is old, in one transaction: no part is ever seen. Gives how many."""
    with of(connection, "operator", "on"):
        found = ask(connection, _OF_SESSION, (ended_before, *session))
        return _forget(connection, [key for key, _ in found]) if all([old for _, old in found]) else 0


def forget_expired(connection: Connection) -> None:
    """Forget the grants of everybody that have expired."""
    with of(connection, "operator", "on"):
        do(connection, "DELETE FROM grants WHERE expires_at <= now_ms()")


def _forget(connection: Connection, keys: list[int]) -> int:
    forget_journal(connection, keys)
    do(connection, "DELETE FROM runs WHERE key = ANY(?)", (keys,))
    return len(keys)


def forget_journal(connection: Connection, keys: list[int]) -> None:
    """Drop the batches of these runs, and their bodies."""
    for table in ("journal", "bodies"):
        do(connection, f"DELETE FROM {table} WHERE run = ANY(?)", (keys,))
