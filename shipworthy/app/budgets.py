"""Budgets: limits by scope, what models cost, and the ledger that counts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shipworthy.app.ledgers import check_ledger, is_same_place, make_ledger
from shipworthy.app.limits import BudgetConfig, RateLimit, rates_of
from shipworthy.domain.budgets import Terms
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Price
from shipworthy.engine.asking import check_name
from shipworthy.errors import ConfigurationError
from shipworthy.ports.budget import Budget
from shipworthy.ports.ledger import Ledger
from shipworthy.ports.prices import Prices
from shipworthy.ports.store import Store
from shipworthy.rules.prices import misprice

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
        self._rates = rates_of(rate_limits)
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

    @property
    def place(self) -> str | None:
        """Where the counters are, if a text names a place that others may name as well."""
        return self._ledger if isinstance(self._ledger, str) and self._ledger != "inmemory" else None

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
