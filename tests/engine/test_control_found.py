"""What people who tried to break the control of agents found, each as a law."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Deny,
    Inbox,
    Replace,
    ScriptedModel,
    ScriptedTurn,
    SqliteRuntime,
    StandardPermissions,
    ToolCall,
    ask_human,
    policy,
    tool,
)
from shipworthy.domain.scope import Scope
from shipworthy.errors import AnswerRefused, CheckpointRefused, RunConflict
from tests.engine.world import valid

PAY = ScriptedModel([ToolCall("pay", {"amount": 50}), ScriptedTurn("Done.")])


def payer(**options: Any) -> tuple[Agent[Any, str], list[int]]:
    paid: list[int] = []

    @tool(effect="once")
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    return Agent("Pay.", model=PAY, tools=[pay], tenant_id="acme", **options), paid


def test_a_yes_to_what_was_shown_under_one_rule_is_none_under_another(tmp_path: Path) -> None:
    async def main() -> None:
        def under(rule: str, inbox: Inbox) -> tuple[Agent[Any, str], list[int]]:
            @policy(version=rule, immediate=True)
            def asks(scope: Any, action: Any) -> Decision:
                return Decision.ask_(rule, rule=rule)

            runtime = SqliteRuntime(tmp_path / "bot.db")
            return payer(permissions=asks, approval_handler=inbox, runtime=runtime, name="payer")

        before = Inbox()
        old, _ = under("routine", before)
        await old.run("Go.", run_id="r")
        [shown] = await before.requests("acme")
        await old.close()
        after = Inbox()
        new, paid = under("fraud", after)
        assert (await new.resume("r")).pending[0].rule == "fraud"
        with pytest.raises(AnswerRefused, match="shown"):
            await after.approve(shown, Approve(by="maria"))
        assert (await new.resume("r")).status == "paused"
        assert paid == []
        [shown] = await after.requests("acme")
        await after.approve(shown, Approve(by="maria"))
        assert (await new.resume("r")).status == "completed"
        assert paid == [50]
        await new.close()

    asyncio.run(main())


def test_nothing_is_remembered_for_a_user_of_agents_without_a_name() -> None:
    async def main() -> None:
        agent, paid = payer(permissions=StandardPermissions(), approval_handler=Inbox())
        paused = await agent.run("Go.", user_id="alice")
        with pytest.raises(AnswerRefused, match="name="):
            await agent.resume(paused, answer=Approve(by="maria", remember="user"))
        assert paid == []

    asyncio.run(main())


def test_an_agent_without_name_and_permissions_does_not_go_on_with_a_run_under_permissions(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        strict, _ = payer(
            permissions=StandardPermissions(),
            approval_handler=Inbox(),
            runtime=SqliteRuntime(tmp_path / "bot.db"),
        )
        await strict.run("Go.", run_id="r")
        await strict.close()
        loose, paid = payer(runtime=SqliteRuntime(tmp_path / "bot.db"))
        with pytest.raises(RunConflict, match="permissions"):
            await loose.resume("r")
        assert paid == []
        await loose.close()

    asyncio.run(main())


def test_two_tasks_of_a_body_that_ask_at_once_are_asked_one_after_the_other() -> None:
    @tool(effect="read")
    async def both() -> str:
        """Ask twice."""

        async def one(question: str) -> str:
            return str(ask_human(question))

        return " ".join(await asyncio.gather(one("first?"), one("second?")))

    async def main() -> None:
        model = ScriptedModel([ToolCall("both", {}), ScriptedTurn("Done.")])
        agent = Agent("Ask.", model=model, tools=[both], tenant_id="acme")
        paused = await agent.run("Go.")
        assert paused.pending[0].data == {"question": "first?"}
        paused = await agent.resume(paused, answer="a")
        assert paused.pending[0].data == {"question": "second?"}
        result = await agent.resume(paused, answer="b")
        assert result.status == "completed"
        assert "a b" in result.messages[-2].parts[0].content[0].text

    asyncio.run(main())


@pytest.mark.parametrize("effect", ["read", "once"])
@pytest.mark.parametrize("at_its_end", [False, True])
def test_a_group_of_tasks_that_breaks_in_a_body_cancels_no_run(effect: Any, at_its_end: bool) -> None:
    @tool(effect=effect)
    async def grouped() -> str:
        """Work side by side."""

        async def breaks() -> None:
            await asyncio.sleep(0)
            raise ValueError("broken")

        async with asyncio.TaskGroup() as group:
            group.create_task(breaks())
            if not at_its_end:
                await asyncio.sleep(10)
        return "never"

    async def main() -> None:
        model = ScriptedModel([ToolCall("grouped", {}), ScriptedTurn("Done.")])
        agent = Agent("Work.", model=model, tools=[grouped], tenant_id="acme")
        result = await agent.run("Go.")
        assert result.status == ("paused" if effect == "once" else "completed")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


def test_a_run_that_is_cancelled_while_a_group_of_its_body_works_is_cancelled() -> None:
    started = asyncio.Event()

    @tool(effect="read")
    async def grouped() -> str:
        """Work side by side."""
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(10))
            started.set()
        return "never"

    async def main() -> None:
        model = ScriptedModel([ToolCall("grouped", {}), ScriptedTurn("Done.")])
        agent = Agent("Work.", model=model, tools=[grouped], tenant_id="acme")
        running = asyncio.create_task(agent.run("Go.", run_id="r"))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await agent.resume("r")).status == "cancelled"

    asyncio.run(main())


@pytest.mark.parametrize("waits_for", ["a person", "its time"])
def test_an_instance_whose_code_does_not_fit_loses_nobodys_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    """A bad release takes the run once, fails, and parks it: it is due again, and a good instance goes on with it."""
    booked: list[str] = []

    @tool(effect="once")
    async def book() -> str:
        """Book."""
        late = {} if waits_for == "a person" else {"timeout": 0.05, "default": "second"}
        booked.append(ask_human("Which class?", schema=str, **late))
        return "booked"

    def agent(*tools: Any) -> Agent[Any, str]:
        model = ScriptedModel([ToolCall("book", {}), ScriptedTurn("Done.")])
        return Agent(
            "Book.",
            model=model,
            tools=tools,
            runtime=SqliteRuntime(tmp_path / "bot.db"),
            name="booker",
            tenant_id="acme",
        )

    async def main() -> None:
        good = agent(book)
        paused = await good.run("Go.", run_id="r")
        assert len(paused.pending) == 1
        if waits_for == "a person":
            from shipworthy.engine.answering import Answering

            await Answering(good.runtime, Scope("acme"), "r").take("first")
        else:
            await asyncio.sleep(0.06)
        await good.close()
        bad = agent()
        assert await bad.recover() == []
        await bad.close()
        good = agent(book)
        found = await good.runtime.store.find(Scope("acme"), "r") if await good.recover() else None
        assert found is None  # not at once: the next look is later, and later each time
        waits = await good.resume("r")
        assert (waits.status, booked) == ("completed", ["first" if waits_for == "a person" else "second"])
        await good.close()

    asyncio.run(main())

    async def due() -> int | None:
        other = agent(book)
        await other.runtime.open()
        events = await other.runtime.store.read(Scope("acme"), "r")
        await other.close()
        return next((e.wake_at for e in events if getattr(e, "reason", "") == "missing_tool"), None)

    assert asyncio.run(due()) is not None


def test_a_replacement_with_an_odd_reason_is_a_no() -> None:
    async def main() -> None:
        agent, paid = payer()

        @agent.before_tool
        def odd(ctx: Any, action: Any) -> Any:
            return Replace({"amount": 1}, reason=None)  # type: ignore[arg-type]

        result = await agent.run("Go.")
        assert (result.status, paid) == ("completed", [])
        valid(result.messages)

    asyncio.run(main())


def test_what_could_not_be_decided_tells_the_model_no_names() -> None:
    async def main() -> None:
        @policy(version="1")
        def secret_policy(scope: Any, action: Any) -> Any:
            return None

        agent, paid = payer(permissions=secret_policy)
        result = await agent.run("Go.")
        told = result.messages[-2].parts[0].content[0].text
        assert (paid, "secret" in told) == ([], False)

    asyncio.run(main())


@pytest.mark.parametrize("field", ["key", "mac", "run_id", "tenant_id"])
def test_a_checkpoint_of_texts_that_are_none_is_refused(field: str) -> None:
    async def main() -> None:
        agent, _ = payer(permissions=StandardPermissions(), approval_handler=Inbox())
        paused = await agent.run("Go.")
        assert paused.checkpoint is not None
        with pytest.raises(CheckpointRefused):
            await agent.resume({**paused.checkpoint, field: "\ud800"})

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer", [Deny(by="maria", reason="n" * 10_000), Approve(by="ma\x1bria"), Approve(by="ma\x00ria")]
)
def test_answers_that_say_too_much_are_refused(answer: Any) -> None:
    async def main() -> None:
        agent, paid = payer(permissions=StandardPermissions(), approval_handler=Inbox())
        paused = await agent.run("Go.")
        with pytest.raises(AnswerRefused):
            await agent.resume(paused, answer=answer)
        assert paid == []

    asyncio.run(main())


def test_an_approver_whose_yes_is_over_can_say_it_again() -> None:
    @tool(effect="once", requires_approval=True, approvers=2)
    async def pay() -> str:
        """Pay."""
        return "paid"

    async def main() -> None:
        inbox = Inbox()
        model = ScriptedModel([ToolCall("pay", {}), ScriptedTurn("Done.")])
        agent = Agent("Pay.", model=model, tools=[pay], tenant_id="acme", approval_handler=inbox)
        await agent.run("Go.", run_id="r")
        [request] = await inbox.requests("acme")
        await inbox.approve(request, Approve(by="maria", expires_in=0.02))
        await asyncio.sleep(0.03)
        await inbox.approve(request, Approve(by="maria"))
        await inbox.approve(request, Approve(by="otto"))
        assert (await agent.resume("r")).status == "completed"

    asyncio.run(main())


def test_a_handler_with_a_default_of_its_own_is_given_the_request() -> None:
    seen: list[Any] = []

    def asks(request: Any, dry: bool = False) -> Approve:
        seen.append((request.tool, dry))
        return Approve(by="maria")

    agent, paid = payer(permissions=StandardPermissions(), approval_handler=asks)
    assert asyncio.run(agent.run("Go.")).status == "completed"
    assert (seen, paid) == ([("pay", False)], [50])


@pytest.mark.parametrize("asked_by", ["inbox", "handler"])
def test_a_yes_for_the_run_holds_for_every_nested_run_of_the_same_agent(asked_by: str) -> None:
    asked: list[str] = []

    async def handler(request: Any) -> Approve:
        asked.append(request.address)
        return Approve(by="maria", remember="run")

    async def main() -> None:
        paid: list[int] = []

        @tool(effect="once", requires_approval=True)
        async def pay(amount: int) -> str:
            """Pay."""
            paid.append(amount)
            return "paid"

        teller = Agent("Pay.", model=PAY, tools=[pay], name="teller")
        script = [
            ToolCall("teller", {"input": "Pay."}),
            ToolCall("teller", {"input": "Again."}),
            ScriptedTurn("Done."),
        ]
        desk = Inbox() if asked_by == "inbox" else handler
        clerk = Agent(
            "Ask.",
            model=ScriptedModel(script),
            tools=[teller.as_tool()],
            approval_handler=desk,
            tenant_id="acme",
        )
        result = await clerk.run("Go.")
        if asked_by == "inbox":
            result = await clerk.resume(result, answer=Approve(by="maria", remember="run"))
        assert (result.status, paid, len(asked)) == ("completed", [50, 50], int(asked_by == "handler"))

    asyncio.run(main())
