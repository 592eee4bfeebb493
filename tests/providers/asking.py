"""What the tests of the model adapters share: requests, attempts and the models themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

from shipworthy.adapters.anthropic import AnthropicModel
from shipworthy.adapters.openai import OpenAIChat, OpenAIResponses
from shipworthy.domain.messages import Message, Text
from shipworthy.domain.model import Answer, Delta, ModelRequest, ToolSpec
from shipworthy.errors import ModelError
from shipworthy.ports.model import Model
from shipworthy.ports.real_calls import allow_model_calls
from tests.providers.emulators import Received, Replay, Reply

KEY = "sk-test-0123456789abcdef"

WEATHER = ToolSpec(
    "get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


def chat(url: str, model: str = "gpt-4o-mini") -> Model:
    return OpenAIChat(model, base_url=f"{url}/v1", api_key=KEY)


def responses(url: str, model: str = "gpt-5") -> Model:
    return OpenAIResponses(model, base_url=f"{url}/v1", api_key=KEY)


def claude(url: str, model: str = "claude-sonnet-4-5") -> Model:
    return AnthropicModel(model, base_url=url, api_key=KEY)


MODELS: dict[str, Callable[[str], Model]] = {"chat": chat, "responses": responses, "anthropic": claude}


def user(*parts: Any) -> Message:
    return Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def asked(*messages: Message, instructions: str = "", stream: bool = True, **more: Any) -> ModelRequest:
    """A request for an answer to *messages*, by default to a greeting."""
    return ModelRequest(
        run_id="run",
        purpose="turn",
        ordinal=0,
        instructions=instructions,
        messages=messages or (user("Hello"),),
        stream=stream,
        **more,
    )


async def items(model: Model, request: ModelRequest) -> list[Delta | Answer]:
    """All that one attempt gives; the model is closed after it."""
    try:
        async with aclosing(cast(Any, model.stream(request))) as stream:
            return [item async for item in stream]
    finally:
        await model.close()


def ask(model: Model, request: ModelRequest | None = None) -> list[Delta | Answer]:
    with allow_model_calls():
        return asyncio.run(items(model, request or asked()))


def answer(given: Sequence[Delta | Answer]) -> Answer:
    last = given[-1]
    assert isinstance(last, Answer)
    return last


def replayed(
    make: Callable[[str], Model], request: ModelRequest, *replies: Reply
) -> tuple[list[Delta | Answer], list[Received]]:
    """What an attempt gives in front of recorded bytes, and what it sent."""

    async def run() -> tuple[list[Delta | Answer], list[Received]]:
        async with Replay(replies) as server:
            return await items(make(server.url), request), server.requests

    with allow_model_calls():
        return asyncio.run(run())


def failed(make: Callable[[str], Model], request: ModelRequest, *replies: Reply) -> ModelError:
    """The error of an attempt in front of recorded bytes."""
    try:
        given, _ = replayed(make, request, *replies)
    except ModelError as error:
        return error
    raise AssertionError(f"There was an answer: {given[-1]}")
