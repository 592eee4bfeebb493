"""The prices of genai-prices: we charge what it would, and what cannot be told apart at the highest rate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import genai_prices
import msgspec
import pytest
from genai_prices import data_units
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as TheirTier
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.adapters.anthropic import AnthropicModel
from shipworthy.adapters.openai import OpenAIChat, OpenAIResponses
from shipworthy.adapters.prices import genai
from shipworthy.adapters.prices.genai import GenaiPrices, price_of
from shipworthy.app.models import PROVIDERS
from shipworthy.domain.usage import Price, Tier, Usage
from shipworthy.errors import ConfigurationError
from shipworthy.rules.prices import cost_of

ROOT = Path(__file__).parents[2]
NANO = 10**9
DAY = date(2026, 11, 1)
NOON = datetime.combine(DAY, time(12), UTC)
WRITES = genai.CACHE_WRITE["5m"]

MODELS = [(provider, model) for provider in providers for model in provider.models]


def loaded(day: date = DAY, **options: object) -> GenaiPrices:
    prices = GenaiPrices(today=lambda: day, **options)  # type: ignore[arg-type]
    asyncio.run(prices.load())
    return prices


def ours(model: ModelInfo, day: date = DAY) -> Price | None:
    return price_of([*genai._in_force(model, day)], WRITES)


# --- agreement --------------------------------------------------------------------------------


def theirs(provider: Provider, model: ModelInfo, usage: Usage, at: datetime = NOON) -> Fraction:
    """What the package says that a usage costs, in nano-USD."""
    given = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    return Fraction(model.calc_price(given, provider, genai_request_timestamp=at).total_price) * NANO


KINDS = {
    field
    for fields in (genai.INPUT, genai.OUTPUT, genai.CACHE_READ, genai.CACHE_WRITE["5m"])
    for field in fields
} - {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"}


def is_plain(model: ModelInfo) -> bool:
    """Whether no price must be taken for another: there is one all day, and none by kind."""
    in_force = [*genai._in_force(model, DAY)]
    return len(in_force) == 1 and not any(
        [value and field in KINDS for field, value in vars(in_force[0]).items()]
    )


def agrees(price: Price, provider: Provider, model: ModelInfo, usage: Usage) -> None:
    """What we charge is what they say, rounded up; where kinds cannot be told apart, at least that."""
    cost = cost_of(price, usage)
    expected = theirs(provider, model, usage)
    assert cost is not None
    assert cost >= expected, (provider.id, model.id, usage)
    if is_plain(model):
        # Our rates are whole billionths per million tokens; a few of theirs have more digits.
        finer = Fraction((usage.input_tokens or 0) + (usage.output_tokens or 0), 10**6)
        assert cost < expected + finer + 1, (provider.id, model.id, usage)


def around_the_tiers(price: Price) -> Iterator[Usage]:
    for whole in {1_003, *[tier.above + more for tier in price.tiers for more in (0, 1)]}:
        yield Usage(whole, 777)
        yield Usage(whole, 777, cache_read_tokens=whole // 3, cache_write_tokens=whole // 7)


def all_agree(change: Callable[[Price], Price] = lambda price: price) -> int:
    """How many models have a price, each of which was compared."""
    priced = 0
    for provider, model in MODELS:
        price = ours(model)
        if price is not None:
            priced += 1
            for usage in around_the_tiers(price):
                agrees(change(price), provider, model, usage)
    return priced


def test_every_model_costs_what_the_package_says() -> None:
    assert all_agree() > 2_000


PRICED = [(provider, model, price) for provider, model in MODELS if (price := ours(model)) is not None]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PRICED), st.data())
def test_any_usage_costs_what_the_package_says(
    entry: tuple[Provider, ModelInfo, Price], data: st.DataObject
) -> None:
    provider, model, price = entry
    whole = data.draw(st.integers(0, 1_000_000))
    read = data.draw(st.integers(0, whole))
    usage = Usage(whole, data.draw(st.integers(0, 200_000)), read, data.draw(st.integers(0, whole - read)))

    agrees(price, provider, model, usage)


def without_tiers(price: Price) -> Price:
    return msgspec.structs.replace(price, tiers=())


def with_tiers_a_token_late(price: Price) -> Price:
    late = [msgspec.structs.replace(tier, above=tier.above + 1) for tier in price.tiers]
    return msgspec.structs.replace(price, tiers=tuple(late))


def without_the_request(price: Price) -> Price:
    return msgspec.structs.replace(price, request=0)


def without_the_cache(price: Price) -> Price:
    return msgspec.structs.replace(price, cache_read=None)


def rounded_down(price: Price) -> Price:
    return msgspec.structs.replace(price, input=price.input // 10**8 * 10**8)


@pytest.mark.parametrize(
    "mutant",
    [without_tiers, with_tiers_a_token_late, without_the_request, without_the_cache, rounded_down],
)
def test_a_price_that_is_read_wrongly_is_caught(mutant: Callable[[Price], Price]) -> None:
    with pytest.raises(AssertionError):
        all_agree(mutant)


def test_a_model_has_no_price_only_if_the_package_has_none_for_its_input_or_its_output() -> None:
    for _, model in MODELS:
        fields = [vars(prices) for prices in genai._in_force(model, DAY)]
        both = [each.get("input_mtok") is not None and each.get("output_mtok") is not None for each in fields]
        assert (ours(model) is not None) == (bool(both) and all(both)), model.id


# --- what each field is taken for -------------------------------------------------------------

NOT_PRICED = {
    *["audio_hours", "input_audio_hours", "output_audio_hours"],
    *["input_mchars", "input_text_messages_kcount", "input_gpixels"],
    *["input_document_kpages", "input_annotated_document_kpages"],
    *["rerank_searches_kcount", "web_searches_kcount", "social_searches_kcount", "storage_searches_kcount"],
    "code_executions_kcount",
}
"""Units that no model of ours is asked for."""


def test_every_field_of_the_package_is_priced_or_left_out_on_purpose() -> None:
    """A release that adds a field fails here, before its prices are missed."""
    priced = {*genai.INPUT, *genai.OUTPUT, *genai.CACHE_READ, *genai.CACHE_WRITE["1h"], *genai.REQUEST}
    fields = {unit["price_key"] for unit in data_units.unit_data.values()}
    media = {field for field in fields if "audio" in field or "video" in field}
    images_made = {field for field in fields if field.startswith("output_image")}

    assert fields - media - images_made - NOT_PRICED == priced


def usd(**prices: str) -> ModelPrice:
    return ModelPrice(**{name: Decimal(amount) for name, amount in prices.items()})


def test_a_kind_of_token_that_we_cannot_tell_takes_the_highest_price_among_its_kinds() -> None:
    known = usd(
        input_mtok="2",
        input_image_mtok="3",
        input_audio_mtok="50",
        output_mtok="8",
        output_reasoning_mtok="9",
    )

    assert price_of([known], WRITES) == Price(3 * NANO, 9 * NANO, 3 * NANO, 3 * NANO)


def test_a_price_that_is_finer_than_a_billionth_is_rounded_up() -> None:
    found = price_of([usd(input_mtok="0.29999999999999999", output_mtok="1e-18")], WRITES)

    assert found == Price(3 * NANO // 10, 1, 3 * NANO // 10, 3 * NANO // 10)


def test_tiers_of_any_field_are_tiers_of_the_price() -> None:
    known = ModelPrice(
        input_mtok=TieredPrices(Decimal(1), [TheirTier(100, Decimal(2)), TheirTier(300, Decimal(4))]),
        output_mtok=TieredPrices(Decimal(5), [TheirTier(200, Decimal(6))]),
    )

    assert price_of([known], WRITES) == Price(
        NANO,
        5 * NANO,
        NANO,
        NANO,
        tiers=(
            Tier(100, 2 * NANO, 5 * NANO, 2 * NANO, 2 * NANO),
            Tier(200, 2 * NANO, 6 * NANO, 2 * NANO, 2 * NANO),
            Tier(300, 4 * NANO, 6 * NANO, 4 * NANO, 4 * NANO),
        ),
    )


@pytest.mark.parametrize("known", [[], [usd(input_mtok="1")], [usd(output_mtok="1")], [usd(audio_hours="1")]])
def test_what_has_no_price_for_input_and_for_output_is_not_known(known: list[ModelPrice]) -> None:
    assert price_of(known, WRITES) is None


def test_a_cache_that_lives_for_an_hour_costs_more() -> None:
    name = "anthropic:claude-sonnet-4-5"
    short, long = loaded().price(name), loaded(cache_ttl="1h").price(name)

    assert short is not None
    assert long is not None
    assert (short.cache_write, long.cache_write) == (3_750_000_000, 6_000_000_000)
    assert [tier.cache_write for tier in long.tiers] == [12_000_000_000]


def test_another_life_of_a_cache_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="5m"):
        GenaiPrices(cache_ttl="2h")  # type: ignore[arg-type]


# --- time -------------------------------------------------------------------------------------


def changing(*entries: ConditionalPrice) -> ModelInfo:
    return ModelInfo(id="m", match=ClauseEquals("m"), prices=list(entries))


STANDARD = ConditionalPrice(prices=usd(input_mtok="4", output_mtok="4"))
SINCE_MAY = ConditionalPrice(
    StartDateConstraint(date(2026, 5, 1)), prices=usd(input_mtok="1", output_mtok="9")
)
BY_NIGHT = ConditionalPrice(
    TimeOfDateConstraint(time(22, tzinfo=UTC), time(6, tzinfo=UTC)),
    prices=usd(input_mtok="5", output_mtok="1"),
)


def rates(price: Price | None) -> tuple[int, int]:
    assert price is not None
    return price.input // NANO, price.output // NANO


@pytest.mark.parametrize(
    ("entries", "day", "expected"),
    [
        ([STANDARD, SINCE_MAY], date(2026, 4, 30), (4, 4)),
        ([STANDARD, SINCE_MAY], date(2026, 5, 1), (1, 9)),
        ([STANDARD, BY_NIGHT], DAY, (5, 4)),
        ([STANDARD, SINCE_MAY, BY_NIGHT], DAY, (5, 9)),
        ([STANDARD, BY_NIGHT, SINCE_MAY], DAY, (1, 9)),
        ([SINCE_MAY], date(2026, 4, 30), (1, 9)),
        ([BY_NIGHT], DAY, (5, 1)),
    ],
)
def test_a_price_is_the_highest_of_its_day(
    entries: list[ConditionalPrice], day: date, expected: tuple[int, int]
) -> None:
    assert rates(ours(changing(*entries), day)) == expected


def test_no_hour_of_a_day_is_dearer_than_its_price() -> None:
    timed = [(p, m) for p, m in MODELS if not isinstance(m.prices, ModelPrice)]
    usage = Usage(150_000, 1_000, 10_000, 5_000)
    for provider, model in timed:
        price = ours(model)
        for hour in range(24) if price else ():
            at = datetime.combine(DAY, time(hour, 30), UTC)
            assert price is not None
            assert (cost_of(price, usage) or 0) >= theirs(provider, model, usage, at), (model.id, hour)


def test_a_price_changes_with_the_day_while_the_process_lives() -> None:
    day = date(2025, 6, 9)
    prices = GenaiPrices(today=lambda: day)
    asyncio.run(prices.load())
    before = rates(prices.price("openai:o3"))
    day = date(2025, 6, 10)

    assert (before, rates(prices.price("openai:o3"))) == ((10, 40), (2, 8))


# --- names ------------------------------------------------------------------------------------


def test_every_provider_of_ours_is_known_to_the_package() -> None:
    models = [
        AnthropicModel("claude-sonnet-4-5", api_key="sk-test"),
        OpenAIChat("gpt-4o-mini", api_key="sk-test"),
        OpenAIResponses("gpt-4o-mini", api_key="sk-test"),
    ]
    prices = loaded()

    assert {model.name.partition(":")[0] for model in models} == set(PROVIDERS)
    assert [(found.input, found.output) for model in models if (found := prices.price(model.name))] == [
        (3 * NANO, 15 * NANO),
        (150_000_000, 600_000_000),
        (150_000_000, 600_000_000),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *["", ":", "openai", "openai:", "gpt-4o", ":gpt-4o", "anthropic:gpt-4o", "openai:claude-sonnet-4-5"],
        *[
            "my-openai-proxy:gpt-4o",
            "openai:gpt-99",
            "anthropic:claude-unheard-of",
            "openai:text-embedding-3-small",
        ],
    ],
)
def test_a_name_that_the_package_does_not_know_has_no_price(name: str) -> None:
    assert loaded().price(name) is None


def test_a_dated_name_is_recognised() -> None:
    prices = loaded()

    assert rates(prices.price("openai:gpt-4o-2024-08-06")) == rates(prices.price("openai:gpt-4o")) == (2, 10)


# --- loading ----------------------------------------------------------------------------------


def test_prices_that_are_not_loaded_say_so() -> None:
    with pytest.raises(ConfigurationError, match="load"):
        GenaiPrices().price("openai:gpt-4o")


PROGRAM = """
import asyncio, sys, threading

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("genai_prices"):
            where.add(threading.current_thread() is threading.main_thread())

def no_network(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        print("network:", event, args)

from shipworthy.adapters.prices import GenaiPrices

where = set()
sys.meta_path.insert(0, Watch())
sys.addaudithook(no_network)

async def main():
    prices = GenaiPrices()
    LOAD
    await asyncio.gather(prices.load(), prices.load())
    assert prices.price("openai:gpt-4o")
    await asyncio.sleep(0.1)
    print("on the loop" if True in where else "in a thread")

asyncio.run(main())
"""


def told(load: str) -> str:
    program = PROGRAM.replace("LOAD", load)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_package_is_imported_in_a_thread_and_nothing_is_fetched() -> None:
    assert told("pass") == "in a thread"


def test_an_import_on_the_loop_or_a_fetch_would_be_seen() -> None:
    """The mutants of the test above."""
    assert told("import genai_prices.data") == "on the loop"
    fetch = "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1', 9))"
    assert told(fetch).startswith("network: socket.connect")
