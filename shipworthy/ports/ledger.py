"""The ledger: counters that are never passed, whoever draws on them at once.

The one law: what is settled plus what is held never passes a cap, in whatever order coroutines, processes and machines
come, and whenever one of them dies; only a settlement above its reservation can, which then blocks what comes after.
Laws that every adapter keeps are in `shipworthy.testing.contracts.ledger`. Methods may be called from any event loop.
Raise LedgerError where the ledger cannot be read or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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


class Ledger(Protocol):
    """Reserving before, settling after."""

    async def reserve(self, hold: Hold) -> Granted | Refused:
        """Reserve on every line and rate at once, or on none. An in-memory ledger answers without suspending.

        Who is patient and refused because others hold the room keeps a place before that line, and an age that is
        compared on every line: nobody who asked later comes first there. While it is held off only by its elders the
        place stays where it is.
        """
        ...

    async def settle(self, settlement: Settlement) -> Settled:
        """Put what was spent in place of what was held, once. A hold that was charged in full because it expired is
        corrected, where that charge was not reset meanwhile; one that is not there is not charged. What its rates were
        not used for is given back unless time has paid for it: once nothing was owed after it was taken."""
        ...

    async def release(self, tenant: str, hold: str) -> None:
        """Give a hold back: its request was surely not sent. The same as settling nothing."""
        ...

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        """Have holds expire `ttl` milliseconds from now; those that are not held any more are left as they are."""
        ...

    async def forget(self, forget: Forget) -> None:
        """Drop counters that nothing draws on any more."""
        ...

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        """What is spent and what is held of each of these counters of the tenant (and of everybody's); zeros for those
        that are not there."""
        ...

    async def sweep(self, operator: Operator) -> int:
        """Charge every expired hold in full, to the windows in which it was reserved, and drop what is old. Gives how
        many holds expired."""
        ...

    async def open(self) -> None:
        """Make ready; calling again does nothing."""
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...


class Accounts(Protocol):
    """What operators do with a ledger."""

    async def show(self, operator: Operator, tenant: str | None, user: str | None) -> Sequence[Balance]:
        """Counters of a tenant (None: everybody's own), or of one of its users."""
        ...

    async def top(
        self, operator: Operator, unit: Unit, window: Window, level: str, limit: int
    ) -> Sequence[Balance]:
        """Who spent most in the present or latest windows of this kind, most first."""
        ...

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
        """Override a cap from now on (None: take the override back), and keep a record of who did it and why."""
        ...

    async def reset(
        self, operator: Operator, account: Account, unit: Unit, window: Window, who: str, why: str
    ) -> int:
        """Take what was spent in the counters of this kind back to 0, recorded as well. Gives what it had been. Holds
        stay; those that have expired are written off, so that settling them late adds what they used."""
        ...

    async def changes(self, operator: Operator, limit: int) -> Sequence[Change]:
        """What was set and reset, newest first."""
        ...


class Removal(Protocol):
    """What a ledger does when the runs of its store are brought to another one, so that no cap begins anew there. A
    ledger that is no store's own stays where it is."""

    async def counters(self, operator: Operator, apart_from: str, after: str) -> Sequence[Carried]:
        """Some counters, in the order of their keys, from the one after the key *after* ("": from the first); none when
        there are no more. What was carried here from *apart_from* is not in them."""
        ...

    async def paces(self, operator: Operator) -> Sequence[Pace]:
        """Every rate of which something may be used up."""
        ...

    async def carry(
        self,
        operator: Operator,
        origin: str,
        counters: Sequence[Carried],
        paces: Sequence[Pace] = (),
        changes: Sequence[Change] = (),
    ) -> None:
        """Take over what stands in the ledger *origin*: at once, and only what is new since the last time, so that
        doing it again changes nothing. An override is in force unless a later one was set here."""
        ...
