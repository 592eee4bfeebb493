"""A nested run is under everything that holds for the run that it belongs to; its own agent adds to that, and takes
nothing away."""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Inbox,
    InMemoryRuntime,
    ScriptedModel,
    StandardPermissions,
    handoff,
    is_paused,
    parallel,
    policy,
    tool,
)
from shipworthy.domain.policy import Action, Mode
from tests.nested.world import (
    ALICE,
    R,
    Sink,
    World,
    act,
    asks,
    boss_of,
    calls,
    cashier_of,
    clerk_of,
    go,
    scripted,
    told,
    valid,
    whole,
)

KINDS = ["two deep", "hand-off", "group"]


def under(kind: str, sink: Sink, runtime: Any, nested: dict[str, Any], **options: Any) -> Agent[Any, Any]:
    """A boss under *options* whose cashier, however it is nested, is under *nested*."""
    cashier = scripted("cashier", calls("pay", amount=50), "Paid.", tools=[sink.pay()], **nested)
    match kind:
        case "two deep":
            return boss_of(clerk_of(cashier, **nested), runtime=runtime, **options)
        case "hand-off":
            made: Any = handoff(cashier, name="over")
        case _:
            made = parallel(cashier, scripted("idle", "Idle."), name="over")
    return scripted("boss", asks("over"), "All done.", tools=[made], runtime=runtime, **options)


def yes(request: Any) -> Approve:
    raise AssertionError("a nested agent's own handler was asked")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "nested",
    [
        {},
        {"permissions": StandardPermissions(Mode.BYPASS)},
        {"permissions": StandardPermissions(allowed_tools=["pay"])},
        {"permissions": StandardPermissions(Mode.BYPASS), "approval_handler": yes},
    ],
)
def test_under_a_plan_nothing_is_written_whatever_a_nested_agent_permits(
    world: World, how: str, kind: str, nested: dict[str, Any]
) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            return under(kind, sink, runtime, nested, permissions=StandardPermissions(Mode.PLAN))

        async with world.agent(make) as boss:
            result = await act(boss, how)
            assert (result.status, sink.paid, valid(result.messages)) == ("completed", [], True)

    go(law())


@pytest.mark.parametrize("kind", KINDS)
def test_whom_the_outermost_agent_asks_is_asked_and_never_a_nested_ones_own_handler(kind: str) -> None:
    asked: list[str] = []

    def boss_says(request: Any) -> Approve:
        asked.append(request.tool)
        return Approve(by="maria")

    sink = Sink()
    nested = {"permissions": StandardPermissions(Mode.BYPASS), "approval_handler": yes}
    given = {"permissions": StandardPermissions(), "approval_handler": boss_says}
    result = go(under(kind, sink, InMemoryRuntime(), nested, **given).run("Go", **R))
    assert (result.status, sink.paid, asked) == ("completed", [50], ["pay"])


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_outermost_agent_asks_nobody_a_question_is_a_no(kind: str) -> None:
    sink = Sink()
    nested = {"permissions": StandardPermissions(), "approval_handler": yes}
    for options in ({}, {"permissions": StandardPermissions()}):
        go(under(kind, sink, InMemoryRuntime(), nested, **options).run("Go", **R))
        assert sink.paid == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_nested_agents_own_policy_narrows(kind: str) -> None:
    sink = Sink()
    nested = {"permissions": StandardPermissions(Mode.PLAN)}
    go(
        under(kind, sink, InMemoryRuntime(), nested, permissions=StandardPermissions(Mode.BYPASS)).run(
            "Go", **R
        )
    )
    assert sink.paid == []


@pytest.mark.parametrize("kind", KINDS)
def test_policies_know_the_path_of_agents_and_that_a_call_is_one_of_an_agent(kind: str) -> None:
    seen: list[tuple[str, str, tuple[str, ...]]] = []

    @policy(version="1")
    def watch(scope: Any, action: Action) -> Decision:
        seen.append((action.kind, action.name, action.path))
        return Decision.allow_()

    go(under(kind, sink := Sink(), InMemoryRuntime(), {}, permissions=watch).run("Go", **R))
    if kind == "two deep":
        assert seen == [
            ("agent", "clerk", ("boss",)),
            ("agent", "cashier", ("boss", "clerk")),
            ("tool", "pay", ("boss", "clerk", "cashier")),
        ]
    else:
        named = ["over", "cashier", *(["idle"] if kind == "group" else [])]
        calls_of = [("agent", name, ("boss",)) for name in named]
        assert seen == [*calls_of, ("tool", "pay", ("boss", "cashier"))]
    assert sink.paid == [50]


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_the_outermost_agent_see_what_nested_ones_do(kind: str) -> None:
    sink = Sink()
    boss = under(kind, sink, InMemoryRuntime(), {})
    tools: list[str] = []
    models: list[str] = []

    @boss.before_tool
    async def no_payments(ctx: Any, action: Action) -> Decision | None:
        tools.append(action.name)
        return Decision.deny_("no money") if action.name == "pay" else None

    @boss.before_model
    async def count(ctx: Any, request: Any) -> None:
        models.append(ctx.agent)

    go(boss.run("Go", **R))
    assert ("pay" in tools, sink.paid, "cashier" in models) == (True, [], True)


def test_a_result_that_a_hook_withholds_is_not_shown_to_the_parent_either() -> None:
    boss = boss_of(clerk_of(cashier_of(Sink())))

    @boss.after_tool
    async def secret(ctx: Any, action: Action, result: Any) -> Decision | None:
        return Decision.deny_("secret") if action.kind == "agent" else None

    result = go(boss.run("Go", **R))
    assert told(result) == "The tool ran; its result is withheld: secret"


def test_a_hand_off_whose_result_is_withheld_hands_nothing_over() -> None:
    boss = under("hand-off", Sink(), InMemoryRuntime(), {})

    @boss.after_tool
    async def secret(ctx: Any, action: Action, result: Any) -> Decision | None:
        return Decision.deny_("secret") if action.kind == "agent" else None

    assert go(boss.run("Go", **R)).output == "All done."


def test_an_agent_as_a_tool_can_need_approval_itself(world: World) -> None:
    async def law() -> None:
        sink = Sink()

        def make(runtime: Any) -> Any:
            clerk = clerk_of(cashier_of(sink))
            made = clerk.as_tool(requires_approval=lambda args: "50" in args.input)
            turns = [asks("clerk", "Pay 5"), asks("clerk", "Pay 50"), "All done."]
            return scripted("boss", *turns, tools=[made], runtime=runtime, approval_handler=Inbox())

        async with world.agent(make) as boss:
            paused = await boss.run("Go", **R)
            assert (is_paused(paused), sink.paid, paused.pending[0].tool) == (True, [50], "clerk")
            assert len(await whole(boss)) == 3
            result = await boss.resume(paused, answer=Approve(by="maria", arguments={"input": "Pay 40"}))
            assert (result.output, sink.paid) == ("All done.", [50, 50])
            assert "that an approver changed" in told(result)

    go(law())


def test_labels_of_an_agent_are_known_to_policies() -> None:
    seen: list[Any] = []

    @policy(version="1")
    def watch(scope: Any, action: Action) -> Decision:
        seen.append((action.labels, action.effect, dict(action.arguments)))
        return Decision.allow_()

    clerk = clerk_of(cashier_of(Sink())).as_tool(labels=["money"])
    go(scripted("boss", asks("clerk"), "Done.", tools=[clerk], permissions=watch).run("Go", **ALICE))
    assert seen[0] == (frozenset({"money"}), "idempotent", {"input": "Do it"})


def test_an_approval_for_one_nested_call_is_none_for_another() -> None:
    """Remembered for the run, a yes holds for calls of the same tool of the same agents, and of no others."""
    asked: list[tuple[str, ...]] = []

    def handler(request: Any) -> Approve:
        asked.append(request.agents)
        return Approve(by="maria", remember="run", covers="tool")

    @tool(effect="once", name="pay")
    async def pay(amount: int) -> str:
        return "paid"

    def payer(name: str) -> Any:
        model = ScriptedModel([[calls("pay", amount=1)], [calls("pay", amount=2)], "Paid."])
        return Agent("", name=name, model=model, tools=[pay]).as_tool()

    tools = [payer("a"), payer("b")]
    boss = scripted(
        "boss",
        [asks("a"), asks("b")],
        "Done.",
        tools=tools,
        permissions=StandardPermissions(),
        approval_handler=handler,
    )
    assert go(boss.run("Go", **ALICE)).output == "Done."
    assert sorted(asked) == [("boss", "a"), ("boss", "b")]
