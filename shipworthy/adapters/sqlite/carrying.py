"""Taking a ledger along to another store: what stands in this one, and what stood in another."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from shipworthy.adapters.sqlite.connection import rows
from shipworthy.domain.ledger import Account, Carried, Change, Pace
from shipworthy.rules.ledger import keys_of

AT_ONCE = 500
"""Counters that are read, or taken over, at once."""
_COUNTERS = """SELECT c.key, level, tenant, name, unit, "window", start, "end", warned,
spent + held - coalesce(o.amount, 0) FROM counters AS c LEFT JOIN carried AS o ON o.origin = ? AND o.key = c.key
WHERE c.key > ? ORDER BY c.key LIMIT ?"""
_CARRIED = "SELECT amount FROM carried WHERE origin = ? AND key = ?"
_REMEMBER = """INSERT INTO carried VALUES (?, ?, ?)
ON CONFLICT (origin, key) DO UPDATE SET amount = excluded.amount"""
_ADD = """INSERT INTO counters (key, level, tenant, name, unit, "window", start, "end", spent, warned)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, max(?9, 0), ?10)
ON CONFLICT (key) DO UPDATE SET spent = max(spent + ?9, 0), warned = warned OR ?10"""
_OWE = "INSERT INTO rates VALUES (?, ?, 0) ON CONFLICT (key) DO UPDATE SET owed = max(owed, excluded.owed)"
_KIND = """tenant = ? AND level = ? AND name = ? AND unit = ? AND "window" = ?"""
_KNOWN = (
    f"SELECT 1 FROM changes WHERE at = ? AND action = ? AND amount IS ? AND who = ? AND why = ? AND {_KIND}"
)
_LATER = f"SELECT 1 FROM changes WHERE action = 'set' AND at > ? AND {_KIND}"
_RECORD = """INSERT INTO changes (at, action, amount, who, why, tenant, level, name, unit, "window")
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def counters(cursor: apsw.Cursor, apart_from: str, after: str) -> list[Carried]:
    """`Removal.counters`."""
    found = rows(cursor, _COUNTERS, (apart_from, after, AT_ONCE))
    carried = []
    for key, level, tenant, name, unit, window, start, end, warned, spent in found:
        whose = Account(level, tenant, name)
        limit = keys_of(whose, unit, window, start)[1]
        carried.append(Carried(key, limit, whose, unit, window, start, end, spent, bool(warned)))
    return carried


def paces(cursor: apsw.Cursor) -> list[Pace]:
    """`Removal.paces`."""
    return [Pace(key, owed) for key, owed in rows(cursor, "SELECT key, owed FROM rates")]


def carry(
    cursor: apsw.Cursor,
    origin: str,
    counters: Sequence[Carried],
    paces: Sequence[Pace],
    changes: Sequence[Change],
) -> None:
    """`Removal.carry`, in the writer's transaction."""
    for change in changes:
        _change(cursor, change)
    for counter in counters:
        _counter(cursor, origin, counter)
    cursor.executemany(_OWE, [(pace.key, pace.owed) for pace in paces])


def _counter(cursor: apsw.Cursor, origin: str, carried: Carried) -> None:
    known = rows(cursor, _CARRIED, (origin, carried.key))
    new = carried.spent - (known[0][0] if known else 0)
    if not new:
        return
    account = carried.account
    whose = (account.level, account.tenant, account.name, carried.unit, carried.window)
    cursor.execute(_ADD, (carried.key, *whose, carried.start, carried.end, new, carried.warned))
    cursor.execute(_REMEMBER, (origin, carried.key, carried.spent))


def _change(cursor: apsw.Cursor, change: Change) -> None:
    account = change.account
    kind = (account.tenant, account.level, account.name, change.unit, change.window)
    said = (change.at, change.action, change.amount, change.who, change.why, *kind)
    if rows(cursor, _KNOWN, said):
        return
    cursor.execute(_RECORD, said)
    if change.action == "set" and not rows(cursor, _LATER, (change.at, *kind)):
        limit = keys_of(account, change.unit, change.window, 0)[1]
        cursor.execute('DELETE FROM caps WHERE "limit" = ?', (limit,))
        if change.amount is not None:
            cursor.execute("INSERT INTO caps VALUES (?, ?)", (limit, change.amount))
