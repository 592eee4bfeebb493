"""What an attempt costs by its model's price, and the most that it could cost: whole nano-USD, no rounding but up."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.ledger import NANO
from shipworthy.domain.usage import Price, Tier, Usage

MILLION = 1_000_000
"""Tokens that a rate is for."""
DEAREST = 10**6
"""USD per million tokens, or per request, that a price may be at most: what is above is taken for a slip."""


def misprice(price: Any) -> str | None:
    """What is wrong with *price* as a Price, in words: structs do not look at their fields when they are made."""
    if type(price) is not Price:
        return "it is no Price"
    tiers: Any = price.tiers
    if not isinstance(tiers, tuple) or not all([type(tier) is Tier for tier in tiers]):
        return "its tiers are no tuple of Tier"
    rates: list[Any] = [price.request]
    for part in (price, *tiers):
        rates += [part.input, part.output]
        rates += [rate for rate in (part.cache_read, part.cache_write) if rate is not None]
    if not all([type(rate) is int and 0 <= rate <= DEAREST * NANO for rate in rates]):
        return "it has an impossible rate"
    starts = [tier.above for tier in tiers]
    if not all([type(start) is int and start >= 0 for start in starts]) or starts != sorted(set(starts)):
        return "its tiers are not in ascending order of whole numbers"
    return None


def cost_of(price: Price, usage: Usage) -> int | None:
    """Nano-USD, rounded up once; None where the provider did not report what it takes (a count below 0 is no report).

    Where more was read from and written to the cache than there was input, the provider counts them apart: then all
    three are charged.
    """
    whole, output = usage.input_tokens, usage.output_tokens
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    if whole is None or output is None or min(whole, output, read, written) < 0:
        return None
    apart = read + written
    other = whole - apart if apart <= whole else whole
    rates: Price | Tier = price
    for tier in price.tiers:
        if other + apart > tier.above:
            rates = tier
    _, read_rate, write_rate = _inputs(rates)
    total = other * rates.input + read * read_rate + written * write_rate + output * rates.output
    return price.request + _per_million(total)


def bound(price: Price, input_tokens: int) -> tuple[int, int]:
    """The most that a request of at most *input_tokens* can cost, in nano-USD: apart from its output, and for each
    token of output.

    Whatever part of the input a cache reads or writes, and whichever tier that many tokens reach: for every usage
    within them, cost_of(price, usage) <= base + each * usage.output_tokens.
    """
    base = each = 0
    rates: Price | Tier = price
    for tier in price.tiers:
        if input_tokens <= tier.above:
            break
        base, each = _more(rates, tier.above, base, each)
        rates = tier
    base, each = _more(rates, input_tokens, base, each)
    return price.request + base, each


def _more(rates: Price | Tier, input_tokens: int, base: int, each: int) -> tuple[int, int]:
    """A bound that holds at these rates too, for up to *input_tokens*."""
    return max(base, _per_million(input_tokens * max(_inputs(rates)))), max(each, _per_million(rates.output))


def dearer(one: Price, other: Price) -> Price:
    """A price by which nothing costs less than by either: the dearer of their rates, on each tier of either."""
    if one == other:
        return one
    starts = sorted({tier.above for tier in (*one.tiers, *other.tiers)})
    tiers = [Tier(above, *_dearer(_rates(one, above), _rates(other, above))) for above in starts]
    given, made, read, written = _dearer(one, other)
    return Price(given, made, read, written, max(one.request, other.request), tuple(tiers))


def _rates(price: Price, above: int) -> Price | Tier:
    """What holds for inputs of more than *above* tokens, as far as the next tier."""
    rates: Price | Tier = price
    for tier in price.tiers:
        if tier.above <= above:
            rates = tier
    return rates


def _dearer(one: Price | Tier, other: Price | Tier) -> tuple[int, int, int, int]:
    """Of two rates the dearer: for input, for output, and for what a cache reads and writes."""
    plain, read, written = [max(rates) for rates in zip(_inputs(one), _inputs(other), strict=True)]
    return plain, max(one.output, other.output), read, written


def _inputs(rates: Price | Tier) -> tuple[int, int, int]:
    """What input costs that no cache knows, that is read from it, that is written to it."""
    read, written = rates.cache_read, rates.cache_write
    return rates.input, rates.input if read is None else read, rates.input if written is None else written


def _per_million(amount: int) -> int:
    return -(-amount // MILLION)
