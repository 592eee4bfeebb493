"""Our model adapters keep the laws of the port, in front of two emulators that others wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

pytest.register_assert_rewrite("shipworthy.testing.contracts.model")

from llmock.pytest_plugin import LLMock  # noqa: E402
from llmock.scenarios import Fail, Match, StreamFault  # noqa: E402
from llmock.scenarios import Reply as Scripted  # noqa: E402
from llmock.scenarios import ToolCall as ScriptedCall  # noqa: E402

from shipworthy.adapters.anthropic import AnthropicModel  # noqa: E402
from shipworthy.adapters.anthropic.reader import MessagesReader  # noqa: E402
from shipworthy.adapters.openai import OpenAIChat, OpenAIResponses  # noqa: E402
from shipworthy.adapters.openai.chat import ChatReader  # noqa: E402
from shipworthy.ports.model import Model  # noqa: E402
from shipworthy.ports.real_calls import allow_model_calls  # noqa: E402
from shipworthy.testing.contracts.model import (  # noqa: E402
    CALLS,
    RETRY_AFTER,
    TEXT,
    TOOL,
    ModelContract,
    Situation,
    Stage,
)
from tests.providers.emulators import Aimock, aimock, nobody  # noqa: E402, F401

pytestmark = pytest.mark.wire

KEY = "sk-test-0123456789"


def chat(url: str) -> Model:
    return OpenAIChat("gpt-4o-mini", base_url=f"{url}/v1", api_key=KEY)


def responses(url: str) -> Model:
    return OpenAIResponses("gpt-4o-mini", base_url=f"{url}/v1", api_key=KEY)


def claude(url: str) -> Model:
    return AnthropicModel("claude-3-5-haiku", base_url=url, api_key=KEY)


class OnLlmock(ModelContract):
    """llmock (PyPI). tests/providers/test_verdict.py has its opinion of a caller that heeds our errors."""

    llmock: LLMock
    path = ""

    # How many events reach the client before the cut: into the text, and into the JSON of the first call.
    in_text, in_call = 4, 3

    @pytest.fixture(autouse=True)
    def _emulator(self, llmock: LLMock) -> None:
        self.llmock = llmock

    def allowed(self) -> Any:
        return allow_model_calls()

    def model(self, url: str) -> Model:
        raise NotImplementedError

    @contextmanager
    def stage(self, situation: Situation) -> Iterator[Stage]:
        self.llmock.reset().add(*self._behaviors(situation))
        url = nobody() if situation == "unreachable" else f"{self.llmock.url}{self.path}"
        yield Stage(self.model(url), lambda: len(self.llmock.requests), self._hung_up)

    def _hung_up(self) -> bool:
        return not self.llmock.last_request.completed

    def _behaviors(self, situation: Situation) -> list[Any]:
        text = Scripted(text=TEXT, times=None)
        calls = Scripted(tool_calls=tuple(ScriptedCall(TOOL, arguments) for arguments in CALLS), times=None)
        behaviors: dict[Situation, list[Any]] = {
            "text": [text],
            "unreachable": [text],
            "calls": [calls],
            "bare call": [Scripted(tool_calls=(ScriptedCall(TOOL, {}),), times=None)],
            "cut in text": [text, self._fault("truncate", self.in_text)],
            "cut in call": [calls, self._fault("truncate", self.in_call)],
            "broken off": [text, self._fault("disconnect", self.in_text)],
            "malformed": [text, self._fault("malformed", self.in_text)],
            "stalled": [text, self._fault("stall", self.in_text)],
            "rate limited": [Fail(429, retry_after=RETRY_AFTER, times=None)],
            "unavailable": [Fail(503, times=None)],
            "rejected": [Fail(401, times=None)],
        }
        return behaviors[situation]

    def _fault(self, kind: Any, after: int) -> StreamFault:
        return StreamFault(kind, after_chunks=after, times=None, match=Match(stream=True))


class OnAimock(ModelContract):
    """aimock (npm)."""

    aimock: Aimock
    reasons = True
    in_text, in_call = 6, 6

    @pytest.fixture(autouse=True)
    def _emulator(self, aimock: Aimock) -> None:  # noqa: F811
        self.aimock = aimock

    def allowed(self) -> Any:
        return allow_model_calls()

    def model(self, url: str) -> Model:
        raise NotImplementedError

    @contextmanager
    def stage(self, situation: Situation) -> Iterator[Stage]:
        self.aimock.serve({"match": {}, "chunkSize": 4, **self._fixture(situation)})
        url = nobody() if situation == "unreachable" else self.aimock.url
        yield Stage(self.model(url), lambda: len(self.aimock.journal()))

    def _fixture(self, situation: Situation) -> dict[str, Any]:
        usage = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
        text = {"response": {"content": TEXT, "usage": usage}}
        calls = {"response": {"toolCalls": [{"name": TOOL, "arguments": arguments} for arguments in CALLS]}}
        slowly = {"latency": 10}  # else the connection is gone before what came first
        fixtures: dict[Situation, dict[str, Any]] = {
            "text": text,
            "unreachable": text,
            "calls": calls,
            "bare call": {"response": {"toolCalls": [{"name": TOOL, "arguments": {}}]}},
            "cut in text": {**text, **slowly, "truncateAfterChunks": self.in_text},
            "cut in call": {**calls, **slowly, "truncateAfterChunks": self.in_call},
            "broken off": {**text, "latency": 40, "disconnectAfterMs": 300},
            "malformed": {**text, "chaos": {"malformedRate": 1}},
            "stalled": {**text, "latency": 300},
            "rate limited": _error(429, retryAfter=RETRY_AFTER),
            "unavailable": _error(503),
            "rejected": _error(401),
        }
        return fixtures[situation]


def _error(status: int, **more: Any) -> dict[str, Any]:
    return {"response": {"error": {"message": "No.", "type": "some_error"}, "status": status, **more}}


class TestOpenAIChatOnLlmock(OnLlmock):
    def model(self, url: str) -> Model:
        return chat(url)


class TestOpenAIResponsesOnLlmock(OnLlmock):
    in_text, in_call = 7, 5

    def model(self, url: str) -> Model:
        return responses(url)


class TestAnthropicOnLlmock(OnLlmock):
    path = "/anthropic"

    def model(self, url: str) -> Model:
        return claude(url)


class TestOpenAIChatOnAimock(OnAimock):
    def model(self, url: str) -> Model:
        return chat(url)


class TestOpenAIResponsesOnAimock(OnAimock):
    in_text, in_call = 9, 8

    def model(self, url: str) -> Model:
        return responses(url)


class TestAnthropicOnAimock(OnAimock):
    def model(self, url: str) -> Model:
        return claude(url)


@pytest.mark.parametrize(
    ("reader", "suite"), [(ChatReader, TestOpenAIChatOnLlmock), (MessagesReader, TestAnthropicOnLlmock)]
)
def test_an_adapter_that_trusts_the_end_of_a_stream_is_caught(
    reader: type, suite: type[OnLlmock], llmock: LLMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the laws about cut streams: the adapter as it is, but for its wait for the terminal event."""
    monkeypatch.setattr(reader, "complete", True)
    laws = suite()
    laws.llmock = llmock

    with pytest.raises(AssertionError, match="there was an answer"):
        laws.test_a_cut_stream_is_no_answer()
    with pytest.raises(AssertionError, match="there was an answer"):
        laws.test_a_call_cut_in_its_json_never_surfaces()


class Forgetful(openai.AsyncOpenAI):
    """A client that is deaf to being told not to retry."""

    async def post(self, path: str, *, options: Any, **more: Any) -> Any:  # type: ignore[override]
        heard = {name: value for name, value in options.items() if name != "max_retries"}
        return await super().post(path, options=heard, **more)  # type: ignore[call-overload]


class Retrying(OnLlmock):
    def model(self, url: str) -> Model:
        return OpenAIChat("m", client=lambda: Forgetful(api_key=KEY, base_url=f"{url}/v1", max_retries=1))


def test_an_adapter_whose_sdk_retries_is_caught(llmock: LLMock) -> None:
    """The mutant of the law of one request per attempt."""
    laws = Retrying()
    laws.llmock = llmock

    with pytest.raises(AssertionError, match="unavailable"):
        laws.test_an_attempt_is_one_request_whatever_comes_of_it()
