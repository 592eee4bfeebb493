"""Who waits for room, by what is full: each tenant's in the order in which they came, and the tenants in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable

_FIRST_POLL, _SLOWEST_POLL = 0.02, 0.25


class Place:
    """A place in the order before *key*."""

    __slots__ = ("_news", "_pause", "key", "line", "tenant")

    def __init__(self, line: Line, key: str, tenant: str) -> None:
        self.line, self.key, self.tenant = line, key, tenant
        self._news: asyncio.Future[None] | None = None
        self._pause = _FIRST_POLL

    @property
    def is_first(self) -> bool:
        """Whether it is this one's turn to ask."""
        return self.line.first is self

    async def turn(self) -> None:
        """Until this is first."""
        while not self.is_first:
            await self._wait(None)

    async def news(self, within: float | None) -> None:
        """Until there may be room: something was settled here, or so many seconds went by (None: a while, for others
        settle elsewhere)."""
        await self._wait(self._pause if within is None else within)
        self._pause = min(self._pause * 2, _SLOWEST_POLL)

    def wake(self) -> None:
        """There may be news."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def leave(self) -> None:
        """Give up the place; whoever is first now may ask."""
        self.line.leave(self)

    async def _wait(self, within: float | None) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([self._news], timeout=within)
        finally:
            self._news = None


class Line:
    """Everybody who waits before one key."""

    __slots__ = ("_lines", "_tenants", "key")

    def __init__(self, lines: dict[str, Line], key: str) -> None:
        self.key = key
        self._lines = lines
        self._tenants: OrderedDict[str, deque[Place]] = OrderedDict()

    @property
    def first(self) -> Place | None:
        """Whose turn it is."""
        for places in self._tenants.values():
            return places[0]
        return None

    def join(self, tenant: str) -> Place:
        place = Place(self, self.key, tenant)
        self._tenants.setdefault(tenant, deque()).append(place)
        return place

    def leave(self, place: Place) -> None:
        was_first = place.is_first
        places = self._tenants[place.tenant]
        places.remove(place)
        if not places:
            del self._tenants[place.tenant]
        elif was_first:
            self._tenants.move_to_end(place.tenant)
        if not self._tenants:
            del self._lines[self.key]
        elif was_first and (first := self.first) is not None:
            first.wake()


class Waiting:
    """Everybody who waits on one event loop."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def before(self, keys: Iterable[str]) -> str | None:
        """One of *keys* before which somebody waits already."""
        return next((key for key in keys if key in self._lines), None)

    def join(self, key: str, tenant: str) -> Place:
        """The last place before *key* among this tenant's."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(self._lines, key)
        return line.join(tenant)

    def wake(self) -> None:
        """Something was settled: whoever is first may ask again."""
        for line in self._lines.values():
            if (first := line.first) is not None:
                first.wake()
