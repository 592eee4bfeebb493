"""Laws of identity: no tenant touches what is another's, and no two names are one."""

from __future__ import annotations

import random
import unicodedata

from shipworthy.domain.ledger import Forget, Settled
from shipworthy.domain.scope import LONGEST_ID
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    DAY,
    GLOBEX,
    OPERATOR,
    Law,
    Ledgers,
    balance,
    balances,
    expired,
    granted,
    hold,
    line,
    settlement,
    turned_away,
)


def odd_names() -> list[str]:
    """Names that some storage mistakes for something else, each longer than none and within the longest id."""
    chance = random.Random(4)
    controls = "".join(chance.choice([chr(n) for n in range(1, 32)]) for _ in range(LONGEST_ID))
    printable = "".join(chance.choice([chr(n) for n in range(33, 127)]) for _ in range(LONGEST_ID))
    return [
        "a",
        "A",
        "a ",
        " a",
        "a:b",
        'a","b',
        "a'; DROP TABLE holds; --",
        "%s {} $1 ? :name \\",
        "\x01\x1f\x7f\t\r\n",
        unicodedata.normalize("NFC", "é"),
        unicodedata.normalize("NFD", "é"),
        "名前💸\u202e\u200b",
        "null",
        "0",
        controls,
        printable,
        "💸" * (LONGEST_ID // 4),
    ]


async def no_two_names_are_one(ledgers: Ledgers) -> None:
    """Whatever tenants, users and holds are called: quotes, blanks, case, control characters, 512 bytes."""
    ledger, names = await ledgers.new(), odd_names()
    lines = [line(account("session", tenant, tenant, tenant), 10) for tenant in names]
    for n, (tenant, tokens) in enumerate(zip(names, lines, strict=True)):
        await granted(ledger, hold(tenant, n % 7, tokens, tenant=tenant, note=tenant))
    for n, (tenant, tokens) in enumerate(zip(names, lines, strict=True)):
        assert await balance(ledger, tokens, tenant) == (0, n % 7), tenant
        await ledger.renew(tenant, [tenant], DAY)
        assert (await ledger.settle(settlement(tenant, n % 5, tenant=tenant, note=tenant))).note == tenant
    for n, (tenant, tokens) in enumerate(zip(names, lines, strict=True)):
        assert await balance(ledger, tokens, tenant) == (n % 5, 0), tenant
        (shown,) = await ledger.show(OPERATOR, tenant, None)
        assert shown.account == tokens.account
        await ledger.forget(Forget(tenant, (tokens.key,)))
        assert await balance(ledger, tokens, tenant) == (0, 0), tenant


async def accounts_are_composed_injectively(ledgers: Ledgers) -> None:
    """The user "b:c" of the tenant "a" is not the user "c" of the tenant "a:b", however names are put together."""
    ledger = await ledgers.new()
    pairs = [("a", "b:c"), ("a:b", "c"), ("a", 'b","c'), ('a","b', "c"), ("ab", "c"), ("a", "bc")]
    accounts = [account("user", tenant, user) for tenant, user in pairs]
    accounts += [account("session", "a", "b", "c"), account("user", "a", None), account("user", "a", "null")]
    for n, owner in enumerate(accounts):
        await granted(ledger, hold(f"h{n}", n, line(owner), tenant=owner.tenant))
    for n, owner in enumerate(accounts):
        assert await balance(ledger, line(owner), owner.tenant) == (0, n), owner


async def another_tenant_settles_and_releases_nothing(ledgers: Ledgers) -> None:
    """A foreign hold gives the same answer as one that is not there."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("h", 30, tokens))
    unknown = await ledger.settle(settlement("never", 10, tenant=GLOBEX))
    assert unknown == Settled(known=False)
    assert await ledger.settle(settlement("h", 10, tenant=GLOBEX)) == unknown
    await ledger.release(GLOBEX, "h")
    assert await balance(ledger, tokens) == (0, 30)
    await ledger.settle(settlement("h", 20))
    assert await ledger.settle(settlement("h", 10, tenant=GLOBEX)) == unknown
    assert await balance(ledger, tokens) == (20, 0)


async def another_tenant_renews_nothing(ledgers: Ledgers) -> None:
    """Neither for longer nor for less."""
    ledger, tokens = await ledgers.new(), line()
    await granted(ledger, hold("dead", 30, tokens, ttl=1))
    await granted(ledger, hold("alive", 30, tokens))
    await ledger.renew(GLOBEX, ["dead", "alive"], 1)
    await ledgers.sleep(5)
    await ledger.renew(GLOBEX, ["dead", "alive"], DAY)
    await expired(ledger, 1)
    assert await balance(ledger, tokens) == (30, 30)


async def another_tenant_sees_and_forgets_nothing(ledgers: Ledgers) -> None:
    """A foreign counter reads as one that is not there; everybody's counters are seen by all."""
    ledger = await ledgers.new()
    mine, everybodys = line(), line(account("model", "", "openai:gpt"))
    await granted(ledger, hold("h", 30, mine, everybodys))
    assert await balances(ledger, mine, everybodys, tenant=GLOBEX) == [(0, 0), (0, 30)]
    await ledger.forget(Forget(GLOBEX, (mine.key, everybodys.key)))
    assert await balances(ledger, mine, everybodys) == [(0, 30), (0, 30)]


async def another_tenant_gives_up_no_place(ledgers: Ledgers) -> None:
    """Who waits for everybody's counter cannot be sent away by a stranger who knows the hold's id."""
    ledger, tokens = await ledgers.new(), line(account("global"))
    await granted(ledger, hold("fills", 100, tokens))
    await turned_away(ledger, hold("waits", 60, tokens, patient=True))
    await ledger.release(GLOBEX, "waits")
    await ledger.release(ACME, "fills")
    assert (await turned_away(ledger, hold("late", 1, tokens, tenant=GLOBEX))).cause == "held"
    await granted(ledger, hold("waits", 60, tokens, patient=True))


TENANTS: tuple[Law, ...] = (
    no_two_names_are_one,
    accounts_are_composed_injectively,
    another_tenant_settles_and_releases_nothing,
    another_tenant_renews_nothing,
    another_tenant_sees_and_forgets_nothing,
    another_tenant_gives_up_no_place,
)
"""Tenants and names."""
