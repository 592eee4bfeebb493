"""Finding things in several partitions at once: each offers its own, and one order is made of that."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shipworthy.domain.memory import Recalled
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.indexes import Indexes, Question
from shipworthy.engine.memory.records import item_of
from shipworthy.ports.memory import MemoryStore
from shipworthy.rules.memory.fusing import Candidates, fuse


class Place(msgspec.Struct, frozen=True, gc=False):
    """A partition of a store, with what is asked of it."""

    store: MemoryStore
    indexes: Indexes
    scope: Scope
    asked: Question


async def find(places: Sequence[Place], limit: int, now: int) -> list[Recalled]:
    """The best *limit* things of all places, and why. What was removed since it was ranked is left out, and what says
    the same as a better one, word for word."""
    if not places:
        return []
    offered: list[Candidates] = [await place.indexes.find(place.scope, place.asked) for place in places]
    hits = fuse(offered, limit, places[0].asked.weights, now)
    wanted: dict[int, list[str]] = {}
    for hit in hits:
        wanted.setdefault(hit.place, []).append(hit.id)
    there = {
        (nth, record.id): record
        for nth, ids in wanted.items()
        for record in await places[nth].store.get(places[nth].scope, ids)
    }
    found: dict[str, Recalled] = {}
    for hit in hits:
        if (record := there.get((hit.place, hit.id))) is not None:
            each = Recalled(item_of(record), places[hit.place].scope, hit.score, hit.why)
            found.setdefault(each.text, each)
    return list(found.values())
