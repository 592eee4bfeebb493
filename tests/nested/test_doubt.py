"""A nested `once` call in doubt is never lost: a run that is to end waits for whoever settles it, as for one of its
own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import (
    BudgetConfig,
    DidNotHappen,
    Happened,
    Inbox,
    Mode,
    StandardBudget,
    StandardPermissions,
    Unknown,
    parallel,
    tool,
)
from shipworthy.domain.events import RunEnded
from tests.engine.world import LIMIT, too_long
from tests.nested.world import ALICE, HERE, R, World, asks, calls, go, journal, scripted, whole

PAID = Happened("paid")


class Till:
    """A slow payment that is under way when its run is stopped."""

    def __init__(self) -> None:
        self.paid, self.begun, self.asked = 0, asyncio.Event(), 0
        self.verdict: Any = None

    def tool(self, *, fails: bool = False) -> Any:
        options = {} if self.verdict is None else {"verify": self._verify}

        @tool(effect="once", name="pay", **options)
        async def pay(amount: int) -> str:
            self.paid += 1
            self.begun.set()
            if fails:
                raise ValueError("the line broke")
            await too_long()
            return "paid"

        return pay

    async def _verify(self, ctx: Any, args: Any) -> Any:
        self.asked += 1
        return self.verdict


SHAPES = ["direct", "one deep", "two deep", "group"]


def boss(till: Till, shape: str, runtime: Any, *, fails: bool = False, **options: Any) -> Any:
    """A boss of whom somebody pays."""
    if shape == "direct":
        turns, tools = [calls("pay", amount=5), "Done."], [till.tool(fails=fails)]
        return scripted("boss", *turns, tools=tools, runtime=runtime, **options)
    made = scripted("cashier", calls("pay", amount=5), "Paid.", tools=[till.tool(fails=fails)])
    if shape == "two deep":
        made = scripted("clerk", asks("cashier"), "Seen to.", tools=[made.as_tool()])
    if shape == "group":
        tools = [parallel(made, scripted("idle", "Idle."), name="them")]
    else:
        tools = [made.as_tool(name="them")]
    return scripted("boss", asks("them"), "Done.", tools=tools, runtime=runtime, **options)


async def by_timeout(make: Any, till: Till) -> None:
    await make().run("Go", **R, timeout=LIMIT)


async def by_wall_clock(make: Any, till: Till) -> None:
    budget = StandardBudget(BudgetConfig(max_wall_clock=LIMIT))
    await make(budget=budget).run("Go", **R)


async def by_cancellation(make: Any, till: Till) -> None:
    task = asyncio.create_task(make().run("Go", **R))
    await till.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_leaving(make: Any, till: Till) -> None:
    async with asyncio.timeout(3 * LIMIT), make().stream("Go", **R):
        await till.begun.wait()


async def by_cancel(make: Any, till: Till) -> None:
    agent = make(fails=True)
    assert (await agent.run("Go", **R)).status == "paused"
    for _ in range(2):
        assert (await agent.cancel("r", tenant_id="acme")).status == "paused"


STOPS = {
    by_timeout: ("stopped", "timeout"),
    by_wall_clock: ("stopped", "budget:max_wall_clock"),
    by_cancellation: ("cancelled", "cancelled"),
    by_leaving: ("cancelled", "cancelled"),
    by_cancel: ("cancelled", "cancelled"),
}


@pytest.mark.parametrize("said", [PAID, DidNotHappen()], ids=["happened", "did not"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stop", STOPS, ids=[stop.__name__ for stop in STOPS])
def test_a_run_that_is_stopped_waits_for_what_is_in_doubt_below_and_ends_when_that_is_settled(
    world: World, stop: Any, shape: str, said: Any
) -> None:
    async def law() -> None:
        till, runtime = Till(), world.process()

        def make(**options: Any) -> Any:
            return boss(till, shape, runtime, **options)

        await stop(make, till)
        paused = await make().resume("r", tenant_id="acme")
        assert paused.status == "paused"
        [waits] = paused.pending
        assert (waits.kind, waits.tool) == ("in_doubt", "pay")
        assert waits.address.count("/") == {"direct": 0, "two deep": 2}.get(shape, 1)
        ended = await make().resume("r", tenant_id="acme", settle={waits.address: said})
        assert (ended.status, ended.stop_reason) == STOPS[stop]
        assert till.paid == 1
        for events in (await whole(make())).values():
            assert isinstance(events[-1], RunEnded)
        await world.end()

    go(law())


def test_a_stopped_run_of_which_something_below_is_in_doubt_says_so(world: World) -> None:
    async def law() -> None:
        agent = boss(Till(), "two deep", world.process())
        result = await agent.run("Go", **R, timeout=LIMIT)
        assert (result.status, result.error, len(result.pending)) == ("paused", "them", 1)
        *_, waits, parked = await journal(agent, "r")
        assert (waits.in_doubt, parked.reason, parked.wake_at) == (True, "in_doubt", None)
        await world.end()

    go(law())


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_a_call_that_is_denied_now_waits_until_what_is_in_doubt_of_it_is_settled(
    world: World, shape: str
) -> None:
    async def law() -> None:
        till, runtime = Till(), world.process()
        no = StandardPermissions(mode=Mode.BYPASS, denied_tools=["them"])
        assert (await boss(till, shape, runtime, fails=True).run("Go", **R)).status == "paused"
        denied = boss(till, shape, runtime, permissions=no)
        paused = await denied.resume("r", tenant_id="acme")
        [waits] = paused.pending
        assert (paused.status, waits.kind) == ("paused", "in_doubt")
        ended = await denied.resume("r", tenant_id="acme", settle={waits.address: DidNotHappen()})
        assert (ended.status, ended.output, till.paid) == ("completed", "Done.", 1)
        for events in (await whole(denied)).values():
            assert isinstance(events[-1], RunEnded)
        await world.end()

    go(law())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_world_is_asked_again_when_a_stopped_run_is_resumed(world: World, shape: str) -> None:
    async def law() -> None:
        till, runtime = Till(), world.process()
        till.verdict = Unknown()
        await boss(till, shape, runtime).run("Go", **R, timeout=LIMIT)
        assert (await boss(till, shape, runtime).resume("r", tenant_id="acme")).status == "paused"
        assert till.asked == 1
        till.verdict = PAID
        ended = await boss(till, shape, runtime).resume("r", tenant_id="acme")
        assert (ended.status, ended.stop_reason, till.paid) == ("stopped", "timeout", 1)
        await world.end()

    go(law())


def test_what_a_group_left_in_doubt_is_waited_for_though_the_group_itself_broke(world: World) -> None:
    async def law() -> None:
        till, runtime = Till(), world.process()

        def broken(scope: Any) -> Any:
            raise ValueError("no deps")

        payer = scripted("payer", calls("pay", amount=5), "Paid.", tools=[till.tool(fails=True)])
        group = parallel(payer, scripted("other", "Fine.", deps=broken), name="them")
        agent = scripted("boss", asks("them"), "Done.", tools=[group], runtime=runtime)
        with pytest.raises(ValueError, match="no deps"):
            await agent.run("Go", **R)
        [waits] = (await agent.cancel("r", tenant_id="acme")).pending
        ended = await agent.resume("r", tenant_id="acme", settle={waits.address: PAID})
        assert (ended.status, till.paid) == ("cancelled", 1)
        await world.end()

    go(law())


def test_without_the_tool_a_run_is_cancelled_and_what_is_in_doubt_of_it_waits_for_the_tool(
    world: World,
) -> None:
    async def law() -> None:
        till, runtime = Till(), world.process()
        await boss(till, "two deep", runtime, fails=True).run("Go", **R)
        without = scripted("boss", "Done.", runtime=runtime)
        [waits] = (await without.cancel("r", tenant_id="acme")).pending
        with pytest.raises(Exception, match="has no tool 'them'"):
            await without.resume("r", tenant_id="acme", settle={waits.address: PAID})
        ended = await boss(till, "two deep", runtime).resume(
            "r", tenant_id="acme", settle={waits.address: PAID}
        )
        assert (ended.status, till.paid) == ("cancelled", 1)
        await world.end()

    go(law())


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
def test_a_run_that_merely_has_the_id_of_a_nested_one_is_left_alone_when_its_parent_ends(
    world: World, how: str
) -> None:
    @tool(effect="read")
    async def slow() -> str:
        await asyncio.sleep(30)
        return "slow"

    @tool(effect="once", requires_approval=True)
    async def sign() -> str:
        return "signed"

    def make(runtime: Any) -> Any:
        first = scripted("one", calls("slow"), "Done.", tools=[slow])
        second = scripted("two", calls("sign"), "Done.", tools=[sign])
        waits = how == "cancelled"
        group = parallel(scripted("idle", "Idle."), second if waits else first, name="them")
        return scripted(
            "boss", asks("them"), "Done.", tools=[group], runtime=runtime, approval_handler=Inbox()
        )

    async def stopped(agent: Any) -> Any:
        if how == "stopped":
            return await agent.run("Go", **R, timeout=0.5)
        assert (await agent.run("Go", **R)).status == "paused"
        return await agent.cancel("r", tenant_id="acme")

    async def law() -> None:
        elsewhere = World()
        async with elsewhere.agent(make) as agent:
            await stopped(agent)
            taken = next(run_id for run_id in await whole(agent) if run_id.endswith(".0"))
        async with world.agent(make) as agent:
            own = scripted(
                "own", calls("sign"), "Signed.", tools=[sign], runtime=agent.runtime, approval_handler=Inbox()
            )
            await own.run("Go", **ALICE, run_id=taken)
            assert (await stopped(agent)).status == how
            assert (await agent.runtime.store.find(HERE, taken)).status == "paused"

    go(law())
