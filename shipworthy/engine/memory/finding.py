"""Finding things in several partitions at once: each offers its own, and one order is made of that."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shipworthy.domain.memory import Recalled
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.indexes import Indexes, Question
from shipworthy.engine.memory.records import is_found
from shipworthy.rules.memory.fusing import Candidates, Hit, fuse

SPARE = 4
"""How many times as many things as are wanted are ranked, for those that are left out."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """A partition of a store, with what is asked of it."""

    indexes: Indexes
    scope: Scope
    asked: Question


async def find(places: Sequence[Place], limit: int, now: int) -> list[Recalled]:
    """The best *limit* things of all places, and why. What was removed since it was ranked is left out, and so is a
    fact that is not true *now*, and what says the same as a better one, word for word; others are found in their
    place."""
    if not places:
        return []
    offered: list[Candidates] = [await place.indexes.find(place.scope, place.asked) for place in places]
    found: dict[str, Recalled] = {}
    looked_at = 0
    for enough in (limit, SPARE * limit):
        hits = fuse(offered, enough, places[0].asked.weights, now)
        for first in range(looked_at, len(hits), max(limit, 1)):
            for each in await _true(places, hits[first : first + limit], now):
                found.setdefault(each.text, each)
            if len(found) >= limit:
                return list(found.values())[:limit]
        looked_at = len(hits)
        if looked_at < enough:
            break
    return list(found.values())


async def _true(places: Sequence[Place], hits: Sequence[Hit], now: int) -> list[Recalled]:
    """Those that are still there, and true *now*."""
    wanted: dict[int, list[str]] = {}
    for hit in hits:
        wanted.setdefault(hit.place, []).append(hit.id)
    there = {nth: await places[nth].indexes.things(places[nth].scope, ids) for nth, ids in wanted.items()}
    return [
        Recalled(item, places[hit.place].scope, hit.score, hit.why)
        for hit in hits
        if (item := there[hit.place].get(hit.id)) is not None and is_found(item, now)
    ]
