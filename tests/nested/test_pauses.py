"""Where a nested run waits for somebody, so does the outermost one; what they answer reaches it, once, anywhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Deny,
    DidNotHappen,
    Happened,
    Inbox,
    ScriptedModel,
    StandardPermissions,
    ToolCall,
    ask_human,
    is_paused,
    parallel,
    tool,
)
from shipworthy.domain.events import (
    AgentPaused,
    ApprovalGranted,
    HumanAnswered,
    ModelRequested,
    RunParked,
    RunResumed,
    ToolAttempted,
    ToolReturned,
)
from shipworthy.errors import AnswerRefused, MissingTool, RunConflict, SettlementRefused
from tests.nested.world import (
    ALICE,
    HERE,
    Make,
    R,
    Sink,
    World,
    act,
    asks,
    boss_of,
    calls,
    cashier_of,
    child_of,
    clerk_of,
    go,
    journal,
    scripted,
    told,
    valid,
    whole,
)

MARIA = Approve(by="maria")


def paid_by_approval(sink: Sink, **options: Any) -> Make:
    """boss asks clerk, clerk asks cashier, whose payments a person has to approve."""

    def make(runtime: Any) -> Any:
        given = {"approval_handler": Inbox(), **options}
        return boss_of(clerk_of(cashier_of(sink, requires_approval=True)), runtime=runtime, **given)

    return make


def test_an_approval_two_deep_is_asked_for_at_its_address_and_used_once(world: World, how: str) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            paused = await act(boss, how)
            assert (is_paused(paused), sink.paid) == (True, [])
            (waits,) = paused.pending
            assert (waits.tool, waits.agents, waits.kind) == ("pay", ("boss", "clerk", "cashier"), "approval")
            assert waits.address.count("/") == 2
            assert waits.address.endswith(waits.call_id)
        async with world.agent(make) as boss:
            result = await boss.resume(json.loads(json.dumps(paused.checkpoint)), answer=MARIA)
            assert (result.output, told(result), sink.paid) == ("All done.", "Seen to.", [50])
            with pytest.raises(AnswerRefused):
                await boss.resume("r", tenant_id="acme", answer=MARIA)
            journals = await whole(boss)
            grants = [e for events in journals.values() for e in events if isinstance(e, ApprovalGranted)]
            assert [len(events) > 0 for events in journals.values()] == [True] * 3
            assert len({grant.id for grant in grants}) == 1
            assert len(grants) == 3
            attempts = [e for e in list(journals.values())[-1] if isinstance(e, ToolAttempted)]
            assert len(attempts) == 1
            assert valid(result.messages)

    go(law())


def test_nothing_is_asked_of_models_again_while_people_are_waited_for(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            await boss.run("Go", **R)
        for _ in range(3):
            async with world.agent(make) as boss:
                assert is_paused(await boss.resume("r", tenant_id="acme"))
        async with world.agent(make) as boss:
            assert (await boss.resume("r", tenant_id="acme", answer=MARIA)).output == "All done."
            for events in (await whole(boss)).values():
                assert len([e for e in events if isinstance(e, ModelRequested)]) == 2
        assert sink.paid == [50]

    go(law())


def test_an_inbox_is_told_once_and_its_answer_reaches_the_nested_run(world: World) -> None:
    async def law() -> None:
        sink, seen = Sink(), []
        inboxes: list[Inbox] = []

        def make(runtime: Any) -> Any:
            inboxes.append(Inbox(notify=lambda requests: seen.extend(requests), runtime=runtime))
            return paid_by_approval(sink, approval_handler=inboxes[-1])(runtime)

        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            await boss.resume("r", tenant_id="acme")
            assert [(each.run_id, each.tool, each.agents) for each in seen] == [
                ("r", "pay", ("boss", "clerk", "cashier"))
            ]
        async with world.agent(make) as boss:
            (request,) = await inboxes[-1].requests("acme")
            assert request.arguments == {"amount": 50}
            assert request.seen[0].text == "Do it"
            await inboxes[-1].approve(request, MARIA)
            assert (await boss.resume("r", tenant_id="acme")).output == "All done."
        assert sink.paid == [50]

    go(law())


def test_a_no_reaches_the_nested_run_too(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            result = await boss.resume("r", tenant_id="acme", answer=Deny(by="maria", reason="too much"))
            assert (result.output, sink.paid) == ("All done.", [])
            (denied,) = [e for e in list((await whole(boss)).values())[-1] if isinstance(e, ToolReturned)]
            assert (denied.outcome, denied.reason) == ("denied", "too much")

    go(law())


@pytest.mark.parametrize("amount", [60, 10_000])
def test_arguments_that_an_approver_changed_are_those_that_a_nested_call_is_made_with(
    world: World, amount: int
) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            answer = Approve(by="maria", arguments={"amount": amount})
            result = await boss.resume("r", tenant_id="acme", answer=answer)
            assert (result.status, sink.paid) == ("completed", [amount])

    go(law())


def test_a_handler_of_the_outermost_agent_is_asked_at_once() -> None:
    asked: list[Any] = []

    async def handler(request: Any) -> Approve:
        asked.append((request.tool, request.agents, request.run_id))
        return MARIA

    result = go(paid_by_approval(sink := Sink(), approval_handler=handler)(None).run("Go", **R))
    assert (result.output, sink.paid) == ("All done.", [50])
    assert asked == [("pay", ("boss", "clerk", "cashier"), "r")]


def asking(runtime: Any, **options: Any) -> Any:
    @tool(effect="once")
    async def quiz() -> str:
        return (
            f"colour: {ask_human('Which colour?', schema=str, **options)}, {ask_human('Sure?', schema=bool)}"
        )

    child = scripted("child", ToolCall("quiz"), "Asked.", tools=[quiz])
    clerk = scripted("clerk", asks("child"), "Done.", tools=[child.as_tool()])
    return scripted("boss", asks("clerk"), "All done.", tools=[clerk.as_tool()], runtime=runtime)


def test_a_nested_body_asks_people_and_gets_each_answer_once(world: World, how: str) -> None:
    async def law() -> None:
        async with world.agent(asking) as boss:
            paused = await act(boss, how)
            assert paused.pending[0].data == {"question": "Which colour?"}
        async with world.agent(asking) as boss:
            with pytest.raises(AnswerRefused):
                await boss.resume("r", tenant_id="acme", answer=7)
            again = await boss.resume("r", tenant_id="acme", answer="blue" * 2000)
            assert again.pending[0].data == {"question": "Sure?"}
        async with world.agent(asking) as boss:
            assert is_paused(await boss.resume("r", tenant_id="acme"))
            result = await boss.resume("r", tenant_id="acme", answer=True)
            assert result.output == "All done."
            last = list((await whole(boss)).values())[-1]
            assert len([e for e in last if isinstance(e, HumanAnswered)]) == 2
            (returned,) = [e for e in last if isinstance(e, ToolReturned)]
            assert "True" in str(returned.content) or returned.whole or returned.content

    go(law())


def test_a_question_that_nobody_answers_in_time_gets_its_default_through_the_outermost_run(
    world: World,
) -> None:
    async def law() -> None:
        @tool(effect="once")
        async def quiz() -> str:
            return f"colour: {ask_human('Which?', schema=str, timeout=0.05, default='grey')}"

        def make(runtime: Any) -> Any:
            child = scripted("child", ToolCall("quiz"), lambda request: said(request), tools=[quiz])
            return scripted("boss", asks("child"), "All done.", tools=[child.as_tool()], runtime=runtime)

        async with world.agent(make) as boss:
            assert is_paused(await boss.run("Go", **R))
            summary = await boss.runtime.store.find(HERE, "r")
            assert summary.wake_at is not None
            await asyncio.sleep(0.06)
            (result,) = await boss.recover()
            assert (result.output, told(result)) == ("All done.", "colour: grey")

    go(law())


def said(request: Any) -> str:
    """The last result, as the model sees it."""
    return "".join([c.text for part in request.messages[-1].parts for c in part.content])


def doubtful(sink: Sink) -> Make:
    @tool(effect="once")
    async def pay(amount: int) -> str:
        sink.paid.append(amount)
        if len(sink.paid) == 1:
            raise ConnectionError("no answer")
        return "paid"

    def make(runtime: Any) -> Any:
        cashier = scripted("cashier", calls("pay", amount=50), said, tools=[pay])
        clerk = scripted("clerk", asks("cashier"), said, tools=[cashier.as_tool()])
        return boss_of(clerk, runtime=runtime)

    return make


@pytest.mark.parametrize(
    ("verdict", "paid", "words"), [(Happened("receipt"), 1, "receipt"), (DidNotHappen(), 2, "paid")]
)
def test_what_is_in_doubt_two_deep_is_settled_by_its_address(
    world: World, verdict: Any, paid: int, words: str
) -> None:
    async def law() -> None:
        sink = Sink()
        async with world.agent(doubtful(sink)) as boss:
            paused = await boss.run("Go", **R)
            (waits,) = paused.pending
            assert (waits.kind, waits.tool) == ("in_doubt", "pay")
        async with world.agent(doubtful(sink)) as boss:
            before = len(await journal(boss, "r"))
            for wrong in (waits.call_id, waits.address + "x", "call_1_2/" + waits.call_id):
                with pytest.raises(SettlementRefused, match=r"Calls in doubt: call_"):
                    await boss.resume("r", tenant_id="acme", settle={wrong: verdict})
            assert len(await journal(boss, "r")) == before
            result = await boss.resume("r", tenant_id="acme", settle={waits.address: verdict})
            assert (result.output, told(result), len(sink.paid)) == ("All done.", words, paid)

    go(law())


def test_a_settlement_that_cannot_be_recorded_is_refused_and_the_run_waits_on(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        async with world.agent(doubtful(sink)) as boss:
            paused = await boss.run("Go", **R)
            address = paused.pending[0].address
            with pytest.raises(SettlementRefused, match="recorded"):
                await boss.resume("r", tenant_id="acme", settle={address: Happened(object())})
            assert is_paused(again := await boss.resume("r", tenant_id="acme"))
            assert again.pending[0].address == address
            result = await boss.resume("r", tenant_id="acme", settle={address: Happened("yes")})
            assert result.output == "All done."

    go(law())


def test_a_nested_run_is_resumed_by_the_outermost_one_alone(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            nested = await child_of(boss)
            clerk = scripted("clerk", "Ha.", runtime=boss.runtime)
            for give in ({}, {"answer": MARIA}):
                with pytest.raises((RunConflict, AnswerRefused), match="'r'"):
                    await clerk.resume(nested, tenant_id="acme", **give)
            assert await clerk.recover() == []
            assert is_paused(await boss.resume("r", tenant_id="acme"))
        assert sink.paid == []

    go(law())


def test_of_a_group_the_others_finish_while_one_waits(world: World, how: str) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            quick = scripted("quick", calls("pay", amount=1), "Quick.", tools=[sink.pay()])
            slow = scripted("slow", calls("pay", amount=2), "Slow.", tools=[sink.pay(requires_approval=True)])
            also = scripted("also", calls("pay", amount=3), "Also.", tools=[sink.pay(requires_approval=True)])
            both = parallel(quick, slow, also, name="all")
            tools = [both]
            turns = [asks("all"), "All done."]
            return scripted("boss", *turns, tools=tools, runtime=runtime, approval_handler=Inbox())

        async with world.agent(make) as boss:
            paused = await act(boss, how)
            assert (len(paused.pending), sink.paid) == (2, [1])
        async with world.agent(make) as boss:
            first, second = [each.address for each in paused.pending]
            half = await boss.resume("r", tenant_id="acme", answer={first: MARIA})
            assert (is_paused(half), [each.address for each in half.pending]) == (True, [second])
            assert sink.paid == [1, 2]
        async with world.agent(make) as boss:
            result = await boss.resume("r", tenant_id="acme", answer=Deny(by="maria"))
            assert (result.output, sink.paid) == ("All done.", [1, 2])
            assert json.loads(told(result)) == {"quick": "Quick.", "slow": "Slow.", "also": "Also."}
            for events in (await whole(boss)).values():
                granted = [e for e in events if isinstance(e, ApprovalGranted)]
                assert len({e.id for e in granted}) == len(granted)

    go(law())


def test_a_tool_that_is_gone_pauses_the_run_until_it_is_back(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)

        def without(runtime: Any) -> Any:
            cashier = scripted("cashier", calls("pay", amount=50), "Paid.")
            return boss_of(clerk_of(cashier), runtime=runtime, approval_handler=Inbox())

        async with world.agent(make) as boss:
            await boss.run("Go", **R)
        async with world.agent(without) as boss:
            with pytest.raises(MissingTool, match="pay"):
                await boss.resume("r", tenant_id="acme", answer=MARIA)
            parked = (await journal(boss, "r"))[-1]
            assert isinstance(parked, RunParked)
            assert parked.reason == "agent"
        async with world.agent(make) as boss:
            assert (await boss.resume("r", tenant_id="acme")).output == "All done."
        assert sink.paid == [50]

    go(law())


def test_an_agent_that_is_not_the_one_in_its_place_does_not_go_on_for_it(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(*names: str) -> Make:
            def made(runtime: Any) -> Any:
                group = [
                    scripted(name, calls("pay", amount=5), "Paid.", tools=[sink.pay(requires_approval=True)])
                    for name in names
                ]
                both = parallel(*group, name="both")
                turns = [asks("both"), "All done."]
                return scripted("boss", *turns, tools=[both], runtime=runtime, approval_handler=Inbox())

            return made

        async with world.agent(make("one", "two")) as boss:
            await boss.run("Go", **R)
        async with world.agent(make("two", "one")) as boss:
            with pytest.raises(MissingTool, match="same place"):
                await boss.resume("r", tenant_id="acme")
        async with world.agent(make("one", "two")) as boss:
            assert len((await boss.resume("r", tenant_id="acme")).pending) == 2
        assert sink.paid == []

    go(law())


def test_a_paused_call_that_is_denied_now_ends_its_nested_runs(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)

        def stricter(runtime: Any) -> Any:
            return paid_by_approval(sink, permissions=StandardPermissions(denied_tools=["clerk"]))(runtime)

        async with world.agent(make) as boss:
            await boss.run("Go", **R)
        async with world.agent(stricter) as boss:
            result = await boss.resume("r", tenant_id="acme", answer=MARIA)
            assert (result.output, sink.paid, "Denied" in told(result)) == ("All done.", [], True)
            ends = [events[-1].status for events in (await whole(boss)).values()]  # type: ignore[union-attr]
            assert ends == ["completed", "cancelled", "cancelled"]

    go(law())


def test_a_run_that_is_cancelled_while_it_waits_ends_its_nested_runs(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            await boss.run("Go", **R)
        async with world.agent(make) as boss:
            await boss.cancel("r", tenant_id="acme")
            ends = [events[-1].status for events in (await whole(boss)).values()]  # type: ignore[union-attr]
            assert ends == ["cancelled"] * 3
            assert sink.paid == []

    go(law())


def test_what_waits_of_a_nested_run_is_not_due_by_itself(world: World) -> None:
    async def law() -> None:
        def make(runtime: Any) -> Any:
            return asking(runtime, timeout=0.01, default="grey")

        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            assert (await boss.runtime.store.find(HERE, "r")).wake_at is not None
            assert (await boss.runtime.store.find(HERE, await child_of(boss))).wake_at is None

    go(law())


def test_each_pause_and_sitting_is_in_the_journals_of_all_that_wait(world: World) -> None:
    async def law() -> None:
        sink = Sink()
        make = paid_by_approval(sink)
        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            await boss.resume("r", tenant_id="acme", answer=MARIA)
            journals = list((await whole(boss)).values())
            for events in journals:
                assert len([e for e in events if isinstance(e, RunParked)]) == 1
                assert len([e for e in events if isinstance(e, RunResumed)]) == 1
            for events in journals[:2]:
                (paused,) = [e for e in events if isinstance(e, AgentPaused)]
                assert len(paused.runs) == 1

    go(law())


def test_an_unnamed_outermost_agent_works_as_well() -> None:
    sink = Sink()
    clerk = clerk_of(cashier_of(sink))
    boss = Agent("", model=ScriptedModel([asks("clerk"), "All done."]), tools=[clerk.as_tool()])
    assert go(boss.run("Go", **ALICE)).output == "All done."
