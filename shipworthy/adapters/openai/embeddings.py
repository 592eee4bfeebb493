"""Vectors by OpenAI's embeddings API, and by the servers that speak it."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from shipworthy.adapters.openai.connection import Connection
from shipworthy.adapters.shared.embedding import MALFORMED, TIMEOUT, Requests, unreadable
from shipworthy.errors import IncompleteAnswer
from shipworthy.ports.embedder import Purpose


class OpenAIEmbedder:
    """Texts to vectors by an OpenAI model; of a text that is longer than 8,000 bytes of UTF-8, by its beginning.

    `dimensions`: fewer than the model's own, where it can do that. The key is `api_key` or OPENAI_API_KEY; `base_url`
    (or OPENAI_BASE_URL) another server that speaks https://platform.openai.com/docs/api-reference/embeddings. A request
    that failed in a way that may pass is sent at most three times. Raises MissingExtra, MissingKey.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
    ) -> None:
        self.name = f"openai:{model}" + (f"/{dimensions}" if dimensions else "")
        self.limit = 256
        self._settings: dict[str, Any] = {"model": model, "encoding_format": "base64"}
        self._settings |= {"dimensions": dimensions} if dimensions else {}
        self._connection = Connection(self.name, api_key, base_url, None)
        self._requests = Requests(self.name, self._ask, batch=self.limit, dimensions=dimensions)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[array[float]]:
        """A vector for each text; those of documents and of queries are made alike. Raises EmbedderError."""
        return await self._requests.vectors(texts, purpose)

    async def close(self) -> None:
        """Close this event loop's connections."""
        await self._connection.close()

    async def _ask(self, texts: Sequence[str], purpose: Purpose) -> list[Any]:
        body = {**self._settings, "input": texts}
        answer = await self._connection.post("/embeddings", body, timeout=TIMEOUT)
        failed: IncompleteAnswer
        try:
            found = {item["index"]: _numbers(item["embedding"]) for item in answer["data"]}
            return [found[index] for index in range(len(answer["data"]))]
        except MALFORMED as error:
            failed = unreadable(self.name, error)
        raise failed


def _numbers(given: Any) -> Any:
    """As base64 of little-endian float32, or as numbers, which servers send that do not know the other."""
    return np.frombuffer(base64.b64decode(given), "<f4") if isinstance(given, str) else given
