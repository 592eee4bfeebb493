"""What is done to a partition's records, and the one place that says whose they are.

`Mine` is a cursor that sees one partition: what precedes each of its statements names the partition by tenant, user and
session, as `p`, and the statements know no other way to a record. An operation that refuses has written nothing yet.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from typing import Any
from zlib import crc32

import apsw

from shipworthy.adapters.shared.limits import PAGE, at_least_one, cut
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.adapters.sqlite.memory_schema import PARTITIONS, SHELVES, records_of
from shipworthy.domain.memory import NOWHERE, Changes, Entry, Kind, Mark, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryConflict

Whose = tuple[bytes, bytes, bytes]

_MINE = """WITH p AS (SELECT key, epoch, n FROM memory_partitions WHERE tenant = ?1 AND user = ?2 AND session = ?3)
"""
_WHERE = """memory_records AS r ON r.place > (p.key << 32) + {after} AND r.place < (p.key + 1) << 32"""
_MARK = "SELECT epoch, n FROM p"
SMALL = 1000
"""Records that a partition ever had, up to which what changed is given with its data: so one way to the file is
enough to find something in it."""
_CHANGES = f"""SELECT p.epoch, p.n, r.id, r.place & 4294967295, r.kind, r.at, r.weight, r.terms, r.vector,
  iif(p.n <= {SMALL}, r.data, X'')
FROM p LEFT JOIN {_WHERE.format(after="iif(p.epoch = ?4 AND ?5 BETWEEN 0 AND p.n, ?5, 0)")}
ORDER BY r.place LIMIT ?6"""
_WHOLE = "r.id, r.kind, r.data, r.at, r.weight, r.terms, r.vector, r.place & 4294967295"
_PAGE = f"""SELECT {_WHOLE} FROM p JOIN {_WHERE.format(after="max(?4, 0)")}
WHERE ?5 IS NULL OR r.kind = ?5 ORDER BY r.place LIMIT ?6"""
_GET = f"SELECT {_WHOLE} FROM p JOIN memory_records AS r ON r.partition = p.key AND r.id = ?4"
_HAS = "SELECT 1 FROM p JOIN memory_records AS r ON r.partition = p.key AND r.id = ?4"
_MAKE = """INSERT INTO memory_partitions (key, tenant, user, session, epoch, n)
SELECT partitions, ?1, ?2, ?3, ?4, 0 FROM memory_meta"""
_ADD = """INSERT INTO memory_records (place, id, kind, at, weight, terms, vector, data)
SELECT (p.key << 32) + ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 FROM p"""
_ADVANCE = "UPDATE memory_partitions SET n = ?4 WHERE key = (SELECT key FROM p)"
_RENEW = "UPDATE memory_partitions SET epoch = ?4 WHERE key = (SELECT key FROM p)"
_REMOVE = "DELETE FROM memory_records WHERE partition = (SELECT key FROM p) AND id = ?4"
_LEAVE = f"""DELETE FROM memory_partitions
WHERE key = (SELECT key FROM p) AND NOT EXISTS (SELECT 1 FROM p JOIN {_WHERE.format(after="0")})"""
_COUNT = "UPDATE memory_meta SET partitions = partitions + 1"
_UNCLEAN = """INSERT INTO memory_unclean VALUES (?, 1)
ON CONFLICT (name) DO UPDATE SET state = 1 WHERE state <> 1"""
_MOST = 2**31


def encoded(text: str) -> bytes:
    """Any text, so that two have one encoding only if they are the same."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """The text that `encoded` was given."""
    return data.decode("utf-8", "surrogatepass")


def whose(scope: Scope) -> Whose:
    """The scope as the file has it. A name that is missing differs from every name, the empty one too."""
    return encoded(scope.tenant), _name(scope.user), _name(scope.session)


def _name(name: str | None) -> bytes:
    return b"" if name is None else b"=" + encoded(name)


def scope_of(tenant: bytes, user: bytes, session: bytes) -> Scope:
    """The scope that `whose` was given."""
    names = [decoded(name[1:]) if name else None for name in (user, session)]
    return Scope(decoded(tenant), *names)


def shelf_of(tenant: bytes, user: bytes) -> int:
    """Where the records of a tenant's user are."""
    return crc32(tenant + b"\0" + user) % SHELVES


@cache
def _on_shelf(query: str, shelf: int) -> str:
    return _MINE + query.replace("memory_records", records_of(shelf))


class Mine:
    """A cursor that sees the partition of *scope*, and no other."""

    def __init__(self, cursor: apsw.Cursor, scope: Scope) -> None:
        self.cursor = cursor
        self._whose = whose(scope)
        self.shelf = shelf_of(*self._whose[:2])

    def ask(self, query: str, *values: apsw.SQLiteValue) -> list[Any]:
        """What a statement of this module gives; its values are numbered from ?4."""
        return rows(self.cursor, _on_shelf(query, self.shelf), (*self._whose, *values))

    def some(self, query: str, *values: apsw.SQLiteValue) -> list[Any]:
        """So much of what it gives, which ends in terms, vector and data, as an answer has, and one row more."""
        found, size = list[Any](), 0
        cursor = self.cursor.connection.cursor()
        try:
            for row in cursor.execute(_on_shelf(query, self.shelf), (*self._whose, *values)):
                found.append(row)
                if size >= PAGE:
                    break
                size += sum([len(part) for part in row[-3:-1] if part is not None])
        finally:
            cursor.close(True)  # what is not read to its end holds up those who cut the WAL
        return found

    def do(self, query: str, *values: apsw.SQLiteValue) -> int:
        """How many rows it wrote."""
        self.ask(query, *values)
        return self.cursor.connection.changes()


# reading


def changes(cursor: apsw.Cursor, scope: Scope, since: Mark, limit: int) -> Changes:
    """See the port."""
    mine = Mine(cursor, scope)
    found = mine.ask(_MARK)
    if found == [(since.epoch, since.n)]:
        return Changes([], since, reset=False, more=False)
    limit = at_least_one(limit)
    found = mine.some(_CHANGES, since.epoch, since.n, limit + 1)
    if not found:
        return Changes([], NOWHERE, reset=since != NOWHERE, more=False)
    epoch, last = found[0][:2]
    entries = [
        Entry(str(id, "utf-8", "surrogatepass"), n, kind, at, weight, terms, vector, data)
        for _, _, id, n, kind, at, weight, terms, vector, data in found
        if id is not None
    ]
    entries, more = cut(entries, limit)
    reset = since.epoch != epoch or not 0 <= since.n <= last
    return Changes(entries, Mark(epoch, entries[-1].n if more else last), reset, more)


def page(cursor: apsw.Cursor, scope: Scope, after: int, limit: int, kind: Kind | None) -> list[Record]:
    """See the port."""
    after, limit = min(after, 2**32), min(max(limit, 0), _MOST)
    return [_record(row) for row in Mine(cursor, scope).ask(_PAGE, after, kind, limit)]


def get(cursor: apsw.Cursor, scope: Scope, ids: Sequence[str]) -> list[Record]:
    """See the port."""
    mine = Mine(cursor, scope)
    return [_record(row) for id in ids for row in mine.ask(_GET, encoded(id))]


def _record(row: Sequence[Any]) -> Record:
    id, kind, data, at, weight, terms, vector, n = row
    return Record(id=decoded(id), kind=kind, data=data, at=at, weight=weight, terms=terms, vector=vector, n=n)


# writing


def put(cursor: apsw.Cursor, scope: Scope, records: Sequence[Record], replace: bool, at: Mark | None) -> Mark:
    """See the port."""
    mine = Mine(cursor, scope)
    found = mine.ask(_MARK)
    mark = Mark(*found[0]) if found else NOWHERE
    if at is not None and at != mark:
        raise MemoryConflict("Somebody else wrote to this partition meanwhile; nothing was written.")
    writing = _once(mine, records, replace)
    if not writing:
        return mark
    if not found:
        mark = Mark(new_epoch(), 0)
        cursor.execute(_COUNT)
        mine.do(_MAKE, mark.epoch)
    n = mark.n
    for record in writing:
        if replace and mine.do(_REMOVE, encoded(record.id)):
            unclean(cursor, records_of(mine.shelf))
        n += 1
        _add(mine, record, n)
    mine.do(_ADVANCE, n)
    return Mark(mark.epoch, n)


def _once(mine: Mine, records: Sequence[Record], replace: bool) -> list[Record]:
    """What is to be written: of an id the first one if it is not there, or with *replace* the last one."""
    writing: dict[str, Record] = {}
    for record in records:
        if replace:
            writing.pop(record.id, None)
            writing[record.id] = record
        elif record.id not in writing and not mine.ask(_HAS, encoded(record.id)):
            writing[record.id] = record
    return list(writing.values())


def _add(mine: Mine, record: Record, n: int) -> None:
    found = (record.terms, record.vector, record.data)
    mine.do(_ADD, n, encoded(record.id), record.kind, record.at, float(record.weight), *found)


def remove(cursor: apsw.Cursor, scope: Scope, ids: Sequence[str]) -> int:
    """See the port."""
    mine = Mine(cursor, scope)
    removed = sum([mine.do(_REMOVE, encoded(id)) for id in ids])
    if removed:
        unclean(cursor, records_of(mine.shelf))
        if mine.do(_LEAVE):
            unclean(cursor, PARTITIONS)
        else:
            mine.do(_RENEW, new_epoch())
    return removed


def unclean(cursor: apsw.Cursor, table: str) -> None:
    """Remember that something was removed from a table, of which pages may keep copies."""
    cursor.execute(_UNCLEAN, (table,))


def new_epoch() -> int:
    """Never 0, never one that was before."""
    return secrets.randbelow(2**63 - 1) + 1
