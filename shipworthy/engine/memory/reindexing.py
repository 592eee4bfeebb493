"""Making terms and vectors anew, for a store that was written with another embedder or another way of making terms.

Each record says whose vector it has, so that what was done is known from the store itself: a reindex that was
interrupted goes on where it was. Meanwhile records are found by their words.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.memory.records import is_found, readable, record_of
from shipworthy.engine.memory.vectors import Vectors
from shipworthy.engine.memory.wording import worded
from shipworthy.errors import MemoryConflict
from shipworthy.ports.memory import MemoryStore

PAGE = 100
_TRIES = 200
_OPERATOR = Operator("reindexing memories")

Progress = Callable[[Scope, int], None]


async def reindex(store: MemoryStore, vectors: Vectors, progress: Progress | None = None) -> int:
    """Give every record of every tenant the terms and the vector that it would get now; how many were changed.
    *progress* is told of each partition, with how many records were changed so far. What cannot be read is left as it
    is. Raises EmbedderError, MemoryStoreError."""
    await store.open()
    await store.stamp(await vectors.measured(), replace=True)
    changed, after = 0, ""
    while page := await store.everything(_OPERATOR, after):
        after = page[-1][0]
        for _, scope in page:
            changed += await _partition(store, vectors, scope)
            if progress is not None:
                progress(scope, changed)
    return changed


async def _partition(store: MemoryStore, vectors: Vectors, scope: Scope) -> int:
    changed, after = 0, 0
    while page := await store.page(scope, after, PAGE):
        stale = await _stale(page, vectors)
        if stale:
            changed += await _renew(store, vectors, scope, [record.id for record in stale])
        after = page[-1].n
    return changed


async def _renew(store: MemoryStore, vectors: Vectors, scope: Scope, ids: list[str]) -> int:
    """What is there now of *ids* is read, made anew and written back, unless the partition was written to meanwhile:
    then again, without making anything twice. Raises MemoryConflict where it is written to all the time."""
    made: dict[tuple[str, bytes], Record] = {}
    for turn in range(_TRIES):
        mark = await store.put(scope, [])
        records = await _stale(await store.get(scope, ids), vectors)
        if not records:
            return 0
        if new := [record for record in records if (record.id, record.data) not in made]:
            items = [item for record in new if (item := readable(record)) is not None]
            again = await vectors.records(items, strict=True)
            made.update({(record.id, record.data): each for record, each in zip(new, again, strict=True)})
            continue  # that took its time: what is written is checked against what is read now
        try:
            await store.put(
                scope, [made[record.id, record.data] for record in records], replace=True, at=mark
            )
            return len(records)
        except MemoryConflict:
            await asyncio.sleep(random.uniform(0, 0.001 * turn))
    raise MemoryConflict(
        f"{store.name}: a partition is written to all the time.",
        fix="Reindex again: it goes on where it was.",
    )


async def _stale(records: Sequence[Record], vectors: Vectors) -> list[Record]:
    size = sum([len(record.data) for record in records])
    return await worded(size, lambda: [record for record in records if _is_stale(record, vectors)])


def _is_stale(record: Record, vectors: Vectors) -> bool:
    """Whether it is found by something, and not by what it would be found by if it were written now."""
    if record.kind == "topic" or (item := readable(record)) is None or not is_found(item):
        return False
    return not vectors.fits(record.vector) or record.terms != record_of(item).terms
