"""Following a run: events once they are durable, deltas as they come."""

from __future__ import annotations

import asyncio
from collections import deque

from shipworthy.domain.events import AnyEvent
from shipworthy.domain.model import Delta, TextDelta, ThinkingDelta

COALESCE = 256
"""Waiting items from which on text deltas are joined, so that a slow reader costs no more than the answer's size."""


class Watcher:
    """One reader's queue. `put` never waits: a slow reader does not slow the run."""

    __slots__ = ("_closed", "_error", "_waiter", "items")

    def __init__(self) -> None:
        self.items: deque[AnyEvent | Delta] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: AnyEvent | Delta) -> None:
        items = self.items
        if len(items) >= COALESCE and (joined := _join(items[-1], item)) is not None:
            items[-1] = joined
        else:
            items.append(item)
        if self._waiter is not None:
            self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """No more will come; *error* is raised to the reader after what is waiting."""
        self._closed, self._error = True, error
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> AnyEvent | Delta:
        while not self.items:
            if self._closed:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.items.popleft()


def _join(last: AnyEvent | Delta, item: AnyEvent | Delta) -> Delta | None:
    """Two text deltas as one; a new object, since the others are shared with other readers."""
    if type(last) is TextDelta and type(item) is TextDelta:
        return TextDelta(last.text + item.text)
    if type(last) is ThinkingDelta and type(item) is ThinkingDelta:
        return ThinkingDelta(last.text + item.text)
    return None
