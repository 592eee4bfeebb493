"""Who waits for room, by what is full: each tenant's in the order in which they came, and the tenants in turn."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

_FIRST_POLL, _SLOWEST_POLL = 0.02, 0.25
OVERTAKEN = 1.0
"""Seconds for which the first asks in vain before it keeps a place in the ledger's order, which is that of all
processes. While anybody keeps one, room is given to one process after another, each when it asks again; so an order is
kept where others would take for ever what this one needs, and not where there is room for all."""


class Place:
    """A place in the order before *key*. Who is first stays first until it leaves."""

    __slots__ = ("_asks_since", "_news", "_pause", "_stirred", "key", "line", "tenant")

    def __init__(self, line: Line, key: str, tenant: str) -> None:
        self.line, self.key, self.tenant = line, key, tenant
        self._news: asyncio.Future[None] | None = None
        self._pause = _FIRST_POLL
        self._stirred = False
        self._asks_since = 0.0

    @property
    def is_first(self) -> bool:
        """Whether it is this one's turn to ask."""
        return self.line.first is self

    @property
    def is_overtaken(self) -> bool:
        """Whether it has asked in vain for so long that others elsewhere may keep it from its turn."""
        return bool(self._asks_since) and time.monotonic() - self._asks_since > OVERTAKEN

    async def turn(self) -> None:
        """Until this is first."""
        while not self.is_first:
            await self._wait(None)
        self._stirred = False

    async def news(self, within: float | None) -> None:
        """Until there may be room: something was given back here since the last time, if only while the ledger was
        asked, or so many seconds went by (None: a while, for others settle elsewhere)."""
        self._asks_since = self._asks_since or time.monotonic()
        if not self._stirred:
            await self._wait(self._pause if within is None else within)
            self._pause = min(self._pause * 2, _SLOWEST_POLL)
        self._stirred = False

    def wake(self) -> None:
        """There may be news."""
        self._stirred = True
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

    def __contains__(self, key: str) -> bool:
        """Whether somebody waits before *key*."""
        return key in self._lines

    def join(self, key: str, tenant: str) -> Place:
        """The last place before *key* among this tenant's."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(self._lines, key)
        return line.join(tenant)

    def wake(self, keys: Iterable[str]) -> None:
        """Something was given back there: whoever is first may ask again."""
        for key in keys:
            if (line := self._lines.get(key)) is not None and (first := line.first) is not None:
                first.wake()


class Places:
    """Where one run waits that draws on several keys at once.

    It goes through them from narrow to wide (a user's, then a tenant's, then a model's) and keeps the narrower places
    while it waits before a wider one, never the other way: so nobody waits in a circle, and who lacks room of its own
    is in nobody else's way.
    """

    __slots__ = ("_held", "_tenant", "_waiting")

    def __init__(self, waiting: Waiting, tenant: str) -> None:
        self._waiting, self._tenant = waiting, tenant
        self._held: dict[str, Place] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def is_overtaken(self) -> bool:
        """Whether it asks in vain somewhere for so long that others elsewhere may keep it from its turn."""
        return any([place.is_overtaken for place in self._held.values()])

    def behind(self, keys: Sequence[str]) -> Place | None:
        """The place where others are to be let go first; None when it is this one's turn. *keys* from narrow to wide:
        a place before any other is given up."""
        self._leave([key for key in self._held if key not in keys])
        passed = max([keys.index(key) for key in self._held], default=-1)
        for index, key in enumerate(keys):
            place = self._held.get(key)
            if place is None and index > passed and key in self._waiting:
                place = self._held[key] = self._waiting.join(key, self._tenant)
            if place is not None and not place.is_first:
                return place
        return None

    def back(self, keys: Sequence[str], key: str) -> Place | None:
        """There is no room behind *key*: wait before it, and not before what is wider. None where this had no place: it
        may ask once more, for room may have come while it got there."""
        self._leave([wider for wider in keys[keys.index(key) + 1 :] if wider in self._held])
        place = self._held.get(key)
        if place is None:
            self._held[key] = self._waiting.join(key, self._tenant)
        return place

    def leave(self) -> None:
        """Wait nowhere any more."""
        self._leave(list(self._held))

    def _leave(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._held.pop(key).leave()
