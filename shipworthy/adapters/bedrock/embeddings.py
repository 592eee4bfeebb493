"""Vectors by Amazon Bedrock: boto3 in threads of its own, one request per attempt, its errors as ours.

The bodies are those of https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html and
model-parameters-embed.html beside it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shipworthy.adapters.shared.embedding import MALFORMED, ROOM, TIMEOUT, Requests, unreadable
from shipworthy.errors import (
    ConfigurationError,
    MissingExtra,
    MissingKey,
    ModelError,
    ModelUnavailable,
    RequestRejected,
)
from shipworthy.ports.embedder import Purpose
from shipworthy.ports.real_calls import ensure_real_calls_allowed
from shipworthy.rules.wire import cleaned, failure

THREADS = 4
CREDENTIALS = "the AWS credentials"
_SIGN_IN = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine."


class BedrockEmbedder:
    """Texts to vectors by a Titan or Cohere model on Amazon Bedrock; of a text that is longer than 8,000 bytes of UTF-8
    (Cohere's version 3: 2,048), by its beginning.

    `dimensions`: fewer than the model's own, where it can do that. Region and credentials are found as by all of AWS's
    tools, at the first use; `base_url` is another address of the same API, such as a VPC endpoint. Titan takes one text
    per request, of which at most four are under way. A request that failed in a way that may pass is sent at most three
    times. Raises MissingExtra, ConfigurationError; at the first use MissingKey.
    """

    def __init__(
        self,
        model: str = "amazon.titan-embed-text-v2:0",
        *,
        region: str | None = None,
        dimensions: int | None = None,
        base_url: str | None = None,
    ) -> None:
        self.name = f"bedrock:{model}" + (f"/{dimensions}" if dimensions else "")
        self.limit = 96
        self._model, self._region, self._dimensions, self._base_url = model, region, dimensions, base_url
        self._cohere = _is_cohere(model)
        self._boto3 = _sdk()
        self._making = threading.Lock()
        self._client: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._requests = Requests(
            self.name,
            self._ask,
            batch=self.limit if self._cohere else 1,
            room=2_048 if "embed-english-v3" in model or "embed-multilingual-v3" in model else ROOM,
            dimensions=dimensions,
            at_once=1 if self._cohere else THREADS,
        )

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[array[float]]:
        """A vector for each text. Raises EmbedderError."""
        return await self._requests.vectors(texts, purpose)

    async def close(self) -> None:
        """Give up connections and threads; used again, they are made again."""
        with self._making:
            threads, client = self._threads, self._client
            self._threads = self._client = None
        if threads is not None:
            threads.shutdown(wait=False)
        if client is not None:
            client.close()

    async def _ask(self, texts: Sequence[str], purpose: Purpose) -> list[Any]:
        ensure_real_calls_allowed(self.name, self._base_url)
        body = self._body(texts, purpose)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "shipworthy-bedrock")
        failed: ModelError | ConfigurationError | None = None
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._invoke, body)
            return _vectors(answer)
        except Exception as error:
            failed = self._translated(error)
            if failed is None:
                raise
        raise failed  # out here, so that the SDK's exception, with the request, is no context of it

    def _body(self, texts: Sequence[str], purpose: Purpose) -> dict[str, Any]:
        size = self._dimensions
        if not self._cohere:
            return {"inputText": texts[0], **({"dimensions": size} if size else {})}
        body = {"texts": texts, "input_type": f"search_{purpose}", "embedding_types": ["float"]}
        if "-v3" in self._model:
            return {**body, "truncate": "END"}
        return {**body, **({"output_dimension": size} if size else {})}

    def _invoke(self, body: dict[str, Any]) -> Any:
        """In a thread: one request, and the client before the first, for which boto3 reads many files."""
        with self._making:
            if self._client is None:
                self._client = self._open()
            client = self._client
        answer = client.invoke_model(
            modelId=self._model,
            body=json.dumps(body),
            contentType="application/json",
            accept="application/json",
        )
        return json.loads(answer["body"].read())

    def _open(self) -> Any:
        config = importlib.import_module("botocore.config").Config(
            connect_timeout=5,
            read_timeout=TIMEOUT,
            retries={"total_max_attempts": 1},
            max_pool_connections=THREADS,
        )
        session = self._boto3.session.Session()
        return session.client(
            "bedrock-runtime", region_name=self._region, endpoint_url=self._base_url, config=config
        )

    def _translated(self, error: Any) -> ModelError | ConfigurationError | None:
        """The one place where the SDK's errors become ours; None for what is not the provider's doing."""
        aws = importlib.import_module("botocore.exceptions")
        if isinstance(error, aws.ClientError):
            return self._refused(error.response)
        if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.ProfileNotFound):
            return MissingKey(
                f"{self.name} has no AWS credentials ({cleaned(str(error), None)}).", fix=_SIGN_IN
            )
        if isinstance(error, aws.NoRegionError):
            return ConfigurationError(f"{self.name} has no region.", fix="Pass region=, or set AWS_REGION.")
        if isinstance(error, aws.ConnectionError | aws.HTTPClientError | OSError):
            return ModelUnavailable(f"{self.name} could not be reached ({type(error).__name__}).")
        if isinstance(error, aws.BotoCoreError):
            return RequestRejected(f"{self.name} could not be asked: {cleaned(str(error), None)}")
        return unreadable(self.name, error) if isinstance(error, MALFORMED) else None

    def _refused(self, response: Any) -> ModelError:
        about, said = response.get("ResponseMetadata", {}), response.get("Error", {})
        return failure(
            self.name,
            CREDENTIALS,
            status=about.get("HTTPStatusCode") or 500,
            code=str(said.get("Code", "")),
            message=cleaned(str(said.get("Message") or said.get("Code") or ""), None),
            headers=about.get("HTTPHeaders"),
        )


def _vectors(answer: Any) -> list[Any]:
    """Titan's `embedding`; Cohere's `embeddings`, by type or in one list."""
    if "embedding" in answer:
        return [answer["embedding"]]
    found = answer["embeddings"]
    return list(found["float"] if isinstance(found, dict) else found)


def _is_cohere(model: str) -> bool:
    if "cohere.embed" in model or "titan-embed-text" in model:
        return "cohere.embed" in model
    raise ConfigurationError(
        f"The requests of {model!r} on Bedrock are not known.",
        fix="Use a model whose id has 'titan-embed-text' or 'cohere.embed', or write an Embedder for it.",
    )


def _sdk() -> Any:
    try:
        return importlib.import_module("boto3")
    except ImportError as error:
        raise MissingExtra(
            f"Models on Bedrock need the package boto3 ({error}).",
            fix='Install it: pip install "shipworthy[bedrock]".',
        ) from error
