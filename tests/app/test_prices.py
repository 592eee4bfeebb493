"""A table of prices: whose price counts, what is no price, and nothing that is unknown is free."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.adapters.prices import GenaiPrices
from shipworthy.app.prices import FREE, PriceTable, price_usd
from shipworthy.domain.usage import Price, Tier, Usage
from shipworthy.errors import ConfigurationError
from shipworthy.ports.prices import Prices
from shipworthy.rules.prices import cost_of

ROOT = Path(__file__).parents[2]
NANO = 10**9
CHEAP, DEAR, WORST = (
    price_usd(input=1, output=2),
    price_usd(input=10, output=20),
    price_usd(input=100, output=200),
)


class Listed:
    """Somebody else's list."""

    def __init__(self, **prices: Price) -> None:
        self.prices = {name.replace("_", ":"): price for name, price in prices.items()}
        self.loads = 0

    async def load(self) -> None:
        self.loads += 1

    def price(self, model: str) -> Price | None:
        return self.prices.get(model)


# --- amounts ----------------------------------------------------------------------------------


def test_dollars_become_billionths_of_a_dollar() -> None:
    assert price_usd(
        input=3.0, output="15", cache_read=Decimal("0.3"), cache_write=3.75, request=0.012
    ) == Price(3 * NANO, 15 * NANO, 300_000_000, 3_750_000_000, 12_000_000)


def test_a_float_counts_as_it_prints() -> None:
    assert price_usd(input=0.1, output=1.1).input == NANO // 10


@pytest.mark.parametrize("tiny", ["1e-10", "1e-999999", Decimal("1e-999999999"), 5e-324])
def test_what_is_finer_than_a_billionth_is_rounded_up_and_not_to_nothing(tiny: Any) -> None:
    assert price_usd(input=tiny, output=1).input == 1


@given(st.integers(0, 10**15))
def test_a_price_is_kept_exactly(nano: int) -> None:
    dollars = Decimal(nano).scaleb(-9)

    assert price_usd(input=dollars, output=f"{dollars:.9f}") == Price(nano, nano)


@pytest.mark.parametrize("field", ["input", "output", "cache_read", "cache_write", "request"])
@pytest.mark.parametrize(
    "amount",
    [
        -1,
        -1e-12,
        float("nan"),
        float("inf"),
        Decimal("sNaN"),
        "-inf",
        1_000_001,
        "three",
        "",
        True,
        [3],
        {"usd": 3},
    ],
)
def test_what_is_no_possible_price_is_refused_by_name(field: str, amount: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field}=.*US dollars"):
        price_usd(**{"input": 1, "output": 1, field: amount})


# --- whose price counts -----------------------------------------------------------------------


def test_ones_own_price_comes_before_the_list_and_the_worst_case_comes_last() -> None:
    listed = Listed(a_x=DEAR, a_y=DEAR)
    table = PriceTable({"a:x": CHEAP}, otherwise=WORST, then=listed)

    assert [table.price(model) for model in ("a:x", "a:y", "a:z")] == [CHEAP, DEAR, WORST]


def test_an_exact_name_comes_before_a_beginning_and_a_longer_beginning_before_a_shorter() -> None:
    table = PriceTable({"a:*": WORST, "a:x-*": DEAR, "a:x-1": CHEAP, "local:*": FREE}, then=None)

    assert [table.price(model) for model in ("a:x-1", "a:x-10", "a:y")] == [CHEAP, DEAR, WORST]
    assert table.price("local:llama") == FREE
    assert table.price("localhost:llama") is None


class FreeUnlessKnown(PriceTable):
    """The mutant of the two tests below: what nobody knows costs nothing."""

    def price(self, model: str) -> Price | None:
        return super().price(model) or FREE


class FreeIsUnknown(PriceTable):
    """Another: it takes the price 0 for none."""

    def price(self, model: str) -> Price | None:
        found = super().price(model)
        return WORST if found == FREE else found


UNKNOWN = ["a:y", "a:", "a", "", ":x", "b:x", "a:x ", "A:x"]


def knows_what_it_knows(kind: type[PriceTable]) -> None:
    table = kind({"a:x": FREE}, then=None)
    assert table.price("a:x") == FREE
    assert [table.price(model) for model in UNKNOWN] == [None] * len(UNKNOWN)


def test_what_is_free_is_known_and_what_is_not_known_has_no_price() -> None:
    knows_what_it_knows(PriceTable)


@pytest.mark.parametrize("mutant", [FreeUnlessKnown, FreeIsUnknown])
def test_a_table_that_takes_unknown_for_free_is_caught(mutant: type[PriceTable]) -> None:
    with pytest.raises(AssertionError):
        knows_what_it_knows(mutant)


def test_the_package_comes_next_unless_another_list_or_none_is_named() -> None:
    async def of(table: PriceTable) -> Price | None:
        await table.load()
        return table.price("anthropic:claude-sonnet-4-5")

    found = asyncio.run(of(PriceTable()))

    assert found is not None
    assert cost_of(found, Usage(100_000, 1_000)) == 300_000_000 + 15_000_000
    assert asyncio.run(of(PriceTable(then=None))) is None
    assert asyncio.run(of(PriceTable({"anthropic:*": CHEAP}))) == CHEAP


def test_a_table_can_follow_a_table_and_loads_what_follows() -> None:
    listed = Listed(b_x=DEAR)
    table: Prices = PriceTable({"a:x": CHEAP}, then=PriceTable({"a:y": WORST}, then=listed))
    asyncio.run(table.load())

    assert [table.price(model) for model in ("a:x", "a:y", "b:x")] == [CHEAP, WORST, DEAR]
    assert listed.loads == 1


def test_a_table_does_not_change_with_the_mapping_that_it_was_made_from() -> None:
    given = {"a:x": CHEAP}
    table = PriceTable(given, then=None)
    given["a:x"] = FREE

    assert table.price("a:x") == CHEAP


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gpt-4o", "", ":", "openai:", ":gpt-4o", "*", "*:gpt", "op*ai:x", "a:*x", " a:x", "a:x ", 3]
)
def test_a_key_that_names_no_model_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="provider:model"):
        PriceTable({name: CHEAP})


@pytest.mark.parametrize("price", [3.0, None, 0, (3, 15), {"input": 3}, "free", Usage()])
def test_a_value_that_is_no_price_is_refused(price: Any) -> None:
    with pytest.raises(ConfigurationError, match="price_usd"):
        PriceTable({"a:x": price})


@pytest.mark.parametrize(
    "price",
    [
        Price(-1, 0),
        Price(0, -1),
        Price(0, 0, cache_read=-1),
        Price(0, 0, cache_write=-1),
        Price(0, 0, request=-1),
        Price(3.0, 15.0),  # type: ignore[arg-type]
        Price(0, 0, tiers=(Tier(10, 0, -1),)),
        Price(0, 0, tiers=(Tier(20, 0, 0), Tier(10, 0, 0))),
        Price(0, 0, tiers=(Tier(10, 0, 0), Tier(10, 1, 1))),
        Price(0, 0, tiers=(Tier(-1, 0, 0),)),
        Price(10**15 + 1, 0),
    ],
)
def test_a_price_that_cannot_be_is_refused_wherever_it_stands(price: Price) -> None:
    with pytest.raises(ConfigurationError):
        PriceTable({"a:x": price})
    with pytest.raises(ConfigurationError):
        PriceTable(otherwise=price)


@pytest.mark.parametrize("then", [3, "genai", {"a:x": CHEAP}, GenaiPrices])
def test_a_list_that_is_none_is_refused(then: Any) -> None:
    with pytest.raises(ConfigurationError, match="None"):
        PriceTable(then=then)


@pytest.mark.parametrize("prices", [CHEAP, [("a:x", CHEAP)], "a:x"])
def test_a_table_that_is_none_is_refused(prices: Any) -> None:
    with pytest.raises(ConfigurationError, match="price_usd"):
        PriceTable(prices)


# --- weight -----------------------------------------------------------------------------------

PROGRAM = """
import sys
from shipworthy.app.prices import PriceTable, price_usd
table = PriceTable({"a:x": price_usd(input=1, output=1)})
assert table.price("a:x")
print(*sys.modules)
"""


def imported(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_a_table_imports_the_package_only_when_it_is_loaded() -> None:
    heavy = {"genai_prices", "pydantic"}
    loading = PROGRAM.replace("print", "import asyncio; asyncio.run(table.load())\nprint")

    assert not heavy & imported(PROGRAM)
    assert {"genai_prices", "pydantic"} <= imported(loading)
