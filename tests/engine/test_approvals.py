"""Approvals: of exactly one call, by those who may, now or later; and a conversation that stays valid."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from shipworthy import Agent, Approve, Decision, Deny, Inbox, ScriptedTurn, SqliteRuntime, ToolCall, tool
from shipworthy.domain.events import ApprovalGranted, ApprovalRequested
from shipworthy.errors import AnswerRefused, CheckpointRefused, RunBusy, RunNotFound
from tests.engine import control_world as w
from tests.engine.world import ALICE, agent, go, journal, kinds, told, valid

PAY = ToolCall("pay", {"amount": 50})


def asking(*turns: Any, bodies: w.Bodies, handler: Any, **options: Any) -> Agent[Any, Any]:
    """An agent whose every call is asked about."""
    options.setdefault("permissions", w.ASKS)
    options.setdefault("name", "payer")
    return agent(*(turns or (PAY, "Done.")), tools=bodies.tools(), approval_handler=handler, **options)


# ------------------------------------------------------------------------------------------------ a handler


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answer", [w.YES, w.ALLOW], ids=["Approve", "allow"])
def test_a_handlers_yes_runs_the_call_once(answer: Any, stream: bool) -> None:
    async def law() -> None:
        bodies = w.Bodies()
        a = asking(bodies=bodies, handler=lambda request: answer)
        result = await w.finish(a, stream, run_id="r")
        assert (result.status, bodies.made) == ("completed", [50])
        assert kinds(await journal(a, "r")).count("ApprovalGranted") == 1
        assert valid(result.messages)

    go(law())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer", [Deny(by="maria", reason="Too much."), Decision.deny_("Too much.")], ids=["Deny", "deny"]
)
def test_a_handlers_no_is_told_with_its_reason(answer: Any, stream: bool) -> None:
    bodies = w.Bodies()
    result = go(w.finish(asking(bodies=bodies, handler=lambda request: answer), stream))
    assert (result.status, bodies.ran) == ("completed", {})
    assert told(result) == "Denied: a person said no. Too much."
    assert valid(result.messages)


def test_a_handler_is_shown_who_wants_what_and_why() -> None:
    shown: list[Any] = []
    bodies = w.Bodies()

    async def handler(ctx: Any, request: Any) -> Approve:
        shown.append(
            (ctx.scope.user, request.scope.user, request.tool, dict(request.arguments), request.reason)
        )
        shown.append([message.role for message in request.seen])
        return w.YES

    go(asking(bodies=bodies, handler=handler).run("Go.", **ALICE))
    assert shown == [
        ("alice", "alice", "pay", {"amount": 50}, "Somebody has to look at it."),
        ["user", "assistant"],
    ]


def test_arguments_that_an_approver_edits_are_what_runs_and_the_model_is_told() -> None:
    bodies = w.Bodies()
    result = go(
        asking(bodies=bodies, handler=lambda r: Approve(by="maria", arguments={"amount": 5})).run(
            "Go.", **ALICE
        )
    )
    assert bodies.made == [5]
    assert told(result).startswith("[Called with arguments that an approver changed: ")


def test_edited_arguments_are_judged_and_a_policy_may_deny_them() -> None:
    small = w.Immediate(
        lambda s, a: (
            Decision.ask_("?", rule="ask") if a.arguments["amount"] <= 50 else Decision.deny_("Never.")
        )
    )
    bodies = w.Bodies()
    handler = lambda request: Approve(by="maria", arguments={"amount": 99999})  # noqa: E731
    result = go(asking(bodies=bodies, handler=handler, permissions=small).run("Go.", **ALICE))
    assert (bodies.made, told(result)) == ([], "Denied: Never.")


def test_an_approval_of_one_rule_is_none_of_the_rule_that_edited_arguments_come_under() -> None:
    asked: list[Any] = []
    tiers = w.Immediate(
        lambda s, a: Decision.ask_("?", rule="small" if a.arguments["amount"] <= 50 else "large")
    )

    def handler(request: Any) -> Any:
        asked.append(request.rule)
        return (
            Approve(by="maria", arguments={"amount": 99999}) if request.rule == "small" else Deny(by="carl")
        )

    bodies = w.Bodies()
    go(asking(bodies=bodies, handler=handler, permissions=tiers).run("Go.", **ALICE))
    assert (asked, bodies.made) == (["small", "large"], [])


def test_a_rule_that_is_another_one_at_each_look_asks_a_bounded_number_of_times_and_denies() -> None:
    asked: list[str] = []
    bodies = w.Bodies()
    moving = w.Immediate(lambda s, a: Decision.ask_("?", rule=f"rule {len(asked)}"))
    result = go(
        asking(bodies=bodies, handler=lambda r: (asked.append(r.rule), w.YES)[1], permissions=moving).run(
            "Go.", **ALICE
        )
    )
    assert (bodies.ran, len(asked) < 20, result.status) == ({}, True, "completed")


@pytest.mark.parametrize(
    ("remember", "covers", "asked"),
    [
        (None, "arguments", 5),
        ("run", "arguments", 4),
        ("run", "tool", 2),
        ("user", "arguments", 2),
        ("user", "tool", 1),
    ],
)
def test_a_yes_is_remembered_as_far_as_the_approver_says(remember: Any, covers: Any, asked: int) -> None:
    """Two runs of one user: 50, 50 and 60 in the first one, 60 and 50 in the second."""

    async def law() -> None:
        seen: list[Any] = []
        bodies = w.Bodies()

        def handler(request: Any) -> Approve:
            seen.append(request.arguments["amount"])
            return Approve(by="maria", remember=remember, covers=covers)

        first = asking(PAY, PAY, ToolCall("pay", {"amount": 60}), "Done.", bodies=bodies, handler=handler)
        await first.run("Go.", **ALICE)
        second = asking(
            ToolCall("pay", {"amount": 60}),
            PAY,
            "Done.",
            bodies=bodies,
            handler=handler,
            runtime=first.runtime,
        )
        await second.run("Go.", **ALICE)
        assert bodies.made == [50, 50, 60, 60, 50]
        assert len(seen) == asked

        before = len(seen)
        await second.run("Go.", tenant_id="acme", user_id="bob")
        await second.run("Go.", tenant_id="globex", user_id="alice")
        fresh = {"arguments": 2, "tool": 1}[covers] if remember is not None else 2
        assert len(seen) - before == 2 * fresh, "what is remembered of one user is nothing to others"

    go(law())


def test_what_is_remembered_of_a_tool_is_not_for_another_one_nor_another_rule() -> None:
    async def law() -> None:
        seen: list[Any] = []
        bodies = w.Bodies()

        def handler(request: Any) -> Approve:
            seen.append((request.tool, request.rule))
            return Approve(by="maria", remember="user", covers="tool")

        by = w.Immediate(
            lambda s, a: Decision.ask_("?", rule="large" if a.arguments["amount"] > 50 else "small")
        )
        calls = [PAY, ToolCall("put", {"amount": 50}), ToolCall("pay", {"amount": 51}), PAY]
        await asking(*calls, "Done.", bodies=bodies, handler=handler, permissions=by).run("Go.", **ALICE)
        assert seen == [("pay", "small"), ("put", "small"), ("pay", "large")]

    go(law())


def test_a_handler_is_asked_again_until_several_people_have_said_yes() -> None:
    people = iter(["maria", "carl"])
    bodies = w.Bodies()
    two = w.Immediate(lambda s, a: Decision.ask_("?", rule="two", approvers=2))
    go(asking(bodies=bodies, handler=lambda r: Approve(by=next(people)), permissions=two).run("Go.", **ALICE))
    assert (bodies.made, list(people)) == ([50], [])


@pytest.mark.parametrize(
    ("ask", "by"),
    [
        (Decision.ask_("?", rule="two", approvers=2), "maria"),
        (Decision.ask_("?", rule="among", among=("carl", "carla")), "maria"),
    ],
    ids=["the same person twice", "somebody else"],
)
def test_whoever_may_not_say_yes_has_not(ask: Decision, by: str) -> None:
    bodies = w.Bodies()
    result = go(
        asking(bodies=bodies, handler=lambda r: Approve(by=by), permissions=w.Immediate(lambda *_: ask)).run(
            "Go.", **ALICE
        )
    )
    assert (result.status, bodies.ran) == ("completed", {})
    assert valid(result.messages)


# --------------------------------------------------------------------------------------------------- an inbox


@pytest.mark.parametrize("stream", [False, True])
def test_other_calls_of_the_answer_run_before_it_parks_and_once_calls_after_the_one_that_is_asked_wait(
    stream: bool,
) -> None:
    async def law() -> None:
        bodies = w.Bodies()
        only = w.Immediate(
            lambda s, a: Decision.ask_("?", rule="50") if a.arguments["amount"] == 50 else w.ALLOW
        )
        calls = [
            ToolCall("pay", {"amount": 1}),
            PAY,
            ToolCall("pay", {"amount": 2}),
            ToolCall("look", {"amount": 3}),
        ]
        a = asking(calls, "Done.", bodies=bodies, handler=Inbox(), permissions=only)
        result = await w.finish(a, stream, run_id="r")
        assert (result.status, sorted(bodies.made)) == ("paused", [1, 3])
        result = await a.resume(result.checkpoint, answer=w.YES)
        assert (result.status, sorted(bodies.made)) == ("completed", [1, 2, 3, 50])
        assert bodies.made[-2:] == [50, 2]
        assert valid(result.messages)

    go(law())


def test_nobody_answering_in_time_is_a_no() -> None:
    async def law() -> None:
        bodies = w.Bodies()
        a = asking(bodies=bodies, handler=Inbox(expires_in=0.01))
        result = await a.run("Go.", run_id="r", **ALICE)
        await asyncio.sleep(0.02)
        with pytest.raises(AnswerRefused):
            await a.resume(result.checkpoint, answer=Approve(by="maria"))
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, bodies.ran, told(result)) == (
            "completed",
            {},
            "Denied: Nobody approved of it in time.",
        )
        assert valid(result.messages)

    go(law())


def test_a_worker_goes_on_with_a_run_when_its_time_is_over() -> None:
    async def law() -> None:
        from shipworthy import Tuning

        bodies = w.Bodies()
        a = asking(
            bodies=bodies, handler=Inbox(expires_in=0.01), tuning=Tuning(recover_every=0.01), name="payer"
        )
        async with a:
            await a.run("Go.", run_id="r", **ALICE)
            while "RunEnded" not in kinds(await journal(a, "r")):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert bodies.ran == {}

    go(law())


NOW: dict[str, tuple[Any, str, int]] = {
    "allows": (w.ALLOW, "completed", 1),
    "denies": (Decision.deny_("No more."), "completed", 0),
    "asks under another rule": (Decision.ask_("?", rule="other"), "paused", 0),
    "asks under the same rule": (Decision.ask_("Other words.", rule="ask"), "completed", 1),
    "wants two": (Decision.ask_("?", rule="ask", approvers=2), "paused", 0),
    "wants somebody else": (Decision.ask_("?", rule="ask", among=("carl",)), "paused", 0),
}


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("now", NOW)
def test_a_policy_that_changed_in_between_is_what_holds(now: str, approved: bool) -> None:
    async def law() -> None:
        decision, status, ran = NOW[now]
        bodies, inbox = w.Bodies(), Inbox()
        old = asking(bodies=bodies, handler=inbox)
        await old.run("Go.", run_id="r", **ALICE)
        if approved:
            (request,) = await inbox.requests("acme")
            await inbox.approve(request, w.YES)
        new = asking(
            bodies=bodies, handler=Inbox(), permissions=w.Immediate(lambda *_: decision), runtime=old.runtime
        )
        result = await new.resume("r", tenant_id="acme")
        if not approved and now == "asks under the same rule":
            status, ran = "paused", 0
        assert (result.status, len(bodies.made)) == (status, ran)
        if status == "paused":
            assert len(result.pending) == 1
        else:
            assert valid(result.messages)

    go(law())


def test_what_a_person_denied_stays_denied_whatever_the_policy_says_then() -> None:
    async def law() -> None:
        bodies, inbox = w.Bodies(), Inbox()
        old = asking(bodies=bodies, handler=inbox)
        await old.run("Go.", run_id="r", **ALICE)
        (request,) = await inbox.requests("acme")
        await inbox.deny(request, Deny(by="maria", reason="Never."))
        new = asking(
            bodies=bodies, handler=Inbox(), permissions=w.Immediate(lambda *_: w.ALLOW), runtime=old.runtime
        )
        result = await new.resume("r", tenant_id="acme")
        assert (result.status, bodies.ran, told(result)) == (
            "completed",
            {},
            "Denied: a person said no. Never.",
        )

    go(law())


def test_a_parked_run_does_not_block_its_session() -> None:
    async def law() -> None:
        bodies = w.Bodies()
        a = asking(bodies=bodies, handler=Inbox())
        paused = await a.run("Pay.", session_id="s", run_id="r", **ALICE)
        other = asking("Hello.", bodies=bodies, handler=Inbox(), runtime=a.runtime)
        between = await other.run("Hi.", session_id="s", **ALICE)
        assert (between.output, valid(between.messages)) == ("Hello.", True)
        result = await a.resume(paused.checkpoint, answer=w.YES)
        assert (result.status, valid(result.messages)) == ("completed", True)
        last = await other.run("Hi again.", session_id="s", **ALICE)
        assert valid(last.messages)

    go(law())


def test_requests_are_of_one_tenant_and_name_whose_they_are() -> None:
    async def law() -> None:
        bodies, inbox = w.Bodies(), Inbox()
        a = asking(bodies=bodies, handler=inbox)
        for tenant, user in (("acme", "alice"), ("acme", "bob"), ("globex", "alice")):
            await a.run("Go.", tenant_id=tenant, user_id=user, run_id=f"{tenant}-{user}")
        assert [r.scope.user for r in await inbox.requests("acme")] == ["alice", "bob"]
        (foreign,) = await inbox.requests("globex")
        with pytest.raises(RunNotFound):
            await inbox.requests("globex", run_id="acme-alice")
        with pytest.raises((CheckpointRefused, RunNotFound)):
            await a.resume("globex-alice", tenant_id="acme", answer=w.YES)
        await inbox.approve(foreign, w.YES)
        assert [(await a.resume(r, tenant_id="acme")).status for r in ("acme-alice", "acme-bob")] == [
            "paused"
        ] * 2
        assert bodies.ran == {}

    go(law())


def test_a_run_is_answered_while_another_process_of_the_users_is_not_in_the_way() -> None:
    """Answering twice, or what nobody asked, is refused; a run that is under way is busy."""

    async def law() -> None:
        bodies, inbox = w.Bodies(), Inbox()
        a = asking(bodies=bodies, handler=inbox)
        await a.run("Go.", run_id="r", **ALICE)
        (request,) = await inbox.requests("acme")
        await inbox.approve(request, w.YES)
        with pytest.raises((AnswerRefused, RunBusy)):
            await inbox.deny(request, Deny(by="carl"))
        assert (await a.resume("r", tenant_id="acme")).status == "completed"
        with pytest.raises(AnswerRefused):
            await inbox.approve(request, w.YES)
        assert bodies.made == [50]

    go(law())


def test_what_was_asked_before_a_crash_is_asked_as_long_as_it_was_and_what_was_said_is_not_asked_again() -> (
    None
):
    async def law() -> None:
        bodies = w.Bodies()
        a = asking(bodies=bodies, handler=Inbox(expires_in=60))
        await a.run("Go.", run_id="r", **ALICE)
        again = asking(bodies=bodies, handler=Inbox(expires_in=6000), runtime=a.runtime)
        await again.resume("r", tenant_id="acme")
        asked = [e.expires_at for e in await journal(a, "r") if isinstance(e, ApprovalRequested)]
        assert len(set(asked)) == 1

    go(law())


def test_an_approval_names_its_approver_and_when_it_ends() -> None:
    async def law() -> None:
        bodies = w.Bodies()
        a = asking(bodies=bodies, handler=lambda request: Approve(by="maria", expires_in=60))
        await a.run("Go.", run_id="r", **ALICE)
        (granted,) = [e for e in await journal(a, "r") if isinstance(e, ApprovalGranted)]
        assert (granted.approver, granted.tool) == ("maria", "pay")
        assert 0 < granted.expires_at - granted.at <= 60_000

    go(law())


# ------------------------------------------------------------------------------------------------ requiring it


def test_a_predicate_sees_the_arguments_as_the_body_will_get_them() -> None:
    seen: list[Any] = []
    made: list[int] = []

    @tool(
        effect="once",
        requires_approval=lambda args: (seen.append(args.amount), args.amount > 10)[1],
        approvers=2,
    )
    async def pay(amount: int) -> str:
        made.append(amount)
        return "paid"

    people = iter(["maria", "carl"])
    calls = [ToolCall("pay", {"amount": 5}), ToolCall("pay", {"amount": 50})]
    a = agent(calls, "Done.", tools=[pay], approval_handler=lambda request: Approve(by=next(people)))
    go(a.run("Go.", **ALICE))
    assert made == [5, 50]
    assert set(seen) == {5, 50}


def test_a_tool_that_requires_approval_is_not_run_where_nobody_can_be_asked() -> None:
    made: list[int] = []

    @tool(effect="read", requires_approval=True)
    async def look(amount: int) -> str:
        made.append(amount)
        return "seen"

    result = go(
        agent(ScriptedTurn(ToolCall("look", {"amount": 1})), "Done.", tools=[look]).run("Go.", **ALICE)
    )
    assert (made, result.status, valid(result.messages)) == ([], "completed", True)
    assert told(result).startswith("Denied: ")


# ------------------------------------------------------------------------------------------- in other processes


def test_a_checkpoint_is_plain_json_and_good_in_another_runtime_on_the_same_file(tmp_path: Any) -> None:
    async def law() -> None:
        bodies = w.Bodies()
        first = asking(bodies=bodies, handler=Inbox(), runtime=SqliteRuntime(tmp_path / "runs.db"))
        paused = await first.run("Go.", **ALICE)
        await first.close()
        carried = json.loads(json.dumps(paused.checkpoint))
        second = asking(bodies=bodies, handler=Inbox(), runtime=SqliteRuntime(tmp_path / "runs.db"))
        result = await second.resume(carried, answer=w.YES)
        assert (result.status, bodies.made, valid(result.messages)) == ("completed", [50], True)
        with pytest.raises(CheckpointRefused):
            await second.resume(carried, answer=w.YES)
        assert bodies.made == [50]
        await second.close()

    go(law())
