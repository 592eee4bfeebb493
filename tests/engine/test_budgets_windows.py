"""Limits of a window, through the loop, with the clock moved: what was spent before it began does not count, and what
was reserved in it is settled in it. And a run's own time, which counts while it is driven."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shipworthy import Happened, InMemoryRuntime, ToolCall, tool
from shipworthy.engine import accounts, begin, live
from shipworthy.rules.ledger import account
from tests.engine.spending import TESTS, Provider, of_kind, runtime_of, spender, until
from tests.engine.world import ALICE, go, journal

STOPPED = "budget:per_user_max_requests"


class Clock:
    """The wall clock as those see it whose module it is put into."""

    def __init__(self, at: str = "2026-06-15 12:00") -> None:
        self.set(at)

    def set(self, at: str) -> None:
        self.now = int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() * 1000)

    def move(self, *, seconds: float) -> None:
        self.now += int(seconds * 1000)

    def time_ns(self) -> int:
        return self.now * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which windows are chosen."""
    made = Clock()
    monkeypatch.setattr(accounts, "time", SimpleNamespace(time_ns=made.time_ns))
    return made


async def ask(agent: Any) -> str:
    return (await agent.run("Hi", **ALICE)).stop_reason or "completed"


async def by_window(runtime: Any) -> dict[str, tuple[int, int]]:
    """(spent, held) by the beginning of the window."""
    found = await runtime.store.ledger.show(TESTS, "acme", "alice")
    return {f"{datetime.fromtimestamp(b.start / 1000, UTC):%m-%d %H:%M}": (b.spent, b.held) for b in found}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("window", "zone", "last", "first"),
    [
        ("day", "UTC", "2026-06-15 23:59:59.999", "2026-06-16 00:00"),
        ("day", "Europe/Berlin", "2026-03-29 21:59:59", "2026-03-29 22:00"),
        ("day", "Europe/Berlin", "2026-10-25 22:59:59", "2026-10-25 23:00"),
        ("day", "America/Sao_Paulo", "2018-11-04 02:59:59", "2018-11-04 03:00"),
        ("hour", "Asia/Kolkata", "2026-06-15 10:29:59", "2026-06-15 10:30"),
        ("month", "UTC", "2024-02-29 23:59:59", "2024-03-01 00:00"),
        ("month", "America/New_York", "2026-12-01 04:59:59", "2026-12-01 05:00"),
    ],
)
def test_a_limit_opens_again_at_the_instant_at_which_its_window_begins(
    window: str, zone: str, last: str, first: str, kind: str, clock: Clock, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            limits = {"per_user_max_requests": 1, "window": window, "time_zone": zone}
            agent = spender(Provider(), limits, runtime=runtime)
            clock.set(last)
            assert [await ask(agent), await ask(agent)] == ["completed", STOPPED]
            clock.set(first)
            assert [await ask(agent), await ask(agent)] == ["completed", STOPPED]

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_was_reserved_before_midnight_is_settled_before_midnight(
    kind: str, clock: Clock, tmp_path: Path
) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            gate = asyncio.Event()
            model = Provider(gate=gate)
            agent = spender(model, {"per_user_max_tokens": 9_000, "window": "day"}, runtime=runtime)
            clock.set("2026-06-15 23:59:59")
            task = asyncio.create_task(agent.run("Hi", **ALICE))
            await until(lambda: bool(model.seen))
            clock.set("2026-06-16 00:00:01")
            gate.set()
            assert (await task).status == "completed"
            assert await by_window(runtime) == {"06-15 00:00": (60, 0)}
            await ask(agent)
            assert await by_window(runtime) == {"06-15 00:00": (60, 0), "06-16 00:00": (60, 0)}

    go(law())


def test_a_run_over_midnight_draws_on_the_day_in_which_each_call_is_made(clock: Clock) -> None:
    async def law() -> None:
        @tool(effect="read")
        async def sleep() -> str:
            clock.set("2026-06-16 00:00:01")
            return "slept"

        runtime = InMemoryRuntime()
        limits = {"per_user_max_requests": 1, "window": "day"}
        agent = spender(Provider(ToolCall("sleep")), limits, runtime=runtime, tools=[sleep])
        clock.set("2026-06-15 23:59")
        assert await ask(agent) == "completed"
        assert await by_window(runtime) == {"06-15 00:00": (1, 0), "06-16 00:00": (1, 0)}

    go(law())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_clock_that_is_set_back_gains_nothing(kind: str, clock: Clock, tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            agent = spender(Provider(), {"per_user_max_requests": 1, "window": "day"}, runtime=runtime)
            for day, expected in (
                ("2026-06-15", "completed"),
                ("2026-06-16", "completed"),
                ("2026-06-15", STOPPED),
                ("2026-06-16", STOPPED),
            ):
                clock.set(f"{day} 12:00")
                assert await ask(agent) == expected
                clock.move(seconds=-3_600)
                assert await ask(agent) == STOPPED

    go(law())


def test_a_clock_that_is_set_back_in_a_call_changes_nothing_of_it(clock: Clock) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        gate = asyncio.Event()
        model = Provider(gate=gate)
        agent = spender(model, {"per_user_max_tokens": 9_000, "window": "day"}, runtime=runtime)
        task = asyncio.create_task(agent.run("Hi", **ALICE))
        await until(lambda: bool(model.seen))
        clock.set("2026-06-10 12:00")
        gate.set()
        await task
        assert await by_window(runtime) == {"06-15 00:00": (60, 0)}

    go(law())


def test_who_waits_while_a_window_begins_draws_on_the_new_one(clock: Clock) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        gate = asyncio.Event()
        model = Provider(gate=gate)
        agent = spender(model, {"per_user_max_tokens": 4_000, "window": "day"}, runtime=runtime)
        first = asyncio.create_task(agent.run("Hi", **ALICE))
        await until(lambda: len(model.seen) == 1)
        second = asyncio.create_task(agent.run("Hi", **ALICE))
        await asyncio.sleep(0.01)
        assert len(model.seen) == 1
        clock.set("2026-06-16 00:00")
        await until(lambda: len(model.seen) == 2)
        gate.set()
        assert [(await task).status for task in (first, second)] == ["completed"] * 2
        assert await by_window(runtime) == {"06-15 00:00": (60, 0), "06-16 00:00": (60, 0)}

    go(law())


def test_an_override_outlives_its_window(clock: Clock) -> None:
    async def law() -> None:
        runtime = InMemoryRuntime()
        agent = spender(Provider(), {"per_user_max_requests": 1, "window": "day"}, runtime=runtime)
        ledger: Any = runtime.store.ledger
        await ledger.set_cap(TESTS, account("user", "acme", "alice"), "requests", "day", 2, "ann", "why not")
        for day in ("2026-06-15", "2026-06-16"):
            clock.set(day)
            assert [await ask(agent) for _ in range(3)] == ["completed", "completed", STOPPED]

    go(law())


def test_a_warning_is_due_in_each_window(clock: Clock) -> None:
    async def law() -> None:
        limits = {"per_user_max_requests": 1, "window": "day"}
        agent = spender(Provider(), limits, runtime=InMemoryRuntime())
        for i, day in enumerate(("2026-06-15", "2026-06-15", "2026-06-16")):
            clock.set(day)
            await agent.run("Hi", run_id=f"r{i}", **ALICE)
        found = [len(of_kind(await journal(agent, f"r{i}"), "BudgetWarned")) for i in range(3)]
        assert found == [1, 0, 1]

    go(law())


def test_lines_that_are_made_once_and_kept_for_ever_are_noticed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A window that is chosen once for a process is the mutant."""
    chosen: dict[Any, Any] = {}
    window_of = accounts.window_of
    monkeypatch.setattr(accounts, "window_of", lambda *which: chosen.setdefault(which[:2], window_of(*which)))
    with pytest.raises(AssertionError):
        test_a_limit_opens_again_at_the_instant_at_which_its_window_begins(
            "day", "UTC", "2026-06-15 23:59:59", "2026-06-16 00:00", "memory", clock, tmp_path
        )


# a run's own time


def of_events(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which events are dated."""
    clock = Clock()
    for module in (begin, live):
        monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=clock.time_ns, monotonic=time.monotonic))
    return clock


@pytest.mark.parametrize(
    ("driven", "parked", "ends"),
    [(20, 3_600, None), (31, 0, "budget:max_wall_clock"), (29, 86_400, None)],
)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_runs_time_counts_while_it_is_driven_and_not_while_it_is_parked(
    driven: float, parked: float, ends: str | None, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = of_events(monkeypatch)

    @tool(effect="once")
    async def pay() -> str:
        clock.move(seconds=driven)
        raise RuntimeError("the line went dead")

    async def law() -> None:
        async with runtime_of(kind, tmp_path) as runtime:
            model = Provider(ToolCall("pay"), "Paid.")
            agent = spender(model, {"max_wall_clock": 30}, tools=[pay], runtime=runtime)
            paused = await agent.run("Pay", run_id="r", **ALICE)
            assert paused.status == "paused"
            clock.move(seconds=parked)
            settle = {paused.pending[0].call_id: Happened("paid")}
            result = await agent.resume("r", tenant_id="acme", settle=settle)
            assert result.stop_reason == ends
            assert len(model.seen) == (2 if ends is None else 1)

    go(law())


def test_the_time_of_several_sittings_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = of_events(monkeypatch)

    @tool(effect="once")
    async def pay() -> str:
        clock.move(seconds=11)
        raise RuntimeError("the line went dead")

    async def law() -> None:
        agent = spender(Provider(*[ToolCall("pay")] * 9), {"max_wall_clock": 30}, tools=[pay])
        result = await agent.run("Pay", run_id="r", **ALICE)
        sittings = 1
        while result.status == "paused":
            clock.move(seconds=1_000)
            settle = {result.pending[0].call_id: Happened("paid")}
            result = await agent.resume("r", tenant_id="acme", settle=settle)
            sittings += 1
        assert (result.stop_reason, sittings) == ("budget:max_wall_clock", 4)

    go(law())
