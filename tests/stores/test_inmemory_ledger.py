"""The in-memory ledger stays small: what nobody needs any more is forgotten in a sweep."""

from __future__ import annotations

import pytest

from shipworthy import InMemoryLedger, Operator
from shipworthy.adapters.inmemory import counters
from shipworthy.domain.ledger import Hold, Line, Rate, Settlement
from shipworthy.domain.scope import Scope
from shipworthy.rules.ledger import account, keys_of
from tests.engine.world import go

OPERATOR = Operator("test")


def tokens(cap: int) -> Line:
    whose = account("user", "acme", "alice")
    key, limit = keys_of(whose, "tokens", "total", 0)
    return Line(key, limit, whose, "tokens", "total", 0, 0, cap)


def test_a_sweep_forgets_places_that_were_not_kept_and_rates_of_which_nothing_is_owed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        ledger, line, now = InMemoryLedger(), tokens(10), counters.now_ms()
        rate = Rate("rate", account("user", "acme", "alice"), "requests", 60, 60_000, 60)
        rated = {"rates": (rate,), "rate_base": (1,), "rate_each": (0,)}
        await ledger.reserve(Hold(id="a", tenant="acme", lines=(line,), base=(10,), each=(0,), **rated))
        await ledger.reserve(Hold(id="b", tenant="acme", lines=(line,), base=(1,), each=(0,), patient=True))
        assert (len(ledger._places), len(ledger._owed)) == (1, 1)

        monkeypatch.setattr(counters, "now_ms", lambda: now + 60_000)
        await ledger.sweep(OPERATOR)
        assert (len(ledger._places), len(ledger._owed)) == (0, 1)  # more may be settled than was reserved

        await ledger.settle(Settlement(id="a", tenant="acme", amounts=(10,)))
        await ledger.sweep(OPERATOR)
        assert (len(ledger._owed), len(ledger._idle_at)) == (0, 0)
        assert await ledger.spent(Scope("acme"), [line.key]) == [(10, 0)]

    go(main())


def test_what_became_of_holds_is_remembered_for_so_many() -> None:
    async def main() -> None:
        ledger, line = InMemoryLedger(), tokens(10**9)
        for n in range(counters.REMEMBERED + 50):
            await ledger.reserve(
                Hold(id=str(n), tenant="acme", lines=(line,), base=(1,), each=(0,), final=True)
            )
        assert len(ledger._holds) == counters.REMEMBERED

    go(main())
