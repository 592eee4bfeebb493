"""Runs of every kind and with every end, on one runtime and in one log; and what the log must say of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shipworthy import (
    Agent,
    Approve,
    BudgetConfig,
    Deny,
    Happened,
    Inbox,
    InMemoryMemory,
    Mode,
    PriceTable,
    Replace,
    Scope,
    ScriptedModel,
    ScriptedTurn,
    StandardBudget,
    StandardPermissions,
    ToolCall,
    Usage,
    ask_human,
    handoff,
    price_usd,
    tool,
)
from shipworthy.errors import Fenced, RequestRejected
from tests.audit.evidence import ALICE, Place
from tests.engine.world import too_long

PAY = ToolCall("pay", {"amount": 5})
PRICES = PriceTable({"scripted": price_usd(input=3, output=15)}, then=None)
TEA = {"subject": "user", "predicate": "likes", "object": "tea", "single": False, "confidence": 0.9}


class Life(msgspec.Struct, frozen=True):
    """What was lived in a run of this id: how it ended, and what its entries must say among others, in this order, as
    (action, actor)."""

    run_id: str
    status: str
    said: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str, Any], ...] = ()
    """(action, fact, value)."""


class World:
    """One runtime and one log, and agents on them."""

    def __init__(self, place: Place, runtime: Any) -> None:
        self.place, self.runtime, self.log = place, runtime, place.log()
        self.effects: list[int] = []
        self.reached = asyncio.Event()
        self.closing: list[Agent[Any, Any]] = []

    def agent(self, *turns: Any, **options: Any) -> Agent[Any, Any]:
        options.setdefault("tools", [self.pay()])
        return self.place.agent(*turns, runtime=self.runtime, audit_log=self.log, **options)

    def pay(self) -> Any:
        @tool(effect="once")
        async def pay(amount: int) -> str:
            """Pay."""
            self.effects.append(amount)
            return f"paid {amount}"

        return pay


Living = Callable[[World], Awaitable[Life]]


async def completed(world: World) -> Life:
    result = await world.agent(PAY, "Done.").run("Go", run_id="completed", session_id="s", **ALICE)
    said = (("run.started", "user:alice"), ("model.answered", "model:scripted"), ("tools.allowed", "policy"))
    more = (("tool.attempted", "agent:clerk"), ("tool.returned", "tool:pay"), ("run.ended", "runtime"))
    return Life("completed", result.status, said + more, (("tool.returned", "outcome", "ok"),))


async def failed(world: World) -> Life:
    result = await world.agent(RequestRejected("no")).run("Go", run_id="failed", **ALICE)
    return Life("failed", result.status, (("model.failed", "model"), ("run.ended", "runtime")))


async def cancelled(world: World) -> Life:
    @tool(effect="read")
    async def wait() -> str:
        world.reached.set()
        await asyncio.Event().wait()
        return ""

    task = asyncio.create_task(
        world.agent(ToolCall("wait"), tools=[wait]).run("Go", run_id="cancelled", **ALICE)
    )
    await world.reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    said = (("tool.attempted", "agent:clerk"), ("run.stopping", "runtime"), ("run.ended", "runtime"))
    return Life("cancelled", "cancelled", said)


async def timed_out(world: World) -> Life:
    @tool(effect="read")
    async def stay() -> str:
        await too_long()
        return ""

    agent = world.agent(ToolCall("stay"), tools=[stay], timeout=20.0)
    result = await agent.run("Go", run_id="timed out", **ALICE)
    facts = (("run.stopping", "cause", "timeout"), ("run.ended", "stop_reason", "timeout"))
    return Life("timed out", result.status, (("run.stopping", "runtime"), ("run.ended", "runtime")), facts)


async def over_budget(world: World) -> Life:
    turn = ScriptedTurn(PAY, usage=Usage(input_tokens=400, output_tokens=20))
    config = BudgetConfig(per_user_max_tokens=1_000, max_output_tokens_per_call=500)
    agent = world.agent(turn, turn, turn, budget=StandardBudget(config, prices=PRICES), name="thrifty")
    result = await agent.run("Go", run_id="over budget", tenant_id="acme", user_id="bob")
    facts = (("budget.refused", "limit", "per_user_max_tokens"), ("budget.refused", "cap", 1_000))
    return Life("over budget", result.status, (("budget.refused", "budget"), ("run.ended", "runtime")), facts)


async def denied(world: World) -> Life:
    agent = world.agent(PAY, "A pity.", permissions=StandardPermissions(Mode.PLAN))
    result = await agent.run("Go", run_id="denied", **ALICE)
    [entry] = [each for each in world.place.of("denied") if each.action == "tool.denied"]
    assert entry.facts["rule"]
    assert entry.facts["policy"]
    return Life("denied", result.status, (("tool.denied", f"policy:{entry.facts['rule']}"),))


def _asking(world: World) -> Agent[Any, Any]:
    return world.agent(PAY, "Done.", permissions=StandardPermissions(), approval_handler=Inbox())


async def approved(world: World) -> Life:
    paused = await _asking(world).run("Go", run_id="approved", **ALICE)
    assert paused.status == "paused"
    assert world.place.actions("approved")[-1] == "run.parked"
    result = await _asking(world).resume(paused, answer=Approve(by="carol"))
    [asked] = [each for each in world.place.of("approved") if each.action == "approval.requested"]
    assert asked.facts["rule"]
    assert asked.facts["policy"]
    said = (("run.parked", "runtime"), ("approval.granted", "approver:carol"))
    return Life("approved", result.status, (*said, ("tool.attempted", "agent:clerk")))


async def not_approved(world: World) -> Life:
    paused = await _asking(world).run("Go", run_id="not approved", **ALICE)
    result = await _asking(world).resume(paused, answer=Deny(by="dave"))
    return Life("not approved", result.status, (("approval.denied", "approver:dave"),))


async def approved_at_once(world: World) -> Life:
    agent = world.agent(
        PAY, "Done.", permissions=StandardPermissions(), approval_handler=lambda request: Approve(by="erin")
    )
    result = await agent.run("Go", run_id="approved at once", **ALICE)
    return Life("approved at once", result.status, (("approval.granted", "approver:erin"),))


async def answered(world: World) -> Life:
    @tool(effect="read")
    async def survey() -> str:
        return str(ask_human("Which colour?"))

    agent = world.agent(ToolCall("survey"), "Blue.", tools=[survey])
    paused = await agent.run("Go", run_id="answered", **ALICE)
    result = await agent.resume(paused, answer="blue")
    said = (("human.asked", "tool:survey"), ("run.parked", "runtime"), ("human.answered", "person:person"))
    return Life("answered", result.status, said)


async def cancelled_while_paused(world: World) -> Life:
    run_id = "cancelled while paused"
    await _asking(world).run("Go", run_id=run_id, **ALICE)
    result = await _asking(world).cancel(run_id, tenant_id="acme")
    return Life(run_id, result.status, (("run.parked", "runtime"), ("run.ended", "runtime")))


async def edited(world: World) -> Life:
    agent = world.agent(PAY, "Done.")
    agent.before_tool(lambda ctx, action: Replace({"amount": 4}))
    result = await agent.run("Go", run_id="edited", **ALICE)
    assert world.effects[-1] == 4
    [entry] = [each for each in world.place.of("edited") if each.action == "arguments.replaced"]
    assert entry.actor not in ("", "runtime")
    return Life("edited", result.status, (("arguments.replaced", entry.actor), ("tool.returned", "tool:pay")))


async def in_doubt(world: World) -> Life:
    @tool(effect="once")
    async def pay(amount: int) -> str:
        raise OSError("no answer")

    agent = world.agent(PAY, "Done.", tools=[pay])
    parked = await agent.run("Go", run_id="in doubt", **ALICE)
    assert [call.kind for call in parked.pending] == ["in_doubt"]
    result = await agent.resume(parked, settle={parked.pending[0].call_id: Happened("paid")})
    said = (("tool.in_doubt", "tool:pay"), ("run.parked", "runtime"), ("tool.settled", "person"))
    return Life("in doubt", result.status, said, (("tool.settled", "happened", True),))


async def recovered(world: World) -> Life:
    """Another sitting goes on with what one left that does not come back."""
    begun, gate = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def look() -> str:
        begun.set()
        await gate.wait()
        return "seen"

    def agent() -> Agent[Any, Any]:
        return world.agent(ToolCall("look"), "Done.", tools=[look])

    left = asyncio.create_task(agent().run("Go", run_id="recovered", **ALICE))
    await begun.wait()
    run = world.runtime.active(Scope("acme", "alice"), "recovered")
    world.runtime.leave(run)
    await world.runtime.store.release(run.fence)
    gate.set()
    result = await agent().resume("recovered", tenant_id="acme")
    assert isinstance((await asyncio.gather(left, return_exceptions=True))[0], Fenced)
    said = (("run.resumed", "runtime"), ("tool.attempted", "agent:clerk"), ("tool.returned", "tool:look"))
    return Life("recovered", result.status, said)


async def nested(world: World) -> Life:
    inner = Agent("Help.", name="helper", model=ScriptedModel([PAY, "Helped."]), tools=[world.pay()])
    outer = world.agent(ToolCall("helper", {"input": "Pay."}), "Done.", tools=[inner.as_tool()])
    result = await outer.run("Go", run_id="nested", **ALICE)
    [child] = [
        each.entry
        for each in world.place.holding()
        if each.entry.action == "run.started" and each.entry.facts["root"] == "nested"
    ]
    assert (child.actor, child.user, child.facts["agent"]) == ("agent:clerk", "alice", "helper")
    assert child.run is not None
    assert world.place.actions(child.run)[-1] == "run.ended"
    return Life(
        "nested", result.status, (("tool.attempted", "agent:clerk"), ("tool.returned", "tool:helper"))
    )


async def handed_over(world: World) -> Life:
    other = Agent("Help.", name="specialist", model=ScriptedModel([PAY, "All yours."]), tools=[world.pay()])
    agent = world.agent(ToolCall("over", {"input": "Go on."}), tools=[handoff(other, name="over")])
    result = await agent.run("Go", run_id="handed over", **ALICE)
    assert result.output == "All yours."
    return Life("handed over", result.status, (("tool.returned", "tool:over"), ("run.ended", "runtime")))


async def learned(world: World) -> Life:
    """Facts are learned in a run of its own, which is entered as well."""

    def turn(request: Any) -> Any:
        if "extract facts" in request.instructions:
            return ToolCall("final_answer", {"facts": [TEA]})
        return "You like tea."

    memory = InMemoryMemory(embedder=None)
    agent = world.agent(model=ScriptedModel([turn] * 6), memory=memory, auto_extract=True, name="rememberer")
    result = await agent.run("I like tea.", run_id="learned", **ALICE)
    await agent._memory._learning.settle(30)  # type: ignore[union-attr]
    [facts] = [each.entry for each in world.place.holding() if each.entry.action == "facts.learned"]
    assert (facts.user, facts.actor, len(facts.facts["added"])) == ("alice", "memory", 1)
    assert facts.run is not None
    assert world.place.actions(facts.run)[-1] == "run.ended"
    return Life("learned", result.status, (("memory.recalled", "memory"), ("memory.written", "memory")))


LIVES: dict[str, Living] = {
    each.__name__: each
    for each in (
        completed,
        failed,
        cancelled,
        timed_out,
        over_budget,
        denied,
        approved,
        not_approved,
        approved_at_once,
        answered,
        cancelled_while_paused,
        edited,
        in_doubt,
        recovered,
        nested,
        handed_over,
        learned,
    )
}
