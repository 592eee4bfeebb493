"""What breakers of nested agents found, and is mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Inbox,
    PolicyDocument,
    StandardPermissions,
    handoff,
    parallel,
    policy,
    tool,
)
from shipworthy.domain.messages import ToolResult
from shipworthy.domain.policy import Action, Mode
from shipworthy.engine import delegating, execute, gate, judging
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, MissingTool
from tests.nested.world import Sink, World, act, asks, calls, go, scripted, texts, told

# --- hooks after a tool -----------------------------------------------------------------------


def _teller(**options: Any) -> Agent[Any, Any]:
    """It says too much, and may not go on to its end."""

    @tool(effect="read")
    async def look() -> str:
        return "fine"

    return scripted("teller", calls("look"), "The card is 4111 1111.", tools=[look], **options)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("turns", [5, 1])
def test_what_an_agent_said_that_was_stopped_is_shown_to_hooks_as_any_result(
    grouped: bool, turns: int, how: str
) -> None:
    async def law() -> None:
        teller = _teller(max_turns=turns)
        given = parallel(teller, name="teller") if grouped else teller.as_tool()
        boss = scripted("boss", asks("teller"), "Done.", tools=[given])
        seen: list[str] = []

        @boss.after_tool
        def no_cards(ctx: Any, action: Action, result: Any) -> Decision | None:
            seen.append(action.name)
            leaks = any("4111" in part.text for part in result)
            return Decision.deny_("a card", rule="cards") if leaks else None

        result = await act(boss, how)
        assert "4111" not in told(result)
        assert seen[-1] == "teller"

    go(law())


# --- policies know agents by their names ------------------------------------------------------

NO_BILLING = """
[[statements]]
effect = "allow"
actions = ["*"]
[[statements]]
effect = "deny"
actions = ["agent:billing"]
"""


@policy(version="1")
def no_billing(scope: Any, action: Action) -> Decision:
    if action.kind == "agent" and action.name == "billing":
        return Decision.deny_("no billing", rule="mine")
    return Decision.allow_()


POLICIES = {
    "document": PolicyDocument.loads(NO_BILLING),
    "standard": StandardPermissions(mode=Mode.BYPASS, denied_tools=["billing"]),
    "function": no_billing,
}
FORMS: dict[str, Callable[[Agent[Any, Any]], Any]] = {
    "as_tool": lambda billing: billing.as_tool(name="over"),
    "handoff": lambda billing: handoff(billing, name="over"),
    "parallel": lambda billing: parallel(scripted("idle", "Idle."), billing, name="over"),
}


def an_agent_that_is_denied_by_name_is_not_put_to_work(form: str, kind: str) -> None:
    async def law() -> None:
        sink = Sink()
        billing = scripted("billing", calls("pay", amount=5), "Paid.", tools=[sink.pay()])
        boss = scripted(
            "boss", asks("over"), "Done.", tools=[FORMS[form](billing)], permissions=POLICIES[kind]
        )
        result = await act(boss, "run")
        assert (result.output, sink.paid) == ("Done.", [])
        assert told(result).startswith("Denied")

    go(law())


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("form", FORMS)
def test_an_agent_that_is_denied_by_name_is_not_put_to_work_whatever_the_tool_is_called(
    form: str, kind: str
) -> None:
    an_agent_that_is_denied_by_name_is_not_put_to_work(form, kind)


def test_hooks_are_asked_once_about_a_call_and_policies_about_each_name() -> None:
    async def law() -> None:
        hooked: list[str] = []
        judged: list[str] = []

        @policy(version="1")
        def sees(scope: Any, action: Action) -> Decision:
            judged.append(action.name)
            return Decision.ask_("sure?", rule="sure")

        given = parallel(scripted("bull", "Buy."), scripted("bear", "Sell."), name="bear")
        boss = scripted(
            "boss", asks("bear"), "Done.", tools=[given], permissions=sees, approval_handler=Inbox()
        )

        @boss.before_tool
        def hook(ctx: Any, action: Action) -> None:
            hooked.append(action.name)

        paused = await act(boss, "run")
        [waits] = paused.pending
        assert (hooked, judged, waits.rule) == (["bear"], ["bear", "bull"], "sure")
        result = await boss.resume(paused, answer=Approve(by="maria"))
        assert (result.status, told(result)) == ("completed", '{"bull":"Buy.","bear":"Sell."}')

    go(law())


# --- a call that has nested runs goes on with those -------------------------------------------


def _billing(sink: Sink, name: str = "billing") -> Agent[Any, Any]:
    @tool(effect="once", requires_approval=True)
    async def sign() -> str:
        return "signed"

    turns = [calls("pay", amount=5), calls("sign"), "Paid."]
    return scripted(name, *turns, tools=[sink.pay(), sign])


@tool(effect="idempotent", name="over")
async def plain(input: str) -> str:
    return "plain"


Tools = Callable[[Sink], Any]
ONE: Tools = lambda sink: _billing(sink).as_tool(name="over")  # noqa: E731
OTHER: Tools = lambda sink: _billing(sink, "cashier").as_tool(name="over")  # noqa: E731
PLAIN: Tools = lambda sink: plain  # noqa: E731


def of(*names: str) -> Tools:
    return lambda sink: parallel(*[_billing(sink, name) for name in names], name="over")


CHANGED = {
    "an agent to a group of it": (ONE, of("billing")),
    "a group of one to its agent": (of("billing"), ONE),
    "an agent to another one": (ONE, OTHER),
    "an agent to a function": (ONE, PLAIN),
    "a group to a function": (of("a", "b"), PLAIN),
    "a group that shrinks": (of("a", "b"), of("a")),
    "a group that shrinks from its front": (of("a", "b"), of("b")),
    "a group that is swapped": (of("a", "b"), of("b", "a")),
}


def a_call_goes_on_with_the_runs_that_it_has(world: World, change: str) -> None:
    async def law() -> None:
        sink = Sink()
        before, after = CHANGED[change]

        def boss(tools: Tools) -> Callable[[Runtime], Agent[Any, Any]]:
            return lambda runtime: scripted(
                "boss", asks("over"), "Done.", tools=[tools(sink)], runtime=runtime, approval_handler=Inbox()
            )

        async with world.agent(boss(before)) as agent:
            paused = await act(agent, "run")
            waits, paid = [call.address for call in paused.pending], list(sink.paid)
        async with world.agent(boss(after)) as agent:
            with pytest.raises(MissingTool, match="Give the tool its agents again"):
                await agent.resume("r", tenant_id="acme")
            assert sink.paid == paid
        async with world.agent(boss(before)) as agent:
            again = await agent.resume("r", tenant_id="acme")
            assert [call.address for call in again.pending] == waits
            yes = {address: Approve(by="maria") for address in waits}
            result = await agent.resume(again, answer=yes)
            assert (result.status, result.output, sink.paid) == ("completed", "Done.", paid)

    go(law())


@pytest.mark.parametrize("change", CHANGED)
def test_a_call_goes_on_with_the_runs_that_it_has_or_waits_for_its_agents(world: World, change: str) -> None:
    a_call_goes_on_with_the_runs_that_it_has(world, change)


# --- a group in which one raises --------------------------------------------------------------


def what_the_others_wait_for_is_not_lost(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def no_deps(scope: Any) -> Any:
            raise LookupError("the directory is down")

        def boss(**late: Any) -> Callable[[Runtime], Agent[Any, Any]]:
            def make(runtime: Runtime) -> Agent[Any, Any]:
                given = parallel(_billing(sink), scripted("late", "Here.", **late), name="over")
                return scripted(
                    "boss", asks("over"), "Done.", tools=[given], runtime=runtime, approval_handler=Inbox()
                )

            return make

        async with world.agent(boss(deps=no_deps)) as agent:
            with pytest.raises(LookupError):
                await act(agent, "run")
            [waits] = await Inbox(runtime=agent.runtime).requests("acme")
            assert (waits.tool, sink.paid) == ("sign", [5])
            with pytest.raises(LookupError):  # what was said is kept all the same
                await agent.resume("r", tenant_id="acme", answer=Approve(by="maria"))
        async with world.agent(boss()) as agent:
            result = await agent.resume("r", tenant_id="acme")
            assert (result.status, told(result), sink.paid) == (
                "completed",
                '{"billing":"Paid.","late":"Here."}',
                [5],
            )

    go(law())


def test_of_a_group_in_which_one_raises_the_others_are_asked_about_all_the_same(world: World) -> None:
    what_the_others_wait_for_is_not_lost(world)


# --- names --------------------------------------------------------------------------------------


def test_two_agents_of_one_name_are_no_tools_of_one_agent_but_one_agent_may_be_several() -> None:
    one, other = scripted("billing", "One."), scripted("billing", "Other.")
    with pytest.raises(ConfigurationError, match="two agents named 'billing'"):
        scripted("desk", "Done.", tools=[one.as_tool(name="x"), handoff(other, name="y")])
    scripted("desk", "Done.", tools=[one.as_tool(name="x"), handoff(one, name="y")])
    with pytest.raises(ConfigurationError, match="a name= of its own"):
        scripted("desk", "Done.", tools=[one.as_tool(), parallel(scripted("idle", "Idle."), other, name="z")])


# --- two hand-offs in one answer ----------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True], ids=["at once", "asked"])
def test_of_two_hand_offs_in_one_answer_the_first_that_is_allowed_is_made(world: World, asked: bool) -> None:
    async def law() -> None:
        sink = Sink()

        def desk(runtime: Runtime) -> Agent[Any, Any]:
            both = [
                scripted(name, calls("pay", amount=i), f"From {name}.", tools=[sink.pay()])
                for i, name in enumerate(("a", "b"))
            ]
            tools = [handoff(both[0], requires_approval=asked), handoff(both[1])]
            answer = [asks("hand_off_to_a"), asks("hand_off_to_b")]
            return scripted("desk", answer, "Mine.", tools=tools, runtime=runtime, approval_handler=Inbox())

        async with world.agent(desk) as agent:
            result = await act(agent, "run")
            if asked:  # the one that need not wait is the first that is allowed
                assert sink.paid == [1]
                result = await agent.resume(result, answer=Approve(by="maria"))
            name, paid = ("b", [1]) if asked else ("a", [0])
            assert (result.output, sink.paid) == (f"From {name}.", paid)
            [said] = [m for m in result.messages if m.role == "tool"]
            refused = [part for part in said.parts if isinstance(part, ToolResult) and part.is_error]
            assert [texts(part) for part in refused] == [
                "Not done: the conversation was handed over already."
            ]

    go(law())


# --- broken variants ------------------------------------------------------------------------------


def only_outputs_are_reviewed(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*given: Any) -> None:
        return None

    patch.setattr(execute, "_withheld", nothing)


def known_by_their_tools_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judging, "asked_about", lambda tool, action: [action])


def whatever_the_tool_is_now(patch: pytest.MonkeyPatch) -> None:
    async def fits(*given: Any) -> str:
        return ""

    patch.setattr(gate, "_misfit", lambda: fits)


def raised_before_the_others_are_recorded(patch: pytest.MonkeyPatch) -> None:
    async def failed(self: Any, error: Exception) -> None:
        raise error

    patch.setattr(delegating._Sitting, "failed", failed)


def every_hand_off_is_made(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate, "_is_handed_over", lambda *given: False)


CAUGHT: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (
        only_outputs_are_reviewed,
        lambda: test_what_an_agent_said_that_was_stopped_is_shown_to_hooks_as_any_result(False, 1, "run"),
    ),
    (
        known_by_their_tools_alone,
        lambda: an_agent_that_is_denied_by_name_is_not_put_to_work("parallel", "document"),
    ),
    (
        whatever_the_tool_is_now,
        lambda: a_call_goes_on_with_the_runs_that_it_has(World(), "an agent to a group of it"),
    ),
    (raised_before_the_others_are_recorded, lambda: what_the_others_wait_for_is_not_lost(World())),
    (
        every_hand_off_is_made,
        lambda: test_of_two_hand_offs_in_one_answer_the_first_that_is_allowed_is_made(World(), False),
    ),
]


@pytest.mark.parametrize(("plant", "law"), CAUGHT, ids=[plant.__name__ for plant, _ in CAUGHT])
def test_a_broken_variant_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], law: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever it breaks with, it breaks
        law()
