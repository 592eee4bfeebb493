"""An agent whose calls need people, a world outside in which effects are counted, and people who answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Deny,
    Inbox,
    RunContext,
    ScriptedModel,
    ScriptedTurn,
    StandardPermissions,
    ToolCall,
    ask_human,
    policy,
    tool,
)
from shipworthy.app.configuration import Tuning
from shipworthy.domain.effects import DidNotHappen, Happened
from shipworthy.domain.model import ModelRequest
from shipworthy.engine.runtime import Runtime
from shipworthy.testing.faults import Points
from tests.crash.scenario import Sink

PolicyName = Literal["standard", "two", "deny", "raise", "odd", "other rule", "other version"]
BOTH = ("maria", "bob")
AMOUNT = 50
EDITED = 40


class Setting(msgspec.Struct, kw_only=True, frozen=True):
    """How a process is set up. `handler`: "inbox", "none", or what a callable one does (`ODD`, "hang", "raise").
    `waits`: seconds that the inbox gives people. `verified`: calls in doubt are verified, and not settled by people."""

    policy: PolicyName = "standard"
    handler: str = "inbox"
    waits: float | None = 604_800.0
    verified: bool = True


USUAL = Setting()


class ApproveLike(Approve, frozen=True):
    """Says yes, and is not of the type that does."""


ODD: dict[str, Callable[[], Any]] = {
    "true": lambda: True,
    "false": lambda: False,
    "yes": lambda: "yes",
    "approve": lambda: "approve",
    "one": lambda: 1,
    "zero": lambda: 0,
    "empty text": lambda: "",
    "empty list": list,
    "empty dict": dict,
    "bytes": lambda: b"yes",
    "nan": lambda: float("nan"),
    "dict": lambda: {"ruling": "allow", "by": "maria"},
    "list": lambda: [Approve(by="maria")],
    "object": object,
    "type": lambda: Approve,
    "function": lambda: lambda: Approve(by="maria"),
    "ask": lambda: Decision.ask_("?"),
    "odd ruling": lambda: Decision("yes"),  # type: ignore[arg-type]
    "subclass": lambda: ApproveLike(by="maria"),
    "nobody": lambda: Approve(by=""),
    "blank": lambda: Approve(by="  "),
    "number": lambda: Approve(by=5),  # type: ignore[arg-type]
    "no arguments": lambda: Approve(by="maria", arguments=5),  # type: ignore[arg-type]
    "list of arguments": lambda: Approve(by="maria", arguments=[AMOUNT]),  # type: ignore[arg-type]
    "impossible arguments": lambda: Approve(by="maria", arguments={"amount": object()}),
    "past": lambda: Approve(by="maria", expires_in=-1.0),
    "for ever": lambda: Approve(by="maria", expires_in=float("inf")),
    "odd memory": lambda: Approve(by="maria", remember="always"),  # type: ignore[arg-type]
    "odd reach": lambda: Approve(by="maria", covers="everything"),  # type: ignore[arg-type]
    "odd reason": lambda: Deny(by="maria", reason=5),  # type: ignore[arg-type]
}
"""What somebody may take for an answer, and is none."""


def decoded(answer: Any) -> Any:
    """An answer as a job carries it: {"approve": {...}}, {"deny": {...}}, {"odd": name}, {"each": {address: answer}},
    or {"data": ...} for anything else. None is no answer."""
    if answer is None:
        return None
    [(kind, value)] = answer.items()
    match kind:
        case "approve":
            return Approve(**value)
        case "deny":
            return Deny(**value)
        case "odd":
            return Decision.allow_() if value == "decision" else ODD[value]()
        case "each":
            return {address: decoded(each) for address, each in value.items()}
    return value


def yes(by: str = "maria", **more: Any) -> dict[str, Any]:
    """Somebody's yes, as a job carries it."""
    return {"approve": {"by": by, **more}}


# ------------------------------------------------------------------------------------------------- the agent


SCRIPTS: dict[str, list[Any]] = {
    "p": [ToolCall("pay", {"amount": AMOUNT}), ScriptedTurn("Paid.")],
    "q": [ToolCall("quiz", {"x": 1}), ScriptedTurn("Asked.")],
    "m": [
        [ToolCall("pay", {"amount": AMOUNT}), ToolCall("look"), ToolCall("pay", {"amount": 7})],
        ScriptedTurn("Paid twice."),
    ],
    "d": [ToolCall("pay", '{"amount": 50, "amount": 99999}'), ScriptedTurn("Paid.")],
    # the same arguments again: what is remembered covers both
    "r": [
        ToolCall("pay", {"amount": AMOUNT}),
        ToolCall("pay", {"amount": AMOUNT}),
        ScriptedTurn("Paid again."),
    ],
    # agents that are tools of other ones: one deep, and two
    "n": [ToolCall("helper", {"input": "Pay."}), ScriptedTurn("Had it paid.")],
    "o": [ToolCall("middle", {"input": "Have it paid."}), ScriptedTurn("Had it paid.")],
}
"""Answers of the model by the first letter of the run's id."""
HELPER: list[Any] = [ToolCall("pay", {"amount": AMOUNT}), ScriptedTurn("Paid.")]
MIDDLE: list[Any] = [ToolCall("helper", {"input": "Pay."}), ScriptedTurn("Had it paid.")]


class Script:
    """A model that answers by the first letter of the run's id."""

    name = "script"

    def __init__(self) -> None:
        self._models = {letter: ScriptedModel(turns) for letter, turns in SCRIPTS.items()}

    def stream(self, request: ModelRequest) -> Any:
        return self._models[request.run_id[0]].stream(request)

    async def close(self) -> None:
        """Nothing to close."""


def tools(sink: Sink, points: Points, *, verified: bool) -> list[Any]:
    """A read, and two that act once; one of them asks people itself."""

    async def ask_the_world(ctx: RunContext[Any], args: Any) -> Happened | DidNotHappen:
        return sink.verdict(ctx)

    verify: Any = ask_the_world if verified else None

    @tool(effect="read")
    async def look(ctx: RunContext[Any]) -> str:
        return "seen"

    @tool(effect="once", verify=verify)
    async def pay(ctx: RunContext[Any], amount: int) -> str:
        with points.around("once"):
            return sink.happen("once", ctx, amount=amount)

    @tool(effect="once", verify=verify)
    async def quiz(ctx: RunContext[Any], x: int) -> str:
        colour = ask_human("Which colour?", schema=str)
        size = ask_human("Which size?", schema=int)
        with points.around("once"):
            return sink.happen("once", ctx, x=x, colour=colour, size=size)

    return [look, pay, quiz]


def permissions(name: PolicyName) -> Any:
    """A policy of this name."""
    if name == "standard":
        return StandardPermissions()

    @policy(version=f"{name} 1", immediate=True)
    def decide(scope: Any, action: Any) -> Any:
        if action.effect == "read":
            return Decision.allow_()
        match name:
            case "two":
                return Decision.ask_("Two of us.", rule="two", approvers=2, among=BOTH)
            case "other rule":
                return Decision.ask_("Another reason.", rule="other")
            case "other version":
                return Decision.ask_("Two of us.", rule="mode:default")
            case "deny":
                return Decision.deny_("Not any more.", rule="never")
            case "odd":
                return True
        raise ValueError("the policy is broken")

    return decide


def handler(setting: Setting) -> Any:
    """Who is asked."""
    if setting.handler == "inbox":
        return Inbox(expires_in=setting.waits)
    if setting.handler == "none":
        return None

    async def answer(request: Any) -> Any:
        if setting.handler == "hang":
            await asyncio.sleep(3600)
        if setting.handler == "raise":
            raise ValueError("nobody is there")
        return ODD[setting.handler]()

    return answer


def agent(folder: Path, runtime: Runtime, points: Points, setting: Setting) -> Agent[Any, str]:
    """The agent of these proofs."""
    mine = tools(Sink(folder), points, verified=setting.verified)
    helper: Agent[Any, str] = Agent("You pay.", name="helper", model=ScriptedModel(HELPER), tools=mine)
    middle: Agent[Any, str] = Agent(
        "You have it paid.", name="middle", model=ScriptedModel(MIDDLE), tools=[helper.as_tool()]
    )
    return Agent(
        "You pay.",
        name="clerk",
        model=Script(),
        tools=[*mine, helper.as_tool(), middle.as_tool()],
        runtime=runtime,
        permissions=permissions(setting.policy),
        approval_handler=handler(setting),
        tuning=Tuning(approval_timeout=0.2),
    )
