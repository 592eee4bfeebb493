"""A model that bills: what it takes of each attempt is written down outside before anybody is told of it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from shipworthy import ToolCall
from shipworthy.domain.messages import Message, Text, ToolResult
from shipworthy.domain.model import Answer, Delta, ModelRequest, TextDelta
from shipworthy.domain.usage import Price, Usage
from shipworthy.errors import IncompleteAnswer, ModelUnavailable, RateLimited

NAME = "proof:model"
PRICE = Price(input=1_000_000_000, output=3_000_000_000)
"""One millionth of a dollar for a token of input, three for one of output: costs add up without rounding."""
LONGEST = 150
"""Tokens of an answer."""
WORD = "word "
_encoder = msgspec.json.Encoder()


class Bill(msgspec.Struct, frozen=True, array_like=True):
    """What the provider takes for an attempt, or for another piece of it."""

    run_id: str
    ordinal: int
    input_tokens: int
    output_tokens: int


class Sink:
    """The provider's own account: a file that only grows, by one write for each bill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def bill(self, request: ModelRequest, input_tokens: int, output_tokens: int) -> None:
        bill = Bill(request.run_id, request.ordinal, input_tokens, output_tokens)
        os.write(self._file, _encoder.encode(bill) + b"\n")


class BillingModel:
    """Answers with so many words, and has a tool called before; by chance, which is the same for the same attempt, it
    refuses, breaks off, hangs, or keeps to itself what it used."""

    name = NAME

    def __init__(self, sink: Sink, seed: str) -> None:
        self._sink, self._seed = sink, seed

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        chance = random.Random(f"{self._seed} {request.run_id} {request.ordinal}")
        fate = chance.choices(("answer", "refuse", "break", "hang", "silent", "whole"), (80, 4, 4, 4, 4, 4))[
            0
        ]
        if fate == "refuse":
            raise RateLimited("slow down", retry_after=0.0)
        most = request.settings.max_tokens
        assert most is not None
        given, made = _counted(request.messages), most if fate == "whole" else chance.randint(1, most)
        async for delta in self._made(request, given, made, chance, fate):
            yield delta
        answered = sum([m.role == "assistant" for m in request.messages])
        parts: list[Text | ToolCall] = [Text(WORD * made, "model", "untrusted")]
        if answered < len(request.run_id) % 3 and fate != "whole":
            parts.append(ToolCall("look", '{"n":1}'))
        yield Answer(
            parts=tuple(parts),
            usage=Usage() if fate == "silent" else Usage(input_tokens=given, output_tokens=made),
            finish_reason="length" if fate == "whole" else "tool_calls" if len(parts) > 1 else "stop",
            model=NAME,
        )

    async def _made(
        self, request: ModelRequest, given: int, made: int, chance: random.Random, fate: str
    ) -> AsyncIterator[Delta]:
        """The words of the answer as they come, each billed before it is given away."""
        if not request.stream:
            self._sink.bill(request, given, made)
            await _pass_time(chance, fate)
            if fate == "break":
                raise ModelUnavailable("the connection broke, and the answer is on the bill")
            return
        self._sink.bill(request, given, 0)
        while made:
            await _pass_time(chance, fate)
            piece = min(made, chance.randint(1, LONGEST // 2))
            made -= piece
            self._sink.bill(request, 0, piece)
            yield TextDelta(WORD * piece)
            if fate == "break":
                raise IncompleteAnswer("the stream broke off")

    async def close(self) -> None:
        """Nothing to close."""


async def _pass_time(chance: random.Random, fate: str) -> None:
    await asyncio.sleep(chance.uniform(0.2, 1.0) if fate == "hang" else chance.uniform(0.0, 0.03))


def _counted(messages: Sequence[Message]) -> int:
    """Tokens of a conversation, as this provider counts them."""
    return sum([4 + sum([_words(part) for part in m.parts]) for m in messages])


def _words(part: object) -> int:
    if isinstance(part, Text):
        return len(part.text.split())
    return sum([_words(p) for p in part.content]) if isinstance(part, ToolResult) else 2
