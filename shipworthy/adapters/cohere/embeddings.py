"""Vectors by Cohere's Embed API: its SDK, a client per event loop, one request per attempt, its errors as ours."""

from __future__ import annotations

import asyncio
import importlib
import os
from array import array
from collections.abc import Sequence
from typing import Any

from shipworthy.adapters.shared.embedding import MALFORMED, TIMEOUT, Requests, unreadable
from shipworthy.errors import MissingExtra, MissingKey, ModelError, ModelUnavailable
from shipworthy.ports.embedder import Purpose
from shipworthy.ports.real_calls import ensure_real_calls_allowed
from shipworthy.rules.per_loop import PerLoop
from shipworthy.rules.wire import cleaned, failure

KEY = "CO_API_KEY"
ROOM = 100_000
"""Bytes that are sent of a text. Cohere itself cuts what its model does not take."""


class CohereEmbedder:
    """Texts to vectors by a Cohere model, documents and queries each as it wants them; of a text that is longer than
    the model takes, by its beginning.

    `dimensions`: fewer than the model's own, where it can do that. The key is `api_key` or CO_API_KEY; `base_url` (or
    CO_API_URL) another server that speaks https://docs.cohere.com/reference/embed. A request that failed in a way that
    may pass is sent at most three times. Raises MissingExtra, MissingKey.
    """

    def __init__(
        self,
        model: str = "embed-v4.0",
        *,
        dimensions: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
    ) -> None:
        self.name = f"cohere:{model}" + (f"/{dimensions}" if dimensions else "")
        self.limit = 96
        self._settings: dict[str, Any] = {"model": model, "embedding_types": ["float"], "truncate": "END"}
        self._settings |= {"output_dimension": dimensions} if dimensions else {}
        self._sdk = _sdk()
        self._base_url = base_url or os.environ.get("CO_API_URL") or None
        self._key = _key(api_key, self._base_url)
        self._clients: PerLoop[Any] = PerLoop()
        self._requests = Requests(self.name, self._ask, batch=self.limit, room=ROOM, dimensions=dimensions)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[array[float]]:
        """A vector for each text. Raises EmbedderError."""
        return await self._requests.vectors(texts, purpose)

    async def close(self) -> None:
        """Close this event loop's connections."""
        client = self._clients.take(asyncio.get_running_loop())
        if client is not None:
            await client.__aexit__(None, None, None)

    async def _ask(self, texts: Sequence[str], purpose: Purpose) -> list[Any]:
        ensure_real_calls_allowed(self.name, self._base_url)
        client = self._clients.get(asyncio.get_running_loop(), self._open)
        once = {"max_retries": 0, "timeout_in_seconds": int(TIMEOUT)}
        failed: ModelError | None = None
        try:
            answer = await client.embed(
                texts=texts, input_type=f"search_{purpose}", request_options=once, **self._settings
            )
            return list(answer.embeddings.float_)
        except Exception as error:
            failed = self._translated(error)
            if failed is None:
                raise
        raise failed  # out here, so that the SDK's exception, with the request and its key, is no context of it

    def _open(self) -> Any:
        return self._sdk.AsyncClientV2(
            self._key, base_url=self._base_url, timeout=TIMEOUT, log_warning_experimental_features=False
        )

    def _translated(self, error: Any) -> ModelError | None:
        """The one place where the SDK's errors become ours; None for what is not the provider's doing."""
        core = importlib.import_module("cohere.core.api_error")
        if isinstance(error, core.ApiError) and (error.status_code or 0) >= 300:
            said = _message(error.body) or f"status {error.status_code}"
            return failure(
                self.name,
                KEY,
                status=error.status_code,
                message=cleaned(said, self._key),
                headers=error.headers,
            )
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore") or isinstance(error, OSError):
            where = self._base_url or "its provider"
            return ModelUnavailable(f"{self.name} could not be reached at {where} ({type(error).__name__}).")
        parsing = importlib.import_module("cohere.core.parse_error")
        if isinstance(error, (*MALFORMED, core.ApiError, parsing.ParsingError)):
            return unreadable(self.name, error)
        return None


def _message(body: Any) -> str:
    said = body.get("message") if isinstance(body, dict) else getattr(body, "message", None)
    return str(said or body or "")


def _sdk() -> Any:
    try:
        return importlib.import_module("cohere")
    except ImportError as error:
        raise MissingExtra(
            f"Cohere models need the package cohere ({error}).",
            fix='Install it: pip install "shipworthy[cohere]".',
        ) from error


def _key(given: str | None, base_url: str | None) -> str:
    key = (given or os.environ.get(KEY) or "").strip()
    if not key and base_url is None:
        raise MissingKey("No Cohere key is set.", fix=f"Set {KEY}, or pass api_key=.")
    if not (key.isascii() and key.isprintable()):
        raise MissingKey("The Cohere key has characters that no header can carry.", fix=f"Set {KEY} again.")
    return key or "none-needed"
