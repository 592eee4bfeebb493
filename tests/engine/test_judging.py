"""What is judged is what runs, by everybody who may object, the strictest of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shipworthy import Agent, Approve, BudgetConfig, Decision, Replace, StandardBudget, ToolCall, all_of, tool
from shipworthy.domain.events import ArgumentsReplaced, ToolReturned, ToolsJudged
from tests.engine import control_world as w
from tests.engine.world import ALICE, agent, go, journal, kinds, told, valid


class Took:
    """What a body got, and what policies, predicates and people were shown of the same call."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.shown: list[Any] = []

    def tool(self, **options: Any) -> Any:
        @tool(effect="once", **options)
        async def send(amount: float = 0.0, to: str = "", parts: list[int] = []) -> str:  # noqa: B006
            self.got.append({"amount": amount, "to": to, "parts": parts})
            return "sent"

        return send

    def policy(self, decision: Decision = w.ALLOW) -> Any:
        def decide(scope: Any, action: Any) -> Decision:
            self.shown.append(dict(action.arguments))
            return decision

        return w.Immediate(decide)


# ----------------------------------------------------------------------------------------- canonical arguments

SPELLINGS = {
    "keys in another order": '{"to": "me", "amount": 100.0}',
    "a key twice": '{"amount": 99999, "to": "you", "amount": 100.0, "to": "me"}',
    "an exponent": '{"amount": 1e2, "to": "me"}',
    "escapes": '{"amou\\u006et": 100.0, "to": "\\u006de"}',
    "room": ' {\n"amount"\t:100.0 , "to":"me" } ',
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_however_arguments_are_spelt_what_is_judged_is_what_runs(spelling: str) -> None:
    took, digests = Took(), []

    async def law() -> None:
        for text in (SPELLINGS[spelling], '{"amount": 100.0, "to": "me"}'):
            a = agent(
                ToolCall("send", text),
                "Done.",
                tools=[took.tool()],
                permissions=took.policy(Decision.ask_("?", rule="ask")),
                approval_handler=lambda request: (digests.append(request.digest), w.YES)[1],
            )
            assert (await a.run("Go.", **ALICE)).status == "completed"

    go(law())
    assert took.got == [{"amount": 100.0, "to": "me", "parts": []}] * 2
    assert all(shown == {"amount": 100.0, "to": "me"} for shown in took.shown)
    assert len(set(digests)) == 1


def test_a_number_is_judged_as_it_is_written_and_runs_as_the_tool_reads_it() -> None:
    """`100` and `1e2` are one amount to the tool, and to a rule about the amount."""
    took = Took()
    limit = w.Immediate(lambda s, a: w.ALLOW if a.arguments["amount"] < 100 else Decision.deny_("Too much."))
    for text in ('{"amount": 100}', '{"amount": 1e2}', '{"amount": 1, "amount": 100.0}'):
        go(agent(ToolCall("send", text), "Done.", tools=[took.tool()], permissions=limit).run("Go.", **ALICE))

    assert took.got == []


@pytest.mark.parametrize(
    "text", ["[1]", '"amount"', "7", "{", '{"amount": NaN}', '{"amount": "much"}', '{"x": 1}']
)
def test_what_is_no_call_of_the_tool_is_told_so_and_not_judged(text: str) -> None:
    took = Took()
    a = agent(ToolCall("send", text), "Done.", tools=[took.tool()], permissions=took.policy())

    result = go(a.run("Go.", **ALICE))

    assert (took.got, took.shown) == ([], [])
    assert "Invalid arguments" in told(result)
    assert valid(result.messages)


def test_an_unknown_tool_is_not_judged() -> None:
    took = Took()
    result = go(
        agent(ToolCall("wipe"), "Done.", tools=[took.tool()], permissions=took.policy()).run("Go.", **ALICE)
    )

    assert took.shown == []
    assert "There is no tool 'wipe'" in told(result)


# ------------------------------------------------------------------------------------------------- replacing


def test_arguments_that_a_hook_replaced_are_judged_again_by_everybody_and_are_what_runs() -> None:
    async def law() -> None:
        took, asked, hooked = Took(), [], []
        a = agent(
            ToolCall("send", {"amount": 99999, "to": "me"}),
            "Done.",
            tools=[took.tool(requires_approval=lambda args: asked.append(args.amount) or False)],
            permissions=took.policy(),
        )
        a.before_tool(lambda ctx, action: hooked.append(action.arguments["amount"]))

        @a.before_tool
        async def cap(ctx: Any, action: Any) -> Any:
            return (
                Replace({**action.arguments, "amount": 50}, "at most 50")
                if action.arguments["amount"] > 50
                else None
            )

        result = await a.run("Go.", run_id="r", **ALICE)
        assert took.got == [{"amount": 50, "to": "me", "parts": []}]
        assert (hooked, [each["amount"] for each in took.shown], asked) == ([99999, 50], [50], [50])
        assert "Called with arguments that a rule of this service changed" in told(result)
        (replaced,) = [e for e in await journal(a, "r") if isinstance(e, ArgumentsReplaced)]
        assert (replaced.by.startswith("hook:"), replaced.reason) == (True, "at most 50")

    go(law())


def test_the_same_arguments_are_no_replacement() -> None:
    async def law() -> None:
        took = Took()
        a = agent(ToolCall("send", '{"to": "me", "amount": 1}'), "Done.", tools=[took.tool()])
        a.before_tool(lambda ctx, action: Replace(dict(action.arguments)))
        await a.run("Go.", run_id="r", **ALICE)
        assert len(took.got) == 1
        assert "ArgumentsReplaced" not in kinds(await journal(a, "r"))

    go(law())


def test_a_policy_denies_what_a_hook_made_of_a_call_that_it_would_allow() -> None:
    took = Took()
    small = w.Immediate(lambda s, a: w.ALLOW if a.arguments["amount"] < 10 else Decision.deny_("Too much."))
    a = agent(ToolCall("send", {"amount": 1}), "Done.", tools=[took.tool()], permissions=small)
    a.before_tool(lambda ctx, action: Replace({"amount": 50}))

    assert told(go(a.run("Go.", **ALICE))) == "Denied: Too much."
    assert took.got == []


# ------------------------------------------------------------------------------------------ the strictest wins

RULES = {
    "allow": w.ALLOW,
    "ask": Decision.ask_("Somebody has to look.", rule="ask"),
    "deny": Decision.deny_("Never.", rule="never"),
}
ORDER = ["allow", "ask", "deny"]


@pytest.mark.parametrize("predicate", ["allow", "ask"])
@pytest.mark.parametrize("policy", ORDER)
@pytest.mark.parametrize("hook", ORDER)
def test_the_strictest_of_hook_policy_and_tool_is_what_holds(hook: str, policy: str, predicate: str) -> None:
    took, asked = Took(), []

    def handler(request: Any) -> Approve:
        asked.append(request.rule)
        return w.YES

    a = agent(
        ToolCall("send", {"amount": 1}),
        "Done.",
        tools=[took.tool(requires_approval=predicate == "ask")],
        permissions=w.Immediate(lambda s, act: RULES[policy]),
        approval_handler=handler,
    )
    a.before_tool(lambda ctx, action: RULES[hook])
    result = go(a.run("Go.", **ALICE))

    strictest = max((hook, policy, predicate), key=ORDER.index)
    assert len(took.got) == (strictest != "deny")
    assert len(asked) == (strictest == "ask")
    assert told(result) == ("Denied: Never." if strictest == "deny" else "sent")


def test_an_allowing_hook_is_no_more_than_one_that_has_no_objection() -> None:
    took = Took()
    a = agent(
        ToolCall("send", {"amount": 1}),
        "Done.",
        tools=[took.tool()],
        permissions=all_of(took.policy(), took.policy(RULES["deny"])),
    )
    a.before_tool(lambda ctx, action: w.ALLOW)

    go(a.run("Go.", **ALICE))
    assert took.got == []


# ------------------------------------------------------------------------------------- what is told and counted


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision.deny_("The customer is on a list."), "Denied: The customer is on a list."),
        (Decision.deny_("The customer is on a list.", tell="Ask a colleague."), "Denied: Ask a colleague."),
        (Decision.deny_("The customer is on a list.", tell=""), "Denied: this call is not allowed."),
        (Decision.deny_(), "Denied: this call is not allowed."),
        (Decision.ask_("It is much.", tell="Nobody is here."), "Denied: Nobody is here."),
    ],
)
def test_the_model_is_told_what_it_may_be_told(decision: Decision, words: str) -> None:
    async def law() -> None:
        took = Took()
        a = agent(
            ToolCall("send", {"amount": 1}), "Done.", tools=[took.tool()], permissions=took.policy(decision)
        )
        result = await a.run("Go.", run_id="r", **ALICE)
        assert told(result) == words
        (returned,) = [e for e in await journal(a, "r") if isinstance(e, ToolReturned)]
        assert (returned.outcome, returned.reason) == ("denied", decision.reason)

    go(law())


def test_a_denied_call_counts_nothing() -> None:
    """Neither as a result that a policy may ask for, nor as a call of a budget."""
    took, returned = Took(), []

    def decide(scope: Any, action: Any) -> Decision:
        returned.append(dict(action.returned))
        return Decision.deny_("No.") if action.arguments["amount"] == 1 else w.ALLOW

    calls = [ToolCall("send", {"amount": n}) for n in (1, 1, 2)]
    budget = StandardBudget(BudgetConfig(max_tool_calls=1))
    a = agent(
        calls,
        ToolCall("send", {"amount": 1}),
        "Done.",
        tools=[took.tool()],
        permissions=w.Immediate(decide),
        budget=budget,
    )
    result = go(a.run("Go.", **ALICE))

    assert (result.status, len(took.got)) == ("completed", 1)
    assert returned == [{}, {}, {}, {"send": 1}]


def test_a_judgement_names_its_rule_and_the_policys_version() -> None:
    async def law() -> None:
        took = Took()
        a = agent(
            ToolCall("send", {"amount": 1}),
            "Done.",
            tools=[took.tool()],
            permissions=took.policy(Decision.allow_("Small.", rule="small")),
        )
        await a.run("Go.", run_id="r", **ALICE)
        (judged,) = [e for e in await journal(a, "r") if isinstance(e, ToolsJudged)]
        assert [(each.rule, each.policy) for each in judged.calls] == [("small", "1")]

    go(law())


def test_without_permissions_the_tools_listed_in_code_run() -> None:
    took = Took()
    go(agent(ToolCall("send", json.dumps({"amount": 1})), "Done.", tools=[took.tool()]).run("Go.", **ALICE))
    assert len(took.got) == 1


# ---------------------------------------------------------------------------------------------------- mutant


def test_a_mutant_that_runs_the_models_own_spelling_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It judges the last of two amounts and has the tool read the text, of which a tool may read the first."""
    from shipworthy.engine import judging

    first: list[str] = []

    class First:
        """Reads texts as another parser might: of two keys the first."""

        def __init__(self, made: Any) -> None:
            self._made = made

        def __getattr__(self, name: str) -> Any:
            return getattr(self._made, name)

        def parse(self, text: str) -> Any:
            first.append(text)
            pairs = json.loads(text, object_pairs_hook=lambda p: dict(reversed(p)))
            return self._made.parse(json.dumps(pairs))

    def run(took: Took) -> list[Any]:
        limit = w.Immediate(
            lambda s, a: w.ALLOW if a.arguments["amount"] < 100 else Decision.deny_("Too much.")
        )
        twice = ToolCall("send", '{"amount": 99999, "amount": 1}')
        made: Agent[Any, Any] = agent(twice, "Done.", tools=[First(took.tool())], permissions=limit)
        go(made.run("Go.", **ALICE))
        return [each["amount"] for each in took.got]

    assert run(Took()) == [1]
    whole = judging.canonical
    monkeypatch.setattr(
        judging, "canonical", lambda raw: found and (found[0], raw) if (found := whole(raw)) else None
    )
    assert run(Took()) == [99999]
