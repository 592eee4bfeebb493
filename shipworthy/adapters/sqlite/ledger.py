"""The ledger in a SQLite file: exact over all processes that share it, and as durable as its store."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import apsw
import msgspec

import shipworthy.adapters.sqlite.budget as budget
import shipworthy.adapters.sqlite.carrying as carrying
from shipworthy.adapters.shared.entries import demand
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.domain.ledger import (
    Account,
    Balance,
    Carried,
    Change,
    Forget,
    Granted,
    Hold,
    Pace,
    Refused,
    Settled,
    Settlement,
    Unit,
    Window,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import LedgerUnavailable, StoreError
from shipworthy.rules.ledger import MICROS, account, keys_of

T = TypeVar("T")
KEPT = 400 * budget.DAY
"""Milliseconds for which the counters of a window that is over are kept."""

_COUNTERS = """SELECT level, tenant, name, unit, "window", start, spent, held FROM counters"""
_KIND = """tenant = ? AND level = ? AND name = ? AND unit = ? AND "window" = ?"""
_CHANGE = """INSERT INTO changes (at, action, level, tenant, name, unit, "window", amount, who, why)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_CHANGES = """SELECT at, action, level, tenant, name, unit, "window", amount, who, why FROM changes
ORDER BY id DESC LIMIT ?"""
_TOP = f"""{_COUNTERS} WHERE level = ?1 AND unit = ?2 AND "window" = ?3
AND start = (SELECT max(start) FROM counters WHERE level = ?1 AND unit = ?2 AND "window" = ?3)
ORDER BY spent DESC LIMIT ?4"""
_SPENT = """SELECT key, spent, held FROM counters
WHERE key IN (SELECT value FROM json_each(?)) AND tenant IN ('', ?)"""


class Work(Protocol):
    """A lane of the store: does something with a cursor of its own."""

    async def __call__(self, work: Callable[[apsw.Cursor], T], /) -> T: ...


class SqliteLedger:
    """The ledger of a `SqliteStore`; alone in a file it is used as `SqliteStore(path).ledger`.

    Opening it opens the store, and closing it closes the store unless that was opened for itself as well. Its clock is
    the wall clock. Raises LedgerUnavailable where the file cannot be read or written.
    """

    def __init__(
        self,
        write: Work,
        read: Work,
        use: Callable[[], Coroutine[Any, Any, None]],
        leave: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._write = write
        self._read = read
        self._use = use
        self._leave = leave

    async def open(self) -> None:
        """Open the store, if nobody has."""
        await _said(self._use())

    async def close(self) -> None:
        """Close the store, if nobody else uses it."""
        await _said(self._leave())

    # reserving and settling

    async def reserve(self, hold: Hold) -> Granted | Refused:
        """Reserve on every line and rate at once, or on none, durably."""
        return await _said(self._write(partial(budget.take, hold=hold)))

    async def settle(self, settlement: Settlement) -> Settled:
        """Put what was spent in place of what was held, once."""
        return await _said(self._write(partial(budget.put, settlement=settlement)))

    async def release(self, tenant: str, hold: str) -> None:
        """Give a hold back, or the place of one that waits."""
        await _said(self._write(partial(budget.release, tenant=tenant, hold=hold)))

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        """Have holds expire `ttl` milliseconds from now."""
        await _said(self._write(partial(budget.renew, tenant=tenant, names=holds, ttl=ttl)))

    async def forget(self, forget: Forget) -> None:
        """Drop counters that nothing draws on any more."""
        await _said(self._write(partial(budget.drop, forget=forget)))

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        """What is spent and what is held of each counter."""
        values = (msgspec.json.encode(list(keys)).decode(), scope.tenant)
        found = await _said(self._read(partial(rows, query=_SPENT, values=values)))
        known = {key: (spent, held) for key, spent, held in found}
        return [known.get(key, (0, 0)) for key in keys]

    async def sweep(self, operator: Operator) -> int:
        """Charge what is overdue and drop what is old, a little in each transaction. Gives how many holds expired."""
        demand(operator)
        at = budget.now()
        expired = await self._emptied(partial(budget.expire, at=at))
        await self._emptied(partial(budget.forget_holds, at=at))
        old = await _said(self._read(partial(_old, at=at)))
        for each in old:
            for i in range(0, len(each.keys), budget.AT_ONCE):
                keys = each.keys[i : i + budget.AT_ONCE]
                await _said(self._write(partial(_drop, query=each.query, keys=keys, before=each.before)))
        return expired

    async def _emptied(self, step: Callable[[apsw.Cursor], int]) -> int:
        """Do *step* until it finds less than it may do at once. Gives how much it did."""
        total = found = await _said(self._write(step))
        while found == budget.AT_ONCE:
            found = await _said(self._write(step))
            total += found
        return total

    # accounts

    async def show(self, operator: Operator, tenant: str | None, user: str | None) -> Sequence[Balance]:
        """Counters of a tenant (None: everybody's own), or of one of its users."""
        demand(operator)
        query, values = f"{_COUNTERS} WHERE tenant = ?", [tenant or ""]
        if user is not None:
            query += " AND level = 'user' AND name = ?"
            values.append(account("user", tenant or "", user).name)
        return await _said(self._read(partial(_balances, query=f"{query} ORDER BY id", values=values)))

    async def top(
        self, operator: Operator, unit: Unit, window: Window, level: str, limit: int
    ) -> Sequence[Balance]:
        """Who spent most in the latest windows of this kind, most first."""
        demand(operator)
        return await _said(self._read(partial(_balances, query=_TOP, values=(level, unit, window, limit))))

    async def set_cap(
        self,
        operator: Operator,
        account: Account,
        unit: Unit,
        window: Window,
        cap: int | None,
        who: str,
        why: str,
    ) -> None:
        """Override a cap from now on, in every process; a warning is due again."""
        demand(operator)
        change = Change(budget.now(), "set", account, unit, window, cap, who, why)
        await _said(self._write(partial(_set_cap, change=change)))

    async def reset(
        self, operator: Operator, account: Account, unit: Unit, window: Window, who: str, why: str
    ) -> int:
        """Take what was spent back to 0. Gives what it had been."""
        demand(operator)
        change = Change(budget.now(), "reset", account, unit, window, None, who, why)
        return await _said(self._write(partial(_reset, change=change)))

    async def changes(self, operator: Operator, limit: int) -> Sequence[Change]:
        """What was set and reset, newest first."""
        demand(operator)
        found = await _said(self._read(partial(rows, query=_CHANGES, values=(limit,))))
        return [
            Change(at, action, Account(level, tenant, name), unit, window, amount, who, why)
            for at, action, level, tenant, name, unit, window, amount, who, why in found
        ]

    # removal

    async def counters(self, operator: Operator, apart_from: str, after: str) -> Sequence[Carried]:
        """Some counters, from the one after the key *after*, without what came from *apart_from*."""
        demand(operator)
        return await _said(self._read(partial(carrying.counters, apart_from=apart_from, after=after)))

    async def paces(self, operator: Operator) -> Sequence[Pace]:
        """Every rate of which something may be used up."""
        demand(operator)
        return await _said(self._read(carrying.paces))

    async def carry(
        self,
        operator: Operator,
        origin: str,
        counters: Sequence[Carried],
        paces: Sequence[Pace] = (),
        changes: Sequence[Change] = (),
    ) -> None:
        """Take over what stands in another ledger, as far as it is new, in one transaction."""
        demand(operator)
        work = partial(carrying.carry, origin=origin, counters=counters, paces=paces, changes=changes)
        await _said(self._write(work))


async def _said(done: Coroutine[Any, Any, T]) -> T:
    """What a lane gives, with the store's errors as the ledger's."""
    try:
        return await done
    except StoreError as error:
        raise LedgerUnavailable(f"The ledger failed: {error.what}", fix=error.fix) from error


# on the reader's thread


class _Old(msgspec.Struct, frozen=True, gc=False):
    """Rows that may be dropped by `query`, if that is still so: it takes a key and *before*."""

    query: str
    keys: list[int | str]
    before: int


_OLD = (
    ("counters", "id", '"end" > 0 AND "end" <= ? AND held = 0', -KEPT, 1),
    ("places", "ticket", "until <= ?", 0, 1),
    ("rates", "key", "owed <= ?", -budget.DAY, MICROS),
)
"""What is dropped once it is old: table, key, when it is old, by which milliseconds, and in what unit of them."""


def _old(cursor: apsw.Cursor, at: int) -> list[_Old]:
    found = []
    for table, key, condition, by, unit in _OLD:
        before = (at + by) * unit
        keys = rows(cursor, f"SELECT {key} FROM {table} WHERE {condition}", (before,))
        query = f"DELETE FROM {table} WHERE {key} = ? AND {condition}"
        found.append(_Old(query, [each for (each,) in keys], before))
    return found


def _balances(cursor: apsw.Cursor, query: str, values: Sequence[apsw.SQLiteValue]) -> list[Balance]:
    found = rows(cursor, query, values)
    caps = dict(rows(cursor, 'SELECT "limit", cap FROM caps'))
    balances = []
    for level, tenant, name, unit, window, start, spent, held in found:
        whose = Account(level, tenant, name)
        cap = caps.get(keys_of(whose, unit, window, start)[1])
        balances.append(Balance(whose, unit, window, start, spent, held, cap))
    return balances


# in the writer's transaction


def _drop(cursor: apsw.Cursor, query: str, keys: list[int | str], before: int) -> None:
    cursor.executemany(query, [(key, before) for key in keys])


def _set_cap(cursor: apsw.Cursor, change: Change) -> None:
    limit = keys_of(change.account, change.unit, change.window, 0)[1]
    cursor.execute('DELETE FROM caps WHERE "limit" = ?', (limit,))
    if change.amount is not None:
        cursor.execute("INSERT INTO caps VALUES (?, ?)", (limit, change.amount))
    cursor.execute(f"UPDATE counters SET warned = 0 WHERE {_KIND}", _kind(change))
    _record(cursor, change, change.amount)


def _reset(cursor: apsw.Cursor, change: Change) -> int:
    found = dict(rows(cursor, f"SELECT id, spent FROM counters WHERE {_KIND}", _kind(change)))
    cursor.execute(f"UPDATE counters SET spent = 0, warned = 0 WHERE {_KIND}", _kind(change))
    budget.write_off(cursor, set(found))
    was = sum(found.values())
    _record(cursor, change, was)
    return was


def _kind(change: Change) -> tuple[str, ...]:
    account = change.account
    return (account.tenant, account.level, account.name, change.unit, change.window)


def _record(cursor: apsw.Cursor, change: Change, amount: int | None) -> None:
    values = (change.at, change.action, change.account.level, change.account.tenant, change.account.name)
    rest = (change.unit, change.window, amount, change.who, change.why)
    cursor.execute(_CHANGE, (*values, *rest))
