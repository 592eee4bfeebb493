"""Answers of the Messages API, streamed or whole.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from shipworthy.domain.model import Answer, Delta, FinishReason, TextDelta, ThinkingDelta, ToolCallDelta
from shipworthy.domain.usage import Usage
from shipworthy.errors import IncompleteAnswer
from shipworthy.rules.draft import Draft, Piece

PROVIDER = "anthropic"

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class MessagesReader:
    """Makes an answer of events, or of a whole message. Blocks of the provider's own tools are left out."""

    def __init__(self, model: str, name: str) -> None:
        self._model = model
        self._name = name
        self._draft = Draft(PROVIDER)
        self._blocks: dict[int, Piece] = {}
        self._finish: str | None = None
        self._stopped = False
        self._usage: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        """Was there a message_stop, with a reason before it?"""
        return self._stopped and self._finish is not None

    def feed(self, event: dict[str, Any]) -> Iterable[Delta]:
        kind = event["type"]
        if kind == "content_block_delta":
            return self._add(event["index"], event["delta"])
        if kind == "content_block_start":
            return self._begin(event["index"], event["content_block"])
        if kind == "message_delta":
            self._finish = event["delta"].get("stop_reason") or self._finish
            self._count(event.get("usage"))
        elif kind == "message_start":
            message = event["message"]
            self._model = message.get("model") or self._model
            self._count(message.get("usage"))
        elif kind == "message_stop":
            self._stopped = True
        return ()

    def _add(self, index: int, delta: dict[str, Any]) -> Iterable[Delta]:
        piece = self._blocks.get(index)
        if piece is None:
            return ()
        kind = delta["type"]
        if kind == "text_delta":
            piece.chunks.append(delta["text"])
            return (TextDelta(delta["text"]),)
        if kind == "input_json_delta":
            piece.chunks.append(delta["partial_json"])
            return (ToolCallDelta(piece.slot, piece.name, delta["partial_json"]),)
        if kind == "thinking_delta":
            piece.chunks.append(delta["thinking"])
            return (ThinkingDelta(delta["thinking"]),)
        if kind == "signature_delta":
            piece.signature = (piece.signature or "") + delta["signature"]
        return ()

    def _begin(self, index: int, block: dict[str, Any]) -> Iterable[Delta]:
        match block["type"]:
            case "text":
                self._blocks[index] = self._draft.begin("text")
                return (
                    self._add(index, {"type": "text_delta", "text": block["text"]})
                    if block.get("text")
                    else ()
                )
            case "thinking":
                self._blocks[index] = piece = self._draft.begin("thinking")
                piece.signature = block.get("signature") or None
                thought = block.get("thinking")
                return self._add(index, {"type": "thinking_delta", "thinking": thought}) if thought else ()
            case "redacted_thinking":
                self._draft.begin("thinking").redacted = block["data"]
            case "tool_use":
                self._blocks[index] = piece = self._draft.begin("call")
                piece.name = block["name"]
                given = msgspec.json.encode(block["input"]).decode() if block.get("input") else ""
                if given:
                    piece.chunks.append(given)
                return (ToolCallDelta(piece.slot, piece.name, given),)
            case _:
                pass
        return ()

    def _count(self, usage: dict[str, Any] | None) -> None:
        """Counts are cumulative; the later ones leave out what did not change."""
        for field, value in (usage or {}).items():
            if value is not None:
                self._usage[field] = value

    def whole(self, data: Any) -> Answer:
        if data.get("type") != "message" or not data.get("stop_reason"):
            raise IncompleteAnswer(f"{self._name} sent a message without a stop_reason.")
        self._model = data.get("model") or self._model
        self._finish = data["stop_reason"]
        self._count(data.get("usage"))
        for index, block in enumerate(data["content"]):
            self._begin(index, block)
        return self.answer()

    def usage(self) -> Usage | None:
        """What was reported so far: the input with the beginning, the output as it was counted last."""
        return _usage(self._usage)

    def answer(self) -> Answer:
        return Answer(
            parts=self._draft.parts(),
            usage=_usage(self._usage),
            finish_reason=FINISH.get(self._finish or "", "other"),
            model=self._model,
        )


def _usage(usage: dict[str, Any]) -> Usage:
    """Anthropic's input_tokens leave out what the cache read or wrote; ours include it."""
    fresh = usage.get("input_tokens")
    read, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=usage.get("output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=(usage.get("output_tokens_details") or {}).get("thinking_tokens"),
    )
