"""Vectors of what is remembered and asked, by the embedder that is configured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.domain.memory import Record, Remembered, Stamp
from shipworthy.engine.memory.records import is_found, record_of
from shipworthy.engine.memory.wording import worded
from shipworthy.errors import ConfigurationError, EmbedderChanged, EmbedderError, MemoryProblem
from shipworthy.ports.embedder import Embedder, Purpose
from shipworthy.ports.memory import MemoryStore
from shipworthy.rules.memory.terms import TERMS, bounded
from shipworthy.rules.memory.vectors import TAG, packed, tag_of, unit
from shipworthy.rules.text import described_without_secrets

log = logging.getLogger("shipworthy.memory")


class Vectors:
    """The embedder of a memory, or none. *local*: makes the one that is used where nobody named one and the store has
    no other yet."""

    def __init__(self, embedder: Embedder | None, local: Callable[[], Embedder] | None = None) -> None:
        self.embedder = embedder
        self.dimensions = 0
        """Of the vectors that the stores have; 0: they have none, or it was not asked."""
        self._local = local
        self._stores: Sequence[MemoryStore] = ()

    @property
    def tag(self) -> bytes:
        """What is before each vector that counts."""
        return tag_of("" if self.embedder is None else self.embedder.name)

    async def stamp(self) -> Stamp:
        """What a new store is to say that its records were made with."""
        if self.embedder is None and self._local is not None:
            self.embedder = self._local()
        return Stamp(TERMS, "" if self.embedder is None else self.embedder.name)

    def settle(self, place: str, stamp: Stamp) -> None:
        """Hold the configuration to what the store says. Raises EmbedderChanged."""
        mine = "" if self.embedder is None else self.embedder.name
        if stamp.embedder == mine and stamp.terms == TERMS:
            self._agree(place, stamp.dimensions or self.dimensions)
            return
        if self._local is not None and not stamp.embedder:
            log.info("%s has no vectors yet: `shipworthy memory reindex` makes them.", place)
            self.embedder = None
            return
        if stamp.terms != TERMS:
            raise EmbedderChanged(
                f"{place} was written with the words of {stamp.terms!r}, and this is {TERMS!r}."
            )
        had, has = stamp.embedder or "none", mine or "none"
        raise EmbedderChanged(f"{place} has vectors of the embedder {had}, and this memory has {has}.")

    def serve(self, stores: Sequence[MemoryStore]) -> None:
        """Have the first vectors say, in these stores, of how many dimensions theirs are."""
        self._stores = stores

    async def measured(self) -> Stamp:
        """The same stamp with the dimensions that the embedder gives now. Raises EmbedderError."""
        stamp = await self.stamp()
        self.dimensions = (
            0 if self.embedder is None else len((await self._embed(["How long?"], "document"))[0])
        )
        return msgspec.structs.replace(stamp, dimensions=self.dimensions)

    def fits(self, vector: bytes) -> bool:
        """Whether a record with this vector has the one that it would get now, as far as bytes show it."""
        if self.embedder is None:
            return not vector
        return vector[:TAG] == self.tag and len(vector) == TAG + 4 * self.dimensions

    def _agree(self, place: str, dimensions: int) -> None:
        """Hold vectors of so many dimensions to those that are known. Raises EmbedderChanged."""
        if self.dimensions and dimensions != self.dimensions:
            name = "" if self.embedder is None else self.embedder.name
            raise EmbedderChanged(
                f"Vectors of {name} have {dimensions} dimensions in {place}, and {self.dimensions} elsewhere."
            )
        self.dimensions = dimensions

    async def _hold(self, dimensions: int) -> None:
        """Hold new vectors to those that are there; the first have the stores say of how many dimensions they are.
        Raises EmbedderChanged."""
        for store in () if self.dimensions else self._stores:
            stamp = await store.stamp(await self.stamp())
            self.settle(store.name, stamp)
            if not stamp.dimensions:
                stamp = msgspec.structs.replace(stamp, dimensions=self.dimensions or dimensions)
                await store.stamp(stamp, replace=True)
        self._agree("what is new", dimensions)

    async def of_query(self, text: str) -> tuple[NDArray[np.float32] | None, MemoryProblem | None]:
        """The vector of what is asked; why there is none, where an embedder failed or is another one than it was."""
        if self.embedder is None or not text.strip():
            return None, None
        try:
            (vector,) = await self._embed([bounded(text)], "query")
            if self.dimensions:
                self._agree("what is asked", len(vector))
        except (EmbedderError, EmbedderChanged) as error:
            return None, error
        return vector, None

    async def records(self, items: Sequence[Remembered], *, strict: bool = False) -> list[Record]:
        """Records with vectors. Where the embedder fails they have none: they are found by their words, and a reindex
        makes them; that is logged. *strict*: it raises EmbedderError instead. Raises EmbedderChanged for vectors of
        other dimensions than those that are there."""
        found = [i for i, item in enumerate(items) if is_found(item)]
        made: dict[int, bytes] = {}
        if self.embedder is not None and found:
            try:
                vectors = await self._embed([items[i].text for i in found], "document")
                await self._hold(len(vectors[0]))
                made = {i: packed(v, self.embedder.name) for i, v in zip(found, vectors, strict=True)}
            except EmbedderError as error:
                if strict:
                    raise
                log.warning("%d remembered texts have no vectors yet: %s", len(found), error)
        return await worded(
            sum([len(items[i].text) for i in found]),
            lambda: [record_of(item, made.get(i, b"")) for i, item in enumerate(items)],
        )

    async def _embed(self, texts: Sequence[str], purpose: Purpose) -> list[NDArray[np.float32]]:
        embedder = self.embedder
        assert embedder is not None
        vectors: list[NDArray[np.float32]] = []
        for first in range(0, len(texts), embedder.limit):
            some = texts[first : first + embedder.limit]
            try:
                given = await embedder.embed(some, purpose)
            except (EmbedderError, ConfigurationError):
                raise
            except Exception as error:
                told = described_without_secrets(error)
                raise EmbedderError(f"The embedder {embedder.name} failed: {told}.") from None
            if len(given) != len(some):
                raise EmbedderError(
                    f"The embedder {embedder.name} gave {len(given)} vectors for {len(some)} texts."
                )
            vectors += [unit(vector) for vector in given]
        if len({len(v) for v in vectors}) > 1:
            raise EmbedderError(f"The embedder {embedder.name} gave vectors of different lengths.")
        return vectors

    async def close(self) -> None:
        """Give up the embedder's connections."""
        if self.embedder is not None:
            await self.embedder.close()
