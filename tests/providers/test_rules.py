"""What the adapters decide alike."""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy.rules.wire import MAX_MESSAGE, MAX_WAIT, cleaned, is_strict, retry_after

CLOSED = {"type": "object", "additionalProperties": False}
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "30", "retry-after-ms": "100"}, 0.1),
        ({"retry-after": "30", "retry-after-ms": "soon"}, 30.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e9"}, MAX_WAIT),
        ({"retry-after": "inf"}, MAX_WAIT),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "never"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:09 GMT", "date": DATE}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:09 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:09 GMT"}, None),
    ],
)
def test_the_wait_is_read_from_either_header_and_bounded(headers: dict[str, str], wait: float | None) -> None:
    assert retry_after(headers) == wait


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({**CLOSED, "properties": {}}, True),
        ({**CLOSED, "properties": {"a": {"type": "string"}}, "required": ["a"]}, True),
        (
            {**CLOSED, "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"], "$defs": {"A": CLOSED}},
            True,
        ),
        ({**CLOSED, "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}, True),
        ({**CLOSED, "properties": {"a": {"type": "string"}}, "required": []}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "array", "items": {"type": "string"}}, False),
        ({"anyOf": [CLOSED, CLOSED]}, False),
        ({**CLOSED, "properties": {"a": {}}, "required": ["a"]}, False),
        ({**CLOSED, "properties": {"a": {"type": "string", "default": ""}}, "required": ["a"]}, False),
        ({**CLOSED, "properties": {"a": {"type": "string", "format": "uri"}}, "required": ["a"]}, False),
        (
            {
                **CLOSED,
                "properties": {"a": {"type": "array", "items": {"type": "object"}}},
                "required": ["a"],
            },
            False,
        ),
        ({**CLOSED, "properties": {"a": {"allOf": [CLOSED]}}, "required": ["a"]}, False),
        (
            {
                **CLOSED,
                "properties": {"a": {"$ref": "#/$defs/A"}},
                "required": ["a"],
                "$defs": {"A": {"type": "object"}},
            },
            False,
        ),
    ],
)
def test_only_what_strict_mode_takes_is_strict(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


@pytest.mark.parametrize(
    "message",
    [
        "Incorrect API key provided: sk-proj-abcdEFGH1234.",
        "Incorrect API key provided: sk-abc***wxyz.",
        "bad header b'Bearer my-own-key-1'",
    ],
)
def test_no_key_is_left_in_a_message(message: str) -> None:
    said = cleaned(message, "my-own-key-1")

    assert "***" in said
    assert not {"abcdEFGH1234", "wxyz", "my-own-key-1"} & set(
        said.replace("'", " ").replace(".", " ").split()
    )
    assert "1234" not in said


def test_a_web_page_for_a_message_is_cut() -> None:
    assert len(cleaned("<p>\n" * 10_000, None)) <= MAX_MESSAGE + 3
