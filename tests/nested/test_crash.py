"""A process that dies at any write, of whichever run, loses nothing of nested runs and makes no effect twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from shipworthy import Approve, DidNotHappen, Happened, Inbox, parallel, tool
from shipworthy.domain.events import ModelRequested, RunEnded, RunStarted
from shipworthy.rules.state import replay
from tests.nested.world import (
    HERE,
    Crash,
    Make,
    Mortal,
    Point,
    PointedStore,
    R,
    Sink,
    World,
    asks,
    boss_of,
    calls,
    cashier_of,
    child_of,
    clerk_of,
    deep,
    go,
    scripted,
    valid,
    whole,
)

MARIA = Approve(by="maria")


def grouped(sink: Sink) -> Make:
    """boss asks two cashiers at once, and pays itself afterwards."""

    def make(runtime: Any) -> Any:
        one, two = (
            scripted(name, calls("pay", amount=amount), "Paid.", tools=[sink.pay()])
            for name, amount in (("one", 1), ("two", 2))
        )
        tools = [parallel(one, two, name="both"), sink.pay()]
        turns = [asks("both"), calls("pay", amount=3), "All done."]
        return scripted("boss", *turns, tools=tools, runtime=runtime)

    return make


async def until_it_ends(world: World, make: Make, sink: Sink, answer: Any = None) -> Any:
    """Resume, in a new process each time, and settle by what really happened, until the run has ended."""
    for _ in range(8):
        async with world.agent(make) as boss:
            result = await boss.resume("r", tenant_id="acme")
            if result.status != "paused":
                return result
            settle, answers = {}, {}
            for waits in result.pending:
                if waits.kind == "in_doubt":
                    happened = json.loads(waits.arguments)["amount"] in sink.paid
                    settle[waits.address] = Happened("found") if happened else DidNotHappen()
                else:
                    answers[waits.address] = answer
            if answers:
                with contextlib.suppress(Exception):
                    await boss.resume("r", tenant_id="acme", answer=answers)
            if settle:
                await boss.resume("r", tenant_id="acme", settle=settle)
    raise AssertionError("it does not end")


async def points_of(make: Any) -> list[Point]:
    """Every write that there is to die at."""
    world, mortal = World(), Mortal()
    runtime = world.process()
    mortal.watch(runtime)
    await make(runtime).run("Go", **R)
    return [p for p in mortal.reached if p.kind != "release"]


async def died_at(world: World, make: Make, point: Point) -> bool:
    runtime, mortal = world.process(), Mortal(point)
    mortal.watch(runtime)
    try:
        await make(runtime).run("Go", **R)
    except Crash:
        pass
    finally:
        assert isinstance(runtime.store, PointedStore)
        runtime.store = runtime.store._store
        await world.end()
    return mortal.dead


@pytest.mark.parametrize("kind", ["deep", "grouped"])
def test_a_process_that_dies_at_any_write_neither_loses_nor_repeats_what_nested_runs_did(kind: str) -> None:
    async def law() -> None:
        make_of, paid = {"deep": (deep, [50]), "grouped": (grouped, [1, 2, 3])}[kind]
        points = await points_of(make_of(Sink()))
        assert len(points) > 20
        for point in points:
            sink, world = Sink(), World()
            make = make_of(sink)
            if not await died_at(world, make, point) or not await is_there(world, make):
                continue
            result = await until_it_ends(world, make, sink)
            assert (result.output, sorted(sink.paid)) == ("All done.", paid), point
            assert valid(result.messages)
            async with world.agent(make) as boss:
                journals = await whole(boss)
                assert len(journals) == 3, point
                for events in journals.values():
                    assert isinstance(events[-1], RunEnded)
                    assert events[-1].status == "completed"
                    assert valid(replay(events).messages)

    go(law())


async def is_there(world: World, make: Make) -> bool:
    async with world.agent(make) as boss:
        with contextlib.suppress(Exception):
            return bool(await boss.runtime.store.read(HERE, "r"))
    return False


def test_a_yes_outlives_a_crash_at_any_write_after_it_and_is_used_once() -> None:
    async def law() -> None:
        def make_of(sink: Sink) -> Make:
            def make(runtime: Any) -> Any:
                clerk = clerk_of(cashier_of(sink, requires_approval=True))
                return boss_of(clerk, runtime=runtime, approval_handler=Inbox())

            return make

        async def answered(sink: Sink, point: Point | None) -> tuple[World, Mortal]:
            world = World()
            async with world.agent(make_of(sink)) as boss:
                await boss.run("Go", **R)
            runtime, mortal = world.process(), Mortal(point)
            mortal.watch(runtime)
            with contextlib.suppress(Crash):
                await make_of(sink)(runtime).resume("r", tenant_id="acme", answer=MARIA)
            await world.end()
            return world, mortal

        _, calm = await answered(Sink(), None)
        points = [p for p in calm.reached if p.kind != "release"]
        assert len(points) > 15
        for point in points:
            sink = Sink()
            world, _ = await answered(sink, point)
            result = await until_it_ends(world, make_of(sink), sink, MARIA)
            assert (result.output, sink.paid) == ("All done.", [50]), point

    go(law())


def test_what_an_agent_leaves_that_is_closed_is_gone_on_with_elsewhere(world: World) -> None:
    """An abandoned run abandons those that are nested in it: none is cancelled, and no model is asked anew."""

    async def law() -> None:
        gate = [True]

        @tool(effect="idempotent", timeout=60)
        async def wait() -> str:
            if gate:
                gate.clear()
                await asyncio.sleep(30)
            return "done"

        def make(runtime: Any) -> Any:
            child = scripted("child", calls("wait"), "Waited.", tools=[wait])
            clerk = scripted("clerk", asks("child"), "Seen to.", tools=[child.as_tool()])
            return boss_of(clerk, runtime=runtime)

        async with world.agent(make) as boss:
            async with boss:
                async with boss.stream("Go", **R) as stream:
                    stream.detach()
                while gate:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await boss.runtime.open()
            ends = [e for events in (await whole(boss)).values() for e in events if isinstance(e, RunEnded)]
            assert ends == []
        async with world.agent(make) as boss:
            (result,) = await boss.recover()
            assert (result.run_id, result.output) == ("r", "All done.")
            for events in (await whole(boss)).values():
                assert len([e for e in events if isinstance(e, ModelRequested)]) == 2

    go(law())


def test_two_calls_of_one_agent_are_two_runs(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            clerk = scripted(
                "clerk",
                lambda request: calls("pay", amount=len(request.messages[0].text)),
                "Paid.",
                tools=[sink.pay()],
            )
            turns = [[asks("clerk", "1"), asks("clerk", "22")], asks("clerk", "333"), "All done."]
            return scripted("boss", *turns, tools=[clerk.as_tool()], runtime=runtime)

        async with world.agent(make) as boss:
            assert (await boss.run("Go", **R)).output == "All done."
            assert sorted(sink.paid) == [1, 2, 3]
            ids = [
                (await boss.runtime.store.find(HERE, await child_of(boss, nth=n))).run_id for n in range(3)
            ]
            assert len(set(ids)) == 3
            assert all([isinstance(events[0], RunStarted) for events in (await whole(boss)).values()])

    go(law())
