"""What was said and done, as the conventions write it on spans: JSON texts. Only for those who ask for it.

What lies in the store and not in its event is named, and not fetched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from shipworthy.domain.messages import File, Image, Stored, Text, Thinking, ToolCall

_encode = msgspec.json.Encoder().encode


def _part(part: Any) -> dict[str, Any]:
    if type(part) is Text:
        return {"type": "text", "content": part.text}
    if type(part) is Thinking:
        return {"type": "reasoning", "content": part.text}
    if type(part) is ToolCall:
        return {
            "type": "tool_call",
            "id": part.call_id,
            "name": part.name,
            "arguments": arguments(part),
        }
    if type(part) is Stored:
        return {"type": "text", "content": f"[{part.size} bytes in the store: {part.digest}]"}
    if type(part) in (Image, File):
        return {"type": "blob", "mime_type": getattr(part, "media_type", ""), "content": ""}
    return {"type": "text", "content": ""}


def arguments(call: ToolCall) -> str:
    """A call's arguments as text."""
    if call.stored is not None:
        return f"[{call.stored.size} bytes in the store: {call.stored.digest}]"
    return call.arguments if type(call.arguments) is str else _encode(call.arguments).decode()


def message(role: str, parts: Iterable[Any], finish_reason: str = "") -> str:
    """One message, as the only one of a list."""
    said: dict[str, Any] = {"role": role, "parts": [_part(part) for part in parts]}
    if finish_reason:
        said["finish_reason"] = finish_reason
    return _encode([said]).decode()


def instructions(part: Any) -> str:
    """The instructions of a run."""
    return _encode([_part(part)]).decode()


def result(parts: Iterable[Any]) -> str:
    """What a call gave."""
    return _encode([_part(part) for part in parts]).decode()
