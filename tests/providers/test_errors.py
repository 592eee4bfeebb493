"""Failures in our words: what kind, how long to wait, what to do; nothing of the SDK and no secret in them.

Most are sent by a local server as the providers' references print them, for the emulators have no such answers.
"""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy.errors import (
    IncompleteAnswer,
    ModelError,
    ModelUnavailable,
    RateLimited,
    RequestRejected,
    ShipworthyError,
)
from tests.providers.asking import KEY, MODELS, ask, asked, chat, claude, failed, responses
from tests.providers.emulators import Reply, chunks, events, nobody, whole

pytestmark = pytest.mark.wire


def said(kind: str, message: str, code: str | None = None, type_: str = "some_error") -> dict[str, Any]:
    """An error's body as the provider writes it."""
    error = {"message": message, "type": type_, "param": None, "code": code}
    return {"type": "error", "error": error} if kind == "anthropic" else {"error": error}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestRejected),
        (401, RequestRejected),
        (402, RequestRejected),
        (403, RequestRejected),
        (404, RequestRejected),
        (413, RequestRejected),
        (422, RequestRejected),
        (408, ModelUnavailable),
        (409, ModelUnavailable),
        (429, RateLimited),
        (500, ModelUnavailable),
        (502, ModelUnavailable),
        (503, ModelUnavailable),
        (529, ModelUnavailable),
    ],
)
def test_every_status_has_its_error(kind: str, status: int, expected: type[ModelError], stream: bool) -> None:
    error = failed(MODELS[kind], asked(stream=stream), whole(said(kind, "Because."), status))

    assert type(error) is expected
    assert "Because." in error.what
    assert (error.retry_after is None) == (expected is RequestRejected)
    assert error.fix


@pytest.mark.parametrize("kind", MODELS)
def test_no_error_holds_the_key_or_the_sdks_exception(kind: str) -> None:
    error = failed(MODELS[kind], asked(), whole(said(kind, f"Incorrect API key provided: {KEY}."), 401))

    seen: BaseException | None = error
    while seen is not None:
        assert isinstance(seen, ShipworthyError)
        assert KEY not in str(seen)
        seen = seen.__cause__ or seen.__context__
    assert "KEY" in error.fix


@pytest.mark.parametrize(
    ("line", "wait"), [("retry-after: 3", 3.0), ("retry-after-ms: 250", 0.25), ("x: y", 0.0)]
)
@pytest.mark.parametrize("kind", MODELS)
def test_the_wait_is_the_providers(kind: str, line: str, wait: float) -> None:
    error = failed(MODELS[kind], asked(), whole(said(kind, "Slow down."), 429, [line]))

    assert error.retry_after == wait


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_an_exhausted_account_is_not_a_rate_limit(kind: str) -> None:
    body = said(kind, "You exceeded your current quota.", "insufficient_quota", "insufficient_quota")

    error = failed(MODELS[kind], asked(), whole(body, 429))

    assert type(error) is RequestRejected
    assert "credit" in error.fix


@pytest.mark.parametrize("kind", MODELS)
def test_a_web_page_instead_of_an_answer_is_no_answer(kind: str) -> None:
    page = Reply(b"<html>Welcome</html>", media_type="text/html")

    assert type(failed(MODELS[kind], asked(stream=False), page)) is IncompleteAnswer
    assert type(failed(MODELS[kind], asked(), page)) is IncompleteAnswer


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "body", [{}, [], "text", 7, {"choices": []}, {"choices": [{"message": {"content": "x"}}]}]
)
def test_json_that_is_not_an_answer_is_no_answer(kind: str, body: Any) -> None:
    assert type(failed(MODELS[kind], asked(stream=False), whole(body))) is IncompleteAnswer


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("body", ["[]", "7", '{"choices": [3]}', '{"type": "message_delta"}', "{"])
def test_events_that_are_no_events_are_no_answer(kind: str, body: str) -> None:
    stream = Reply(f"event: x\ndata: {body}\n\n".encode())

    assert type(failed(MODELS[kind], asked(), stream)) is IncompleteAnswer


@pytest.mark.parametrize("kind", MODELS)
def test_a_stream_of_nothing_is_no_answer(kind: str) -> None:
    assert type(failed(MODELS[kind], asked(), Reply(b""))) is IncompleteAnswer
    assert type(failed(MODELS[kind], asked(), Reply(b"data: [DONE]\n\n"))) is IncompleteAnswer


@pytest.mark.parametrize("kind", MODELS)
def test_nobody_there_is_unavailable(kind: str) -> None:
    with pytest.raises(ModelUnavailable, match="could not be reached"):
        ask(MODELS[kind](nobody()))


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("overloaded_error", ModelUnavailable),
        ("api_error", ModelUnavailable),
        ("rate_limit_error", RateLimited),
        ("invalid_request_error", RequestRejected),
    ],
)
def test_an_error_event_of_anthropic_is_what_its_type_says(type_: str, expected: type[ModelError]) -> None:
    error = failed(claude, asked(), events(said("anthropic", "Sorry.", type_=type_)))

    assert type(error) is expected
    assert "Sorry." in error.what


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("server_error", ModelUnavailable),
        ("rate_limit_exceeded", RateLimited),
        ("invalid_prompt", RequestRejected),
    ],
)
def test_an_error_inside_a_stream_of_openai_is_what_its_code_says(
    code: str, expected: type[ModelError]
) -> None:
    error = {"code": code, "message": "Sorry.", "type": None}
    broken = {"type": "response.failed", "response": {"status": "failed", "error": error, "output": []}}

    assert type(failed(chat, asked(), chunks({"error": error}))) is expected
    assert type(failed(responses, asked(), events({**error, "type": "error"}))) is expected
    assert type(failed(responses, asked(), events(broken))) is expected
    assert type(failed(responses, asked(stream=False), whole(broken["response"]))) is expected
