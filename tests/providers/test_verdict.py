"""A caller that does as our errors say is resilient in llmock's opinion, which grades the client that it served."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Behavior, Fail, Match, StreamFault

from shipworthy.errors import ModelError, RequestRejected
from shipworthy.ports.model import Model
from shipworthy.ports.real_calls import allow_model_calls
from tests.providers.asking import MODELS, asked, items

pytestmark = pytest.mark.wire

PATHS = {"chat": "", "responses": "", "anthropic": "/anthropic"}

BACKOFF = 0.1
"""Seconds. 0.0 leaves the wait to the caller; one that is too short and the server has not seen the line go dead."""

FAULTS: dict[str, Behavior] = {
    "rate limit": Fail(429, retry_after=0.2),
    "outage": Fail(503, retry_after=0.2),
    "overload": Fail(529, retry_after=0.2),
    "conflict": Fail(409),
    "truncation": StreamFault("truncate", after_chunks=3, match=Match(stream=True)),
    "disconnect": StreamFault("disconnect", after_chunks=3, match=Match(stream=True)),
    "malformed": StreamFault("malformed", after_chunks=3, match=Match(stream=True)),
}


async def heed(model: Model) -> int:
    """Attempts, as many as the errors ask for."""
    for count in range(1, 4):
        try:
            await items(model, asked())
            return count
        except ModelError as error:
            if error.retry_after is None:
                raise
            await asyncio.sleep(max(error.retry_after, BACKOFF))
    raise AssertionError("three attempts were not enough")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", MODELS)
def test_heeding_the_errors_is_resilient(kind: str, fault: str, llmock: LLMock) -> None:
    llmock.reply("Rain, and wind in the evening.", times=None)
    llmock.add(FAULTS[fault]).pace(10)  # so that a client that hangs up is seen to, in mid-stream

    with allow_model_calls():
        count = asyncio.run(heed(MODELS[kind](f"{llmock.url}{PATHS[kind]}")))

    assert count == 2
    llmock.assert_resilient(strict=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@pytest.mark.parametrize("kind", MODELS)
def test_what_cannot_succeed_is_not_asked_again(kind: str, status: int, llmock: LLMock) -> None:
    llmock.fail(status, times=None)
    model = MODELS[kind](f"{llmock.url}{PATHS[kind]}")

    with allow_model_calls(), pytest.raises(RequestRejected) as raised:
        asyncio.run(heed(model))

    assert str(status) in raised.value.what
    assert len(llmock.requests) == 1
    llmock.assert_resilient(strict=True)


def test_ignoring_the_wait_is_found(llmock: LLMock) -> None:
    """The mutant of the tests above: the same caller, deaf to `retry_after`."""
    llmock.add(Fail(429, retry_after=5.0))

    async def deaf(model: Model) -> Any:
        for _ in range(2):
            try:
                return await items(model, asked())
            except ModelError:
                continue

    with allow_model_calls():
        asyncio.run(deaf(MODELS["chat"](llmock.url)))

    with pytest.raises(AssertionError, match="retry_after_ignored"):
        llmock.assert_resilient()
