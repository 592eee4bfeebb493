"""Holds are renewed for as long as their attempts live: one timer for all of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

Renew = Callable[[str, Sequence[str], float], None]
"""Renews holds of a tenant, for so many seconds from now."""


class Renewals:
    """The holds of one event loop that live. Each is renewed when a third of its time is over, or earlier."""

    __slots__ = ("_every", "_holds", "_loop", "_renew", "_timer")

    def __init__(self, renew: Renew) -> None:
        self._renew = renew
        self._loop = asyncio.get_running_loop()
        self._holds: dict[str, tuple[str, float]] = {}
        self._every = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, tenant: str, hold: str, ttl: float) -> None:
        """Renew a hold from now on."""
        self._holds[hold] = tenant, ttl
        if self._timer is None or ttl / 3 < self._every:
            self._wait(ttl / 3)

    def leave(self, hold: str) -> None:
        """Renew a hold no more."""
        self._holds.pop(hold, None)

    def _wait(self, every: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._every = every
        self._timer = self._loop.call_later(every, self._due)

    def _due(self) -> None:
        self._timer = None
        if not self._holds:
            return
        alike: dict[tuple[str, float], list[str]] = {}
        for hold, terms in self._holds.items():
            alike.setdefault(terms, []).append(hold)
        self._wait(min([ttl for _, ttl in alike]) / 3)
        for (tenant, ttl), holds in alike.items():
            self._renew(tenant, holds, ttl)
