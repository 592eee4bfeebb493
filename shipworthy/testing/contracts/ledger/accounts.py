"""Laws of operators and of warnings: overrides are in force at once and recorded, a warning comes once."""

from __future__ import annotations

from shipworthy.domain.ledger import Refused
from shipworthy.errors import ConfigurationError
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    GLOBEX,
    OPERATOR,
    TODAY,
    TOMORROW,
    Law,
    Ledgers,
    OwnLedger,
    balance,
    balances,
    expired,
    granted,
    hold,
    line,
    refused,
    same,
    settlement,
    turned_away,
)

ALICE = account("user", ACME, "alice")
BOB = account("user", ACME, "bob")


async def a_warning_comes_once(ledgers: Ledgers) -> None:
    """With the settlement that brings a counter to it, by the line's place in that hold; holding alone warns nobody."""
    ledger = await ledgers.new()
    plain, soft = line("plain"), line("soft", soft=80)
    for n, (spent, warned) in enumerate([(50, ()), (29, ()), (1, (1,)), (5, ()), (0, ())]):
        assert (await granted(ledger, hold(f"h{n}", 15 if n else 50, plain, soft))).warned == ()
        assert (await ledger.settle(settlement(f"h{n}", 0, spent))).warned == warned
    assert (await ledger.settle(settlement("h2", 0, 0))).warned == (1,)


async def a_final_charge_warns_as_well(ledgers: Ledgers) -> None:
    """In the answer to its reserving, and again where that is asked again."""
    ledger, tokens = await ledgers.new(), line(soft=20)
    asking = hold("h", 20, tokens, final=True)
    answer = await granted(ledger, asking)
    assert answer.warned == (0,)
    assert same(await granted(ledger, asking), answer)
    assert (await granted(ledger, hold("next", 20, tokens, final=True))).warned == ()


async def every_counter_warns_for_itself(ledgers: Ledgers) -> None:
    """Each window anew; two lines of one hold both."""
    ledger = await ledgers.new()
    lines = line(soft=20), line(start=TOMORROW, soft=20), line("bob", soft=20)
    await granted(ledger, hold("h", 20, lines[0], lines[2]))
    assert (await ledger.settle(settlement("h", 20, 20))).warned == (0, 1)
    await granted(ledger, hold("next", 20, lines[1], lines[2]))
    assert (await ledger.settle(settlement("next", 20, 20))).warned == (0,)


async def who_may_bring_a_warning_is_told(ledgers: Ledgers) -> None:
    """A hold that is not near any warning, as its ledger says, brings none when it costs what was reserved."""
    ledger, tokens = await ledgers.new(), line(soft=50)
    for n in range(10):
        answer = await granted(ledger, hold(f"h{n}", 10, tokens))
        warned = (await ledger.settle(settlement(f"h{n}", 10))).warned
        assert answer.near or not warned, f"{n} was not near"


async def a_warning_comes_after_an_expiry(ledgers: Ledgers) -> None:
    """Nobody is there to be told of a full charge: who settles next is."""
    ledger, tokens = await ledgers.new(), line(soft=20)
    await granted(ledger, hold("dead", 30, tokens, ttl=1))
    await granted(ledger, hold("h", 10, tokens))
    await expired(ledger, 1)
    assert (await ledger.settle(settlement("h", 0))).warned == (0,)


async def a_new_cap_and_a_reset_warn_anew(ledgers: Ledgers) -> None:
    """What an operator changes begins again."""
    ledger, tokens = await ledgers.new(), line(soft=20)

    async def warned(id: str) -> bool:
        await granted(ledger, hold(id, 20, tokens))
        return bool((await ledger.settle(settlement(id, 20))).warned)

    assert await warned("first")
    assert not await warned("second")
    await _set(ledger, 1000)
    assert await warned("third")
    await _reset(ledger)
    assert await warned("fourth")
    assert not await warned("fifth")


async def an_override_is_in_force_at_once(ledgers: Ledgers) -> None:
    """Above the line's cap and below it, until it is taken back."""
    ledger, tokens = await ledgers.new(), line()
    await _set(ledger, 150)
    await granted(ledger, hold("h", 140, tokens))
    await _set(ledger, 120)
    assert await turned_away(ledger, hold("x", 1, tokens)) == Refused("held", 0, 120, 0, 140, 1)
    await ledger.settle(settlement("h", 40))
    assert await turned_away(ledger, hold("x", 81, tokens)) == Refused("spent", 0, 120, 40, 0, 81)
    await _set(ledger, None)
    assert await turned_away(ledger, hold("x", 61, tokens)) == Refused("spent", 0, 100, 40, 0, 61)


async def an_override_may_be_below_what_is_spent(ledgers: Ledgers) -> None:
    """Nothing more is granted then; what is held is still settled. Zero is a cap, not the absence of one."""
    ledger, tokens = await ledgers.new(), line()
    for id in ("spent", "held"):
        await granted(ledger, hold(id, 40, tokens))
    await ledger.settle(settlement("spent", 40))
    for cap in (10, 0):
        await _set(ledger, cap)
        assert await turned_away(ledger, hold("x", 1, tokens)) == Refused("spent", 0, cap, 40, 40, 1)
    await ledger.settle(settlement("held", 30))
    assert await balance(ledger, tokens) == (70, 0)


async def an_override_is_kept_for_every_window(ledgers: Ledgers) -> None:
    """Of its account, its unit and its kind of window, and of no other; nothing need have been spent before."""
    ledger = await ledgers.new()
    await _set(ledger, 10)
    for start in (TODAY, TOMORROW):
        assert (await turned_away(ledger, hold("x", 11, line(start=start)))).cap == 10
    for other in (line("bob"), line(unit="requests"), line(window="hour"), line(account("tenant", ACME))):
        await granted(ledger, hold(f"h {other.key}", 100, other))


async def what_was_spent_is_taken_back_to_zero(ledgers: Ledgers) -> None:
    """In every window of the kind; what is held stays, and other counters do not notice."""
    ledger = await ledgers.new()
    lines = line(), line(start=TOMORROW), line("bob"), line(unit="requests"), line(window="hour")
    for n, tokens in enumerate(lines):
        await granted(ledger, hold(f"spent {n}", 20, tokens))
        await granted(ledger, hold(f"held {n}", 30, tokens))
        await ledger.settle(settlement(f"spent {n}", 20))
    assert await _reset(ledger) == 40
    assert await balances(ledger, *lines) == [(0, 30), (0, 30), (20, 30), (20, 30), (20, 30)]
    await ledger.settle(settlement("held 0", 25))
    assert await balance(ledger, lines[0]) == (25, 0)
    assert await ledger.reset(OPERATOR, ALICE, "cost_usd", "day", "law", "nothing there") == 0


async def what_operators_do_is_recorded(ledgers: Ledgers) -> None:
    """Who, why and what, newest first, as many as are asked for."""
    ledger = await ledgers.new()
    await granted(ledger, hold("h", 30, line(), final=True))
    await ledger.set_cap(OPERATOR, ALICE, "tokens", "day", 50, "ops 'é' \"x\"", "it's -- late; 💸")
    await ledger.set_cap(OPERATOR, BOB, "cost_usd", "month", None, "bot", "")
    await ledger.reset(OPERATOR, ALICE, "tokens", "day", "me", "a new start")
    changes = await ledger.changes(OPERATOR, 10)
    assert [(c.action, c.account, c.unit, c.window, c.amount, c.who, c.why) for c in changes] == [
        ("reset", ALICE, "tokens", "day", 30, "me", "a new start"),
        ("set", BOB, "cost_usd", "month", None, "bot", ""),
        ("set", ALICE, "tokens", "day", 50, "ops 'é' \"x\"", "it's -- late; 💸"),
    ]
    assert changes[0].at >= changes[-1].at > 0
    assert list(await ledger.changes(OPERATOR, 2)) == list(changes[:2])


async def balances_are_shown_by_whom_they_belong_to(ledgers: Ledgers) -> None:
    """A tenant's with its users', one user's, or everybody's own; with the override that is in force."""
    ledger = await ledgers.new()
    tenant, stranger, everybody = account("tenant", ACME), account("user", GLOBEX, "alice"), account("global")
    for owner in (ALICE, BOB, tenant, stranger, everybody):
        await granted(ledger, hold(f"h {owner}", 30, line(owner), tenant=owner.tenant or ACME))
    await _set(ledger, 70)
    await ledger.settle(settlement(f"h {ALICE}", 20))
    (mine,) = await ledger.show(OPERATOR, ACME, "alice")
    assert (mine.account, mine.unit, mine.window, mine.start) == (ALICE, "tokens", "day", TODAY)
    assert (mine.spent, mine.held, mine.cap) == (20, 0, 70)
    shown = await ledger.show(OPERATOR, ACME, None)
    assert {one.account for one in shown} == {ALICE, BOB, tenant}
    assert {one.cap for one in shown} == {70, None}
    assert {one.account for one in await ledger.show(OPERATOR, None, None)} == {everybody}
    assert [one.account for one in await ledger.show(OPERATOR, GLOBEX, "alice")] == [stranger]
    assert list(await ledger.show(OPERATOR, "initech", None)) == []


async def who_spent_most_comes_first(ledgers: Ledgers) -> None:
    """Of the latest window of that kind, of one unit and one level, as many as are asked for."""
    ledger = await ledgers.new()
    for n, user in enumerate(["a", "b", "c", "d"]):
        today = line(account("user", (ACME, GLOBEX)[n % 2], user), start=TOMORROW)
        amount = 10 * (n % 3) + 10 + n
        await granted(ledger, hold(user, amount, today, final=True, tenant=today.account.tenant))
    for other in (
        line("old"),
        line("unit", start=TOMORROW, unit="requests"),
        line(account("tenant", ACME), start=TOMORROW),
    ):
        await granted(ledger, hold(f"h {other.key}", 99, other, final=True))
    top = await ledger.top(OPERATOR, "tokens", "day", "user", 3)
    assert [one.spent for one in top] == [32, 21, 13]
    assert [one.account.name for one in top] == ['["c"]', '["b"]', '["d"]']


async def only_operators_look_and_change(ledgers: Ledgers) -> None:
    """What concerns every tenant needs the capability."""
    ledger, nobody = await ledgers.new(), "somebody"
    for call in (
        lambda: ledger.show(nobody, ACME, None),  # type: ignore[arg-type]
        lambda: ledger.top(nobody, "tokens", "day", "user", 3),  # type: ignore[arg-type]
        lambda: ledger.changes(nobody, 3),  # type: ignore[arg-type]
        lambda: ledger.reset(nobody, ALICE, "tokens", "day", "x", "y"),  # type: ignore[arg-type]
        lambda: ledger.set_cap(nobody, ALICE, "tokens", "day", 1, "x", "y"),  # type: ignore[arg-type]
    ):
        with refused(ConfigurationError):
            await call()
    assert list(await ledger.changes(OPERATOR, 3)) == []


# laws of a ledger that several processes share


async def an_override_is_in_force_in_every_process(ledgers: Ledgers) -> None:
    """At once, in those too that have drawn on the counter, and in those that come later; so is a reset."""
    one, two = await ledgers.new(), await ledgers.new()
    tokens = line()
    await granted(two, hold("h", 50, tokens))
    await _set(one, 60)
    for ledger in (two, await ledgers.new()):
        assert (await turned_away(ledger, hold("x", 11, tokens))).cap == 60
    await two.settle(settlement("h", 50))
    assert await _reset(one) == 50
    await granted(two, hold("x", 60, tokens))
    assert [c.action for c in await two.changes(OPERATOR, 5)] == ["reset", "set"]


async def processes_warn_once_together(ledgers: Ledgers) -> None:
    """Whichever brings the counter to its warning, the others say nothing."""
    both = await ledgers.new(), await ledgers.new()
    tokens, warned = line(soft=50), 0
    for n in range(10):
        await granted(both[n % 2], hold(f"h{n}", 10, tokens))
        warned += len((await both[n // 2 % 2].settle(settlement(f"h{n}", 10))).warned)
    assert warned == 1


async def _set(ledger: OwnLedger, cap: int | None) -> None:
    await ledger.set_cap(OPERATOR, ALICE, "tokens", "day", cap, "law", "to see")


async def _reset(ledger: OwnLedger) -> int:
    return await ledger.reset(OPERATOR, ALICE, "tokens", "day", "law", "to see")


ACCOUNTS: tuple[Law, ...] = (
    a_warning_comes_once,
    a_final_charge_warns_as_well,
    every_counter_warns_for_itself,
    who_may_bring_a_warning_is_told,
    a_warning_comes_after_an_expiry,
    a_new_cap_and_a_reset_warn_anew,
    an_override_is_in_force_at_once,
    an_override_may_be_below_what_is_spent,
    an_override_is_kept_for_every_window,
    what_was_spent_is_taken_back_to_zero,
    what_operators_do_is_recorded,
    balances_are_shown_by_whom_they_belong_to,
    who_spent_most_comes_first,
    only_operators_look_and_change,
)
"""Warnings, overrides, resets, and what operators are shown."""

SHARED_ACCOUNTS: tuple[Law, ...] = (an_override_is_in_force_in_every_process, processes_warn_once_together)
"""The same, between two processes."""
