"""Laws of a clock that was ahead and was set right, for ledgers whose clock a test can set back (`Ledgers.sleep`): what
it left behind is in nobody's way for longer than it would have been."""

from __future__ import annotations

from shipworthy.domain.ledger import Refused
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    DAY,
    LONG,
    OPERATOR,
    Law,
    Ledgers,
    balance,
    expired,
    granted,
    hold,
    line,
    paced,
    rate,
    settlement,
    turned_away,
)

AHEAD = 5 * DAY
MINUTE = 60_000


async def a_place_of_a_clock_that_was_ahead_is_none(ledgers: Ledgers) -> None:
    """Who kept it is overtaken, and gets one anew when it asks again."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("fills", 100, tokens))
    waits = hold("waits", 60, tokens, patient=True)
    await ledgers.sleep(AHEAD)
    await turned_away(ledger, waits)
    await ledgers.sleep(-AHEAD)
    await ledger.settle(settlement("fills", 0))
    await granted(ledger, hold("passes", 50, tokens))
    await turned_away(ledger, waits)
    await ledger.release(ACME, "passes")
    assert (await turned_away(ledger, hold("late", 1, tokens))).cause == "held"
    await granted(ledger, waits)


async def a_clock_that_was_ahead_owes_no_more_than_a_burst(ledgers: Ledgers) -> None:
    """Or than a day, where a burst is paid for sooner; then what is not used is given back as ever."""
    ledger = await ledgers.new()
    quick, slow = rate("quick", limit=10, burst=10, period=MINUTE), rate("slow", limit=10, burst=10)
    await ledgers.sleep(AHEAD)
    for pace in (quick, slow):
        await granted(ledger, paced(f"fills {pace.key}", 10, pace))
    await ledgers.sleep(-AHEAD)
    for pace, longest in ((quick, DAY), (slow, LONG)):
        assert 0 < (await turned_away(ledger, paced("x", 10, pace))).wait <= longest
        await ledgers.sleep(longest)
        await granted(ledger, paced(f"next {pace.key}", 10, pace))
        await ledger.settle(settlement(f"next {pace.key}", rates=(0,)))
        await granted(ledger, paced(f"given back {pace.key}", 10, pace))


async def a_hold_of_a_clock_that_was_ahead_expires(ledgers: Ledgers) -> None:
    """After its time to live, from when a sweep saw it; renewed holds after the time that they were renewed for."""
    ledger, tokens = await ledgers.new(), line()
    await ledgers.sleep(AHEAD)
    await granted(ledger, hold("h", 30, tokens, ttl=MINUTE))
    await granted(ledger, hold("renewed", 30, tokens))
    await ledger.renew(ACME, ["renewed"], 2 * MINUTE)
    await ledgers.sleep(-AHEAD)
    for overdue in (0, 1, 1):
        assert await ledger.sweep(OPERATOR) == overdue
        await ledgers.sleep(MINUTE // 2)
        assert await ledger.sweep(OPERATOR) == 0
        await ledgers.sleep(MINUTE // 2)
    assert await balance(ledger, tokens) == (60, 0)


async def who_needs_its_room_sees_it_too(ledgers: Ledgers) -> None:
    """Without a sweep: from the first refusal on it lives for as long as it was to live."""
    ledger, tokens = await ledgers.new(), line()
    await ledgers.sleep(AHEAD)
    await granted(ledger, hold("h", 80, tokens, ttl=MINUTE))
    await ledgers.sleep(-AHEAD)
    for cause, spent, held in (("held", 0, 80), ("spent", 80, 0)):
        answer = await turned_away(ledger, hold("x", 21, tokens))
        assert answer == Refused(cause, 0, 100, spent, held, 21)  # type: ignore[arg-type]
        await ledgers.sleep(MINUTE)


async def a_clock_that_is_right_changes_nothing(ledgers: Ledgers) -> None:
    """A hold lives to the end of its time, renewed or not, however often it is looked at."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 80, tokens, ttl=2 * MINUTE))
    await ledger.renew(ACME, ["h"], 5 * MINUTE)
    for _ in range(4):
        await ledgers.sleep(MINUTE)
        assert await ledger.sweep(OPERATOR) == 0
        assert (await turned_away(ledger, hold("x", 21, tokens))).cause == "held"
    await ledgers.sleep(MINUTE)
    await expired(ledger, 1)


CLOCK: tuple[Law, ...] = (
    a_place_of_a_clock_that_was_ahead_is_none,
    a_clock_that_was_ahead_owes_no_more_than_a_burst,
    a_hold_of_a_clock_that_was_ahead_expires,
    who_needs_its_room_sees_it_too,
    a_clock_that_is_right_changes_nothing,
)
"""A clock that is set back."""
