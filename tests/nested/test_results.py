"""What a run gets of the agents that it has as tools, however they end."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from shipworthy import Agent, InMemoryRuntime, RunContext, ScriptedModel, parallel, tool
from shipworthy.domain.events import RunEnded, RunStarted, ToolReturned
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.scope import LONGEST_ID, Scope
from shipworthy.engine.delegating import DEEPEST
from shipworthy.engine.nesting import nested_id
from shipworthy.errors import AgentInUse, ConfigurationError, IdentityWarning, InvalidTool, RunConflict
from tests.engine.world import LIMIT, too_long
from tests.nested.world import (
    ALICE,
    HERE,
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
    deep,
    go,
    journal,
    scripted,
    told,
    valid,
    whole,
)


class Bill(msgspec.Struct):
    total: int


def test_the_output_of_an_agent_is_the_result_of_its_call(world: World, how: str) -> None:
    async def law() -> None:
        sink = Sink()
        async with world.agent(deep(sink)) as boss:
            result = await act(boss, how)
            assert (result.status, result.output, told(result)) == ("completed", "All done.", "Seen to.")
            assert (sink.paid, valid(result.messages)) == ([50], True)

    go(law())


def test_each_nested_run_has_a_journal_and_says_whose_it_is(world: World) -> None:
    async def law() -> None:
        async with world.agent(deep(Sink())) as boss:
            await act(boss, "run", session_id="s")
            journals = await whole(boss)
            assert [events[0].agent for events in journals.values()] == ["boss", "clerk", "cashier"]  # type: ignore[union-attr]
            boss_run, clerk_run, cashier_run = [events[0] for events in journals.values()]
            assert isinstance(cashier_run, RunStarted)
            assert isinstance(clerk_run, RunStarted)
            assert isinstance(boss_run, RunStarted)
            assert boss_run.parent is None
            assert cashier_run.parent is not None
            assert (cashier_run.parent.root, cashier_run.parent.run_id) == ("r", clerk_run.run_id)
            assert cashier_run.parent.agents == ("boss", "clerk")
            assert len(cashier_run.parent.path) == 2
            assert (cashier_run.tenant, cashier_run.user, cashier_run.session) == ("acme", "alice", "s")

    go(law())


def test_data_is_given_as_json_and_text_as_it_is() -> None:
    bill = scripted("biller", '{"total": 7}', output=Bill, output_mode="prompted")
    result = go(scripted("boss", asks("biller"), "Fine.", tools=[bill.as_tool()]).run("Go", **ALICE))
    assert told(result) == '{"total":7}'


@pytest.mark.parametrize(
    ("child", "words"),
    [
        (scripted("x", ValueError("secret")), "The agent 'x' did not finish: it failed (model_error)."),
        (scripted("x", "a", "b", "c", output=Bill, output_mode="prompted"), "it failed (invalid_output)."),
        (
            scripted("x", calls("look"), "So far.", max_turns=1, tools=[]),
            "it was stopped (max_turns). Its last answer: So far.",
        ),
    ],
)
def test_an_agent_that_does_not_finish_is_an_error_that_says_how_it_ended(child: Any, words: str) -> None:
    async def law() -> None:
        boss = scripted("boss", asks("x"), "I see.", tools=[child.as_tool()], runtime=InMemoryRuntime())
        result = await boss.run("Go", **R)
        assert (result.output, words in told(result), "secret" in told(result)) == ("I see.", True, False)
        assert valid(result.messages)
        (returned,) = [e for e in await journal(boss, "r") if isinstance(e, ToolReturned)]
        assert returned.outcome == "error"

    go(law())


def test_a_session_has_what_its_runs_said_and_nothing_of_nested_ones(world: World) -> None:
    async def law() -> None:
        seen: list[int] = []

        def look(request: Any) -> str:
            seen.append(len(request.messages))
            return "Done."

        def make(runtime: Any) -> Any:
            child = scripted("child", look)
            tools = [child.as_tool()]
            return Agent(
                "", name="boss", model=ScriptedModel([asks("child"), look]), tools=tools, runtime=runtime
            )

        async with world.agent(make) as boss:
            await boss.run("One", **ALICE, session_id="s", run_id="one")
            await boss.run("Two", **ALICE, session_id="s", run_id="two")
            assert seen == [1, 3, 1, 7]
            assert list(await boss.runtime.store.session(Scope("acme", "alice", "s"))) == ["one", "two"]

    go(law())


def test_the_parents_deps_are_the_childs_unless_it_makes_its_own() -> None:
    seen: list[Any] = []

    @tool(effect="read")
    async def look(ctx: RunContext[Any]) -> str:
        seen.append(ctx.deps)
        return "seen"

    def child(name: str, **options: Any) -> Any:
        return scripted(name, calls("look"), "Seen.", tools=[look], **options).as_tool()

    own = child("own", deps=lambda scope: f"own of {scope.tenant}")
    boss = scripted("boss", [asks("heir"), asks("own")], "Done.", tools=[child("heir"), own])
    go(boss.run("Go", **ALICE, deps="the parent's"))
    assert sorted(seen) == ["own of acme", "the parent's"]


def test_the_earlier_deadline_holds() -> None:
    left: list[float | None] = []

    @tool(effect="read")
    async def look(ctx: RunContext[Any]) -> str:
        left.append(ctx.remaining())
        return "seen"

    def child(**options: Any) -> Any:
        return scripted("child", calls("look"), "Seen.", tools=[look], **options)

    for options, most in (({}, 500.0), ({"timeout": 5000.0}, 500.0), ({"timeout": 50.0}, 50.0)):
        boss = scripted("boss", asks("child"), "Done.", tools=[child(**options).as_tool()], timeout=500.0)
        go(boss.run("Go", **ALICE))
        assert (left[-1] or 0) <= most
        assert (left[-1] or 0) > most - 40
    boss = scripted("boss", asks("child"), "Done.", tools=[child().as_tool(timeout=20)], timeout=500.0)
    go(boss.run("Go", **ALICE))
    assert (left[-1] or 0) <= 20


def slow(**options: Any) -> Any:
    @tool(effect="idempotent", timeout=60)
    async def wait() -> str:
        await too_long()
        return "late"

    return scripted("child", calls("wait"), "Done.", tools=[wait], **options)


def test_a_run_that_is_out_of_time_stops_those_that_are_nested_in_it(world: World, how: str) -> None:
    async def law() -> None:
        def make(runtime: Any) -> Any:
            return scripted(
                "boss", asks("child"), "Done.", tools=[slow().as_tool()], timeout=LIMIT, runtime=runtime
            )

        async with world.agent(make) as boss:
            result = await act(boss, how)
            assert (result.status, result.stop_reason) == ("stopped", "timeout")
            child = await boss.runtime.store.find(HERE, await child_of(boss))
            assert child.status in ("stopped", "cancelled")
            assert valid(result.messages)

    go(law())


def test_an_agent_that_is_out_of_its_own_time_is_an_error_of_its_call() -> None:
    boss = scripted("boss", asks("child"), "I see.", tools=[slow().as_tool(timeout=LIMIT)])
    result = go(boss.run("Go", **ALICE))
    assert (result.output, "it was stopped (timeout)" in told(result)) == ("I see.", True)


def test_cancelling_a_run_cancels_those_that_are_nested_in_it(world: World) -> None:
    async def law() -> None:
        def make(runtime: Any) -> Any:
            two = parallel(slow(), scripted("other", "Fast."), name="both")
            clerk = scripted("clerk", asks("both"), "Done.", tools=[two])
            return boss_of(clerk, runtime=runtime)

        async with world.agent(make) as boss:
            task = asyncio.create_task(boss.run("Go", **R))
            while len(journals := await whole_or_nothing(boss)) < 4 or not any_over(journals):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            journals = await whole(boss)
            ends = {events[0].agent: events[-1].status for events in journals.values()}  # type: ignore[union-attr]
            assert ends == {
                "boss": "cancelled",
                "clerk": "cancelled",
                "child": "cancelled",
                "other": "completed",
            }

    go(law())


def any_over(journals: Any) -> bool:
    return any([isinstance(events[-1], RunEnded) for events in journals.values()])


async def whole_or_nothing(boss: Any) -> Any:
    try:
        return await whole(boss)
    except Exception:
        return {}


def test_a_chain_that_is_too_deep_is_refused_and_the_run_goes_on() -> None:
    async def law() -> None:
        last = scripted("a0", "The bottom.")
        for depth in range(1, DEEPEST + 2):
            last = scripted(f"a{depth}", asks(f"a{depth - 1}"), "Up.", tools=[last.as_tool()])
        top = Agent(
            "",
            name="top",
            model=ScriptedModel([asks(last.name), "Done."]),
            tools=[last.as_tool()],
            runtime=InMemoryRuntime(),
        )
        assert (await top.run("Go", **R)).output == "Done."
        journals = await whole(top)
        assert len(journals) == DEEPEST + 1
        (refused,) = [e for e in list(journals.values())[-1] if isinstance(e, ToolReturned)]
        assert refused.outcome == "error"

    go(law())


def test_an_agent_that_is_a_tool_of_itself_comes_to_an_end() -> None:
    async def law() -> None:
        agent = Agent(
            "", name="self", model=ScriptedModel([asks("self"), "Done."]), runtime=InMemoryRuntime()
        )
        agent._add(agent.as_tool())
        assert (await agent.run("Go", **R)).output == "Done."
        assert len(await whole(agent)) == DEEPEST + 1

    go(law())


def test_ids_of_nested_runs_are_those_of_their_calls_and_of_no_others() -> None:
    made = [
        nested_id(run, call, i)
        for run in ("r", "r/call_1", "r" * 600)
        for call in ("call_1", "call_2")
        for i in (None, 0, 1)
    ]
    assert len(set(made)) == len(made)
    assert all([len(each.encode()) <= LONGEST_ID for each in made])


def test_a_run_of_a_long_name_has_nested_ones() -> None:
    boss = boss_of(clerk_of(cashier_of(sink := Sink())))
    assert go(boss.run("Go", **ALICE, run_id="r" * 512)).output == "All done."
    assert sink.paid == [50]


def test_a_run_that_has_the_id_by_chance_is_not_taken_for_a_nested_one(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            return boss_of(cashier_named_clerk(sink), runtime=runtime)

        async with world.agent(make) as boss:
            await boss.run("Go", **R)
            taken = await child_of(boss)
        squatted = World() if world._path is None else World(world._path.with_suffix(".2"))
        async with squatted.agent(make) as boss:
            other = scripted("other", "Mine.", runtime=boss.runtime)
            await other.run("Go", **ALICE, run_id=taken)
            sink.paid.clear()
            result = await boss.run("Go", **R)
            assert (result.output, sink.paid) == ("All done.", [])
            assert "already" in told(result)
            assert (await boss.runtime.store.find(HERE, taken)).events == 4

    go(law())


def cashier_named_clerk(sink: Sink) -> Any:
    return scripted("clerk", calls("pay", amount=50), "Paid.", tools=[sink.pay()])


def test_the_id_of_a_nested_run_is_not_to_be_begun_again_by_a_caller() -> None:
    async def law() -> None:
        clerk = clerk_of(cashier_of(Sink()))
        boss = boss_of(clerk, runtime=InMemoryRuntime())
        await boss.run("Go", **R)
        same = scripted("clerk", "Ha.", runtime=boss.runtime)
        with pytest.raises(RunConflict):
            await same.run("Do it", **ALICE, run_id=await child_of(boss))

    go(law())


def test_a_nested_run_can_be_followed_by_its_id() -> None:
    async def law() -> None:
        boss = boss_of(clerk_of(cashier_of(Sink())), runtime=InMemoryRuntime())
        await boss.run("Go", **R)
        async with boss.stream(run_id=await child_of(boss), tenant_id="acme") as stream:
            seen = [type(event).__name__ async for event in stream]
        assert (seen[0], seen[-1]) == ("RunStarted", "RunEnded")

    go(law())


def test_a_listing_shows_the_runs_that_were_asked_for() -> None:
    async def law() -> None:
        boss = boss_of(clerk_of(cashier_of(Sink())), runtime=InMemoryRuntime())
        await boss.run("Go", **R)
        shown = await boss.runtime.store.list(HERE, RunFilter())
        assert [run.run_id for run in shown] == ["r"]

    go(law())


def test_an_agent_that_is_a_tool_changes_no_more_once_it_was_used() -> None:
    clerk = clerk_of(cashier_of(Sink()))
    tooled = clerk.as_tool()
    clerk.before_tool(lambda ctx, action: None)
    go(scripted("boss", asks("clerk"), "Done.", tools=[tooled]).run("Go", **ALICE))
    with pytest.raises(AgentInUse):
        clerk.before_tool(lambda ctx, action: None)


def test_what_cannot_be_a_tool_is_refused_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError, match="name="):
        Agent("", model=ScriptedModel([])).as_tool()
    with pytest.raises(InvalidTool, match="providers accept"):
        scripted("two words").as_tool()
    assert scripted("two words").as_tool("two_words").spec.name == "two_words"
    with pytest.raises(ConfigurationError, match="each with a name="):
        parallel(scripted("a"), scripted("a"), name="both")
    with pytest.raises(ConfigurationError, match="one agent or more"):
        parallel(name="none")


def test_a_blank_task_is_refused_in_words_that_the_model_can_use() -> None:
    clerk = clerk_of(cashier_of(sink := Sink()))
    result = go(scripted("boss", asks("clerk", "  "), "Done.", tools=[clerk.as_tool()]).run("Go", **ALICE))
    assert ("input is blank" in told(result), sink.paid) == (True, [])


def test_an_agent_that_requires_an_identity_does_not_work_for_nobody() -> None:
    clerk = clerk_of(cashier_of(sink := Sink()), require_identity=True)
    with pytest.warns(IdentityWarning):
        result = go(boss_of(clerk).run("Go"))
    assert ("requires an identity" in told(result), sink.paid) == (True, [])


def test_what_a_developer_did_wrong_pauses_the_run_and_is_raised() -> None:
    async def law() -> None:
        broken: list[bool] = [True]

        def instructions() -> str:
            if broken:
                raise RuntimeError("no such file")
            return "Fine."

        child = Agent(instructions, name="child", model=ScriptedModel(["Done."]))
        boss = scripted(
            "boss", asks("child"), "All done.", tools=[child.as_tool()], runtime=InMemoryRuntime()
        )
        with pytest.raises(RuntimeError, match="no such file"):
            await boss.run("Go", **R)
        broken.clear()
        assert (await boss.resume("r", tenant_id="acme")).output == "All done."

    go(law())
