"""A burst of runs is admitted in slices, so that a thousand at once leave the loop time for everything else."""

from __future__ import annotations

import asyncio
from collections import deque

SLICE = 32
"""Runs that begin in one round of the event loop."""


class Admission:
    """The door of one event loop: passing it costs no wait as long as there is no burst."""

    __slots__ = ("_loop", "_passed", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def admit(self) -> asyncio.Future[None] | None:
        """None for whoever may begin at once; otherwise what to wait for, in the order of coming."""
        if self._passed < SLICE:
            if not self._passed:
                self._loop.call_soon(self._next_round)
            self._passed += 1
            return None
        turn = self._loop.create_future()
        self._waiting.append(turn)
        return turn

    def _next_round(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < SLICE:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            self._loop.call_soon(self._next_round)
