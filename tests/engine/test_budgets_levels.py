"""Whose counters a run draws on: one for each user of a tenant, one for everybody who names nobody, and so on; they
outlive processes, and operators change them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import BudgetConfig, InMemoryLedger, InMemoryRuntime, SqliteRuntime, StandardBudget
from shipworthy.domain.scope import Scope
from shipworthy.errors import ConfigurationError
from shipworthy.rules import ledger as rules
from shipworthy.rules.ledger import account
from tests.engine.spending import PRICES, TESTS, Provider, balances, budget, of_user, runtime_of, spender
from tests.engine.world import ALICE, go

BOB = {"tenant_id": "acme", "user_id": "bob"}
OTHER_ALICE = {"tenant_id": "umbrella", "user_id": "alice"}


async def statuses(agent: Any, *whose: dict[str, str]) -> list[str]:
    return [(await agent.run("Hi", **who)).stop_reason or "completed" for who in whose]


@pytest.mark.filterwarnings("ignore::shipworthy.errors.IdentityWarning")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("level", "whose", "stopped"),
    [
        ("per_user", [ALICE, ALICE, BOB, OTHER_ALICE, ALICE], [4]),
        ("per_tenant", [ALICE, BOB, OTHER_ALICE, {"tenant_id": "acme"}], [3]),
        ("global", [ALICE, OTHER_ALICE, BOB], [2]),
        ("per_user", [{}, {}, {}], [2]),
        ("per_tenant", [{}, {}, {}, {"tenant_id": "acme"}], [2]),
        ("per_user", [{"tenant_id": "acme"}, {"tenant_id": "acme"}, {"tenant_id": "acme"}, ALICE], [2]),
    ],
)
def test_a_limit_counts_for_its_account_and_no_other(
    level: str, whose: list[dict[str, str]], stopped: list[int], kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            name = f"{level}_max_requests"
            agent = spender(Provider(), {name: 2}, runtime=runtime)
            expected = [f"budget:{name}" if i in stopped else "completed" for i in range(len(whose))]
            assert await statuses(agent, *whose) == expected

    go(law())


@pytest.mark.parametrize(
    ("limit", "cap"),
    [("per_session_max_tokens", 150), ("per_session_max_cost_usd", 0.0006)],
)
def test_a_session_has_a_counter_of_its_own(limit: str, cap: float) -> None:
    async def law() -> None:
        agent = spender(Provider(input=30, output=16), {limit: cap, "max_output_tokens_per_call": 16})
        first, second = {**ALICE, "session_id": "1"}, {**ALICE, "session_id": "2"}
        reasons = await statuses(agent, first, second, first, first, first, second, ALICE, ALICE, ALICE)
        assert reasons[0] == reasons[1] == "completed"
        assert reasons[4] == f"budget:{limit}"
        assert reasons[6:] == ["completed"] * 3

    go(law())


def test_an_agent_has_a_counter_of_its_own_over_all_tenants() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        limits = {"per_agent_max_tokens": 230, "max_output_tokens_per_call": 20}
        one = spender(Provider(), limits, runtime=runtime, name="one")
        two = spender(Provider(), limits, runtime=runtime, name="two")
        reasons = await statuses(one, ALICE, OTHER_ALICE, BOB, ALICE)
        assert reasons == ["completed"] * 3 + ["budget:per_agent_max_tokens"]
        assert await statuses(two, ALICE) == ["completed"]

    go(law())


def test_agents_of_one_runtime_draw_on_the_same_user() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agents = [
            spender(Provider(), {"per_user_max_requests": 3}, runtime=runtime, name=name)
            for name in ("a", "b")
        ]
        reasons = [(await agents[i % 2].run("Hi", **ALICE)).stop_reason for i in range(5)]
        assert reasons == [None, None, None] + ["budget:per_user_max_requests"] * 2

    go(law())


def test_agents_of_one_runtime_wait_in_one_order() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        asked: list[str] = []

        class Noted(Provider):
            async def stream(self, request: Any) -> Any:
                asked.append(request.run_id)
                async for item in super().stream(request):
                    yield item

        agents = [
            spender(Noted(latency=0.001), {"per_user_max_tokens": 4_000}, runtime=runtime, name=name)
            for name in ("a", "b")
        ]
        tasks = []
        for i in range(8):
            tasks.append(asyncio.create_task(agents[i % 2].run("Hi", run_id=f"r{i}", **ALICE)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert asked == [f"r{i}" for i in range(8)]

    go(law())


def test_the_law_notices_accounts_that_leave_out_the_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account composed of the user's name alone is the mutant."""
    compose = rules.account

    def without(level: Any, tenant: str = "", *name: Any) -> Any:
        return compose(level, "", *name)

    monkeypatch.setattr(rules, "account", without)
    with pytest.raises(AssertionError):
        test_a_limit_counts_for_its_account_and_no_other(
            "per_user", [ALICE, ALICE, BOB, OTHER_ALICE, ALICE], [4], "memory", Path()
        )


# plans


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_of_the_scope_gives_each_customer_a_plan(is_async: bool) -> None:
    async def law() -> None:
        plans = {"acme": 1, "umbrella": 3}

        def plan(scope: Scope) -> BudgetConfig:
            return BudgetConfig(per_user_max_requests=plans[scope.tenant])

        async def plan_later(scope: Scope) -> BudgetConfig:
            await asyncio.sleep(0)
            return plan(scope)

        agent = spender(Provider(), StandardBudget(plan_later if is_async else plan))
        stopped = "budget:per_user_max_requests"
        assert await statuses(agent, *[ALICE] * 2) == ["completed", stopped]
        assert await statuses(agent, *[OTHER_ALICE] * 4) == ["completed"] * 3 + [stopped]
        plans["acme"] = 2
        assert await statuses(agent, *[ALICE] * 2) == ["completed", stopped]

    go(law())


def test_a_plan_without_a_limit_of_money_needs_no_price() -> None:
    async def law() -> None:
        def plan(scope: Scope) -> BudgetConfig:
            if scope.tenant == "acme":
                return BudgetConfig(max_tokens=5_000)
            return BudgetConfig(max_cost_usd=1)

        class Unpriced(Provider):
            name = "nobody:knows"

        agent = spender(Unpriced(), StandardBudget(plan, prices=PRICES))
        assert await statuses(agent, ALICE) == ["completed"]
        with pytest.raises(ConfigurationError, match="nobody:knows"):
            await agent.run("Hi", **OTHER_ALICE)

    go(law())


def boom(scope: Scope) -> BudgetConfig:
    raise KeyError("no such plan")


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (boom, "raised KeyError"),
        (lambda scope: None, "gave a NoneType"),
        (lambda scope: {"max_tokens": 5}, "gave a dict"),
        (lambda scope: BudgetConfig(max_tokens=-1), "max_tokens=-1"),
    ],
)
def test_a_plan_that_is_none_lets_nothing_through(plan: Any, said: str) -> None:
    async def law() -> None:
        model = Provider()
        agent = spender(model, StandardBudget(plan))
        with pytest.raises(ConfigurationError, match=said):
            await agent.run("Hi", run_id="r", **ALICE)
        assert model.seen == []
        from shipworthy.errors import RunNotFound

        with pytest.raises(RunNotFound):
            await agent.resume("r", tenant_id="acme")

    go(law())


# restarts, other instances, operators


@pytest.mark.parametrize("apart", [False, True])
def test_what_was_spent_is_spent_after_a_restart(apart: bool, tmp_path: Path) -> None:
    async def sitting() -> list[str]:
        runtime = SqliteRuntime(tmp_path / "bot.db")
        where = f"sqlite:{tmp_path / 'spent.db'}" if apart else None
        agent = spender(Provider(), budget(where, per_user_max_requests=3), runtime=runtime)
        async with agent:
            return await statuses(agent, ALICE, ALICE)

    assert go(sitting()) == ["completed", "completed"]
    assert go(sitting()) == ["completed", "budget:per_user_max_requests"]


def test_another_instance_on_the_file_shares_the_caps(tmp_path: Path) -> None:
    async def law() -> None:
        limits = {"per_user_max_tokens": 1_500, "max_output_tokens_per_call": 400}
        runtimes = [SqliteRuntime(tmp_path / "bot.db", durability="process") for _ in range(2)]
        agents = [
            spender(Provider(output=200, latency=0.001), limits, runtime=runtime, name=f"a{i}")
            for i, runtime in enumerate(runtimes)
        ]
        results = await asyncio.gather(*[agents[i % 2].run("Hi", **ALICE) for i in range(20)])
        charged = sum([r.charged.input_tokens + r.charged.output_tokens for r in results if r.charged])
        assert await of_user(runtimes[0].store.ledger, "tokens") == (charged, 0)
        assert 1_200 <= charged <= 1_500
        for runtime in runtimes:
            await runtime.close()

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_an_operator_changes_a_cap_at_once_and_takes_it_back(kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            agent = spender(Provider(), {"per_user_max_requests": 1}, runtime=runtime)
            ledger: Any = runtime.store.ledger
            whose = account("user", "acme", "alice")
            stopped = "budget:per_user_max_requests"
            assert await statuses(agent, ALICE, ALICE) == ["completed", stopped]
            await ledger.set_cap(TESTS, whose, "requests", "total", 2, "ann", "a good customer")
            assert await statuses(agent, ALICE, ALICE) == ["completed", stopped]
            assert await statuses(agent, BOB, BOB) == ["completed", stopped]
            assert await ledger.reset(TESTS, whose, "requests", "total", "ann", "a refund") == 2
            assert await statuses(agent, ALICE, ALICE, ALICE) == ["completed", "completed", stopped]
            await ledger.set_cap(TESTS, whose, "requests", "total", None, "ann", "enough")
            assert await statuses(agent, ALICE) == [stopped]
            last = (await ledger.changes(TESTS, 9))[0]
            assert (last.action, last.amount, last.who, last.why) == ("set", None, "ann", "enough")

    go(law())


def test_a_lowered_cap_stops_a_run_that_is_under_way() -> None:
    async def law() -> None:
        from shipworthy import ToolCall, tool

        runtime = InMemoryRuntime()
        ledger: Any = runtime.store.ledger

        @tool(effect="read")
        async def look() -> str:
            whose = account("user", "acme", "alice")
            await ledger.set_cap(TESTS, whose, "requests", "total", 1, "ann", "too much")
            return "seen"

        agent = spender(
            Provider(ToolCall("look")), {"per_user_max_requests": 9}, runtime=runtime, tools=[look]
        )
        assert await statuses(agent, ALICE) == ["budget:per_user_max_requests"]

    go(law())


def test_a_full_ledger_refuses_who_is_new_and_serves_who_is_known() -> None:
    async def law() -> None:
        from shipworthy.errors import LedgerFull

        ledger = InMemoryLedger(max_users=2)
        model = Provider()
        agent = spender(model, budget(ledger, per_user_max_requests=9))
        assert await statuses(agent, ALICE, BOB, ALICE) == ["completed"] * 3
        with pytest.raises(LedgerFull):
            await agent.run("Hi", **OTHER_ALICE)
        assert len(model.seen) == 3
        assert await statuses(agent, ALICE) == ["completed"]

    go(law())


def test_a_run_forgets_its_own_counters_when_it_ends() -> None:
    async def law() -> None:
        for ledger in (None, InMemoryLedger()):
            runtime = InMemoryRuntime()
            agent = spender(
                Provider(), budget(ledger, max_tokens=5_000, per_user_max_tokens=5_000), runtime=runtime
            )
            await statuses(agent, ALICE, ALICE)
            kept: Any = ledger or runtime.store.ledger
            assert {key[0] for key in await balances(kept, "acme")} == {"user"}

    go(law())


def test_a_run_of_no_session_forgets_what_a_session_would_have_counted() -> None:
    """Nobody draws on it any more. A session's own counter stays, for its next run."""

    async def law() -> None:
        for ledger in (None, InMemoryLedger(max_users=1)):
            runtime = InMemoryRuntime()
            config = budget(ledger, per_session_max_tokens=5_000, window="total")
            agent = spender(Provider(), config, runtime=runtime)
            await statuses(agent, ALICE, ALICE, BOB)
            kept: Any = ledger or runtime.store.ledger
            assert await balances(kept, "acme") == {}
            await statuses(agent, {**ALICE, "session_id": "s"})
            assert {key[0] for key in await balances(kept, "acme")} == {"session"}

    go(law())
