"""What is asked of a model and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from shipworthy.domain.messages import Message, Text, Thinking, ToolCall
from shipworthy.domain.usage import Usage

Purpose = Literal["turn", "wrap_up"]
FinishReason = Literal["stop", "tool_calls", "length", "content_filter", "other"]


class ModelSettings(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """How a model is to answer. None leaves it to the provider. `extra` goes to the vendor's request as it is.

    `tool_choice`: "auto", "required", "none", or a tool's name.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    extra: Mapping[str, Any] | None = None

    def merge(self, other: ModelSettings | None) -> ModelSettings:
        """These settings with those of *other* that are set laid over them."""
        if other is None:
            return self
        changes = {f: v for f in self.__struct_fields__ if (v := getattr(other, f)) is not None}
        if self.extra and other.extra:
            changes["extra"] = {**self.extra, **other.extra}
        return msgspec.structs.replace(self, **changes)


class ToolSpec(msgspec.Struct, frozen=True, gc=False):
    """A tool as the model sees it. `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class OutputSpec(msgspec.Struct, frozen=True, gc=False):
    """An answer that must be JSON of this schema, where the provider enforces it natively."""

    name: str
    schema: Mapping[str, Any]


class Meter(Protocol):
    """Meters what a request costs. The attempt with which `Model.stream` is called is reserved already; a model that
    makes another one by itself (a retry, a fallback) has it reserved first, and makes it with the request that it is
    given."""

    async def again(self, model: str, error: Exception) -> ModelRequest:
        """Charge the attempt that failed with *error*, and reserve another, of the model 'provider:model'. Raises
        BudgetExceeded: let it pass."""
        ...


class ModelRequest(msgspec.Struct, gc=False, kw_only=True):
    """One attempt on the wire. `messages` is read-only and may be a view: do not keep it past the attempt.

    `(run_id, purpose, ordinal)` identifies the attempt; `ordinal` counts the recorded outcomes before it, failures
    included. `stream` is False when nobody listens to deltas: an adapter may then ask without streaming. `meter`: for
    models that make further attempts by themselves; None where nothing is metered.
    """

    run_id: str
    purpose: Purpose
    ordinal: int
    instructions: str
    messages: Sequence[Message]
    tools: tuple[ToolSpec, ...] = ()
    output: OutputSpec | None = None
    settings: ModelSettings = ModelSettings()
    stream: bool = True
    meter: Meter | None = None


class TextDelta(msgspec.Struct, gc=False, tag="text_delta"):
    """A piece of an answer's text, provisional until its `ModelAnswered`."""

    text: str


class ThinkingDelta(msgspec.Struct, gc=False, tag="thinking_delta"):
    """A piece of a model's reasoning, provisional."""

    text: str


class ToolCallDelta(msgspec.Struct, gc=False, tag="tool_call_delta"):
    """A piece of a tool call's JSON, provisional and never executed. `slot` counts the answer's calls from 0."""

    slot: int
    name: str
    arguments: str


Delta = TextDelta | ThinkingDelta | ToolCallDelta


class Answer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The terminal event of every attempt: the complete message. An adapter yields it only when the provider said
    that the message is complete."""

    parts: tuple[Text | Thinking | ToolCall, ...]
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    model: str = ""
