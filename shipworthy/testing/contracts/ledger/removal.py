"""Laws of a store's ledger when the store's runs are brought to another one: no cap begins anew, and nothing is charged
twice."""

from __future__ import annotations

from typing import Protocol, cast

import msgspec

from shipworthy.domain.ledger import Account, Carried, Change, Forget, Line, Pace, Rate
from shipworthy.errors import ConfigurationError
from shipworthy.ports.ledger import Removal
from shipworthy.rules.ledger import MICROS, account, rate_key
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    LONG,
    OPERATOR,
    TODAY,
    TOMORROW,
    Law,
    Ledgers,
    OwnLedger,
    balance,
    balances,
    granted,
    hold,
    line,
    paced,
    refused,
    settlement,
    turned_away,
)

ALICE = account("user", ACME, "alice")


class Removable(OwnLedger, Removal, Protocol):
    """A ledger that can be taken along."""


def carried(line: Line, spent: int, *, warned: bool = False) -> Carried:
    """A counter of another ledger."""
    whose = (line.account, line.unit, line.window, line.start, line.end)
    return Carried(line.key, line.limit, *whose, spent, warned)


async def what_was_spent_elsewhere_is_spent_here(ledgers: Ledgers) -> None:
    """In the counter that was there, and in a new one; beside what was spent here."""
    ledger = await _new(ledgers)
    used, fresh, everybodys = line(), line("bob"), line(account("global"))
    await granted(ledger, hold("h", 30, used, final=True))
    counters = [carried(used, 50), carried(fresh, 70), carried(everybodys, 90)]
    await ledger.carry(OPERATOR, "elsewhere", counters)
    assert await balances(ledger, used, fresh, everybodys) == [(80, 0), (70, 0), (90, 0)]
    answer = await turned_away(ledger, hold("more", 31, fresh))
    assert (answer.cause, answer.spent) == ("spent", 70)
    await granted(ledger, hold("less", 10, everybodys, fresh, used))


async def carrying_again_adds_only_what_is_new(ledgers: Ledgers) -> None:
    """Nothing, more, and what turned out to be less; each place is counted for itself, and nothing falls below zero."""
    ledger, tokens = await _new(ledgers), line(cap=1_000)
    for total, spent in ((50, 50), (50, 50), (80, 80), (60, 60), (60, 60)):
        await ledger.carry(OPERATOR, "elsewhere", [carried(tokens, total)])
        assert await balance(ledger, tokens) == (spent, 0)
    await ledger.carry(OPERATOR, "a third", [carried(tokens, 60)])
    assert await balance(ledger, tokens) == (120, 0)
    await ledger.reset(OPERATOR, ALICE, "tokens", "day", "ada", "a gift")
    await ledger.carry(OPERATOR, "elsewhere", [carried(tokens, 70)])
    assert await balance(ledger, tokens) == (10, 0)
    await ledger.carry(OPERATOR, "elsewhere", [carried(tokens, 0)])
    assert await balance(ledger, tokens) == (0, 0)


async def what_ended_meanwhile_does_not_come_back(ledgers: Ledgers) -> None:
    """A counter that was forgotten here since is not made again."""
    ledger, own = await _new(ledgers), line(account("run", ACME, "r"), window="run", start=0)
    await ledger.carry(OPERATOR, "elsewhere", [carried(own, 50)])
    await ledger.forget(Forget(ACME, (own.key,)))
    await ledger.carry(OPERATOR, "elsewhere", [carried(own, 50)])
    assert await ledger.counters(OPERATOR, "", "") == []


async def every_counter_goes_with_what_it_holds(ledgers: Ledgers) -> None:
    """Page by page, once each, with its window; but for what came from where it goes."""
    ledger = await _new(ledgers)
    lines = [line(f"user{n}") for n in range(600)] + [line(start=TOMORROW), line("total", window="total")]
    for n, each in enumerate(lines):
        await granted(ledger, hold(f"h{n}", 10, each, final=bool(n % 2)))
    await ledger.carry(OPERATOR, "back", [carried(lines[0], 7)])
    found: list[Carried] = []
    while page := await ledger.counters(OPERATOR, "back", found[-1].key if found else ""):
        found += page
    assert {each.key: each for each in found} == {each.key: carried(each, 10) for each in lines}
    assert len(found) == len(lines)
    elsewhere = {each.key: each.spent for each in await ledger.counters(OPERATOR, "elsewhere", "")}
    assert elsewhere[lines[0].key] == 17


async def an_override_comes_along_with_who_and_why(ledgers: Ledgers) -> None:
    """Once, and it is in force at once."""
    ledger, tokens = await _new(ledgers), line()
    changes = [
        Change(TODAY, "set", ALICE, "tokens", "day", 500, "ada", "a good customer"),
        Change(TODAY + 1, "reset", ALICE, "tokens", "day", 30, "ada", "a gift"),
        Change(TODAY + 2, "set", ALICE, "tokens", "month", 5, "bob", "a trial"),
        Change(TODAY + 3, "set", ALICE, "tokens", "month", None, "bob", "over"),
    ]
    for _ in range(2):
        await ledger.carry(OPERATOR, "elsewhere", [], [], changes)
        assert list(await ledger.changes(OPERATOR, 10)) == changes[::-1]
    await granted(ledger, hold("h", 500, tokens))
    answer = await turned_away(ledger, hold("month", 101, line(window="month")))
    assert answer.cap == 100


async def a_later_override_stays_in_force(ledgers: Ledgers) -> None:
    """Whichever of two places it was set in."""
    ledger, tokens = await _new(ledgers), line()
    await ledger.set_cap(OPERATOR, ALICE, "tokens", "day", 200, "bob", "here")
    (mine,) = await ledger.changes(OPERATOR, 1)
    for at, cap in ((mine.at - 1, 200), (mine.at + 1, 500)):
        change = msgspec.structs.replace(mine, at=at, amount=500, who="ada", why="elsewhere")
        await ledger.carry(OPERATOR, "elsewhere", [], [], [change])
        assert (await turned_away(ledger, hold("h", 1_000, tokens))).cap == cap


async def a_warning_that_was_given_is_not_given_again(ledgers: Ledgers) -> None:
    """And one that was not is."""
    ledger = await _new(ledgers)
    told, untold = line(soft=50), line("bob", soft=50)
    await ledger.carry(OPERATOR, "elsewhere", [carried(told, 60, warned=True), carried(untold, 60)])
    await granted(ledger, hold("h", 10, told, untold))
    assert (await ledger.settle(settlement("h", 10, 10))).warned == (1,)


async def a_rate_is_used_up_as_far_as_elsewhere(ledgers: Ledgers) -> None:
    """As far as in either of the two."""
    ledger, rates = await _new(ledgers), [_rate(ALICE), _rate(account("model", "", "m"))]
    await granted(ledger, paced("first", 1, rates[0]))
    (pace,) = await ledger.paces(OPERATOR)
    assert pace.key == rates[0].key
    full = pace.owed + 3 * LONG * MICROS
    paces = [Pace(rates[0].key, pace.owed - 1), *[Pace(each.key, full) for each in rates[1:]]]
    for _ in range(2):
        await ledger.carry(OPERATOR, "elsewhere", [], paces)
        assert {each.key: each.owed for each in await ledger.paces(OPERATOR)} == {
            rates[0].key: pace.owed,
            rates[1].key: full,
        }
    assert (await turned_away(ledger, paced("second", 1, rates[1]))).cause == "rate"
    await granted(ledger, paced("third", 1, rates[0]))


async def only_an_operator_takes_it_along(ledgers: Ledgers) -> None:
    """As it is of every tenant."""
    ledger = await _new(ledgers)
    nobody = cast("type[None]", None)
    for asked in (
        ledger.counters(nobody, "", ""),  # type: ignore[arg-type]
        ledger.paces(nobody),  # type: ignore[arg-type]
        ledger.carry(nobody, "", [carried(line(), 5)]),  # type: ignore[arg-type]
    ):
        with refused(ConfigurationError):
            await asked
    assert await balance(ledger, line()) == (0, 0)


async def _new(ledgers: Ledgers) -> Removable:
    return cast(Removable, await ledgers.new())


def _rate(whose: Account) -> Rate:
    return Rate(rate_key(whose, "requests", LONG), whose, "requests", 10, LONG, 3)


REMOVAL: list[Law] = [
    what_was_spent_elsewhere_is_spent_here,
    carrying_again_adds_only_what_is_new,
    what_ended_meanwhile_does_not_come_back,
    every_counter_goes_with_what_it_holds,
    an_override_comes_along_with_who_and_why,
    a_later_override_stays_in_force,
    a_warning_that_was_given_is_not_given_again,
    a_rate_is_used_up_as_far_as_elsewhere,
    only_an_operator_takes_it_along,
]
"""For the ledger of a store."""
