"""The Responses API: what is sent, and what is made of what comes.

Where the emulators do not send it (cached and reasoning tokens, incomplete and refused responses), a local server sends
events in the format that the API's reference documents.
"""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy.domain.messages import File, Image, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import Answer, ModelSettings, OutputSpec, ThinkingDelta, ToolCallDelta
from shipworthy.domain.usage import Usage
from shipworthy.errors import IncompleteAnswer, RequestRejected
from tests.providers.asking import WEATHER, answer, ask, asked, failed, replayed, responses, user
from tests.providers.emulators import Aimock, aimock, events, whole  # noqa: F401

pytestmark = pytest.mark.wire

REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Hm."}],
    "encrypted_content": "sealed==",
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "theirs",
    "name": "get_weather",
    "arguments": '{"city":"Rome"}',
}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
}

THOUGHT = Thinking("Hm.", "rs_1", "sealed==", "openai-responses")


def response(*output: dict[str, Any], status: str = "completed", **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5-2025",
        "status": status,
        "output": output,
        **more,
    }


def ended(*output: dict[str, Any], status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": response(*output, status=status, **more)}


def sent(*messages: Message, **more: Any) -> dict[str, Any]:
    _, received = replayed(responses, asked(*messages, **more), events(ended(MESSAGE)))
    body: dict[str, Any] = received[0].body
    return body


# ------------------------------------------------------------------------------------------------- requests


def test_a_conversation_is_sent_whole_and_nothing_is_stored() -> None:
    body = sent(
        user("Weather?", Image(url="https://example.org/a.png"), File(data=b"%PDF", name="a.pdf")),
        Message(
            "assistant", (THOUGHT, Text("Let me see."), ToolCall("get_weather", '{"city":"Rome"}', "call_1"))
        ),
        Message(
            "tool",
            (ToolResult(call_id="call_1", name="get_weather", content=(Text("Rain"),), is_error=True),),
        ),
        instructions="Be brief.",
        tools=(WEATHER,),
    )

    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["instructions"] == "Be brief."
    assert [part["type"] for part in body["input"][0]["content"]] == [
        "input_text",
        "input_image",
        "input_file",
    ]
    assert body["input"][1:] == [
        REASONING,
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "Error: Rain"},
    ]
    assert body["tools"][0] == {
        "type": "function",
        "name": "get_weather",
        "description": "The weather.",
        "parameters": WEATHER.parameters,
        "strict": False,
    }


def test_a_tool_may_return_pictures() -> None:
    result = ToolResult(call_id="c", name="draw", content=(Text("Done"), Image(data=b"1")))

    body = sent(
        user("Draw"), Message("assistant", (ToolCall("draw", "{}", "c"),)), Message("tool", (result,))
    )

    assert [part["type"] for part in body["input"][2]["output"]] == ["input_text", "input_image"]


@pytest.mark.parametrize(
    "thought",
    [
        Thinking("Hm.", "sig", None, "anthropic"),
        Thinking("Hm.", "rs_1", None, "openai-responses"),
        Thinking("Hm.", provider="openai"),
    ],
)
def test_thoughts_of_others_and_unsealed_ones_are_dropped(thought: Thinking) -> None:
    body = sent(user("So?"), Message("assistant", (thought, Text("Yes"))), user("Why?"))

    assert [item.get("type") for item in body["input"]] == [None, None, None]


def test_a_thought_that_led_to_nothing_is_dropped() -> None:
    """The API answers 400 to a reasoning item "without its required following item"."""
    body = sent(user("So?"), Message("assistant", (THOUGHT,)), user("Well?"))

    assert [item["role"] for item in body["input"]] == ["user", "user"]


def test_a_model_that_does_not_reason_is_not_asked_for_its_reasoning() -> None:
    _, received = replayed(lambda url: responses(url, "gpt-4o-mini"), asked(), events(ended(MESSAGE)))

    assert "include" not in received[0].body


def test_settings_are_sent_and_those_that_do_not_exist_refused() -> None:
    settings = ModelSettings(
        temperature=0.1,
        top_p=0.9,
        max_tokens=77,
        tool_choice="get_weather",
        parallel_tool_calls=False,
        extra={"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}},
    )
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}

    body = sent(settings=settings, tools=(WEATHER,), output=OutputSpec("out", schema))

    assert (
        body.items()
        >= {
            "temperature": 0.1,
            "top_p": 0.9,
            "max_output_tokens": 77,
            "tool_choice": {"type": "function", "name": "get_weather"},
            "parallel_tool_calls": False,
            "reasoning": {"effort": "low"},
        }.items()
    )
    form = {"type": "json_schema", "name": "out", "schema": schema, "strict": True}
    assert body["text"] == {"format": form, "verbosity": "low"}
    for unknown in (ModelSettings(seed=1), ModelSettings(stop=("x",))):
        error = failed(responses, asked(settings=unknown), events(ended(MESSAGE)))
        assert type(error) is RequestRejected
        assert error.retry_after is None


# -------------------------------------------------------------------------------------------------- answers


def test_reasoning_comes_back_to_go_back_and_all_tokens_are_counted() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8},
        "output_tokens": 40,
        "output_tokens_details": {"reasoning_tokens": 30},
        "total_tokens": 140,
    }
    stream = events(
        {"type": "response.created", "response": response(status="in_progress")},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**REASONING, "encrypted_content": "se"},
        },
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
        {"type": "response.output_item.done", "output_index": 0, "item": REASONING},
        {"type": "response.output_item.added", "output_index": 1, "item": {**CALL, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"city":'},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '"Rome"}'},
        {"type": "response.output_item.done", "output_index": 1, "item": CALL},
        ended({**REASONING, "encrypted_content": None}, CALL, usage=usage),
    )

    streamed, _ = replayed(responses, asked(), stream)
    at_once, _ = replayed(responses, asked(stream=False), whole(response(REASONING, CALL, usage=usage)))

    assert [type(item) for item in streamed] == [ThinkingDelta, *[ToolCallDelta] * 3, Answer]
    for given in (answer(streamed), answer(at_once)):
        assert given.parts == (THOUGHT, ToolCall("get_weather", '{"city":"Rome"}'))
        assert given.finish_reason == "tool_calls"
        assert given.model == "gpt-5-2025"
        assert given.usage == Usage(
            input_tokens=100,
            output_tokens=40,
            cache_read_tokens=64,
            cache_write_tokens=8,
            reasoning_tokens=30,
        )


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), (None, "other")],
)
def test_an_incomplete_response_says_why(reason: str | None, finish: str) -> None:
    cut = ended({**CALL, "arguments": '{"ci'}, status="incomplete", incomplete_details={"reason": reason})

    given, _ = replayed(responses, asked(), events(cut))

    assert answer(given).finish_reason == finish
    assert answer(given).parts == (ToolCall("get_weather", '{"ci'),)


def test_a_refusal_is_text_that_was_filtered() -> None:
    refusal = {"type": "message", "id": "m", "content": [{"type": "refusal", "refusal": "No."}]}

    given, _ = replayed(responses, asked(), events(ended(refusal)))

    assert answer(given).parts == (Text("No.", origin="model", trust="untrusted"),)
    assert answer(given).finish_reason == "content_filter"


def test_items_count_where_a_server_leaves_them_out_of_the_end() -> None:
    done = {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE}

    given, _ = replayed(responses, asked(), events(done, ended()))

    assert answer(given).parts == (Text("Hi", origin="model", trust="untrusted"),)


@pytest.mark.parametrize("status", ["in_progress", "queued", "cancelled", None])
def test_a_response_that_did_not_end_is_no_answer(status: Any) -> None:
    body = response(MESSAGE, status=status)

    assert type(failed(responses, asked(stream=False), whole(body))) is IncompleteAnswer
    assert (
        type(failed(responses, asked(), events({"type": "response.completed", "response": body})))
        is IncompleteAnswer
    )


def test_a_call_that_was_done_is_no_answer_before_the_response_is() -> None:
    done = {"type": "response.output_item.done", "output_index": 0, "item": CALL}

    assert type(failed(responses, asked(), events(done))) is IncompleteAnswer


# ------------------------------------------------------------------------------------------------- emulator


def test_an_emulators_reasoning_goes_round(aimock: Aimock) -> None:  # noqa: F811
    reply = {"content": "Rain.", "reasoning": "It rains in Rome."}
    aimock.serve({"match": {"model": "gpt-5"}, "response": reply})

    given = answer(ask(responses(aimock.url), asked()))
    again = answer(
        ask(responses(aimock.url), asked(user("So?"), Message("assistant", given.parts), user("Sure?")))
    )

    thought = given.parts[0]
    assert isinstance(thought, Thinking)
    assert thought.text == "It rains in Rome."
    assert thought.redacted
    assert again.parts[1:] == given.parts[1:] == (Text("Rain.", origin="model", trust="untrusted"),)
