"""What a budget says for one scope: limits, and how to keep them."""

from __future__ import annotations

from typing import Literal

import msgspec

from shipworthy.domain.ledger import Level, Unit, Window

Contention = Literal["wait", "refuse"]


class Limit(msgspec.Struct, frozen=True, gc=False):
    """One cap: so much of `unit` for each account of `level` in each `window`. `name` as in BudgetConfig."""

    name: str
    unit: Unit
    cap: int
    level: Level
    window: Window


class RateTerm(msgspec.Struct, frozen=True, gc=False):
    """So many requests or tokens in `period` milliseconds for each account of `level`, `burst` of them at once."""

    name: str
    unit: Unit
    limit: int
    period: int
    burst: int
    level: Level
    wait: bool = True


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """A budget for one scope. Times in seconds; `soft` and `wrap_up` are parts of a cap, 0 for none.

    `max_output`: output tokens of a call whose settings name no bound. `least_output`: fewer than these are not asked
    for. `ttl`: a hold that nobody renews is charged in full after it.
    """

    limits: tuple[Limit, ...] = ()
    rates: tuple[RateTerm, ...] = ()
    max_wall_clock: float | None = None
    zone: str = "UTC"
    soft: float = 0.8
    wrap_up: float = 0.0
    max_output: int = 4096
    least_output: int = 16
    ttl: float = 120.0
    on_contention: Contention = "wait"
    on_ledger_error: Literal["refuse", "allow"] = "refuse"
