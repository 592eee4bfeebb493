"""Many runs on one cap: it is never passed, those who wait get their turn, and it is used up all the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shipworthy import InMemoryLedger, InMemoryRuntime
from shipworthy.domain.ledger import Granted
from shipworthy.engine.nearing import Nearing
from shipworthy.engine.runtime import Runtime
from tests.engine.spending import Provider, Way, go_by, of_kind, of_user, runtime_of, spender, until
from tests.engine.world import ALICE, go, journal

WAYS: list[Way] = ["run", "stream"]


async def fifty(agent: Any, way: Way = "run", runs: int = 50) -> list[Any]:
    return await asyncio.gather(*[go_by(way, agent, run_id=f"r{i}", **ALICE) for i in range(runs)])


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("contention", ["wait", "refuse"])
@pytest.mark.parametrize("cap", [1_000, 2_500, 5_000])
def test_fifty_runs_at_once_never_pass_a_cap(cap: int, contention: str, kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            model = Provider(input=60, output=900, latency=0.001)
            limits = {
                "per_user_max_tokens": cap,
                "on_contention": contention,
                "max_output_tokens_per_call": 900,
            }
            results = await fifty(spender(model, limits, runtime=runtime))
            spent, held = await of_user(runtime.store.ledger, "tokens")
            assert spent <= cap
            assert held == 0
            assert spent == sum(
                [r.charged.input_tokens + r.charged.output_tokens for r in results if r.charged]
            )
            assert {r.stop_reason for r in results} <= {None, "budget:per_user_max_tokens"}
            assert len(model.seen) == sum([r.usage.requests for r in results])
            if contention == "wait":
                assert spent >= cap - 200

    go(law())


@pytest.mark.parametrize("way", WAYS)
def test_worst_case_holds_do_not_waste_the_cap(way: Way) -> None:
    """Each may take up to 2,048 tokens and takes 60: one after the other they use up what there is."""

    async def law() -> None:
        runtime = InMemoryRuntime()
        limits = {"per_user_max_tokens": 3_000, "max_output_tokens_per_call": 2_048}
        results = await fifty(
            spender(Provider(input=40, output=20, latency=0.0001), limits, runtime=runtime), way
        )
        spent, held = await of_user(runtime.store.ledger, "tokens")
        assert 0.95 * 3_000 <= spent <= 3_000
        assert held == 0
        assert Counter([r.status for r in results])["completed"] >= 47

    go(law())


def test_those_who_wait_get_their_turn_in_their_order() -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        model = Provider(output=20, latency=0.001)
        limits = {"per_user_max_tokens": 5_000, "max_output_tokens_per_call": 4_096}
        agent = spender(model, limits, runtime=runtime)
        tasks = []
        for i in range(12):
            tasks.append(asyncio.create_task(agent.run("Hi", run_id=f"r{i}", **ALICE)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert [r.run_id for r in model.seen] == [f"r{i}" for i in range(12)]
        assert model.most_under_way == 1

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_who_waits_is_stopped_by_its_own_deadline_and_leaves_the_order(kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            gate = asyncio.Event()
            model = Provider(gate=gate)
            agent = spender(model, {"per_user_max_tokens": 4_000}, runtime=runtime)
            first = asyncio.create_task(agent.run("Hi", **ALICE))
            await until(lambda: bool(model.seen))
            late = await asyncio.gather(*[agent.run("Hi", timeout=0.05, **ALICE) for _ in range(3)])
            assert [(r.status, r.stop_reason) for r in late] == [("stopped", "timeout")] * 3
            assert len(model.seen) == 1
            patient = asyncio.create_task(agent.run("Hi", **ALICE))
            gate.set()
            assert [(await task).status for task in (first, patient)] == ["completed"] * 2
            assert await of_user(runtime.store.ledger, "tokens") == (120, 0)

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_who_waits_can_be_cancelled_wherever_it_stands_in_the_order(kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            gate = asyncio.Event()
            model = Provider(gate=gate)
            agent = spender(model, {"per_user_max_tokens": 4_000}, runtime=runtime)
            tasks = [asyncio.create_task(agent.run("Hi", run_id=f"r{i}", **ALICE)) for i in range(6)]
            await until(lambda: len(model.seen) == 1)
            await asyncio.sleep(0.03)
            for task in tasks[1:5]:
                task.cancel()
            done = await asyncio.gather(*tasks[1:5], return_exceptions=True)
            assert [type(e) for e in done] == [asyncio.CancelledError] * 4
            gate.set()
            assert [(await task).status for task in (tasks[0], tasks[5])] == ["completed"] * 2
            assert [(await agent.resume(f"r{i}", tenant_id="acme")).status for i in range(1, 5)] == [
                "cancelled"
            ] * 4
            assert await of_user(runtime.store.ledger, "tokens") == (120, 0)

    go(law())


@pytest.mark.parametrize("way", WAYS)
def test_who_does_not_want_to_wait_is_told_what_others_hold(way: Way) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        gate = asyncio.Event()
        model = Provider(gate=gate)
        limits = {"per_user_max_tokens": 4_000, "on_contention": "refuse"}
        agent = spender(model, limits, runtime=runtime)
        first = asyncio.create_task(agent.run("Hi", **ALICE))
        await until(lambda: bool(model.seen))
        result = await go_by(way, agent, run_id="r", **ALICE)
        assert result.stop_reason == "budget:per_user_max_tokens"
        (reached,) = of_kind(await journal(agent, "r"), "BudgetReached")
        assert (reached.spent, reached.held > 3_900) == (0, True)
        gate.set()
        assert (await first).status == "completed"

    go(law())


class CheckThenAct(InMemoryLedger):
    """The mutant: looks at what is spent, and holds nothing."""

    async def reserve(self, hold: Any) -> Any:
        from msgspec.structs import replace

        none = (0,) * len(hold.lines)
        checked = await super().reserve(replace(hold, id=hold.id + "?"))
        if isinstance(checked, Granted):
            await super().release(hold.tenant, hold.id + "?")
            await super().reserve(replace(hold, base=none, each=none))
        return checked


def test_the_law_notices_a_ledger_that_checks_first_and_charges_later() -> None:
    async def law() -> None:
        ledger = CheckThenAct()
        from tests.engine.spending import budget

        limits = budget(ledger, per_user_max_tokens=1_000, max_output_tokens_per_call=900)
        await fifty(spender(Provider(input=60, output=900, latency=0.001), limits))
        assert (await of_user(ledger, "tokens"))[0] > 10_000

    go(law())


# warnings


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("way", WAYS)
def test_a_limit_that_comes_near_is_told_once_by_the_run_that_brought_it_there(
    way: Way, kind: str, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            limits = {"per_user_max_tokens": 600, "max_output_tokens_per_call": 30}
            agent = spender(Provider(), limits, runtime=runtime)
            for i in range(9):
                await go_by(way, agent, run_id=f"r{i}", **ALICE)
            journals = [await journal(agent, f"r{i}") for i in range(9)]
            assert [len(of_kind(j, "BudgetWarned")) for j in journals] == [0, 0, 0, 0, 0, 0, 0, 1, 0]
            (warned,) = of_kind(journals[7], "BudgetWarned")
            assert (warned.limit, warned.unit, warned.cap, warned.soft) == (
                "per_user_max_tokens",
                "tokens",
                600,
                480,
            )
            assert [type(e).__name__ for e in journals[7][-2:]] == ["BudgetWarned", "RunEnded"]

    go(law())


async def warnings_of(runtime: Runtime, runs: int = 50, latencies: tuple[float, ...] = ()) -> list[Any]:
    """The journals of *runs* at once that cross one limit's warning."""

    class Uneven(Provider):
        async def stream(self, request: Any) -> Any:
            if latencies:
                await asyncio.sleep(latencies[int(request.run_id[1:]) % len(latencies)])
            async for item in super().stream(request):
                yield item

    limits = {"per_user_max_tokens": 60 * runs * 2, "soft_warning_at": 0.3, "max_output_tokens_per_call": 30}
    agent = spender(Uneven(), limits, runtime=runtime)
    await fifty(agent, runs=runs)
    return [await journal(agent, f"r{i}") for i in range(runs)]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_fifty_runs_at_once_warn_once_before_their_end(kind: str, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            journals = await warnings_of(runtime, latencies=(0.0, 0.02, 0.001))
            assert sum([len(of_kind(j, "BudgetWarned")) for j in journals]) == 1
            assert {type(j[-1]).__name__ for j in journals} == {"RunEnded"}

    go(law())


def crossed_by_an_early_run(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One run is granted far from the warning, and settled last: it is the one that crosses."""

    async def law() -> list[Any]:
        runtime = InMemoryRuntime()
        gate = asyncio.Event()
        limits = {"per_user_max_tokens": 1_000, "soft_warning_at": 0.1, "max_output_tokens_per_call": 20}
        slow = Provider(gate=gate, input=20, output=10)
        early = spender(slow, limits, runtime=runtime, name="early")
        other = spender(Provider(input=75, output=10), limits, runtime=runtime, name="other")
        first = asyncio.create_task(early.run("Hi", run_id="early", **ALICE))
        await until(lambda: bool(slow.seen))
        await other.run("Hi", run_id="other", **ALICE)
        gate.set()
        await first
        assert not of_kind(await journal(early, "other"), "BudgetWarned")
        return of_kind(await journal(early, "early"), "BudgetWarned")

    return go(law())


def test_an_early_run_warns_that_crosses_after_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(crossed_by_an_early_run(monkeypatch)) == 1


def test_the_law_notices_runs_that_are_taken_to_stay_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nearing, "granted", lambda self, attempt: None)
    assert crossed_by_an_early_run(monkeypatch) == []


@pytest.mark.parametrize("outcome", [TimeoutError("gone"), "excess"])
def test_whatever_crosses_warns(outcome: Any) -> None:
    """A failure that is charged in full, and a provider that bills above its bound."""

    async def law() -> None:
        limits = {"per_user_max_tokens": 1_000, "soft_warning_at": 0.5, "max_output_tokens_per_call": 500}
        model = Provider(outcome) if isinstance(outcome, Exception) else Provider(input=700)
        agent = spender(model, limits)
        await agent.run("Hi", run_id="r", **ALICE)
        events = await journal(agent, "r")
        assert [type(e).__name__ for e in events[-2:]] == ["BudgetWarned", "RunEnded"]

    go(law())


@pytest.mark.parametrize("by", ["cancelling", "timeout"])
def test_a_stopped_run_warns_too(by: str) -> None:
    async def law() -> None:
        limits = {"per_user_max_tokens": 1_000, "soft_warning_at": 0.5, "max_output_tokens_per_call": 500}
        model = Provider(gate=asyncio.Event())
        agent = spender(model, limits, timeout=0.05 if by == "timeout" else None)
        task = asyncio.create_task(agent.run("Hi", run_id="r", **ALICE))
        await until(lambda: bool(model.seen))
        if by == "cancelling":
            task.cancel()
        await asyncio.wait([task])
        events = await journal(agent, "r")
        assert [type(e).__name__ for e in events[-3:]] == ["StopRequested", "BudgetWarned", "RunEnded"]

    go(law())


def test_nobody_is_warned_who_did_not_ask() -> None:
    async def law() -> None:
        limits = {"per_user_max_tokens": 300, "soft_warning_at": 0, "max_output_tokens_per_call": 30}
        agent = spender(Provider(), limits)
        results = [await agent.run("Hi", run_id=f"r{i}", **ALICE) for i in range(9)]
        assert results[-1].status == "stopped"
        assert not any([of_kind(await journal(agent, f"r{i}"), "BudgetWarned") for i in range(9)])

    go(law())


def test_calls_warn_too() -> None:
    from shipworthy import ToolCall, tool

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    async def law() -> None:
        agent = spender(Provider(*[ToolCall("look")] * 4, "Done."), {"max_tool_calls": 5}, tools=[look])
        assert (await agent.run("Hi", run_id="r", **ALICE)).status == "completed"
        assert [w.limit for w in of_kind(await journal(agent, "r"), "BudgetWarned")] == ["max_tool_calls"]

    go(law())


def test_a_ledger_of_its_own_gives_the_same(tmp_path: Path) -> None:
    async def law() -> None:
        from tests.engine.spending import budget

        ledger = InMemoryLedger()
        limits = budget(ledger, per_user_max_tokens=2_000, max_output_tokens_per_call=900)
        results = await fifty(spender(Provider(input=60, output=100, latency=0.001), limits))
        spent, held = await of_user(ledger, "tokens")
        assert (spent <= 2_000, held) == (True, 0)
        assert spent == sum([r.charged.input_tokens + r.charged.output_tokens for r in results if r.charged])

    go(law())
