"""Tools that ask: the run pauses, holds nothing, and goes on with an answer of the right shape, wherever it is."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import json
import threading
import uuid
from typing import Any, Literal

import msgspec
import pydantic
import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Reply as Scripted
from llmock.scenarios import ToolCall as ScriptedCall

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Deny,
    DidNotHappen,
    Inbox,
    NotDone,
    SqliteRuntime,
    ToolCall,
    Tuning,
    ask_human,
    is_paused,
    pause_here,
    policy,
    tool,
)
from shipworthy.engine import fitting
from shipworthy.errors import AnswerRefused, CheckpointRefused, ConfigurationError, NotInTool
from shipworthy.ports.real_calls import allow_model_calls
from tests.contracts import test_models as wires
from tests.engine import control_world as w
from tests.engine.world import ALICE, agent, go, journal, kinds, told, valid
from tests.providers.emulators import Aimock, aimock  # noqa: F401

ASK = ToolCall("survey")


def surveying(body: Any, *, kind: w.Kind = "async", effect: Any = "once", **options: Any) -> Agent[Any, Any]:
    """An agent that calls a tool whose body is *body*, a plain function, run as one of that kind."""
    if kind == "sync":

        def survey() -> Any:
            return body()

        made = tool(effect=effect)(survey)
    else:

        async def asks() -> Any:
            given = body()
            return await given if asyncio.iscoroutine(given) else given

        made = tool(effect=effect, name="survey")(asks)
    return agent(ASK, "Done.", tools=[made], **options)


# ------------------------------------------------------------------------------------------------- the pause


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
@pytest.mark.parametrize("kind", w.KINDS)
def test_a_body_that_asks_runs_again_with_the_answer(kind: w.Kind, effect: Any, stream: bool) -> None:
    async def law() -> None:
        starts: list[int] = []
        heard: list[Any] = []

        def body() -> str:
            starts.append(1)
            heard.append(ask_human("Which colour?"))
            return f"it is {heard[-1]}"

        a = surveying(body, kind=kind, effect=effect)
        result = await w.finish(a, stream, run_id="r")
        assert (result.status, is_paused(result), len(starts), heard) == ("paused", True, 1, [])
        (call,) = result.pending
        assert (call.kind, call.data) == ("answer", {"question": "Which colour?"})
        result = await a.resume(result.checkpoint, answer="blue")
        assert (result.status, len(starts), heard, told(result)) == ("completed", 2, ["blue"], "it is blue")
        assert valid(result.messages)

    go(law())


def test_several_questions_of_one_body_are_asked_one_after_the_other() -> None:
    async def law() -> None:
        starts: list[int] = []

        def body() -> str:
            starts.append(1)
            return "-".join([str(pause_here({"step": n})) for n in range(3)])

        a = surveying(body)
        result = await a.run("Go.", run_id="r", **ALICE)
        for n in range(3):
            assert result.pending[0].data == {"step": n}
            result = await a.resume("r", tenant_id="acme", answer=n)
        assert (result.status, told(result), len(starts)) == ("completed", "0-1-2", 4)

    go(law())


def test_a_question_that_is_another_one_now_is_asked_again_and_what_was_said_after_it_is_forgotten() -> None:
    async def law() -> None:
        asked = ["one", "two", "three"]

        def body() -> str:
            return "-".join([ask_human(question) for question in asked])

        a = surveying(body)
        await a.run("Go.", run_id="r", **ALICE)
        await a.resume("r", tenant_id="acme", answer="1")
        asked[0] = "another one"
        result = await a.resume("r", tenant_id="acme", answer="2")
        assert result.pending[0].data == {"question": "another one"}
        assert "AnswerDropped" in kinds(await journal(a, "r"))
        for said in ("a", "b", "c"):
            result = await a.resume("r", tenant_id="acme", answer=said)
        assert told(result) == "a-b-c"

    go(law())


def test_calls_beside_the_one_that_asks_have_their_results_and_are_not_made_again() -> None:
    async def law() -> None:
        bodies = w.Bodies()

        @tool(effect="read")
        async def survey() -> str:
            return str(ask_human("Which?"))

        calls = [ToolCall("look", {"amount": 1}), ASK, ToolCall("pay", {"amount": 2})]
        a = agent(calls, "Done.", tools=[survey, *bodies.tools()])
        result = await a.run("Go.", run_id="r", **ALICE)
        assert result.status == "paused"
        result = await a.resume("r", tenant_id="acme", answer="this")
        assert (result.status, bodies.ran) == ("completed", {"look": 1, "pay": 1})
        assert valid(result.messages)

    go(law())


@pytest.mark.parametrize("several", [1, 200])
def test_going_on_waiting_is_one_event_however_many_wait(several: int) -> None:
    async def law() -> None:
        @tool(effect="read")
        async def survey(n: int) -> str:
            return str(ask_human(f"Which {n}?"))

        @tool(effect="once", requires_approval=True)
        async def pay(n: int) -> str:
            return "paid"

        calls = [ToolCall(name, {"n": n}) for name in ("pay", "survey") for n in range(several)]
        a = agent(calls, "Done.", tools=[survey, pay], approval_handler=Inbox())
        paused = await a.run("Go.", run_id="r", **ALICE)
        assert len(paused.pending) == 2 * several
        for _ in range(2):
            again = await a.resume("r", tenant_id="acme")
            assert (again.seq, again.pending) == (paused.seq + 3, paused.pending)
            assert kinds(await journal(a, "r"))[-3:] == ["RunResumed", "ToolsJudged", "RunParked"]
            paused = again
        said = {
            call.address: Approve(by="m") if call.kind == "approval" else "blue" for call in paused.pending
        }
        result = await a.resume("r", tenant_id="acme", answer=said)
        assert (result.status, valid(result.messages)) == ("completed", True)

    go(law())


def test_whoever_asks_something_else_meanwhile_asks_anew() -> None:
    """Another rule, or another number of people, is another question; those who wait beside it go on waiting."""

    async def law() -> None:
        calls = [ToolCall("pay", {"amount": 1}), ToolCall("look", {"amount": 1})]
        people = [1]

        @policy(version="1")
        async def asks(scope: Any, action: Any) -> Decision:
            return Decision.ask_("?", rule="r", approvers=people[0] if action.name == "pay" else 1)

        a = agent(calls, "Done.", tools=w.Bodies().tools(), permissions=asks, approval_handler=Inbox())
        await a.run("Go.", run_id="r", **ALICE)
        people[0] = 2
        result = await a.resume("r", tenant_id="acme")
        assert [call.approvers for call in result.pending] == [2, 1]
        assert kinds(await journal(a, "r"))[-4:] == [
            "RunResumed",
            "ApprovalRequested",
            "ToolsJudged",
            "RunParked",
        ]

    go(law())


@pytest.mark.parametrize("within", [True, False], ids=["within", "at its end"])
def test_a_pause_in_a_task_group_is_a_pause(within: bool) -> None:
    async def law() -> None:
        async def body() -> str:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(asks())
                group.create_task(asyncio.sleep(0))
                if within:
                    await asyncio.sleep(0.05)
            return asking.result()

        async def asks() -> str:
            return str(ask_human("Which?"))

        a = surveying(lambda: body())
        result = await a.run("Go.", run_id="r", **ALICE)
        assert (result.status, result.pending[0].kind) == ("paused", "answer")
        result = await a.resume("r", tenant_id="acme", answer="this")
        assert (result.status, told(result)) == ("completed", "this")

    go(law())


@pytest.mark.parametrize("kind", w.KINDS)
@pytest.mark.parametrize("effect", ["read", "once"])
def test_a_body_that_goes_on_after_it_asked_is_no_pause(effect: Any, kind: w.Kind) -> None:
    """What it did then nobody knows: a `once` call is in doubt, and others are told to be broken."""

    async def law() -> None:
        def body() -> str:
            try:
                return str(ask_human("Which?"))
            except BaseException:
                return "whatever"

        result = await surveying(body, effect=effect, kind=kind).run("Go.", **ALICE)
        if effect == "once":
            assert (result.status, result.pending[0].kind) == ("paused", "in_doubt")
        else:
            assert (result.status, "it must let the pause pass" in told(result)) == ("completed", True)

    go(law())


def test_except_exception_lets_a_pause_pass_and_the_call_is_not_in_doubt() -> None:
    async def law() -> None:
        def body() -> str:
            try:
                return str(ask_human("Which?"))
            except Exception:
                return "caught"

        a = surveying(body)
        result = await a.run("Go.", run_id="r", **ALICE)
        assert (result.status, result.pending[0].kind) == ("paused", "answer")
        assert "ToolInDoubt" not in kinds(await journal(a, "r"))

    go(law())


def test_a_once_body_that_breaks_after_its_answer_is_in_doubt_as_ever() -> None:
    async def law() -> None:
        def body() -> str:
            ask_human("Which?")
            raise ValueError("It broke.")

        a = surveying(body)
        await a.run("Go.", run_id="r", **ALICE)
        result = await a.resume("r", tenant_id="acme", answer="this")
        assert (result.status, result.pending[0].kind) == ("paused", "in_doubt")
        settle = {result.pending[0].call_id: DidNotHappen()}
        assert (await a.resume("r", tenant_id="acme", settle=settle)).status == "paused"

    go(law())


def test_a_body_may_say_that_nothing_was_done_after_its_answer() -> None:
    async def law() -> None:
        def body() -> str:
            if not ask_human("Sure?", schema=bool):
                raise NotDone("the customer does not want it")
            return "done"

        a = surveying(body)
        await a.run("Go.", run_id="r", **ALICE)
        result = await a.resume("r", tenant_id="acme", answer=False)
        assert (result.status, told(result)) == ("completed", "Not done: the customer does not want it")

    go(law())


# ----------------------------------------------------------------------------------------------------- shapes


@dataclasses.dataclass
class Address:
    street: str
    number: int


class Choice(pydantic.BaseModel):
    colour: Literal["red", "blue"]
    size: int = 1


class Packed(msgspec.Struct):
    ok: bool


class Due(pydantic.BaseModel):
    at: datetime.datetime


DAY, MOMENT = datetime.date, datetime.datetime


SHAPES: list[tuple[Any, Any, Any, Any]] = [
    (str, "blue", "blue", 7),
    (int, 7, 7, "seven"),
    (bool, False, False, "no"),
    (float, 1.5, 1.5, "much"),
    (Literal["red", "blue"], "red", "red", "green"),
    (list[int], [1, 2], [1, 2], [1, "two"]),
    (dict[str, int], {"a": 1}, {"a": 1}, {"a": "one"}),
    (str | None, "x", "x", 1),
    (Address, {"street": "Elm", "number": 1}, Address("Elm", 1), {"street": "Elm"}),
    (Choice, {"colour": "red"}, Choice(colour="red"), {"colour": "green"}),
    (Packed, {"ok": True}, Packed(True), {"ok": "yes"}),
    (None, {"any": [1, None]}, {"any": [1, None]}, object()),
    (int, 3, 3, 3.0),
    (float, 3, 3.0, "3"),
    (DAY, "2026-02-28", DAY(2026, 2, 28), "2026-02-30"),
    (MOMENT, "2026-02-28T10:00:00", MOMENT(2026, 2, 28, 10), "tomorrow"),
    (
        list[MOMENT | None],
        ["2026-02-28T10:00:00", None],
        [MOMENT(2026, 2, 28, 10), None],
        ["2026-02-28T25:00:00"],
    ),
    (Due, {"at": "2026-02-28T10:00:00"}, Due(at=MOMENT(2026, 2, 28, 10)), {"at": "tomorrow"}),
    (datetime.time, "10:30:00", datetime.time(10, 30), "half past ten"),
    (datetime.timedelta, "PT90S", datetime.timedelta(seconds=90), "a minute"),
    (uuid.UUID, str(uuid.UUID(int=7)), uuid.UUID(int=7), "7"),
    (decimal.Decimal, "1.50", decimal.Decimal("1.50"), "much"),
    (bytes, "aGk=", b"hi", "!!"),
    (set[int | str], [1, "1"], {1, "1"}, [1, "1", 1]),
]


@pytest.mark.parametrize(("schema", "answer", "value", "wrong"), SHAPES, ids=range(len(SHAPES)))
def test_an_answer_has_the_shape_that_is_asked_for_or_is_refused_and_waited_for(
    schema: Any, answer: Any, value: Any, wrong: Any
) -> None:
    async def law() -> None:
        heard: list[Any] = []
        a = surveying(lambda: heard.append(ask_human("Which?", schema=schema)) or "ok")
        paused = await a.run("Go.", run_id="r", **ALICE)
        with pytest.raises(AnswerRefused):
            await a.resume("r", tenant_id="acme", answer=wrong)
        assert heard == []
        assert (await a.resume("r", tenant_id="acme")).pending == paused.pending
        result = await a.resume("r", tenant_id="acme", answer=answer)
        assert (result.status, heard) == ("completed", [value])

    go(law())


def test_an_answer_of_more_than_a_hundred_thousand_characters_is_refused_and_waited_for() -> None:
    async def law() -> None:
        a = surveying(lambda: str(len(ask_human("Which?", schema=str))))
        await a.run("Go.", run_id="r", **ALICE)
        with pytest.raises(AnswerRefused, match="it has 100001 characters of JSON, and 100000 are taken"):
            await a.resume("r", tenant_id="acme", answer="x" * 99_999)
        result = await a.resume("r", tenant_id="acme", answer="x" * 99_998)
        assert (result.status, told(result)) == ("completed", "99998")

    go(law())


def test_an_answer_that_takes_long_to_check_holds_nobody_and_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enough = threading.Event()

    def slow(data: Any, schema: Any) -> None:
        if data == "slow":
            enough.wait(60)

    async def law() -> None:
        a = surveying(lambda: ask_human("Which?", schema=str))
        await a.run("Go.", run_id="r", **ALICE)
        monkeypatch.setattr(fitting, "misfit_data", slow)
        monkeypatch.setattr(fitting, "SECONDS", 0.1)
        with pytest.raises(AnswerRefused, match="checking it took more than"):
            await a.resume("r", tenant_id="acme", answer="slow")
        enough.set()
        result = await a.resume("r", tenant_id="acme", answer="quick")
        assert (result.status, told(result)) == ("completed", "quick")

    go(law())


def test_a_question_that_could_not_be_answered_is_an_error_of_the_body() -> None:
    def odd(ask: Any) -> None:
        with pytest.raises(ConfigurationError):
            ask()

    def body() -> str:
        odd(lambda: ask_human(" "))
        odd(lambda: ask_human("?", timeout=0))
        odd(lambda: ask_human("?", timeout=float("nan")))
        odd(lambda: ask_human("?", default="x"))
        odd(lambda: ask_human("?", schema=int, timeout=1, default="x"))
        odd(lambda: pause_here(object()))
        return "ok"

    assert told(go(surveying(body).run("Go.", **ALICE))) == "ok"


def test_nobody_is_asked_outside_of_a_tool() -> None:
    for ask in (lambda: ask_human("Which?"), lambda: pause_here({})):
        with pytest.raises(NotInTool):
            ask()


# ------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("kind", w.KINDS)
def test_a_default_is_the_answer_when_the_time_is_over(kind: w.Kind) -> None:
    async def law() -> None:
        a = surveying(
            lambda: f"it is {ask_human('Which?', schema=str, timeout=0.01, default='blue')}", kind=kind
        )
        await a.run("Go.", run_id="r", **ALICE)
        await asyncio.sleep(0.02)
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, told(result)) == ("completed", "it is blue")

    go(law())


def test_without_a_default_the_model_is_told_that_nobody_answered() -> None:
    async def law() -> None:
        heard: list[Any] = []
        a = surveying(lambda: heard.append(ask_human("Which?", timeout=0.01)))
        await a.run("Go.", run_id="r", **ALICE)
        await asyncio.sleep(0.02)
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, heard, valid(result.messages)) == ("completed", [], True)
        assert told(result) == "Not done: nobody answered its question in time."

    go(law())


def test_a_worker_goes_on_with_the_default_by_itself() -> None:
    async def law() -> None:
        heard: list[Any] = []

        def body() -> str:
            heard.append(ask_human("Which?", timeout=0.01, default="blue"))
            return "ok"

        a = surveying(body, tuning=Tuning(recover_every=0.01), name="surveyor")
        async with a:
            await a.run("Go.", run_id="r", **ALICE)
            while "RunEnded" not in kinds(await journal(a, "r")):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert heard == ["blue"]

    go(law())


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("kind", w.KINDS)
def test_a_checkpoint_is_plain_json_good_once_and_anywhere(kind: w.Kind, tmp_path: Any) -> None:
    async def law() -> None:
        def made() -> Agent[Any, Any]:
            runtime = SqliteRuntime(tmp_path / "runs.db")
            return surveying(lambda: f"it is {ask_human('Which?')}", kind=kind, runtime=runtime)

        first = made()
        checkpoint = json.loads(json.dumps((await first.run("Go.", **ALICE)).checkpoint))
        await first.close()
        second = made()
        result = await second.resume(checkpoint, answer="blue")
        assert (result.status, told(result)) == ("completed", "it is blue")
        for again in ({"answer": "red"}, {}):
            with pytest.raises(CheckpointRefused):
                await second.resume(checkpoint, **again)
        await second.close()

    go(law())


def test_a_run_of_another_tenant_is_not_answered() -> None:
    async def law() -> None:
        heard: list[Any] = []
        a = surveying(lambda: heard.append(ask_human("Which?")))
        paused = await a.run("Go.", run_id="r", **ALICE)
        for foreign in ({**paused.checkpoint, "tenant_id": "globex"}, {**paused.checkpoint, "run_id": "s"}):
            with pytest.raises(CheckpointRefused):
                await a.resume(foreign, answer="x")
        assert heard == []
        assert (await a.resume(paused.checkpoint, answer="x")).status == "completed"

    go(law())


def test_a_call_that_was_approved_of_may_ask_and_is_not_asked_about_again() -> None:
    async def law() -> None:
        a = surveying(lambda: str(ask_human("Which?")), permissions=w.ASKS, approval_handler=Inbox())
        result = await a.run("Go.", run_id="r", **ALICE)
        assert result.pending[0].kind == "approval"
        result = await a.resume("r", tenant_id="acme", answer=w.YES)
        assert result.pending[0].kind == "answer"
        result = await a.resume("r", tenant_id="acme", answer="blue")
        assert (result.status, told(result), valid(result.messages)) == ("completed", "blue", True)

    go(law())


def test_two_calls_that_ask_are_answered_by_their_addresses() -> None:
    async def law() -> None:
        @tool(effect="read")
        async def survey(n: int) -> str:
            return f"{n}: {ask_human(f'Question {n}?')}"

        a = agent([ToolCall("survey", {"n": n}) for n in (1, 2)], "Done.", tools=[survey])
        result = await a.run("Go.", run_id="r", **ALICE)
        one, two = result.pending
        with pytest.raises(AnswerRefused, match="2 calls wait"):
            await a.resume("r", tenant_id="acme", answer="both")
        result = await a.resume("r", tenant_id="acme", answer={two.address: "second"})
        assert [call.address for call in result.pending] == [one.address]
        result = await a.resume("r", tenant_id="acme", answer="first")
        assert [told(result, 0), told(result, 1)] == ["1: first", "2: second"]
        assert valid(result.messages)

    go(law())


# --------------------------------------------------------------------------------------------------- the wire

WIRES = [
    wires.TestOpenAIChatOnLlmock,
    wires.TestOpenAIResponsesOnLlmock,
    wires.TestAnthropicOnLlmock,
    wires.TestOpenAIChatOnAimock,
    wires.TestOpenAIResponsesOnAimock,
    wires.TestAnthropicOnAimock,
]
SAID: dict[str, Any] = {
    "approved": w.YES,
    "edited": Approve(by="maria", arguments={"city": "Oslo"}),
    "denied": Deny(by="maria", reason="No."),
}


@pytest.mark.wire
@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("suite", WIRES, ids=lambda suite: suite.__name__)
def test_providers_take_the_conversation_of_a_run_that_was_paused_and_answered(
    suite: Any, said: str, request: pytest.FixtureRequest
) -> None:
    model, requests = _emulated(suite, request)
    asked: list[str] = []

    @tool(effect="once", name=wires.TOOL)
    async def weather(city: str, unit: str = "celsius") -> str:
        """The current weather of a city."""
        asked.append(city)
        return "fine" if city == "Oslo" else str(ask_human("How is it there?"))

    async def law() -> Any:
        a = Agent(
            "You know.",
            model=model,
            tools=[weather],
            permissions=w.ASKS,
            approval_handler=Inbox(),
            max_turns=2,
        )
        async with a:
            result = await a.run("How is the weather?", run_id="r", **ALICE)
            while result.status == "paused":
                answer = {c.address: SAID[said] if c.kind == "approval" else "rainy" for c in result.pending}
                result = await a.resume(result.checkpoint, answer=answer)
            return result

    with allow_model_calls():
        result = go(law())
    assert (result.status, valid(result.messages), requests()) == ("completed", True, 2)
    assert (asked == []) == (said == "denied")


def _emulated(suite: Any, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model in front of an emulator that asks for two calls, and the number of its requests."""
    if issubclass(suite, wires.OnLlmock):
        llmock: LLMock = request.getfixturevalue("llmock")
        calls = Scripted(tool_calls=tuple([ScriptedCall(wires.TOOL, each) for each in wires.CALLS]), times=1)
        llmock.reset().add(calls, Scripted(text=wires.TEXT, times=None))
        return suite().model(f"{llmock.url}{suite.path}"), lambda: len(llmock.requests)
    emulator: Aimock = request.getfixturevalue("aimock")
    calls = [{"name": wires.TOOL, "arguments": each} for each in wires.CALLS]
    emulator.serve(
        {"match": {"hasToolResult": True}, "response": {"content": wires.TEXT}},
        {"match": {}, "response": {"toolCalls": calls}},
    )
    made = suite()
    made.aimock = emulator
    return made.model(emulator.url), lambda: len(emulator.journal())
