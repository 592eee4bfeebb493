"""Laws of waiting: who is in nobody's way but others' is served in the order of asking, and rates keep their pace."""

from __future__ import annotations

import asyncio

from shipworthy.domain.ledger import Granted, Hold, Line
from shipworthy.ports.ledger import Ledger
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    DAY,
    LONG,
    OPERATOR,
    Law,
    Ledgers,
    balance,
    balances,
    expired,
    granted,
    hold,
    line,
    paced,
    rate,
    settlement,
    turned_away,
)

PLACE = 5_000
"""Milliseconds for which who waits keeps a place without asking again."""


async def who_waits_is_not_overtaken(ledgers: Ledgers) -> None:
    """While a place is kept on a line, who comes later is held off, even by what would fit."""
    ledger, tokens = await ledgers.new(), line()
    waiting = await _waits(ledger, "waits", 60, tokens)
    await ledger.settle(settlement("fills", 0))
    late = await turned_away(ledger, hold("late", 1, tokens))
    assert (late.cause, late.index, late.spent, late.held) == ("held", 0, 0, 0)
    await granted(ledger, waiting)
    await granted(ledger, hold("late", 1, tokens))


async def the_order_is_that_of_the_first_asking(ledgers: Ledgers) -> None:
    """However often and in whatever order those who wait ask again."""
    await _served_in_order([await ledgers.new()])


async def a_place_holds_nothing(ledgers: Ledgers) -> None:
    """It is no hold: it is neither held nor settled, and no cap is nearer for it."""
    ledger, tokens = await ledgers.new(), line()
    await _waits(ledger, "waits", 60, tokens)
    assert await balance(ledger, tokens) == (0, 100)
    assert not (await ledger.settle(settlement("waits", 60))).known
    assert await balance(ledger, tokens) == (0, 100)


async def who_is_not_patient_keeps_no_place(ledgers: Ledgers) -> None:
    """A hold that was refused and will not wait is in nobody's way."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("fills", 100, tokens))
    assert (await turned_away(ledger, hold("gives up", 60, tokens))).cause == "held"
    await ledger.release(ACME, "fills")
    await granted(ledger, hold("late", 41, tokens))


async def a_place_is_on_the_line_that_is_full(ledgers: Ledgers) -> None:
    """Others pass on the lines where there is room."""
    ledger, full, free = await ledgers.new(), line("full"), line("free")
    await granted(ledger, hold("fills", 100, full))
    await turned_away(ledger, hold("waits", 60, free, full, patient=True))
    await granted(ledger, hold("passes", 50, free))
    assert (await turned_away(ledger, hold("late", 0, free, full))).index == 1
    assert await balances(ledger, full, free) == [(0, 100), (0, 50)]


async def a_place_is_given_up_by_releasing(ledgers: Ledgers) -> None:
    """Who waits no more releases the hold that it never got."""
    ledger, tokens = await ledgers.new(), line()
    await _waits(ledger, "waits", 60, tokens)
    await ledger.release(ACME, "fills")
    await ledger.release(ACME, "waits")
    await granted(ledger, hold("late", 100, tokens))


async def a_place_is_given_up_when_it_is_of_no_use(ledgers: Ledgers) -> None:
    """Who is refused because all is spent, or by a rate, waits in no line any more."""
    ledger, tokens, pace = await ledgers.new(), line(), rate(burst=1)
    await granted(ledger, paced("paces", 1, pace))
    for asking in (
        hold("waits", 60, tokens, patient=True),
        paced("waits too", 1, pace, lines=(tokens,), patient=True),
    ):
        await granted(ledger, hold(f"before {asking.id}", 100, tokens))
        assert (await turned_away(ledger, asking)).cause == "held"
        await ledger.settle(settlement(f"before {asking.id}", 50))
        assert (await turned_away(ledger, asking)).cause != "held"
        await granted(ledger, hold(f"after {asking.id}", 1, tokens))
        await ledger.release(ACME, f"after {asking.id}")
        await ledger.reset(OPERATOR, tokens.account, tokens.unit, tokens.window, "law", "begins anew")


async def a_place_that_is_not_kept_is_lost(ledgers: Ledgers) -> None:
    """Who does not ask again within five seconds, or one more, has gone; who does is still there."""
    ledger, lost, kept = await ledgers.new(), line("lost"), line("kept")
    for tokens in (lost, kept):
        await granted(ledger, hold(f"fills {tokens.key}", 100, tokens))
        await turned_away(ledger, hold(f"waits {tokens.key}", 60, tokens, patient=True))
    await ledgers.sleep(PLACE - 1000)
    await turned_away(ledger, hold(f"waits {kept.key}", 60, kept, patient=True))
    await ledgers.sleep(2500)
    for tokens in (lost, kept):
        await ledger.release(ACME, f"fills {tokens.key}")
    await granted(ledger, hold("late", 100, lost))
    assert (await turned_away(ledger, hold("late too", 1, kept))).cause == "held"


async def who_waits_on_another_line_is_served_in_order_too(ledgers: Ledgers) -> None:
    """Of those who draw on the same lines and wait on different ones, whoever asked first comes first: nobody stands in
    another's way for ever."""
    ledger, lines = await ledgers.new(), (line("a", 1000), line("b", 1000))
    await granted(ledger, hold("fills b", 1000, lines[1]))
    first, second, third = [hold(id, 100, *lines, patient=True) for id in ("first", "second", "third")]
    assert [(await turned_away(ledger, asking)).index for asking in (first, second)] == [1, 1]
    await granted(ledger, hold("fills a", 1000, lines[0]))
    assert (await turned_away(ledger, third)).index == 0
    for id in ("fills a", "fills b"):
        await ledger.release(ACME, id)
    await granted(ledger, first)
    assert (await turned_away(ledger, third)).cause == "held"
    for asking in (second, third):
        await granted(ledger, asking)


async def a_place_stays_where_only_the_order_is_in_the_way(ledgers: Ledgers) -> None:
    """Who is held off by those who came before, on a line where it would fit, waits on where it did."""
    ledger, a, b = await ledgers.new(), line("a"), line("b")
    for tokens in (a, b):
        await granted(ledger, hold(f"fills {tokens.key}", 100, tokens))
    older, both = hold("older", 50, b, patient=True), hold("both", 50, a, b, patient=True)
    assert [(await turned_away(ledger, asking)).index for asking in (older, both)] == [0, 0]
    for tokens in (a, b):
        await ledger.release(ACME, f"fills {tokens.key}")
    assert (await turned_away(ledger, both)).index == 1
    assert (await turned_away(ledger, hold("late", 1, a))).cause == "held"
    for asking in (older, both):
        await granted(ledger, asking)


async def a_place_moves_with_its_age(ledgers: Ledgers) -> None:
    """To the line that is full now; it is as old there as where it came from, where others pass."""
    ledger, a, b = await ledgers.new(), line("a"), line("b")
    for tokens in (a, b):
        await granted(ledger, hold(f"fills {tokens.key}", 100, tokens))
    older, younger = hold("older", 50, a, b, patient=True), hold("younger", 50, b, patient=True)
    assert [(await turned_away(ledger, asking)).index for asking in (older, younger)] == [0, 0]
    await ledger.release(ACME, f"fills {a.key}")
    assert (await turned_away(ledger, older)).index == 1
    await granted(ledger, hold("passes", 50, a))
    await ledger.release(ACME, f"fills {b.key}")
    assert (await turned_away(ledger, younger)).cause == "held"
    for asking in (older, younger):
        await granted(ledger, asking)


# rates


async def a_burst_passes_and_then_the_pace(ledgers: Ledgers) -> None:
    """What is above the burst is refused with the time until there is room, and owes nothing."""
    ledger, pace = await ledgers.new(), rate(limit=10, burst=3)
    for n in range(3):
        await granted(ledger, paced(f"h{n}", 1, pace))
    refusal = await turned_away(ledger, paced("x", 1, pace))
    assert (refusal.cause, refusal.index, refusal.needed) == ("rate", 0, 1)
    assert LONG // 20 < refusal.wait <= LONG // 10
    again = await turned_away(ledger, paced("x", 2, pace))
    assert LONG // 20 < again.wait - refusal.wait <= LONG // 10 + 1


async def a_rate_reopens_when_its_wait_is_over(ledgers: Ledgers) -> None:
    """Not before, and then for what was refused."""
    ledger, pace = await ledgers.new(), rate(limit=1, burst=1, period=300)
    await granted(ledger, paced("first", 1, pace))
    answer = await ledger.reserve(paced("next", 1, pace))
    assert not isinstance(answer, Granted)
    await ledgers.sleep(answer.wait)
    for _ in range(50):
        if isinstance(answer := await ledger.reserve(paced("next", 1, pace)), Granted):
            return
        await ledgers.sleep(answer.wait)
    raise AssertionError("it never opened")


async def what_is_not_used_of_a_rate_is_given_back(ledgers: Ledgers) -> None:
    """By settling with less and by releasing; once, and not where the settlement does not say."""
    ledger, pace = await ledgers.new(), rate(limit=100, burst=10)
    await granted(ledger, paced("all", 10, pace))
    await ledger.settle(settlement("all", rates=(4,)))
    await ledger.settle(settlement("all", rates=(0,)))
    await granted(ledger, paced("six", 6, pace))
    await turned_away(ledger, paced("x", 1, pace))
    await ledger.release(ACME, "six")
    await granted(ledger, paced("six again", 6, pace))
    await ledger.settle(settlement("six again"))
    await turned_away(ledger, paced("x", 1, pace))


async def what_time_has_paid_is_not_given_back(ledgers: Ledgers) -> None:
    """Once nothing was owed any more, what was taken before is paid for: to give it back would let more pass than the
    rate does. What was used beyond its reservation is added all the same."""
    ledger, period = await ledgers.new(), 2000
    paces = [rate(name, limit=10, burst=10, period=period) for name in ("settled", "released")]
    for pace in paces:
        await granted(ledger, paced(f"long {pace.key}", 10, pace))
        await granted(ledger, paced(f"above {pace.key}", 0, pace))
    await ledgers.sleep(period + 100)
    for pace in paces:
        await granted(ledger, paced(f"now {pace.key}", 10, pace))
    await ledger.settle(settlement(f"long {paces[0].key}", rates=(0,)))
    await ledger.release(ACME, f"long {paces[1].key}")
    for pace in paces:
        await turned_away(ledger, paced("x", 10, pace))
        await ledger.settle(settlement(f"above {pace.key}", rates=(10,)))
        assert (await turned_away(ledger, paced("x", 10, pace))).wait > period
        await ledger.settle(settlement(f"now {pace.key}", rates=(0,)))
        assert (await turned_away(ledger, paced("x", 10, pace))).wait <= period


async def what_a_rate_did_not_expect_is_owed(ledgers: Ledgers) -> None:
    """More than was reserved counts as well."""
    ledger, pace = await ledgers.new(), rate(limit=100, burst=10)
    await granted(ledger, paced("h", 1, pace))
    await ledger.settle(settlement("h", rates=(10,)))
    await turned_away(ledger, paced("x", 1, pace))


async def an_expired_hold_keeps_what_it_owes(ledgers: Ledgers) -> None:
    """To its rates, until a late settlement corrects that."""
    ledger, pace, tokens = await ledgers.new(), rate(limit=100, burst=10), line()
    await granted(ledger, paced("h", 10, pace, lines=(tokens,), ttl=1))
    await expired(ledger, 1)
    await turned_away(ledger, paced("x", 1, pace))
    await ledger.settle(settlement("h", 10, rates=(9,)))
    await granted(ledger, paced("x", 1, pace))


async def what_is_bigger_than_the_burst_passes_alone(ledgers: Ledgers) -> None:
    """When nothing is owed; then everything else waits for it to be paid for."""
    ledger, pace = await ledgers.new(), rate(limit=10, burst=3, period=DAY)
    await granted(ledger, paced("big", 7, pace))
    assert (await turned_away(ledger, paced("x", 1, pace))).wait > DAY // 10 * 4
    await ledger.release(ACME, "big")
    await granted(ledger, paced("small", 1, pace))
    assert (await turned_away(ledger, paced("big again", 7, pace))).cause == "rate"


async def lines_and_rates_are_taken_together_or_not_at_all(ledgers: Ledgers) -> None:
    """A rate that is refused holds nothing on any line; a line that is full owes nothing to any rate."""
    ledger, tokens = await ledgers.new(), line(cap=10)
    slow, slower = rate("slow", burst=3), rate("slower", burst=1)
    await granted(ledger, paced("one", 1, slower))
    refusal = await turned_away(ledger, paced("x", 1, slow, slower, lines=(tokens,)))
    assert (refusal.cause, refusal.index) == ("rate", 1)
    assert await balance(ledger, tokens) == (0, 0)
    await granted(ledger, hold("fills", 10, tokens))
    for n in range(5):
        assert (await turned_away(ledger, paced(f"y{n}", 1, slow, lines=(tokens,)))).cause == "held"
    await granted(ledger, paced("burst", 3, slow))


async def rates_count_granted_units(ledgers: Ledgers) -> None:
    """What each unit takes of a rate is taken for those that the lines afforded."""
    ledger, tokens, pace = await ledgers.new(), line(), rate(limit=100, burst=50)
    asking = hold("h", 0, tokens, each=(10,), least=1, most=99, rates=(pace,), rate_base=(5,), rate_each=(2,))
    assert (await granted(ledger, asking)).units == 10
    await granted(ledger, paced("rest", 25, pace))
    await turned_away(ledger, paced("x", 1, pace))


async def many_at_once_keep_the_pace(ledgers: Ledgers) -> None:
    """Of fifty at once the burst passes."""
    ledger, pace = await ledgers.new(), rate(limit=100, burst=10)
    answers = await asyncio.gather(*[ledger.reserve(paced(f"h{n}", 1, pace)) for n in range(50)])
    assert sum(isinstance(answer, Granted) for answer in answers) == 10


# laws of a ledger that several processes share


async def two_processes_wait_in_one_order(ledgers: Ledgers) -> None:
    """Whoever asked first is served first, wherever that was."""
    await _served_in_order([await ledgers.new(), await ledgers.new()])


async def two_processes_keep_one_pace(ledgers: Ledgers) -> None:
    """What one let pass, the other does not; what one gives back, the other may use."""
    one, two = await ledgers.new(), await ledgers.new()
    pace = rate(limit=100, burst=10)
    await granted(one, paced("h", 10, pace))
    await turned_away(two, paced("x", 1, pace))
    await one.settle(settlement("h", rates=(9,)))
    await granted(two, paced("x", 1, pace))


async def _waits(ledger: Ledger, id: str, amount: int, tokens: Line) -> Hold:
    """Somebody who waits behind a hold that fills the line."""
    await granted(ledger, hold("fills", 100, tokens))
    waiting = hold(id, amount, tokens, patient=True)
    assert (await turned_away(ledger, waiting)).cause == "held"
    return waiting


async def _served_in_order(instances: list[Ledger]) -> None:
    tokens = line()
    await granted(instances[0], hold("fills", 100, tokens))
    waiting = [hold(f"w{n}", 100, tokens, patient=True) for n in range(6)]

    async def ask(n: int) -> bool:
        return isinstance(await instances[n % len(instances)].reserve(waiting[n]), Granted)

    for n in range(6):
        assert not await ask(n)
    before = "fills"
    for first in range(6):
        await instances[first % len(instances)].release(ACME, before)
        for n in range(5, first, -1):
            assert not await ask(n), f"{n} was served before {first}"
        assert await ask(first)
        before = waiting[first].id


WAITING: tuple[Law, ...] = (
    who_waits_is_not_overtaken,
    the_order_is_that_of_the_first_asking,
    a_place_holds_nothing,
    who_is_not_patient_keeps_no_place,
    a_place_is_on_the_line_that_is_full,
    a_place_is_given_up_by_releasing,
    a_place_is_given_up_when_it_is_of_no_use,
    a_place_that_is_not_kept_is_lost,
    who_waits_on_another_line_is_served_in_order_too,
    a_place_stays_where_only_the_order_is_in_the_way,
    a_place_moves_with_its_age,
)
"""Places in the order."""

RATES: tuple[Law, ...] = (
    a_burst_passes_and_then_the_pace,
    a_rate_reopens_when_its_wait_is_over,
    what_is_not_used_of_a_rate_is_given_back,
    what_time_has_paid_is_not_given_back,
    what_a_rate_did_not_expect_is_owed,
    an_expired_hold_keeps_what_it_owes,
    what_is_bigger_than_the_burst_passes_alone,
    lines_and_rates_are_taken_together_or_not_at_all,
    rates_count_granted_units,
    many_at_once_keep_the_pace,
)
"""Requests and tokens a minute."""

SHARED_WAITING: tuple[Law, ...] = (two_processes_wait_in_one_order, two_processes_keep_one_pace)
"""The same, between two processes."""
