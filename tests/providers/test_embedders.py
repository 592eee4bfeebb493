"""Embedders that go over the wire, against emulators that others wrote, and what each must not let through.

Bedrock's `InvokeModel` is emulated by nobody for embeddings: a server of a few lines sends what its user guide prints
(model-parameters-titan-embed-text, model-parameters-embed), and the real boto3 signs and reads.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail

from shipworthy.adapters.bedrock import BedrockEmbedder
from shipworthy.adapters.cohere import CohereEmbedder
from shipworthy.adapters.openai import OpenAIEmbedder
from shipworthy.adapters.shared import embedding
from shipworthy.errors import (
    ConfigurationError,
    EmbedderError,
    MissingExtra,
    MissingKey,
    RealModelRefused,
    ShipworthyError,
)
from shipworthy.ports.embedder import Embedder, Purpose
from shipworthy.ports.real_calls import allow_model_calls
from tests.providers.emulators import Aimock, Received, Replay, Reply, aimock, nobody, whole

__all__ = ["aimock"]
pytestmark = pytest.mark.wire

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "CO_API_KEY",
        "CO_API_URL",
        "AWS_PROFILE",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


def openai(url: str, **more: Any) -> Embedder:
    return OpenAIEmbedder(base_url=f"{url}/v1", api_key=KEY, **more)


def cohere(url: str, **more: Any) -> Embedder:
    return CohereEmbedder(base_url=url, api_key=KEY, **more)


def titan(url: str, **more: Any) -> Embedder:
    return BedrockEmbedder(base_url=url, **more)


def on_bedrock(url: str, **more: Any) -> Embedder:
    return BedrockEmbedder("cohere.embed-v4:0", base_url=url, **more)


MAKERS: dict[str, Callable[..., Embedder]] = {
    "openai": openai,
    "cohere": cohere,
    "titan": titan,
    "cohere on bedrock": on_bedrock,
}


def sent(kind: str, *vectors: Any) -> Any:
    """The body with which the provider gives *vectors*."""
    if kind == "openai":
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
        return {
            "object": "list",
            "data": data,
            "model": "m",
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
    if kind == "titan":
        return {
            "embedding": vectors[0],
            "inputTextTokenCount": 3,
            "embeddingsByType": {"float": vectors[0]},
        }
    by_type = {"id": "e", "embeddings": {"float": list(vectors)}, "texts": ["x"] * len(vectors)}
    return by_type if kind == "cohere" else {**by_type, "response_type": "embeddings_by_type"}


def refused(kind: str, message: str) -> Any:
    return {"error": {"message": message, "type": "some_error"}} if kind == "openai" else {"message": message}


def run(call: Coroutine[Any, Any, Any]) -> Any:
    with allow_model_calls():
        return asyncio.run(call)


async def embedded(
    embedder: Embedder, texts: Sequence[str], purpose: Purpose = "document"
) -> list[list[float]]:
    try:
        return [list(vector) for vector in await embedder.embed(texts, purpose)]
    finally:
        await embedder.close()


def replayed(
    kind: str, texts: Sequence[str], *replies: Reply, purpose: Purpose = "document", **more: Any
) -> tuple[list[list[float]], list[Received]]:
    async def asked() -> tuple[list[list[float]], list[Received]]:
        async with Replay(replies) as server:
            return await embedded(MAKERS[kind](server.url, **more), texts, purpose), server.requests

    found: tuple[list[list[float]], list[Received]] = run(asked())
    return found


def failed(kind: str, texts: Sequence[str], *replies: Reply, **more: Any) -> EmbedderError:
    with pytest.raises(EmbedderError) as caught:
        replayed(kind, texts, *replies, **more)
    return caught.value


# ------------------------------------------------------------------------------------------- the emulators


@pytest.mark.parametrize("kind", ["openai", "cohere"])
def test_texts_become_vectors_in_their_order(kind: str, aimock: Aimock) -> None:
    aimock.serve()
    embedder = MAKERS[kind](aimock.url)
    texts = [f"text {i % 50}" for i in range(embedder.limit + 4)]  # more than one request's worth

    vectors = run(embedded(embedder, texts))

    assert [vectors.index(vector) for vector in vectors] == [i % 50 for i in range(len(texts))]
    assert len(aimock.journal()) == 2


def test_dimensions_are_asked_for_and_in_the_name(aimock: Aimock) -> None:
    aimock.serve()
    embedder = openai(aimock.url, dimensions=256)

    assert len(run(embedded(embedder, ["text"]))[0]) == 256
    assert embedder.name == "openai:text-embedding-3-small/256"


def test_heeding_the_provider_is_resilient(llmock: LLMock) -> None:
    llmock.add(Fail(429, retry_after=0.2))

    assert len(run(embedded(openai(llmock.url), ["text"]))[0]) == 1536
    llmock.assert_resilient(strict=True)


# ----------------------------------------------------------------------------------------------- what is sent


def test_every_provider_is_asked_as_its_reference_says() -> None:
    bodies: dict[str, Any] = {}
    for kind in MAKERS:
        vectors, (request,) = replayed(
            kind, ["Where?"], whole(sent(kind, [0.6, 0.8])), purpose="query", dimensions=2
        )
        assert vectors == [[pytest.approx(0.6), pytest.approx(0.8)]]
        bodies[request.path] = request.body
        if kind in ("openai", "cohere"):
            assert request.headers["authorization"] == f"Bearer {KEY}"
        else:
            assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")

    search = {"input_type": "search_query", "embedding_types": ["float"], "output_dimension": 2}
    assert bodies == {
        "/v1/embeddings": {
            "model": "text-embedding-3-small",
            "input": ["Where?"],
            "encoding_format": "base64",
            "dimensions": 2,
        },
        "/v2/embed": {"model": "embed-v4.0", "texts": ["Where?"], "truncate": "END", **search},
        "/model/amazon.titan-embed-text-v2%3A0/invoke": {"inputText": "Where?", "dimensions": 2},
        "/model/cohere.embed-v4%3A0/invoke": {"texts": ["Where?"], **search},
    }


def test_bedrock_takes_the_older_cohere_and_its_answer() -> None:
    async def asked() -> tuple[list[list[float]], list[Received]]:
        async with Replay(
            [whole({"embeddings": [[3, 4]], "response_type": "embeddings_floats"})] * 1
        ) as server:
            embedder = BedrockEmbedder("cohere.embed-english-v3", base_url=server.url)
            return await embedded(embedder, ["x" * 9_000]), server.requests

    vectors, (request,) = run(asked())

    assert vectors == [[3.0, 4.0]]
    assert request.body == {
        "texts": ["x" * 2_048],
        "input_type": "search_document",
        "embedding_types": ["float"],
        "truncate": "END",
    }


def test_openais_vectors_come_as_base64_and_by_their_index() -> None:
    packed = [base64.b64encode(struct.pack("<2f", *v)).decode() for v in ([0.0, 1.0], [1.0, 0.0])]
    body = sent("openai", *packed)
    body["data"].reverse()

    vectors, _ = replayed("openai", ["a", "b"], whole(body))

    assert vectors == [[0.0, 1.0], [1.0, 0.0]]


def test_a_text_is_sent_as_far_as_a_provider_takes_it_and_never_empty() -> None:
    _, (request,) = replayed("titan", ["é" * 9_000], whole(sent("titan", [1.0])))
    assert request.body["inputText"] == "é" * 4_000

    _, (request,) = replayed("openai", ["", "\ud800"], whole(sent("openai", [1.0], [1.0])))
    assert request.body["input"] == [" ", "\ufffd"]


def test_one_request_is_never_larger_than_a_provider_takes() -> None:
    texts = ["x" * 8_000] * 40

    _, requests = replayed(
        "openai", texts, whole(sent("openai", *[[1.0]] * 32)), whole(sent("openai", *[[1.0]] * 8))
    )

    assert [len(request.body["input"]) for request in requests] == [32, 8]


def test_titan_has_at_most_four_requests_under_way() -> None:
    under_way, most = 0, 0

    async def asked() -> list[list[float]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split()[0])
            number = float(json.loads(await reader.readexactly(length))["inputText"])
            await asyncio.sleep(0.02)
            under_way -= 1
            body = json.dumps({"embedding": [number, 1.0]}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return await embedded(titan(url), [str(i) for i in range(12)])

    assert run(asked()) == [[float(i), 1.0] for i in range(12)]
    assert most == 4


# --------------------------------------------------------------------------------------- what is not let through

NAN = float("nan")
WRONG: dict[str, Callable[[str], Any]] = {
    "too few": lambda kind: sent(kind, [1.0]),
    "too many": lambda kind: sent(kind, [1.0], [1.0], [1.0]),
    "of different lengths": lambda kind: sent(kind, [1.0, 0.0], [1.0]),
    "not a number": lambda kind: sent(kind, [1.0, 0.0], [NAN, 0.0]),
    "zero": lambda kind: sent(kind, [1.0, 0.0], [0.0, 0.0]),
    "empty": lambda kind: sent(kind, [], []),
    "no numbers": lambda kind: sent(kind, [1.0, 0.0], ["a", "b"]),
    "no list": lambda kind: sent(kind, [1.0, 0.0], 7),
    "no answer": lambda kind: {"hello": "there"},
}


def lets_through(kind: str, body: Any) -> bool:
    refused = False
    try:
        replayed(kind, ["a", "b"], whole(body))
    except EmbedderError as error:
        refused = bool(error.fix)
    return not refused


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BACKOFF", 0.0)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_a_vector_for_each_text_is_an_error(wrong: str) -> None:
    assert [
        kind for kind in ("openai", "cohere", "cohere on bedrock") if lets_through(kind, WRONG[wrong](kind))
    ] == []


@pytest.mark.parametrize("wrong", ["of different lengths", "not a number", "zero"])
def test_an_embedder_that_does_not_look_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: vectors go on as they came."""
    monkeypatch.setattr(embedding.Requests, "_checked", lambda self, given, count: given)

    assert lets_through("openai", WRONG[wrong]("openai"))


def test_a_provider_that_changes_its_dimensions_is_caught() -> None:
    async def twice() -> None:
        async with Replay([whole(sent("openai", [1.0, 0.0])), whole(sent("openai", [1.0]))]) as server:
            embedder = openai(server.url)
            await embedder.embed(["a"], "document")
            await embedded(embedder, ["b"])

    with pytest.raises(EmbedderError, match="1 dimensions instead of 2"):
        run(twice())
    assert "2 dimensions instead of 3" in str(
        failed("cohere", ["a"], whole(sent("cohere", [1.0, 0.0])), dimensions=3)
    )


# ----------------------------------------------------------------------------------------------------- failures


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", MAKERS)
def test_only_what_may_pass_is_tried_again_and_not_for_ever(kind: str) -> None:
    good = whole(sent(kind, [1.0]))
    for status in (429, 503):
        vectors, requests = replayed(kind, ["a"], whole(refused(kind, "Later."), status), good)
        assert (vectors, len(requests)) == ([[1.0]], 2)

    async def tries(*replies: Reply) -> int:
        async with Replay(replies) as server:
            with pytest.raises(EmbedderError):
                await embedded(MAKERS[kind](server.url), ["a"])
            return len(server.requests)

    assert run(tries(whole(refused(kind, "Later."), 503))) == embedding.ATTEMPTS
    assert run(tries(whole(refused(kind, "No."), 403), good)) == 1
    assert run(tries(whole(refused(kind, "Slow."), 429, ["retry-after: 3600"]), good)) == 1


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", MAKERS)
def test_nobody_there_is_an_error_that_says_so(kind: str) -> None:
    with pytest.raises(EmbedderError, match="could not be reached"):
        run(embedded(MAKERS[kind](nobody()), ["a"]))


@pytest.mark.parametrize("kind", MAKERS)
def test_no_error_and_no_repr_holds_the_key(kind: str) -> None:
    error = failed(kind, ["a"], whole(refused(kind, f"Incorrect API key: {KEY}."), 401))

    seen: BaseException | None = error
    while seen is not None:
        assert isinstance(seen, ShipworthyError)
        assert KEY not in str(seen)
        seen = seen.__cause__ or seen.__context__
    assert "key" in error.fix.lower() or "credentials" in error.fix
    assert KEY not in repr(MAKERS[kind](nobody()))


@pytest.mark.parametrize("kind", MAKERS)
def test_no_test_calls_a_provider_by_accident(kind: str) -> None:
    with pytest.raises(RealModelRefused):
        asyncio.run(embedded(MAKERS[kind](nobody()), ["a"]))


def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        OpenAIEmbedder()
    with pytest.raises(MissingKey, match="CO_API_KEY"):
        CohereEmbedder()
    with pytest.raises(ConfigurationError, match="titan-embed-text"):
        BedrockEmbedder("amazon.nova-pro-v1:0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(MissingKey, match="AWS_PROFILE"):
        run(embedded(titan(nobody()), ["a"]))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="region="):
        run(embedded(BedrockEmbedder(), ["a"]))


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("openai", "openai", lambda: OpenAIEmbedder(api_key=KEY)),
        ("cohere", "cohere", lambda: CohereEmbedder(api_key=KEY)),
        ("boto3", "bedrock", BedrockEmbedder),
    ],
)
def test_a_missing_extra_names_its_install(
    package: str, extra: str, make: Callable[[], Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)

    with pytest.raises(MissingExtra, match=rf'pip install "shipworthy\[{extra}\]"'):
        make()


def test_an_embedder_works_in_one_event_loop_after_another(aimock: Aimock) -> None:
    aimock.serve()
    for make in (openai, cohere):
        embedder = make(aimock.url)
        first = run(embedded(embedder, ["text"]))
        assert run(embedded(embedder, ["text"])) == first
