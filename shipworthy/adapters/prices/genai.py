"""The prices in the installed genai-prices package (https://github.com/pydantic/genai-prices), as ours.

The package is imported by `load`, in a thread: that takes some hundred milliseconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from shipworthy.domain.usage import Price, Tier
from shipworthy.errors import ConfigurationError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

    Fields = dict[str, Decimal | TieredPrices | None]

SAME = {"openai-responses": "openai"}
"""Our names of providers that the package names otherwise."""

REMEMBERED = 1024
"""Prices that are kept ready."""

NANO = 10**9

# A provider's count of tokens does not say of which kind they are: each takes the highest price among its kinds.
INPUT = (
    "input_mtok",
    *(f"input_{kind}_mtok" for kind in ("text", "image", "tool", "text_tool", "image_tool")),
)
OUTPUT = (
    "output_mtok",
    *(f"output_{kind}_mtok" for kind in ("text", "reasoning", "text_reasoning", "citation", "text_citation")),
)
CACHE_READ = ("cache_read_mtok", "cache_text_read_mtok", "cache_image_read_mtok")
_WRITES = ("cache_write", "cache_text_write", "cache_image_write")
CACHE_WRITE = {
    "5m": (*(f"{kind}_mtok" for kind in _WRITES), *(f"{kind}_5m_mtok" for kind in _WRITES)),
    "1h": tuple([f"{kind}{ttl}_mtok" for kind in _WRITES for ttl in ("", "_5m", "_1h")]),
}


REQUEST = ("requests_kcount",)


def _today() -> date:
    return datetime.now(UTC).date()


class GenaiPrices:
    """Prices of some two thousand models, by the day (UTC) on which they are asked for. Nothing is ever fetched: new
    prices come with a new release of the package.

    They are the standard rates, and never below them for text, images and documents:

    * where the package knows prices by the time of day, by kind of input (text, image) or by kind of output (reasoning,
      citations), the highest of them is taken;
    * audio and video as input, and images and audio as output, are not priced apart;
    * what `ModelSettings.extra` may ask for at another rate is not in them: priority or fast processing, the
      provider's own tools. Where you use these, give your own price: `PriceTable({"provider:model": price_usd(...)})`;
    * *cache_ttl*: "1h" if you ask Anthropic, through `extra`, for caches that live for an hour, which cost more.

    A model is known as the package recognises it, which goes by names: 'gpt-4o-2024-08-06' is a 'gpt-4o'. Its provider
    is known by its exact name. Embeddings and others without a price for output are not known.

    Raises ConfigurationError for another *cache_ttl*. *today* is for tests.
    """

    def __init__(self, *, cache_ttl: Literal["5m", "1h"] = "5m", today: Callable[[], date] = _today) -> None:
        if cache_ttl not in CACHE_WRITE:
            raise ConfigurationError(f"cache_ttl={cache_ttl!r} is not known.", fix='Pass "5m" or "1h".')
        self._writes = CACHE_WRITE[cache_ttl]
        self._today = today
        self._providers: dict[str, Provider] | None = None
        self._kept = lru_cache(REMEMBERED)(self._read)

    async def load(self) -> None:
        """Import the package, in a thread."""
        if self._providers is None:
            self._providers = await asyncio.to_thread(_providers)

    def price(self, model: str) -> Price | None:
        """Today's price. Raises ConfigurationError before `load`."""
        if self._providers is None:
            raise ConfigurationError("The prices are not loaded.", fix="Await load() first.")
        return self._kept(model, self._today())

    def _read(self, name: str, day: date) -> Price | None:
        assert self._providers is not None
        prefix, _, model = name.partition(":")
        provider = self._providers.get(SAME.get(prefix, prefix))
        info = provider.find_model(model, all_providers=[*self._providers.values()]) if provider else None
        return price_of([*_in_force(info, day)], self._writes) if info else None


def _providers() -> dict[str, Provider]:
    from genai_prices.data import providers

    return {provider.id: provider for provider in providers}


def _in_force(info: ModelInfo, day: date) -> Iterator[ModelPrice]:
    """Every price that the model has at some time of that day. The package takes the last that is active, or the
    first."""
    from genai_prices.types import ModelPrice, TimeOfDateConstraint

    if isinstance(info.prices, ModelPrice):
        yield info.prices
        return
    noon = datetime.combine(day, time(12), UTC)
    for entry in reversed(info.prices):
        if isinstance(entry.constraint, TimeOfDateConstraint):
            yield entry.prices
        elif entry.constraint is None or entry.constraint.active(noon):
            yield entry.prices
            return
    if info.prices:
        yield info.prices[0].prices


def price_of(known: Sequence[ModelPrice], writes: Sequence[str]) -> Price | None:
    """The highest of these prices, rate by rate and tier by tier; None where one has no price for input or for output.

    *writes*: the fields that may price what is written to a cache.
    """
    fields = [vars(prices) for prices in known]
    if not fields or not all([_given(each, INPUT) and _given(each, OUTPUT) for each in fields]):
        return None
    starts = {
        tier.start for each in fields for value in each.values() for tier in getattr(value, "tiers", ())
    }
    request = max([_at(value, None) for each in fields for value in _given(each, REQUEST) or [Decimal()]])
    return Price(
        *_rates(fields, None, writes),
        request=_nano(Fraction(request) / 1000),
        tiers=tuple([Tier(start, *_rates(fields, start, writes)) for start in sorted(starts)]),
    )


def _rates(known: Iterable[Fields], above: int | None, writes: Iterable[str]) -> tuple[int, int, int, int]:
    """What a million tokens cost at most in a request of more than *above* tokens of input: as input, as output, read
    from a cache, written to it."""
    highest = [0, 0, 0, 0]
    for fields in known:
        input = _given(fields, INPUT)
        kinds = (
            input,
            _given(fields, OUTPUT),
            _given(fields, CACHE_READ) or input,
            _given(fields, writes) or input,
        )
        for index, values in enumerate(kinds):
            highest[index] = max(highest[index], *[_nano(_at(value, above)) for value in values])
    given, output, read, written = highest
    return given, output, read, written


def _given(fields: Fields, names: Iterable[str]) -> list[Decimal | TieredPrices]:
    return [value for name in names if (value := fields.get(name)) is not None]


def _at(value: Decimal | TieredPrices, above: int | None) -> Decimal:
    """The rate that is in force above so many tokens of input."""
    if isinstance(value, Decimal):
        return value
    rate = value.base
    for tier in value.tiers:
        if above is not None and tier.start <= above:
            rate = tier.price
    return rate


def _nano(usd: Decimal | Fraction) -> int:
    return math.ceil(Fraction(usd) * NANO)
