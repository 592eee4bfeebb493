"""Laws of reserving and settling: nothing passes a cap, and everything is charged once."""

from __future__ import annotations

import asyncio

from shipworthy.domain.ledger import Forget, Granted, Refused, Settlement
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    TODAY,
    TOMORROW,
    Law,
    Ledgers,
    balance,
    balances,
    granted,
    hold,
    line,
    same,
    settlement,
    turned_away,
)

HUGE = 9 * 10**15
"""What a double still counts exactly, and nine million dollars in billionths."""


async def what_was_reserved_is_held_until_it_is_settled(ledgers: Ledgers) -> None:
    """Then what was spent takes its place, and the rest is free again."""
    ledger, tokens = await ledgers.new(), line()
    assert await balance(ledger, tokens) == (0, 0)
    await granted(ledger, hold("h", 30, tokens))
    assert await balance(ledger, tokens) == (0, 30)
    settled = await ledger.settle(settlement("h", 20, note="what it cost"))
    assert (settled.known, settled.note, settled.warned) == (True, "what it cost", ())
    assert await balance(ledger, tokens) == (20, 0)
    await granted(ledger, hold("rest", 80, tokens))


async def all_lines_are_reserved_or_none(ledgers: Ledgers) -> None:
    """Whichever of them is full; a line that had no counter has none of it either."""
    ledger = await ledgers.new()
    lines = [line(str(n)) for n in range(3)]
    for full in range(3):
        await granted(ledger, hold(f"fills {full}", 71, lines[full]))
        refusal = await turned_away(ledger, hold("all", (30, 30, 30), *lines))
        assert (refusal.cause, refusal.index) == ("held", full)
        assert await balances(ledger, *lines) == [(0, 71 if n == full else 0) for n in range(3)]
        await ledger.release(ACME, f"fills {full}")
    await granted(ledger, hold("all", (30, 20, 100), *lines))
    assert await balances(ledger, *lines) == [(0, 30), (0, 20), (0, 100)]
    await ledger.settle(settlement("all", 3, 2, 1))
    assert await balances(ledger, *lines) == [(3, 0), (2, 0), (1, 0)]


async def what_is_spent_is_refused_for_good(ledgers: Ledgers) -> None:
    """Where no room would be there if every other hold were released, the refusal says "spent", and all numbers."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 70, tokens))
    await ledger.settle(settlement("h", 70))
    await granted(ledger, hold("other", 10, tokens))
    assert await turned_away(ledger, hold("x", 31, tokens)) == Refused("spent", 0, 100, 70, 10, 31)
    assert await balance(ledger, tokens) == (70, 10)


async def what_others_hold_is_refused_for_now(ledgers: Ledgers) -> None:
    """Where others hold what is missing, the refusal says "held", and the same hold is granted when they are done."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 80, tokens))
    assert await turned_away(ledger, hold("x", 21, tokens)) == Refused("held", 0, 100, 0, 80, 21)
    await granted(ledger, hold("fits", 20, tokens))
    await ledger.settle(settlement("h", 79))
    await granted(ledger, hold("x", 1, tokens))
    assert await balance(ledger, tokens) == (79, 21)


async def units_are_as_many_as_every_cap_affords(ledgers: Ledgers) -> None:
    """Between the least and the most, by the tightest line; what is held is what they cost there."""
    ledger = await ledgers.new()
    lines = line("a", 100), line("b", 1000), line("c", 10)
    answer = await granted(ledger, hold("h", (10, 0, 0), *lines, each=(2, 3, 0), least=1, most=1000))
    assert answer.units == 45
    assert await balances(ledger, *lines) == [(0, 100), (0, 135), (0, 0)]
    answer = await granted(
        ledger, hold("all", (0, 0), line("b", 1000), line("c", 10), each=(3, 1), least=1, most=7)
    )
    assert answer.units == 7


async def fewer_units_than_the_least_are_none(ledgers: Ledgers) -> None:
    """Exactly the least is granted; one less is refused, and the refusal says what the least would have taken."""
    ledger, tokens = await ledgers.new(), line()
    assert await turned_away(ledger, hold("h", 10, tokens, each=(9,), least=11, most=50)) == Refused(
        "spent", 0, 100, 0, 0, 109
    )
    assert (await granted(ledger, hold("h", 10, tokens, each=(9,), least=10, most=50))).units == 10


async def holds_of_others_do_not_cut_units(ledgers: Ledgers) -> None:
    """An answer is not cut short because others hold the rest for a moment: that is waited for."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("other", 50, tokens))
    asking = hold("h", 0, tokens, each=(1,), least=1, most=80)
    assert await turned_away(ledger, asking) == Refused("held", 0, 100, 0, 50, 80)
    await ledger.settle(settlement("other", 30))
    assert (await granted(ledger, asking)).units == 70


async def reserving_again_gives_the_same_answer(ledgers: Ledgers) -> None:
    """And holds nothing more: while it is held, when it was settled, and whatever is asked for under its id."""
    ledger, tokens = await ledgers.new(), line()
    asking = hold("h", 0, tokens, each=(1,), least=1, most=60)
    first = await granted(ledger, asking)
    assert same(await granted(ledger, asking), first)
    assert same(await granted(ledger, hold("h", 1, tokens)), first)
    assert await balance(ledger, tokens) == (0, 60)
    await ledger.settle(settlement("h", 40))
    assert same(await granted(ledger, asking), first)
    assert await balance(ledger, tokens) == (40, 0)


async def a_refusal_is_not_remembered(ledgers: Ledgers) -> None:
    """What was refused has left nothing, and may be asked for again with less."""
    ledger, tokens = await ledgers.new(), line()
    await turned_away(ledger, hold("h", 101, tokens))
    await granted(ledger, hold("h", 100, tokens))


async def settling_again_changes_nothing(ledgers: Ledgers) -> None:
    """The first settlement counts, and every later one gets its answer."""
    ledger, tokens = await ledgers.new(), line(soft=50)
    await granted(ledger, hold("h", 60, tokens))
    first = await ledger.settle(settlement("h", 55, note="first"))
    assert first.warned == (0,)
    for again in (settlement("h", 55, note="first"), settlement("h", 7, note="other"), _all_of("h")):
        assert same(await ledger.settle(again), first)
    assert await balance(ledger, tokens) == (55, 0)


async def what_was_never_held_is_not_charged(ledgers: Ledgers) -> None:
    """Settling and releasing a hold that is unknown or was refused changes nothing, and says that it is not known."""
    ledger, tokens = await ledgers.new(), line()
    await turned_away(ledger, hold("refused", 101, tokens))
    for unknown in ("never", "refused"):
        assert not (await ledger.settle(settlement(unknown, 10))).known
        await ledger.release(ACME, unknown)
    assert await balance(ledger, tokens) == (0, 0)


async def settling_without_amounts_charges_all(ledgers: Ledgers) -> None:
    """All that was reserved, on every line, under the hold's own note."""
    ledger, lines = await ledgers.new(), (line("a"), line("b"))
    await granted(ledger, hold("h", (30, 40), *lines, note="what it may cost"))
    assert (await ledger.settle(_all_of("h"))).note == "what it may cost"
    assert await balances(ledger, *lines) == [(30, 0), (40, 0)]


async def more_than_was_reserved_is_charged(ledgers: Ledgers) -> None:
    """And blocks what comes after, even what would cost nothing."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 50, tokens))
    await ledger.settle(settlement("h", 130))
    assert await balance(ledger, tokens) == (130, 0)
    assert await turned_away(ledger, hold("x", 1, tokens)) == Refused("spent", 0, 100, 130, 0, 1)
    assert (await turned_away(ledger, hold("y", 0, tokens))).cause == "spent"


async def releasing_gives_everything_back(ledgers: Ledgers) -> None:
    """Once: what is released is settled with nothing, and what was settled is not given back."""
    ledger, tokens = await ledgers.new(), line()
    for id in ("released", "settled"):
        await granted(ledger, hold(id, 50, tokens))
    await ledger.release(ACME, "released")
    await ledger.release(ACME, "released")
    assert await balance(ledger, tokens) == (0, 50)
    assert (await ledger.settle(settlement("released", 50))).known
    await ledger.settle(settlement("settled", 20))
    await ledger.release(ACME, "settled")
    assert await balance(ledger, tokens) == (20, 0)


async def a_final_hold_is_charged_at_once(ledgers: Ledgers) -> None:
    """Nothing is left to settle, to release or to expire."""
    ledger, tokens = await ledgers.new(), line()
    answer = await granted(ledger, hold("h", 30, tokens, final=True, ttl=1))
    assert await balance(ledger, tokens) == (30, 0)
    assert same(await granted(ledger, hold("h", 30, tokens, final=True, ttl=1)), answer)
    assert (await ledger.settle(settlement("h", 5))).known
    await ledger.release(ACME, "h")
    assert await balance(ledger, tokens) == (30, 0)
    assert (await turned_away(ledger, hold("x", 71, tokens, final=True))).cause == "spent"


async def nothing_fits_where_nothing_is_left(ledgers: Ledgers) -> None:
    """Under a cap of zero, and at the cap, only what costs nothing is granted."""
    ledger, none, full = await ledgers.new(), line("none", 0), line("full", 10)
    await granted(ledger, hold("fills", 10, full))
    await granted(ledger, hold("free", 0, none, full))
    assert (await turned_away(ledger, hold("x", 1, none))).cause == "spent"
    assert (await turned_away(ledger, hold("x", 1, full))).cause == "held"
    assert same(await granted(ledger, hold("no lines", 0)), Granted())


async def huge_amounts_are_exact(ledgers: Ledgers) -> None:
    """To the unit, up to nine quadrillions, in every sum."""
    ledger, cost = await ledgers.new(), line(cap=HUGE, unit="cost_usd")
    await granted(ledger, hold("most", HUGE - 3, cost))
    await ledger.settle(settlement("most", HUGE - 4))
    assert await balance(ledger, cost) == (HUGE - 4, 0)
    assert await turned_away(ledger, hold("x", 5, cost)) == Refused("spent", 0, HUGE, HUGE - 4, 0, 5)
    assert (await granted(ledger, hold("y", 1, cost, each=(1,), least=1, most=HUGE))).units == 3
    assert await balance(ledger, cost) == (HUGE - 4, 4)


async def windows_are_counters_of_their_own(ledgers: Ledgers) -> None:
    """What is held is settled in the window where it was reserved, whatever was reserved in the next."""
    ledger = await ledgers.new()
    yesterday, today = line(start=TODAY), line(start=TOMORROW)
    await granted(ledger, hold("late", 100, yesterday))
    await granted(ledger, hold("early", 100, today))
    await ledger.settle(settlement("late", 90))
    assert await balances(ledger, yesterday, today) == [(90, 0), (0, 100)]


async def counters_that_are_forgotten_are_gone(ledgers: Ledgers) -> None:
    """A hold that had one is settled on its other lines, and brings none back."""
    ledger = await ledgers.new()
    run, user = line(account("run", ACME, "r"), window="run", start=0), line()
    await granted(ledger, hold("h", 30, run, user))
    await ledger.forget(Forget(ACME, (run.key, "never there")))
    assert await balances(ledger, run, user) == [(0, 0), (0, 30)]
    await ledger.settle(settlement("h", 20, 10))
    assert await balances(ledger, run, user) == [(0, 0), (10, 0)]


# at once


async def many_at_once_never_pass_the_cap(ledgers: Ledgers) -> None:
    """Of two hundred that reserve at once, as many are granted as fit, and not one more."""
    ledger, tokens, user = await ledgers.new(), line(cap=700), line("b", cap=10**6)
    lines = ((tokens, user), (user, tokens))
    holds = [hold(f"h{n}", 7, *lines[n % 2]) for n in range(200)]
    answers = await asyncio.gather(*[ledger.reserve(one) for one in holds])
    assert sum(isinstance(answer, Granted) for answer in answers) == 100
    assert await balances(ledger, tokens, user) == [(0, 700), (0, 700)]
    settled = await asyncio.gather(*[ledger.settle(settlement(one.id, 3, 3)) for one in holds])
    assert sum(answer.known for answer in settled) == 100
    assert await balances(ledger, tokens, user) == [(300, 0), (300, 0)]


async def the_same_at_once_counts_once(ledgers: Ledgers) -> None:
    """A hold that is reserved, and settled, by many at once is held and charged once, and all get one answer."""
    ledger, tokens = await ledgers.new(), line(soft=20)
    answers = await asyncio.gather(*[ledger.reserve(hold("h", 30, tokens)) for _ in range(20)])
    grants = [answer for answer in answers if isinstance(answer, Granted)]
    assert len(grants) == 20
    assert all(same(answer, grants[0]) for answer in grants)
    assert await balance(ledger, tokens) == (0, 30)
    settled = await asyncio.gather(*[ledger.settle(settlement("h", 25, note=str(n))) for n in range(20)])
    assert all(same(answer, settled[0]) for answer in settled)
    assert await balance(ledger, tokens) == (25, 0)


async def what_was_cancelled_can_be_asked_again(ledgers: Ledgers) -> None:
    """Whether or not a cancelled call took effect, the same one again does, and once."""
    ledger, tokens = await ledgers.new(), line(cap=1000)
    for n in range(12):
        for call in (
            lambda n=n: ledger.reserve(hold(f"h{n}", 30, tokens)),
            lambda n=n: ledger.settle(settlement(f"h{n}", 10)),
        ):
            task = asyncio.ensure_future(call())
            for _ in range(n % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await call()
        assert await balance(ledger, tokens) == (10 * n + 10, 0)


async def any_event_loop_may_ask(ledgers: Ledgers) -> None:
    """A ledger is not bound to the loop in which it was opened."""
    ledger, tokens = await ledgers.new(), line()

    async def elsewhere() -> None:
        await granted(ledger, hold("theirs", 20, tokens))
        await ledger.settle(settlement("ours", 10))

    await granted(ledger, hold("ours", 20, tokens))
    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await balance(ledger, tokens) == (10, 20)


async def opening_a_ledger_again_does_nothing(ledgers: Ledgers) -> None:
    """`open` may be called by everybody who needs the ledger."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 20, tokens))
    await asyncio.gather(ledger.open(), ledger.open())
    assert await balance(ledger, tokens) == (0, 20)


# laws of a ledger that several processes share


async def many_in_two_processes_never_pass_the_cap(ledgers: Ledgers) -> None:
    """They draw on the same counters."""
    both = await ledgers.new(), await ledgers.new()
    tokens = line(cap=700)
    answers = await asyncio.gather(*[both[n % 2].reserve(hold(f"h{n}", 7, tokens)) for n in range(120)])
    assert sum(isinstance(answer, Granted) for answer in answers) == 100
    assert [await balance(ledger, tokens) for ledger in both] == [(0, 700)] * 2
    await asyncio.gather(*[both[n // 2 % 2].settle(settlement(f"h{n}", 3)) for n in range(120)])
    assert [await balance(ledger, tokens) for ledger in both] == [(300, 0)] * 2


async def another_process_gives_the_same_answers(ledgers: Ledgers) -> None:
    """To what was reserved and settled in one, also after that one was closed; nothing is counted again."""
    one, two = await ledgers.new(), await ledgers.new()
    tokens = line(soft=20)
    asking, cost = hold("h", 0, tokens, each=(1,), least=1, most=30), settlement("h", 25, note="n")
    answer, settled = await granted(one, asking), await one.settle(cost)
    await one.close()
    three = await ledgers.new()
    for ledger in (two, three):
        assert same(await granted(ledger, asking), answer)
        assert same(await ledger.settle(cost), settled)
        assert await balance(ledger, tokens) == (25, 0)


def _all_of(id: str) -> Settlement:
    return Settlement(id=id, tenant=ACME, note="not this one")


HOLDING: tuple[Law, ...] = (
    what_was_reserved_is_held_until_it_is_settled,
    all_lines_are_reserved_or_none,
    what_is_spent_is_refused_for_good,
    what_others_hold_is_refused_for_now,
    units_are_as_many_as_every_cap_affords,
    fewer_units_than_the_least_are_none,
    holds_of_others_do_not_cut_units,
    reserving_again_gives_the_same_answer,
    a_refusal_is_not_remembered,
    settling_again_changes_nothing,
    what_was_never_held_is_not_charged,
    settling_without_amounts_charges_all,
    more_than_was_reserved_is_charged,
    releasing_gives_everything_back,
    a_final_hold_is_charged_at_once,
    nothing_fits_where_nothing_is_left,
    huge_amounts_are_exact,
    windows_are_counters_of_their_own,
    counters_that_are_forgotten_are_gone,
    many_at_once_never_pass_the_cap,
    the_same_at_once_counts_once,
    what_was_cancelled_can_be_asked_again,
    any_event_loop_may_ask,
    opening_a_ledger_again_does_nothing,
)
"""Reserving, settling and releasing."""

SHARED_HOLDING: tuple[Law, ...] = (
    many_in_two_processes_never_pass_the_cap,
    another_process_gives_the_same_answers,
)
"""The same, from two processes."""
