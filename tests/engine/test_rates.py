"""Rate limits through the real loop: who passes, who waits for whom, and that nobody passes too soon."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from shipworthy import (
    BudgetConfig,
    InMemoryLedger,
    InMemoryRuntime,
    RateLimit,
    StandardBudget,
    ToolCall,
    tool,
)
from shipworthy.adapters.inmemory import counters as in_memory
from shipworthy.domain.ledger import Granted, Hold, Rate, Refused, Settled, Settlement
from shipworthy.engine import contention
from shipworthy.engine.bank import Bank
from shipworthy.engine.contention import Place, Places, Waiting
from shipworthy.engine.reserving import Reserving
from shipworthy.errors import BudgetExceeded, ConfigurationError
from tests.engine.pacing import Counted, Paced, agent_of, dropped, paced, too_many, until, waiting
from tests.engine.world import ALICE, T, agent, journal, kinds, on_file

FAIR = RateLimit(requests=400, period="second", burst=1)
FAST = RateLimit(requests=50, period="second", burst=1)
PATIENCE = 2.0
"""Seconds that a run gets which must come through; less than a place in a ledger's order lives."""


LONGEST = 30.0
"""Seconds that a law may take."""


def go(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, LONGEST))


async def ran(agent: Any, run_id: str, tenant: str = "acme", user: str = "alice", **options: Any) -> str:
    """How a run ended."""
    result = await agent.run("Hi", tenant_id=tenant, user_id=user, run_id=run_id, **options)
    return result.stop_reason if result.status == "stopped" else str(result.status)


def begun(agent: Any, *names: str, tenant: str = "acme", **options: Any) -> list[asyncio.Task[str]]:
    """Runs that were begun in this order."""
    return [asyncio.create_task(ran(agent, name, tenant, **options)) for name in names]


# whose pace it is

ELSEWHERE = {
    "user": ("one", {"tenant": "acme", "user": "bob"}),
    "tenant": ("one", {"tenant": "other", "user": "alice"}),
    "agent": ("two", {}),
    "model": ("two", {}),
}


async def _two_accounts(per: Any) -> tuple[Any, dict[str, str]]:
    """The second run of one account, and how a run of another account went, by what the other one is."""
    runtime = InMemoryRuntime()
    budget = StandardBudget(BudgetConfig(), rate_limits=[RateLimit(requests=1, per=per, mode="refuse")])
    agents = {name: agent_of(Paced(f"model {name}"), budget, runtime, name) for name in ("one", "two")}
    assert await ran(agents["one"], "first") == "completed"
    again = await agents["one"].run("Hi", **ALICE)
    here = {
        other: await ran(agents[name], other, **options)
        for other, (name, options) in ELSEWHERE.items()
        if per in (other, "global")
    }
    return again, here


@pytest.mark.parametrize("per", ELSEWHERE)
def test_each_account_has_a_pace_of_its_own(per: str) -> None:
    """Its second request is refused, with the time to wait; somebody else's passes."""
    again, others = go(_two_accounts(per))

    assert (again.status, again.stop_reason) == ("stopped", f"rate_limit:{per}_requests_per_minute")
    assert 50 < again.retry_after <= 60
    assert others == {per: "completed"}
    with pytest.raises(BudgetExceeded, match=f"{per}_requests_per_minute"):
        again.raise_for_status()


def test_a_global_pace_is_everybodys() -> None:
    _, others = go(_two_accounts("global"))
    assert set(others.values()) == {"rate_limit:global_requests_per_minute"}
    assert len(others) == 4


@pytest.mark.parametrize(("burst", "passes"), [(None, 5), (3, 3), (8, 8)])
def test_a_burst_passes_at_once(burst: int | None, passes: int) -> None:
    async def law() -> None:
        a = paced(Paced(), RateLimit(requests=5, burst=burst, mode="refuse"))
        ended = [await ran(a, f"r{n}") for n in range(10)]
        assert ended == ["completed"] * passes + ["rate_limit:model_requests_per_minute"] * (10 - passes)

    go(law())


def test_requests_and_tokens_are_limited_each_by_itself() -> None:
    """One RateLimit with both is two limits, and the fuller one refuses."""

    async def law() -> None:
        a = paced(Paced(tokens=3000), RateLimit(requests=10, tokens=10_000, mode="refuse"))
        ended = [await ran(a, f"r{n}") for n in range(4)]
        assert ended == ["completed"] * 2 + ["rate_limit:model_tokens_per_minute"] * 2
        a = paced(Paced(), RateLimit(requests=2, tokens=100_000, mode="refuse"))
        ended = [await ran(a, f"r{n}") for n in range(4)]
        assert ended == ["completed"] * 2 + ["rate_limit:model_requests_per_minute"] * 2

    go(law())


# tokens


async def _tokens(tokens: int, *, at_once: bool = False) -> int:
    """How many of 20 runs pass that bill 1,000 tokens each and reserve a little over 4,100, of 10,000 a minute."""
    model = Paced(tokens=tokens)
    a = paced(model, RateLimit(tokens=10_000, mode="refuse"))
    if at_once:
        await asyncio.gather(*begun(a, *[f"r{n}" for n in range(20)]))
    else:
        for n in range(20):
            await ran(a, f"r{n}")
    return len(model.seen)


def the_pace_is_that_of_real_use() -> None:
    """What was reserved and not used is given back: the sixth still finds 4,100 of 10,000 when five used 1,000 each."""
    assert go(_tokens(1000)) == 6
    assert go(_tokens(10)) == 20


def what_is_reserved_is_not_given_twice() -> None:
    """At once, only as many pass as could use all that they asked for."""
    model, gate = Paced(tokens=10), asyncio.Event()
    model.gate = gate

    async def law() -> None:
        a = paced(model, RateLimit(tokens=10_000, mode="refuse"))
        tasks = begun(a, *[f"r{n}" for n in range(20)])
        await until(lambda: sum([task.done() for task in tasks]) == 18)
        gate.set()
        await asyncio.gather(*tasks)
        assert len(model.seen) == 2

    go(law())


def test_the_output_is_bounded_by_what_was_reserved_of_a_pace() -> None:
    """Without a bound in the request a provider could send more than the pace was asked for."""

    async def law(*limits: RateLimit) -> int | None:
        asked: list[int | None] = []

        class Asked(Paced):
            async def stream(self, request: Any) -> Any:
                asked.append(request.settings.max_tokens)
                async for item in super().stream(request):
                    yield item

        await ran(paced(Asked(), *limits, max_output_tokens_per_call=700), "r")
        return asked[0]

    assert go(law(RateLimit(tokens=10_000))) == 700
    assert go(law(RateLimit(requests=10))) is None


def test_what_is_bigger_than_the_burst_passes_when_nothing_is_owed() -> None:
    async def law() -> None:
        model = Paced(tokens=10)
        a = paced(model, RateLimit(tokens=1000, mode="refuse"))
        assert await ran(a, "one") == "completed"
        assert await ran(a, "two") == "rate_limit:model_tokens_per_minute"

    go(law())


# waiting


def nobody_is_stuck_behind_one_whose_time_is_up() -> None:
    """It stops with the timeout and gives its place up; who came after it gets the turn."""

    async def law() -> None:
        model = Paced()
        a = paced(model, RateLimit(requests=10, period="second", burst=1))
        assert await ran(a, "first") == "completed"
        short, behind = begun(a, "short", timeout=0.03) + begun(a, "behind", timeout=10)
        assert await short == "timeout"
        assert await behind == "completed"
        assert model.seen == ["first", "behind"]
        assert not waiting(a)

    go(law())


def nobody_is_stuck_behind_one_that_was_cancelled() -> None:
    """Before a pace and before a cap, at the head of the order and further back."""

    async def law(limit: RateLimit | None, **limits: Any) -> None:
        model = Paced(gate=asyncio.Event())
        counted = Counted()
        a = paced(model, *([limit] if limit else []), ledger=counted, **limits)
        tasks = begun(a, *[f"r{n}" for n in range(6)], timeout=PATIENCE)
        await until(lambda: len(_order(a)) == 5 and (limit is not None or counted.kept))
        for gone in (1, 3):
            tasks[gone].cancel()
        assert model.gate is not None
        model.gate.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [ended[n] for n in (0, 2, 4, 5)] == ["completed"] * 4
        assert model.seen == ["r0", "r2", "r4", "r5"]
        assert not waiting(a)

    go(law(FAST))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contention, "OVERTAKEN", 0.0)  # the first keeps a place in the ledger's order at once
        go(law(None, global_max_tokens=6000))


def _order(a: Any) -> list[Place]:
    """Everybody who waits there."""
    return [p for line in waiting(a)._lines.values() for places in line._tenants.values() for p in places]


def results_are_committed_before_waiting() -> None:
    """What a tool did is in the journal while the run waits for its next turn."""

    @tool(effect="once")
    async def pay() -> str:
        return "paid"

    async def law() -> None:
        budget = StandardBudget(BudgetConfig(), rate_limits=[RateLimit(requests=1)])
        a = agent(ToolCall("pay"), "Done.", tools=[pay], budget=budget)
        task = asyncio.create_task(a.run("Pay", run_id="r", **ALICE))
        await until(lambda: a.budget is not None and len(_order(a)) == 1)
        await asyncio.sleep(0.01)
        durable = kinds(await journal(a, "r"))
        await dropped([task])
        assert durable[-1] == "ToolReturned"

    go(law())


# fair


async def _noisy_and_quiet(limit: RateLimit, *, anonymous: bool = False) -> list[int]:
    """How many calls of a tenant with 200 waiting ones were admitted between a quiet tenant's asking and its
    admission, for each of its two calls."""
    model = Paced()
    a = paced(model, limit)
    if anonymous:
        noisy = [asyncio.create_task(a.run("Hi", run_id=f"noisy-{n}")) for n in range(200)]
    else:
        noisy = begun(a, *[f"noisy-{n}" for n in range(200)], tenant="noisy")  # type: ignore[assignment]
    await until(lambda: len(_order(a)) > 150)
    between = []
    for name in ("quiet-0", "quiet-1"):
        before = len(model.seen)
        await ran(a, name, "quiet")
        between.append(model.seen.index(name) - before)
    order = [int(name.partition("-")[2]) for name in model.seen if name.startswith("noisy")]
    await dropped(noisy)
    assert order == sorted(order)
    return between


def a_noisy_tenant_does_not_slow_a_quiet_one() -> None:
    """At most one of its calls, and one that was on its way, goes first."""
    assert max(go(_noisy_and_quiet(FAIR))) <= 2


def who_names_nobody_has_one_turn_with_all_the_others() -> None:
    """Fresh tenants would be a turn for each."""
    assert max(go(_noisy_and_quiet(FAIR, anonymous=True))) <= 2


def a_tenants_runs_pass_in_their_order() -> None:
    async def law() -> None:
        model = Paced()
        a = paced(model, RateLimit(requests=500, period="second", burst=1))
        names = [f"r{n:02}" for n in range(40)]
        assert await asyncio.gather(*begun(a, *names)) == ["completed"] * 40
        assert model.seen == names

    go(law())


async def _before_a_cap(runtime: Any) -> list[str]:
    """The order in which runs get held room: 20 of one tenant, then 3 of another."""
    model = Paced(gate=asyncio.Event())
    a = paced(model, runtime=runtime, global_max_tokens=6000)
    tasks = begun(a, *[f"a{n:02}" for n in range(20)], tenant="a", timeout=PATIENCE)
    tasks += begun(a, *[f"b{n}" for n in range(3)], tenant="b", timeout=PATIENCE)
    await until(lambda: len(_order(a)) == 22)
    assert model.gate is not None
    model.gate.set()
    assert await asyncio.gather(*tasks) == ["completed"] * 23
    return model.seen


def held_room_is_given_in_order() -> None:
    """A tenant's runs in the order of their coming, the tenants in turn."""
    order = go(_before_a_cap(InMemoryRuntime()))
    assert order[:7] == ["a00", "a01", "b0", "a02", "b1", "a03", "b2"]
    assert order[7:] == [f"a{n:02}" for n in range(4, 20)]


def held_room_in_a_file_is_given_in_order() -> None:
    """Though all of them asked at once, before anybody knew of the others."""

    async def law(folder: str) -> list[str]:
        return await on_file(f"{folder}/bot.db", _before_a_cap)

    with tempfile.TemporaryDirectory() as folder:
        order = go(law(folder))
    assert order.index("b2") <= 7


def a_pace_of_ones_own_is_in_nobody_elses_way() -> None:
    """Runs of users that each are too fast do not take the turns of one who is not, before the pace of the model."""

    async def law() -> None:
        model = Paced()
        own = RateLimit(requests=80, period="second", burst=1, per="user")
        a = paced(model, own, RateLimit(requests=200, period="second", burst=1, per="model"))
        noisy = [
            asyncio.create_task(ran(a, f"noisy-{n}-{user}", "noisy", f"u{user}"))
            for n in range(10)
            for user in range(20)
        ]
        await until(lambda: len(_order(a)) > 150)
        for name in ("quiet-0", "quiet-1"):
            before = len(model.seen)
            await ran(a, name, "quiet", name)
            assert model.seen.index(name) - before <= 2
        await dropped(noisy)

    go(law())


# not too fast, and not by asking all the time


async def _crowd(
    ledger: Any, limit: RateLimit, runs: int, *, until_seen: int | None = None
) -> tuple[Paced, Counted]:
    model, counted = Paced(), Counted(ledger)
    a = paced(model, limit, ledger=counted)
    tasks = begun(a, *[f"r{n}" for n in range(runs)])
    if until_seen is None:
        assert await asyncio.gather(*tasks) == ["completed"] * runs
    else:
        await until(lambda: len(model.seen) >= until_seen)
        await dropped(tasks)
    return model, counted


def two_hundred_at_once_keep_the_pace() -> None:
    model, counted = go(_crowd(None, RateLimit(requests=300, period="second", burst=20), 200))
    assert len(model.seen) == 200
    assert too_many(counted.passed(model), 300, 1.0, 20) is None


def who_waits_does_not_ask() -> None:
    """However many wait, the ledger is asked a few times for each that is admitted, and when one begins to wait."""
    limits = [
        RateLimit(requests=200, period="second", burst=1),
        RateLimit(tokens=100_000, period="second", burst=5_000),
    ]
    for limit in limits:
        model, counted = go(_crowd(None, limit, 500, until_seen=50))
        assert sum(counted.asked.values()) <= 4 * len(model.seen) + 10


def who_waits_before_a_cap_does_not_ask() -> None:
    """Nor do those wake whose own room nobody gave back."""

    async def law() -> None:
        model, stuck, counted = Paced(turns=20), Paced(gate=asyncio.Event()), Counted()
        a = paced(model, ledger=counted, per_user_max_tokens=6000)
        assert a.budget is not None
        holder = agent_of(stuck, a.budget, a.runtime, "holder")  # type: ignore[arg-type]
        users = [f"u{n}" for n in range(50)]
        held = [asyncio.create_task(ran(holder, f"holds {user}", user=user)) for user in users]
        await until(lambda: len(stuck.seen) == 50)
        tasks = [asyncio.create_task(ran(a, f"waits {user}", user=user)) for user in users]
        await until(lambda: len(_order(a)) == 50)
        asked = sum(counted.asked.values())
        await asyncio.gather(*begun(a, *[f"r{n}" for n in range(100)]))
        now = sum(counted.asked.values())
        await dropped(held + tasks)
        assert now - asked <= 4 * 100 + 50 * 10

    go(law())


# beside budgets


def a_refused_pace_reserves_nothing() -> None:
    async def law() -> None:
        limits = {"per_user_max_tokens": 100_000, "per_user_max_requests": 100}
        a = paced(Paced(tokens=10), RateLimit(requests=1, mode="refuse"), **limits)  # type: ignore[arg-type]
        assert await ran(a, "first") == "completed"
        assert (await ran(a, "second")).startswith("rate_limit:")
        ledger = a.runtime.store.ledger
        found = await ledger.show(_operator(), "acme", "alice")
        assert {(b.unit, b.spent, b.held) for b in found} == {("tokens", 10, 0), ("requests", 1, 0)}

    go(law())


def _operator() -> Any:
    from shipworthy import Operator

    return Operator("a test")


def test_a_process_that_died_waiting_is_waited_for_no_longer_than_its_place_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_memory, "PLACE", 300)

    async def law() -> None:
        counted, model = Counted(), Paced(gate=asyncio.Event())
        holds: list[Hold] = []

        class Told(Counted):
            async def reserve(self, hold: Hold) -> Any:
                holds.append(hold)
                return await super().reserve(hold)

        told = Told(counted.ledger)
        a = paced(model, ledger=told, global_max_tokens=6000)
        (first,) = begun(a, "first")
        await until(lambda: bool(model.seen))
        dead = msgspec.structs.replace(holds[0], id="of a process that died", patient=True)
        assert not isinstance(await told.ledger.reserve(dead), Granted)
        assert model.gate is not None
        model.gate.set()
        assert await first == "completed"
        assert await ran(a, "second", timeout=PATIENCE) == "completed"

    go(law())


# providers that want to be left alone


def a_paused_provider_is_left_alone() -> None:
    """By runs that begin, by those that waited for their turn meanwhile, and for longer where it asks again."""

    async def law() -> None:
        model = Paced()
        model.pauses = {1: 0.05, 4: 0.05}
        a = paced(model, RateLimit(requests=100, period="second", burst=3))
        assert await ran(a, "first") == "completed"
        tasks = begun(a, *[f"r{n}" for n in range(8)])
        await until(lambda: len(_order(a)) == 8)
        model.pause(0.1)  # by the answer to some other call: longer than they were told
        assert await asyncio.gather(*tasks) == ["completed"] * 8
        assert model.disturbed == []
        assert model.seen == ["first", *[f"r{n}" for n in range(8)]]

    go(law())


def test_a_pause_that_nobody_waits_for_stops_the_run() -> None:
    async def law() -> None:
        model = Paced()
        a = paced(model, RateLimit(requests=100, mode="refuse"))
        model.pause(30)
        result = await a.run("Hi", **ALICE)
        assert (result.status, result.stop_reason) == ("stopped", "rate_limit:provider")
        assert result.retry_after is not None
        assert 25 < result.retry_after <= 30.1
        assert model.seen == []

    go(law())


def test_without_rate_limits_nobody_is_left_alone() -> None:
    async def law() -> None:
        for limits in ({}, {"max_tokens": 10_000}):
            model = Paced()
            model.pause(30)
            assert await ran(paced(model, **limits), "r", timeout=PATIENCE) == "completed"

    go(law())


def test_a_pause_is_cut_by_the_deadline() -> None:
    async def law() -> None:
        model = Paced()
        a = paced(model, FAST)
        model.pause(30)
        assert await ran(a, "r", timeout=0.02) == "timeout"
        assert not waiting(a)

    go(law())


# misuse


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "limits nothing"),
        ({"requests": 0}, "requests=0"),
        ({"requests": -1}, "requests=-1"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": 1.5}, "tokens=1.5"),
        ({"requests": True}, "requests=True"),
        ({"requests": "60"}, "requests='60'"),
        ({"requests": 1, "burst": 0}, "burst=0"),
        ({"requests": 1, "per": "planet"}, "per='planet'"),
        ({"requests": 1, "per": []}, r"per=\[\]"),
        ({"requests": 1, "period": "fortnight"}, "period='fortnight'"),
        ({"requests": 1, "mode": "hope"}, "mode='hope'"),
        ({"requests": 1, "tokens": 1, "burst": 1}, "burst="),
        ({"requests": 1, "period": "day", "burst": 10**12}, "burst="),
    ],
)
def test_a_limit_that_means_nothing_is_refused_when_the_budget_is_made(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        StandardBudget(BudgetConfig(), rate_limits=[RateLimit(**options)])
    assert refused.value.fix


@pytest.mark.parametrize("limits", [RateLimit(requests=1), [60], ["60/minute"], "60", [None]])
def test_what_is_no_rate_limit_is_refused(limits: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate_limits"):
        StandardBudget(BudgetConfig(), rate_limits=limits)


def test_one_pace_is_not_limited_twice() -> None:
    """Both would be paid from one account."""
    two = [RateLimit(requests=60), RateLimit(requests=30, tokens=1000)]
    with pytest.raises(ConfigurationError, match="requests per minute twice for each model"):
        StandardBudget(BudgetConfig(), rate_limits=two)
    StandardBudget(
        BudgetConfig(), rate_limits=[RateLimit(requests=60), RateLimit(requests=5, period="second")]
    )


# the laws, and mutants that they catch

Law = Callable[[], None]
LAWS: list[Law] = [
    the_pace_is_that_of_real_use,
    what_is_reserved_is_not_given_twice,
    nobody_is_stuck_behind_one_whose_time_is_up,
    nobody_is_stuck_behind_one_that_was_cancelled,
    results_are_committed_before_waiting,
    a_noisy_tenant_does_not_slow_a_quiet_one,
    who_names_nobody_has_one_turn_with_all_the_others,
    a_tenants_runs_pass_in_their_order,
    held_room_is_given_in_order,
    held_room_in_a_file_is_given_in_order,
    a_pace_of_ones_own_is_in_nobody_elses_way,
    two_hundred_at_once_keep_the_pace,
    who_waits_does_not_ask,
    who_waits_before_a_cap_does_not_ask,
    a_refused_pace_reserves_nothing,
    a_paused_provider_is_left_alone,
]


@pytest.mark.filterwarnings("ignore::shipworthy.errors.IdentityWarning")
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_rates(law: Law) -> None:
    law()


Mutant = Callable[[pytest.MonkeyPatch], None]


def _first_come_over_all_tenants(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reserving, "_tenant", "everybody")


def _a_turn_for_everybody_who_names_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reserving, "_tenant", property(lambda self: self._run.scope.tenant))


def _last_come_first(patch: pytest.MonkeyPatch) -> None:
    class Stack(deque[Any]):
        def append(self, item: Any) -> None:
            self.insert(1 if self else 0, item)

    patch.setattr(contention, "deque", Stack)


def _places_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Places, "leave", lambda self: None)


def _the_ledger_is_not_told_who_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bank, "give_up", lambda self, tenant, hold: None)


def _everybody_keeps_a_place_in_the_ledger(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reserving, "_in_order", lambda self, hold: msgspec.structs.replace(hold, patient=True))


def _waits_before_committing(patch: pytest.MonkeyPatch) -> None:
    async def in_turn(self: Any, hold: Hold, refused: Refused) -> None:
        await asyncio.sleep(refused.wait / 1000)

    patch.setattr(Reserving, "_in_turn", in_turn)


def _reservations_are_paces(patch: pytest.MonkeyPatch) -> None:
    put = InMemoryLedger.put

    def settled(self: InMemoryLedger, settlement: Settlement) -> Settled:
        return put(self, msgspec.structs.replace(settlement, rates=None))

    patch.setattr(InMemoryLedger, "put", settled)


def _paces_are_charged_afterwards(patch: pytest.MonkeyPatch) -> None:
    take = InMemoryLedger.take

    def granted(self: InMemoryLedger, hold: Hold) -> Any:
        none = (0,) * len(hold.rates)
        return take(self, msgspec.structs.replace(hold, rate_base=none, rate_each=none))

    patch.setattr(InMemoryLedger, "take", granted)


def _a_refused_pace_keeps_its_reservation(patch: pytest.MonkeyPatch) -> None:
    take = InMemoryLedger.take

    def taken(self: InMemoryLedger, hold: Hold) -> Any:
        answer = take(self, hold)
        if isinstance(answer, Refused) and answer.cause == "rate":
            take(self, msgspec.structs.replace(hold, id="kept", rates=(), rate_base=(), rate_each=()))
        return answer

    patch.setattr(InMemoryLedger, "take", taken)


def _twice_too_fast(patch: pytest.MonkeyPatch) -> None:
    passed = in_memory.passed

    def half(rate: Rate, owed: int, idle_at: int, amount: int, at: int) -> tuple[int, int]:
        after, idle_at = passed(rate, owed, idle_at, amount, at)
        return after - (after - max(owed, at * 1000)) // 2, idle_at

    patch.setattr(in_memory, "passed", half)


def _newcomers_ask_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Waiting, "__contains__", lambda self, key: False)


def _everybody_asks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Places, "behind", lambda self, keys: None)


def _everybody_is_woken(patch: pytest.MonkeyPatch) -> None:
    def wake(self: Waiting, keys: Any) -> None:
        for line in self._lines.values():
            if line.first is not None:
                line.first.wake()

    patch.setattr(Waiting, "wake", wake)


def _who_began_to_wait_forgets_the_provider(patch: pytest.MonkeyPatch) -> None:
    """A pause is looked at once, when a run wants to reserve."""
    paused = Reserving._paused.fget  # type: ignore[attr-defined]

    def once(self: Any) -> float:
        if self._places is not None:
            return 0.0
        seconds: float = paused(self)
        return seconds

    patch.setattr(Reserving, "_paused", property(once))


def _a_pause_is_not_looked_at_again(patch: pytest.MonkeyPatch) -> None:
    async def slept(self: Any) -> None:
        pause = self._paused
        await asyncio.sleep(pause)
        self._run.blueprint.model._until = 0.0

    patch.setattr(Reserving, "_after_the_pause", slept)


MUTANTS: list[tuple[Mutant, Law]] = [
    (_reservations_are_paces, the_pace_is_that_of_real_use),
    (_paces_are_charged_afterwards, what_is_reserved_is_not_given_twice),
    (_places_are_kept, nobody_is_stuck_behind_one_whose_time_is_up),
    (_the_ledger_is_not_told_who_left, nobody_is_stuck_behind_one_that_was_cancelled),
    (_waits_before_committing, results_are_committed_before_waiting),
    (_first_come_over_all_tenants, a_noisy_tenant_does_not_slow_a_quiet_one),
    (_newcomers_ask_first, a_tenants_runs_pass_in_their_order),
    (_a_turn_for_everybody_who_names_nobody, who_names_nobody_has_one_turn_with_all_the_others),
    (_last_come_first, a_tenants_runs_pass_in_their_order),
    (_last_come_first, held_room_is_given_in_order),
    (_first_come_over_all_tenants, held_room_is_given_in_order),
    (_everybody_keeps_a_place_in_the_ledger, held_room_in_a_file_is_given_in_order),
    (_first_come_over_all_tenants, a_pace_of_ones_own_is_in_nobody_elses_way),
    (_twice_too_fast, two_hundred_at_once_keep_the_pace),
    (_everybody_asks, who_waits_does_not_ask),
    (_everybody_is_woken, who_waits_before_a_cap_does_not_ask),
    (_a_refused_pace_keeps_its_reservation, a_refused_pace_reserves_nothing),
    (_who_began_to_wait_forgets_the_provider, a_paused_provider_is_left_alone),
    (_a_pause_is_not_looked_at_again, a_paused_provider_is_left_alone),
]
STUCK = (
    _paces_are_charged_afterwards,
    _places_are_kept,
    _waits_before_committing,
    _who_began_to_wait_forgets_the_provider,
    _a_pause_is_not_looked_at_again,
)
"""Under these a law waits for ever for what it is about."""


@pytest.mark.filterwarnings("ignore::shipworthy.errors.IdentityWarning")
@pytest.mark.parametrize(("mutant", "law"), MUTANTS, ids=lambda each: each.__name__)
def test_a_mutant_is_caught(mutant: Mutant, law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    monkeypatch.setattr(f"{__name__}.LONGEST", 0.5 if mutant in STUCK else PATIENCE)
    with pytest.raises((AssertionError, TimeoutError)):
        law()
