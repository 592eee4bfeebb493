"""A thread that does the work of many event loops in groups, and tells each loop once a group.

Knows nothing of databases: the writers and readers of the durable stores are lanes. What a job is given to work with,
a cursor or nothing, is the lane's own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import msgspec

from shipworthy.errors import StoreClosed, StoreError

T = TypeVar("T")
GROUP = 1024
_forks = 0


def forks() -> int:
    """How often this process was forked from one that had loaded this module. Who opened a store compares it with what
    it was then: asking for the process id costs a system call each time."""
    return _forks


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Fate(asyncio.Future[T]):
    """A future that cannot be cancelled: a task that is cancelled while it awaits one learns of it when it is done.

    So a commit is never abandoned half-way: whoever awaits it goes on, or is cancelled, when its fate is
    known; and that it failed outranks a cancellation.
    """

    def __await__(self) -> Generator[Any, None, T]:
        try:
            return (yield from super().__await__())
        except asyncio.CancelledError:
            if self.done() and (error := self.exception()) is not None:
                raise error from None
            raise

    def cancel(self, msg: Any | None = None) -> bool:
        # A task whose `cancel` is refused here remembers it, and raises CancelledError when this future is
        # done.
        return False


async def outlived(future: asyncio.Future[T]) -> T:
    """What *future* gives, though the task that waits was cancelled meanwhile: it is cancelled where it waits next."""
    try:
        return await future
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not future.done():
            raise
        task.uncancel()
        task.cancel()
        return future.result()


class Job(msgspec.Struct, Generic[T]):
    """One piece of work, whoever waits for it, and what came of it."""

    work: Callable[[Any], T]
    future: asyncio.Future[T] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    value: T | None = None
    error: Exception | None = None


class Lane:
    """A daemon thread and its queue. What arrives while a group is under way makes up the next one."""

    def __init__(self, name: str, path: str) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[list[Job[Any]] | None] = queue.SimpleQueue()
        self._waiting: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"shipworthy-{name}", daemon=True)

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def submit(self, work: Callable[[Any], T]) -> asyncio.Future[T]:
        """Have *work* done; the future is of the running loop. Cancellation takes effect when it is done."""
        loop = asyncio.get_running_loop()
        future: Fate[T] = Fate(loop=loop)
        job = Job(work, future, loop)
        waiting = self._waiting.get(loop)
        if waiting is None:
            # Whoever else gets ready in this turn of the loop is to be in the same group.
            self._waiting[loop] = [job]
            loop.call_soon(self._flush, loop)
        else:
            waiting.append(job)
        return future

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._queue.put(self._waiting.pop(loop))
        if self._stopped:  # it may have come after the last look into the queue
            self._refuse_rest()

    def stop(self) -> None:
        """Do what is queued, then end. Blocks until then; what comes later is refused with StoreClosed."""
        self._queue.put(None)
        self._thread.join()

    def do(self, work: Callable[[Any], T]) -> T:
        """What *work* gives, done on the calling thread. Only for a lane that was not started. Raises StoreError."""
        job: Job[T] = Job(work)
        self._perform([job])
        if job.error is not None:
            raise job.error
        self._after()
        return job.value  # type: ignore[return-value]

    def end(self) -> None:
        """Let go of what a lane has that was not started."""
        self._end()

    # on the thread

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group, stopping = self._take()
            try:
                self._perform(group)
            except Exception as error:
                for job in group:
                    job.error = unexpected(error)
            settle(group)
            self._after()
        self._stopped = True
        self._refuse_rest()
        self._end()

    def _take(self) -> tuple[list[Job[Any]], bool]:
        group: list[Job[Any]] = []
        try:
            jobs = self._queue.get(timeout=self._patience())
            while jobs is not None:
                group += jobs
                if len(group) >= GROUP:
                    break
                jobs = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        return group, jobs is None

    def _refuse_rest(self) -> None:
        rest: list[Job[Any]] = []
        while True:
            try:
                jobs = self._queue.get_nowait()
            except queue.Empty:
                break
            for job in jobs or ():
                job.error = self._closed()
                rest.append(job)
        settle(rest)

    def _closed(self) -> StoreError:
        """What is told who comes too late."""
        return StoreClosed(f"The store {self._path} was closed.")

    def _patience(self) -> float | None:
        """Seconds to wait for work; None is for ever."""
        return None

    def _perform(self, group: list[Job[Any]]) -> None:
        """Give each job its value or its error."""
        raise NotImplementedError

    def _after(self) -> None:
        """What may be done once those who wait were told."""

    def _end(self) -> None:
        """The thread's last act."""


def settle(group: list[Job[Any]]) -> None:
    """Tell everybody who waits: one call for each event loop, however many wait there."""
    loops: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in group:
        if job.loop is not None:
            loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_deliver, jobs)


def _deliver(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        future = job.future
        if future is None or future.done():
            continue
        if job.error is None:
            future.set_result(job.value)
        else:
            future.set_exception(job.error)


def unexpected(error: Exception) -> StoreError:
    """An error that no rule foresees, in our tree."""
    wrapped = StoreError(
        f"The store failed: {type(error).__name__}: {error}.",
        fix="Please report it; resume the run meanwhile.",
    )
    wrapped.__cause__ = error
    return wrapped
