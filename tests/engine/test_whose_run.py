"""A run goes on with the agent that it was begun by: another one has other permissions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shipworthy import (
    Agent,
    Approve,
    Inbox,
    Mode,
    ScriptedModel,
    ScriptedTurn,
    SqliteRuntime,
    StandardPermissions,
    ToolCall,
    tool,
)
from shipworthy.errors import RunConflict


@pytest.mark.parametrize("answered", [False, True])
def test_an_agent_that_allows_more_does_not_go_on_with_anothers_run(tmp_path: Path, answered: bool) -> None:
    paid: list[int] = []

    @tool(effect="once")
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    def agent(name: str, mode: Mode) -> Agent[object, str]:
        model = ScriptedModel([ToolCall("pay", {"amount": 50}), ScriptedTurn("Done.")])
        permissions = StandardPermissions(mode)
        runtime = SqliteRuntime(tmp_path / "bot.db")
        return Agent(
            "You pay.",
            model=model,
            tools=[pay],
            runtime=runtime,
            name=name,
            permissions=permissions,
            approval_handler=Inbox(),
            tenant_id="acme",
        )

    async def main() -> None:
        strict, loose = agent("strict", Mode.DEFAULT), agent("loose", Mode.BYPASS)
        paused = await strict.run("Pay 50.", run_id="order-17")
        assert paused.status == "paused"
        with pytest.raises(RunConflict, match="'strict'"):
            await loose.resume("order-17", answer=Approve(by="maria") if answered else None)
        assert paid == []
        result = await strict.resume("order-17", answer=None if answered else Approve(by="maria"))
        assert (result.status, paid) == ("completed", [50])
        await strict.close()
        await loose.close()

    asyncio.run(main())
