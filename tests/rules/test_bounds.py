"""Bounds hold for what adapters make of a request: marks for wrong bytes, text that is escaped, schemas that grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy import Message
from shipworthy.adapters.anthropic import AnthropicModel
from shipworthy.adapters.openai import OpenAIChat, OpenAIResponses
from shipworthy.domain.messages import File, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import ModelRequest, OutputSpec
from shipworthy.rules import budgets
from shipworthy.rules.budgets import UNBOUNDED, beyond_bounds, tokens_around, tokens_beside, tokens_of

HERE = "http://127.0.0.1:1"
MODELS: dict[str, Any] = {
    "chat": OpenAIChat("gpt-4o", base_url=HERE),
    "responses": OpenAIResponses("gpt-5", base_url=HERE),
    "anthropic": AnthropicModel("claude-sonnet-4-5", base_url=HERE),
}


def sent(kind: str, *messages: Message, output: OutputSpec | None = None) -> Any:
    """The body of a request."""
    asked = ModelRequest(
        run_id="r", purpose="turn", ordinal=0, instructions="", messages=messages, output=output
    )
    return MODELS[kind]._body(asked)


def size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def holds_for_a_file(data: bytes) -> bool:
    message = Message("user", (File(name="x.txt", media_type="text/plain", data=data),))
    (block,) = sent("anthropic", message)["messages"][0]["content"]
    return tokens_of(message) >= len(block["source"]["data"].encode()) + len(block["title"])


@given(st.binary(max_size=300))
def test_a_text_that_is_not_utf8_is_counted_with_its_marks(data: bytes) -> None:
    assert holds_for_a_file(data)


@pytest.mark.parametrize("as_they_are", [False, True])
def test_a_file_that_is_counted_by_its_own_bytes_passes_its_bound(
    as_they_are: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if as_they_are:
        monkeypatch.setattr(budgets, "_content", lambda file: len(file.data))
    assert holds_for_a_file(b"\xe9" * 1_000) is not as_they_are


def holds_for_arguments(arguments: str) -> bool:
    message = Message("assistant", (ToolCall("look", arguments, "c"),))
    (block,) = sent("anthropic", message)["messages"][0]["content"]
    return tokens_of(message) >= size(block["input"])


@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=200)
    | st.from_regex(r'\{"a":-?[0-9]{1,9}e1[0-9]\}')
)
def test_arguments_are_counted_as_they_go_back(arguments: str) -> None:
    assert holds_for_arguments(arguments)


@pytest.mark.parametrize("as_they_are", [False, True])
def test_arguments_that_are_counted_by_their_own_bytes_pass_their_bound(
    as_they_are: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if as_they_are:
        monkeypatch.setattr(budgets, "_arguments", lambda call: len(call.raw_arguments))
    assert holds_for_arguments("\x01" * 1_000 + "{") is not as_they_are


SCHEMAS: dict[str, Callable[[int], dict[str, Any]]] = {
    "objects": lambda i: {"type": "object", "properties": {}},
    "numbers": lambda i: {"type": "integer", "minimum": 1, "maximum": 2},
    "lists": lambda i: {"type": "array", "items": {"type": "string", "pattern": "é+"}, "maxItems": 3},
    "choices": lambda i: {"anyOf": [{"type": "string", "maxLength": i}, {"type": "null"}]},
}


def holds_for_a_schema(kind: str, made: str, many: int = 100) -> bool:
    properties = {f"f{i}": SCHEMAS[made](i) for i in range(many)}
    output = OutputSpec("Out", {"type": "object", "properties": properties, "additionalProperties": False})
    body = sent(kind, output=output)
    shape = body.get("output_config") or body.get("response_format") or body["text"]
    return tokens_around((), output) >= size(shape)


@pytest.mark.parametrize("made", SCHEMAS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_schema_is_counted_as_it_is_sent(kind: str, made: str) -> None:
    assert holds_for_a_schema(kind, made)
    assert holds_for_a_schema(kind, made, 1)


def test_names_and_seals_count_their_bytes() -> None:
    for part in (
        ToolCall("look", "{}", "ü" * 100),
        ToolResult(call_id="ü" * 100, name="look", content=(Text(""),)),
        Thinking("", signature="ü" * 100),
        Thinking("", redacted="ü" * 100),
    ):
        assert tokens_of(Message("assistant", (part,))) >= 200


def test_vendors_settings_count_their_bytes() -> None:
    assert tokens_beside(None) == tokens_beside({}) == 0
    assert tokens_beside({"metadata": {"why": "ü" * 100}}) >= 200


def test_what_passes_a_bound_is_found_wherever_it_is() -> None:
    for field in UNBOUNDED:
        assert beyond_bounds({"top_k": 5, field: 1}) == field
        assert beyond_bounds({"extra_body": {field: 1}}) == field
    assert beyond_bounds({"extra_body": {"extra_body": {"n": 5}}}) == "n"
    for harmless in (
        {"top_k": 5},
        {"reasoning": {"effort": "low"}},
        {"thinking": {"type": "enabled"}},
        {},
        None,
    ):
        assert beyond_bounds(harmless) is None
