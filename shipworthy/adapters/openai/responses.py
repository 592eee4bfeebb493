"""OpenAI's Responses API, used without its memory: nothing is stored there, reasoning comes back encrypted.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

from shipworthy.adapters.openai.connection import Connection, in_stream
from shipworthy.domain.messages import File, Image, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import (
    Answer,
    Delta,
    FinishReason,
    ModelRequest,
    ModelSettings,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolSpec,
)
from shipworthy.domain.usage import Usage
from shipworthy.errors import IncompleteAnswer
from shipworthy.rules.draft import call
from shipworthy.rules.wire import (
    cleaned,
    data_url,
    image_url,
    is_strict,
    schema_name,
    tool_choice,
    unsendable,
    unsupported,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROVIDER = "openai-responses"

# These answer "Encrypted content is not supported with this model"; all that came later reason.
_NO_REASONING = ("gpt-3", "gpt-4", "chatgpt-", "gpt-5-chat", "ft:gpt-3", "ft:gpt-4")

_TEXT = frozenset({"response.output_text.delta", "response.refusal.delta"})
_THOUGHT = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_CUT: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}


class OpenAIResponses:
    """A model behind the Responses API. One HTTP request per attempt; the SDK's own retries are off.

    Stateless: `store` is false, and the encrypted reasoning is returned to the API with the conversation.
    `api_key`, `base_url` and `client` as in `OpenAIChat`. `seed` and `stop` do not exist here: they raise
    RequestRejected. Raises MissingExtra, MissingKey.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        client: AsyncOpenAI | Callable[[], AsyncOpenAI] | None = None,
    ) -> None:
        self._model = model
        self._connection = Connection(f"openai-responses:{model}", api_key, base_url, client)

    @property
    def name(self) -> str:
        return self._connection.name

    @property
    def paused_for(self) -> float:
        """Seconds until another request makes sense, by what the provider said of its rate limits."""
        return self._connection.pace.left

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        return self._connection.attempt(
            request, "/responses", self._body, ResponsesReader(self._model, self.name)
        )

    async def close(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        await self._connection.close()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        return _body(self._model, self.name, request)


# ------------------------------------------------------------------------------------------------- requests


def _body(model: str, name: str, request: ModelRequest) -> dict[str, Any]:
    items = [item for message in request.messages for item in _items(message)]
    body: dict[str, Any] = {
        "model": model,
        "input": items,
        "store": False,
        **_settings(name, request.settings),
    }
    if not model.startswith(_NO_REASONING):
        body["include"] = ["reasoning.encrypted_content"]
    if request.instructions:
        body["instructions"] = request.instructions
    if request.tools:
        body["tools"] = [
            # strict is on by default here, and would refuse most schemas
            {
                "type": "function",
                "name": t.name,
                "description": t.description,
                "parameters": t.parameters,
                "strict": False,
            }
            for t in request.tools
        ]
        if request.settings.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.settings.parallel_tool_calls
    choice = tool_choice(request)
    if choice is not None:
        named = choice not in ("auto", "required", "none")
        body["tool_choice"] = {"type": "function", "name": choice} if named else choice
    if request.output is not None:
        schema = request.output.schema
        form = {"type": "json_schema", "name": schema_name(request.output.name), "schema": schema}
        body["text"] = {"format": {**form, "strict": is_strict(schema)}}
    return body


def _settings(name: str, settings: ModelSettings) -> dict[str, Any]:
    if settings.seed is not None:
        raise unsupported(name, "seed", "Leave it out, or use 'openai:...' (chat completions), which has it.")
    if settings.stop is not None:
        raise unsupported(name, "stop", "Leave it out, or use 'openai:...' (chat completions), which has it.")
    fields = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_output_tokens": settings.max_tokens,
    }
    return {field: value for field, value in fields.items() if value is not None}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", **function, "strict": False}  # on by default here, and refuses most schemas


def _items(message: Message) -> list[dict[str, Any]]:
    match message.role:
        case "user":
            return [{"role": "user", "content": [_content(part) for part in message.parts]}]
        case "assistant":
            return _assistant(message)
        case "tool":
            return [_result(part) for part in message.parts]


def _content(part: object) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text}
        case Image():
            return {"type": "input_image", "image_url": image_url(part), "detail": "auto"}
        case File():
            return {
                "type": "input_file",
                "filename": part.name,
                "file_data": data_url(part.media_type, part.data),
            }
        case _:
            raise unsendable(part)


def _assistant(message: Message) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    thoughts: list[dict[str, Any]] = []  # an item of reasoning is refused unless what it led to follows it
    for part in message.parts:
        match part:
            case Thinking():
                if part.provider == PROVIDER and part.redacted and part.signature:
                    thoughts.append(_reasoning(part, part.signature))
                continue
            case Text() if not part.text:
                continue
            case Text():
                item: dict[str, Any] = {"role": "assistant", "content": part.text}
            case ToolCall():
                item = {
                    "type": "function_call",
                    "call_id": part.call_id,
                    "name": part.name,
                    "arguments": part.raw_arguments,
                }
            case _:
                raise unsendable(part)
        items += [*thoughts, item]
        thoughts = []
    return items


def _reasoning(part: Thinking, ident: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    return {"type": "reasoning", "id": ident, "summary": summary, "encrypted_content": part.redacted}


def _result(part: object) -> dict[str, Any]:
    if not isinstance(part, ToolResult):
        raise unsendable(part)
    output: str | list[dict[str, Any]]
    if all(type(piece) is Text for piece in part.content):
        output = "\n".join([piece.text for piece in part.content if type(piece) is Text])
        if part.is_error and not output.lower().startswith("error"):
            output = f"Error: {output}"
    else:
        output = [_content(piece) for piece in part.content]
        if part.is_error:
            output.insert(0, {"type": "input_text", "text": "Error:"})
    return {"type": "function_call_output", "call_id": part.call_id, "output": output}


# -------------------------------------------------------------------------------------------------- answers


class ResponsesReader:
    """Makes an answer of events, or of a whole response. The answer is built of complete items only."""

    def __init__(self, model: str, name: str) -> None:
        self._model = model
        self._name = name
        self._done: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, tuple[int, str]] = {}
        self._response: dict[str, Any] | None = None
        self._counted: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        return self._response is not None

    def feed(self, event: dict[str, Any]) -> Iterable[Delta]:
        kind = event["type"]
        if kind in _TEXT:
            return (TextDelta(event["delta"]),)
        if kind == "response.function_call_arguments.delta":
            slot, name = self._calls[event["output_index"]]
            return (ToolCallDelta(slot, name, event["delta"]),)
        if kind in _THOUGHT:
            return (ThinkingDelta(event["delta"]),)
        if kind == "response.output_item.added":
            item = event["item"]
            if item["type"] == "function_call":
                slot, name = len(self._calls), item["name"]
                self._calls[event["output_index"]] = slot, name
                return (ToolCallDelta(slot, name, ""),)
        elif kind == "response.output_item.done":
            self._done[event["output_index"]] = event["item"]
        elif kind in _TERMINAL:
            self._end(event["response"])
        elif kind == "error":
            raise self._failed(event.get("error") or event)
        return ()

    def _end(self, response: dict[str, Any]) -> None:
        self._counted = response.get("usage") or {}
        if response.get("error") or response.get("status") == "failed":
            raise self._failed(response.get("error") or {})
        if response.get("status") not in ("completed", "incomplete"):
            raise IncompleteAnswer(f"{self._name} ended with the status {response.get('status')!r}.")
        self._response = response

    def _failed(self, error: dict[str, Any]) -> Exception:
        message = cleaned(str(error.get("message") or ""), None)
        return in_stream(self._name, error.get("code") or "", error.get("type") or "", message)

    def whole(self, data: dict[str, Any]) -> Answer:
        self._end(data)
        return self.answer()

    def usage(self) -> Usage | None:
        """What was reported, which is with the end, whatever it is."""
        return _usage(self._counted)

    def answer(self) -> Answer:
        response = self._response or {}
        output: list[dict[str, Any]] = response.get("output") or []
        # An item's own event is the authority, above all for encrypted reasoning.
        items = [self._done.get(i, item) for i, item in enumerate(output)] or [
            self._done[i] for i in sorted(self._done)
        ]
        parts = tuple(part for item in items for part in _parts(item))
        refused = any(c.get("type") == "refusal" for item in items for c in item.get("content") or ())
        return Answer(
            parts=parts,
            usage=_usage(response.get("usage") or {}),
            finish_reason="content_filter" if refused else _finish(response, parts),
            model=response.get("model") or self._model,
        )


def _finish(response: dict[str, Any], parts: tuple[Text | Thinking | ToolCall, ...]) -> FinishReason:
    if response["status"] == "incomplete":
        return _CUT.get((response.get("incomplete_details") or {}).get("reason") or "", "other")
    return "tool_calls" if any(type(part) is ToolCall for part in parts) else "stop"


def _parts(item: dict[str, Any]) -> Iterable[Text | Thinking | ToolCall]:
    kind = item["type"]
    if kind == "function_call":
        return (call(item["name"], item.get("arguments") or ""),)
    if kind == "message":
        texts = [content.get("text") or content.get("refusal") or "" for content in item["content"]]
        return [Text(text, origin="model", trust="untrusted") for text in texts if text]
    if kind == "reasoning":
        text = "\n\n".join([piece["text"] for piece in item.get("summary") or item.get("content") or ()])
        sealed = item.get("encrypted_content")
        return (Thinking(text, item.get("id"), sealed, PROVIDER),) if text or sealed else ()
    return ()  # the provider's own tools, asked for through `extra`: their text is in the messages


def _usage(usage: dict[str, Any]) -> Usage:
    read = usage.get("input_tokens_details") or {}
    written = usage.get("output_tokens_details") or {}
    return Usage(
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
        cache_read_tokens=read.get("cached_tokens"),
        cache_write_tokens=read.get("cache_write_tokens"),
        reasoning_tokens=written.get("reasoning_tokens"),
    )
