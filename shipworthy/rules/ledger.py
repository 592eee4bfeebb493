"""Whether a hold may be taken, and what its parts amount to. Every ledger decides like this, in whatever language."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shipworthy.domain.ledger import Account, Granted, Hold, Level, Rate, Refused, Unit, Window
from shipworthy.domain.scope import ANONYMOUS, Scope

MICROS = 1000
"""Microseconds in a millisecond: what a rate owes is kept in microseconds."""
SLACK = 1_000
"""Milliseconds by which what a clock said may lie ahead before that clock is taken to have been set right since."""
_DAY = 86_400_000 * MICROS


_names = msgspec.json.Encoder()
_rate = msgspec.json.Decoder(tuple[Level, str, str, Unit, int]).decode


def account(level: Level, tenant: str = "", *name: str | None) -> Account:
    """An account; the parts of its name are composed injectively."""
    return Account(level, tenant, _names.encode(name).decode())


def account_of(level: Level, scope: Scope, *, run_id: str = "", agent: str = "", model: str = "") -> Account:
    """On whose account a run of this scope spends. Runs that name nobody share one account for users and one for
    tenants: fresh ones would be no limit."""
    match level:
        case "run":
            return account("run", scope.tenant, run_id)
        case "session":
            if scope.session is None:
                return account("session", scope.tenant, None, run_id)
            return account("session", scope.tenant, scope.user, scope.session)
        case "user":
            return (
                account("user", "", ANONYMOUS)
                if scope.anonymous
                else account("user", scope.tenant, scope.user)
            )
        case "tenant":
            return account("tenant", "", ANONYMOUS) if scope.anonymous else account("tenant", scope.tenant)
        case "agent":
            return account("agent", "", agent)
        case "model":
            return account("model", "", model)
        case _:
            return account("global")


def keys_of(account: Account, unit: Unit, window: Window, start: int) -> tuple[str, str]:
    """The keys of a counter and of its limit (`Line.key`, `Line.limit`)."""
    limit = [account.level, account.tenant, account.name, unit, window]
    return _names.encode([*limit, start]).decode(), _names.encode(limit).decode()


def rate_key(account: Account, unit: Unit, period: int) -> str:
    """The key of a rate (`Rate.key`)."""
    return _names.encode([account.level, account.tenant, account.name, unit, period]).decode()


def of_rate(key: str) -> tuple[Account, Unit]:
    """Whose rate it is, and of what: what `rate_key` was given."""
    level, tenant, name, unit, _ = _rate(key)
    return Account(level, tenant, name), unit


def belongs(account: Account, tenant: str | None, user: str | None) -> bool:
    """Whether an account is among those that are asked for: a tenant's and its users' (None: everybody's own), or one
    user's."""
    if account.tenant != (tenant or ""):
        return False
    return user is None or (account.level == "user" and account.name == _names.encode([user]).decode())


def of_one_run(account: Account) -> bool:
    """Whether only one run ever draws on an account (see `account_of`)."""
    return account.level == "run" or (account.level == "session" and account.name.startswith("[null,"))


def verdict(
    hold: Hold, caps: Sequence[int], spent: Sequence[int], held: Sequence[int], queued: Sequence[bool]
) -> Granted | Refused:
    """What every cap affords, by line: its cap in force, what is spent, what others hold, and whether somebody waits
    for it who came before.

    The units that would fit if nobody held anything are what is asked for: to be granted less because others hold the
    rest for a moment would cut an answer short without need, so that is waited for.
    """
    units = hold.most
    for index, each in enumerate(hold.each):
        room = caps[index] - spent[index] - hold.base[index]
        if room < each * units:
            units = room // each if each else -1
        if units < hold.least:
            needed = hold.base[index] + each * hold.least
            return Refused("spent", index, caps[index], spent[index], held[index], needed)
    for index, each in enumerate(hold.each):
        needed = hold.base[index] + each * units
        if queued[index] or needed > caps[index] - spent[index] - held[index]:
            return Refused("held", index, caps[index], spent[index], held[index], needed)
    return Granted(units)


def is_full(refused: Refused) -> bool:
    """Whether a line that others hold had no room, and it was not only that somebody else came before."""
    return refused.needed > refused.cap - refused.spent - refused.held


def cost(rate: Rate, amount: int) -> int:
    """Microseconds that *amount* takes at this rate, rounded up."""
    return -(-amount * rate.period * MICROS // rate.limit)


def owing(rate: Rate, owed: int, now: int) -> int:
    """What a rate owes: the time until which what has passed is paid for; it and *now* in microseconds. No more than
    for a burst or a day, or it stems from a clock that was ahead."""
    return min(owed, now + max(cost(rate, rate.burst), _DAY))


def wait_for(rate: Rate, owed: int, amount: int, now: int) -> int:
    """Milliseconds until *amount* may pass, 0 for now. *owed* and *now* as in `owing`."""
    due = cost(rate, amount)
    early = max(owing(rate, owed, now), now) + due - now - max(cost(rate, rate.burst), due)
    return -(-early // MICROS) if early > 0 else 0


def passed(rate: Rate, owed: int, idle_at: int, amount: int, at: int) -> tuple[int, int]:
    """What a rate owes when *amount* has passed at the millisecond *at*, and when something last passed while nothing
    was owed (never: 0)."""
    now = at * MICROS
    if owed <= now or idle_at > at:  # the latter of a clock that was ahead
        idle_at = at
    return max(owing(rate, owed, now), now) + cost(rate, amount), idle_at


def corrected(rate: Rate, reserved: int, used: int, taken: int, idle_at: int) -> int:
    """By how much it changes what a rate owes that of what was reserved, at the millisecond *taken*, so much was used.

    What was taken before the rate was idle is paid for: time did that. To give it back would let pass what never was
    in the way.
    """
    change = cost(rate, used) - cost(rate, reserved)
    return change if taken >= idle_at else max(change, 0)
