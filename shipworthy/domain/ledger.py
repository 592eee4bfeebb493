"""What a ledger is asked and answers: counters under caps, holds on them, and what became of the holds.

Amounts are whole numbers: tokens, requests, calls; money in billionths of a US dollar (`NANO` to the dollar). Times are
milliseconds since the Unix epoch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

NANO = 1_000_000_000
"""Units of money in one US dollar."""

Unit = Literal["tokens", "input_tokens", "output_tokens", "cost_usd", "requests", "tool_calls"]
Level = Literal["run", "session", "user", "tenant", "agent", "model", "global"]
Window = Literal["run", "hour", "day", "month", "total"]
Cause = Literal["spent", "held", "rate"]


class Account(msgspec.Struct, frozen=True, gc=False):
    """Who spends. `tenant` is empty for agents, models and everybody together; `name` is the rest, composed
    injectively (JSON)."""

    level: Level
    tenant: str
    name: str


class Line(msgspec.Struct, frozen=True, gc=False):
    """One counter under its cap. `key` names the counter (account, unit, window and its start), `limit` the same
    without the start: an override of the cap is kept under it. `end`: when the window is over; 0 for never. `soft`:
    what is spent when a warning is due; 0 for none."""

    key: str
    limit: str
    account: Account
    unit: Unit
    window: Window
    start: int
    end: int
    cap: int
    soft: int = 0


class Rate(msgspec.Struct, frozen=True, gc=False):
    """`limit` units in `period` milliseconds, of which `burst` at once (the generic cell rate algorithm, ITU-T I.371).
    What is bigger than the burst waits until nothing is owed."""

    key: str
    account: Account
    unit: Unit
    limit: int
    period: int
    burst: int


class Hold(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one attempt may cost at most, to be reserved on every line or on none.

    `base` is due anyway and `each` for every unit that is granted (an output token), by line; so are `rate_base` and
    `rate_each` by rate. Between `least` and `most` units are granted: as many as every cap affords. `ttl`: milliseconds
    after which the hold is charged in full, unless it is renewed. `final`: charged at once, nothing is left to settle.
    `patient`: where others are in the way, keep a place in the order of those who wait. `note` is given back with what
    became of the hold. An `id` that was there before gets the answer that it got then.
    """

    id: str
    tenant: str
    lines: tuple[Line, ...]
    base: tuple[int, ...]
    each: tuple[int, ...]
    rates: tuple[Rate, ...] = ()
    rate_base: tuple[int, ...] = ()
    rate_each: tuple[int, ...] = ()
    least: int = 0
    most: int = 0
    ttl: int = 120_000
    final: bool = False
    patient: bool = False
    note: str = ""


class Settlement(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What an attempt did cost, by line and by rate of its hold; None: all that was reserved. More than was reserved is
    charged as well. Settling again changes nothing."""

    id: str
    tenant: str
    amounts: tuple[int, ...] | None = None
    rates: tuple[int, ...] | None = None
    note: str = ""


class Forget(msgspec.Struct, frozen=True, gc=False):
    """Counters that nothing will draw on any more: those of a run that ended."""

    tenant: str
    keys: tuple[str, ...]


BudgetOp = Hold | Settlement | Forget


class Granted(msgspec.Struct, frozen=True, gc=False):
    """The hold stands. `units`: how many were granted. `warned`: lines that a final charge brought to their warning.
    `near`: settling it may bring one there; a ledger that cannot tell says so."""

    units: int = 0
    warned: tuple[int, ...] = ()
    near: bool = True


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Nothing was reserved. "spent": no room would be there if every other hold were released; "held": others hold
    what is missing, or wait for it longer; "rate": there will be room in `wait` milliseconds if nobody else comes.

    `index`: the line's, or the rate's for "rate". `cap` is the one in force; `needed` what the least would have taken.
    """

    cause: Cause
    index: int
    cap: int = 0
    spent: int = 0
    held: int = 0
    needed: int = 0
    wait: int = 0


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What a hold was charged; the same when it is asked again. `note`: of the settlement that counted, or of the hold
    where it was charged in full. `warned`: lines that reached their warning by it. `known` is False where there is no
    such hold; `units` is what had been granted."""

    note: str = ""
    warned: tuple[int, ...] = ()
    known: bool = True
    units: int = 0


Outcome = Granted | Settled | None


class Balance(msgspec.Struct, frozen=True, gc=False):
    """One counter as it stands. `cap` is the override that is in force, if there is one."""

    account: Account
    unit: Unit
    window: Window
    start: int
    spent: int
    held: int
    cap: int | None = None


class Change(msgspec.Struct, frozen=True, gc=False):
    """What an operator did to a counter or its cap. `amount` is the new cap (None: the override was taken back), or
    what had been spent when it was reset."""

    at: int
    action: Literal["set", "reset"]
    account: Account
    unit: Unit
    window: Window
    amount: int | None
    who: str
    why: str


class Carried(msgspec.Struct, frozen=True, gc=False):
    """A counter as another ledger is to take it over. `spent` has what is held as well: nobody settles that there.
    `warned`: its warning was given."""

    key: str
    limit: str
    account: Account
    unit: Unit
    window: Window
    start: int
    end: int
    spent: int
    warned: bool = False


class Pace(msgspec.Struct, frozen=True, gc=False):
    """How far a rate (`Rate.key`) is used up: the microsecond until which what passed is paid for."""

    key: str
    owed: int
