"""`shipworthy policy`, on real files and real runs: what it says is what the policy decides."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shipworthy.app import cli

POLICY = """
version = "2"

[[statements]]
id = "look"
effect = "allow"
actions = ["tool:look"]

[[statements]]
id = "small"
effect = "allow"
actions = ["tool:refund"]
conditions = { "arguments.amount" = { "<=" = 50 }, "returned.look" = { ">=" = 1 } }

[[statements]]
id = "large"
effect = "ask"
actions = ["tool:refund"]
approvers = 2
conditions = { "arguments.amount" = { ">" = 50 } }

[[statements]]
id = "mallory"
effect = "deny"
actions = ["tool:*"]
principals = { user = "mallory" }
"""
LABELS = """
[[statements]]
id = "payments"
effect = "allow"
actions = ["*"]
resources = ["label/payment"]
conditions = { effect = "once" }
"""
BOT = """
    import sys
    from shipworthy import Agent, ScriptedModel, ScriptedTurn, tool
    from shipworthy.app.permissions import StandardPermissions
    from shipworthy.domain.messages import ToolCall
    from shipworthy.domain.policy import Decision

    @tool(effect="read")
    def look(order: str) -> str:
        "Look at an order."
        return "found"

    @tool(effect="once", labels=["payment"])
    def refund(amount: int) -> str:
        "Pay money back."
        return "paid"

    @tool(effect="once")
    def wipe(why: str) -> str:
        "Delete everything."
        return "gone"

    def turns():
        return [
            ScriptedTurn(ToolCall("refund", {"amount": 10}), ToolCall("look", {"order": "A" * 9000})),
            ScriptedTurn(ToolCall("refund", {"amount": 20}), ToolCall("refund", {"amount": 90})),
            ScriptedTurn(ToolCall("wipe", {"why": "bored"})),
            ScriptedTurn("Done."),
        ]

    agent = Agent(
        model=ScriptedModel(turns()),
        tools=[look, refund, wipe],
        name="bot",
        runtime="sqlite:bot.db",
        permissions=StandardPermissions(allowed_tools=["refund"]),
    )
"""
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Invoke]:
    """Exit code, stdout and stderr of a command in a folder with a bot and its policies."""
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "labels.toml").write_text(LABELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments: str) -> tuple[int, str, str]:
        sys.modules.pop("bot", None)
        capsys.readouterr()
        code = cli.invoke(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    sys.modules.pop("bot", None)


def explained(invoke: Invoke, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = invoke("policy", "explain", "policy.toml", *arguments, "--json")
    return code, json.loads(out)["explanation"]


# --- check and explain ------------------------------------------------------------------------


def test_a_document_is_checked(invoke: Invoke) -> None:
    code, out, _ = invoke("policy", "check", "policy.toml")
    assert (code, out.startswith("policy.toml: 4 statements, version 2+")) == (0, True)


def test_a_wrong_document_is_refused_with_what_to_do(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(POLICY.replace('"<=" = 50', '"=<" = 50'))

    code, out, err = invoke("policy", "check", "wrong.toml")
    assert (code, out) == (1, "")
    assert "wrong.toml: Statement 2 ('small'), conditions, arguments.amount: '=<' is no operator here" in err
    assert "fix: Use ==, !=" in err
    for command in (
        ["explain", "wrong.toml", "--tool", "x"],
        ["replay", "wrong.toml", "--tenant", "acme", "--store", "x"],
    ):
        assert invoke("policy", *command)[0] == 1


def test_an_explanation_names_the_statement_that_decides_and_why_others_do_not(invoke: Invoke) -> None:
    call = ("--tool", "refund", "--args", '{"amount": 40}', "--tenant", "acme")
    code, out, _ = invoke("policy", "explain", "policy.toml", *call, "--user", "ada")

    assert code == 4
    assert "tool:refund: deny, PolicyDocument:default" in out
    assert "returned.look >= 1: is not so" in out
    assert "arguments.amount > 50: is not so" in out
    assert "1 of 4 statements are about other actions." in out
    nameless = invoke("policy", "explain", "policy.toml", *call)[1]
    assert "decides   deny   mallory\n            cannot be told, and holds for that" in nameless


@pytest.mark.parametrize(
    ("arguments", "code", "ruling", "by"),
    [
        (["--args", '{"amount": 40}', "--returned", "look=1"], 0, "allow", ["small"]),
        (["--args", '{"amount": 51}'], 3, "ask", ["large"]),
        (["--args", '{"amount": 40}'], 4, "deny", []),
        (["--args", "{}"], 3, "ask", ["large"]),
        (["--args", '{"amount": 40}', "--returned", "look=1", "--kind", "agent"], 4, "deny", []),
    ],
)
def test_the_exit_code_is_the_ruling(
    invoke: Invoke, arguments: list[str], code: int, ruling: str, by: list[str]
) -> None:
    found = explained(invoke, "--tool", "refund", "--tenant", "acme", "--user", "ada", *arguments)

    assert (found[0], found[1]["ruling"], found[1]["decided_by"]) == (code, ruling, by)


def test_a_call_that_names_no_user_is_denied_whom_a_user_is(invoke: Invoke) -> None:
    assert explained(invoke, "--tool", "look", "--tenant", "acme")[1]["decided_by"] == ["mallory"]
    assert explained(invoke, "--tool", "look", "--tenant", "acme", "--user", "ada")[1]["decided_by"] == [
        "look"
    ]


def test_an_agents_tool_says_its_own_effect_and_labels(invoke: Invoke) -> None:
    asked = ("policy", "explain", "labels.toml", "--agent", "bot:agent", "--tool")

    assert [invoke(*asked, tool)[0] for tool in ("refund", "wipe")] == [0, 4]
    assert invoke(*asked, "refnd")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--args", "[]"], 1),
        (["--args", "{"], 1),
        (["--returned", "look"], 1),
        (["--returned", "look=-1"], 1),
        (["--user", "ada"], 1),
        (["--tenant", " "], 1),
        (["--effect", "reads"], 2),
        (["--kind", "function"], 2),
        (["--at", "soon"], 1),
    ],
)
def test_a_call_that_is_none_is_refused(invoke: Invoke, arguments: list[str], code: int) -> None:
    assert invoke("policy", "explain", "policy.toml", "--tool", "refund", *arguments)[0] == code


# --- replay -----------------------------------------------------------------------------------


def ran(invoke: Invoke, user: str) -> None:
    assert invoke("run", "bot:agent", "Go", "--tenant", "acme", "--user", user)[0] == 0


def replayed(invoke: Invoke, file: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code, out, err = invoke("policy", "replay", file, "--tenant", "acme", *arguments, "--json")
    return code, json.loads(out), err


def test_a_replay_shows_what_would_have_been_judged_otherwise(invoke: Invoke) -> None:
    ran(invoke, "ada")
    code, found, _ = replayed(invoke, "policy.toml", "--store", "sqlite:bot.db")

    assert (code, found["runs"], found["calls"], found["unread"]) == (1, 1, 5, [])
    changes = [
        (each["tool"], each["was"], each["ran"], each["would"], each["rule"]) for each in found["changed"]
    ]
    assert changes == [
        ("refund", "allow", True, "deny", "PolicyDocument:default"),  # nothing had been looked at
        ("refund", "allow", True, "ask", "PolicyDocument:large"),
    ]


def test_a_policy_that_says_the_same_changes_nothing(invoke: Invoke, tmp_path: Path) -> None:
    same = [
        {"effect": "allow", "actions": ["tool:look", "tool:refund"]},
        {"effect": "deny", "actions": ["tool:wipe"]},
    ]
    (tmp_path / "same.json").write_text(json.dumps({"statements": same}))
    ran(invoke, "ada")

    code, out, _ = invoke("policy", "replay", "same.json", "--tenant", "acme", "--store", "sqlite:bot.db")
    assert (code, out) == (0, "1 runs, 5 calls: nothing would have changed.\n")


def test_a_replay_for_people_counts_the_ways(invoke: Invoke) -> None:
    ran(invoke, "mallory")
    code, out, err = invoke("policy", "replay", "policy.toml", "--tenant", "acme", "--agent", "bot:agent")

    assert (code, err) == (1, "")
    assert "1 runs, 5 calls: 4 allow -> deny." in out
    assert "allow, and ran" in out


def test_labels_and_effects_are_those_of_the_agents_tools(invoke: Invoke) -> None:
    ran(invoke, "ada")

    _, found, err = replayed(invoke, "labels.toml", "--agent", "bot:agent")
    assert ([each["tool"] for each in found["changed"]], err) == (["look"], "")
    _, found, err = replayed(invoke, "labels.toml", "--store", "sqlite:bot.db")
    assert [each["tool"] for each in found["changed"]] == ["refund", "look", "refund", "refund"]
    assert "without --agent" in err
    assert "`once` was taken: wipe" in err


def test_only_the_runs_that_are_meant_are_replayed(invoke: Invoke) -> None:
    for user in ("ada", "bob", "ada"):
        ran(invoke, user)
    on = ("policy.toml", "--store", "sqlite:bot.db")

    assert replayed(invoke, *on)[1]["runs"] == 3
    assert replayed(invoke, *on, "--user", "ada")[1]["runs"] == 2
    assert replayed(invoke, *on, "--limit", "1")[1]["runs"] == 1
    assert replayed(invoke, *on, "--since", "2999-01-01")[1]["runs"] == 0
    code, out, _ = invoke("policy", "replay", "policy.toml", "--tenant", "other", "--store", "sqlite:bot.db")
    assert (code, out) == (0, "0 runs, 0 calls: nothing would have changed.\n")


def test_a_store_that_is_not_there_is_not_made(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("policy", "replay", "policy.toml", "--tenant", "acme", "--store", "sqlite:no.db")[0] == 1
    assert invoke("policy", "replay", "policy.toml", "--tenant", "acme")[0] == 1
    assert not (tmp_path / "no.db").exists()
