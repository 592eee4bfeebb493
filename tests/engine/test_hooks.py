"""Hooks: in their order, before and after a call of a tool or of the model; they object, and invent nothing."""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy import Decision, Replace, ScriptedTurn, ToolCall
from shipworthy.domain.events import ToolReturned
from shipworthy.errors import AgentInUse, InvalidHook
from tests.engine import control_world as w
from tests.engine.world import ALICE, agent, go, journal, kinds, told, valid

STAGES = {"before_tool": 2, "after_tool": 3, "before_model": 2, "after_model": 2}
PAY = ToolCall("pay", {"amount": 1})
NO = Decision.deny_("Not now.", rule="no")


def test_hooks_are_asked_in_the_order_in_which_they_were_registered() -> None:
    asked: list[str] = []
    a = agent(
        PAY,
        "Done.",
        tools=w.Bodies().tools(),
        permissions=w.Immediate(lambda *_: asked.append("policy") or w.ALLOW),
    )

    def hook(name: str) -> Any:
        return lambda *_: asked.append(name)

    for stage in STAGES:
        getattr(a, stage)(hook(f"{stage} 1"))
        getattr(a, stage)(hook(f"{stage} 2"))
    go(a.run("Go.", **ALICE))

    turn = ["before_model 1", "before_model 2", "after_model 1", "after_model 2"]
    call = ["before_tool 1", "before_tool 2", "policy", "after_tool 1", "after_tool 2"]
    assert asked == [*turn, *call, *turn]


@pytest.mark.parametrize("stage", STAGES)
def test_what_cannot_be_a_hook_is_refused_when_it_is_registered(stage: str) -> None:
    a = agent("Hi.")

    class Class:
        def __init__(self, *_: Any) -> None:
            pass

    for wrong in (None, 7, "hook", Class, lambda: None, lambda a, b, c, d: None, object()):
        with pytest.raises(InvalidHook, match=stage):
            getattr(a, stage)(wrong)
    for right in (lambda *_: None, w.giving(None)(w.PLACES[0])):
        assert getattr(a, stage)(right) is right


def test_a_hook_is_not_added_to_an_agent_that_has_run() -> None:
    a = agent("Hi.")
    go(a.run("Go.", **ALICE))
    for stage in STAGES:
        with pytest.raises(AgentInUse):
            getattr(a, stage)(lambda *_: None)


def test_a_hook_that_asks_is_answered_by_whom_the_agent_asks() -> None:
    bodies, asked = w.Bodies(), []
    a = agent(
        PAY,
        "Done.",
        tools=bodies.tools(),
        approval_handler=lambda request: (asked.append(request.rule), w.YES)[1],
    )
    a.before_tool(lambda ctx, action: Decision.ask_("Is it right?", rule="mine"))
    go(a.run("Go.", **ALICE))
    assert (asked, bodies.ran) == (["mine"], {"pay": 1})


def test_later_hooks_are_asked_of_a_call_that_an_earlier_one_denies_and_policies_too() -> None:
    """Nobody learns from being asked whether others objected."""
    asked: list[str] = []
    bodies = w.Bodies()
    a = agent(
        PAY,
        "Done.",
        tools=bodies.tools(),
        permissions=w.Immediate(lambda *_: asked.append("policy") or w.ALLOW),
    )
    a.before_tool(lambda *_: NO)
    a.before_tool(lambda *_: asked.append("second"))
    go(a.run("Go.", **ALICE))
    assert (asked, bodies.ran) == (["second", "policy"], {})


# -------------------------------------------------------------------------------------------------- after_tool


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answer", [NO, Decision.ask_("?"), Replace({}), "no", 0], ids=repr)
def test_a_result_that_a_hook_withholds_is_not_told_and_did_happen(answer: Any, stream: bool) -> None:
    async def law() -> None:
        bodies = w.Bodies()
        a = agent(PAY, "Done.", tools=bodies.tools())
        a.after_tool(lambda ctx, action, result: answer)
        result = await w.finish(a, stream, run_id="r")
        assert (result.status, bodies.ran) == ("completed", {"pay": 1})
        assert "The tool ran; its result is withheld" in told(result)
        assert w.SECRET not in repr(await journal(a, "r"))
        assert valid(result.messages)
        (returned,) = [e for e in await journal(a, "r") if isinstance(e, ToolReturned)]
        assert returned.outcome == "denied"

    go(law())


def test_a_hook_sees_the_result_and_the_arguments_with_which_it_came_about() -> None:
    seen: list[Any] = []
    a = agent(ToolCall("pay", {"amount": 7}), "Done.", tools=w.Bodies().tools())
    a.before_tool(lambda ctx, action: Replace({"amount": 5}))
    a.after_tool(
        lambda ctx, action, result: seen.append((dict(action.arguments), [part.text for part in result]))
    )
    go(a.run("Go.", **ALICE))
    assert seen == [({"amount": 5}, [w.SECRET])]


# ------------------------------------------------------------------------------------------------- model hooks


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answer", [NO, Decision.ask_("?"), Replace({}), True], ids=repr)
def test_a_request_that_a_hook_objects_to_is_not_sent(answer: Any, stream: bool) -> None:
    async def law() -> None:
        sent: list[Any] = []
        a = agent(lambda request: sent.append(request) or "Hi.")
        a.before_model(lambda ctx, request: answer)
        result = await w.finish(a, stream, run_id="r")
        assert (result.status, result.stop_reason, sent) == ("stopped", "denied", [])
        assert "ModelRequested" not in kinds(await journal(a, "r"))

    go(law())


@pytest.mark.parametrize("stream", [False, True])
def test_no_call_of_an_answer_is_made_that_a_hook_objects_to(stream: bool) -> None:
    bodies = w.Bodies()
    a = agent(ScriptedTurn("I will pay.", PAY), "Done.", tools=bodies.tools())
    a.after_model(
        lambda ctx, answer: NO if any(isinstance(part, ToolCall) for part in answer.parts) else None
    )

    result = go(w.finish(a, stream))

    assert (result.status, result.stop_reason, bodies.ran) == ("stopped", "denied", {})
    assert "Not now." in (result.error or "")
    assert valid(result.messages)


def test_a_run_that_a_model_hook_stopped_is_part_of_its_session_and_the_next_one_is_valid() -> None:
    async def law() -> None:
        strict = agent(ScriptedTurn("I will pay.", PAY), "Never.", tools=w.Bodies().tools())
        strict.after_model(lambda ctx, answer: NO)
        await strict.run("Go.", session_id="s", **ALICE)
        later = agent("Hello.", tools=w.Bodies().tools(), runtime=strict.runtime)
        result = await later.run("Again.", session_id="s", **ALICE)
        assert result.output == "Hello."
        assert valid(result.messages)

    go(law())
