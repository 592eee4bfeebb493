"""Budgets as a developer writes them down: limits, their windows, and where the counters are kept."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

from shipworthy.app.configuration import seconds, sequence_of
from shipworthy.domain.budgets import Limit, RateTerm, Terms
from shipworthy.domain.ledger import NANO, Level, Unit, Window
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Price
from shipworthy.engine.asking import check_name
from shipworthy.engine.windows import is_zone
from shipworthy.errors import ConfigurationError
from shipworthy.ports.budget import Budget
from shipworthy.ports.ledger import Ledger
from shipworthy.ports.prices import Prices
from shipworthy.ports.store import Store
from shipworthy.rules.prices import misprice

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
Plans = Callable[[Scope], BudgetConfig | Awaitable[BudgetConfig]]


class StandardBudget:
    """Limits that hold: what is spent and what is held never pass a cap, in however many processes runs are driven.

    *config*: a BudgetConfig, or a function of the scope that gives one (a plan for each customer). *ledger*: where the
    counters are kept: None for the runtime's own store, "inmemory", "sqlite:<path>", "postgres://...", "redis://...",
    or a ledger. *prices*: what models cost where money is limited, by default those of the package genai-prices.
    *rate_limits* hold for the same accounts. Raises ConfigurationError.

    A function that is async has the run's `timeout=`, or 30 seconds, for its answer. One that is not runs on the event
    loop and holds everybody up while it does: it cannot be bounded, so it must neither wait nor read files.
    """

    def __init__(
        self,
        config: BudgetConfig | Plans,
        *,
        ledger: Ledger | str | None = None,
        prices: Prices | None = None,
        rate_limits: Sequence[RateLimit] = (),
    ) -> None:
        self._rates = _rates_of(rate_limits)
        self._plans: Plans | None = None
        self._terms: Terms | None = None
        if isinstance(config, BudgetConfig):
            self._terms = config.terms(self._rates)
            _check_purpose(self._terms)
        elif callable(config) and not isinstance(config, type):
            self._plans = config
        else:
            raise ConfigurationError(
                f"A budget was given a {type(config).__name__}.",
                fix="Pass BudgetConfig(max_cost_usd=..., ...), or a function of the scope that gives one.",
            )
        self._ledger = ledger
        self._made: Ledger | None = None
        self._prices = prices if prices is not None else default_prices() if self._is_about_money() else None
        self._loaded = False
        if isinstance(ledger, str):
            check_ledger(ledger)
            if ledger.startswith("sqlite:"):  # wherever the process goes from here
                self._ledger = f"sqlite:{os.path.realpath(ledger.removeprefix('sqlite:'))}"
        elif ledger is not None and (isinstance(ledger, type) or not hasattr(ledger, "reserve")):
            raise ConfigurationError(
                f"ledger={ledger!r} is not a ledger.",
                fix='Pass "inmemory", "sqlite:./bot.db", "postgres://...", "redis://...", or an InMemoryLedger().',
            )
        _check_prices(prices)
        self._priced: dict[str, Price] = {}

    @property
    def has_plans(self) -> bool:
        """Whether the limits are a function of the scope."""
        return self._plans is not None

    def _is_about_money(self) -> bool:
        """Whether money is limited; a function of the scope may say so later."""
        return self._terms is None or any([limit.unit == "cost_usd" for limit in self._terms.limits])

    async def open(self) -> None:
        """Load the prices, once, off the event loop."""
        if not self._loaded and self._prices is not None:
            await self._prices.load()
        self._loaded = True

    def ledger_on(self, store: Store) -> Ledger:
        """The store's own ledger, unless another place was named."""
        if self._ledger is None:
            return store.ledger
        if not isinstance(self._ledger, str):
            return self._ledger
        if is_same_place(self._ledger, store):
            return store.ledger
        if self._made is None:
            self._made = make_ledger(self._ledger)
        return self._made

    async def terms(self, scope: Scope) -> Terms:
        """The limits of this scope. Raises ConfigurationError: whatever the function of the scope did, nothing is
        allowed by it."""
        if self._plans is None:
            assert self._terms is not None
            return self._terms
        try:
            config: Any = self._plans(scope)
            if inspect.isawaitable(config):
                config = await config
        except Exception as error:
            raise ConfigurationError(
                f"The budget's function of the scope raised {type(error).__name__}: {error}",
                fix="Mend the function; nothing runs without its answer.",
            ) from error
        if not isinstance(config, BudgetConfig):
            raise ConfigurationError(
                f"The budget's function of the scope gave a {type(config).__name__}.",
                fix="Give a BudgetConfig.",
            )
        return config.terms(self._rates)

    def price(self, model: str) -> Price | None:
        """What the model costs, if that is known. Raises ConfigurationError for what can be no price."""
        if self._prices is None:
            return None
        return _price_of(self._prices, model, self._priced)

    @property
    def fixed(self) -> Terms | None:
        """The limits, where they are the same for every scope."""
        return self._terms


class NoBudget:
    """Nothing is limited. With *prices* every attempt is priced, so that `result.cost_usd` says what a run cost."""

    def __init__(self, *, prices: Prices | None = None) -> None:
        _check_prices(prices)
        self.prices = prices
        self._priced: dict[str, Price] = {}

    @property
    def has_plans(self) -> bool:
        """Whether the limits are a function of the scope: there are none."""
        return False

    async def open(self) -> None:
        """Load the prices."""
        if self.prices is not None:
            await self.prices.load()

    def ledger_on(self, store: Store) -> Ledger:
        """The store's own: nothing is written to it."""
        return store.ledger

    async def terms(self, scope: Scope) -> Terms:
        """No limits."""
        return _NOTHING

    def price(self, model: str) -> Price | None:
        """What the model costs, if that is known. Raises ConfigurationError for what can be no price."""
        return None if self.prices is None else _price_of(self.prices, model, self._priced)


_NOTHING = Terms(soft=0.0)


def _check_purpose(terms: Terms) -> None:
    if not terms.limits and not terms.rates and terms.max_wall_clock is None:
        raise ConfigurationError(
            "A budget limits nothing.",
            fix="Set a limit, such as BudgetConfig(max_cost_usd=1); without any, use NoBudget(), which may have "
            "prices=, or no budget at all.",
        )


def _check_prices(prices: Any) -> None:
    methods = [getattr(prices, name, None) for name in ("price", "load")]
    if prices is not None and (isinstance(prices, type) or not all([callable(method) for method in methods])):
        raise ConfigurationError(
            f"prices={prices!r} is not a list of prices.",
            fix='Pass PriceTable({"provider:model": price_usd(input=3, output=15)}).',
        )


def _price_of(prices: Prices, model: str, known: dict[str, Price]) -> Price | None:
    """What *prices* say. What they said before is *known* to be right."""
    try:
        price = prices.price(model)
    except Exception as error:
        raise ConfigurationError(
            f"prices= raised {type(error).__name__} for {model!r}: {error}",
            fix="Mend its price(); it gives None for a model that it does not know.",
        ) from error
    if price is None or known.get(model) is price:
        return price
    if (wrong := misprice(price)) is not None:
        raise ConfigurationError(
            f"prices= gave {price!r} for {model!r}: {wrong}.",
            fix="Make it with price_usd(input=..., output=...).",
        )
    known[model] = price
    return price


def budget_of(given: Budget | None, agent: str) -> Budget | None:
    """What `Agent(budget=)` takes, for an agent of this name. Raises ConfigurationError."""
    if given is None or (isinstance(given, NoBudget) and given.prices is None):
        return None
    if isinstance(given, BudgetConfig):
        raise ConfigurationError(
            "budget= is a BudgetConfig.", fix="Wrap it: budget=StandardBudget(BudgetConfig(...))."
        )
    is_whole = all([hasattr(given, name) for name in ("terms", "price", "ledger_on", "open")])
    if isinstance(given, type) or not is_whole:
        raise ConfigurationError(
            f"budget={given!r} is not a budget.", fix="Pass StandardBudget(BudgetConfig(...)) or NoBudget()."
        )
    if isinstance(given, StandardBudget) and given.fixed is not None:
        check_name(agent, given.fixed)
    return given


def default_prices() -> Prices:
    """Those of genai-prices."""
    from shipworthy.app.prices import PriceTable

    return PriceTable({})


# ledgers


def check_ledger(place: str) -> None:
    """Raises ConfigurationError for a text that names no ledger."""
    kind, _, rest = place.partition(":")
    if place == "inmemory" or (
        kind in ("sqlite", "postgres", "postgresql", "redis", "rediss") and rest.strip("/ ")
    ):
        return
    raise ConfigurationError(
        f"ledger={kind!r}... is not a place for a ledger.",
        fix='Use "inmemory", "sqlite:./bot.db", "postgres://user@host/database" or "redis://host".',
    )


def is_same_place(place: str, store: Store) -> bool:
    """Whether a ledger is asked for where the runs are. `store.place` is what a store of ours says of itself. Raises
    ConfigurationError."""
    at = getattr(store, "place", "")
    if place.startswith("sqlite:"):
        return bool(at == f"sqlite:{os.path.realpath(place.removeprefix('sqlite:'))}")
    if place.startswith("postgres") and at.startswith("postgres:"):
        from shipworthy.adapters.postgres.place import place_of

        return bool(at == place_of(place))
    return False


def make_ledger(place: str) -> Ledger:
    """A ledger of its own, from the text that names it. Raises ConfigurationError, MissingExtra."""
    kind, _, rest = place.partition(":")
    if kind == "inmemory":
        from shipworthy.adapters.inmemory.ledger import InMemoryLedger

        return InMemoryLedger()
    if kind in ("redis", "rediss"):
        from shipworthy.adapters.redis.ledger import RedisLedger

        return RedisLedger(place)
    from shipworthy.app.runtimes import PostgresRuntime, SqliteRuntime

    return (SqliteRuntime(rest) if kind == "sqlite" else PostgresRuntime(place)).store.ledger


# values


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


def _rates_of(given: Sequence[RateLimit]) -> tuple[RateTerm, ...]:
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
