"""Costs are exact and rounded up once, and no usage costs more than the bound that was reserved for it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from shipworthy.domain.usage import Price, Tier, Usage
from shipworthy.rules.prices import bound, cost_of, dearer, misprice

NANO = 10**9
SONNET = Price(
    3 * NANO,
    15 * NANO,
    cache_read=NANO * 3 // 10,
    cache_write=NANO * 375 // 100,
    tiers=(
        Tier(200_000, 6 * NANO, NANO * 225 // 10, cache_read=NANO * 6 // 10, cache_write=NANO * 75 // 10),
    ),
)

# --- laws that a mutant must break ------------------------------------------------------------

laws = settings(
    max_examples=250,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # a mutant needs no smallest example
    suppress_health_check=list(HealthCheck),
)

rates = st.one_of(st.integers(0, 40), st.integers(0, 100 * NANO), st.sampled_from([0, NANO, 3 * NANO + 1]))
own = st.none() | rates
starts = st.lists(st.integers(0, 50) | st.integers(0, 300_000), max_size=3, unique=True).map(sorted)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    tiers = [Tier(start, draw(rates), draw(rates), draw(own), draw(own)) for start in draw(starts)]
    request = draw(st.sampled_from([0, 1, 12_000_000]))
    return Price(draw(rates), draw(rates), draw(own), draw(own), request, tuple(tiers))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """What a provider reports, its cache's tokens within the input."""
    whole = draw(st.integers(0, 60) | st.integers(0, 400_000))
    read = draw(st.integers(0, whole))
    written = draw(st.integers(0, whole - read))
    return Usage(whole, draw(st.integers(0, 60) | st.integers(0, 200_000)), read, written)


def in_force(price: Price, whole: int) -> Price | Tier:
    return max(
        [tier for tier in price.tiers if tier.above < whole], key=lambda tier: tier.above, default=price
    )


def exact(price: Price, usage: Usage) -> Fraction:
    """The cost in fractions of a nano-USD, written down another time."""
    whole, output, read, written = (
        usage.input_tokens or 0,
        usage.output_tokens or 0,
        usage.cache_read_tokens or 0,
        usage.cache_write_tokens or 0,
    )
    in_force: Price | Tier = max(
        [t for t in price.tiers if t.above < whole], key=lambda t: t.above, default=price
    )
    per_read = in_force.input if in_force.cache_read is None else in_force.cache_read
    per_write = in_force.input if in_force.cache_write is None else in_force.cache_write
    parts = (
        (whole - read - written, in_force.input),
        (read, per_read),
        (written, per_write),
        (output, in_force.output),
    )
    return price.request + sum([Fraction(count * rate, 10**6) for count, rate in parts], Fraction(0))


Bound = Callable[[Price, int], tuple[int, int]]
Cost = Callable[[Price, Usage], int | None]


def covers(bound: Bound, cost: Cost = cost_of) -> None:
    """No usage within the reservation costs more than it."""

    @laws
    @given(prices(), usages(), st.integers(0, 100_000), st.integers(0, 100_000))
    def law(price: Price, usage: Usage, more_input: int, more_output: int) -> None:
        assert usage.input_tokens is not None
        assert usage.output_tokens is not None
        spent = cost(price, usage)
        base, each = bound(price, usage.input_tokens + more_input)
        assert spent is not None
        assert spent <= base + each * (usage.output_tokens + more_output)

    law()


def is_exact(cost: Cost) -> None:
    """What is charged is the exact cost, rounded up once."""

    @laws
    @given(prices(), usages())
    def law(price: Price, usage: Usage) -> None:
        assert cost(price, usage) == ceil(exact(price, usage))

    law()
    price, usage = Price(100_000_000, 600_000_000), Usage(43, 15)  # whose sum in floats is a little too high
    assert cost(price, usage) == ceil(exact(price, usage))


def test_no_usage_costs_more_than_was_reserved_for_it() -> None:
    covers(bound)


@laws
@given(prices(), st.integers(0, 400_000))
def test_some_request_costs_all_that_was_reserved_for_its_input(price: Price, tokens: int) -> None:
    """The bound is no higher than it must be, so that a cap is not wasted."""
    lengths = {tokens, *[tier.above for tier in price.tiers if tier.above < tokens]}
    kinds = [Usage(n, 0, read, written) for n in lengths for read, written in ((0, 0), (n, 0), (0, n))]

    assert bound(price, tokens)[0] == max([cost_of(price, usage) or 0 for usage in kinds])


def test_the_cost_is_exact_and_rounded_up_once() -> None:
    is_exact(cost_of)


# --- mutants of the bound ---------------------------------------------------------------------


def of_the_first_tier(price: Price, tokens: int) -> tuple[int, int]:
    return bound(msgspec.structs.replace(price, tiers=()), tokens)


def of_the_tier_that_all_tokens_are_in(price: Price, tokens: int) -> tuple[int, int]:
    """A shorter input can be dearer."""
    reached: list[Price | Tier] = [price, *[tier for tier in price.tiers if tier.above < tokens]]
    top = reached[-1]
    return bound(Price(top.input, top.output, top.cache_read, top.cache_write, price.request), tokens)


def without_cache_writes(price: Price, tokens: int) -> tuple[int, int]:
    tiers = tuple([msgspec.structs.replace(tier, cache_write=None) for tier in price.tiers])
    return bound(msgspec.structs.replace(price, cache_write=None, tiers=tiers), tokens)


def with_output_rounded_down(price: Price, tokens: int) -> tuple[int, int]:
    dearest = max([price.output, *[tier.output for tier in price.tiers if tier.above < tokens]])
    return bound(price, tokens)[0], dearest // 10**6


def with_a_base_rounded_down(price: Price, tokens: int) -> tuple[int, int]:
    base, each = bound(price, tokens)
    return max(0, base - 1), each


def without_the_request(price: Price, tokens: int) -> tuple[int, int]:
    return bound(msgspec.structs.replace(price, request=0), tokens)


@pytest.mark.parametrize(
    "mutant",
    [
        of_the_first_tier,
        of_the_tier_that_all_tokens_are_in,
        without_cache_writes,
        with_output_rounded_down,
        with_a_base_rounded_down,
        without_the_request,
    ],
)
def test_a_bound_that_is_too_low_is_caught(mutant: Bound) -> None:
    with pytest.raises(AssertionError):
        covers(mutant)


# --- mutants of the cost ----------------------------------------------------------------------


def rounded_down(price: Price, usage: Usage) -> int:
    return int(exact(price, usage))


def rounded_by_part(price: Price, usage: Usage) -> int | None:
    """Input and output rounded up each."""
    input = cost_of(price, msgspec.structs.replace(usage, output_tokens=0))
    whole = cost_of(price, usage)
    output = ceil(exact(price, usage) - exact(price, msgspec.structs.replace(usage, output_tokens=0)))
    return whole if input is None else input + output


def in_floats(price: Price, usage: Usage) -> int:
    """Dollars for each token."""
    one = Usage(1, 0), Usage(0, 1), Usage(1, 0, 1), Usage(1, 0, 0, 1)
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    counts = (usage.input_tokens or 0) - read - written, usage.output_tokens or 0, read, written
    rates = in_force(price, usage.input_tokens or 0)
    flat = Price(rates.input, rates.output, rates.cache_read, rates.cache_write)
    dollars = [count * float(exact(flat, each)) / 1e9 for count, each in zip(counts, one, strict=True)]
    return ceil(sum(dollars) * 1e9) + price.request


def with_cached_tokens_beside_the_input(price: Price, usage: Usage) -> int | None:
    apart = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return cost_of(price, msgspec.structs.replace(usage, input_tokens=(usage.input_tokens or 0) + apart))


def with_a_tier_from_its_first_token(price: Price, usage: Usage) -> int | None:
    tiers = tuple([msgspec.structs.replace(tier, above=tier.above - 1) for tier in price.tiers])
    return cost_of(msgspec.structs.replace(price, tiers=tiers), usage)


@pytest.mark.parametrize(
    "mutant",
    [
        rounded_down,
        rounded_by_part,
        in_floats,
        with_cached_tokens_beside_the_input,
        with_a_tier_from_its_first_token,
    ],
)
def test_a_cost_that_is_not_exact_is_caught(mutant: Cost) -> None:
    with pytest.raises(AssertionError):
        is_exact(mutant)


# --- examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "nano_usd"),
    [
        (Usage(1_000, 500), 3_000_000 + 7_500_000),
        (Usage(1_000, 500, reasoning_tokens=400), 10_500_000),
        (Usage(1_000, 0, cache_read_tokens=1_000), 300_000),
        (Usage(1_000, 0, cache_read_tokens=400, cache_write_tokens=600), 120_000 + 2_250_000),
        (Usage(200_000, 0), 600_000_000),
        (Usage(200_001, 10), 1_200_006_000 + 225_000),
        (Usage(0, 0), 0),
    ],
)
def test_a_request_costs_what_the_price_list_says(usage: Usage, nano_usd: int) -> None:
    assert cost_of(SONNET, usage) == nano_usd


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(input_tokens=10),
        Usage(output_tokens=10),
        Usage(-1, 5),
        Usage(5, -1),
        Usage(5, 5, cache_read_tokens=-3),
        Usage(5, 5, cache_write_tokens=-3),
    ],
)
def test_what_was_not_reported_has_no_cost(usage: Usage) -> None:
    assert cost_of(SONNET, usage) is None
    assert cost_of(Price(0, 0), usage) is None


@given(prices(), usages(), st.integers(1, 1_000))
def test_cached_tokens_that_were_counted_apart_are_charged_beside_the_input(
    price: Price, usage: Usage, more: int
) -> None:
    """A provider that reports more from the cache than there was input leaves it out of the input."""
    whole = usage.input_tokens or 0
    apart = msgspec.structs.replace(usage, cache_read_tokens=whole + more, cache_write_tokens=0)
    together = msgspec.structs.replace(apart, input_tokens=2 * whole + more)

    assert cost_of(price, apart) == cost_of(price, together)


@given(prices(), usages())
def test_a_cache_without_a_price_of_its_own_costs_as_other_input_does(price: Price, usage: Usage) -> None:
    assume(not price.tiers)
    plain = msgspec.structs.replace(price, cache_read=None, cache_write=None)
    uncached = Usage(usage.input_tokens, usage.output_tokens)

    assert cost_of(plain, usage) == cost_of(plain, uncached)


def test_what_is_free_costs_nothing_and_reserves_nothing() -> None:
    assert cost_of(Price(0, 0), Usage(10_000, 10_000)) == 0
    assert bound(Price(0, 0), 10_000) == (0, 0)


def test_a_reservation_is_made_for_the_tier_that_the_input_can_reach() -> None:
    assert bound(SONNET, 200_000) == (750_000_000, 15_000)
    assert bound(SONNET, 200_001) == (1_500_007_500, 22_500)


# two prices for one model


Dearer = Callable[[Price, Price], Price]


def is_dearer(of: Dearer) -> None:
    """Raises AssertionError where *of* gives a price by which something costs less than by one of the two."""

    @settings(max_examples=300, suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(prices(), prices(), usages())
    def law(one: Price, other: Price, usage: Usage) -> None:
        both = of(one, other)
        assert misprice(both) is None
        costs = [cost_of(price, usage) for price in (one, other, both)]
        if None in costs:
            assert costs == [None] * 3
        else:
            assert costs[2] >= max(costs[0], costs[1])  # type: ignore[operator, type-var]

    law()


def test_of_two_prices_nothing_costs_less_than_by_either() -> None:
    is_dearer(dearer)
    price = Price(3, 4, 1, 2, 5, (Tier(10, 6, 7),))
    assert dearer(price, msgspec.structs.replace(price)) == price


def the_dearer_input(one: Price, other: Price) -> Price:
    return max(one, other, key=lambda price: price.input)


def without_tiers(one: Price, other: Price) -> Price:
    return msgspec.structs.replace(dearer(one, other), tiers=())


@pytest.mark.parametrize("mutant", [the_dearer_input, without_tiers])
def test_a_price_that_makes_something_cheaper_is_caught(mutant: Dearer) -> None:
    with pytest.raises(AssertionError):
        is_dearer(mutant)
