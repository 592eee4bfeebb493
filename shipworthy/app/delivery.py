"""Telling somebody who may be slow: a bounded mailbox, and a thread that empties it. Whoever offers never waits."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import wait
from typing import Any, Generic, Literal, Protocol, TypeVar

log = logging.getLogger("shipworthy")

Work = Callable[[], Any]
"""What is to be called; what it gives is awaited, where that can be."""
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

CAPACITY = 10_000
"""Items that wait at most, unless somebody says otherwise."""
IDLE = 10.0
"""Seconds after which a thread that has nothing to do ends; the next item starts another one."""
AT_EXIT = 2.0
"""Seconds that all mailboxes together are given when the process ends."""
LOOK = 0.2
"""Seconds between looks at a loop that somebody else runs: it may be closed, and tells nobody."""


Fate = Literal["taken", "joined", "dropped"]


class Mailbox(Protocol[T_contra]):
    """What waits to be told, bounded. Whoever calls holds a lock."""

    def put(self, ticket: int, item: T_contra) -> Fate:
        """Take it, if it fits. "joined": it takes the place of what waits, for whose time somebody waits already."""
        ...

    def take(self, now: float) -> tuple[int, Work] | float | None:
        """The next thing to do, with its ticket; or the seconds until there is one; None while nothing waits."""
        ...

    def oldest(self) -> int | None:
        """The smallest ticket that waits."""
        ...

    def clear(self) -> None:
        """Forget what waits."""
        ...


class Queue:
    """First in, first out; what comes when it is full does not fit."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[tuple[int, Work]] = deque()

    def put(self, ticket: int, item: Work) -> Fate:
        if len(self._items) >= self._capacity:
            return "dropped"
        self._items.append((ticket, item))
        return "taken"

    def take(self, now: float) -> tuple[int, Work] | None:
        return self._items.popleft() if self._items else None

    def oldest(self) -> int | None:
        return self._items[0][0] if self._items else None

    def clear(self) -> None:
        self._items.clear()


class Delivery(Generic[T]):
    """Does what is offered, one thing after the other, on a daemon thread of its own; on *loop*, where one is given.

    `seen`: so much was done. `failed`: it raised. `dropped`: it did not fit. What is raised is logged once for each
    kind of error, and so is the first drop.
    """

    def __init__(self, name: str, mailbox: Mailbox[T], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.name = name
        self.seen = self.failed = self.dropped = 0
        self.loop = loop
        self._mailbox = mailbox
        self._own: asyncio.AbstractEventLoop | None = None
        self._kinds: set[str] = set()
        self._tickets = 0
        self._begin()
        _live.add(self)

    def _begin(self) -> None:
        lock = threading.Lock()
        self._news, self._progress = threading.Condition(lock), threading.Condition(lock)
        self._thread: threading.Thread | None = None
        self._in_hand: int | None = None

    # for whoever offers, on any thread

    def offer(self, items: Sequence[T]) -> None:
        """Have them done, in their order. What does not fit is dropped, and counted."""
        with self._news:
            before, wake = self.dropped, False
            for item in items:
                self._tickets += 1
                fate = self._mailbox.put(self._tickets, item)
                if fate == "taken":
                    wake = True
                elif fate == "dropped":
                    self.dropped += 1
            first = not before and self.dropped
            if self._thread is None:
                self._start()
            elif wake:
                self._news.notify()
        if first:
            log.warning("%s cannot keep up: what it has no room for is dropped, and counted.", self.name)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"shipworthy-{self.name}", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread is to be had: the next item tries again
            thread.start()
            self._thread = thread

    async def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything that was offered before is done, at most *timeout* seconds; whether it is."""
        return await asyncio.to_thread(self.flush_sync, timeout)

    def flush_sync(self, timeout: float = 5.0) -> bool:
        """`flush` for callers without an event loop."""
        with self._progress:
            upto = self._tickets
            if self._thread is threading.current_thread():
                return self._done(upto)
            return self._progress.wait_for(lambda: self._done(upto), timeout)

    def _done(self, upto: int) -> bool:
        waiting = [ticket for ticket in (self._in_hand, self._mailbox.oldest()) if ticket is not None]
        return all([ticket > upto for ticket in waiting])

    # on its thread

    def _run(self) -> None:
        while (work := self._next()) is not None:
            self._do(work)

    def _next(self) -> Work | None:
        with self._news:
            self._in_hand = None
            while True:
                found = self._mailbox.take(time.monotonic())
                self._progress.notify_all()
                if isinstance(found, tuple):
                    self._in_hand, work = found
                    return work
                if not self._news.wait(IDLE if found is None else found) and found is None:
                    self._thread = None
                    return None

    def _do(self, work: Work) -> None:
        error: BaseException | None = None
        try:
            if self.loop is not None:
                error = _on(self.loop, _called(work))
            elif inspect.isawaitable(told := work()):
                error = _on(self._loop_of_its_own(), _awaited(told))
        except BaseException as raised:  # an exit, too: it is not the process that is meant
            error = raised
        if error is None:
            self.seen += 1
        else:
            self.failed += 1
            self._log(error)

    def _log(self, error: BaseException) -> None:
        kind = type(error).__qualname__
        if kind not in self._kinds:
            self._kinds.add(kind)
            log.warning("%s raised %s; later ones are counted.", self.name, kind, exc_info=error)

    def _loop_of_its_own(self) -> asyncio.AbstractEventLoop:
        """On a thread of its own too, so that what its tasks do in the background goes on between two items."""
        if self._own is None:
            self._own = loop = asyncio.new_event_loop()
            threading.Thread(
                target=_keep, args=(loop,), name=f"shipworthy-{self.name}-loop", daemon=True
            ).start()
            weakref.finalize(self, _stop, loop).atexit = False
        return self._own

    # the ends of processes

    def forked(self) -> None:
        """This is a child now: it has none of the threads, and what waits is its parent's to tell."""
        if self._own is not None:
            _left_behind.append(self._own)
            self._own = None
        self._mailbox.clear()
        self._begin()

    def stop(self) -> None:
        """The process ends: what is still under way is left."""
        if self._own is not None:
            _stop(self._own)


async def _called(work: Work) -> BaseException | None:
    """What *work* raises, as a value: an exit would end the loop that it is called on."""
    try:
        told = work()
        if inspect.isawaitable(told):
            await told
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return error
    return None


async def _awaited(told: Awaitable[Any]) -> BaseException | None:
    return await _called(lambda: told)


def _on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, BaseException | None]) -> Any:
    """What *coroutine* gives on *loop*. Raises RuntimeError if that is closed, before or meanwhile."""
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        while not future.done():
            wait([future], LOOK)
            if loop.is_closed() and not future.done():
                raise RuntimeError("The event loop was closed.")
    except RuntimeError:
        coroutine.close()
        raise
    return future.result()


def _keep(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)


_live: weakref.WeakSet[Delivery[Any]] = weakref.WeakSet()
_left_behind: list[asyncio.AbstractEventLoop] = []
"""Loops of the process that this one was forked from: nobody here may run them, or close what they share."""


def _forked() -> None:
    for delivery in list(_live):
        delivery.forked()


@atexit.register
def _finish() -> None:
    """Who is quick is not to wait for who hangs: all are asked in turn."""
    until = time.monotonic() + AT_EXIT
    waiting = everybody = list(_live)
    while waiting and (left := until - time.monotonic()) > 0:
        waiting = [delivery for delivery in waiting if not delivery.flush_sync(min(left, 0.05))]
    for delivery in everybody:
        delivery.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
