"""What is done to the tables inside the writer's transaction.

One rule makes a savepoint for each batch unnecessary: an operation that refuses, by raising a ShipworthyError
or by giving None, has written nothing yet (one that does something to the ledger as well has a savepoint: see
`budget.commit`). One that fails in any other way has the transaction begun again without it.
"""

from __future__ import annotations

import apsw

import shipworthy.adapters.sqlite.audit as audit
import shipworthy.adapters.sqlite.signing as signing
from shipworthy.adapters.shared.chaining import Growth
from shipworthy.adapters.shared.entries import Entry, no_such_run
from shipworthy.adapters.shared.queries import UNNEEDED
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.adapters.sqlite.workers import Worker
from shipworthy.domain.events import Previous
from shipworthy.domain.journal import Claim, Fence
from shipworthy.domain.scope import Scope
from shipworthy.errors import Fenced, RunBusy

PRUNED_AT_ONCE = 16

_GO_ON = """UPDATE runs SET head = ?, updated_at = ?, before = tail, tail = (SELECT max(id) + 1 FROM journal),
expired = 0
WHERE key = ? AND fence = ? AND head = ? AND worker = ? AND tenant = ? AND status = 'running'"""
_CHANGE = """UPDATE runs SET head = ?, updated_at = ?, before = tail, tail = (SELECT max(id) + 1 FROM journal),
status = ?, worker = CASE ? WHEN 'running' THEN worker END, expired = 0, wake_at = ?
WHERE key = ? AND fence = ? AND head = ? AND worker = ? AND tenant = ?"""
_CREATE = """INSERT INTO runs
(tenant, user, session, run_id, status, fence, worker, head, started_at, updated_at, wake_at, root, tail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(id), 0) + 1 FROM journal))
ON CONFLICT (tenant, run_id) DO NOTHING"""
_APPEND = """INSERT INTO journal (run, prev, first, last, events)
VALUES (?1, (SELECT before FROM runs WHERE key = ?1), ?2, ?3, ?4)"""
CHAIN = """WITH RECURSIVE chain (id, prev, first) AS (
  SELECT j.id, j.prev, j.first FROM runs AS r JOIN journal AS j ON j.id = r.tail AND j.run = r.key
  WHERE {where}
  UNION ALL
  SELECT j.id, j.prev, j.first FROM chain AS c JOIN journal AS j ON j.id = c.prev WHERE c.first > ?1 + 1
)"""
"""A run's batches, from its tail back to the one that holds the event after ?1."""
_KEEP = "INSERT INTO bodies (run, digest, data) VALUES (?, ?, ?) ON CONFLICT (run, digest) DO NOTHING"
_JOIN = """UPDATE runs SET position = (
  SELECT coalesce(max(position), 0) + 1 FROM runs WHERE tenant = ?1 AND user IS ?2 AND session = ?3
) WHERE key = ?4 AND position IS NULL"""


def begin(
    cursor: apsw.Cursor, worker: Worker, scope: Scope, run_id: str, entry: Entry, token: int
) -> Fence | None:
    """Create a run with its first batch. None if the tenant has a run of this id."""
    if entry.first != 1:
        raise Fenced(f"The first batch of run {run_id!r} starts at event {entry.first}; nothing was written.")
    owner = worker.id if entry.status == "running" else None
    row = (
        scope.tenant,
        scope.user,
        scope.session,
        run_id,
        entry.status,
        token,
        owner,
        entry.last,
        entry.started,
        entry.at,
        entry.wake_at,
        entry.root,
    )
    growth = audit.growth(cursor, entry)
    cursor.execute(_CREATE, row)
    if not cursor.connection.changes():
        return None
    key = cursor.connection.last_insert_rowid()
    _append(cursor, scope, key, entry, growth)
    return Fence(scope, run_id, token, key)


def commit(cursor: apsw.Cursor, worker: Worker, fence: Fence, entry: Entry) -> None:
    """Append to a run whose fence holds. Raises Fenced, AuditError."""
    growth = audit.growth(cursor, entry)
    key, token, tenant, due = fence.key, fence.token, fence.scope.tenant, entry.first - 1
    changes = cursor.connection.changes
    if entry.status == "running":
        cursor.execute(_GO_ON, (entry.last, entry.at, key, token, due, worker.id, tenant))
    if entry.status != "running" or not changes():
        change = (entry.last, entry.at, entry.status, entry.status, entry.wake_at)
        cursor.execute(_CHANGE, (*change, key, token, due, worker.id, tenant))
        if not changes():
            raise Fenced(_why_fenced(cursor, worker, fence, due))
    _append(cursor, fence.scope, key, entry, growth)


def _append(cursor: apsw.Cursor, scope: Scope, key: int, entry: Entry, growth: Growth | None) -> None:
    cursor.execute(_APPEND, (key, entry.first, entry.last, entry.events))
    if growth is not None:
        audit.carry(cursor, growth, key)
    for digest, data in entry.bodies.items():
        cursor.execute(_KEEP, (key, digest, data))
    if entry.joins and scope.session is not None:
        cursor.execute(_JOIN, (scope.tenant, scope.user, scope.session, key))
    if entry.grants:
        signing.remember(cursor, entry.grants)


def _why_fenced(cursor: apsw.Cursor, worker: Worker, fence: Fence, due: int) -> str:
    found = rows(
        cursor,
        "SELECT fence, worker, head FROM runs WHERE key = ? AND tenant = ?",
        (fence.key, fence.scope.tenant),
    )
    name = f"Run {fence.run_id!r}"
    if not found:
        return f"{name} is not in the store any more."
    token, owner, head = found[0]
    if token != fence.token or owner not in (None, worker.id):
        return f"{name} was taken over: its token is {token}, this worker's {fence.token}."
    if owner is None:
        return f"{name} was released by this worker; claim it before going on."
    return f"{name} has {head} events; a batch that follows {due} does not go on from there."


def claim(cursor: apsw.Cursor, worker: Worker, scope: Scope, run_id: str) -> Claim:
    """Make this worker the owner of a run that nobody drives. Raises RunNotFound, RunBusy."""
    found = rows(
        cursor,
        "SELECT key, fence, worker, status, user, session, expired FROM runs WHERE tenant = ? AND run_id = ?",
        (scope.tenant, run_id),
    )
    if not found:
        raise no_such_run(scope, run_id)
    key, token, owner, status, user, session, expired = found[0]
    previous: Previous = "released"
    if owner not in (None, worker.id) and status == "running":
        standing = worker.standing(cursor, owner)
        if standing == "alive":
            raise RunBusy(f"Run {run_id!r} is driven by worker {owner}, which is alive.")
        if standing == "dead":
            worker.bury(cursor, owner)
        previous = standing
    if expired or (owner is None and status == "running"):
        # Whoever claimed it from a stopped worker has committed nothing since; or a worker let go of it while it
        # drove it, and may still be inside a body.
        previous = "expired"
    change = (worker.id, previous == "expired", key)
    cursor.execute("UPDATE runs SET fence = fence + 1, worker = ?, expired = ? WHERE key = ?", change)
    return Claim(Fence(Scope(scope.tenant, user, session), run_id, token + 1, key), previous)


def release(cursor: apsw.Cursor, worker: Worker, fence: Fence) -> None:
    """Make a run anybody's, if the fence still holds."""
    query = "UPDATE runs SET worker = NULL WHERE key = ? AND fence = ? AND worker = ? AND status = 'running'"
    cursor.execute(query, (fence.key, fence.token, worker.id))


# pruning: the reader finds what is old, the writer looks again and forgets it, a little in each transaction

_ENDED = "status NOT IN ('running', 'paused')"


def old_singles(cursor: apsw.Cursor, ended_before: int) -> list[int]:
    """Keys of runs that ended before this time and are in no session's order."""
    query = f"SELECT key FROM runs WHERE {_ENDED} AND updated_at < ? AND position IS NULL AND {UNNEEDED}"
    return [key for (key,) in rows(cursor, query, (ended_before,))]


def old_sessions(cursor: apsw.Cursor, ended_before: int) -> list[Scope]:
    """Sessions of which at least one run ended before this time."""
    query = f"""SELECT DISTINCT tenant, user, session FROM runs
    WHERE {_ENDED} AND updated_at < ? AND position IS NOT NULL"""
    return [Scope(*row) for row in rows(cursor, query, (ended_before,))]


def forget_singles(cursor: apsw.Cursor, keys: list[int]) -> int:
    """Forget these runs."""
    return _forget(cursor, [(key,) for key in keys])


def forget_session(cursor: apsw.Cursor, scope: Scope, ended_before: int) -> int:
    """Forget a session if its every run is old, in one transaction: no part is ever seen. Gives how many."""
    session = (scope.tenant, scope.user, scope.session)
    mine = "FROM runs WHERE tenant = ? AND user IS ? AND session = ?"
    alive = f"SELECT 1 {mine} AND NOT ({_ENDED} AND updated_at < ?) LIMIT 1"
    if rows(cursor, alive, (*session, ended_before)):
        return 0
    return _forget(cursor, rows(cursor, f"SELECT key {mine}", session))


def _forget(cursor: apsw.Cursor, keys: list[tuple[int]]) -> int:
    forget_journal(cursor, keys)
    cursor.executemany("DELETE FROM runs WHERE key = ?", keys)
    return len(keys)


def forget_journal(cursor: apsw.Cursor, keys: list[tuple[int]]) -> None:
    """Drop the batches of these runs, and their bodies."""
    batches = f"{CHAIN.format(where='r.key = ?2')} SELECT id FROM chain"
    cursor.executemany(f"DELETE FROM journal WHERE id IN ({batches})", [(0, key) for (key,) in keys])
    cursor.executemany("DELETE FROM bodies WHERE run = ?", keys)
