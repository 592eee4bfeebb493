"""Calls of one answer are judged one after another: each sees those before it that were allowed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Inbox,
    PolicyDocument,
    ScriptedModel,
    ScriptedTurn,
    Statement,
    ToolCall,
    tool,
)
from shipworthy.engine.counting import Counts

ONCE = PolicyDocument(
    [
        Statement(effect="allow", actions=["tool:*"], id="all"),
        Statement(
            effect="deny",
            actions=["tool:refund"],
            conditions={"allowed.refund": {">=": 1}},
            id="one refund a run",
        ),
    ]
)


def refunds(**control: Any) -> list[int]:
    """What was refunded, of two refunds in one answer and a third one later."""
    done: list[int] = []

    @tool(effect="once")
    async def refund(amount: int) -> str:
        """Refund."""
        done.append(amount)
        return "refunded"

    both = [ToolCall("refund", {"amount": 1}), ToolCall("refund", {"amount": 2})]
    model = ScriptedModel([both, ToolCall("refund", {"amount": 3}), ScriptedTurn("Done.")])
    agent = Agent("Refunds.", model=model, tools=[refund], tenant_id="acme", **control)

    async def run() -> None:
        result = await agent.run("Go.")
        while result.status == "paused":
            answers = {call.address: Approve(by="maria") for call in result.pending}
            result = await agent.resume(result, answer=answers)
        assert result.status == "completed"

    asyncio.run(run())
    return done


def test_a_limit_of_how_often_holds_within_one_answer() -> None:
    assert refunds(permissions=ONCE) == [1]


def test_without_the_limit_all_are_made() -> None:
    assert refunds() == [1, 2, 3]


def test_calls_that_are_judged_again_do_not_count_themselves() -> None:
    asked = PolicyDocument(
        [
            Statement(effect="ask", actions=["tool:refund"], id="ask"),
            Statement(
                effect="deny",
                actions=["tool:refund"],
                conditions={"allowed.refund": {">=": 2}},
                id="two refunds a run",
            ),
        ]
    )
    assert refunds(permissions=asked, approval_handler=Inbox()) == [1, 2]


def test_counting_only_earlier_answers_would_let_both_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what this answer's calls were allowed is not seen by those after them."""

    monkeypatch.setattr(Counts, "allow", lambda self, call: None)
    assert refunds(permissions=ONCE) == [1, 2]
