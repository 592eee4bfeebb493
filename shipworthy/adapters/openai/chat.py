"""OpenAI's chat completions, and the servers that speak them: Ollama, llama.cpp, vLLM and many more.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

from shipworthy.adapters.openai.connection import Connection
from shipworthy.domain.messages import File, Image, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import (
    Answer,
    Delta,
    FinishReason,
    ModelRequest,
    ModelSettings,
    OutputSpec,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolSpec,
)
from shipworthy.domain.usage import Usage
from shipworthy.errors import IncompleteAnswer
from shipworthy.rules.draft import Draft, Piece
from shipworthy.rules.wire import (
    data_url,
    described,
    image_url,
    is_strict,
    schema_name,
    tool_choice,
    unsendable,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROVIDER = "openai"

FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class OpenAIChat:
    """A model behind chat completions. One HTTP request per attempt; the SDK's own retries are off.

    `api_key`: by default `OPENAI_API_KEY`. `base_url` (or `OPENAI_BASE_URL`) names another server, which then
    needs no key. `client`: an `openai.AsyncOpenAI` that you configure and close yourself, or a function that
    makes one per event loop. Raises MissingExtra, MissingKey.

    Reasoning that compatible servers stream is passed on, and not sent back: the API has no place for it.
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
        self._connection = Connection(f"openai:{model}", api_key, base_url, client)
        # OpenAI's reasoning models refuse `max_tokens`; many other servers know nothing else.
        self._max_tokens = "max_completion_tokens" if self._connection.is_openai else "max_tokens"

    @property
    def name(self) -> str:
        return self._connection.name

    @property
    def paused_for(self) -> float:
        """Seconds until another request makes sense, by what the provider said of its rate limits."""
        return self._connection.pace.left

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        return self._connection.attempt(request, "/chat/completions", self._body, ChatReader(self._model))

    async def close(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        await self._connection.close()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        return _body(self._model, self._max_tokens, request)


# ------------------------------------------------------------------------------------------------- requests


def _body(model: str, max_tokens: str, request: ModelRequest) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    for message in request.messages:
        messages.extend(_messages(message))
    body: dict[str, Any] = {"model": model, "messages": messages, **_settings(request.settings, max_tokens)}
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if request.settings.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.settings.parallel_tool_calls
    choice = tool_choice(request)
    if choice is not None:
        named = choice not in ("auto", "required", "none")
        body["tool_choice"] = {"type": "function", "function": {"name": choice}} if named else choice
    if request.output is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": _schema(request.output)}
    return body


def _settings(settings: ModelSettings, max_tokens: str) -> dict[str, Any]:
    fields = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        max_tokens: settings.max_tokens,
        "seed": settings.seed,
        "stop": None if settings.stop is None else list(settings.stop),
    }
    return {field: value for field, value in fields.items() if value is not None}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _schema(output: OutputSpec) -> dict[str, Any]:
    return {"name": schema_name(output.name), "schema": output.schema, "strict": is_strict(output.schema)}


def _messages(message: Message) -> list[dict[str, Any]]:
    match message.role:
        case "user":
            return [{"role": "user", "content": _user_content(message)}]
        case "assistant":
            return [_assistant(message)]
        case "tool":
            return [_result(part) for part in message.parts]


def _user_content(message: Message) -> str | list[dict[str, Any]]:
    if len(message.parts) == 1 and type(message.parts[0]) is Text:
        return message.parts[0].text
    return [_content(part) for part in message.parts]


def _content(part: object) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image_url", "image_url": {"url": image_url(part)}}
        case File():
            return {
                "type": "file",
                "file": {"filename": part.name, "file_data": data_url(part.media_type, part.data)},
            }
        case _:
            raise unsendable(part)


def _assistant(message: Message) -> dict[str, Any]:
    calls = []
    for part in message.parts:
        if type(part) is ToolCall:
            function = {"name": part.name, "arguments": part.raw_arguments}
            calls.append({"id": part.call_id, "type": "function", "function": function})
        elif not isinstance(part, Text | Thinking):
            raise unsendable(part)
    sent: dict[str, Any] = {"role": "assistant", "content": message.text}
    if calls:
        sent["tool_calls"] = calls
        sent["content"] = message.text or None
    return sent


def _result(part: object) -> dict[str, Any]:
    if not isinstance(part, ToolResult):
        raise unsendable(part)
    text = "\n".join([described(piece) for piece in part.content])
    if part.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": part.call_id, "content": text}


# -------------------------------------------------------------------------------------------------- answers


class ChatReader:
    """Makes an answer of chunks, or of a whole completion. Only the first choice is read."""

    def __init__(self, model: str) -> None:
        self._draft = Draft(PROVIDER)
        self._calls: dict[int, Piece] = {}
        self._finish: str | None = None
        self._refused = False
        self._usage: dict[str, Any] | None = None
        self._model = model
        self._reported = False

    @property
    def complete(self) -> bool:
        return self._finish is not None

    def feed(self, chunk: dict[str, Any]) -> Iterable[Delta]:
        if not self._reported:
            self._reported = True
            self._model = chunk.get("model") or self._model
        usage = chunk.get("usage")
        if usage:
            self._usage = usage
        choices = chunk.get("choices")
        if not choices:
            return ()
        choice = choices[0]
        if choice.get("index"):
            return ()
        finish = choice.get("finish_reason")
        if finish:
            self._finish = finish
        delta = choice.get("delta")
        return self._take(delta) if delta else ()

    def _take(self, delta: dict[str, Any]) -> list[Delta]:
        deltas: list[Delta] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            self._draft.go_on("thinking").chunks.append(thought)
            deltas.append(ThinkingDelta(thought))
        text = delta.get("content")
        if text:
            self._draft.go_on("text").chunks.append(text)
            deltas.append(TextDelta(text))
        refusal = delta.get("refusal")
        if refusal:
            self._refused = True
            self._draft.go_on("text").chunks.append(refusal)
            deltas.append(TextDelta(refusal))
        for call in delta.get("tool_calls") or ():
            deltas.append(self._call(call))
        return deltas

    def _call(self, call: dict[str, Any]) -> ToolCallDelta:
        index, ident = call.get("index", 0), call.get("id")
        function = call.get("function") or {}
        piece = self._calls.get(index)
        # Some servers number all calls 0 and tell them apart by their ids alone.
        if piece is None or (ident and piece.ident and ident != piece.ident and function.get("name")):
            piece = self._calls[index] = self._draft.begin("call")
        piece.ident = piece.ident or ident
        piece.name = piece.name or function.get("name") or ""
        arguments = function.get("arguments") or ""
        if arguments:
            piece.chunks.append(arguments)
        return ToolCallDelta(piece.slot, piece.name, arguments)

    def whole(self, data: dict[str, Any]) -> Answer:
        choice = data["choices"][0]
        message = choice["message"]
        for index, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = index
        self.feed(
            {
                **data,
                "choices": [{"index": 0, "finish_reason": choice.get("finish_reason"), "delta": message}],
            }
        )
        if not self.complete:
            raise IncompleteAnswer(f"The answer of {self._model!r} has no finish_reason.")
        return self.answer()

    def usage(self) -> Usage | None:
        """What was reported so far."""
        return _usage(self._usage or {})

    def answer(self) -> Answer:
        finish = FINISH.get(self._finish or "", "other")
        if self._refused:
            finish = "content_filter"
        elif self._draft.calls and finish == "stop":
            finish = "tool_calls"  # what a forced tool, and several servers, say instead
        return Answer(
            parts=self._draft.parts(),
            usage=_usage(self._usage or {}),
            finish_reason=finish,
            model=self._model,
        )


def _usage(usage: dict[str, Any]) -> Usage:
    read = usage.get("prompt_tokens_details") or {}
    written = usage.get("completion_tokens_details") or {}
    return Usage(
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        cache_read_tokens=read.get("cached_tokens"),
        cache_write_tokens=read.get("cache_write_tokens"),
        reasoning_tokens=written.get("reasoning_tokens"),
    )
