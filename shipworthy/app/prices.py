"""What models cost: the developer's own prices, then a list that somebody keeps, then a declared worst case."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation

from shipworthy.adapters.prices.genai import GenaiPrices
from shipworthy.domain.usage import Price
from shipworthy.errors import ConfigurationError
from shipworthy.ports.prices import Prices
from shipworthy.rules.prices import DEAREST, misprice

_UP = Context(prec=40, rounding=ROUND_CEILING)
_DOUBLES = ("scripted", "echo", "mock")
"""Names of the test doubles, which have no provider."""

Usd = float | int | str | Decimal
"""An amount of US dollars. A float counts as it prints: 0.1 is a tenth."""

FREE = Price(0, 0)
"""What costs nothing: a model on your own machines."""

PACKAGED: Prices = GenaiPrices()
"""The prices in the genai-prices package. One object for the process, since reading them takes a while."""


def price_usd(
    *,
    input: Usd,
    output: Usd,
    cache_read: Usd | None = None,
    cache_write: Usd | None = None,
    request: Usd = 0,
) -> Price:
    """A price in US dollars per million tokens; *request* per request.

    What is read from or written to a cache costs as much as other input where it has no price of its own. Kept in
    billionths of a dollar; what is finer is rounded up. For prices that depend on the length of the input, make a
    `Price` with its `tiers`. Raises ConfigurationError for what is no amount, is negative, or over a million dollars.
    """
    return Price(
        _nano("input", input),
        _nano("output", output),
        None if cache_read is None else _nano("cache_read", cache_read),
        None if cache_write is None else _nano("cache_write", cache_write),
        _nano("request", request),
    )


class PriceTable:
    """What models cost: by *prices*, then by what *then* knows, then *otherwise*. A model that none of them knows has
    no price, and a cost budget refuses it; it is never taken for free.

    The keys of *prices* are names of models, 'provider:model', letter by letter, or the beginning of such names before
    a '*': 'ollama:*' (the longest that fits counts, an exact name before all). The values are made by `price_usd`, or
    are `FREE`. *then* is another list, by default the genai-prices package's; None for none. *otherwise* is the worst
    case for models that nobody knows: budgets reserve it and charge it. Raises ConfigurationError.
    """

    def __init__(
        self,
        prices: Mapping[str, Price] | None = None,
        *,
        otherwise: Price | None = None,
        then: Prices | None = PACKAGED,
    ) -> None:
        if not isinstance(prices, Mapping | None):
            raise ConfigurationError(
                f"{prices!r} is not a table of prices.", fix='Pass {"provider:model": price_usd(...)}.'
            )
        entries = dict(prices or {})
        for name, price in entries.items():
            _check_name(name)
            _check_price(f"The price of {name!r}", price)
        if otherwise is not None:
            _check_price("otherwise=", otherwise)
        if isinstance(then, type) or (then is not None and not hasattr(then, "price")):
            raise ConfigurationError(
                f"then={then!r} is not a list of prices.", fix="Pass GenaiPrices(), a PriceTable, or None."
            )
        self._exact = {name: price for name, price in entries.items() if not name.endswith("*")}
        beginnings = {name[:-1]: price for name, price in entries.items() if name.endswith("*")}
        self._beginnings = sorted(beginnings.items(), key=lambda entry: -len(entry[0]))
        self._otherwise, self._then = otherwise, then

    async def load(self) -> None:
        """Load the list that comes after the table."""
        if self._then is not None:
            await self._then.load()

    def price(self, model: str) -> Price | None:
        """What *model* costs; None where nobody knows."""
        found = self._exact.get(model)
        if found is None:
            found = next((price for start, price in self._beginnings if model.startswith(start)), None)
        if found is None and self._then is not None:
            found = self._then.price(model)
        return self._otherwise if found is None else found


def _nano(name: str, usd: Usd) -> int:
    """Billionths of a dollar, rounded up."""
    fix = f"Give {name}= in US dollars, from 0 to {DEAREST:,}, as a number."
    if isinstance(usd, bool) or not isinstance(usd, float | int | str | Decimal):
        raise ConfigurationError(f"{name}={usd!r} is not an amount of money.", fix=fix)
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise ConfigurationError(f"{name}={usd!r} is not an amount of money.", fix=fix) from None
    if not amount.is_finite() or not 0 <= amount <= DEAREST:
        raise ConfigurationError(f"{name}={usd!r} is not a possible price.", fix=fix)
    return int(_UP.to_integral_value(_UP.scaleb(amount, 9)))


def _check_name(name: str) -> None:
    if name in _DOUBLES:
        return
    provider, _, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not provider or not model or "*" in provider or "*" in model[:-1] or name != name.strip():
        raise ConfigurationError(
            f"{name!r} is not the name of a model.",
            fix="Write 'provider:model', or 'provider:*' for all of a provider's; for every model, use otherwise=.",
        )


def _check_price(what: str, price: Price) -> None:
    if (wrong := misprice(price)) is not None:
        raise ConfigurationError(
            f"{what} is {price!r}: {wrong}.",
            fix="Make it with price_usd(input=..., output=...), or use FREE; a Price itself is in whole billionths of "
            f"a US dollar per million tokens, from 0 to {DEAREST:,} dollars, its tiers a tuple sorted by `above`.",
        )
