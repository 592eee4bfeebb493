"""Agents that are tools of agents draw on the budgets around them, and on their own: nothing widens by being nested,
and nothing counts twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    FREE,
    BudgetConfig,
    InMemoryLedger,
    InMemoryRuntime,
    ModelSettings,
    NoBudget,
    PriceTable,
    RateLimit,
    StandardBudget,
    ToolCall,
    ask_human,
    price_usd,
    tool,
)
from shipworthy.domain.ledger import Forget
from shipworthy.engine import budgeting, delegating, layers
from shipworthy.engine.accounts import Accounts
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError
from tests.engine.nested_spending import Asking, journals, nested, of_all, said, spent_by
from tests.engine.spending import (
    PRICES,
    Provider,
    balances,
    budget,
    of_kind,
    of_user,
    requests_of,
    runtime_of,
    spender,
    until,
)
from tests.engine.world import ALICE, go, journal

AGAIN = ToolCall("look")


@tool(effect="read")
async def look() -> str:
    """Look."""
    return "seen"


def agents(
    runtime: Any,
    around: Any,
    own: Any,
    *,
    asks: Any = None,
    does: Any = None,
    **options: Any,
) -> Any:
    """An agent under *around* that asks another one, under *own*, which does something for it."""
    child = spender(
        does or Provider(*[AGAIN] * 20), own, runtime=runtime, name="child", tools=[look], **options
    )
    asks = asks or Asking(*["child"] * 20)
    return spender(asks, around, runtime=runtime, name="parent", tools=[child.as_tool(), look])


# what is planted


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested run leaves out what holds around it."""
    meter = Runtime.meter

    async def without(self: Any, *args: Any) -> Any:
        return await meter(self, *args[:5])

    monkeypatch.setattr(Runtime, "meter", without)


def by_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of each run counts for a nested one from the beginning."""
    made = layers.Nested.__init__

    def keyed(self: Any, around: Any, own: Any) -> None:
        anew = []
        for layer in around:
            accounts = Accounts(
                layer.terms, layer.accounts._scope, "child", f"own {id(self)}", layer.bank.shared
            )
            anew.append(layers.Layer(layer.bank, layer.terms, accounts))
        made(self, anew, own)

    monkeypatch.setattr(layers.Nested, "__init__", keyed)


def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that two budgets limit is drawn on by both."""
    monkeypatch.setattr(layers, "_by_key", lambda each, merged: list(each))


def forgets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters of the run around a nested one are forgotten with the nested one."""

    def everything(self: Any) -> Forget | None:
        found = [layer.accounts.of_the_run() for layer in self._layers]
        return next((forget for forget in found if forget is not None), None)

    monkeypatch.setattr(layers.Nested, "of_the_run", everything)


def wraps_up_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested run's last answer takes what was kept back for that of the run around it."""
    nested_, own = layers.Nested.of_attempt, Accounts.of_attempt

    def of_attempt(self: Any, model: str, *, wrap_up: bool) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Accounts, "of_attempt", lambda each, m, **_: own(each, m, wrap_up=wrap_up))
            return nested_(self, model, wrap_up=wrap_up)

    monkeypatch.setattr(layers.Nested, "of_attempt", of_attempt)


def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of a nested agent does not say what its runs used."""
    monkeypatch.setattr(delegating, "_used", lambda sittings: None)


# the caps around a nested run

EACH_RUN = [
    ({"max_requests": 6}, "max_requests"),
    ({"max_tokens": 3_000, "max_output_tokens_per_call": 20}, "max_tokens"),
    ({"max_cost_usd": 0.004, "max_output_tokens_per_call": 20}, "max_cost_usd"),
    ({"max_tool_calls": 5}, "max_tool_calls"),
]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(("limits", "limit"), EACH_RUN)
@pytest.mark.parametrize("planted", [None, alone, by_its_own_id])
def test_a_nested_run_cannot_pass_the_cap_of_the_run_around_it(
    limits: dict[str, Any],
    limit: str,
    kind: str,
    planted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if planted is not None:
        planted(monkeypatch)

    async def law() -> bool:
        async with runtime_of(kind, tmp_path) as runtime:
            agent = agents(runtime, limits, {"max_requests": 15}, does=Provider(*[AGAIN] * 20, input=200))
            result = await agent.run("Hi", run_id="r", **ALICE)
            requests, total = await spent_by(runtime)
            calls = sum([len(event.calls) for event in await of_all(runtime, "ToolsJudged")])
            used = {
                "max_requests": requests,
                "max_tokens": total.input_tokens + total.output_tokens,
                "max_cost_usd": (total.cost or 0) / 10**9,
                "max_tool_calls": calls,
            }
            holds = used[limit] <= limits[limit]
            assert not holds or result.stop_reason == f"budget:{limit}"
            return holds

    assert go(law()) is (planted is None)


def test_a_nested_run_stops_at_the_cap_around_it_and_says_which_it_was() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(runtime, {"max_requests": 4}, {"max_requests": 9})
        result = await agent.run("Hi", run_id="r", **ALICE)
        (made,) = await nested(runtime)
        (reached,) = of_kind(made, "BudgetReached")
        assert (reached.limit, reached.cap, reached.spent) == ("max_requests", 4, 4)
        assert made[-1].stop_reason == result.stop_reason == "budget:max_requests"
        assert "budget:max_requests" in said(result)

    go(law())


def test_a_nested_run_without_a_budget_is_held_to_the_one_around_it() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(runtime, {"max_requests": 4}, None)
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert result.stop_reason == "budget:max_requests"
        assert (await spent_by(runtime))[0] == 4

    go(law())


def test_a_nested_run_has_its_own_budget_alone_where_there_is_none_around_it() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(runtime, None, {"max_requests": 2}, asks=Asking("child", "child"))
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert (result.status, result.charged) == ("completed", None)
        assert (await spent_by(runtime))[0] == 3 + 2 + 2

    go(law())


# all of them at once


class Greedy(Provider):
    """Bills all that it may."""

    def answer(self, request: Any, turn: Any = None) -> Any:
        self.input, self.output = None, 10**6
        return super().answer(request, turn)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("planted", [None, alone])
def test_fifty_nested_runs_at_once_never_pass_a_users_cap(
    kind: str, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted is not None:
        planted(monkeypatch)

    async def law() -> bool:
        cap = 9_000
        async with runtime_of(kind, tmp_path) as runtime:
            around = {"per_user_max_tokens": cap, "max_output_tokens_per_call": 100}
            agent = agents(
                runtime,
                around,
                NoBudget(prices=PRICES),
                asks=Asking(["child"] * 50),
                does=Greedy(latency=0.001),
                settings=ModelSettings(max_tokens=100),
            )
            await agent.run("Hi", run_id="r", **ALICE)
            _, total = await spent_by(runtime)
            used = total.input_tokens + total.output_tokens
            reasons = [events[-1].stop_reason for events in await nested(runtime)]
            assert len(reasons) == 50
            if planted is None:
                assert await of_user(runtime.store.ledger, "tokens") == (used, 0)
                assert set(reasons) == {None, "budget:per_user_max_tokens"}
            return used <= cap

    assert go(law()) is (planted is None)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_fifty_nested_runs_at_once_wait_for_what_the_others_hold(kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            limits = {"max_tokens": 20_000, "max_output_tokens_per_call": 2_000}
            asks = Asking(["child"] * 50)
            agent = agents(runtime, limits, None, asks=asks, does=Provider(latency=0.001))
            result = await agent.run("Hi", run_id="r", **ALICE)
            ends = [events[-1].status for events in (await journals(runtime)).values()]
            assert (result.status, ends) == ("completed", ["completed"] * 51)

    go(law())


# its own caps


def test_a_nested_agents_own_smaller_cap_holds_for_each_of_its_runs() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(runtime, {"max_requests": 9}, {"max_requests": 2}, asks=Asking("child", "child"))
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert result.status == "completed"
        reached = [of_kind(events, "BudgetReached") for events in (await journals(runtime)).values()]
        assert [[(e.limit, e.cap) for e in each] for each in reached if each] == [[("max_requests", 2)]] * 2
        assert (await spent_by(runtime))[0] == 3 + 2 + 2

    go(law())


@pytest.mark.parametrize(("around", "own", "cap"), [(3, 100, 3), (100, 3, 3), (4, 4, 4)])
def test_of_two_caps_on_one_counter_the_smaller_holds(around: int, own: int, cap: int) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(
            runtime,
            {"per_user_max_requests": around},
            {"per_user_max_requests": own},
            asks=Asking("child"),
        )
        result = await agent.run("Hi", run_id="r", **ALICE)
        (made,) = await nested(runtime)
        (reached,) = of_kind(made, "BudgetReached")
        assert (reached.limit, reached.cap) == ("per_user_max_requests", cap)
        assert result.stop_reason == (None if around == 100 else "budget:per_user_max_requests")

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("planted", [None, twice])
def test_a_counter_that_both_limit_counts_once(
    kind: str, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted is not None:
        planted(monkeypatch)

    async def law() -> bool:
        async with runtime_of(kind, tmp_path) as runtime:
            limits = {"per_user_max_requests": 50, "per_user_max_tokens": 10**6, "max_requests": 20}
            own = {**limits, "per_user_max_tool_calls": 50}
            agent = agents(
                runtime,
                {**own, "soft_warning_at": 0.5},
                own,
                asks=Asking("child"),
                does=Provider(AGAIN, AGAIN),
            )
            result = await agent.run("Hi", run_id="r", **ALICE)
            assert result.status == "completed"
            requests, total = await spent_by(runtime)
            assert requests == 5
            ledger = runtime.store.ledger
            spent = [(await of_user(ledger, unit))[0] for unit in ("requests", "tokens", "tool_calls")]
            return spent == [requests, total.input_tokens + total.output_tokens, 3]

    assert go(law()) is (planted is None)


def test_limits_of_each_agent_count_for_the_agent_whose_budget_has_them() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        limits = {"per_agent_max_tokens": 10**6, "max_output_tokens_per_call": 20}
        agent = agents(runtime, limits, limits, asks=Asking("child"), does=Provider(AGAIN))
        await agent.run("Hi", run_id="r", **ALICE)
        found = {
            name: spent
            for (level, name, _), (spent, _) in (await balances(runtime.store.ledger, None)).items()
        }
        assert found == {'["child"]': 2 * 60, '["parent"]': 4 * 60}

    go(law())


def test_an_agent_that_is_its_own_tool_counts_once() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        limits = {"per_agent_max_tokens": 10**6, "max_output_tokens_per_call": 20}
        child = spender(Provider(), limits, runtime=runtime, name="one")
        agent = spender(Asking("one"), limits, runtime=runtime, name="one", tools=[child.as_tool()])
        await agent.run("Hi", run_id="r", **ALICE)
        assert set((await balances(runtime.store.ledger, None)).values()) == {(3 * 60, 0)}

    go(law())


def test_what_holds_around_a_run_holds_at_any_depth() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        last = spender(
            Provider(*[AGAIN] * 9), {"max_requests": 3}, runtime=runtime, name="last", tools=[look]
        )
        middle = spender(
            Asking(*["last"] * 9), {"max_requests": 5}, runtime=runtime, name="middle", tools=[last.as_tool()]
        )
        agent = spender(
            Asking(*["middle"] * 9),
            {"max_requests": 9},
            runtime=runtime,
            name="first",
            tools=[middle.as_tool()],
        )
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert result.stop_reason == "budget:max_requests"
        found = await journals(runtime)
        caps = {run.count("/"): set() for run in found}
        for run, events in found.items():
            caps[run.count("/")] |= {e.cap for e in of_kind(events, "BudgetReached")}
        assert (await spent_by(runtime))[0] == 9
        assert caps == {0: {9}, 1: {5, 9}, 2: {3, 5}} or caps == {0: {9}, 1: {5, 9}, 2: {3, 5, 9}}

    go(law())


# where counters are kept, and how long


@pytest.mark.parametrize("separate", ["another", "inmemory"])
def test_a_nested_agent_whose_counters_are_kept_elsewhere_is_refused(separate: str) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        ledger = InMemoryLedger() if separate == "another" else "inmemory"
        does = Provider()
        agent = agents(runtime, {"max_requests": 9}, budget(ledger, max_requests=3), does=does)
        with pytest.raises(ConfigurationError, match="another ledger") as error:
            await agent.run("Hi", run_id="r", **ALICE)
        assert "ledger=" in error.value.fix
        assert does.seen == []

    go(law())


def test_one_ledger_may_be_named_twice(tmp_path: Path) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        place = f"sqlite:{tmp_path / 'spent.db'}"
        agent = agents(
            runtime, budget(place, per_user_max_requests=5), budget(place, per_user_max_requests=9)
        )
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert result.stop_reason == "budget:per_user_max_requests"
        assert (await spent_by(runtime))[0] == 5
        await runtime.close()

    go(law())


def test_budgets_that_keep_no_counters_agree_with_any_ledger() -> None:
    async def law() -> None:
        for around, own in [(InMemoryLedger(), None), (None, InMemoryLedger())]:
            runtime = InMemoryRuntime()
            limits = budget(around or own, max_requests=4)
            priced = NoBudget(prices=PRICES)
            agent = agents(runtime, *((limits, priced) if around else (priced, limits)), asks=Asking("child"))
            await agent.run("Hi", run_id="r", **ALICE)
            assert (await spent_by(runtime))[0] == (4 if around else 2 + 4)

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("planted", [None, forgets_all])
def test_a_runs_counters_are_kept_until_the_outermost_run_has_ended(
    kind: str, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted is not None:
        planted(monkeypatch)

    async def law() -> bool:
        async with runtime_of(kind, tmp_path) as runtime:
            between: list[Any] = []

            @tool(effect="read")
            async def count(input: str) -> str:
                found = await balances(runtime.store.ledger, "acme")
                between.append(
                    {name: spent for (level, name, _), (spent, _) in found.items() if level == "run"}
                )
                return "counted"

            child = spender(Provider(AGAIN), {"max_requests": 9}, runtime=runtime, name="child", tools=[look])
            agent = spender(
                Asking("child", "count"),
                {"max_requests": 9},
                runtime=runtime,
                name="parent",
                tools=[child.as_tool(), count],
            )
            assert (await agent.run("Hi", run_id="r", **ALICE)).status == "completed"
            left = [key for key in await balances(runtime.store.ledger, "acme") if key[0] == "run"]
            return (between, left) == ([{'["r"]': 4}], [])

    assert go(law()) is (planted is None)


# how limits are kept


def test_a_nested_run_has_no_more_time_than_the_one_around_it() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(
            runtime,
            {"max_wall_clock": 0.1},
            {"max_wall_clock": 60.0},
            does=Provider(gate=asyncio.Event()),
        )
        result = await asyncio.wait_for(agent.run("Hi", run_id="r", **ALICE), 30)
        assert (result.status, result.stop_reason) == ("stopped", "budget:max_wall_clock")
        assert {events[-1].status for events in (await journals(runtime)).values()} <= {
            "stopped",
            "cancelled",
        }

    go(law())


@pytest.mark.parametrize(("own", "planted"), [(0.0, None), (0.5, None), (0.5, wraps_up_alike)])
def test_what_is_kept_back_for_a_last_answer_is_for_the_run_whose_limit_it_is(
    own: float, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted is not None:
        planted(monkeypatch)

    async def law() -> bool:
        runtime = InMemoryRuntime()
        agent = agents(runtime, {"max_requests": 6, "wrap_up": 0.3}, {"max_requests": 20, "wrap_up": own})
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert result.stop_reason == "budget:max_requests"
        (made,) = await nested(runtime)
        in_vain = [event.purpose for event in of_kind(made, "ModelRequested")]
        asked = [event.purpose for event in of_kind(await journal(agent, "r"), "ModelRequested")]
        return (in_vain, asked, result.has_output) == (["turn"] * 3, ["turn", "wrap_up"], True)

    assert go(law()) is (planted is None)


def test_vendors_settings_of_a_nested_agent_do_not_get_around_the_caps() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        does = Provider()
        agent = agents(
            runtime,
            {"max_tokens": 10_000},
            None,
            does=does,
            settings=ModelSettings(extra={"max_tokens": 10**6}),
        )
        with pytest.raises(ConfigurationError, match="max_tokens"):
            await agent.run("Hi", run_id="r", **ALICE)
        assert does.seen == []

    go(law())


@pytest.mark.parametrize(
    ("around", "own", "planted"), [(4, 4, None), (9, 4, None), (4, 9, None), (4, 4, twice)]
)
def test_a_pace_that_both_keep_is_one(
    around: int, own: int, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted is not None:
        planted(monkeypatch)

    def paced(requests: int) -> StandardBudget:
        return StandardBudget(
            BudgetConfig(max_requests=50),
            rate_limits=[RateLimit(requests=requests, burst=requests, per="user", mode="refuse")],
        )

    async def law() -> bool:
        runtime = InMemoryRuntime()
        agent = agents(runtime, paced(around), paced(own), asks=Asking("child"))
        await agent.run("Hi", run_id="r", **ALICE)
        (made,) = await nested(runtime)
        assert made[-1].stop_reason == "rate_limit:user_requests_per_minute"
        return 1 + requests_of(made) == 4

    assert go(law()) is (planted is None)


# prices


@pytest.mark.parametrize("free", [FREE, price_usd(input=0.1, output=0.1)])
def test_a_nested_agents_prices_make_nothing_cheaper(free: Any) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        cheap = PriceTable({"scripted": free})
        own = StandardBudget(BudgetConfig(max_cost_usd=1), prices=cheap)
        agent = agents(runtime, {"per_user_max_cost_usd": 1}, own, asks=Asking("child"), does=Provider())
        await agent.run("Hi", run_id="r", **ALICE)
        _, total = await spent_by(runtime)
        assert total.cost == 3 * (40 * 1_000 + 20 * 10_000)
        assert await of_user(runtime.store.ledger, "cost_usd") == (total.cost, 0)

    go(law())


def test_a_model_that_the_budget_around_cannot_price_is_not_priced_by_the_nested_agent() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        does = Provider()
        does.name = "unheard:of"
        own = NoBudget(prices=PriceTable({"unheard:of": FREE}))
        agent = agents(runtime, {"max_cost_usd": 1}, own, does=does)
        with pytest.raises(ConfigurationError, match="unheard:of"):
            await agent.run("Hi", run_id="r", **ALICE)
        assert does.seen == []
        own = StandardBudget(BudgetConfig(max_cost_usd=1), prices=PriceTable({}))
        known = NoBudget(prices=PriceTable({"unheard:of": FREE, "scripted": FREE}))
        agent = agents(runtime, known, own, does=does, asks=Asking("child"))
        assert (await agent.run("Hi", run_id="s", **ALICE)).status == "completed"
        assert len(does.seen) > 0

    go(law())


# warnings


def test_a_limit_that_both_have_warns_once() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        limits = {"per_user_max_requests": 10, "soft_warning_at": 0.5}
        agent = agents(runtime, limits, limits, asks=Asking("child"), does=Provider(*[AGAIN] * 5))
        await agent.run("Hi", run_id="r", **ALICE)
        found = await of_all(runtime, "BudgetWarned")
        assert [(e.limit, e.cap, e.soft) for e in found] == [("per_user_max_requests", 10, 5)]

    go(law())


def test_nested_runs_that_reach_a_warning_together_tell_of_it() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        gate = asyncio.Event()
        does = Greedy(gate=gate)
        agent = agents(
            runtime,
            {"max_tokens": 30_000, "max_output_tokens_per_call": 20, "soft_warning_at": 0.1},
            None,
            asks=Asking(["child"] * 3),
            does=does,
        )
        task = asyncio.create_task(agent.run("Hi", run_id="r", **ALICE))
        await until(lambda: len(does.seen) == 3)
        gate.set()
        await task
        found = await of_all(runtime, "BudgetWarned")
        assert [(e.limit, e.cap) for e in found] == [("max_tokens", 30_000)]

    go(law())


# what the outermost run says


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("planted", [None, untold])
def test_a_result_has_what_nested_runs_used_and_were_charged(
    kind: str, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted is not None:
        planted(monkeypatch)

    async def law() -> bool:
        async with runtime_of(kind, tmp_path) as runtime:
            last = spender(Provider(AGAIN), None, runtime=runtime, name="last", tools=[look])
            middle = spender(
                Asking("last", "last"), None, runtime=runtime, name="middle", tools=[last.as_tool()]
            )
            agent = spender(
                Asking(["middle", "middle"]),
                {"per_user_max_cost_usd": 1},
                runtime=runtime,
                name="first",
                tools=[middle.as_tool()],
            )
            result = await agent.run("Hi", run_id="r", **ALICE)
            requests, total = await spent_by(runtime)
            assert (requests, total.cost) == (16, 16 * 240_000)
            again = await agent.run("Hi", run_id="r", **ALICE)
            assert (again.usage, again.charged) == (result.usage, result.charged)
            return (result.usage.requests, result.usage.input_tokens, result.charged) == (16, 16 * 40, total)

    assert go(law()) is (planted is None)


def test_what_nested_runs_cost_is_not_said_for_a_run_whose_own_cost_nobody_knows() -> None:
    async def law() -> None:
        agent = agents(InMemoryRuntime(), None, {"max_requests": 9}, asks=Asking("child"), does=Provider())
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert (result.usage.requests, result.charged, result.cost_usd) == (3, None, None)

    go(law())


def test_a_paused_run_has_what_its_nested_runs_used_so_far_and_counts_it_once() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()

        @tool(effect="read")
        async def wonder() -> str:
            return await ask_human("Well?")

        child = spender(Provider(ToolCall("wonder")), None, runtime=runtime, name="child", tools=[wonder])
        agent = spender(
            Asking("child"), {"max_requests": 9}, runtime=runtime, name="parent", tools=[child.as_tool()]
        )
        paused = await agent.run("Hi", run_id="r", **ALICE)
        assert (paused.status, paused.usage.requests) == ("paused", 2)
        result = await agent.resume(paused, answer="Yes.")
        assert (result.status, result.usage.requests) == ("completed", 4)
        assert result.charged == (await spent_by(runtime))[1]

    go(law())


# what it costs


def test_a_run_that_nothing_is_around_draws_on_its_own_accounts_as_before() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = agents(runtime, {"max_requests": 4}, None, asks=Asking("child"))
        seen = []
        made = budgeting.BudgetMeter.attempt

        async def noted(self: Any, *args: Any) -> Any:
            seen.append(type(self._accounts).__name__)
            return await made(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(budgeting.BudgetMeter, "attempt", noted)
            await agent.run("Hi", run_id="r", **ALICE)
        assert seen[0] == "Accounts"
        assert set(seen[1:-1]) >= {"Nested"}

    go(law())
