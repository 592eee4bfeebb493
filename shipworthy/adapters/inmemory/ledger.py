"""The ledger in memory: exact for all runs of one process, bounded, and gone with it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from shipworthy.adapters.inmemory import counters
from shipworthy.adapters.inmemory.counters import Counter, Counters
from shipworthy.adapters.shared.entries import demand
from shipworthy.domain.ledger import (
    Account,
    Balance,
    Carried,
    Change,
    Forget,
    Granted,
    Hold,
    Line,
    Pace,
    Refused,
    Settled,
    Settlement,
    Unit,
    Window,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.rules.ledger import belongs, keys_of

CARRIED = 500
"""Counters that are carried to another ledger at once."""


class InMemoryLedger(Counters):
    """Counters of at most *max_users* accounts (runs apart), exact while the process lives.

    When it is full, accounts make room whose windows are all over, those first that nobody used for longest. A counter
    that still matters is never forgotten: a newcomer is refused with LedgerFull. A sweep forgets counters whose windows
    were over *idle* seconds ago.
    """

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close: what is in memory stays until the ledger is dropped."""

    # reserving and settling

    async def reserve(self, hold: Hold) -> Granted | Refused:
        with self._lock:
            return self.take(hold)

    async def settle(self, settlement: Settlement) -> Settled:
        with self._lock:
            return self.put(settlement)

    async def release(self, tenant: str, hold: str) -> None:
        with self._lock:
            self._give_up_place(tenant, hold)
            held = self._holds.get(hold)
            if held is not None:
                none = tuple([0] * len(held.amounts))
                self.put(Settlement(id=hold, tenant=tenant, amounts=none, rates=(0,) * len(held.hold.rates)))

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        with self._lock:
            for name in holds:
                held = self._holds.get(name)
                if held is not None and held.state == "held" and held.hold.tenant == tenant:
                    held.until, held.renewed = counters.now_ms() + ttl, ttl
                    self._next_expiry = min(self._next_expiry, held.until)

    async def forget(self, forget: Forget) -> None:
        with self._lock:
            self.drop(forget)

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        with self._lock:
            found = [self._counters.get(key) for key in keys]
        return [
            (c.spent, c.held) if c is not None and c.line.account.tenant in ("", scope.tenant) else (0, 0)
            for c in found
        ]

    async def sweep(self, operator: Operator) -> int:
        demand(operator)
        with self._lock:
            now = counters.now_ms()
            expired = self._expire(now)
            for key in [k for k, c in self._counters.items() if self._is_over(c, now - self._idle)]:
                self._drop(key)
            self._tidy(now)
        return expired

    # accounts

    async def show(self, operator: Operator, tenant: str | None, user: str | None) -> Sequence[Balance]:
        demand(operator)
        with self._lock:
            found = [self._balance(c) for c in self._counters.values()]
        return [b for b in found if belongs(b.account, tenant, user)]

    async def top(
        self, operator: Operator, unit: Unit, window: Window, level: str, limit: int
    ) -> Sequence[Balance]:
        demand(operator)
        with self._lock:
            found = [self._balance(c) for c in self._counters.values()]
        of_kind = [b for b in found if (b.unit, b.window, b.account.level) == (unit, window, level)]
        latest = max([b.start for b in of_kind], default=0)
        most = sorted(of_kind, key=lambda b: b.spent, reverse=True)
        return [b for b in most if b.start == latest][:limit]

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
        demand(operator)
        limit = keys_of(account, unit, window, 0)[1]
        with self._lock:
            self._caps.pop(limit, None)
            if cap is not None:
                self._caps[limit] = cap
            for counter in self._counters.values():
                if counter.line.limit == limit:
                    counter.warned = False
            self._changes.append(Change(counters.now_ms(), "set", account, unit, window, cap, who, why))

    async def reset(
        self, operator: Operator, account: Account, unit: Unit, window: Window, who: str, why: str
    ) -> int:
        demand(operator)
        limit, was = keys_of(account, unit, window, 0)[1], 0
        with self._lock:
            for counter in self._counters.values():
                if counter.line.limit == limit:
                    was, counter.spent, counter.warned = was + counter.spent, 0, False
            self._write_off(limit)
            self._changes.append(Change(counters.now_ms(), "reset", account, unit, window, was, who, why))
        return was

    def _write_off(self, limit: str) -> None:
        """What was charged for expired holds is not there any more: a late settlement has nothing to give back."""
        for held in self._holds.values():
            if held.state == "expired":
                lines = zip(held.hold.lines, held.charged, strict=True)
                held.charged = tuple([0 if line.limit == limit else charged for line, charged in lines])

    async def changes(self, operator: Operator, limit: int) -> Sequence[Change]:
        demand(operator)
        with self._lock:
            return [*reversed(self._changes)][:limit]

    # removal

    async def counters(self, operator: Operator, apart_from: str, after: str) -> Sequence[Carried]:
        demand(operator)
        with self._lock:
            keys = heapq.nsmallest(CARRIED, [key for key in self._counters if key > after])
            return [self._carry_out(self._counters[key], apart_from) for key in keys]

    def _carry_out(self, counter: Counter, apart_from: str) -> Carried:
        line = counter.line
        spent = counter.spent + counter.held - self._carried.get((apart_from, line.key), 0)
        whose = (line.account, line.unit, line.window, line.start, line.end)
        return Carried(line.key, line.limit, *whose, spent, counter.warned)

    async def paces(self, operator: Operator) -> Sequence[Pace]:
        demand(operator)
        with self._lock:
            return [Pace(key, owed) for key, owed in self._owed.items()]

    async def carry(
        self,
        operator: Operator,
        origin: str,
        counters: Sequence[Carried],
        paces: Sequence[Pace] = (),
        changes: Sequence[Change] = (),
    ) -> None:
        demand(operator)
        with self._lock:
            for change in changes:
                self._carry_change(change)
            for carried in counters:
                self._carry_counter(origin, carried)
            for pace in paces:
                self._owed[pace.key] = max(self._owed.get(pace.key, 0), pace.owed)

    def _carry_counter(self, origin: str, carried: Carried) -> None:
        new = carried.spent - self._carried.get((origin, carried.key), 0)
        if not new:
            return
        counter = self._counters.get(carried.key)
        if counter is None:
            whose = (carried.account, carried.unit, carried.window, carried.start, carried.end)
            [counter] = self._found([Line(carried.key, carried.limit, *whose, 0)], counters.now_ms())
        counter.spent = max(counter.spent + new, 0)
        counter.warned = counter.warned or carried.warned
        self._carried[origin, carried.key] = carried.spent

    def _carry_change(self, change: Change) -> None:
        if change in self._changes:
            return
        limit, later = keys_of(change.account, change.unit, change.window, 0)[1], False
        for known in self._changes:
            same = keys_of(known.account, known.unit, known.window, 0)[1] == limit
            later = later or (same and known.action == "set" and known.at > change.at)
        self._changes.append(change)
        if change.action == "set" and not later:
            self._caps.pop(limit, None)
            if change.amount is not None:
                self._caps[limit] = change.amount

    def _balance(self, counter: Counter) -> Balance:
        line = counter.line
        cap = self._caps.get(line.limit)
        return Balance(line.account, line.unit, line.window, line.start, counter.spent, counter.held, cap)
