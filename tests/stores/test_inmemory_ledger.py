"""The in-memory ledger stays small: what nobody needs any more is forgotten in a sweep."""

from __future__ import annotations

from contextlib import nullcontext

import msgspec
import pytest

from shipworthy import InMemoryLedger, Operator
from shipworthy.adapters.inmemory import counters
from shipworthy.domain.ledger import Account, Forget, Hold, Level, Line, Rate, Settlement, Window
from shipworthy.domain.scope import Scope
from shipworthy.errors import LedgerFull
from shipworthy.rules.ledger import account, account_of, keys_of
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


def of(level: Level, name: str, *, end: int = 0, cap: int = 10) -> Line:
    whose = account(level, "acme", name)
    window: Window = "day" if end else "total"
    key, limit = keys_of(whose, "tokens", window, 0)
    return Line(key, limit, whose, "tokens", window, 0, end, cap)


async def reserved(ledger: InMemoryLedger, id: str, *lines: Line, final: bool = True) -> None:
    n = len(lines)
    await ledger.reserve(
        Hold(id=id, tenant="acme", lines=lines, base=(1,) * n, each=(0,) * n, final=final, patient=True)
    )


def test_runs_are_no_users() -> None:
    """Nor are sessions of one run, agents, or everybody together: any number fits beside one user."""

    async def main() -> None:
        ledger = InMemoryLedger(max_users=1)
        alone = account_of("session", Scope("acme", "alice"), run_id="r")
        for n in range(50):
            session = msgspec.structs.replace(of("session", str(n)), account=alone, key=f"session {n}")
            await reserved(
                ledger, str(n), of("run", str(n)), of("agent", str(n)), session, of("user", "alice")
            )
        with pytest.raises(LedgerFull):
            await reserved(ledger, "bob", of("user", "bob"))
        await reserved(ledger, "last", of("run", "last"), of("user", "alice"))

    go(main())


def test_who_finds_a_full_ledger_leaves_nothing_behind() -> None:
    """Two newcomers in one hold, and room for one: neither of them gets a counter, and neither does a run."""

    async def main() -> None:
        ledger = InMemoryLedger(max_users=2)
        await reserved(ledger, "a", of("user", "alice"))
        for final in (True, False):
            with pytest.raises(LedgerFull):
                await reserved(
                    ledger, "b", of("run", "r"), of("user", "bob"), of("tenant", "acme"), final=final
                )
        assert [len(kept) for kept in (ledger._counters, ledger._accounts)] == [1, 1]
        await reserved(ledger, "b", of("user", "bob"))

    go(main())


def test_a_full_ledger_is_looked_through_once_until_something_may_have_become_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is held may be settled at any time: it is looked at again after a second, windows when they end."""

    async def main() -> None:
        ledger, now = InMemoryLedger(max_users=3), counters.now_ms()
        looks, look = [], ledger._idle_accounts
        monkeypatch.setattr(ledger, "_idle_accounts", lambda *asked: looks.append(asked) or look(*asked))

        async def asked(at: int, *, full: bool, looked: int) -> None:
            looks.clear()
            monkeypatch.setattr(counters, "now_ms", lambda: now + at)
            for n in range(5 if full else 1):
                with pytest.raises(LedgerFull) if full else nullcontext():
                    await reserved(ledger, f"{at} {n}", of("user", f"{at} {n}", end=now + 10**9))
            assert len(looks) == looked, at

        await reserved(ledger, "never", of("user", "never"))
        await reserved(ledger, "busy", of("user", "busy", end=now + 1), final=False)
        await reserved(ledger, "later", of("user", "later", end=now + 60_000))
        await asked(10, full=True, looked=1)
        await asked(500, full=True, looked=0)
        await ledger.settle(Settlement(id="busy", tenant="acme", amounts=(1,)))
        await asked(5_000, full=False, looked=1)
        await asked(5_001, full=True, looked=1)
        await asked(59_999, full=True, looked=0)
        await asked(60_000, full=False, looked=1)
        await asked(60_001, full=True, looked=1)
        await ledger.forget(Forget("acme", (of("user", "never").key,)))
        await asked(60_002, full=False, looked=0)

    go(main())


def counts_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(counters, "_is_counted", lambda account: True)


def makes_one_after_another(patch: pytest.MonkeyPatch) -> None:
    found = InMemoryLedger._found
    patch.setattr(
        InMemoryLedger, "_found", lambda self, lines, now: [found(self, [line], now)[0] for line in lines]
    )


def looks_each_time(patch: pytest.MonkeyPatch) -> None:
    make_room = InMemoryLedger._make_room

    def mutant(self: InMemoryLedger, new: int, asking: set[Account], now: int) -> None:
        self._full = 0, 0
        make_room(self, new, asking, now)

    patch.setattr(InMemoryLedger, "_make_room", mutant)


def test_who_is_not_bounded_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for mutant, broken in (
        (counts_everybody, test_runs_are_no_users),
        (makes_one_after_another, test_who_finds_a_full_ledger_leaves_nothing_behind),
    ):
        with monkeypatch.context() as patch:
            mutant(patch)
            with pytest.raises((AssertionError, LedgerFull)):
                broken()
    looks_each_time(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_full_ledger_is_looked_through_once_until_something_may_have_become_free(monkeypatch)
