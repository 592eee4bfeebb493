"""A run goes from prompt to answer, one turn after another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import ModelRetry, NotDone, ScriptedTurn, ToolCall, Usage, tool
from shipworthy.domain.events import ModelFailed
from shipworthy.domain.messages import ToolResult
from shipworthy.domain.model import ModelRequest
from shipworthy.errors import IncompleteAnswer, RateLimited, RequestRejected, RunFailed, ScriptError
from tests.engine.world import ALICE, Sink, agent, go, journal, kinds, told, valid


@tool(effect="read")
async def double(n: int) -> int:
    """Twice the number."""
    return 2 * n


def test_an_answer_without_calls_is_the_output() -> None:
    result = go(agent("Hello.").run("Hi", **ALICE))
    assert (result.output, result.status, result.stop_reason) == ("Hello.", "completed", None)


def test_a_call_is_executed_and_its_result_told() -> None:
    seen: list[ModelRequest] = []

    def last(request: ModelRequest) -> str:
        seen.append(request)
        return "It is 8."

    result = go(agent(ToolCall("double", {"n": 4}), last, tools=[double]).run("Twice 4?", **ALICE))
    assert result.output == "It is 8."
    assert told(result) == "8"
    assert [m.role for m in seen[0].messages] == ["user", "assistant", "tool"]
    assert valid(result.messages)


def test_reads_of_one_answer_run_side_by_side() -> None:
    together = 0
    most = 0

    @tool(effect="read")
    async def look() -> str:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.01)
        together -= 1
        return "seen"

    go(agent([ToolCall("look")] * 5, "Done.", tools=[look]).run("Look", **ALICE))
    assert most == 5


def test_once_calls_run_one_after_another_each_after_its_own_intent() -> None:
    order: list[str] = []
    sink = Sink()

    @tool(effect="once")
    async def send(to: str) -> str:
        order.append(f"{to} begins")
        await asyncio.sleep(0)
        order.append(f"{to} ends")
        return "sent"

    async def law() -> None:
        a = agent([ToolCall("send", {"to": "a"}), ToolCall("send", {"to": "b"})], "Done.", tools=[send])
        await a.run("Send", run_id="r", **ALICE)
        events = kinds(await journal(a, "r"))
        start = events.index("ToolAttempted")
        assert events[start : start + 4] == ["ToolAttempted", "ToolReturned", "ToolAttempted", "ToolReturned"]

    go(law())
    assert order == ["a begins", "a ends", "b begins", "b ends"]
    assert sink.effects == []


def test_results_stand_in_the_order_of_their_calls_whatever_finished_first() -> None:
    @tool(effect="read")
    async def wait(ms: int) -> int:
        await asyncio.sleep(ms / 1000)
        return ms

    calls = [ToolCall("wait", {"ms": ms}) for ms in (30, 1, 10)]
    result = go(agent(calls, "Done.", tools=[wait]).run("Wait", **ALICE))
    answers = [p for m in result.messages if m.role == "tool" for p in m.parts]
    assert [p.content[0].text for p in answers if isinstance(p, ToolResult)] == ["30", "1", "10"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("double", {"n": "four"}), "expected an integer"),
        (ToolCall("double", '{"n": 4'), "JSON"),
        (ToolCall("double", {"n": 4, "m": 1}), "m"),
        (ToolCall("double", {}), "n"),
        (ToolCall("treble", {"n": 4}), "no tool 'treble'"),
    ],
)
def test_a_call_that_cannot_run_is_told_to_the_model_in_words(call: ToolCall, words: str) -> None:
    result = go(agent(call, "Sorry.", tools=[double]).run("Twice 4?", **ALICE))
    assert result.output == "Sorry."
    assert words in told(result)
    assert valid(result.messages)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no such city"), "ValueError: no such city"),
        (NotDone("the shop is shut"), "Not done: the shop is shut"),
        (ModelRetry("use the full name"), "use the full name"),
    ],
)
def test_an_error_of_a_read_is_told_to_the_model(error: Exception, words: str) -> None:
    @tool(effect="read")
    async def look() -> str:
        raise error

    result = go(agent(ToolCall("look"), "Sorry.", tools=[look]).run("Look", **ALICE))
    assert result.status == "completed"
    assert words in told(result)


def test_a_tool_runs_again_as_often_as_it_allows() -> None:
    attempts = 0

    @tool(effect="idempotent", retries=2)
    async def fetch() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError("reset")
        return "fetched"

    result = go(agent(ToolCall("fetch"), "Done.", tools=[fetch]).run("Fetch", **ALICE))
    assert (attempts, told(result)) == (3, "fetched")


def test_failed_attempts_on_the_wire_are_journalled_and_made_again() -> None:
    async def law() -> None:
        a = agent(RateLimited("slow down"), IncompleteAnswer("cut"), "Here.")
        result = await a.run("Hi", run_id="r", **ALICE)
        assert result.output == "Here."
        failed = [e for e in await journal(a, "r") if isinstance(e, ModelFailed)]
        assert [e.error for e in failed] == ["RateLimited", "IncompleteAnswer"]
        assert result.usage.requests == 3

    go(law())


def test_attempts_end_after_model_retries() -> None:
    result = go(agent(*[RateLimited("slow down")] * 3, "Never.").run("Hi", **ALICE))
    assert (result.status, result.stop_reason) == ("failed", "model_error")
    with pytest.raises(RunFailed, match="slow down"):
        result.output  # noqa: B018


def test_a_rejected_request_is_not_repeated() -> None:
    result = go(agent(RequestRejected("unknown model"), "Never.").run("Hi", **ALICE))
    assert (result.status, result.usage.requests) == ("failed", 1)


def test_usage_adds_up_and_unknown_is_not_zero() -> None:
    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4)
    turns = [ScriptedTurn(ToolCall("double", {"n": 1}), usage=usage), ScriptedTurn("2", usage=usage)]
    total = go(agent(*turns, tools=[double]).run("Hi", **ALICE)).usage
    assert (total.input_tokens, total.output_tokens, total.cache_read_tokens) == (20, 10, 8)
    assert (total.cache_write_tokens, total.reasoning_tokens, total.unreported) == (None, None, 0)


def test_a_script_that_is_too_short_raises() -> None:
    with pytest.raises(ScriptError, match="turn 2"):
        go(agent(ToolCall("double", {"n": 1}), tools=[double]).run("Hi", **ALICE))


def test_a_script_that_is_too_long_is_found() -> None:
    from shipworthy import ScriptedModel

    model = ScriptedModel(["Hello.", "More."])
    result = go(agent().__class__(model=model).run("Hi", **ALICE))
    with pytest.raises(ScriptError, match="1 of the script's 2"):
        model.assert_consumed(result)


def test_one_scripted_model_serves_many_runs_at_once() -> None:
    a = agent(ToolCall("double", {"n": 1}), "Done.", tools=[double])

    async def law() -> list[Any]:
        return await asyncio.gather(*[a.run("Hi", tenant_id="t", user_id=str(i)) for i in range(200)])

    assert all(r.output == "Done." and r.usage.requests == 2 for r in go(law()))


def test_an_empty_answer_is_asked_for_again() -> None:
    result = go(agent("", "Here.").run("Hi", **ALICE))
    assert result.output == "Here."
    assert valid(result.messages)


def test_a_result_that_is_too_long_is_shown_in_part_and_kept_whole() -> None:
    @tool(effect="read", max_result=100)
    async def dump() -> str:
        return "x" * 5_000

    async def law() -> None:
        a = agent(ToolCall("dump"), "Done.", tools=[dump])
        result = await a.run("Dump", run_id="r", **ALICE)
        assert "first 100 of 5,000 characters" in told(result)
        assert "narrower" in told(result)
        (returned,) = [e for e in await journal(a, "r") if type(e).__name__ == "ToolReturned"]
        body = await a.runtime.store.body(result.scope, "r", returned.whole.digest)  # type: ignore[union-attr]
        assert b"x" * 5_000 in body

    go(law())


def test_an_argument_of_ten_megabytes_arrives_whole_and_leaves_the_event_small() -> None:
    got: list[int] = []

    @tool(effect="read")
    async def keep(text: str) -> str:
        got.append(len(text))
        return "kept"

    async def law() -> None:
        a = agent(ToolCall("keep", {"text": "é" * 5_000_000}), "Done.", tools=[keep])
        assert (await a.run("Keep", run_id="r", **ALICE)).status == "completed"
        answered = (await journal(a, "r"))[2]
        assert answered.parts[0].stored.size > 10_000_000  # type: ignore[union-attr]
        assert (await a.resume("r", tenant_id="acme")).messages[1].parts[0].raw_arguments.count(
            "é"
        ) == 5_000_000  # type: ignore[union-attr]

    go(law())
    assert got == [5_000_000]


def test_lone_surrogates_from_outside_are_replaced() -> None:
    @tool(effect="read")
    async def look() -> str:
        return "a\ud800b"

    result = go(agent(ToolCall("look"), "c\udfffd", tools=[look]).run("Look", **ALICE))
    assert told(result) == "a\ufffdb"
    assert result.output == "c\ufffdd"
