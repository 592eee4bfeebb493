"""What would pass a bound is refused before anything is sent: settings, the vendor's own settings, prices, plans that
do not answer, and limits that several share who do not know of each other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    FREE,
    Agent,
    BudgetConfig,
    InMemoryLedger,
    ModelSettings,
    NoBudget,
    PriceTable,
    RateLimit,
    StandardBudget,
    Usage,
    price_usd,
)
from shipworthy.app import service
from shipworthy.domain.usage import Price, Tier
from shipworthy.engine import asking, budgeting, charging
from shipworthy.errors import (
    ConfigurationError,
    InvalidOption,
    ModelUnavailable,
    RunNotFound,
    ShipworthyError,
)
from shipworthy.rules.budgets import UNBOUNDED
from tests.engine.spending import Provider, charges, of_kind, of_user, spender, summed
from tests.engine.world import ALICE, go, journal

CAP = {"per_user_max_tokens": 5_000}
NAN = float("nan")

# settings


@pytest.mark.parametrize("most", [-1_000, -1, 0, 10**9 + 1, 10**18, 2**63, True])
def test_a_bound_on_answers_that_is_none_is_refused(most: Any) -> None:
    wrong = ModelSettings(max_tokens=most)
    with pytest.raises(ConfigurationError) as error:
        spender(Provider(), CAP, settings=wrong)
    assert error.value.fix
    with pytest.raises(InvalidOption):
        go(spender(Provider(), CAP).run("Hi", settings=wrong, **ALICE))


@pytest.mark.parametrize(
    "settings", [{"temperature": NAN}, {"temperature": -1.0}, {"top_p": NAN}, {"top_p": True}]
)
def test_a_temperature_that_is_none_is_refused(settings: Any) -> None:
    with pytest.raises(ConfigurationError):
        Agent(model=Provider(), settings=ModelSettings(**settings))


@pytest.mark.parametrize("unchecked", [False, True])
def test_no_settings_pass_a_spent_cap(unchecked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant takes any bound, and what is reserved is less than nothing."""
    if unchecked:
        monkeypatch.setattr(service, "settings_of", lambda settings: settings)

    async def law() -> int:
        model = Provider(input=400, output=4_000)
        agent = spender(model, CAP)
        assert (await agent.run("Hi", **ALICE)).status == "completed"
        assert (await agent.run("Hi", **ALICE)).status in ("completed", "stopped")
        sent = len(model.seen)
        try:
            await agent.run("Hi", settings=ModelSettings(max_tokens=-10_000), **ALICE)
        except ShipworthyError:
            return len(model.seen) - sent
        return len(model.seen) - sent

    assert (go(law()) == 0) is not unchecked


@pytest.mark.parametrize("field", sorted(UNBOUNDED))
@pytest.mark.parametrize("within", [False, True])
def test_vendors_settings_that_pass_a_bound_are_refused_before_anything_starts(
    field: str, within: bool
) -> None:
    async def law() -> None:
        extra = {field: 5}
        model = Provider()
        settings = ModelSettings(extra={"extra_body": extra} if within else extra)
        agent = spender(model, CAP)
        with pytest.raises(ConfigurationError, match=field) as error:
            await agent.run("Hi", run_id="r", settings=settings, **ALICE)
        assert "Leave it out" in error.value.fix
        with pytest.raises(RunNotFound):
            await agent.resume("r", tenant_id="acme")
        with pytest.raises(ConfigurationError, match=field):
            await spender(model, CAP, settings=settings).run("Hi", **ALICE)
        assert model.seen == []

    go(law())


def test_a_cache_that_is_kept_for_an_hour_has_no_price() -> None:
    agent = spender(Provider(), CAP)
    hour, minutes = [{"cache_control": {"type": "ephemeral", "ttl": ttl}} for ttl in ("1h", "5m")]
    with pytest.raises(ConfigurationError, match="cache_control"):
        go(agent.run("Hi", settings=ModelSettings(extra=hour), **ALICE))
    assert go(agent.run("Hi", settings=ModelSettings(extra=minutes), **ALICE)).status == "completed"


@pytest.mark.parametrize("limits", [{"max_requests": 5}, {"max_wall_clock": 60.0}, {"max_tool_calls": 5}])
def test_where_nothing_depends_on_an_answers_length_vendors_settings_are_free(limits: Any) -> None:
    settings = ModelSettings(extra={"max_tokens": 5, "service_tier": "flex"})
    assert go(spender(Provider(), limits, settings=settings).run("Hi", **ALICE)).status == "completed"


@pytest.mark.parametrize("uncounted", [False, True])
def test_what_vendors_settings_add_to_a_request_is_reserved(
    uncounted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uncounted:
        monkeypatch.setattr(budgeting.rules, "tokens_beside", lambda extra: 0)

    async def law() -> int:
        results = []
        for extra in ({}, {"metadata": "m" * 900}):
            agent = spender(Provider(input=None), CAP, settings=ModelSettings(max_tokens=100, extra=extra))
            await agent.run("Hi", **ALICE)
            results.append(await of_user(agent.runtime.store.ledger, "tokens"))
        return results[1][0] - results[0][0]

    assert (go(law()) >= 900) is not uncounted


# attempts that failed


@pytest.mark.parametrize("unheard", [False, True])
@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        (Usage(20, 300), (20, 300)),
        (Usage(20, 9_000), (20, 9_000)),
        (Usage(input_tokens=20), (20, 500)),
        (Usage(output_tokens=30), (None, 30)),
        (Usage(-1, 2**40), (None, 500)),
    ],
)
def test_an_error_that_says_what_was_used_is_charged_that(
    usage: Usage, charged: Any, unheard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant charges every failure by what arrived, or in full."""
    if unheard:
        monkeypatch.setattr(charging, "failed", lambda attempt, usage: charging.unfinished(attempt))

    async def law() -> bool:
        model = Provider(ModelUnavailable("it broke", usage=usage))
        agent = spender(model, {"per_user_max_tokens": 10**6, "max_output_tokens_per_call": 500})
        result = await agent.run("Hi", run_id="r", **ALICE)
        events = await journal(agent, "r")
        (failed,), (asked, *_) = of_kind(events, "ModelFailed"), of_kind(events, "ModelRequested")
        assert failed.usage == usage
        assert result.charged == summed(charges(events))
        assert (await of_user(agent.runtime.store.ledger, "tokens"))[1] == 0
        input_tokens = asked.reserved.input_tokens if charged[0] is None else charged[0]
        return (failed.charged.input_tokens, failed.charged.output_tokens) == (input_tokens, charged[1])

    assert go(law()) is (not unheard or charged == (None, 500))


# plans


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("from_the_call", [False, True])
def test_a_plan_that_never_answers_holds_no_run_up(
    unbounded: bool, from_the_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant waits for as long as the plan takes."""
    if unbounded:
        monkeypatch.setattr(budgeting, "asked", lambda budget, scope, timeout: budget.terms(scope))

    async def plan(scope: Any) -> BudgetConfig:
        await asyncio.Event().wait()
        raise AssertionError

    async def law() -> Exception:
        model = Provider()
        timeouts = ({"timeout": 0.02}, {})[:: -1 if from_the_call else 1]
        agent = spender(model, StandardBudget(plan), **timeouts[0])
        try:
            await asyncio.wait_for(agent.run("Hi", **ALICE, **timeouts[1]), 0.5)
        except Exception as error:
            assert model.seen == []
            return error
        raise AssertionError

    error = go(law())
    assert isinstance(error, ConfigurationError) is not unbounded
    assert unbounded or "timeout=" in str(error)


def test_without_a_timeout_a_plan_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.02)

    async def plan(scope: Any) -> BudgetConfig:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ConfigurationError, match="gave no answer within"):
        go(spender(Provider(), StandardBudget(plan)).run("Hi", **ALICE))


def test_a_plan_may_limit_nothing_and_a_budget_that_is_written_down_may_not() -> None:
    budget = StandardBudget(lambda scope: BudgetConfig())
    assert go(spender(Provider(), budget).run("Hi", **ALICE)).status == "completed"
    with pytest.raises(ConfigurationError, match="NoBudget"):
        StandardBudget(BudgetConfig())
    StandardBudget(BudgetConfig(), rate_limits=[RateLimit(requests=5)])
    StandardBudget(BudgetConfig(max_wall_clock=60))


# agents without a name


def test_a_limit_of_each_agent_needs_agents_with_names() -> None:
    for budget in (
        StandardBudget(BudgetConfig(per_agent_max_tokens=5_000)),
        StandardBudget(BudgetConfig(), rate_limits=[RateLimit(requests=5, per="agent")]),
    ):
        with pytest.raises(ConfigurationError, match="agent") as error:
            spender(Provider(), budget)
        assert "name=" in error.value.fix
        spender(Provider(), budget, name="greeter")


@pytest.mark.parametrize("unchecked", [False, True])
def test_a_plan_with_a_limit_of_each_agent_as_well(unchecked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the mutant two agents spend from one account."""
    if unchecked:
        monkeypatch.setattr(budgeting, "check_name", lambda agent, terms: None)

    async def law() -> int:
        model = Provider()
        budget = StandardBudget(lambda scope: BudgetConfig(per_agent_max_tokens=5_000))
        try:
            await spender(model, budget).run("Hi", **ALICE)
        except ConfigurationError:
            return len(model.seen)
        return len(model.seen)

    assert (go(law()) == 0) is not unchecked


# prices


class Prices:
    """A list of prices that says anything."""

    def __init__(self, said: Any) -> None:
        self.said = said

    async def load(self) -> None:
        pass

    def price(self, model: str) -> Any:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


NO_PRICES: list[Any] = [
    *(5, "x", {}, {"input": 3}, ValueError("out of order")),
    *(Price(-1, 0), Price(0, -5), Price(1, 1, request=-1), Price(1.5, 0), Price(True, 0), Price(10**30, 0)),  # type: ignore[arg-type]
    Price(1, 1, False, False),
    Price(1, 1, tiers=None),  # type: ignore[arg-type]
    Price(1, 1, tiers=[1]),  # type: ignore[arg-type]
    *[Price(1, 1, tiers=(Tier(above, 1, 1),)) for above in ("a", 1.5, NAN, -1, True)],
    Price(1, 1, tiers=(Tier(5, 1, 1), Tier(5, 1, 1))),
    Price(1, 1, tiers=(Tier(5, -1, 1),)),
]


@pytest.mark.parametrize("said", NO_PRICES, ids=repr)
def test_what_is_no_price_is_refused_wherever_it_comes_from(said: Any) -> None:
    for budget in (
        StandardBudget(BudgetConfig(max_cost_usd=1), prices=Prices(said)),
        NoBudget(prices=Prices(said)),
    ):
        model = Provider()
        with pytest.raises(ConfigurationError) as error:
            go(spender(model, budget).run("Hi", **ALICE))
        assert error.value.fix
        assert model.seen == []
    if not isinstance(said, Exception):
        with pytest.raises(ConfigurationError):
            PriceTable({"a:b": said})


def test_a_price_may_change_and_is_looked_at_again() -> None:
    prices = Prices(FREE)
    budget = StandardBudget(BudgetConfig(max_cost_usd=1), prices=prices)
    assert budget.price("scripted") is FREE
    prices.said = price_usd(input=1, output=1)
    assert budget.price("scripted") == prices.said
    prices.said = Price(-1, -1)
    with pytest.raises(ConfigurationError, match="impossible rate"):
        budget.price("scripted")


@pytest.mark.parametrize("prices", [{}, "x", 5, PriceTable, {"scripted": FREE}, FREE])
def test_what_is_no_list_of_prices_is_refused_when_it_is_written_down(prices: Any) -> None:
    with pytest.raises(ConfigurationError):
        NoBudget(prices=prices)
    with pytest.raises(ConfigurationError):
        StandardBudget(BudgetConfig(max_tokens=5_000), prices=prices)


def test_a_class_is_not_an_object_of_it() -> None:
    for given in (BudgetConfig, StandardBudget):
        with pytest.raises(ConfigurationError):
            StandardBudget(given)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        StandardBudget(BudgetConfig(max_tokens=5_000), ledger=InMemoryLedger)  # type: ignore[arg-type]
    for budget in (StandardBudget, NoBudget):
        with pytest.raises(ConfigurationError):
            Agent(model=Provider(), budget=budget)  # type: ignore[arg-type]


# limits


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hold_ttl": 0.9}, "0.9"),
        ({"max_cost_usd": Path("5")}, "5"),
        ({"max_cost_usd": "1_000"}, "1_000"),
        ({"min_output_tokens": 5_000}, "max_output_tokens_per_call=4096"),
        ({"max_output_tokens_per_call": 8}, "min_output_tokens=16"),
        ({"time_zone": "localtime"}, "localtime"),
        ({"max_tokens": 20, "wrap_up": 0.5}, "leaves 10 tokens"),
        ({"max_output_tokens": 20, "wrap_up": 0.5}, "at least 16"),
    ],
)
def test_a_limit_that_could_not_be_kept_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as error:
        StandardBudget(BudgetConfig(**{"per_user_max_requests": 5, **config}))
    assert error.value.fix


def test_a_blank_is_no_place_for_a_ledger() -> None:
    with pytest.raises(ConfigurationError):
        StandardBudget(BudgetConfig(max_tokens=5_000), ledger="sqlite: ")
