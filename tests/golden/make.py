"""Writes the golden journal of a release, once, before it:

    python -m tests.golden.make > tests/golden/journal-1.jsonl

Later releases fold what earlier ones wrote; a file here is never written again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import msgspec

from shipworthy import DidNotHappen, Happened, Image, ScriptedTurn, Thinking, ToolCall, Usage, tool
from shipworthy.errors import RateLimited
from shipworthy.rules.codec import encode_event
from tests.engine.world import ALICE, agent

PAY = ToolCall("pay", {"amount": 50})


@tool(effect="read")
async def look(at: str) -> str:
    """Look."""
    return f"{at} seen"


async def whole_life(tools: dict[str, Any]) -> Any:
    """Every part and most events: thinking, parallel calls, refusals, a doubt settled twice, a failed attempt."""
    outcomes = iter([ConnectionError("lost"), TimeoutError(), None])

    @tool(effect="once", name="pay")
    async def pay(amount: int) -> str:
        if (error := next(outcomes)) is not None:
            raise error
        return "paid"

    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=2)
    first = ScriptedTurn(
        Thinking("hm", signature="sig", provider="anthropic"),
        "Let me see.",
        ToolCall("look", {"at": "a"}),
        ToolCall("nope"),
        PAY,
        usage=usage,
    )
    a = agent(first, RateLimited("slow down"), PAY, "Paid.", tools=[look, pay])
    prompt = ["Pay", Image(data=b"\x89PNG", media_type="image/png"), "p" * 5_000]
    paused = await a.run(prompt, run_id="whole-life", session_id="s", **ALICE)
    paused = await a.resume(paused, settle={paused.pending[0].call_id: DidNotHappen()})
    paused = await a.resume(paused, settle={paused.pending[0].call_id: Happened("receipt")})
    return a, paused


async def rejected_output(tools: dict[str, Any]) -> Any:
    a = agent(
        ToolCall("final_answer", {"response": "x"}), ToolCall("final_answer", {"response": 7}), output=int
    )
    return a, await a.run("A number", run_id="rejected-output", **ALICE)


async def used_up(tools: dict[str, Any]) -> Any:
    a = agent(ToolCall("look", {"at": "a"}), "So far.", tools=[look], max_turns=1)
    return a, await a.run("Look", run_id="used-up", **ALICE)


async def timed_out(tools: dict[str, Any]) -> Any:
    @tool(effect="read")
    async def wait() -> str:
        await asyncio.sleep(30)
        return "never"

    a = agent(ToolCall("wait"), tools=[wait], timeout=0.05)
    return a, await a.run("Wait", run_id="timed-out", **ALICE)


async def main() -> None:
    for life in (whole_life, rejected_output, used_up, timed_out):
        a, result = await life({})
        events = await a.runtime.store.read(result.scope, result.run_id)
        record = {
            "run_id": result.run_id,
            "status": result.status,
            "stop_reason": result.stop_reason,
            "turns": result.turns,
            "usage": msgspec.to_builtins(result.usage),
            "roles": [m.role for m in result.new_messages],
            "events": [json.loads(encode_event(e)) for e in events],
        }
        sys.stdout.write(json.dumps(record, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
