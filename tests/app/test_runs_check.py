"""`shipworthy runs check`: runs that were paused with one release of the code, and what the next one makes of them."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shipworthy.app import cli
from shipworthy.app.commands.foresight import Foresight
from shipworthy.app.runtimes import SqliteRuntime
from shipworthy.domain.events import RunParked, RunStarted
from shipworthy.domain.journal import Batch
from shipworthy.domain.messages import Text
from shipworthy.domain.scope import Scope

BOT = """
    from shipworthy import (Agent, Decision, Inbox, ScriptedModel, SqliteRuntime, StandardPermissions, ToolCall,
                            ask_human, policy, tool, parallel)

    def did(text):
        with open("effects", "a") as file:
            file.write(text + "\\n")

    def pay_with(effect="once", body=None, **options):
        def pay(amount: int) -> str:
            "Pay."
            did("paid")
            return "paid"
        return tool(body or pay, effect=effect, name="pay", **options)

    def with_currency(amount: int, currency: str) -> str:
        "Pay."
        did("paid")
        return "paid"

    @tool(effect="read")
    def colour() -> str:
        "Ask which colour."
        return "it is " + ask_human("Which colour?", schema=str)

    def judged(decision):
        @policy(version="1", immediate=True)
        def other(scope, action):
            if isinstance(decision, Exception):
                raise decision
            return decision
        return other

    @policy(version="1")
    def may_wait(scope, action):
        did("policy asked")
        return Decision.deny_("no")

    @policy(version="1")
    async def waits(scope, action):
        did("policy asked")
        return Decision.deny_("no")

    def made(call=None, tools=(pay_with(), colour), permissions=StandardPermissions(), inbox=True, name="bot",
             **options):
        script = [call or ToolCall("pay", {"amount": 50}), "Done."]
        keys = options.pop("keys", ())
        return Agent("Pay.", model=ScriptedModel(script), tools=list(tools), name=name, permissions=permissions,
                     runtime=SqliteRuntime("bot.db", signing_keys=keys), approval_handler=Inbox() if inbox else None,
                     **options)

    def hooked():
        agent = made()
        @agent.before_tool
        def looks(ctx, action):
            did("hook asked")
            return Decision.deny_("no")
        return agent

    ASKS = "StandardPermissions:default:ask-once"
    same = made()
    asking = made(ToolCall("colour", {}))
    other = made(name="other")
    unnamed = made(name="agent")
    unnamed_changed = made(name="agent", tools=[pay_with()])
    toolless = made(tools=[])
    refitted = made(tools=[pay_with(body=with_currency)])
    repeatable = made(tools=[pay_with("idempotent")])
    denies = made(permissions=StandardPermissions(denied_tools=["pay", "colour"]))
    raises = made(permissions=judged(KeyError("no such user")))
    odd = made(permissions=judged("yes"))
    renamed = made(permissions=judged(Decision.ask_("why", rule="another")))
    asks_all = made(permissions=judged(Decision.ask_("why", rule="another")))
    allows = made(permissions=StandardPermissions(allowed_tools=["pay"]))
    nobody = made(inbox=False)
    stricter = made(permissions=judged(Decision.ask_("why", rule=ASKS, approvers=2)))
    others_only = made(permissions=judged(Decision.ask_("why", rule=ASKS, among=("otto",))))
    keyed = made(keys=["the team's own secret, of 32 bytes or more"])
    numbers = made(output=int)
    slow = made(permissions=may_wait)
    awaited = made(permissions=waits)
    predicated = made(tools=[pay_with(requires_approval=lambda args: did("predicate asked") or True)])
    required = made(tools=[pay_with(requires_approval=True)])

    def nested(tool_name="child", child_name="child", **options):
        child = made(name=child_name, **options)
        return made(ToolCall("child", {"input": "Pay it."}), tools=[child.as_tool(name=tool_name)])

    parent = nested()
    parent_without = made()
    parent_of_another = nested(child_name="another")
    parent_of_a_group = made(tools=[parallel(made(name="child"), name="child")])
    parent_of_toolless = nested(tools=[])

    @tool(effect="idempotent", name="child")
    def by_hand(input: str) -> str:
        return did("child called") or "by hand"

    parent_by_hand = made(tools=[by_hand])
    no_pay = StandardPermissions(denied_tools=["pay"])
    parent_that_denies = made(tools=[made(name="child").as_tool()], permissions=no_pay)
"""
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Invoke]:
    """Exit code, stdout and stderr of a command, each with the bot imported anew."""
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
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


def begin(invoke: Invoke, agent: str = "same", run_id: str = "r1", tenant: str = "acme") -> None:
    who = ("--tenant", tenant, "--user", "ada", "--run-id", run_id)
    code, _, err = invoke("run", f"bot:{agent}", "Go.", *who)
    assert code == 3, err


def approve(invoke: Invoke, run_id: str = "r1") -> None:
    where = ("--tenant", "acme", "--store", "sqlite:bot.db", "--run", run_id)
    assert invoke("approvals", "approve", *where, "--by", "maria", "--yes")[0] == 0


def checked(invoke: Invoke, agent: str, *options: str) -> dict[str, Any]:
    code, out, err = invoke("runs", "check", f"bot:{agent}", *options, "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == (1 if found.get("broken") else 0), (out, err)
    return found


def kinds(invoke: Invoke, agent: str) -> list[str]:
    return [problem["kind"] for run in checked(invoke, agent)["broken"] for problem in run["problems"]]


def effects() -> list[str]:
    return Path("effects").read_text().splitlines() if Path("effects").exists() else []


# --- what breaks --------------------------------------------------------------------------------

UNANSWERED = {
    "same": [],
    "toolless": ["tool"],
    "refitted": ["arguments"],
    "repeatable": ["effect", "rule"],
    "denies": ["policy"],
    "raises": ["policy"],
    "odd": ["policy"],
    "renamed": ["rule"],
    "required": ["rule"],
    "allows": ["rule"],
    "nobody": ["handler"],
    "stricter": [],  # people are asked on
    "others_only": [],
    "keyed": [],  # nothing is signed yet
    "numbers": ["output"],
}


@pytest.mark.parametrize(("agent", "expected"), UNANSWERED.items(), ids=UNANSWERED)
def test_a_call_that_waits_for_a_yes(invoke: Invoke, agent: str, expected: list[str]) -> None:
    begin(invoke)

    assert kinds(invoke, agent) == expected


APPROVED = {
    "same": [],
    "nobody": [],  # nobody has to be asked any more
    "renamed": ["rule"],
    "stricter": ["approvers"],
    "others_only": ["approvers"],
    "keyed": ["key"],
    "denies": ["policy"],
}


@pytest.mark.parametrize(("agent", "expected"), APPROVED.items(), ids=APPROVED)
def test_a_call_that_has_its_yes(invoke: Invoke, agent: str, expected: list[str]) -> None:
    begin(invoke)
    approve(invoke)

    assert kinds(invoke, agent) == expected


ASKING = {"asking": [], "toolless": ["tool"], "denies": ["policy"], "asks_all": ["rule"], "nobody": []}


@pytest.mark.parametrize(("agent", "expected"), ASKING.items(), ids=ASKING)
def test_a_call_whose_body_asks(invoke: Invoke, agent: str, expected: list[str]) -> None:
    begin(invoke, "asking")

    assert kinds(invoke, agent) == expected


NESTED = {
    "parent": [],
    "parent_without": [("agent", False)],
    "parent_of_another": [("agent", False)],
    "parent_of_a_group": [("agent", False)],
    "parent_by_hand": [("agent", False)],
    "parent_of_toolless": [("tool", True)],
    "parent_that_denies": [("policy", True)],
}


@pytest.mark.parametrize(("agent", "expected"), NESTED.items(), ids=NESTED)
def test_a_call_of_a_nested_run(invoke: Invoke, agent: str, expected: list[tuple[str, bool]]) -> None:
    begin(invoke, "parent")
    broken = checked(invoke, agent)["broken"]

    assert [run["run_id"] for run in broken] == ["r1"] * bool(expected)
    problems = [problem for run in broken for problem in run["problems"] if problem["kind"] != "output"]
    assert [(problem["kind"], "/" in problem["address"]) for problem in problems] == expected


def test_a_journal_of_a_newer_release_breaks(invoke: Invoke) -> None:
    async def write() -> None:
        runtime = SqliteRuntime("bot.db")
        await runtime.open()
        prompt = (Text("Go."),)
        started = RunStarted(seq=1, at=1, run_id="new", tenant="acme", prompt=prompt, agent="bot", format=99)
        batch = Batch([started, RunParked(seq=2, at=2)], {}, "paused")
        await runtime.store.begin(Scope("acme"), "new", batch)
        await runtime.close()

    asyncio.run(write())
    [broken] = checked(invoke, "same")["broken"]
    assert [(problem["kind"], problem["run_id"]) for problem in broken["problems"]] == [("journal", "new")]
    assert "format 99" in broken["problems"][0]["what"]


def test_an_agent_without_a_name_knows_its_runs_only_while_it_is_the_same(invoke: Invoke) -> None:
    begin(invoke, "unnamed")

    assert kinds(invoke, "unnamed") == []
    assert kinds(invoke, "unnamed_changed") == ["name"]


# --- what is looked at, and what is left alone --------------------------------------------------


def test_only_the_agents_own_paused_runs_are_looked_at(invoke: Invoke) -> None:
    begin(invoke, "same", "r1")
    begin(invoke, "same", "r2", tenant="umbrella")
    begin(invoke, "other", "r3")
    assert invoke("runs", "cancel", "r3", "--tenant", "acme", "--agent", "bot:other")[0] == 0
    begin(invoke, "same", "r4")
    assert invoke("runs", "cancel", "r4", "--tenant", "acme", "--agent", "bot:same")[0] == 0

    assert checked(invoke, "toolless")["runs"] == 2
    of_acme = checked(invoke, "toolless", "--tenant", "acme")
    assert [(run["run_id"], run["tenant"]) for run in of_acme["broken"]] == [("r1", "acme")]
    assert checked(invoke, "toolless", "--tenant", "nobody") == {"runs": 0, "broken": [], "not_asked": []}


def test_another_store_can_be_named_and_is_not_made(invoke: Invoke) -> None:
    begin(invoke)
    Path("bot.db").rename("elsewhere.db")

    assert checked(invoke, "toolless")["runs"] == 0
    assert checked(invoke, "toolless", "--store", "sqlite:elsewhere.db")["runs"] == 1
    assert invoke("runs", "check", "bot:same", "--store", "sqlite:nowhere.db")[0] == 1
    assert not Path("nowhere.db").exists()


UNASKED = {
    "slow": "policy may_wait",
    "awaited": "policy waits",
    "hooked": "before_tool hook hooked.<locals>.looks",
    "predicated": "requires_approval= of tool pay",
}


@pytest.mark.parametrize(("agent", "who"), UNASKED.items(), ids=UNASKED)
def test_code_that_may_do_more_than_compute_is_not_asked_and_that_is_said(
    invoke: Invoke, agent: str, who: str
) -> None:
    begin(invoke)
    found = checked(invoke, agent)

    assert ([each["who"] for each in found["not_asked"]], found["broken"], effects()) == ([who], [], [])
    code, out, err = invoke("runs", "check", f"bot:{agent}")
    assert (code, f"not asked, since it may do more than compute: {who}" in err) == (0, True)
    assert out.endswith("1 paused runs, 0 would break.\n")


def test_for_people_each_reason_is_a_line(invoke: Invoke) -> None:
    begin(invoke)
    code, out, _ = invoke("runs", "check", "bot:denies")

    assert code == 1
    assert "r1, of acme / ada:\n  [policy] pay (call_" in out
    assert out.endswith("1 paused runs, 1 would break.\n")


def test_nothing_is_changed_neither_journals_nor_fences(invoke: Invoke) -> None:
    async def facts(run_id: str, *, claims: bool) -> tuple[Any, ...]:
        runtime = SqliteRuntime("bot.db")
        await runtime.open()
        try:
            found = await runtime.store.find(Scope("acme"), run_id)
            events = await runtime.store.read(Scope("acme"), run_id)
            token = (await runtime.store.claim(Scope("acme"), run_id)).fence.token if claims else 0
            return (found if run_id == "r1" else None), events if run_id == "r1" else None, token
        finally:
            await runtime.close()

    begin(invoke, "same", "r1")
    approve(invoke, "r1")
    begin(invoke, "other", "untouched")
    approve(invoke, "untouched")
    before = asyncio.run(facts("r1", claims=False))
    for agent in ("same", "denies", "toolless", "keyed", "hooked"):
        invoke("runs", "check", f"bot:{agent}")

    assert asyncio.run(facts("r1", claims=False)) == before
    tokens = [asyncio.run(facts(run_id, claims=True))[2] for run_id in ("r1", "untouched")]
    assert tokens[0] == tokens[1]
    assert effects() == []


# --- the mutants --------------------------------------------------------------------------------


async def _nothing(*given: Any, **named: Any) -> None:
    """What a check does that is not made."""


@pytest.mark.parametrize(
    ("part", "test", "case"),
    [
        ("_proven", test_a_call_that_has_its_yes, ("keyed", APPROVED["keyed"])),
        ("_judged", test_a_call_that_waits_for_a_yes, ("denies", UNANSWERED["denies"])),
        ("_asked", test_a_call_that_waits_for_a_yes, ("renamed", UNANSWERED["renamed"])),
        ("_fitting", test_a_call_that_waits_for_a_yes, ("refitted", UNANSWERED["refitted"])),
        ("_nested", test_a_call_of_a_nested_run, ("parent_that_denies", NESTED["parent_that_denies"])),
        ("_call", test_a_call_that_waits_for_a_yes, ("toolless", UNANSWERED["toolless"])),
    ],
)
def test_a_check_that_is_not_made_is_caught(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, part: str, test: Any, case: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(Foresight, part, _nothing)

    with pytest.raises(AssertionError):
        test(invoke, *case)
