"""A hand-off gives the conversation to another agent, whose output is the run's, as far as it is a valid one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shipworthy import Agent, Approve, Inbox, ModelRetry, ScriptedModel, handoff, is_paused
from shipworthy.domain.events import OutputRejected, ToolReturned
from tests.nested.world import (
    ALICE,
    R,
    Sink,
    World,
    act,
    asks,
    calls,
    go,
    journal,
    scripted,
    told,
    valid,
)


class Bill(msgspec.Struct):
    total: int


def boss(specialist: Any, *turns: Any, **options: Any) -> Agent[Any, Any]:
    return scripted("boss", *(turns or [asks("over")]), tools=[handoff(specialist, name="over")], **options)


def test_the_output_of_the_other_agent_is_that_of_the_run(world: World, how: str) -> None:
    async def law() -> None:
        def make(runtime: Any) -> Any:
            return boss(scripted("specialist", "x" * 60_000), runtime=runtime)

        async with world.agent(make) as agent:
            result = await act(agent, how)
            assert (result.status, result.output) == ("completed", "x" * 60_000)
            assert (result.turns, result.usage.requests) == (1, 2)  # its own, and the other one's
            (returned,) = [e for e in await journal(agent, "r") if isinstance(e, ToolReturned)]
            assert returned.handed_over

    go(law())


def test_the_other_agent_sees_the_conversation_so_far(world: World) -> None:
    async def law() -> None:
        seen: list[Any] = []

        def answer(request: Any) -> str:
            seen.extend(request.messages)
            return "Yours now."

        def make(runtime: Any) -> Any:
            specialist = scripted("specialist", answer)
            turns = [calls("pay", amount=1), ["I hand over.", asks("over", "Take it")]]
            tools = [handoff(specialist, name="over"), Sink().pay()]
            return scripted("boss", *turns, tools=tools, runtime=runtime)

        async with world.agent(make) as agent:
            result = await agent.run("Please", **R)
            assert result.output == "Yours now."
            assert [m.role for m in seen] == ["user", "assistant", "tool", "assistant", "user"]
            assert (seen[0].text, seen[3].text, seen[4].text) == ("Please", "I hand over.", "Take it")
            assert (valid(seen), valid(result.messages)) == (True, True)

    go(law())


@pytest.mark.parametrize("mode", ["tool", "prompted"])
def test_data_of_the_other_agent_is_the_output_where_it_is_a_valid_one(mode: Any) -> None:
    specialist = scripted("specialist", '{"total": 7}', output=Bill, output_mode="prompted")
    result = go(boss(specialist, output=Bill, output_mode=mode).run("Go", **ALICE))
    assert result.output == Bill(7)


@pytest.mark.parametrize("mode", ["tool", "prompted"])
def test_what_is_no_valid_output_is_rejected_and_the_model_goes_on(world: World, mode: Any) -> None:
    async def law() -> None:
        mine = '{"total": 8}' if mode == "prompted" else calls("final_output", total=8)

        def make(runtime: Any) -> Any:
            specialist = scripted("specialist", "Seven.")
            return boss(specialist, asks("over"), mine, output=Bill, output_mode=mode, runtime=runtime)

        async with world.agent(make) as agent:
            name = agent._frozen().specs[-1].name
            if mode == "tool":
                agent = boss(
                    scripted("specialist", "Seven."),
                    asks("over"),
                    calls(name, total=8),
                    output=Bill,
                    output_mode=mode,
                    runtime=agent.runtime,
                )
            result = await agent.run("Go", **R)
            assert (result.output, told(result) != "") == (Bill(8), True)
            (rejected,) = [e for e in await journal(agent, "r") if isinstance(e, OutputRejected)]
            assert "other agent" in rejected.problem
            assert valid(result.messages)

    go(law())


def test_validators_judge_what_was_handed_over() -> None:
    agent = boss(scripted("specialist", "no"), asks("over"), "yes")

    @agent.output_validator
    def only_yes(value: str) -> str:
        if value != "yes":
            raise ModelRetry("Say yes.")
        return value

    assert go(agent.run("Go", **ALICE)).output == "yes"


def test_an_agent_that_does_not_finish_takes_nothing_over() -> None:
    agent = boss(scripted("specialist", ValueError("no")), asks("over"), "I do it myself.")
    assert go(agent.run("Go", **ALICE)).output == "I do it myself."


def test_other_calls_of_the_same_answer_are_made_before_the_run_ends() -> None:
    sink = Sink()
    tools = [handoff(scripted("specialist", "Mine."), name="over"), sink.pay()]
    result = go(scripted("boss", [asks("over"), calls("pay", amount=1)], tools=tools).run("Go", **ALICE))
    assert (result.output, sink.paid, valid(result.messages)) == ("Mine.", [1], True)


def test_a_hand_off_waits_for_people_and_goes_on_anywhere(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            pay = sink.pay(requires_approval=True)
            specialist = scripted("specialist", calls("pay", amount=5), "Paid 5.", tools=[pay])
            return boss(specialist, runtime=runtime, approval_handler=Inbox())

        async with world.agent(make) as agent:
            assert is_paused(await agent.run("Go", **R))
        async with world.agent(make) as agent:
            result = await agent.resume("r", tenant_id="acme", answer=Approve(by="maria"))
            assert (result.output, sink.paid) == ("Paid 5.", [5])

    go(law())


def test_a_task_that_an_approver_changed_is_no_part_of_the_output() -> None:
    async def law() -> None:
        made = handoff(scripted("specialist", "Mine."), name="over", requires_approval=True)
        agent = Agent(
            "",
            name="boss",
            model=ScriptedModel([asks("over")]),
            tools=[made],
            approval_handler=lambda request: Approve(by="maria", arguments={"input": "Other"}),
        )
        assert (await agent.run("Go", **R)).output == "Mine."

    go(law())


def test_the_next_run_of_the_session_goes_on_after_a_hand_off() -> None:
    async def law() -> None:
        seen: list[Any] = []

        def last(request: Any) -> Any:
            seen.append(request.messages)
            return asks("over") if len(seen) == 1 else "Still here."

        agent = Agent(
            "",
            name="boss",
            model=ScriptedModel([last]),
            tools=[handoff(scripted("specialist", "Mine."), name="over")],
        )
        await agent.run("One", **ALICE, session_id="s")
        assert (await agent.run("Two", **ALICE, session_id="s")).output == "Still here."
        assert valid(seen[1])
        assert [m.role for m in seen[1]] == ["user", "assistant", "tool", "user"]

    go(law())
