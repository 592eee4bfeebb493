"""Forgetting so that no byte is left: what SQLite itself leaves behind, and how it is got rid of.

What is deleted is overwritten (`PRAGMA secure_delete`, on every connection that writes a memory). That is not all: when
SQLite evens out pages, it moves records between them and leaves the old copies in the gaps, where no later deletion
finds them. So the tables that something was removed from are made again: what is left is copied to a new table, and the
old one is dropped, which overwrites each of its pages whole. At last the WAL is moved into the file and cut to nothing.
`VACUUM` would do it too, but it holds up all who write the file for as long as its whole size takes, the journals of
the runtime included. A table that is yet to be made again is in `memory_unclean`, so that erasing again goes on.
"""

from __future__ import annotations

import re
import secrets

import apsw

from shipworthy.adapters.sqlite.connection import rows
from shipworthy.adapters.sqlite.memory_records import scope_of, shelf_of, unclean, whose
from shipworthy.adapters.sqlite.memory_schema import PARTITIONS, SHELVES, records_of
from shipworthy.domain.scope import Scope

_REMOVED = 1
_WITHIN = """SELECT key, tenant, user, session FROM memory_partitions WHERE tenant = ?1
AND (user = ?2 OR ?2 = X'' AND ?3 = X'') AND (session = ?3 OR ?3 = X'') ORDER BY key"""
_FORGET = "DELETE FROM memory_records WHERE place > ?1 << 32 AND place < (?1 + 1) << 32"
_LEAVE = "DELETE FROM memory_partitions WHERE key = ?"
_EVERYTHING = "SELECT key, tenant, user, session FROM memory_partitions WHERE key > ? ORDER BY key LIMIT ?"

Pending = list[tuple[str, int]]


def within(cursor: apsw.Cursor, scope: Scope) -> list[Scope]:
    """See the port."""
    return [scope_of(*row[1:]) for row in rows(cursor, _WITHIN, whose(scope))]


def everything(cursor: apsw.Cursor, after: str, limit: int) -> list[tuple[str, Scope]]:
    """See the port."""
    found = rows(cursor, _EVERYTHING, (int(after or 0), min(max(limit, 0), 2**31)))
    return [(f"{key:020}", scope_of(*row)) for key, *row in found]


def forget(cursor: apsw.Cursor, scope: Scope) -> int:
    """Remove the partitions within *scope*, in one transaction; gives how many records they had."""
    count = 0
    for key, tenant, user, _ in rows(cursor, _WITHIN, whose(scope)):
        table = records_of(shelf_of(tenant, user))
        cursor.execute(_FORGET.replace("memory_records", table), (key,))
        count += cursor.connection.changes()
        cursor.execute(_LEAVE, (key,))
        unclean(cursor, table)
        unclean(cursor, PARTITIONS)
    return count


def to_be_made_again(cursor: apsw.Cursor, scope: Scope) -> list[str]:
    """The tables that may keep copies of what was removed from the scope, now or before, or, with it, from what the
    whole tenant shares."""
    tenant, user, _ = whose(scope)
    shelves = {shelf_of(tenant, user), shelf_of(tenant, b"")} if user else range(SHELVES)
    names = {PARTITIONS, *map(records_of, shelves)}
    found = rows(cursor, "SELECT name FROM memory_unclean WHERE state = ? ORDER BY name", (_REMOVED,))
    return [name for (name,) in found if name in names]


def make_again(cursor: apsw.Cursor, table: str) -> None:
    """Copy a table to a new one of its name."""
    [(sql,)] = rows(cursor, "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,))
    query = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
    indexes = rows(cursor, query, (table,))
    found = rows(cursor, "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", (table,))
    columns = ", ".join(f'"{name}"' for (name,) in found)
    cursor.execute(re.sub(rf'^CREATE TABLE "?{table}"?', f"CREATE TABLE {table}_new", sql))
    cursor.execute(f"INSERT INTO {table}_new ({columns}) SELECT {columns} FROM {table}")
    cursor.execute(f"DROP TABLE {table}")
    cursor.execute(f"ALTER TABLE {table}_new RENAME TO {table}")
    for (index,) in indexes:
        cursor.execute(index)
    state = 2 + secrets.randbits(61)
    cursor.execute("UPDATE memory_unclean SET state = ? WHERE name = ?", (state, table))


def pending(cursor: apsw.Cursor) -> Pending:
    """The tables that were made again, in a WAL that is yet to be cut."""
    return rows(cursor, "SELECT name, state FROM memory_unclean WHERE state <> ?", (_REMOVED,))


def cut(connection: apsw.Connection) -> None:
    """Move the WAL into the file and cut it to nothing. Raises apsw.BusyError if a reader prevents it."""
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)


def done(cursor: apsw.Cursor, tables: Pending) -> None:
    """Nothing is left in them, unless something was removed meanwhile."""
    cursor.executemany("DELETE FROM memory_unclean WHERE name = ? AND state = ?", tables)
