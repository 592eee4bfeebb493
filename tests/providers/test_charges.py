"""What a provider may bill is charged: by what it reported before it failed, in full where an answer may have been
made, and nothing where it surely took nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shipworthy import Agent, BudgetConfig, Charge, InMemoryRuntime, ModelSettings, StandardBudget, Usage
from shipworthy.adapters.anthropic import connection as anthropic
from shipworthy.adapters.openai import connection as openai
from shipworthy.app.configuration import Tuning
from shipworthy.engine import asking
from shipworthy.errors import ConfigurationError
from shipworthy.ports.real_calls import allow_model_calls
from shipworthy.rules import wire
from tests.providers.asking import MODELS
from tests.providers.emulators import Replay, Reply, chunks, events, whole

pytestmark = pytest.mark.wire

MOST = 500
OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}
TERMS: Any = {"max_tokens": 5_000, "per_user_max_tokens": 10**6}


def ran(kind: str, *replies: Reply, streamed: bool = True, **more: Any) -> tuple[list[Any], list[Any]]:
    """The failed attempts of a run that makes one, and what it sent."""

    async def run() -> tuple[list[Any], list[Any]]:
        async with Replay(replies) as server:
            settings = ModelSettings(max_tokens=MOST, **more)
            agent: Agent[Any, Any] = Agent(
                model=MODELS[kind](server.url),
                runtime=InMemoryRuntime(),
                budget=StandardBudget(BudgetConfig(**TERMS)),
                settings=settings,
                tuning=Tuning(model_retries=0),
            )
            whose: Any = {"tenant_id": "acme", "run_id": "r"}
            if not streamed:
                await agent.run("Hi", user_id="alice", **whose)
            async with (
                agent.stream("Hi", user_id="alice", **whose) if streamed else agent.stream(**whose) as stream
            ):
                seen = [item async for item in stream]
            await agent.close()
            return [e for e in seen if type(e).__name__ == "ModelFailed"], server.requests

    with allow_model_calls():
        return asyncio.run(run())


def begun(kind: str, text: str = "", usage: bool = True) -> Reply:
    """A stream that says what it used, as far as its provider does, and then that it failed."""
    if kind == "chat":
        counted = {"usage": {"prompt_tokens": 20, "completion_tokens": 3}} if usage else {}
        delta = {
            "id": "1",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}],
            **counted,
        }
        return chunks(
            delta, {"error": {"message": "overloaded", "code": "server_error", "type": "server_error"}}
        )
    if kind == "responses":
        failed: dict[str, Any] = {
            "status": "failed",
            "error": {"code": "rate_limit_exceeded", "message": "x"},
        }
        if usage:
            failed["usage"] = {"input_tokens": 20, "output_tokens": 3}
        words = [{"type": "response.output_text.delta", "delta": text}] if text else []
        return events(
            {"type": "response.created", "response": {"status": "in_progress"}},
            *words,
            {"type": "response.failed", "response": failed},
        )
    message = {"id": "1", "type": "message", "role": "assistant", "content": [], "model": "m"}
    if usage:
        message["usage"] = {"input_tokens": 20, "output_tokens": 3}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": text}}
    return events(
        {"type": "message_start", "message": message}, block, {"type": "error", "error": OVERLOADED}
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("text", "made"), [("", 3), ("twelve bytes", 12)])
@pytest.mark.parametrize("forgets", [False, True])
def test_an_answer_that_had_begun_is_charged_what_was_reported_and_what_arrived(
    kind: str, text: str, made: int, forgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant believes that an error is an error, whenever it comes."""
    if forgets:
        for module in (anthropic, openai):
            monkeypatch.setattr(module, "while_answering", lambda error, usage: error)

    (failed,), _ = ran(kind, begun(kind, text))

    as_it_is = (failed.charged, failed.usage) == (Charge(20, made), Usage(20, 3))
    assert as_it_is is not forgets


@pytest.mark.parametrize("kind", MODELS)
def test_an_answer_that_had_begun_and_reported_nothing_is_charged_in_full(kind: str) -> None:
    (failed,), _ = ran(kind, begun(kind, usage=False))

    assert failed.charged.output_tokens == MOST
    assert failed.charged.input_tokens > 20
    assert failed.usage == Usage()


@pytest.mark.parametrize("wrong", [[1], "20", 20, {"input_tokens": "20"}, {"input_tokens_details": 5}])
def test_a_report_that_is_none_hides_no_error(wrong: Any) -> None:
    error = {"code": "server_error", "message": "x"}
    response = {"status": "failed", "error": error, "usage": wrong}

    (failed,), _ = ran("responses", events({"type": "response.failed", "response": response}))

    assert (failed.error, failed.charged.output_tokens) == ("ModelUnavailable", MOST)


def test_a_whole_answer_that_failed_is_charged_what_it_reports() -> None:
    error = {"code": "server_error", "message": "x"}
    response = {"status": "failed", "error": error, "usage": {"input_tokens": 20, "output_tokens": 3}}

    (failed,), _ = ran("responses", whole(response), streamed=False)

    assert failed.charged == Charge(20, 3)


@pytest.mark.parametrize("trusts", [False, True])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("status", "in_full"),
    [
        *[(status, False) for status in (400, 401, 402, 403, 404, 409, 413, 422, 429, 501, 503, 529)],
        *[(status, True) for status in (408, 500, 502, 504, 520, 524)],
    ],
)
def test_an_error_is_charged_in_full_where_it_may_hide_an_answer(
    kind: str, status: int, in_full: bool, trusts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant believes every server that says that it failed."""
    if trusts:
        monkeypatch.setattr(wire, "may_have_begun", lambda status: False)

    (failed,), _ = ran(kind, whole({"error": {"message": "m", "type": "x"}, "type": "error"}, status))

    assert (failed.charged.output_tokens == MOST) is (in_full and not trusts)
    assert (failed.charged == Charge(0, 0)) is not (in_full and not trusts)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("lets_through", [False, True])
def test_what_is_sent_is_bounded_whatever_the_vendors_settings_say(
    kind: str, lets_through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant looks at no vendor's settings, which are laid over ours."""
    if lets_through:
        monkeypatch.setattr(asking, "beyond_bounds", lambda extra: None)
    field = {"chat": "max_tokens", "responses": "max_output_tokens", "anthropic": "max_tokens"}[kind]
    extra = {field: 100_000, "n": 5}
    if not lets_through:
        with pytest.raises(ConfigurationError, match=field):
            ran(kind, whole({}, 503), extra=extra)
        return

    _, sent = ran(kind, whole({}, 503), extra=extra)

    assert sent[0].body[field] == 100_000
