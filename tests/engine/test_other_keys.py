"""A process that signs with other keys than the one that asks is told so, and its yes is not recorded in vain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shipworthy import Agent, Approve, Inbox, ScriptedModel, ScriptedTurn, SqliteRuntime, ToolCall, tool
from shipworthy.errors import AnswerRefused

KEY, OTHER = "k" * 32, "o" * 32


def test_a_yes_under_other_keys_is_refused_at_once(tmp_path: Path) -> None:
    @tool(effect="once", requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    async def main() -> None:
        model = ScriptedModel([ToolCall("pay", {}), ScriptedTurn("Done.")])
        runtime = SqliteRuntime(tmp_path / "bot.db", signing_keys=[KEY])
        agent = Agent(
            "Pay.", model=model, tools=[pay], runtime=runtime, approval_handler=Inbox(), tenant_id="acme"
        )
        await agent.run("Go.", run_id="r")
        for keys in ([OTHER], []):
            elsewhere = (
                SqliteRuntime(tmp_path / "bot.db", signing_keys=keys)
                if keys
                else SqliteRuntime(tmp_path / "bot.db")
            )
            desk = Inbox(runtime=elsewhere)
            [request] = await desk.requests("acme")
            with pytest.raises(AnswerRefused, match="signing_keys"):
                await desk.approve(request, Approve(by="maria"))
            await elsewhere.close()
        rotated = SqliteRuntime(tmp_path / "bot.db", signing_keys=[OTHER, KEY])
        desk = Inbox(runtime=rotated)
        [request] = await desk.requests("acme")
        await desk.approve(request, Approve(by="maria"))
        await rotated.close()
        assert (
            await agent.resume("r")
        ).status == "paused"  # signed with a key that this process has not got yet
        result = await agent.resume("r", answer=Approve(by="maria"))
        assert result.status == "completed"
        await agent.close()

    asyncio.run(main())
