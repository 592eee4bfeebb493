"""A yes has to be used in its time; the call that was begun by it may then take as long as it likes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import Agent, Approve, Inbox, ScriptedModel, ScriptedTurn, ToolCall, ask_human, tool
from shipworthy.engine import approving


def a_call_that_asks(began_at: list[str]) -> Any:
    @tool(effect="once", requires_approval=True)
    async def book(trip: str) -> str:
        """Book a trip."""
        began_at.append(trip)
        return f"booked {trip} in {ask_human('Which class?', schema=str)}"

    return book


def paused_in_its_body(expires_in: float) -> tuple[Any, list[str]]:
    """A run whose call was approved, began, and waits for an answer until long after the approval's time."""
    began: list[str] = []
    model = ScriptedModel([ToolCall("book", {"trip": "Rome"}), ScriptedTurn("Done.")])
    agent = Agent(
        "Book.", model=model, tools=[a_call_that_asks(began)], approval_handler=Inbox(), tenant_id="acme"
    )

    async def main() -> Any:
        paused = await agent.run("Go.", run_id="r")
        asked = await agent.resume(paused, answer=Approve(by="maria", expires_in=expires_in))
        [waiting] = asked.pending
        assert (waiting.kind, began) == ("answer", ["Rome"])
        await asyncio.sleep(expires_in)
        return await agent.resume("r", answer="first")

    return asyncio.run(main()), began


def test_a_yes_covers_the_call_that_began_in_its_time() -> None:
    result, began = paused_in_its_body(0.3)
    assert (result.status, began) == ("completed", ["Rome", "Rome"])


def test_a_yes_that_is_over_covers_no_call_that_has_not_begun() -> None:
    async def main() -> None:
        began: list[str] = []
        model = ScriptedModel([ToolCall("book", {"trip": "Rome"}), ScriptedTurn("Done.")])
        inbox = Inbox()
        agent = Agent(
            "Book.", model=model, tools=[a_call_that_asks(began)], approval_handler=inbox, tenant_id="acme"
        )
        await agent.run("Go.", run_id="r")
        [request] = await inbox.requests("acme")
        await inbox.approve(request, Approve(by="maria", expires_in=0.05))
        await asyncio.sleep(0.06)
        result = await agent.resume("r")
        assert (result.status, result.pending[0].kind, began) == ("paused", "approval", [])

    asyncio.run(main())


def test_a_yes_that_ends_with_its_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the call that it covers is asked about again, and the answer to its question waits on."""

    def over(call: Any, grant: Any) -> bool:
        return approving._is_past(grant.expires_at)

    monkeypatch.setattr(approving, "_is_over", over)
    result, _ = paused_in_its_body(0.3)
    assert result.status == "paused"
