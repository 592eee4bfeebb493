"""What the laws of a ledger need: ledgers, and the counters that they are tried on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from shipworthy.domain.ledger import (
    Account,
    Granted,
    Hold,
    Line,
    Rate,
    Refused,
    Settled,
    Settlement,
    Unit,
    Window,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ShipworthyError
from shipworthy.ports.ledger import Accounts, Ledger
from shipworthy.rules.ledger import account, keys_of

DAY = 86_400_000
TODAY = time.time_ns() // 1_000_000 // DAY * DAY
TOMORROW = TODAY + DAY
"""Starts of windows that are not over while a law is tried."""
LONG = 10 * DAY
"""The `ttl` of a hold that does not expire while a law is tried."""
GENEROUS = 20.0
"""Seconds within which what must happen sooner or later has happened, on a busy machine too."""


class OwnLedger(Ledger, Accounts, Protocol):
    """A ledger with its accounts."""


class Ledgers:
    """Where a law gets its ledgers: each is another process' connection to the same counters, of which there are none
    at first."""

    def __init__(self) -> None:
        self._made: list[OwnLedger] = []

    def make(self) -> OwnLedger:
        """A ledger that is not open yet."""
        raise NotImplementedError

    async def sleep(self, milliseconds: int) -> None:
        """Let time pass on the ledger's own clock; where a test can move that clock, it need not wait. Less than 0 sets
        the clock back: `CLOCK_LAWS` do."""
        await asyncio.sleep(milliseconds / 1000)

    async def new(self) -> OwnLedger:
        """An open ledger."""
        ledger = self.make()
        self._made.append(ledger)
        await ledger.open()
        return ledger

    async def close(self) -> None:
        """Close every ledger that was made."""
        for ledger in self._made:
            await ledger.close()


Law = Callable[[Ledgers], Awaitable[None]]


def check(law: Law, ledgers: Ledgers) -> None:
    """Hold *ledgers* to *law*. Raises AssertionError where it is broken."""

    async def run() -> None:
        try:
            await law(ledgers)
        finally:
            await ledgers.close()

    asyncio.run(run())


def name(law: Law) -> str:
    """A law's name, for a test's id."""
    return str(getattr(law, "__name__", law))


ACME = "acme"
GLOBEX = "globex"
OPERATOR = Operator("the ledger's laws")


@contextmanager
def refused(error: type[ShipworthyError]) -> Iterator[None]:
    """What is inside must raise *error*."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised.")


# counters, rates and holds


def line(
    owner: Account | str = "alice",
    cap: int = 100,
    *,
    unit: Unit = "tokens",
    window: Window = "day",
    start: int = TODAY,
    soft: int = 0,
) -> Line:
    """A counter of a user of ACME, or of an account."""
    owner = account("user", ACME, owner) if isinstance(owner, str) else owner
    key, limit = keys_of(owner, unit, window, start)
    return Line(
        key, limit, owner, unit, window, start, 0 if window in ("run", "total") else start + DAY, cap, soft
    )


def rate(
    owner: Account | str = "alice",
    limit: int = 10,
    burst: int = 3,
    *,
    unit: Unit = "requests",
    period: int = LONG,
) -> Rate:
    """A rate of a user of ACME, or of an account, so slow that the time which a law takes does not matter."""
    owner = account("user", ACME, owner) if isinstance(owner, str) else owner
    return Rate("rate" + keys_of(owner, unit, "total", 0)[1], owner, unit, limit, period, burst)


def hold(id: str, amount: int | Sequence[int], *lines: Line, tenant: str = ACME, **more: Any) -> Hold:
    """A hold of this amount on every line, or of these."""
    base = (amount,) * len(lines) if isinstance(amount, int) else tuple(amount)
    each = more.pop("each", (0,) * len(lines))
    return Hold(id=id, tenant=tenant, lines=lines, base=base, each=each, **{"ttl": LONG, **more})


def paced(id: str, amount: int, *rates: Rate, lines: tuple[Line, ...] = (), **more: Any) -> Hold:
    """A hold of this amount on every rate (and of 10 on every line)."""
    n = len(rates)
    return hold(
        id, 10, *lines, rates=rates, rate_base=(amount,) * n, rate_each=more.pop("per", (0,) * n), **more
    )


def settlement(id: str, *amounts: int, tenant: str = ACME, **more: Any) -> Settlement:
    """What a hold did cost, by line."""
    return Settlement(id=id, tenant=tenant, amounts=amounts, **more)


# asking a ledger


async def granted(ledger: Ledger, hold: Hold) -> Granted:
    """Reserve what must be granted."""
    answer = await ledger.reserve(hold)
    assert isinstance(answer, Granted), (hold.id, answer)
    return answer


async def turned_away(ledger: Ledger, hold: Hold) -> Refused:
    """Reserve what must be refused."""
    answer = await ledger.reserve(hold)
    assert isinstance(answer, Refused), (hold.id, answer)
    return answer


async def balances(ledger: Ledger, *lines: Line, tenant: str = ACME) -> list[tuple[int, int]]:
    """What is spent and what is held, by counter."""
    found = await ledger.spent(Scope(tenant), [one.key for one in lines])
    return [(spent, held) for spent, held in found]


async def balance(ledger: Ledger, line: Line, tenant: str = ACME) -> tuple[int, int]:
    """What is spent and what is held of one counter."""
    return (await balances(ledger, line, tenant=tenant))[0]


def same(one: Granted | Settled, other: Granted | Settled) -> bool:
    """Whether two answers say the same of what was granted or charged."""
    if isinstance(one, Granted) and isinstance(other, Granted):
        return (one.units, one.warned) == (other.units, other.warned)
    return one == other


async def expired(ledger: Ledger, count: int) -> None:
    """Sweep until so many holds have expired, and not one more."""
    found, deadline = 0, asyncio.get_running_loop().time() + GENEROUS
    while found < count:
        found += await ledger.sweep(OPERATOR)
        assert asyncio.get_running_loop().time() < deadline, f"{found} of {count} holds have expired"
        await asyncio.sleep(0.001)
    assert found == count
