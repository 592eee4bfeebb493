"""Writes the golden journal of a release, once, before it:

    python -m tests.golden.make > tests/golden/journal-1.jsonl

Later releases fold what earlier ones wrote; a file here is never written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import msgspec

from shipworthy import (
    Agent,
    Approve,
    BudgetConfig,
    Decision,
    Deny,
    DidNotHappen,
    Happened,
    Image,
    Inbox,
    InMemoryLedger,
    PriceTable,
    Replace,
    Scope,
    ScriptedModel,
    ScriptedTurn,
    StandardBudget,
    StandardPermissions,
    Thinking,
    ToolCall,
    Usage,
    ask_human,
    handoff,
    price_usd,
    tool,
)
from shipworthy.app.memories import InMemoryMemory
from shipworthy.domain.events import AgentPaused, MemoryWritten
from shipworthy.errors import AnswerRefused, LedgerUnavailable, RateLimited
from shipworthy.rules.codec import encode_event
from shipworthy.rules.state import replay
from tests.engine.world import ALICE, agent

PRICES = PriceTable({"scripted": price_usd(input=3, output=15)}, then=None)
PAY = ToolCall("pay", {"amount": 50})
ALICE_HERSELF = Scope("acme", "alice")


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


async def out_of_budget(tools: dict[str, Any]) -> Any:
    """A warning, then the limit, then a last answer out of what was kept back."""
    usage = Usage(input_tokens=100, output_tokens=20)
    turns = [ScriptedTurn(ToolCall("look", {"at": "a"}), usage=usage), ScriptedTurn("So far.", usage=usage)]
    budget = StandardBudget(
        BudgetConfig(max_requests=2, max_cost_usd=1, wrap_up=0.5, soft_warning_at=0.4), prices=PRICES
    )
    a = agent(*turns, tools=[look], budget=budget)
    return a, await a.run("Look", run_id="out-of-budget", **ALICE)


async def cut_off(tools: dict[str, Any]) -> Any:
    """An attempt that is abandoned, beside a ledger that cannot be asked."""

    class Down(InMemoryLedger):
        async def reserve(self, hold: Any) -> Any:
            raise LedgerUnavailable("The ledger is down.")

    class Silent:
        name = "silent"

        async def stream(self, request: Any) -> Any:
            await asyncio.sleep(30)
            yield None

        async def close(self) -> None:
            pass

    budget = StandardBudget(
        BudgetConfig(max_wall_clock=0.05, max_tokens=9_000, on_ledger_error="allow"), ledger=Down()
    )
    a = Agent("Be brief.", model=Silent(), budget=budget)
    return a, await a.run("Look", run_id="cut-off", **ALICE)


async def controlled(tools: dict[str, Any]) -> Any:
    """A hook that replaces, a policy that denies, a yes to other arguments that is remembered, a no, a refused answer;
    then a body that asks, is answered, asks something else, and is answered by nobody in time."""
    questions = iter(
        [
            ("Which colour?", {}),
            ("Which number?", {}),
            ("Which number?", {}),
            ("Sure?", LATE),
            ("Sure?", LATE),
        ]
    )

    @tool(effect="once", name="pay")
    async def pay(amount: int) -> str:
        return f"paid {amount}"

    @tool(effect="idempotent")
    async def wipe() -> str:
        raise AssertionError("It is denied by name.")

    @tool(effect="read")
    async def quiz() -> str:
        question, options = next(questions)
        return f"{ask_human(question, **options)}"

    a = agent(
        [
            ToolCall("pay", {"amount": 60}),
            ToolCall("look", {"at": "a"}),
            ToolCall("wipe"),
            ToolCall("pay", {"amount": 7}),
        ],
        ToolCall("pay", {"amount": 40}),
        ToolCall("quiz"),
        ToolCall("quiz"),
        "Done.",
        tools=[look, pay, wipe, quiz],
        permissions=StandardPermissions(denied_tools=["wipe"]),
        approval_handler=Inbox(),
    )

    @a.before_tool
    async def never_sixty(ctx: Any, action: Any) -> Replace | None:
        return Replace({"amount": 50}, "sixty is too much") if action.arguments.get("amount") == 60 else None

    paused = await a.run("Pay", run_id="controlled", **ALICE)
    with contextlib.suppress(AnswerRefused):
        await a.resume(paused.checkpoint, answer=True)
    sixty, seven = [call.address for call in paused.pending]
    said = {
        sixty: Approve(by="maria", arguments={"amount": 40}, remember="run"),
        seven: Deny(by="maria", reason="not seven"),
    }
    paused = await a.resume(paused.checkpoint, answer=said)
    paused = await a.resume(paused.checkpoint, answer="blue")
    paused = await a.resume(paused.checkpoint, answer=7)
    await asyncio.sleep(0.1)
    return a, await a.resume(paused.checkpoint)


LATE = {"schema": bool, "timeout": 0.05, "default": False}


async def denied_by_a_hook(tools: dict[str, Any]) -> Any:
    a = agent(ToolCall("look", {"at": "a"}), tools=[look])

    @a.after_model
    async def nothing_at_all(ctx: Any, answer: Any) -> Decision:
        return Decision.deny_("not today", rule="never")

    return a, await a.run("Look", run_id="denied-by-a-hook", **ALICE)


async def nested(tools: dict[str, Any]) -> Any:
    """A nested agent that waits for a yes, and one that the conversation is handed over to."""

    @tool(effect="once", name="pay")
    async def pay(amount: int) -> str:
        return f"paid {amount}"

    model = ScriptedModel([ToolCall("pay", {"amount": 50}), "Paid."])
    billing = Agent("You pay.", model=model, tools=[pay], name="billing")
    closing = Agent("You close.", model=ScriptedModel(["Goodbye."]), name="closing")
    a = agent(
        ToolCall("billing", {"input": "Pay 50."}),
        ToolCall("hand_off_to_closing", {"input": "Say goodbye."}),
        tools=[billing.as_tool(), handoff(closing)],
        permissions=StandardPermissions(),
        approval_handler=Inbox(),
    )
    paused = await a.run("Pay", run_id="nested", **ALICE)
    return a, await a.resume(paused.checkpoint, answer=Approve(by="maria"))


async def of_the_nested_run(tools: dict[str, Any]) -> Any:
    """The run that was nested in that one."""
    a, outer = await nested(tools)
    journal = await a.runtime.store.read(outer.scope, outer.run_id)
    [run_id] = next(event.runs for event in journal if isinstance(event, AgentPaused))
    return a, await summary(a, outer.scope, run_id)


async def summary(a: Any, scope: Scope, run_id: str) -> SimpleNamespace:
    """What is written of a run that nobody has the result of."""
    while (await a.runtime.store.find(scope, run_id)).status == "running":  # noqa: ASYNC110 - a store has no event
        await asyncio.sleep(0.01)
    state = replay(await a.runtime.store.read(scope, run_id))
    return SimpleNamespace(
        scope=scope,
        run_id=run_id,
        status="completed",
        stop_reason=None,
        turns=state.turns,
        new_messages=state.messages,
    )


def clerk(tools: dict[str, Any]) -> tuple[Any, Any]:
    """An agent that remembers, and learns."""
    proposed = {"subject": "user", "predicate": "likes", "object": "tea", "single": False, "confidence": 0.9}

    def turn(request: Any) -> Any:
        learns = "extract facts" in request.instructions
        return ToolCall("final_answer", {"facts": [proposed]}) if learns else "Tea it is."

    memory = InMemoryMemory(embedder=None)
    model = ScriptedModel([turn])
    return memory, Agent("Be brief.", model=model, memory=memory, auto_extract=True)


async def remembering(tools: dict[str, Any]) -> Any:
    """A run that memory tells something, and that is remembered."""
    memory, a = clerk(tools)
    await memory.remember(ALICE_HERSELF, "Alice drinks tea in the afternoon.", id="first", at=1)
    result = await a.run("Would I rather have tea?", run_id="remembering", **ALICE)
    await a.close()
    return a, result


async def of_the_learner(tools: dict[str, Any]) -> Any:
    """The run that learned from that one."""
    a, result = await remembering(tools)
    journal = await a.runtime.store.read(result.scope, result.run_id)
    [run_id] = [event.learning for event in journal if isinstance(event, MemoryWritten)]
    return a, await summary(a, result.scope, run_id)


LIVES = (
    whole_life,
    rejected_output,
    used_up,
    timed_out,
    out_of_budget,
    cut_off,
    controlled,
    denied_by_a_hook,
    nested,
    of_the_nested_run,
    remembering,
    of_the_learner,
)


async def main() -> None:
    for life in LIVES:
        a, result = await life({})
        events = await a.runtime.store.read(result.scope, result.run_id)
        record = {
            "run_id": result.run_id,
            "status": result.status,
            "stop_reason": result.stop_reason,
            "turns": result.turns,
            "usage": msgspec.to_builtins(replay(events).usage),
            "charged": msgspec.to_builtins(replay(events).charged),
            "roles": [m.role for m in result.new_messages],
            "events": [json.loads(encode_event(e)) for e in events],
        }
        sys.stdout.write(json.dumps(record, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
