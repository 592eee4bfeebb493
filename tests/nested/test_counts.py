"""How often a tool is allowed is counted over a whole tree of runs: nested agents are no way round a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shipworthy import Approve, Inbox, PolicyDocument, Statement, parallel, tool
from shipworthy.engine import counting
from shipworthy.rules.state import replay
from shipworthy.rules.tallies import sums
from tests.engine.world import LIMIT, too_long
from tests.nested.test_crash import died_at, is_there, points_of, until_it_ends
from tests.nested.world import Make, R, Sink, World, act, asks, calls, go, journal, scripted


def at_most(count: int, *more: Statement) -> PolicyDocument:
    """Everything is allowed, and payments this often."""
    often = {"allowed.pay": {">=": count}}
    limit = Statement(effect="deny", actions=["tool:pay"], conditions=often, id="limit")
    return PolicyDocument([Statement(effect="allow", actions=["*"], id="all"), limit, *more])


def pays(*amounts: int) -> list[Any]:
    """One answer that pays these."""
    return [calls("pay", amount=amount) for amount in amounts]


def cashier(sink: Sink, *amounts: int, name: str = "cashier", **options: Any) -> Any:
    """Pays these in one answer, and one more in the next."""
    return scripted(name, pays(*amounts), calls("pay", amount=99), "Paid.", tools=[sink.pay()], **options)


def tree(sink: Sink, policy: PolicyDocument, turns: Sequence[Any] = ("All done.",), **options: Any) -> Make:
    """boss asks clerk, clerk asks cashier, who pays 1 and 99; then boss goes on by *turns*."""

    def make(runtime: Any) -> Any:
        clerk = scripted("clerk", asks("cashier"), "Seen to.", tools=[cashier(sink, 1).as_tool()])
        given = {"runtime": runtime, "permissions": policy, **options}
        return scripted("boss", asks("clerk"), *turns, tools=[clerk.as_tool(), sink.pay()], **given)

    return make


async def counts_of(agent: Any) -> dict[str, int]:
    """What the outermost journal alone has."""
    return sums(replay(await journal(agent, "r")))[0]


def test_two_deep_it_sees_what_the_outermost_run_was_allowed_and_back(world: World, how: str) -> None:
    async def law() -> None:
        for limit, paid in ((1, [7]), (2, [7, 1]), (3, [7, 1, 99]), (4, [7, 1, 99, 8])):
            sink = Sink()

            def make(runtime: Any, sink: Sink = sink, limit: int = limit) -> Any:
                clerk = scripted("clerk", asks("cashier"), "Seen to.", tools=[cashier(sink, 1).as_tool()])
                turns = [calls("pay", amount=7), asks("clerk"), calls("pay", amount=8), "All done."]
                given = {"runtime": runtime, "permissions": at_most(limit)}
                return scripted("boss", *turns, tools=[clerk.as_tool(), sink.pay()], **given)

            async with world.agent(make) as boss:
                result = await act(boss, how, run_id=f"r{limit}")
                assert (result.output, sink.paid) == ("All done.", paid)

    go(law())


def test_two_runs_of_one_agent_count_together(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            inner = scripted("inner", *[pays(1, 2), "Paid."] * 3, tools=[sink.pay()])
            turns = [[asks("inner", "a"), asks("inner", "b")], asks("inner", "c"), "All done."]
            return scripted("boss", *turns, tools=[inner.as_tool()], runtime=runtime, permissions=at_most(3))

        async with world.agent(make) as boss:
            assert (await act(boss, "run")).output == "All done."
            assert (len(sink.paid), (await counts_of(boss))["pay"]) == (3, 3)

    go(law())


def grouped(sink: Sink, policy: PolicyDocument, **options: Any) -> Make:
    """boss asks three cashiers at once, and pays itself afterwards."""

    def make(runtime: Any) -> Any:
        three = [cashier(sink, n, name=f"c{n}", **options) for n in (1, 2, 3)]
        tools = [parallel(*three, name="all"), sink.pay()]
        turns = [asks("all"), calls("pay", amount=4), "All done."]
        return scripted("boss", *turns, tools=tools, runtime=runtime, permissions=policy)

    return make


def test_those_that_run_at_once_see_each_other(world: World) -> None:
    async def law() -> None:
        for limit in (1, 2, 5):
            sink = Sink()
            async with world.agent(grouped(sink, at_most(limit))) as boss:
                result = await act(boss, "run", run_id=f"r{limit}")
                assert (result.output, len(sink.paid)) == ("All done.", limit)

    go(law())


def test_also_where_all_are_judged_at_the_same_moment() -> None:
    """A hook waits between what is counted and what is decided: each is judged anew if others came first."""

    async def law() -> None:
        sink, world = Sink(), World()
        make = grouped(sink, at_most(1))

        def slow(runtime: Any) -> Any:
            boss = make(runtime)

            @boss.before_tool
            async def look(ctx: Any, action: Any) -> None:
                await asyncio.sleep(0.01)

            return boss

        async with world.agent(slow) as boss:
            assert (await boss.run("Go", **R)).output == "All done."
            assert len(sink.paid) == 1

    go(law())


def asked(sink: Sink, limit: int) -> Make:
    """Of everybody's payments a person approves."""
    ask = Statement(effect="ask", actions=["tool:pay"], id="ask")
    turns = [calls("pay", amount=5), "All done."]
    return lambda runtime: tree(sink, at_most(limit, ask), turns, approval_handler=Inbox())(runtime)


@pytest.mark.parametrize(("limit", "paid"), [(1, [1]), (2, [1, 99]), (3, [1, 99, 5])])
def test_after_pauses_in_other_processes_each_call_counts_once(
    world: World, limit: int, paid: list[int]
) -> None:
    async def law() -> None:
        sink = Sink()
        make = asked(sink, limit)
        async with world.agent(make) as boss:
            result = await boss.run("Go", **R)
        while result.status == "paused":
            async with world.agent(make) as boss:  # nobody answered: it is judged once more
                result = await boss.resume("r", tenant_id="acme")
                assert (await counts_of(boss)).get("pay", 0) == len(sink.paid)
            async with world.agent(make) as boss:
                answers = {call.address: Approve(by="maria") for call in result.pending}
                result = await boss.resume("r", tenant_id="acme", answer=answers)
        assert (result.output, sink.paid) == ("All done.", paid)
        async with world.agent(make) as boss:
            assert await counts_of(boss) == {"clerk": 1, "cashier": 1, "pay": len(paid)}

    go(law())


def test_while_one_of_a_group_waits_what_the_others_did_counts_in_another_process(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            waits = scripted(
                "waits", calls("ask"), calls("pay", amount=2), "Paid.", tools=[ask_of(), sink.pay()]
            )
            one = scripted("one", calls("pay", amount=1), "Paid.", tools=[sink.pay()])
            tools = [parallel(one, waits, name="both"), sink.pay()]
            turns = [asks("both"), calls("pay", amount=3), "All done."]
            given = {"runtime": runtime, "permissions": at_most(1), "approval_handler": Inbox()}
            return scripted("boss", *turns, tools=tools, **given)

        async with world.agent(make) as boss:
            paused = await boss.run("Go", **R)
            assert (paused.status, sink.paid) == ("paused", [1])
        async with world.agent(make) as boss:
            result = await boss.resume("r", tenant_id="acme", answer=Approve(by="maria"))
            assert (result.output, sink.paid) == ("All done.", [1])
            assert (await counts_of(boss))["pay"] == 1

    go(law())


def ask_of() -> Any:
    @tool(effect="read", name="ask", requires_approval=True)
    async def ask() -> str:
        return "asked"

    return ask


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_after_a_crash_at_any_write_the_limit_is_the_same(limit: int) -> None:
    async def law() -> None:
        def make_of(sink: Sink) -> Make:
            return tree(sink, at_most(limit), [calls("pay", amount=5), "All done."])

        points = await points_of(make_of(Sink()))
        assert len(points) > 10
        for point in points:
            sink, world = Sink(), World()
            make = make_of(sink)
            if not await died_at(world, make, point) or not await is_there(world, make):
                continue
            result = await until_it_ends(world, make, sink)
            assert (result.output, sink.paid) == ("All done.", [1, 99, 5][:limit]), point
            async with world.agent(make) as boss:
                assert (await counts_of(boss))["pay"] == limit, point

    go(law())


def test_an_agent_that_runs_out_of_time_leaves_what_it_was_allowed(world: World) -> None:
    """Its own nested run was under way, and its call had no result."""

    async def law() -> None:
        sink = Sink()

        @tool(effect="read", timeout=60)
        async def wait() -> str:
            await too_long()
            return "done"

        def make(runtime: Any) -> Any:
            inner = scripted("inner", calls("pay", amount=1), calls("wait"), "-", tools=[sink.pay(), wait])
            clerk = scripted("clerk", asks("inner"), "Seen to.", tools=[inner.as_tool()])
            turns = [asks("clerk"), calls("pay", amount=2), "All done."]
            tools = [clerk.as_tool(timeout=LIMIT), sink.pay()]
            return scripted("boss", *turns, tools=tools, runtime=runtime, permissions=at_most(1))

        async with world.agent(make) as boss:
            assert ((await boss.run("Go", **R)).output, sink.paid) == ("All done.", [1])

    go(law())


def test_results_count_as_widely(world: World) -> None:
    """Who has to look before they pay may have others look."""

    async def law() -> None:
        sink = Sink()
        looked = {"returned.look": {">=": 1}}
        policy = PolicyDocument(
            [
                Statement(effect="allow", actions=["agent:*", "tool:look"]),
                Statement(effect="allow", actions=["tool:pay"], conditions=looked),
            ]
        )

        @tool(effect="read")
        async def look() -> str:
            return "seen"

        def make(runtime: Any) -> Any:
            looker = scripted("looker", calls("look"), "Looked.", tools=[look])
            payer = scripted("payer", calls("pay", amount=2), "Paid.", tools=[sink.pay()])
            turns = [
                calls("pay", amount=1),
                asks("looker"),
                asks("payer"),
                calls("pay", amount=3),
                "All done.",
            ]
            tools = [looker.as_tool(), payer.as_tool(), sink.pay()]
            return scripted("boss", *turns, tools=tools, runtime=runtime, permissions=policy)

        async with world.agent(make) as boss:
            assert ((await boss.run("Go", **R)).output, sink.paid) == ("All done.", [2, 3])
            assert sums(replay(await journal(boss, "r")))[1] == {"look": 1, "looker": 1, "payer": 1, "pay": 2}

    go(law())


def each_for_itself(patch: pytest.MonkeyPatch) -> None:
    """A run counts its own calls."""
    patch.setattr(counting, "_counted", lambda run: (dict(run.state.allowed), dict(run.state.returned)))


def forgotten_when_over(patch: pytest.MonkeyPatch) -> None:
    """What nested runs came to is not in the journal of their parent."""
    from shipworthy.engine import delegating
    from shipworthy.rules.spending import spent, together

    def used(sittings: Any) -> Any:
        return together([spent(each.child.state) for each in sittings if each.child is not None])

    patch.setattr(delegating, "_used", used)


def judged_as_shown(patch: pytest.MonkeyPatch) -> None:
    """What others were allowed meanwhile is not looked at."""
    from shipworthy.engine import gate

    patch.setattr(gate, "is_current", lambda run: True)


def counted_twice(patch: pytest.MonkeyPatch) -> None:
    """A nested run that goes on counts beside what was known of it."""
    patch.setattr(counting, "take", lambda counts, less: None)


CAUGHT: list[tuple[Any, Any]] = [
    (
        each_for_itself,
        lambda: test_two_deep_it_sees_what_the_outermost_run_was_allowed_and_back(World(), "run"),
    ),
    (
        forgotten_when_over,
        lambda: test_after_pauses_in_other_processes_each_call_counts_once(World(), 2, [1, 99]),
    ),
    (judged_as_shown, test_also_where_all_are_judged_at_the_same_moment),
    (
        counted_twice,
        lambda: test_after_pauses_in_other_processes_each_call_counts_once(World(), 2, [1, 99]),
    ),
]


@pytest.mark.parametrize(("plant", "law"), CAUGHT, ids=[plant.__name__ for plant, _ in CAUGHT])
def test_a_broken_count_is_caught(plant: Any, law: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        law()
