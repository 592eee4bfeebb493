"""The Messages API: what is sent, and what is made of what comes.

Where the emulators do not send it (cache and thinking tokens, rare blocks and stop reasons), a local server sends
events in the format that the API's reference documents.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from shipworthy.adapters.anthropic import DEFAULT_MAX_TOKENS, AnthropicModel
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
from tests.providers.asking import KEY, WEATHER, answer, ask, asked, claude, failed, replayed, user
from tests.providers.emulators import Aimock, aimock, events, whole  # noqa: F401

pytestmark = pytest.mark.wire

START_USAGE = {
    "input_tokens": 20,
    "cache_read_input_tokens": 70,
    "cache_creation_input_tokens": 10,
    "output_tokens": 1,
}


def start(**usage: Any) -> dict[str, Any]:
    message = {"type": "message", "model": "claude-sonnet-4-5-20250929", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block(index: int, given: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": given},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def stop(reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage},
        {"type": "message_stop"},
    ]


HELLO = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"})
OK = events(start(), {"type": "ping"}, *HELLO, *stop())


def sent(*messages: Message, **more: Any) -> dict[str, Any]:
    _, received = replayed(claude, asked(*messages, **more), OK)
    assert received[0].headers["authorization"] == f"Bearer {KEY}"
    body: dict[str, Any] = received[0].body
    return body


# ------------------------------------------------------------------------------------------------- requests


def test_a_conversation_is_sent_in_the_apis_words_its_roles_alternating() -> None:
    body = sent(
        user("Weather?"),
        user("In Rome."),
        Message(
            "assistant",
            (
                Thinking("Hm.", "sig", None, "anthropic"),
                Thinking("", None, "sealed", "anthropic"),
                Text("Let me see."),
                ToolCall("get_weather", '{"city":"Rome"}', "call_1"),
                ToolCall("get_weather", '{"city"', "call_2"),
            ),
        ),
        Message("tool", (ToolResult(call_id="call_1", name="get_weather", content=(Text("Rain"),)),)),
        Message("tool", (ToolResult(call_id="call_2", name="get_weather", content=(), is_error=True),)),
        user("And?"),
        instructions="Be brief.",
        tools=(WEATHER,),
    )

    rome, broken = {"city": "Rome"}, {"invalid_json": '{"city"'}
    assert body["system"] == "Be brief."
    assert body["max_tokens"] == DEFAULT_MAX_TOKENS
    assert body["messages"] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Weather?"}, {"type": "text", "text": "In Rome."}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "sealed"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": rome},
                {"type": "tool_use", "id": "call_2", "name": "get_weather", "input": broken},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "Rain"}],
                },
                {"type": "tool_result", "tool_use_id": "call_2", "is_error": True},
                {"type": "text", "text": "And?"},
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER.parameters}
    ]


def test_pictures_and_files_are_sent_by_users_and_by_tools() -> None:
    parts = (Image(data=b"1"), Image(url="https://example.org/a.png"), File(data=b"%PDF", name="a.pdf"))
    result = ToolResult(call_id="c", name="draw", content=(Text("Done"), *parts))

    body = sent(
        user(*parts, File(data=b"hello", name="a.txt", media_type="text/plain")),
        Message("assistant", (ToolCall("draw", "{}", "c"),)),
        Message("tool", (result,)),
    )

    data = base64.b64encode(b"1").decode()
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {
                "type": "base64",
                "media_type": "application/pdf",
                "data": base64.b64encode(b"%PDF").decode(),
            },
        },
        {
            "type": "document",
            "title": "a.txt",
            "source": {"type": "text", "media_type": "text/plain", "data": "hello"},
        },
    ]
    returned = body["messages"][2]["content"][0]["content"]
    assert [part["type"] for part in returned] == ["text", "image", "image", "document"]


def test_what_the_api_refuses_is_left_out() -> None:
    """Empty texts, thoughts of others, thoughts at a message's end, and messages that have nothing else."""
    body = sent(
        user("One"),
        Message("assistant", (Text(" "), Thinking("Hm.", "rs", "sealed", "openai-responses"))),
        user("Two"),
        Message("assistant", (Text("Yes"), Thinking("Hm.", "sig", None, "anthropic"))),
        user("Three"),
    )

    said = [(message["role"], [part["text"] for part in message["content"]]) for message in body["messages"]]
    assert said == [("user", ["One", "Two"]), ("assistant", ["Yes"]), ("user", ["Three"])]


@pytest.mark.parametrize(
    ("settings", "choice"),
    [
        (ModelSettings(tool_choice="auto"), {"type": "auto"}),
        (ModelSettings(tool_choice="required"), {"type": "any"}),
        (ModelSettings(tool_choice="none", parallel_tool_calls=False), {"type": "none"}),
        (ModelSettings(tool_choice="get_weather"), {"type": "tool", "name": "get_weather"}),
        (ModelSettings(parallel_tool_calls=False), {"type": "auto", "disable_parallel_tool_use": True}),
        (ModelSettings(), None),
    ],
)
def test_the_choice_of_tools_is_sent(settings: ModelSettings, choice: dict[str, Any] | None) -> None:
    assert sent(settings=settings, tools=(WEATHER,)).get("tool_choice") == choice


def test_settings_are_sent_and_those_that_do_not_exist_refused() -> None:
    extra = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "extra_headers": {"anthropic-beta": "x"}}
    settings = ModelSettings(temperature=0.1, top_p=0.9, max_tokens=77, stop=("END",), extra=extra)

    body = sent(settings=settings)

    assert (
        body.items()
        >= {
            "temperature": 0.1,
            "top_p": 0.9,
            "max_tokens": 77,
            "stop_sequences": ["END"],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }.items()
    )
    assert type(failed(claude, asked(settings=ModelSettings(seed=1)), OK)) is RequestRejected


@pytest.mark.parametrize("setting", ["temperature", "top_p"])
def test_what_anthropic_took_out_of_its_api_is_refused_with_the_way_round(setting: str) -> None:
    """API version 2026-10-21, which the SDK sends, answers 400 to these; other servers take them."""

    def own(url: str) -> AnthropicModel:
        return AnthropicModel("claude-sonnet-4-5", base_url=f"{url}/api.anthropic.com", api_key=KEY)

    error = failed(own, asked(settings=ModelSettings(**{setting: 0.5})), OK)  # type: ignore[arg-type]
    old = ModelSettings(extra={setting: 0.5, "extra_headers": {"anthropic-version": "2023-06-01"}})
    _, received = replayed(own, asked(settings=old), OK)

    assert type(error) is RequestRejected
    assert "2023-06-01" in error.fix
    assert received[0].body[setting] == 0.5
    assert received[0].headers["anthropic-version"] == "2023-06-01"


def test_a_long_answer_may_come_in_one_piece() -> None:
    """The SDK refuses it by a rule of its own, unless it is told a timeout."""
    message = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}

    def long(url: str) -> AnthropicModel:
        return AnthropicModel("claude-sonnet-4-5", base_url=url, api_key=KEY, max_tokens=60_000)

    given, received = replayed(long, asked(stream=False), whole(message))

    assert received[0].body["max_tokens"] == 60_000
    assert answer(given).parts == (Text("Hi", origin="model", trust="untrusted"),)
    assert answer(given).usage == Usage()


def test_a_native_schema_is_sent_as_the_sdk_has_it() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}

    form = sent(
        output=OutputSpec("out", schema), settings=ModelSettings(extra={"output_config": {"effort": "low"}})
    )

    sent_schema = form["output_config"]["format"]["schema"]
    assert form["output_config"]["effort"] == "low"
    assert form["output_config"]["format"]["type"] == "json_schema"
    assert sent_schema["additionalProperties"] is False
    assert "minimum" not in sent_schema["properties"]["n"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"type": "object", "additionalProperties": True}]}},
        },
        {"type": "object", "properties": {"anything": {}}},
    ],
)
def test_a_schema_that_native_output_cannot_take_is_refused(schema: dict[str, Any]) -> None:
    error = failed(claude, asked(output=OutputSpec("out", schema)), OK)

    assert type(error) is RequestRejected
    assert "'tool'" in error.fix


# -------------------------------------------------------------------------------------------------- answers


def test_thinking_comes_back_signed_and_all_tokens_are_counted() -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    stream = events(
        start(**START_USAGE),
        *block(
            0,
            thinking,
            {"type": "thinking_delta", "thinking": "Let me "},
            {"type": "thinking_delta", "thinking": "see."},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        *block(1, {"type": "redacted_thinking", "data": "sealed"}),
        *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I look."}),
        *block(
            3,
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"city":'},
            {"type": "input_json_delta", "partial_json": '"Rome"}'},
        ),
        *block(4, {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}),
        *stop("tool_use", output_tokens=50, output_tokens_details={"thinking_tokens": 30}),
    )
    content = [
        {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "text", "text": "I look.", "citations": None},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]
    usage = {**START_USAGE, "output_tokens": 50, "output_tokens_details": {"thinking_tokens": 30}}
    message = {"type": "message", "content": content, "stop_reason": "tool_use", "usage": usage}

    streamed, _ = replayed(claude, asked(), stream)
    at_once, _ = replayed(claude, asked(stream=False), whole(message))

    kinds = [type(item) for item in streamed]
    assert kinds == [ThinkingDelta, ThinkingDelta, TextDelta, *[ToolCallDelta] * 5, Answer]
    for given in (answer(streamed), answer(at_once)):
        assert given.parts == (
            Thinking("Let me see.", "c2ln", None, "anthropic"),
            Thinking("", None, "sealed", "anthropic"),
            Text("I look.", origin="model", trust="untrusted"),
            ToolCall("get_weather", '{"city":"Rome"}'),
            ToolCall("now", "{}"),
        )
        assert given.finish_reason == "tool_calls"
        assert given.usage == Usage(
            input_tokens=100,
            output_tokens=50,
            cache_read_tokens=70,
            cache_write_tokens=10,
            reasoning_tokens=30,
        )


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
        ("something_new", "other"),
    ],
)
def test_every_stop_reason_has_its_word(reason: str, finish: str) -> None:
    given, _ = replayed(claude, asked(), events(start(), *HELLO, *stop(reason)))

    assert answer(given).finish_reason == finish


def test_blocks_of_the_providers_own_tools_are_left_out() -> None:
    search = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}
    stream = events(
        start(),
        *block(0, search, {"type": "input_json_delta", "partial_json": '{"q":1}'}),
        *block(1, {"type": "web_search_tool_result", "tool_use_id": "srv", "content": []}),
        *block(2, {"type": "text", "text": "Hi"}, {"type": "citations_delta", "citation": {}}),
        *stop(),
    )

    given, _ = replayed(claude, asked(), stream)

    assert answer(given).parts == (Text("Hi", origin="model", trust="untrusted"),)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_stream_cut_anywhere_before_its_end_is_no_answer(cut: int) -> None:
    """Cut after each event, cleanly and not: the SDK raises nothing for the former."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "pay", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": text} for text in ('{"amount"', ": 50}")]
    stream = [start(), *HELLO, *block(1, call, *deltas), *stop("tool_use")]
    assert cut < len(stream)

    for reply in (events(*stream[:cut]), events(*stream[:cut], end="break")):
        assert type(failed(claude, asked(), reply)) is IncompleteAnswer


def test_an_end_without_a_reason_is_no_answer() -> None:
    assert type(failed(claude, asked(), events(start(), *HELLO, *stop(None)))) is IncompleteAnswer


# ------------------------------------------------------------------------------------------------- emulator


def test_an_emulators_thinking_goes_round_with_a_tool(aimock: Aimock) -> None:  # noqa: F811
    """aimock answers 400 to a continuation whose thinking block lost its signature."""
    calls = [{"name": "get_weather", "arguments": {"city": "Rome"}}]
    aimock.serve(
        {"match": {"hasToolResult": True}, "response": {"content": "Rain.", "reasoning": "As I thought."}},
        {
            "match": {"hasToolResult": False},
            "response": {"toolCalls": calls, "reasoning": "I must look.", "reasoningSignature": "c2ln"},
        },
    )
    thinks = ModelSettings(extra={"thinking": {"type": "enabled", "budget_tokens": 1024}})

    first = answer(ask(claude(aimock.url), asked(tools=(WEATHER,), settings=thinks)))
    thought, call = first.parts
    assert isinstance(thought, Thinking)
    assert isinstance(call, ToolCall)
    result = ToolResult(call_id="c1", name="get_weather", content=(Text("Rain"),))
    conversation = (
        user("Hello"),
        Message("assistant", (thought, ToolCall(call.name, call.arguments, "c1"))),
        Message("tool", (result,)),
    )
    second = answer(ask(claude(aimock.url), asked(*conversation, tools=(WEATHER,), settings=thinks)))

    assert (thought.text, thought.signature) == ("I must look.", "c2ln")
    assert second.parts[-1] == Text("Rain.", origin="model", trust="untrusted")
