"""Anthropic's Messages API.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shipworthy.adapters.anthropic.connection import Connection
from shipworthy.adapters.anthropic.reader import PROVIDER, MessagesReader
from shipworthy.domain.messages import File, Image, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import Answer, Delta, ModelRequest, ModelSettings, OutputSpec
from shipworthy.errors import RequestRejected
from shipworthy.rules.wire import base64_text, open_maps, tool_choice, unsendable, unsupported

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

DEFAULT_MAX_TOKENS = 8192
"""Anthropic wants a bound on every answer. An answer that reaches it ends with finish_reason "length"."""

_CHOICE = {"auto": "auto", "required": "any", "none": "none"}
_json = msgspec.json.Decoder()


class AnthropicModel:
    """A Claude model. One HTTP request per attempt; the SDK's own retries are off.

    `api_key`: by default `ANTHROPIC_API_KEY`, or `ANTHROPIC_AUTH_TOKEN`. `base_url` (or `ANTHROPIC_BASE_URL`)
    names another server, which then needs no key. `client`: an `anthropic.AsyncAnthropic` that you configure
    and close yourself, or a function that makes one per event loop. `max_tokens` is sent where the settings
    name none. `seed` does not exist here, nor do `temperature` and `top_p` with Anthropic itself: they
    raise RequestRejected, which says what to do. Raises MissingExtra, MissingKey.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        client: AsyncAnthropic | Callable[[], AsyncAnthropic] | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._connection = Connection(f"anthropic:{model}", api_key, base_url, client)

    @property
    def name(self) -> str:
        return self._connection.name

    @property
    def paused_for(self) -> float:
        """Seconds until another request makes sense, by what the provider said of its rate limits."""
        return self._connection.pace.left

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        return self._connection.attempt(request, self._body, MessagesReader(self._model, self.name))

    async def close(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        await self._connection.close()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        settings = request.settings
        _refuse(self.name, settings, self._connection.is_anthropic)
        body = {
            "model": self._model,
            "messages": _messages(request),
            **_settings(settings, self._max_tokens),
            **_tools(request),
        }
        if request.instructions:
            body["system"] = request.instructions
        if request.output is not None:
            schema = _schema(self._connection.sdk, request.output)
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return body


def _refuse(name: str, settings: ModelSettings, is_anthropic: bool) -> None:
    if settings.seed is not None:
        raise unsupported(name, "seed", "Leave it out: Anthropic's answers cannot be seeded.")
    if is_anthropic and (settings.temperature is not None or settings.top_p is not None):
        # https://platform.claude.com/docs/en/api/versioning: removed, even at their defaults, in 2026-10-21.
        setting = "top_p" if settings.temperature is None else "temperature"
        old = f'extra={{"{setting}": ..., "extra_headers": {{"anthropic-version": "2023-06-01"}}}}'
        raise unsupported(name, setting, f"Leave it out; for a model that still takes it use {old}.")


def _settings(settings: ModelSettings, max_tokens: int) -> dict[str, Any]:
    fields = {
        "max_tokens": max_tokens if settings.max_tokens is None else settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "stop_sequences": None if settings.stop is None else list(settings.stop),
    }
    return {field: value for field, value in fields.items() if value is not None}


def _tools(request: ModelRequest) -> dict[str, Any]:
    choice = tool_choice(request)
    if not request.tools:
        return {}
    tools = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
        for tool in request.tools
    ]
    fields: dict[str, Any] = {"tools": tools}
    parallel = request.settings.parallel_tool_calls
    if choice is not None or parallel is not None:
        kind = _CHOICE.get(choice or "auto", "tool")
        chosen: dict[str, Any] = {"type": kind}
        if kind == "tool":
            chosen["name"] = choice
        if parallel is not None and kind != "none":
            chosen["disable_parallel_tool_use"] = not parallel
        fields["tool_choice"] = chosen
    return fields


def _schema(sdk: Any, output: OutputSpec) -> dict[str, Any]:
    """The schema as the provider takes it; the SDK moves what it does not take into descriptions."""
    fix = "Use output mode 'tool', or a type whose fields are all named and typed."
    if open_maps(output.schema):
        raise RequestRejected(
            f"Anthropic's native output takes no open maps, as {output.name!r} has one.", fix=fix
        )
    try:
        return dict(sdk.transform_schema(dict(output.schema)))
    except (ValueError, AssertionError) as error:
        raise RequestRejected(
            f"Anthropic's native output cannot take {output.name!r}: {error}", fix=fix
        ) from None


# ------------------------------------------------------------------------------------------------- messages


def _messages(request: ModelRequest) -> list[dict[str, Any]]:
    """The conversation, its roles alternating: what follows in one role is one message."""
    sent: list[dict[str, Any]] = []
    for message in request.messages:
        blocks = _blocks(message)
        role = "assistant" if message.role == "assistant" else "user"
        if not blocks:
            continue
        if sent and sent[-1]["role"] == role:
            sent[-1]["content"] += blocks
        else:
            sent.append({"role": role, "content": blocks})
    return sent


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "assistant":
        return _assistant(message)
    return [block for part in message.parts if (block := _block(part)) is not None]


def _assistant(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    thoughts: list[dict[str, Any]] = []  # a message must not end with a thought
    for part in message.parts:
        if type(part) is Thinking:
            if part.provider == PROVIDER:
                thoughts += _thought(part)
            continue
        block = _block(part)
        if block is not None:
            blocks += [*thoughts, block]
            thoughts = []
    return blocks


def _thought(part: Thinking) -> list[dict[str, Any]]:
    if part.redacted:
        return [{"type": "redacted_thinking", "data": part.redacted}]
    if part.signature:
        return [{"type": "thinking", "thinking": part.text, "signature": part.signature}]
    return []


def _block(part: object) -> dict[str, Any] | None:
    match part:
        case Text():
            return {"type": "text", "text": part.text} if part.text.strip() else None
        case Image():
            return {"type": "image", "source": _image(part)}
        case File():
            return {"type": "document", "source": _document(part), "title": part.name}
        case ToolCall():
            return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": _input(part)}
        case ToolResult():
            return _result(part)
        case _:
            raise unsendable(part)


def _image(image: Image) -> dict[str, Any]:
    if image.data is None:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": base64_text(image.data)}


def _document(file: File) -> dict[str, Any]:
    if file.media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": file.data.decode("utf-8", "replace")}
    return {"type": "base64", "media_type": file.media_type, "data": base64_text(file.data)}


def _input(call: ToolCall) -> dict[str, Any]:
    """The arguments as an object, which is all that the API takes: broken JSON goes back as a text in one."""
    if isinstance(call.arguments, dict):
        return call.arguments
    try:
        value = _json.decode(call.arguments)
    except (msgspec.DecodeError, UnicodeError):
        value = None
    return value if isinstance(value, dict) else {"invalid_json": call.arguments}


def _result(result: ToolResult) -> dict[str, Any]:
    content = [sent for part in result.content if (sent := _block(part)) is not None]
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": result.call_id}
    if content:
        block["content"] = content
    if result.is_error:
        block["is_error"] = True
    return block
