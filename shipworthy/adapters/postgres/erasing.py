"""Forgetting whose something was: each operation is one transaction of the tenant, and may be made again."""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.operations import ask, do, forget_journal, of
from shipworthy.adapters.shared.entries import no_such_run, not_to_bury, root_of
from shipworthy.domain.journal import Tombstones
from shipworthy.domain.scope import Scope
from shipworthy.rules.codec import encode_events
from shipworthy.rules.erasing import ERASED, accounts_of, accounts_of_run, head_of, holds_of_run

_HEAD = "SELECT head, status, key FROM runs WHERE tenant = ? AND run_id = ? FOR UPDATE"
_BURIED = "SELECT 1 FROM runs WHERE tenant = ? AND run_id = ?"
_BURY = """UPDATE runs SET run_id = ?, "user" = NULL, session = NULL, position = NULL, root = ?, wake_at = NULL,
worker = NULL, watched = 0 WHERE key = ?"""
_LEFT = "INSERT INTO journal VALUES (?, ?, 1, ?, ?)"
_COUNTERS = """SELECT id FROM counters WHERE tenant = ? AND left(key, length(?)) = ? ORDER BY id FOR UPDATE"""
_CHANGES = "SELECT nth, level, tenant, name FROM changes WHERE tenant = ?"
REMAINS = (
    "{name}: PostgreSQL keeps rows that were replaced or deleted until it vacuums their tables, and bytes of them in "
    "its files until those are written anew: VACUUM (FULL) shipworthy.runs, shipworthy.journal, shipworthy.bodies, "
    "shipworthy.grants, shipworthy.counters, shipworthy.holds, shipworthy.changes, shipworthy.audit_entries. Its "
    "write-ahead log, archives of that, replicas, backups and the server's own log may hold copies for as long as they "
    "are kept."
)


def bury(connection: Connection, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
    """`Erasure.bury`. Asked again though it was done, it is done."""
    with of(connection, "tenant", scope.tenant):
        if tombstones and ask(connection, _BURIED, (scope.tenant, tombstones[0].alias)):
            return
        keys = [_key(connection, scope, each) for each in tombstones]
        forget_journal(connection, keys)
        for key, each in zip(keys, tombstones, strict=True):
            do(connection, _BURY, (each.alias, root_of(each.events[0]), key))
            left = (key, scope.tenant, len(each.events), encode_events(each.events))
            do(connection, _LEFT, left)
        for each in tombstones:
            for head in holds_of_run(scope.tenant, each.run_id):
                do(
                    connection,
                    "DELETE FROM holds WHERE state <> 'held' AND left(id, length(?)) = ?",
                    (head, head),
                )
        _drop(
            connection, scope, [h for each in tombstones for h in accounts_of_run(scope.tenant, each.run_id)]
        )


def _key(connection: Connection, scope: Scope, each: Tombstones) -> int:
    """The key of a run that may be buried, which is locked. Raises RunNotFound, RunBusy."""
    found = ask(connection, _HEAD, (scope.tenant, each.run_id))
    if not found:
        raise no_such_run(scope, each.run_id)
    head, status, key = found[0]
    if status in ("running", "paused") or head != len(each.events):
        raise not_to_bury(each.run_id)
    return int(key)


def disown(connection: Connection, scope: Scope) -> None:
    """`Erasure.disown`."""
    heads = accounts_of(scope)
    with of(connection, "tenant", scope.tenant):
        if scope.session is None:
            query = 'DELETE FROM grants WHERE tenant = ? AND "user" = coalesce(?, "user")'
            do(connection, query, (scope.tenant, scope.user))
        _drop(connection, scope, heads)
        found = ask(connection, _CHANGES, (scope.tenant,))
        own = [nth for nth, *whose in found if head_of(*whose).startswith(heads)]
        do(connection, "UPDATE changes SET name = ?, why = ? WHERE nth = ANY (?)", (ERASED, ERASED, own))


def _drop(connection: Connection, scope: Scope, heads: Sequence[str]) -> None:
    """What a ledger keeps under keys that begin so. Counters are locked in the order of their ids, as everywhere."""
    gone = sorted({id for h in heads for (id,) in ask(connection, _COUNTERS, (scope.tenant, h, h))})
    do(connection, "SELECT drop_counters(?)", (gone,))
    for head in heads:
        for table, key in (("caps", '"limit"'), ("carried", "key")):
            query = f"DELETE FROM {table} WHERE tenant = ? AND left({key}, length(?)) = ?"
            do(connection, query, (scope.tenant, head, head))
