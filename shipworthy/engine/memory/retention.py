"""How long episodes are kept, by the level of their partition. Facts and blocks stay until they are forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from shipworthy.domain.memory import Kind, Level
from shipworthy.domain.scope import Operator, Scope
from shipworthy.ports.memory import MemoryStore

PAGE = 200
_SEEN = 10_000
"""Partitions of which it is kept in mind how far they were looked at."""
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


def since_when(
    kinds: tuple[Kind, ...], since: int | None, oldest: int
) -> list[tuple[tuple[Kind, ...], int | None]]:
    """From when on things of these kinds are recalled, where episodes from before *oldest* are not."""
    if "episode" not in kinds or oldest <= (since or 0):
        return [(kinds, since)]
    others: list[Kind] = [kind for kind in kinds if kind != "episode"]
    episodes: tuple[tuple[Kind, ...], int] = ("episode",), oldest
    return [episodes, (tuple(others), since)] if others else [episodes]


class Retention:
    """Forgetting the episodes of every tenant that are too old, in whatever order they were kept.

    What a partition's oldest episode is, is kept in mind, so that sweeping again costs what is new in it.
    """

    def __init__(self, retention: Mapping[Level, float]) -> None:
        self._retention = retention
        self._seen: OrderedDict[tuple[str, Scope], tuple[int, int, int | None]] = OrderedDict()

    async def sweep(self, stores: Sequence[MemoryStore], now: int) -> int:
        """How many there were."""
        gone = 0
        for store in stores if self._retention else ():
            after = ""
            while page := await store.everything(_OPERATOR, after):
                after = page[-1][0]
                for _, scope in page:
                    if (before := oldest(self._retention, scope, now)) > 0:
                        gone += await self._partition(store, scope, before)
        return gone

    async def _partition(self, store: MemoryStore, scope: Scope, before: int) -> int:
        mark = await store.put(scope, [])
        epoch, after, first = self._seen.pop((store.name, scope), (0, 0, None))
        if epoch != mark.epoch or (first is not None and first < before):
            after, first = 0, None
        gone = 0
        while page := await store.page(scope, after, PAGE, "episode"):
            after = page[-1].n
            if old := [record.id for record in page if record.at < before]:
                gone += await store.remove(scope, old)
            kept = [record.at for record in page if record.at >= before]
            if first is not None:
                kept.append(first)
            first = min(kept, default=None)
        if not gone and mark.epoch:
            self._seen[store.name, scope] = (mark.epoch, after, first)
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
        return gone
