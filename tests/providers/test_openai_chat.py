"""Chat completions: what is sent, and what is made of what comes.

Where the emulators do not send it (cached and reasoning tokens, refusals, the ways of other servers), a local server
sends chunks in the format that the API's reference documents.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from shipworthy.adapters.openai import OpenAIChat
from shipworthy.domain.messages import File, Image, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import (
    Answer,
    ModelSettings,
    OutputSpec,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from shipworthy.domain.usage import Usage
from shipworthy.errors import IncompleteAnswer, RequestRejected
from tests.providers.asking import KEY, WEATHER, answer, ask, asked, chat, failed, replayed, user
from tests.providers.emulators import Aimock, Reply, aimock, chunks, whole  # noqa: F401

pytestmark = pytest.mark.wire


def piece(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One chunk."""
    return {
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def call(index: int, arguments: str, ident: str | None = None, name: str | None = None) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments}
    if name:
        function["name"] = name
    return {"index": index, **({"id": ident, "type": "function"} if ident else {}), "function": function}


OK = chunks(piece(content="Hi"), piece("stop"), "[DONE]")


def sent(*messages: Message, **more: Any) -> dict[str, Any]:
    """The body of a request."""
    _, received = replayed(chat, asked(*messages, **more), OK)
    body: dict[str, Any] = received[0].body
    return body


# ------------------------------------------------------------------------------------------------- requests


def test_a_conversation_is_sent_in_the_apis_words() -> None:
    body = sent(
        user("Weather?"),
        Message("assistant", (Text("Let me see."), ToolCall("get_weather", '{"city":"Rome"}', "call_1"))),
        Message(
            "tool",
            (ToolResult(call_id="call_1", name="get_weather", content=(Text("Rain"),), is_error=True),),
        ),
        user("And?"),
        instructions="Be brief.",
        tools=(WEATHER,),
    )

    function = {"name": "get_weather", "arguments": '{"city":"Rome"}'}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Error: Rain"},
        {"role": "user", "content": "And?"},
    ]
    assert body["tools"][0]["function"]["parameters"] == WEATHER.parameters
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_pictures_and_files_are_sent_with_the_text() -> None:
    picture, page = Image(data=b"1234"), File(data=b"%PDF", name="a.pdf")

    content = sent(user("Look", picture, Image(url="https://example.org/a.png"), page))["messages"][0][
        "content"
    ]

    assert [part["type"] for part in content] == ["text", "image_url", "image_url", "file"]
    assert content[1]["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(b'1234').decode()}"
    assert content[2]["image_url"]["url"] == "https://example.org/a.png"
    assert content[3]["file"]["filename"] == "a.pdf"
    assert content[3]["file"]["file_data"].startswith("data:application/pdf;base64,")


def test_a_picture_of_a_tool_is_described_for_the_api_takes_none() -> None:
    result = ToolResult(call_id="c", name="draw", content=(Text("Done"), Image(data=b"1")))

    body = sent(
        user("Draw"), Message("assistant", (ToolCall("draw", "{}", "c"),)), Message("tool", (result,))
    )

    assert body["messages"][2]["content"] == "Done\n[An image (image/png) that cannot be shown here]"


def test_thoughts_are_not_sent_back() -> None:
    body = sent(
        user("Hm"), Message("assistant", (Thinking("deep", provider="openai"), Text("Yes"))), user("So?")
    )

    assert body["messages"][1] == {"role": "assistant", "content": "Yes"}


def test_settings_are_sent_and_extras_laid_over_them() -> None:
    settings = ModelSettings(
        temperature=0.1,
        top_p=0.9,
        max_tokens=77,
        seed=5,
        stop=("END",),
        parallel_tool_calls=False,
        tool_choice="get_weather",
        extra={"logit_bias": {"1": 2}, "stream_options": {"x": 1}, "extra_body": {"top_k": 3}},
    )

    body = sent(settings=settings, tools=(WEATHER,))

    assert (
        body.items()
        >= {
            "temperature": 0.1,
            "top_p": 0.9,
            "max_tokens": 77,
            "seed": 5,
            "stop": ["END"],
            "parallel_tool_calls": False,
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            "logit_bias": {"1": 2},
            "stream_options": {"include_usage": True, "x": 1},
            "top_k": 3,
        }.items()
    )


def test_extra_headers_go_beside_the_body() -> None:
    settings = ModelSettings(extra={"extra_headers": {"x-team": "blue"}, "extra_query": {"v": "2"}})

    _, received = replayed(chat, asked(settings=settings), OK)

    assert received[0].headers["x-team"] == "blue"
    assert received[0].headers["authorization"] == f"Bearer {KEY}"
    assert received[0].path == "/v1/chat/completions?v=2"
    assert "extra_headers" not in received[0].body


@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_the_choice_of_tools_is_sent_where_there_are_tools(choice: str) -> None:
    assert sent(settings=ModelSettings(tool_choice=choice), tools=(WEATHER,))["tool_choice"] == choice


def test_a_choice_that_cannot_be_is_refused() -> None:
    for settings in (ModelSettings(tool_choice="required"), ModelSettings(tool_choice="nothing")):
        assert type(failed(chat, asked(settings=settings), OK)) is RequestRejected
    body = sent(settings=ModelSettings(tool_choice="none", parallel_tool_calls=True))
    assert "tool_choice" not in body
    assert "parallel_tool_calls" not in body


def test_openai_itself_is_told_max_completion_tokens() -> None:
    def own(url: str) -> OpenAIChat:
        return OpenAIChat("gpt-5", api_key=KEY, base_url=f"{url}/api.openai.com/v1")

    _, received = replayed(own, asked(settings=ModelSettings(max_tokens=7)), OK)

    assert received[0].body["max_completion_tokens"] == 7
    assert "max_tokens" not in received[0].body


@pytest.mark.parametrize("strict", [True, False])
def test_a_native_schema_is_strict_only_where_it_qualifies(strict: bool) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    if strict:
        schema["additionalProperties"] = False

    form = sent(output=OutputSpec("A report!", schema))["response_format"]

    expected = {"name": "A_report_", "schema": schema, "strict": strict}
    assert form == {"type": "json_schema", "json_schema": expected}


# -------------------------------------------------------------------------------------------------- answers


def test_usage_counts_cached_and_reasoning_tokens() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "total_tokens": 140,
        "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    expected = Usage(
        input_tokens=100, output_tokens=40, cache_read_tokens=64, cache_write_tokens=0, reasoning_tokens=30
    )

    streamed, _ = replayed(
        chat, asked(), chunks(piece(content="Hi"), piece("stop"), {"choices": [], "usage": usage}, "[DONE]")
    )
    message = {"message": {"role": "assistant", "content": "Hi", "refusal": None}, "finish_reason": "stop"}
    at_once, _ = replayed(chat, asked(stream=False), whole({"choices": [message], "usage": usage}))

    assert answer(streamed).usage == answer(at_once).usage == expected
    assert answer(streamed).model == "gpt-4o-mini-2024-07-18"


def test_a_server_that_counts_nothing_is_not_said_to_have_counted_zero() -> None:
    given, _ = replayed(chat, asked(), OK)

    assert answer(given).usage == Usage()


def test_a_finished_answer_survives_what_breaks_after_it() -> None:
    given, _ = replayed(chat, asked(), chunks(piece(content="Hi"), piece("stop"), end="break"))

    assert answer(given).parts == (Text("Hi", origin="model", trust="untrusted"),)
    assert answer(given).usage == Usage()


def test_a_refusal_is_text_that_was_filtered() -> None:
    streamed, _ = replayed(
        chat, asked(), chunks(piece(refusal="I can"), piece(refusal="not."), piece("stop"))
    )
    refused = {
        "message": {"role": "assistant", "content": None, "refusal": "I cannot."},
        "finish_reason": "stop",
    }
    at_once, _ = replayed(chat, asked(stream=False), whole({"choices": [refused]}))

    for given in (streamed, at_once):
        assert answer(given).parts == (Text("I cannot.", origin="model", trust="untrusted"),)
        assert answer(given).finish_reason == "content_filter"


def test_reasoning_of_other_servers_comes_before_the_text() -> None:
    given, _ = replayed(
        chat,
        asked(),
        chunks(
            piece(reasoning_content="Let "),
            piece(reasoning="me think."),
            piece(content="42"),
            piece("stop"),
            "[DONE]",
        ),
    )

    assert [type(item) for item in given] == [ThinkingDelta, ThinkingDelta, TextDelta, Answer]
    assert answer(given).parts[0] == Thinking("Let me think.", provider="openai")


def test_a_call_that_came_to_its_length_is_passed_on_as_it_is() -> None:
    """The engine, which checks every call's JSON, tells the model."""
    given, _ = replayed(
        chat,
        asked(),
        chunks(piece(tool_calls=[call(0, '{"city": "Ro', "a", "get_weather")]), piece("length")),
    )

    assert answer(given).finish_reason == "length"
    assert answer(given).parts == (ToolCall("get_weather", '{"city": "Ro'),)


def test_interleaved_calls_and_text_keep_their_order() -> None:
    given, _ = replayed(
        chat,
        asked(),
        chunks(
            piece(content="First "),
            piece(content="this."),
            piece(tool_calls=[call(0, "", "a", "one"), call(1, "", "b", "two")]),
            piece(tool_calls=[call(1, '{"n":')]),
            piece(tool_calls=[call(0, '{"n":1}')]),
            piece(tool_calls=[call(1, "2}")]),
            piece("tool_calls"),
            "[DONE]",
        ),
    )

    expected = (
        Text("First this.", origin="model", trust="untrusted"),
        ToolCall("one", '{"n":1}'),
        ToolCall("two", '{"n":2}'),
    )
    assert answer(given).parts == expected
    deltas = [(item.slot, item.name, item.arguments) for item in given if isinstance(item, ToolCallDelta)]
    assert deltas == [
        (0, "one", ""),
        (1, "two", ""),
        (1, "two", '{"n":'),
        (0, "one", '{"n":1}'),
        (1, "two", "2}"),
    ]


def test_calls_that_a_server_numbers_alike_are_told_apart_by_their_ids() -> None:
    given, _ = replayed(
        chat,
        asked(),
        chunks(
            piece(tool_calls=[call(0, '{"n":1}', "a", "f")]),
            piece(tool_calls=[call(0, '{"n":2}', "b", "f")]),
            piece("stop"),
        ),
    )

    assert answer(given).parts == (ToolCall("f", '{"n":1}'), ToolCall("f", '{"n":2}'))
    assert answer(given).finish_reason == "tool_calls"


def test_a_call_without_a_name_is_no_answer() -> None:
    stream = chunks(piece(tool_calls=[call(0, "{}", "a")]), piece("tool_calls"))

    assert type(failed(chat, asked(), stream)) is IncompleteAnswer


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_stream_cut_anywhere_before_its_finish_is_no_answer(cut: int) -> None:
    """Cut after each event, cleanly and not, [DONE] said and not: the SDK raises nothing for most of these."""
    stream = [
        piece(role="assistant", content=""),
        piece(content="I will"),
        piece(tool_calls=[call(0, "", "a", "pay")]),
        piece(tool_calls=[call(0, '{"amount": 50}')]),
    ]

    for reply in (chunks(*stream[:cut]), chunks(*stream[:cut], "[DONE]"), chunks(*stream[:cut], end="break")):
        assert type(failed(chat, asked(), reply)) is IncompleteAnswer


def test_other_choices_are_not_mixed_into_the_first() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}

    given, _ = replayed(chat, asked(), chunks(other, piece(content="yes"), other, piece("stop")))

    assert answer(given).parts == (Text("yes", origin="model", trust="untrusted"),)


def test_comments_between_events_are_passed_over() -> None:
    given, _ = replayed(chat, asked(), Reply(b": keep-alive\n\n" + OK.body))

    assert answer(given).finish_reason == "stop"


# ------------------------------------------------------------------------------------------------- emulator


def test_a_schema_reaches_an_emulator_that_others_wrote(aimock: Aimock) -> None:  # noqa: F811
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    aimock.serve(
        {"match": {"responseFormat": "json_schema"}, "response": {"content": '{"a":1}'}},
        {"match": {}, "response": {"content": "no schema"}},
    )

    given = ask(chat(aimock.url), asked(output=OutputSpec("report", schema)))

    assert answer(given).parts == (Text('{"a":1}', origin="model", trust="untrusted"),)


def test_a_tools_result_finds_its_call_in_an_emulator_that_others_wrote(aimock: Aimock) -> None:  # noqa: F811
    aimock.serve({"match": {"toolCallId": "call_7"}, "response": {"content": "I see."}})
    result = ToolResult(call_id="call_7", name="get_weather", content=(Text("Rain"),))
    conversation = (
        user("Weather?"),
        Message("assistant", (ToolCall("get_weather", "{}", "call_7"),)),
        Message("tool", (result,)),
    )

    given = ask(chat(aimock.url), asked(*conversation, tools=(WEATHER,)))

    assert answer(given).parts == (Text("I see.", origin="model", trust="untrusted"),)
