"""Limits as a developer writes them down, checked when they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

from shipworthy.app.configuration import seconds, sequence_of
from shipworthy.domain.budgets import Limit, RateTerm, Terms
from shipworthy.domain.ledger import NANO, Level, Unit, Window
from shipworthy.engine.windows import is_zone
from shipworthy.errors import ConfigurationError

Money = float | int | str | Decimal
_UNITS: dict[str, Unit] = {
    "max_tokens": "tokens",
    "max_input_tokens": "input_tokens",
    "max_output_tokens": "output_tokens",
    "max_cost_usd": "cost_usd",
    "max_requests": "requests",
    "max_tool_calls": "tool_calls",
}
_LEVELS: dict[str, Level] = {
    "": "run",
    "per_session_": "session",
    "per_user_": "user",
    "per_tenant_": "tenant",
    "per_agent_": "agent",
    "global_": "global",
}
_YEAR = 366 * 86_400_000
_PERIODS = {"second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_WINDOWS = ("run", "hour", "day", "month", "total")
_MOST = 9 * 10**15


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests, or tokens, in each `period` for everybody (`per="model"`), each tenant or each user; `burst` of
    them may come at once (by default the whole of `requests` or `tokens`).

    `mode="wait"`: a call waits its turn, tenants in turn; "refuse": the run stops with the time to wait.
    """

    requests: int | None = None
    tokens: int | None = None
    per: Literal["model", "tenant", "user", "agent", "global"] = "model"
    period: Literal["second", "minute", "hour", "day"] = "minute"
    burst: int | None = None
    mode: Literal["wait", "refuse"] = "wait"


class BudgetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits; None for none. Those without `per_` or `global_` are for each run. Tokens are input and output together;
    `max_wall_clock` counts the seconds in which a run is driven, not those in which it is parked.

    `window`: for how long what is spent counts, for all limits but a run's: an hour, a day or a month by the clocks of
    `time_zone`, or for ever ("total"). `soft_warning_at`: the part of a cap at which a warning is due, 0 for none.
    `wrap_up`: the part of a run's caps that is kept back for one last answer.

    `max_output_tokens_per_call` is asked for where the settings of a call name no `max_tokens`, and less where a cap
    affords less, but not less than `min_output_tokens`. `on_contention`: whether a call waits while others hold what is
    missing. `hold_ttl`: seconds after which what a dead process held is charged in full. `on_ledger_error="allow"`
    makes calls without a reservation while the ledger is down, each recorded as an event.
    """

    max_tokens: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_cost_usd: Money | None = None
    max_requests: int | None = None
    max_tool_calls: int | None = None
    max_wall_clock: float | None = None
    per_session_max_tokens: int | None = None
    per_session_max_cost_usd: Money | None = None
    per_user_max_tokens: int | None = None
    per_user_max_input_tokens: int | None = None
    per_user_max_output_tokens: int | None = None
    per_user_max_cost_usd: Money | None = None
    per_user_max_requests: int | None = None
    per_user_max_tool_calls: int | None = None
    per_tenant_max_tokens: int | None = None
    per_tenant_max_input_tokens: int | None = None
    per_tenant_max_output_tokens: int | None = None
    per_tenant_max_cost_usd: Money | None = None
    per_tenant_max_requests: int | None = None
    per_tenant_max_tool_calls: int | None = None
    per_agent_max_tokens: int | None = None
    per_agent_max_cost_usd: Money | None = None
    global_max_tokens: int | None = None
    global_max_cost_usd: Money | None = None
    global_max_requests: int | None = None
    global_max_tool_calls: int | None = None
    window: Window = "total"
    time_zone: str = "UTC"
    soft_warning_at: float = 0.8
    wrap_up: float = 0.0
    max_output_tokens_per_call: int = 4096
    min_output_tokens: int = 16
    on_contention: Literal["wait", "refuse"] = "wait"
    on_ledger_error: Literal["refuse", "allow"] = "refuse"
    hold_ttl: float = 120.0

    def terms(self, rates: Sequence[RateTerm] = ()) -> Terms:
        """What the engine is told. Raises ConfigurationError."""
        limits = tuple([limit for field in _FIELDS if (limit := self._limit(*field)) is not None])
        self._check(limits)
        return Terms(
            limits=limits,
            rates=tuple(rates),
            max_wall_clock=None
            if self.max_wall_clock is None
            else seconds("max_wall_clock", self.max_wall_clock),
            zone=self.time_zone,
            soft=self.soft_warning_at,
            wrap_up=self.wrap_up,
            max_output=self.max_output_tokens_per_call,
            least_output=self.min_output_tokens,
            ttl=_ttl(self.hold_ttl),
            on_contention=self.on_contention,
            on_ledger_error=self.on_ledger_error,
        )

    def _limit(self, field: str, unit: Unit, level: Level) -> Limit | None:
        value = getattr(self, field)
        if value is None:
            return None
        return Limit(field, unit, _cap(field, value, unit), level, "run" if level == "run" else self.window)

    def _check(self, limits: Sequence[Limit]) -> None:
        _one_of("window", self.window, _WINDOWS)
        _one_of("on_contention", self.on_contention, ("wait", "refuse"))
        _one_of("on_ledger_error", self.on_ledger_error, ("refuse", "allow"))
        if self.window == "run" and (wider := [limit.name for limit in limits if limit.level != "run"]):
            raise ConfigurationError(
                f'{wider[0]} outlives a run, but window="run".',
                fix='Use window="hour", "day", "month" or "total"; limits of a run are max_tokens=, max_cost_usd=, ...',
            )
        if not is_zone(self.time_zone):
            raise ConfigurationError(
                f"time_zone={self.time_zone!r} is not known here.",
                fix='Use a name such as "Europe/Berlin"; where the system has no zones, install tzdata.',
            )
        for name, value in (("soft_warning_at", self.soft_warning_at), ("wrap_up", self.wrap_up)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigurationError(f"{name}={value!r} is not a part of a cap.", fix="Use 0 to below 1.")
        for name, count in (
            ("max_output_tokens_per_call", self.max_output_tokens_per_call),
            ("min_output_tokens", self.min_output_tokens),
        ):
            _whole(name, count)
        least = self.min_output_tokens
        if least > self.max_output_tokens_per_call:
            raise ConfigurationError(
                f"min_output_tokens={least} is above max_output_tokens_per_call={self.max_output_tokens_per_call}.",
                fix="Lower the one, or raise the other.",
            )
        for limit in limits:
            self._check_room(limit, least)

    def _check_room(self, limit: Limit, least: int) -> None:
        if limit.unit not in ("tokens", "output_tokens"):
            return
        if limit.cap < least:
            raise ConfigurationError(
                f"{limit.name}={limit.cap} is below the {least} output tokens that one call asks for at least.",
                fix="Raise it, or lower min_output_tokens.",
            )
        left = limit.cap - math.ceil(limit.cap * self.wrap_up) if limit.level == "run" else limit.cap
        if left < least:
            raise ConfigurationError(
                f"wrap_up={self.wrap_up} leaves {left} tokens of {limit.name}={limit.cap} for normal calls, and each "
                f"asks for at least {least} of output.",
                fix="Raise the cap, or lower wrap_up or min_output_tokens.",
            )


_FIELDS: list[tuple[str, Unit, Level]] = [
    (level + unit, _UNITS[unit], _LEVELS[level])
    for level in _LEVELS
    for unit in _UNITS
    if level + unit in BudgetConfig.__struct_fields__
]


def _cap(name: str, value: Any, unit: Unit) -> int:
    if unit != "cost_usd":
        return _whole(name, value)
    is_money = isinstance(value, (int, float, Decimal)) or (isinstance(value, str) and "_" not in value)
    try:
        dollars = Decimal(str(value)) if is_money and not isinstance(value, bool) else Decimal(0)
        cap = int(dollars * NANO) if dollars.is_finite() else 0
    except ArithmeticError:
        cap = 0
    if not 0 < cap <= _MOST:
        raise ConfigurationError(
            f"{name}={value!r} is not an amount of money.", fix="Pass US dollars above 0."
        )
    return cap


def _ttl(value: Any) -> float:
    ttl = seconds("hold_ttl", value)
    if ttl < 1:
        raise ConfigurationError(
            f"hold_ttl={value!r} is too short: holds would expire while their attempts live.",
            fix="Pass at least 1 second; 120 is usual.",
        )
    return ttl


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST:
        raise ConfigurationError(f"{name}={value!r} is not a number of anything.", fix="Pass an int above 0.")
    return value


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigurationError(
            f"{name}={value!r} is unknown.", fix=f"Use one of {', '.join(map(repr, known))}."
        )


def rates_of(given: Sequence[RateLimit]) -> tuple[RateTerm, ...]:
    terms: dict[str, RateTerm] = {}
    for each in sequence_of("rate_limits", given):
        for term in _terms_of(each):
            if terms.setdefault(term.name, term) is not term:
                raise ConfigurationError(
                    f"rate_limits has {term.unit} per {term.name.rpartition('_')[2]} twice for each {term.level}.",
                    fix="Keep one of them; another period= makes another limit.",
                )
    return tuple(terms.values())


def _terms_of(given: RateLimit) -> list[RateTerm]:
    if not isinstance(given, RateLimit):
        raise ConfigurationError(
            f"rate_limits has a {type(given).__name__}.", fix="Use RateLimit(requests=60), ..."
        )
    _one_of("per", given.per, ("model", "tenant", "user", "agent", "global"))
    _one_of("period", given.period, tuple(_PERIODS))
    _one_of("mode", given.mode, ("wait", "refuse"))
    units: list[tuple[Unit, int | None]] = [("requests", given.requests), ("tokens", given.tokens)]
    if given.requests is None and given.tokens is None:
        raise ConfigurationError("A RateLimit limits nothing.", fix="Give it requests= or tokens=.")
    if given.burst is not None and None not in (given.requests, given.tokens):
        raise ConfigurationError(
            "burst= is of requests or of tokens.", fix="Make two RateLimits, each with its burst."
        )
    terms = [
        RateTerm(
            name=f"{given.per}_{unit}_per_{given.period}",
            unit=unit,
            limit=_whole(unit, count),
            period=_PERIODS[given.period],
            burst=count if given.burst is None else _whole("burst", given.burst),
            level=given.per,
            wait=given.mode == "wait",
        )
        for unit, count in units
        if count is not None
    ]
    for term in terms:
        if term.burst * term.period > _YEAR * term.limit:
            raise ConfigurationError(
                f"burst={term.burst} is more than {term.limit} {term.unit} a {given.period} give back within a year.",
                fix="Pass a smaller burst=, or leave it out.",
            )
    return terms
