"""Taking a store's ledger along when its runs are brought to another one, so that no cap begins anew there.

What is held counts as spent: its process is gone, or it is corrected for when the ledger is carried once more. Each
carrying adds what is new since the last one, so that it may be interrupted anywhere, and done again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shipworthy.domain.events import AnyEvent, ModelAbandoned
from shipworthy.domain.ledger import Carried, Change, Pace, Settlement
from shipworthy.domain.scope import Operator, Scope
from shipworthy.domain.usage import Charge
from shipworthy.ports.store import OwnLedger
from shipworthy.rules import budgets as rules
from shipworthy.rules.ledger import of_rate
from shipworthy.rules.state import replay

_OPERATOR = Operator("shipworthy runs migrate")
_ALL = 1_000_000
_AT_ONCE = 500
_charge = msgspec.json.Decoder(Charge).decode


class Removal:
    """From one store's ledger to another's. `origin` and `to`: what they are called in the other one, the same each
    time: the counters of another origin are added to those that came before."""

    def __init__(
        self, source: OwnLedger, destination: OwnLedger, *, origin: str, to: str, tenant: str | None
    ) -> None:
        self._source, self._destination = source, destination
        self._origin, self._to, self._tenant = origin, to, tenant

    async def work(self) -> int:
        """Carry the overrides of caps with who set them and why, the counters and the rates. Gives how many counters
        there were. Of one tenant alone, what everybody draws on together stays. Raises LedgerError."""
        changes = await self._changes()
        for first in range(0, len(changes), _AT_ONCE):
            some = changes[first : first + _AT_ONCE]
            await self._destination.carry(_OPERATOR, self._origin, (), (), some)
        total, after = 0, ""
        while page := await self._source.counters(_OPERATOR, self._to, after):
            after = page[-1].key
            counters = [each for each in page if self._is_asked_for(each)]
            await self._destination.carry(_OPERATOR, self._origin, counters)
            total += len(counters)
        paces = await self._paces()
        for first in range(0, len(paces), _AT_ONCE):
            await self._destination.carry(_OPERATOR, self._origin, (), paces[first : first + _AT_ONCE])
        return total

    async def _changes(self) -> Sequence[Change]:
        """The oldest first."""
        found = await self._source.changes(_OPERATOR, _ALL)
        return [each for each in reversed(found) if self._is_asked_for(each)]

    async def _paces(self) -> Sequence[Pace]:
        found = await self._source.paces(_OPERATOR)
        return [each for each in found if self._tenant in (None, of_rate(each.key)[0].tenant)]

    def _is_asked_for(self, each: Carried | Change) -> bool:
        return self._tenant in (None, each.account.tenant)


async def closed(ledger: OwnLedger, scope: Scope, events: list[AnyEvent], at: int) -> list[AnyEvent]:
    """What is to be recorded, before a run goes elsewhere, of an attempt that a crash left open: its hold is in this
    ledger only, so that no other could tell what it was charged. Nothing, where this ledger does not know it."""
    attempt = replay(events).attempt
    if attempt is None or attempt.reserved is None:
        return []
    reserved = attempt.reserved
    settled = await ledger.settle(Settlement(id=reserved.id, tenant=scope.tenant))
    if not settled.known:
        return []
    charged = _charge(settled.note) if settled.note else rules.in_full(reserved, settled.units)
    return [ModelAbandoned(seq=len(events) + 1, at=at, charged=charged, reason="crashed")]
