"""What the embedders of providers share: requests that are not too large, bounded retries, vectors that are vectors.
Knows no SDK."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.errors import EmbedderError, IncompleteAnswer, ModelError
from shipworthy.ports.embedder import Purpose
from shipworthy.rules.text import clean

ATTEMPTS = 3
"""How often one request is sent at most."""
LONGEST = 10.0
"""Seconds that are waited before an attempt at most; a provider that asks for more is not waited for."""
BACKOFF = 0.25
"""Seconds that are waited, doubled with each attempt and drawn at random up to it, where a provider says nothing."""
TIMEOUT = 30.0
"""Seconds that one attempt may take."""
ROOM = 8_000
"""Bytes of a text that are sent where a provider refuses more than 8,192 tokens: no byte is more than one."""
MOST = 256_000
"""Bytes that are sent at once. (OpenAI takes 300,000 tokens.)"""

MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What reading an answer raises that is not what was promised."""

Ask = Callable[[Sequence[str], Purpose], Awaitable[Sequence[Any]]]
"""One request, never repeated: a vector for each text, in their order. Raises ModelError."""


class Requests:
    """Texts to vectors, in as many requests as it takes.

    A request has at most *batch* texts, each cut after *room* bytes of UTF-8; *at_once* of them are under way.
    *dimensions* is None where the provider chooses; whatever it chose first, it has to keep to.
    """

    def __init__(
        self,
        name: str,
        ask: Ask,
        *,
        batch: int,
        room: int = ROOM,
        dimensions: int | None = None,
        at_once: int = 1,
    ) -> None:
        self.name = name
        self._ask, self._batch, self._room, self._at_once = ask, batch, room, at_once
        self._dimensions = dimensions

    async def vectors(self, texts: Sequence[str], purpose: Purpose) -> list[array[float]]:
        """A vector for each text. Raises EmbedderError."""
        gate = asyncio.Semaphore(self._at_once)

        async def one(batch: Sequence[str]) -> list[array[float]]:
            async with gate:
                return await self._patiently(batch, purpose)

        cut = [_cut(text, self._room) for text in texts]
        tasks = [asyncio.ensure_future(one(batch)) for batch in _batches(cut, self._batch)]
        try:
            return [vector for made in await asyncio.gather(*tasks) for vector in made]
        finally:
            for task in tasks:
                task.cancel()

    async def _patiently(self, batch: Sequence[str], purpose: Purpose) -> list[array[float]]:
        attempt = 1
        while True:
            failed: ModelError
            try:
                return self._checked(await self._ask(batch, purpose), len(batch))
            except ModelError as error:
                failed = error
            wait = failed.retry_after
            if wait is None or wait > LONGEST or attempt == ATTEMPTS:
                raise _given_up(failed, attempt)
            await asyncio.sleep(max(wait, BACKOFF * 2**attempt * random.random()))
            attempt += 1

    def _checked(self, given: Sequence[Any], count: int) -> list[array[float]]:
        if len(given) != count:
            raise self._wrong(f"{len(given)} vectors for {count} texts")
        try:
            rows = [np.asarray(vector, np.float32) for vector in given]
        except MALFORMED:
            raise self._wrong("what is no vector of numbers") from None
        for row in rows:
            if row.ndim != 1 or not row.size:
                raise self._wrong("what is no vector of numbers")
            if self._dimensions is None:
                self._dimensions = row.size
            if row.size != self._dimensions:
                raise self._wrong(f"a vector of {row.size} dimensions instead of {self._dimensions}")
            if not np.isfinite(row).all() or not row.any():
                raise self._wrong("a vector that is zero or not finite")
        return [plain(row) for row in rows]

    def _wrong(self, what: str) -> EmbedderError:
        return EmbedderError(
            f"{self.name} gave {what}.",
            fix="Check the model's name, dimensions= and base_url=: it may be no embedding model.",
        )


def plain(row: NDArray[np.float32]) -> array[float]:
    """A row of numpy's as a sequence that anybody can compare and iterate, in as little memory."""
    return array("f", row.astype(np.float32, copy=False).tobytes())


def unreadable(name: str, error: Exception) -> IncompleteAnswer:
    """The error of an answer that could not be read."""
    return IncompleteAnswer(f"{name} sent what is not an answer ({type(error).__name__}).")


def _given_up(failed: ModelError, attempts: int) -> EmbedderError:
    fix = (
        f"Look at the provider's status, your rate limit and base_url=; it was tried {attempts} times. "
        "Without vectors, memory is found by its words."
    )
    return EmbedderError(failed.what, fix=failed.fix if failed.retry_after is None else fix)


def _cut(text: str, room: int) -> str:
    """What is sent of a text: never nothing, which providers refuse, and no more than *room* bytes."""
    data = clean(text).encode()
    return (data[:room].decode(errors="ignore") if len(data) > room else data.decode()) or " "


def _batches(texts: Sequence[str], limit: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if batch and (len(batch) == limit or size + length > MOST):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch
