"""How long a provider is left alone, by what its responses say, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from shipworthy import Agent, BudgetConfig, RateLimit, StandardBudget
from shipworthy.adapters.shared.pace import LONGEST, Pace
from shipworthy.errors import ModelError
from shipworthy.ports.real_calls import allow_model_calls
from tests.providers.asking import MODELS, asked
from tests.providers.emulators import Received, Replay, Reply, whole

pytestmark = pytest.mark.wire

USAGE = {"input_tokens": 1, "output_tokens": 1, "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
TEXT = {"type": "output_text", "text": "Hi", "annotations": []}
OK: dict[str, Any] = {
    "chat": {
        "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": USAGE,
    },
    "responses": {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5",
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "id": "msg_1", "content": [TEXT]}],
        "usage": USAGE,
    },
    "anthropic": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}
NOW = "date: Sun, 22 Nov 2026 10:00:00 GMT"


def reply(kind: str, status: int, headers: list[str]) -> Reply:
    return whole(OK[kind] if status == 200 else {"error": {"message": "Slow down."}}, status, headers)


def spent(kind: str, seconds: int) -> list[str]:
    """The headers of an answer after which no request is left for so long."""
    if kind == "anthropic":
        minutes, rest = divmod(seconds, 60)
        reset = f"2026-11-22T10:{minutes:02}:{rest:02}Z"
        return [
            NOW,
            "anthropic-ratelimit-requests-remaining: 0",
            f"anthropic-ratelimit-requests-reset: {reset}",
        ]
    return ["x-ratelimit-remaining-requests: 0", f"x-ratelimit-reset-requests: {seconds}s"]


def paused_after(kind: str, status: int, headers: list[str], *, stream: bool = False) -> float:
    """For how long the model is to be left alone after one response of a real server."""

    async def law() -> float:
        async with Replay([reply(kind, status, headers)]) as server:
            model: Any = MODELS[kind](server.url)
            assert model.paused_for == 0
            with contextlib.suppress(ModelError):
                async for _ in model.stream(asked(stream=stream)):
                    pass
            left: float = model.paused_for
            await model.close()
            return left

    with allow_model_calls():
        return asyncio.run(law())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(("header", "seconds"), [("retry-after: 50", 50), ("retry-after-ms: 50000", 50)])
def test_who_is_told_when_to_come_again_comes_then(kind: str, status: int, header: str, seconds: int) -> None:
    assert seconds - 10 < paused_after(kind, status, [header]) <= seconds
    assert seconds - 10 < paused_after(kind, status, [header], stream=True) <= seconds


@pytest.mark.parametrize("kind", MODELS)
def test_an_answer_may_say_that_it_was_the_last_for_now(kind: str) -> None:
    assert 40 < paused_after(kind, 200, spent(kind, 50)) <= 50


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_other_responses_do_not_ask_for_a_pause(kind: str, status: int) -> None:
    some = ["x-ratelimit-remaining-requests: 7", "x-ratelimit-reset-requests: 50s", "retry-after: 50"]
    assert paused_after(kind, status, some) == 0


# what the headers mean

DATE = {"date": "Sun, 22 Nov 2026 10:00:00 GMT"}


def noted(headers: dict[str, str], status: int = 200) -> float:
    pace = Pace()
    pace.note(status, headers)
    return pace.left


@pytest.mark.parametrize("unit", ["requests", "tokens"])
@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("50s", 50),
        ("6m0s", 360),
        ("49m59.56s", 2999.56),
        ("50000ms", 50),
        ("1h", 3600),
        ("2d", LONGEST),
        ("9" * 400 + "s", LONGEST),
        ("soon", 0),
        ("-50s", 0),
        ("50", 0),
        ("50s and more", 0),
        ("", 0),
    ],
)
def test_a_reset_by_a_duration(unit: str, reset: str, seconds: float) -> None:
    left = noted({f"x-ratelimit-remaining-{unit}": "0", f"X-RateLimit-Reset-{unit}".lower(): reset})
    assert max(seconds - 5, 0) <= left <= seconds


@pytest.mark.parametrize("unit", ["requests", "tokens", "input-tokens", "output-tokens"])
@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("2026-11-22T10:00:50Z", 50),
        ("2026-11-22T11:00:50+01:00", 50),
        ("2027-11-22T10:00:00Z", LONGEST),
        ("2026-11-22T09:00:00Z", 0),
        ("2026-11-22T10:00:50", 0),
        ("10 o'clock", 0),
    ],
)
def test_a_reset_by_a_time_is_by_the_responses_own_clock(unit: str, reset: str, seconds: float) -> None:
    name = f"anthropic-ratelimit-{unit}"
    left = noted({f"{name}-remaining": "0", f"{name}-reset": reset, **DATE})
    assert max(seconds - 5, 0) <= left <= seconds
    assert noted({f"{name}-remaining": "0", f"{name}-reset": reset}) == 0
    assert noted({f"{name}-remaining": "1", f"{name}-reset": reset, **DATE}) == 0


def test_the_longest_pause_counts() -> None:
    pace = Pace()
    pace.note(429, {"retry-after": "50"})
    pace.note(429, {"retry-after": "5"})
    pace.note(200, {})
    assert 40 < pace.left <= 50


# who heeds it


def sat(
    kind: str, *replies: Reply, rates: list[RateLimit], timeout: float | None = None
) -> tuple[list[str], int]:
    """How two runs ended, the second with a *timeout*, and how many requests the provider got."""

    async def law(received: list[Received]) -> tuple[list[str], int]:
        async with Replay(replies, requests=received) as server:
            budget = StandardBudget(BudgetConfig(), rate_limits=rates) if rates else None
            async with Agent("Be brief.", model=MODELS[kind](server.url), budget=budget) as agent:
                ended = []
                for number, limit in enumerate((20.0, timeout or 20.0)):
                    result = await agent.run("Hi", tenant_id="acme", run_id=f"r{number}", timeout=limit)
                    ended.append(result.stop_reason if result.status == "stopped" else result.status)
            return ended, len(received)

    with allow_model_calls():
        return asyncio.run(law([]))


@pytest.mark.parametrize("kind", MODELS)
def test_nobody_else_calls_a_provider_that_wants_to_be_left_alone(kind: str) -> None:
    last = [reply(kind, 200, spent(kind, 50)), reply(kind, 200, [])]
    waits, refuses = RateLimit(requests=100), RateLimit(requests=100, mode="refuse")
    assert sat(kind, *last, rates=[waits], timeout=0.1) == (["completed", "timeout"], 1)
    assert sat(kind, *last, rates=[refuses]) == (["completed", "rate_limit:provider"], 1)
    assert sat(kind, *last, rates=[]) == (["completed", "completed"], 2)


@pytest.mark.parametrize("kind", MODELS)
def test_a_pause_that_is_over_is_over(kind: str) -> None:
    """After a 429 with its time to wait, the attempt is made again, and others go on."""
    busy = [reply(kind, 429, ["retry-after-ms: 50"]), reply(kind, 200, [])]
    assert sat(kind, *busy, rates=[RateLimit(requests=100)]) == (["completed", "completed"], 3)


def test_an_adapter_that_does_not_listen_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "note", lambda self, status, headers: None)
    with pytest.raises(AssertionError):
        test_nobody_else_calls_a_provider_that_wants_to_be_left_alone("chat")
