"""Following a run: events once they are durable, deltas as they come."""

from __future__ import annotations

import asyncio
from collections import deque

from shipworthy.domain.events import AnyEvent, Event
from shipworthy.domain.model import Delta, TextDelta, ThinkingDelta

COALESCE = 256
"""Waiting items from which on text deltas are joined, so that a slow reader costs no more than the answer's size."""


class Watcher:
    """One reader's queue. `put` never waits: a slow reader does not slow the run."""

    __slots__ = ("_backlog", "_closed", "_error", "_waiter", "items")

    def __init__(self) -> None:
        self.items: deque[AnyEvent | Delta] = deque()
        self._backlog: list[str] = []
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: AnyEvent | Delta) -> None:
        items = self.items
        if (
            len(items) >= COALESCE
            and type(item) is type(items[-1])
            and type(item) in (TextDelta, ThinkingDelta)
        ):
            self._backlog.append(item.text)  # type: ignore[union-attr]
        else:
            if self._backlog:
                self._join()
            items.append(item)
        if self._waiter is not None:
            self._wake()

    def pop(self) -> AnyEvent | Delta:
        """The next item; there must be one."""
        if self._backlog and len(self.items) == 1:
            self._join()
        return self.items.popleft()

    def skip(self, seq: int) -> None:
        """Drop what came before the event *seq*, and that event: the reader has it from the journal."""
        if any([isinstance(item, Event) and item.seq <= seq for item in self.items]):
            if self._backlog:
                self._join()
            last = max(
                [i for i, item in enumerate(self.items) if isinstance(item, Event) and item.seq <= seq]
            )
            for _ in range(last + 1):
                self.items.popleft()

    def _join(self) -> None:
        """The last item and the pieces that came since, as one; a new object, since others read the pieces too."""
        last = self.items.pop()
        pieces, self._backlog = self._backlog, []
        assert isinstance(last, (TextDelta, ThinkingDelta))
        self.items.append(type(last)("".join([last.text, *pieces])))

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
        return self.pop()
