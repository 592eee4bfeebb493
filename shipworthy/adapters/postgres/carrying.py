"""Taking a ledger along to another store: what stands in this one, and what stood in another. In a transaction of an
operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.holds import RATE
from shipworthy.domain.ledger import Account, Carried, Change, Pace
from shipworthy.rules.ledger import keys_of, of_rate

AT_ONCE = 500
"""Counters that are read, or taken over, at once."""
_encode = msgspec.json.Encoder().encode

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('shipworthy carried', 0))"
_COUNTERS = f"""SELECT c.key, c."limit", c.level, c.tenant, c.name, c.unit, c."window", c.start, c.ends, b.warned,
b.spent + b.held - coalesce(o.amount, 0) FROM counters AS c JOIN balances AS b ON b.id = c.id
LEFT JOIN carried AS o ON o.origin = %s AND o.tenant = c.tenant AND o.key = c.key
WHERE c."window" <> '{RATE}' AND c.key > %s ORDER BY c.key LIMIT %s"""
_PACES = f"""SELECT substr(c.key, 6), b.spent FROM counters AS c JOIN balances AS b ON b.id = c.id
WHERE c."window" = '{RATE}' """
_CARRIED = "SELECT key, amount FROM carried WHERE origin = %s AND key = ANY (%s)"
_REMEMBER = """INSERT INTO carried (origin, tenant, key, amount)
SELECT %s, u.tenant, u.key, u.total FROM json_to_recordset(%s) AS u (tenant text, key text, total bigint)
ON CONFLICT (key, origin, tenant) DO UPDATE SET amount = excluded.amount"""
# As in lock_counters (ledger.sql): the missing are made in one order, then all are locked in the order of their ids.
_MAKE = """WITH made AS (
  INSERT INTO counters (tenant, key, "limit", level, name, unit, "window", start, ends)
  SELECT u.* FROM json_to_recordset(%s) AS u (tenant text, key text, "limit" text, level text, name text, unit text,
    "window" text, start bigint, ends bigint)
  ORDER BY u.tenant COLLATE "C", u.key COLLATE "C" ON CONFLICT (key, tenant) DO NOTHING RETURNING id, tenant
) INSERT INTO balances (id, tenant, used) SELECT id, tenant, true FROM made"""
_LOCK = """SELECT c.id FROM json_to_recordset(%s) AS u (tenant text, key text)
JOIN counters AS c ON c.key = u.key AND c.tenant = u.tenant ORDER BY c.id FOR UPDATE OF c"""
_ADD = """UPDATE balances AS b SET used = true, warned = b.warned OR u.warned,
spent = CASE WHEN u.is_rate THEN greatest(b.spent, u.new) ELSE greatest(b.spent + u.new, 0) END
FROM json_to_recordset(%s) AS u (tenant text, key text, new bigint, warned boolean, is_rate boolean)
JOIN counters AS c ON c.key = u.key AND c.tenant = u.tenant WHERE b.id = c.id"""
_KIND = """tenant = %s AND level = %s AND name = %s AND unit = %s AND "window" = %s"""
_KNOWN = f"""SELECT FROM changes WHERE at = %s AND action = %s AND amount IS NOT DISTINCT FROM %s AND who = %s
AND why = %s AND {_KIND}"""
_LATER = f"SELECT FROM changes WHERE action = 'set' AND at > %s AND {_KIND}"
_RECORD = """INSERT INTO changes (at, action, amount, who, why, tenant, level, name, unit, "window")
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_UNSET = 'DELETE FROM caps WHERE tenant = %s AND "limit" = %s'
_SET = 'INSERT INTO caps (tenant, "limit", cap) VALUES (%s, %s, %s)'


def counters(connection: Connection, apart_from: str, after: str) -> list[Carried]:
    """`Removal.counters`."""
    found = connection.execute(_COUNTERS.encode(), (apart_from, after, AT_ONCE)).fetchall()
    return [
        Carried(key, limit, Account(level, tenant, name), unit, window, start, end, spent, warned)
        for key, limit, level, tenant, name, unit, window, start, end, warned, spent in found
    ]


def paces(connection: Connection) -> list[Pace]:
    """`Removal.paces`."""
    return [Pace(key, owed) for key, owed in connection.execute(_PACES.encode()).fetchall()]


def carry(
    connection: Connection,
    origin: str,
    counters: Sequence[Carried],
    paces: Sequence[Pace],
    changes: Sequence[Change],
) -> None:
    """`Removal.carry`."""
    connection.execute(_ONE_AT_A_TIME)
    for change in changes:
        _change(connection, change)
    found = connection.execute(_CARRIED, (origin, [each.key for each in counters])).fetchall()
    known: dict[str, int] = dict(found)
    rows = [_of_counter(each, known.get(each.key, 0)) for each in counters]
    changed = [row for row in rows if row["new"]]
    added = [*changed, *map(_of_pace, paces)]
    if not added:
        return
    sent = _encode(added).decode()
    connection.execute(_MAKE, (sent,))
    connection.execute(_LOCK, (sent,))
    connection.execute(_ADD, (sent,))
    connection.execute(_REMEMBER, (origin, _encode(changed).decode()))


def _of_counter(carried: Carried, known: int) -> dict[str, Any]:
    account = carried.account
    return {
        "tenant": account.tenant,
        "key": carried.key,
        "limit": carried.limit,
        "level": account.level,
        "name": account.name,
        "unit": carried.unit,
        "window": carried.window,
        "start": carried.start,
        "ends": carried.end,
        "warned": carried.warned,
        "is_rate": False,
        "total": carried.spent,
        "new": carried.spent - known,
    }


def _of_pace(pace: Pace) -> dict[str, Any]:
    account, unit = of_rate(pace.key)
    key = f"rate:{pace.key}"
    row = Carried(key, key, account, unit, "run", 0, 0, pace.owed)
    return {**_of_counter(row, 0), "window": RATE, "is_rate": True}


def _change(connection: Connection, change: Change) -> None:
    account = change.account
    kind = (account.tenant, account.level, account.name, change.unit, change.window)
    said = (change.at, change.action, change.amount, change.who, change.why, *kind)
    if connection.execute(_KNOWN.encode(), said).fetchall():
        return
    connection.execute(_RECORD, said)
    if change.action == "set" and not connection.execute(_LATER.encode(), (change.at, *kind)).fetchall():
        limit = keys_of(account, change.unit, change.window, 0)[1]
        connection.execute(_UNSET, (account.tenant, limit))
        if change.amount is not None:
            connection.execute(_SET, (account.tenant, limit, change.amount))
