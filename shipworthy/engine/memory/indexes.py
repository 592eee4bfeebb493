"""The indexes of partitions, made from what the store says changed; bounded, those that were used last.

Each belongs to one store and one partition, and both are its key: nothing that is ranked was written by anybody else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.domain.memory import NOWHERE, Changes, Entry, Kind, Mark, Record, Remembered, Weights
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.records import readable
from shipworthy.engine.memory.threads import Threads
from shipworthy.ports.memory import MemoryStore, Nearest, Versioned
from shipworthy.rules.memory.fusing import Candidates, depth_of
from shipworthy.rules.memory.index import EXACT, PartitionIndex

T = TypeVar("T")

AT_ONCE = 512
"""Records up to which a partition is searched where it is asked: it costs less than going to a thread."""
PAGE = 2000
"""Records that are read of a store at once."""
BASE = 3_000
"""Bytes that a partition's index takes before anything is in it."""
RECORD = 250
"""Bytes that a record takes in memory beside its data."""
BESIDE = 256 * 1024
"""Bytes of records that are kept beside a small partition's index, so that the store need not be asked for them."""

SMALL = 64 * 1024
"""Bytes of terms up to which changes are taken where they are asked for."""
_ALL_SMALL = 4 * 1024 * 1024
"""Bytes of an index up to which it is searched where it is asked."""

_threads = Threads(2, "recall")


class Question(msgspec.Struct, frozen=True, gc=False):
    """What is looked for: `terms` and perhaps a `vector`, among things of some *kinds*, from `after` on and before
    `before`."""

    terms: NDArray[np.uint32]
    vector: NDArray[np.float32] | None
    limit: int
    weights: Weights
    kinds: tuple[Kind, ...]
    after: int | None = None
    before: int | None = None


class _Held:
    """One partition's index, with the lock of whoever is at it, and what a small one's records say. `version`: the
    store's, from before it was asked for what the index knows."""

    __slots__ = ("beside", "index", "lock", "records", "vectors", "version")

    def __init__(self, tag: bytes) -> None:
        self.index = PartitionIndex(tag)
        self.lock = threading.Lock()
        self.vectors: Literal["whole", "coarse", "none"] = "whole"
        self.version: tuple[int, int] | None = None
        self.records: dict[str, tuple[Kind, bytes]] = {}
        self.beside = 0

    def lessen(self, *, coarse: bool) -> None:
        """Begin anew with coarse vectors, or with none."""
        self.vectors = "coarse" if coarse else "none"
        self.index = PartitionIndex(self.index.tag, vectors=coarse, coarse=coarse)

    def take(self, changes: Changes) -> None:
        """Know what was written; what was kept of it before is not any more."""
        if changes.reset:
            self.records, self.beside = {}, 0
        if self.records:
            for entry in changes.entries:
                self._drop(entry.id)
        self.index.take(changes)
        self._keep([each for each in changes.entries if each.data and (each.terms or each.vector)])

    def keep(self, found: Sequence[Record], mark: Mark) -> bool:
        """Keep what was read when the index stood at *mark*, unless somebody is at it, or was."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            return self.index.mark == mark and self._keep(found)
        finally:
            self.lock.release()

    def _keep(self, found: Sequence[Record] | Sequence[Entry]) -> bool:
        if len(self.index) > AT_ONCE:
            self.records, self.beside = {}, 0
            return False
        for each in found:
            size = RECORD + len(each.data)
            if self.beside + size > BESIDE:
                return False
            if each.id in self.records:
                self._drop(each.id)
            self.records[each.id] = each.kind, each.data
            self.beside += size
        return True

    def _drop(self, id: str) -> None:
        record = self.records.pop(id, None)
        if record is not None:
            self.beside -= RECORD + len(record[1])

    @property
    def nbytes(self) -> int:
        return BASE + self.index.nbytes + self.beside


class Indexes:
    """Of one store. `most`: bytes that all indexes together may have; *tag*: whose vectors count."""

    def __init__(self, store: MemoryStore, tag: bytes, most: int) -> None:
        self._store, self._tag, self._most = store, tag, most
        self._held: OrderedDict[Scope, _Held] = OrderedDict()
        self._sizes: dict[Scope, int] = {}
        self._total = 0
        self._lock = threading.Lock()
        self._versioned = store if isinstance(store, Versioned) else None

    @property
    def nbytes(self) -> int:
        """Bytes that the indexes have."""
        return self._total

    def __len__(self) -> int:
        return len(self._held)

    async def find(self, scope: Scope, asked: Question) -> Candidates:
        """What the partition offers, as of now."""
        held = self._hold(scope)
        version = None if self._versioned is None else self._versioned.version()
        if version is None or version != held.version:
            try:
                await self._follow(scope, held)
            finally:
                self._weigh(scope, held)
            held.version = version
        vector, near, index = asked.vector, list[tuple[str, float]](), held.index
        how: dict[str, Any] = {
            name: getattr(asked, name) for name in ("limit", "weights", "kinds", "after", "before")
        }
        if held.vectors == "none" and vector is not None:
            vector, near = None, await self._nearest(scope, asked)
        if held.vectors == "coarse" and vector is not None and asked.weights.vector:
            wanted = await self._at(held, partial(index.worth_reading, asked.terms, vector, **how))
            found = await self._store.get(scope, wanted)
            near = _measured([(record.id, record.vector) for record in found], vector, self._tag)
        return await self._at(held, lambda: index.find(asked.terms, vector, nearest=near, **how))

    async def things(self, scope: Scope, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those that are there, as the store had them when it was last asked for changes or later."""
        held = self._held.get(scope)
        kept = {} if held is None else held.records
        there = {id: Record(id=id, kind=kept[id][0], data=kept[id][1], at=0) for id in ids if id in kept}
        if len(there) < len(ids):
            mark = None if held is None else held.index.mark
            found = await self._store.get(scope, [id for id in ids if id not in there])
            there |= {record.id: record for record in found}
            if held is not None and mark is not None and held.keep(found, mark):
                self._weigh(scope, held)
        return {id: item for id, record in there.items() if (item := readable(record)) is not None}

    def forget(self, scope: Scope) -> None:
        """Keep nothing of the partition."""
        with self._lock:
            self._held.pop(scope, None)
            self._total -= self._sizes.pop(scope, 0)

    def _hold(self, scope: Scope) -> _Held:
        with self._lock:
            held = self._held.get(scope)
            if held is None:
                held = self._held[scope] = _Held(self._tag)
            self._held.move_to_end(scope)
            return held

    async def _follow(self, scope: Scope, held: _Held) -> None:
        """Take what changed since the index was last used. Others may be at it: what is old by then is dropped."""
        while True:
            since = held.index.mark
            changes = await self._store.changes(scope, since, PAGE)
            if not changes.entries and not changes.reset:
                return

            def take() -> None:
                if held.index.mark == since:  # noqa: B023 - it runs before the next turn
                    held.take(changes)  # noqa: B023

            terms = sum([len(entry.terms) for entry in changes.entries])
            await self._at(held, take, large=len(changes.entries) > AT_ONCE or terms > SMALL)
            if self._is_too_large(held):
                held.lessen(coarse=held.vectors == "whole" and not isinstance(self._store, Nearest))
                continue
            if not changes.more and held.index.mark == changes.mark:
                return

    def _is_too_large(self, held: _Held) -> bool:
        """Whether it has to do with less of its vectors. Whoever has them whole takes no more than half of the room."""
        most = self._most // 2 if held.vectors == "whole" else self._most
        return held.vectors != "none" and held.index.nbytes > most

    async def _at(self, held: _Held, work: Callable[[], T], *, large: bool = False) -> T:
        """Do *work* on an index, off the loop unless it is small and free."""
        small = not large and len(held.index) <= AT_ONCE and held.index.nbytes <= _ALL_SMALL
        if small and held.lock.acquire(blocking=False):
            try:
                return work()
            finally:
                held.lock.release()

        def locked() -> T:
            with held.lock:
                return work()

        return await _threads.run(locked)

    def _weigh(self, scope: Scope, held: _Held) -> None:
        """Keep within the bound: who was not asked for the longest goes. Of who has nothing, nothing is kept."""
        with self._lock:
            if self._held.get(scope) is not held:
                return
            if held.index.mark == NOWHERE:
                del self._held[scope]
                self._total -= self._sizes.pop(scope, 0)
                return
            size = held.nbytes
            self._total += size - self._sizes.get(scope, 0)
            self._sizes[scope] = size
            while self._total > self._most and len(self._held) > 1:
                gone, _ = self._held.popitem(last=False)
                self._total -= self._sizes.pop(gone, 0)

    async def _nearest(self, scope: Scope, asked: Question) -> list[tuple[str, float]]:
        """The nearest vectors of a partition whose vectors are not kept: asked of the store, else read piece by
        piece."""
        vector, depth = asked.vector, depth_of(asked.limit)
        assert vector is not None
        if isinstance(self._store, Nearest) and asked.after is None and asked.before is None:
            return await self._store.nearest(scope, self._tag + vector.tobytes(), depth, asked.kinds)
        best: list[tuple[str, float]] = []
        mark: Mark = NOWHERE
        while True:
            changes = await self._store.changes(scope, mark, PAGE)
            if changes.reset:
                best = []
            fit = [
                (e.id, e.vector) for e in changes.entries if e.kind in asked.kinds and _within(e.at, asked)
            ]
            best = await _threads.run(_nearer, best, fit, vector, self._tag, depth)
            mark = changes.mark
            if not changes.more:
                return best


def _within(at: int, asked: Question) -> bool:
    return (asked.after is None or at >= asked.after) and (asked.before is None or at < asked.before)


def _nearer(
    best: list[tuple[str, float]],
    entries: Sequence[tuple[str, bytes]],
    vector: NDArray[np.float32],
    tag: bytes,
    depth: int,
) -> list[tuple[str, float]]:
    """The *depth* nearest of *best* and of *entries*."""
    best = [*best, *_measured(entries, vector, tag)]
    best.sort(key=lambda each: (-each[1], each[0]))
    return best[:depth]


def _measured(
    entries: Sequence[tuple[str, bytes]], vector: NDArray[np.float32], tag: bytes
) -> list[tuple[str, float]]:
    """The cosines of those that have a vector like this one."""
    size = 4 * len(vector)
    fit = [(i, data) for i, data in entries if len(data) == 4 + size and data[:4] == tag]
    if not fit:
        return []
    matrix = np.frombuffer(b"".join([data[4:] for _, data in fit]), "<f4").reshape(len(fit), -1)
    near = np.round((matrix @ vector).astype(np.float64), EXACT)
    return [(i, cosine) for (i, _), cosine in zip(fit, near.tolist(), strict=True)]
