"""Models that need no network: scripted, echoing, or always giving one reply."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from shipworthy.domain.messages import MEMORY, Text, Thinking, ToolCall
from shipworthy.domain.model import (
    Answer,
    Delta,
    FinishReason,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from shipworthy.domain.usage import Usage
from shipworthy.errors import ScriptError

_WORDS = re.compile(r"\s*\S+\s*")


class ScriptedTurn:
    """One answer: texts and tool calls in their order, and what the provider would report beside them.

    `chunks` is how the text arrives when it is streamed (by words if left out).
    """

    __slots__ = ("answer", "chunks")

    def __init__(
        self,
        *parts: str | Text | Thinking | ToolCall,
        usage: Usage | None = None,
        finish_reason: FinishReason | None = None,
        chunks: Sequence[str] | None = None,
    ) -> None:
        made = tuple([_part(p) for p in parts])
        if finish_reason is None:
            finish_reason = "tool_calls" if any(isinstance(p, ToolCall) for p in made) else "stop"
        self.answer = Answer(
            parts=made, usage=usage or Usage(), finish_reason=finish_reason, model="scripted"
        )
        self.chunks = None if chunks is None else tuple(chunks)


Turn = str | ToolCall | ScriptedTurn | Sequence[str | ToolCall] | BaseException
Script = Turn | Callable[[ModelRequest], Turn]


class ScriptedModel:
    """Answers by script. The turn is taken from the request's ordinal, so that a script goes on in the right place
    after a resume, a retry or a crash, and one instance serves any number of runs at once.

    A turn is a text, a tool call, several of them, a `ScriptedTurn`, an exception to raise, or a function of the
    request that gives one of these. Raises ScriptError past the script's end.
    """

    name = "scripted"
    is_double = True

    def __init__(self, turns: Sequence[Script]) -> None:
        self._turns: tuple[Any, ...] = tuple([t if _is_late(t) else _turn(t) for t in turns])

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        if request.ordinal >= len(self._turns):
            asked = request.ordinal + 1
            raise ScriptError(
                f"The script has {len(self._turns)} turns; run {request.run_id!r} asks for turn {asked}."
            )
        turn = self._turns[request.ordinal]
        if not isinstance(turn, (ScriptedTurn, BaseException)):
            turn = _turn(turn(request))
        if isinstance(turn, BaseException):
            raise turn
        if request.stream:
            for delta in _deltas(turn):
                yield delta
        yield turn.answer

    async def close(self) -> None:
        """Nothing to close."""

    def assert_consumed(self, result: Any) -> None:
        """Raises ScriptError if the run of *result* left turns over."""
        if result.usage.requests != len(self._turns):
            raise ScriptError(
                f"The run took {result.usage.requests} of the script's {len(self._turns)} turns."
            )


class EchoModel:
    """Answers with the last thing that the user said."""

    name = "echo"
    is_double = True

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        last = next((m for m in reversed(request.messages) if m.role == "user"), None)
        parts = () if last is None else last.parts
        said = "".join([p.text for p in parts if type(p) is Text and p.origin != MEMORY])
        turn = ScriptedTurn(said or "(nothing)")
        if request.stream:
            for delta in _deltas(turn):
                yield delta
        yield turn.answer

    async def close(self) -> None:
        """Nothing to close."""


class _Mock:
    name = "mock"
    is_double = True

    def __init__(self, turn: ScriptedTurn) -> None:
        self._turn = turn

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        if request.stream:
            for delta in _deltas(self._turn):
                yield delta
        yield self._turn.answer

    async def close(self) -> None:
        """Nothing to close."""


def mock(reply: str = "ok", *, usage: Usage | None = None) -> _Mock:
    """A model that always gives *reply*."""
    return _Mock(ScriptedTurn(reply, usage=usage))


def _part(part: str | Text | Thinking | ToolCall) -> Text | Thinking | ToolCall:
    if isinstance(part, str):
        return Text(part, origin="model", trust="untrusted")
    if isinstance(part, ToolCall) and not isinstance(part.arguments, str):
        return msgspec.structs.replace(part, arguments=msgspec.json.encode(part.arguments).decode())
    return part


def _is_late(turn: Any) -> bool:
    return callable(turn) and not isinstance(turn, (ScriptedTurn, BaseException))


def _turn(turn: Any) -> Any:
    if isinstance(turn, (ScriptedTurn, BaseException)):
        return turn
    if isinstance(turn, (str, ToolCall)):
        return ScriptedTurn(turn)
    if isinstance(turn, Sequence):
        return ScriptedTurn(*turn)
    raise ScriptError(
        f"{turn!r} is not a turn.", fix="Use a text, a ToolCall, a list of them, or a ScriptedTurn."
    )


def _deltas(turn: ScriptedTurn) -> list[Delta]:
    deltas: list[Delta] = []
    slot = 0
    for part in turn.answer.parts:
        if isinstance(part, Text):
            chunks = turn.chunks if turn.chunks is not None else _WORDS.findall(part.text)
            deltas.extend([TextDelta(chunk) for chunk in chunks])
        elif isinstance(part, Thinking):
            deltas.append(ThinkingDelta(part.text))
        else:
            deltas.append(ToolCallDelta(slot, part.name, part.raw_arguments))
            slot += 1
    return deltas


__all__ = ["EchoModel", "ScriptedModel", "ScriptedTurn", "mock"]
