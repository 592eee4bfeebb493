"""The laws of the model port. Make a test class of `ModelContract`, give it its stages, and run it with pytest.

    class TestMyModel(ModelContract):
        @contextmanager
        def stage(self, situation: Situation) -> Iterator[Stage]:
            with emulator(situation) as server:
                yield Stage(MyModel(base_url=server.url), requests=lambda: server.count)

A stage is a provider, or an emulator that others wrote, which answers as the situation says, and counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

from shipworthy.domain.messages import Message, Text, ToolCall
from shipworthy.domain.model import (
    Answer,
    Delta,
    ModelRequest,
    ModelSettings,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolSpec,
)
from shipworthy.errors import IncompleteAnswer, ModelError, ModelUnavailable, RateLimited, RequestRejected
from shipworthy.ports.model import Model

Situation = Literal[
    "text",
    "calls",
    "bare call",
    "cut in text",
    "cut in call",
    "broken off",
    "malformed",
    "rate limited",
    "unavailable",
    "unreachable",
    "rejected",
    "stalled",
]
"""What the provider does:

* "text" answers with TEXT; "calls" with the two calls of CALLS, in one answer; "bare call" calls TOOL with {}
* "cut in text" and "cut in call" end the stream of these in its middle, cleanly, with no terminal event; the second
  in the middle of a call's JSON; "broken off" drops the connection in mid-stream instead; "malformed" sends a piece
  that is not JSON; "stalled" sends some deltas of TEXT and then nothing for at least ten seconds
* "rate limited" answers 429 and asks to wait RETRY_AFTER seconds; "unavailable" 503; "rejected" 401
* "unreachable": nobody listens
"""

PROMPT = "What is the weather in Paris and in Rome?"
TEXT = "Sunny in Paris, and a light rain in Rome until the evening."
TOOL = "get_weather"
CALLS: tuple[dict[str, Any], ...] = (
    {"city": "Paris", "unit": "celsius"},
    {"city": "Rome", "unit": "celsius"},
)
RETRY_AFTER = 7.0

_CITY = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}}


@dataclass(frozen=True)
class Stage:
    """A model in front of its provider. `requests` counts the HTTP requests that arrived.

    `hung_up`: did the provider see the client close its last request before it was through? None: it cannot tell.
    """

    model: Model
    requests: Callable[[], int]
    hung_up: Callable[[], bool] | None = None


def request(
    *, stream: bool = True, tools: bool = False, settings: ModelSettings | None = None
) -> ModelRequest:
    """The request of all these laws."""
    return ModelRequest(
        run_id="contract",
        purpose="turn",
        ordinal=0,
        instructions="You know the weather.",
        messages=(Message("user", (Text(PROMPT),)),),
        tools=(ToolSpec(TOOL, "The current weather of a city.", _CITY),) if tools else (),
        settings=settings or ModelSettings(),
        stream=stream,
    )


async def attempt(model: Model, asked: ModelRequest) -> list[Delta | Answer]:
    """All that one attempt gives."""
    async with aclosing(cast(Any, model.stream(asked))) as items:
        return [item async for item in items]


class ModelContract:
    """What every adapter of the model port must do. `allowed` is entered around each law."""

    def stage(self, situation: Situation) -> AbstractContextManager[Stage]:
        """The provider in this situation, until the block ends. `pytest.skip` what it cannot be made to do."""
        raise NotImplementedError

    def allowed(self) -> AbstractContextManager[object]:
        """For adapters that must be allowed to call: `shipworthy.testing.allow_model_calls()`."""
        return nullcontext()

    # ------------------------------------------------------------------------------------------- answers

    def test_a_stream_ends_with_exactly_one_answer(self) -> None:
        items = self._items("text", request())

        assert [type(item) for item in items].count(Answer) == 1
        assert type(items[-1]) is Answer
        assert len(items) > 2, "there were no deltas to speak of"

    def test_the_deltas_spell_the_answer(self) -> None:
        *deltas, answer = self._items("text", request())

        assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == TEXT
        assert _texts(answer) == TEXT
        assert _answer(answer).finish_reason == "stop"

    def test_without_streaming_there_is_the_answer_alone(self) -> None:
        items = self._items("text", request(stream=False))

        assert len(items) == 1
        assert _texts(items[0]) == TEXT

    def test_both_ways_give_the_same_calls(self) -> None:
        streamed = self._items("calls", request(tools=True))[-1]
        whole = self._items("calls", request(tools=True, stream=False))[-1]

        assert _calls(streamed) == _calls(whole) == [(TOOL, arguments) for arguments in CALLS]
        assert _answer(streamed).finish_reason == _answer(whole).finish_reason == "tool_calls"

    def test_deltas_of_parallel_calls_are_told_apart_by_their_slots(self) -> None:
        *deltas, _ = self._items("calls", request(tools=True))

        pieces: dict[int, str] = {}
        for delta in deltas:
            if isinstance(delta, ToolCallDelta):
                assert delta.name == TOOL
                pieces[delta.slot] = pieces.get(delta.slot, "") + delta.arguments
        assert [json.loads(pieces[slot]) for slot in range(len(CALLS))] == list(CALLS)

    def test_a_call_without_arguments_has_an_empty_object(self) -> None:
        for stream in (True, False):
            answer = self._items("bare call", request(tools=True, stream=stream))[-1]

            assert _calls(answer) == [(TOOL, {})]

    def test_model_text_is_of_the_model_and_is_not_trusted(self) -> None:
        for part in _answer(self._items("text", request())[-1]).parts:
            assert (part.origin, part.trust) == ("model", "untrusted")

    def test_usage_is_what_was_counted_or_none(self) -> None:
        for stream in (True, False):
            usage = _answer(self._items("text", request(stream=stream))[-1]).usage

            assert usage.input_tokens is None or usage.input_tokens > 0
            assert usage.output_tokens is None or usage.output_tokens > 0

    def test_the_name_says_provider_and_model(self) -> None:
        with self.allowed(), self.stage("text") as stage:
            provider, colon, model = stage.model.name.partition(":")

        assert provider
        assert colon
        assert model

    # -------------------------------------------------------------------------------------------- faults

    def test_a_cut_stream_is_no_answer(self) -> None:
        error, items = self._failure("cut in text", request())

        assert isinstance(error, IncompleteAnswer)
        assert any(isinstance(item, TextDelta) for item in items), "it was cut too early to prove anything"

    def test_a_call_cut_in_its_json_never_surfaces(self) -> None:
        error, items = self._failure("cut in call", request(tools=True))

        assert isinstance(error, IncompleteAnswer)
        assert any(isinstance(item, ToolCallDelta) for item in items), (
            "it was cut too early to prove anything"
        )
        assert not any(isinstance(item, Answer) for item in items)

    def test_a_dropped_connection_is_no_answer(self) -> None:
        error, _ = self._failure("broken off", request())

        assert isinstance(error, IncompleteAnswer)

    def test_what_is_not_json_is_no_answer(self) -> None:
        error, _ = self._failure("malformed", request())

        assert isinstance(error, IncompleteAnswer)

    def test_a_rate_limit_says_how_long_to_wait(self) -> None:
        for stream in (True, False):
            error, _ = self._failure("rate limited", request(stream=stream))

            assert isinstance(error, RateLimited)
            assert error.retry_after == RETRY_AFTER

    def test_an_outage_may_be_tried_again(self) -> None:
        for situation in ("unavailable", "unreachable"):
            error, _ = self._failure(situation, request())

            assert isinstance(error, ModelUnavailable)
            assert error.retry_after is not None

    def test_a_rejected_request_may_not_be_tried_again(self) -> None:
        error, _ = self._failure("rejected", request())

        assert isinstance(error, RequestRejected)
        assert error.retry_after is None

    # ---------------------------------------------------------------------------------------- connections

    def test_an_attempt_is_one_request_whatever_comes_of_it(self) -> None:
        situations: tuple[Situation, ...] = (
            *("text", "cut in text", "broken off", "malformed"),
            *("unavailable", "rate limited", "rejected"),
        )
        for situation in situations:
            with self.allowed(), self.stage(situation) as stage:
                asyncio.run(_run(stage.model, request()))

                assert stage.requests() == 1, situation

    def test_a_cancelled_attempt_hangs_up_at_once(self) -> None:
        with self.allowed(), self.stage("stalled") as stage:
            asyncio.run(_cancel(stage.model))

            assert stage.hung_up is None or stage.hung_up()

    def test_an_attempt_that_is_left_hangs_up_at_once(self) -> None:
        with self.allowed(), self.stage("stalled") as stage:
            asyncio.run(_leave(stage.model))

            assert stage.hung_up is None or stage.hung_up()

    def test_attempts_at_once_do_not_mix(self) -> None:
        async def both(model: Model) -> list[list[Delta | Answer]]:
            try:
                return await asyncio.gather(*[attempt(model, request()) for _ in range(8)])
            finally:
                await model.close()

        with self.allowed(), self.stage("text") as stage:
            results = asyncio.run(both(stage.model))

            assert [_texts(items[-1]) for items in results] == [TEXT] * 8
            assert stage.requests() == 8

    def test_one_model_serves_one_event_loop_after_another(self) -> None:
        with self.allowed(), self.stage("text") as stage:
            for _ in range(3):
                items, error = asyncio.run(_run(stage.model, request()))

                assert error is None
                assert _texts(items[-1]) == TEXT

    # ------------------------------------------------------------------------------------------- running

    def _items(self, situation: Situation, asked: ModelRequest) -> list[Delta | Answer]:
        with self.allowed(), self.stage(situation) as stage:
            items, error = asyncio.run(_run(stage.model, asked))
        if error is not None:
            raise error
        return items

    def _failure(self, situation: Situation, asked: ModelRequest) -> tuple[ModelError, list[Delta | Answer]]:
        with self.allowed(), self.stage(situation) as stage:
            items, error = asyncio.run(_run(stage.model, asked))
        assert error is not None, f"{situation}: there was an answer, {items[-1]}"
        assert not any(isinstance(item, Answer) for item in items)
        assert error.fix, "an error must say what to do"
        return error, items


async def _run(model: Model, asked: ModelRequest) -> tuple[list[Delta | Answer], ModelError | None]:
    items: list[Delta | Answer] = []
    try:
        async with aclosing(cast(Any, model.stream(asked))) as stream:
            async for item in stream:
                items.append(item)
    except ModelError as error:
        return items, error
    finally:
        await model.close()
    return items, None


async def _cancel(model: Model) -> None:
    begun = asyncio.Event()

    async def listen() -> None:
        async with aclosing(cast(Any, model.stream(request()))) as stream:
            async for _ in stream:
                begun.set()

    task = asyncio.create_task(listen())
    await begun.wait()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    finally:
        await model.close()
    raise AssertionError("the cancellation was swallowed")


async def _leave(model: Model) -> None:
    async with aclosing(cast(Any, model.stream(request()))) as stream:
        async for item in stream:
            if isinstance(item, TextDelta | ThinkingDelta):
                break
    await model.close()


def _answer(item: Delta | Answer) -> Answer:
    assert isinstance(item, Answer)
    return item


def _texts(item: Delta | Answer) -> str:
    return "".join(part.text for part in _answer(item).parts if isinstance(part, Text))


def _calls(item: Delta | Answer) -> list[tuple[str, Any]]:
    calls = [part for part in _answer(item).parts if isinstance(part, ToolCall)]
    return [(call.name, json.loads(call.raw_arguments)) for call in calls]
