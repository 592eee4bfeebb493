"""Forgetting whose something was, inside the writer's transaction; and leaving no byte of it in the file."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from shipworthy.adapters.shared.entries import no_such_run, not_to_bury, root_of
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.adapters.sqlite.operations import forget_journal
from shipworthy.domain.journal import Tombstones
from shipworthy.domain.scope import Scope
from shipworthy.rules.codec import encode_events
from shipworthy.rules.erasing import ERASED, accounts_of, accounts_of_run, head_of, holds_of_run

_CHANGES = "SELECT id, level, tenant, name FROM changes WHERE tenant = ?"
_BY_KEY = (("counters", "key"), ("caps", '"limit"'), ("rates", "key"), ("carried", "key"))
"""Where a ledger keeps what is somebody's under keys that begin with the account."""
_HEAD = "SELECT head, status, key FROM runs WHERE tenant = ? AND run_id = ?"
_BURY = """UPDATE runs SET run_id = ?, user = NULL, session = NULL, position = NULL, root = ?, wake_at = NULL,
worker = NULL, before = NULL, tail = (SELECT coalesce(max(id), 0) + 1 FROM journal) WHERE key = ?"""
_LEFT = "INSERT INTO journal (run, prev, first, last, events) VALUES (?, NULL, 1, ?, ?)"


def bury(cursor: apsw.Cursor, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
    """`Erasure.bury`."""
    keys = [_key(cursor, scope, each) for each in tombstones]
    for key, each in zip(keys, tombstones, strict=True):
        forget_journal(cursor, [(key,)])
        cursor.execute(_BURY, (each.alias, root_of(each.events[0]), key))
        cursor.execute(_LEFT, (key, len(each.events), encode_events(each.events)))
        _forget_run(cursor, scope.tenant, each.run_id)


def _key(cursor: apsw.Cursor, scope: Scope, each: Tombstones) -> int:
    """The key of a run that may be buried. Raises RunNotFound, RunBusy."""
    found = rows(cursor, _HEAD, (scope.tenant, each.run_id))
    if not found:
        raise no_such_run(scope, each.run_id)
    head, status, key = found[0]
    if status in ("running", "paused") or head != len(each.events):
        raise not_to_bury(each.run_id)
    return int(key)


def _forget_run(cursor: apsw.Cursor, tenant: str, run_id: str) -> None:
    _drop(cursor, accounts_of_run(tenant, run_id))
    for head in holds_of_run(tenant, run_id):
        cursor.execute(
            "DELETE FROM holds WHERE tenant = ?2 AND state <> 'held' AND substr(id, 1, length(?1)) = ?1",
            (head, tenant),
        )
        cursor.execute(
            "DELETE FROM places WHERE tenant = ?2 AND substr(hold, 1, length(?1)) = ?1", (head, tenant)
        )


def disown(cursor: apsw.Cursor, scope: Scope) -> None:
    """`Erasure.disown`."""
    if scope.session is None:
        cursor.execute(
            "DELETE FROM grants WHERE tenant = ? AND user = coalesce(?, user)", (scope.tenant, scope.user)
        )
    heads = accounts_of(scope)
    _drop(cursor, heads)
    found = rows(cursor, _CHANGES, (scope.tenant,))
    own = [id for id, *whose in found if head_of(*whose).startswith(heads)]
    cursor.executemany(
        "UPDATE changes SET name = ?, why = ? WHERE id = ?", [(ERASED, ERASED, id) for id in own]
    )


def _drop(cursor: apsw.Cursor, heads: Sequence[str]) -> None:
    for head in heads:
        for table, key in _BY_KEY:
            cursor.execute(f"DELETE FROM {table} WHERE substr({key}, 1, length(?1)) = ?1", (head,))


def scrub(connection: apsw.Connection) -> None:
    """Write the whole file anew and cut its WAL to nothing, so that what was replaced or deleted is in neither: free
    pages, and what lies between the rows of others, go with the old file. Nobody can write meanwhile. Raises
    apsw.BusyError if somebody reads for longer than the busy timeout.
    """
    connection.execute("VACUUM")
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)


REMAINS = (
    "{path}: what was erased is in neither the file nor its WAL. Copies that others made of the file (backups, "
    "snapshots of its disk, replicas), and blocks of the disk that are free now, may still hold it."
)
