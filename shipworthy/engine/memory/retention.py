"""How long episodes are kept, by the level of their partition. Facts and blocks stay until they are forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shipworthy.domain.memory import Level
from shipworthy.domain.scope import Operator, Scope
from shipworthy.ports.memory import MemoryStore

PAGE = 200
_OPERATOR = Operator("retention of memories")


def level_of(scope: Scope) -> Level:
    """What level a partition is of."""
    if scope.session is not None:
        return "session"
    return "tenant" if scope.user is None else "user"


def oldest(retention: Mapping[Level, float], scope: Scope, now: int) -> int:
    """The time before which an episode of the partition is too old, in milliseconds since the epoch."""
    seconds = retention.get(level_of(scope))
    return 0 if seconds is None else now - int(seconds * 1000)


async def sweep(stores: Sequence[MemoryStore], retention: Mapping[Level, float], now: int) -> int:
    """Forget the episodes of every tenant that are too old."""
    if not retention:
        return 0
    gone = 0
    for store in stores:
        after = ""
        while page := await store.everything(_OPERATOR, after):
            after = page[-1][0]
            for _, scope in page:
                if (before := oldest(retention, scope, now)) > 0:
                    gone += await _sweep(store, scope, before)
    return gone


async def _sweep(store: MemoryStore, scope: Scope, before: int) -> int:
    """The oldest come first, so that a partition that has nothing old costs one page."""
    gone, after = 0, 0
    while page := await store.page(scope, after, PAGE, "episode"):
        old = [record.id for record in page if record.at < before]
        if old:
            gone += await store.remove(scope, old)
        if len(old) < len(page):
            break
        after = page[-1].n
    return gone
