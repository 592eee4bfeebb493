"""Laws of time: a hold whose process died is charged in full, and what is known later corrects it."""

from __future__ import annotations

import asyncio

from shipworthy.domain.ledger import Granted, Hold, Refused, Settlement
from shipworthy.errors import ConfigurationError
from shipworthy.ports.ledger import Ledger
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    DAY,
    GENEROUS,
    GLOBEX,
    LONG,
    OPERATOR,
    TOMORROW,
    Law,
    Ledgers,
    balance,
    balances,
    expired,
    granted,
    hold,
    line,
    refused,
    same,
    settlement,
)


async def an_expired_hold_is_charged_in_full(ledgers: Ledgers) -> None:
    """The request may have been sent: what was held is spent, in every counter and in the window where it was held."""
    ledger = await ledgers.new()
    lines = line("a"), line("b"), line("a", start=TOMORROW)
    await granted(ledger, hold("h", (30, 40), *lines[:2], ttl=1))
    await granted(ledger, hold("other", 10, lines[2]))
    await expired(ledger, 1)
    assert await balances(ledger, *lines) == [(30, 0), (40, 0), (0, 10)]


async def who_needs_the_room_sees_what_expired(ledgers: Ledgers) -> None:
    """Without a sweep: what only expired holds are in the way of is refused as spent, on whichever lines they are."""
    ledger, lines = await ledgers.new(), (line("a"), line("b"))
    for index, tokens in enumerate(lines):
        await granted(ledger, hold(f"dead {index}", 80, tokens, ttl=1))
    refusal = await _answered(ledger, hold("x", (21, 10), *lines))
    assert refusal == Refused("spent", 0, 100, 80, 0, 21)
    refusal = await _answered(ledger, hold("x", (10, 21), *lines))
    assert refusal == Refused("spent", 1, 100, 80, 0, 21)


async def a_late_settlement_corrects_what_was_charged(ledgers: Ledgers) -> None:
    """To less or to more, by line, and once."""
    ledger, lines = await ledgers.new(), (line("a"), line("b"))
    await granted(ledger, hold("h", (30, 40), *lines, ttl=1))
    await expired(ledger, 1)
    first = await ledger.settle(settlement("h", 5, 50, note="late"))
    assert (first.known, first.note) == (True, "late")
    assert await balances(ledger, *lines) == [(5, 0), (50, 0)]
    assert same(await ledger.settle(settlement("h", 1, 1)), first)
    assert await balances(ledger, *lines) == [(5, 0), (50, 0)]


async def a_late_release_gives_back_what_was_charged(ledgers: Ledgers) -> None:
    """And a late settlement without amounts leaves the full charge."""
    ledger, tokens = await ledgers.new(), line()
    for id in ("released", "settled"):
        await granted(ledger, hold(id, 30, tokens, ttl=1))
    await expired(ledger, 2)
    await ledger.release(ACME, "released")
    assert await balance(ledger, tokens) == (30, 0)
    await ledger.settle(settlement("settled", 30))
    assert await balance(ledger, tokens) == (30, 0)


async def what_was_reset_is_not_given_back(ledgers: Ledgers) -> None:
    """A reset writes off what expired before: a late settlement then adds what was used, and takes nothing from what
    others spent since. On lines that were not reset it corrects the full charge."""
    ledger, tokens, other = await ledgers.new(), line("a", 1000), line("b", 1000)
    await granted(ledger, hold("h", 30, tokens, other, ttl=1))
    await granted(ledger, hold("in full", 30, tokens, ttl=1))
    await expired(ledger, 2)
    await ledger.reset(OPERATOR, tokens.account, tokens.unit, tokens.window, "ops", "a refund")
    await granted(ledger, hold("since", 200, tokens, final=True))
    await ledger.settle(settlement("h", 5, 5))
    assert await balances(ledger, tokens, other) == [(205, 0), (5, 0)]
    await ledger.settle(Settlement(id="in full", tenant=ACME))
    assert await balance(ledger, tokens) == (235, 0)


async def what_expires_after_a_reset_is_corrected(ledgers: Ledgers) -> None:
    """For it was charged after it."""
    ledger, tokens = await ledgers.new(), line(cap=1000)
    await granted(ledger, hold("before", 30, tokens, ttl=1))
    await granted(ledger, hold("after", 70, tokens))
    await expired(ledger, 1)
    await ledger.reset(OPERATOR, tokens.account, tokens.unit, tokens.window, "ops", "a refund")
    await ledger.renew(ACME, ["after"], 1)
    await expired(ledger, 1)
    assert await balance(ledger, tokens) == (70, 0)
    await ledger.settle(settlement("after", 5))
    assert await balance(ledger, tokens) == (5, 0)
    await ledger.settle(settlement("before", 1))
    assert await balance(ledger, tokens) == (6, 0)


async def an_expired_hold_gets_the_same_answer(ledgers: Ledgers) -> None:
    """Reserving it again neither revives it nor holds anything."""
    ledger, tokens = await ledgers.new(), line()
    asking = hold("h", 0, tokens, each=(1,), least=1, most=30, ttl=1)
    answer = await granted(ledger, asking)
    await expired(ledger, 1)
    assert same(await granted(ledger, asking), answer)
    assert await balance(ledger, tokens) == (30, 0)


async def sweeping_counts_what_expired(ledgers: Ledgers) -> None:
    """Of all tenants, each once; what is settled, released or not yet due is left as it is."""
    ledger, tokens = await ledgers.new(), line(account("global"), 1000)
    for n in range(5):
        await granted(ledger, hold(f"dead {n}", 10, tokens, ttl=1, tenant=(ACME, GLOBEX)[n % 2]))
    await granted(ledger, hold("alive", 10, tokens))
    for id in ("settled", "released"):
        await granted(ledger, hold(id, 10, tokens, ttl=DAY))
    await ledger.settle(settlement("settled", 1))
    await ledger.release(ACME, "released")
    await expired(ledger, 5)
    assert await ledger.sweep(OPERATOR) == 0
    assert await balance(ledger, tokens) == (51, 10)


async def sweeping_at_once_charges_once(ledgers: Ledgers) -> None:
    """However many sweep, a hold expires once."""
    ledger, tokens = await ledgers.new(), line(cap=1000)
    for n in range(20):
        await granted(ledger, hold(f"dead {n}", 10, tokens, ttl=1))
    found, deadline = 0, asyncio.get_running_loop().time() + GENEROUS
    while found < 20:
        assert asyncio.get_running_loop().time() < deadline
        found += sum(await asyncio.gather(*[ledger.sweep(OPERATOR) for _ in range(4)]))
    assert found == 20
    assert await balance(ledger, tokens) == (200, 0)


async def only_operators_sweep(ledgers: Ledgers) -> None:
    """For it looks at every tenant."""
    ledger = await ledgers.new()
    with refused(ConfigurationError):
        await ledger.sweep("somebody")  # type: ignore[arg-type]


async def a_renewed_hold_lives_on(ledgers: Ledgers) -> None:
    """From now on for the time that is given, while another of its age expires."""
    ledger, tokens = await ledgers.new(), line()
    for id in ("kept", "left"):
        await granted(ledger, hold(id, 10, tokens, ttl=100))
    await ledger.renew(ACME, ["kept", "never there"], LONG)
    await ledgers.sleep(101)
    await expired(ledger, 1)
    assert await balance(ledger, tokens) == (10, 10)
    await ledger.settle(settlement("kept", 1))
    assert await balance(ledger, tokens) == (11, 0)


async def a_hold_may_be_renewed_for_less(ledgers: Ledgers) -> None:
    """It expires when that is over, for who needs its room too."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 80, tokens))
    assert (await ledger.reserve(hold("x", 21, tokens))) == Refused("held", 0, 100, 0, 80, 21)
    await ledger.renew(ACME, ["h"], 1)
    assert await _answered(ledger, hold("x", 21, tokens)) == Refused("spent", 0, 100, 80, 0, 21)


async def what_is_over_is_not_renewed(ledgers: Ledgers) -> None:
    """What was settled, released or has expired stays so."""
    ledger, tokens = await ledgers.new(), line()
    for id in ("expired", "settled", "released"):
        await granted(ledger, hold(id, 10, tokens, ttl=1 if id == "expired" else LONG))
    await ledger.settle(settlement("settled", 5))
    await ledger.release(ACME, "released")
    await expired(ledger, 1)
    await ledger.renew(ACME, ["expired", "settled", "released"], 1)
    await ledgers.sleep(5)
    assert await ledger.sweep(OPERATOR) == 0
    assert await balance(ledger, tokens) == (15, 0)


# laws of a ledger that several processes share


async def the_holds_of_a_process_outlive_it(ledgers: Ledgers) -> None:
    """Until they expire, and then any other charges them."""
    one, two = await ledgers.new(), await ledgers.new()
    tokens = line()
    await granted(one, hold("h", 30, tokens, ttl=1))
    await granted(one, hold("later", 30, tokens))
    await one.close()
    await expired(two, 1)
    assert await balance(two, tokens) == (30, 30)
    await two.settle(settlement("later", 5))
    await two.settle(settlement("h", 5))
    assert await balance(two, tokens) == (10, 0)


async def two_processes_sweep_a_hold_once(ledgers: Ledgers) -> None:
    """However they meet."""
    one, two = await ledgers.new(), await ledgers.new()
    tokens = line(cap=1000)
    for n in range(20):
        await granted(one, hold(f"dead {n}", 10, tokens, ttl=1))
    found, deadline = 0, asyncio.get_running_loop().time() + GENEROUS
    while found < 20:
        assert asyncio.get_running_loop().time() < deadline
        found += sum(await asyncio.gather(*[ledger.sweep(OPERATOR) for ledger in (one, two) * 2]))
    assert found == 20
    assert await balance(two, tokens) == (200, 0)


async def _answered(ledger: Ledger, asking: Hold) -> Granted | Refused:
    """The answer that is not "held" any more."""
    deadline = asyncio.get_running_loop().time() + GENEROUS
    while isinstance(answer := await ledger.reserve(asking), Refused) and answer.cause == "held":
        assert asyncio.get_running_loop().time() < deadline, "what is in the way does not expire"
        await asyncio.sleep(0.001)
    return answer


EXPIRY: tuple[Law, ...] = (
    an_expired_hold_is_charged_in_full,
    who_needs_the_room_sees_what_expired,
    a_late_settlement_corrects_what_was_charged,
    a_late_release_gives_back_what_was_charged,
    what_was_reset_is_not_given_back,
    what_expires_after_a_reset_is_corrected,
    an_expired_hold_gets_the_same_answer,
    sweeping_counts_what_expired,
    sweeping_at_once_charges_once,
    only_operators_sweep,
    a_renewed_hold_lives_on,
    a_hold_may_be_renewed_for_less,
    what_is_over_is_not_renewed,
)
"""Expiring, sweeping and renewing."""

SHARED_EXPIRY: tuple[Law, ...] = (the_holds_of_a_process_outlive_it, two_processes_sweep_a_hold_once)
"""The same, after the death of a process."""
