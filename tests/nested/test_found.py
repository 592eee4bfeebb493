"""What breakers of nested agents found, and is mended."""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Inbox,
    PolicyDocument,
    StandardPermissions,
    handoff,
    parallel,
    policy,
    tool,
)
from shipworthy.domain.policy import Action, Mode
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, MissingTool
from tests.nested.world import R, Sink, World, act, asks, calls, go, scripted, told

# --- hooks after a tool -----------------------------------------------------------------------


def _teller(**options: Any) -> Agent[Any, Any]:
    """It says too much, and may not go on to its end."""

    @tool(effect="read")
    async def look() -> str:
        return "fine"

    return scripted("teller", calls("look"), "The card is 4111 1111.", tools=[look], **options)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("turns", [5, 1])
def test_what_an_agent_said_that_was_stopped_is_shown_to_hooks_as_any_result(
    grouped: bool, turns: int, how: str
) -> None:
    async def law() -> None:
        teller = _teller(max_turns=turns)
        given = parallel(teller, name="teller") if grouped else teller.as_tool()
        boss = scripted("boss", asks("teller"), "Done.", tools=[given])
        seen: list[str] = []

        @boss.after_tool
        def no_cards(ctx: Any, action: Action, result: Any) -> Decision | None:
            seen.append(action.name)
            leaks = any("4111" in part.text for part in result)
            return Decision.deny_("a card", rule="cards") if leaks else None

        result = await act(boss, how)
        assert "4111" not in told(result)
        assert seen[-1] == "teller"

    go(law())
