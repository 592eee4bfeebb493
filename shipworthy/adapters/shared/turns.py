"""Turns: of a thing at most so many at once, whoever waits takes no thread, and several event loops may wait."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Hashable
from concurrent.futures import Future
from contextlib import asynccontextmanager


class Turns:
    """At most *most* at once of each key, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._inside: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[Future[None]]] = {}

    @asynccontextmanager
    async def one(self, key: Hashable) -> AsyncIterator[None]:
        """Inside it is one's turn."""
        await self._enter(key)
        try:
            yield
        finally:
            self._leave(key)

    async def _enter(self, key: Hashable) -> None:
        with self._lock:
            inside = self._inside.get(key, 0)
            if inside < self._most:
                self._inside[key] = inside + 1
                return
            turn: Future[None] = Future()
            self._waiting.setdefault(key, deque()).append(turn)
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancel():
                self._leave(key)  # it was one's turn meanwhile, and is the next one's now
            raise

    def _leave(self, key: Hashable) -> None:
        with self._lock:
            waiting = self._waiting.get(key)
            while waiting:
                turn = waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._waiting.pop(key, None)
            self._inside[key] -= 1
            if not self._inside[key]:
                del self._inside[key]
