"""What cannot be: caps that are none, prices that nobody knows, providers that report nothing or nonsense. Each is said
at once, and nothing goes unaccounted."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shipworthy import FREE, BudgetConfig, InMemoryRuntime, ModelSettings, PriceTable, StandardBudget, Usage
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer
from shipworthy.engine import ask
from shipworthy.errors import ConfigurationError, RunNotFound, UnknownPrice
from shipworthy.rules import budgets as rules
from tests.engine.spending import (
    PRICES,
    Provider,
    balances,
    charges,
    go_by,
    of_kind,
    of_user,
    runtime_of,
    spender,
    summed,
)
from tests.engine.world import ALICE, agent, go, journal

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "config",
    [
        *[
            {name: cap}
            for name in ("max_tokens", "per_user_max_requests")
            for cap in (0, -1, True, 1.5, NAN, "9")
        ],
        *[
            {"max_cost_usd": cap}
            for cap in (0, -0.01, NAN, INFINITE, True, "much", 1e-12, 1e30, [], Decimal("NaN"))
        ],
        *[{"max_wall_clock": cap} for cap in (0, -1, NAN, INFINITE, True, "1")],
        *[{"soft_warning_at": part} for part in (1, -0.1, NAN, True, "0.8")],
        *[{"wrap_up": part} for part in (1, -0.1, NAN, True)],
        *[{"hold_ttl": seconds} for seconds in (0, -1, NAN, True)],
        {"max_output_tokens_per_call": 0},
        {"min_output_tokens": -1},
        {"max_tokens": 15},
        {"max_tokens": 5, "window": "week"},
        {"max_tokens": 5_000, "window": "day", "time_zone": "Mars/Olympus"},
        {"max_tokens": 5_000, "time_zone": 5},
        {"max_tokens": 5_000, "on_contention": "hope"},
        {"max_tokens": 5_000, "on_ledger_error": "ignore"},
        {"per_user_max_tokens": 5_000, "window": "run"},
    ],
)
def test_a_limit_that_is_none_is_refused_when_it_is_written_down(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        StandardBudget(BudgetConfig(**config))
    assert error.value.fix


@pytest.mark.parametrize("cap", [1, 0.5, "0.5", Decimal("0.000000001")])
def test_money_may_be_written_in_any_exact_way(cap: Any) -> None:
    (limit,) = BudgetConfig(max_cost_usd=cap).terms().limits
    assert limit.cap == int(Decimal(str(cap)) * 10**9)


@pytest.mark.parametrize("given", [{"max_tokens": 5}, 5, None, "1 USD"])
def test_a_budget_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError):
        StandardBudget(given)
    if given is not None:
        with pytest.raises(ConfigurationError):
            agent("Hi", budget=given)


def test_a_config_is_not_a_budget() -> None:
    with pytest.raises(ConfigurationError, match="Wrap it"):
        agent("Hi", budget=BudgetConfig(max_tokens=5_000))


@pytest.mark.parametrize(
    "options",
    [{"ledger": 5}, {"ledger": "mysql:x"}, {"ledger": "sqlite:"}, {"prices": 5}, {"prices": {"a:b": 1}}],
)
def test_a_ledger_or_a_list_of_prices_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        StandardBudget(BudgetConfig(max_tokens=5_000), **options)


# prices


@pytest.mark.parametrize("way", ["run", "stream"])
def test_an_unknown_price_under_a_limit_of_money_is_refused_before_anything_starts(way: Any) -> None:
    async def law() -> None:
        model = Provider()
        budget = StandardBudget(BudgetConfig(max_cost_usd=1), prices=PriceTable(then=None))
        a = spender(model, budget)
        with pytest.raises(UnknownPrice, match="scripted") as error:
            await go_by(way, a, run_id="r", **ALICE)
        assert "FREE" in str(error.value)
        with pytest.raises(RunNotFound):
            await a.resume("r", tenant_id="acme")
        assert model.seen == []

    go(law())


def test_a_limit_of_tokens_needs_no_price() -> None:
    budget = StandardBudget(BudgetConfig(max_tokens=5_000), prices=PriceTable(then=None))
    result = go(spender(Provider(), budget).run("Hi", **ALICE))
    assert (result.status, result.cost_usd) == ("completed", None)


def test_what_is_free_is_never_stopped_by_money() -> None:
    budget = StandardBudget(BudgetConfig(max_cost_usd=0.000001), prices=PriceTable({"scripted": FREE}))
    result = go(spender(Provider(output=100), budget).run("Hi", **ALICE))
    assert (result.status, result.cost_usd, result.charged.output_tokens) == ("completed", 0.0, 100)


# providers


LIMITS = {"per_user_max_tokens": 10_000, "per_user_max_cost_usd": 1}


def reporting(**usage: int | None) -> Provider:
    return Provider(Answer(parts=(Text("Hi."),), usage=Usage(**usage)))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"input_tokens": 40},
        {"output_tokens": 20},
        {"input_tokens": -40, "output_tokens": 20},
        {"input_tokens": 40, "output_tokens": -20},
        {"input_tokens": 10**15, "output_tokens": 20},
        {"input_tokens": 40, "output_tokens": 10**15},
        {"input_tokens": 40, "output_tokens": 20, "cache_read_tokens": -(10**9)},
        {"input_tokens": 40, "output_tokens": 20, "cache_write_tokens": 10**15},
    ],
)
def test_what_a_provider_does_not_report_or_cannot_mean_is_charged_in_full(
    usage: dict[str, int], kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            settings = ModelSettings(max_tokens=500)
            a = spender(reporting(**usage), LIMITS, runtime=runtime, settings=settings)
            result = await a.run("Hi", run_id="r", **ALICE)
            events = await journal(a, "r")
            (asked,) = of_kind(events, "ModelRequested")
            assert result.charged.cost == asked.reserved.base + 500 * asked.reserved.each
            told = [usage.get("input_tokens"), usage.get("output_tokens")]
            if {"cache_read_tokens", "cache_write_tokens"} & usage.keys():
                told[0] = None  # an input of which a part is nonsense was not reported
            most = [asked.reserved.input_tokens, 500]
            meant = [t if t is not None and 0 <= t < 10**10 else m for t, m in zip(told, most, strict=True)]
            assert [result.charged.input_tokens, result.charged.output_tokens] == meant
            assert await of_user(runtime.store.ledger, "tokens") == (sum(meant), 0)

    go(law())


def test_a_report_below_nothing_makes_the_next_reservation_no_smaller() -> None:
    async def law() -> None:
        negative = Answer(parts=(), usage=Usage(input_tokens=-5_000, output_tokens=20))
        a = spender(Provider(negative), LIMITS)
        await a.run("Hi", run_id="r", **ALICE)
        first, second = of_kind(await journal(a, "r"), "ModelRequested")
        assert second.reserved.input_tokens > first.reserved.input_tokens > 0

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_a_provider_bills_above_its_bound_is_charged_and_blocks_the_next_call(
    kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            model = reporting(input_tokens=90_000, output_tokens=20)
            a = spender(model, LIMITS, runtime=runtime)
            result = await a.run("Hi", run_id="r", **ALICE)
            assert result.charged.input_tokens == 90_000
            assert await of_user(runtime.store.ledger, "tokens") == (90_020, 0)
            assert [w.limit for w in of_kind(await journal(a, "r"), "BudgetWarned")] == [
                "per_user_max_tokens"
            ]
            refused = await a.run("Hi", **ALICE)
            assert (refused.stop_reason, len(model.seen)) == ("budget:per_user_max_tokens", 1)
            assert "90,020 tokens are spent" in refused.error

    go(law())


def test_a_negative_charge_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To believe every report is the mutant: a negative one would give tokens back."""
    monkeypatch.setattr(rules, "_plausible", lambda tokens: tokens)
    monkeypatch.setattr(ask, "sound", lambda usage: usage)
    with pytest.raises(AssertionError):
        test_what_a_provider_does_not_report_or_cannot_mean_is_charged_in_full(
            {"input_tokens": -40, "output_tokens": 20}, "memory", Path()
        )


def test_a_limit_of_one_unit_counts_no_other() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        a = spender(Provider(), {"per_user_max_input_tokens": 1_000}, runtime=runtime)
        await a.run("Hi", run_id="r", **ALICE)
        assert await balances(runtime.store.ledger, "acme") == {
            ("user", '["alice"]', "input_tokens"): (40, 0)
        }
        assert summed(charges(await journal(a, "r"))).output_tokens == 20

    go(law())


def test_a_model_with_a_price_of_its_own_is_charged_by_it() -> None:
    async def law() -> None:
        class Other(Provider):
            name = "other:model"

        a = spender(Other(), StandardBudget(BudgetConfig(max_cost_usd=1), prices=PRICES))
        assert (await a.run("Hi", **ALICE)).cost_usd == (40 * 2 + 20 * 20) / 10**6

    go(law())
