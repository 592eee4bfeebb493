"""The ledger in PostgreSQL: exact over all processes that share the database, and written with the store's commits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from shipworthy.adapters.postgres import carrying
from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.holds import RATE, Apply, Operation, Release, Renewal, expire
from shipworthy.adapters.shared.entries import demand
from shipworthy.domain.ledger import (
    Account,
    Balance,
    Carried,
    Change,
    Forget,
    Granted,
    Hold,
    Outcome,
    Pace,
    Refused,
    Settled,
    Settlement,
    Unit,
    Window,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import (
    CommitUncertain,
    LedgerError,
    LedgerUnavailable,
    StoreClosed,
    StoreError,
    StoreUnavailable,
)
from shipworthy.rules.ledger import account as account_of
from shipworthy.rules.ledger import keys_of

T = TypeVar("T")
DAY = 86_400_000
KEPT = 400 * DAY
"""Milliseconds for which the counters of a window that is over are kept."""

_COUNTERS = f"""SELECT c.level, c.tenant, c.name, c.unit, c."window", c.start, b.spent, b.held, k.cap
FROM counters AS c JOIN balances AS b ON b.id = c.id
LEFT JOIN caps AS k ON k.tenant = c.tenant AND k."limit" = c."limit" WHERE c."window" <> '{RATE}'"""
_SHOW = f"{_COUNTERS} AND c.tenant = %s ORDER BY c.id"
_SHOW_USER = f"{_COUNTERS} AND c.tenant = %s AND c.level = 'user' AND c.name = %s ORDER BY c.id"
_KIND = """level = %s AND unit = %s AND "window" = %s"""
_TOP = f"""{_COUNTERS} AND {_KIND} AND start = (SELECT max(start) FROM counters WHERE {_KIND})
ORDER BY b.spent DESC, c.id LIMIT %s"""
_SPENT = """SELECT c.key, b.spent, b.held FROM counters AS c JOIN balances AS b ON b.id = c.id
WHERE c.tenant IN ('', ?) AND c.key = ANY (?)"""
_LOCK = 'SELECT id FROM counters WHERE tenant = %s AND "limit" = %s ORDER BY id FOR UPDATE'
_SET = """INSERT INTO caps (tenant, "limit", cap) VALUES (%s, %s, %s)
ON CONFLICT ("limit", tenant) DO UPDATE SET cap = excluded.cap"""
_FORGIVE = """UPDATE holds
SET forgiven = forgiven || ARRAY(SELECT unnest(counters) INTERSECT SELECT unnest(%s::bigint[]))
WHERE state = 'expired' AND counters && %s::bigint[]"""
_RECORD = """INSERT INTO changes (at, action, tenant, level, name, unit, "window", amount, who, why)
VALUES (now_ms(), %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_CHANGES = """SELECT at, action, level, tenant, name, unit, "window", amount, who, why FROM changes
ORDER BY nth DESC LIMIT %s"""


class Home(Protocol):
    """What a ledger needs of the store that it lives in."""

    async def use(self) -> None: ...

    async def leave(self) -> None: ...

    async def apply(self, work: Apply) -> Outcome | Refused: ...

    async def operate(self, work: Callable[[Connection], T]) -> T: ...

    async def look(self, scope: Scope, query: str, values: Sequence[Any]) -> list[Any]: ...


class PostgresLedger:
    """The ledger of a `PostgresStore`. Its clock is the server's. What many tasks reserve and settle at once, and what
    is committed beside them, is one transaction."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._opened = False

    async def open(self) -> None:
        """Open the store, unless it is open."""
        await _said(self._home.use())
        self._opened = True

    async def close(self) -> None:
        """Close the store, if it is open for the ledger alone."""
        if self._opened:
            self._opened = False
            await self._home.leave()

    # reserving and settling

    async def reserve(self, hold: Hold) -> Granted | Refused:
        """Reserve on every line and rate at once, or on none."""
        answer: Granted | Refused = await self._apply(hold)
        return answer

    async def settle(self, settlement: Settlement) -> Settled:
        """Put what was spent in place of what was held, once."""
        answer: Settled = await self._apply(settlement)
        return answer

    async def release(self, tenant: str, hold: str) -> None:
        """Give a hold back, and its place in the order."""
        await self._apply(Release(hold, tenant))

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        """Have holds expire *ttl* milliseconds from now; those that are not held any more are left as they are."""
        await self._apply(Renewal(tenant, tuple(holds), ttl))

    async def forget(self, forget: Forget) -> None:
        """Drop counters that nothing draws on any more."""
        await self._apply(forget)

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        """What is spent and what is held of each of these counters of the tenant, and of everybody's."""
        found = await _said(self._home.look(scope, _SPENT, (scope.tenant, list(keys))))
        stands = {key: (spent, held) for key, spent, held in found}
        return [stands.get(key, (0, 0)) for key in keys]

    async def sweep(self, operator: Operator) -> int:
        """Charge every expired hold in full, and drop what is old. Gives how many expired."""
        demand(operator)
        total = 0
        while expired := await self._operate(expire):
            total += expired
        await self._operate(lambda c: c.execute("SELECT drop_old(%s, %s)", (DAY, KEPT)))
        return total

    # accounts

    async def show(self, operator: Operator, tenant: str | None, user: str | None) -> Sequence[Balance]:
        """Counters of a tenant (None: everybody's own), or of one of its users."""
        demand(operator)
        if user is None:
            return await self._balances(_SHOW, (tenant or "",))
        return await self._balances(_SHOW_USER, (tenant or "", account_of("user", tenant or "", user).name))

    async def top(
        self, operator: Operator, unit: Unit, window: Window, level: str, limit: int
    ) -> Sequence[Balance]:
        """Who spent most in the present or latest windows of this kind, most first."""
        demand(operator)
        kind = (level, unit, window)
        return await self._balances(_TOP, (*kind, *kind, limit))

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
        change = Change(0, "set", account, unit, window, cap, who, why)
        await self._operate(partial(_set_cap, change=change))

    async def reset(
        self, operator: Operator, account: Account, unit: Unit, window: Window, who: str, why: str
    ) -> int:
        """Take what was spent back to 0; holds stay. Gives what it had been."""
        demand(operator)
        change = Change(0, "reset", account, unit, window, None, who, why)
        return await self._operate(partial(_reset, change=change))

    async def changes(self, operator: Operator, limit: int) -> Sequence[Change]:
        """What was set and reset, newest first."""
        demand(operator)
        found = await self._operate(lambda c: c.execute(_CHANGES, (limit,)).fetchall())
        return [
            Change(at, action, Account(level, tenant, name), unit, window, amount, who, why)
            for at, action, level, tenant, name, unit, window, amount, who, why in found
        ]

    # removal

    async def counters(self, operator: Operator, apart_from: str, after: str) -> Sequence[Carried]:
        """Some counters, from the one after the key *after*, without what came from *apart_from*."""
        demand(operator)
        return await self._operate(partial(carrying.counters, apart_from=apart_from, after=after))

    async def paces(self, operator: Operator) -> Sequence[Pace]:
        """Every rate of which something may be used up."""
        demand(operator)
        return await self._operate(carrying.paces)

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
        await self._operate(
            partial(carrying.carry, origin=origin, counters=counters, paces=paces, changes=changes)
        )

    # parts

    async def _apply(self, operation: Operation) -> Any:
        return await _said(self._home.apply(Apply(operation.tenant, (operation,))))

    async def _operate(self, work: Callable[[Connection], T]) -> T:
        return await _said(self._home.operate(work))

    async def _balances(self, query: str, values: Sequence[Any]) -> Sequence[Balance]:
        found = await self._operate(lambda c: c.execute(query.encode(), values).fetchall())
        return [
            Balance(Account(level, tenant, name), unit, window, start, spent, held, cap)
            for level, tenant, name, unit, window, start, spent, held, cap in found
        ]


async def _said(done: Awaitable[T]) -> T:
    """What the store gives, with its errors as the ledger's."""
    try:
        return await done
    except CommitUncertain as error:
        raise LedgerUnavailable(error.what) from error
    except StoreError as error:
        kind = LedgerUnavailable if isinstance(error, (StoreUnavailable, StoreClosed)) else LedgerError
        raise kind(error.what, fix=error.fix) from error


# in a transaction of an operator


def _set_cap(connection: Connection, change: Change) -> None:
    """Counters are locked first, as everywhere, so that no hold is judged meanwhile."""
    locked = _locked(connection, change)
    _, limit = keys_of(change.account, change.unit, change.window, 0)
    if change.amount is None:
        connection.execute(
            'DELETE FROM caps WHERE tenant = %s AND "limit" = %s', (change.account.tenant, limit)
        )
    else:
        connection.execute(_SET, (change.account.tenant, limit, change.amount))
    connection.execute("UPDATE balances SET warned = false WHERE id = ANY (%s)", (locked,))
    _record(connection, change, change.amount)


def _reset(connection: Connection, change: Change) -> int:
    locked = _locked(connection, change)
    query = "SELECT coalesce(sum(spent), 0)::bigint FROM balances WHERE id = ANY (%s)"
    [(was,)] = connection.execute(query, (locked,)).fetchall()
    connection.execute("UPDATE balances SET spent = 0, warned = false WHERE id = ANY (%s)", (locked,))
    connection.execute(
        _FORGIVE, (locked, locked)
    )  # what was reset is not given back when they are settled late
    _record(connection, change, was)
    return int(was)


def _locked(connection: Connection, change: Change) -> list[int]:
    _, limit = keys_of(change.account, change.unit, change.window, 0)
    return [id for (id,) in connection.execute(_LOCK, (change.account.tenant, limit)).fetchall()]


def _record(connection: Connection, change: Change, amount: int | None) -> None:
    account = change.account
    whose = (account.tenant, account.level, account.name, change.unit, change.window)
    connection.execute(_RECORD, (change.action, *whose, amount, change.who, change.why))
