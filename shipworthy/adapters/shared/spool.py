"""A bounded queue with a daemon thread behind it, for work that nobody may wait for.

The thread is woken once for all that comes while it is awake, and stays awake for a moment after it had work: under
load a job costs an append and no wake-up.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

MOMENT = 0.05
"""Seconds that the thread waits after it had work, before it looks again; nothing is told later than that."""
IDLE = 10.0
"""Seconds after which a thread that has nothing to do ends; the next job starts another one."""
AT_EXIT = 2.0
"""Seconds that a process waits for what is left in all of them together when it exits."""
_log = logging.getLogger("shipworthy")
_all: weakref.WeakSet[Spool] = weakref.WeakSet()


class Spool:
    """Has *work* done with each job, in their order, on one thread. At most *most* jobs wait; what comes beyond them is
    dropped, counted, and logged once. What *work* raises is logged once, and goes no further."""

    def __init__(self, name: str, work: Callable[[Any], None], most: int) -> None:
        self.name, self._work, self._most = name, work, most
        self._half = most // 2
        self.dropped = 0
        self.failed = 0
        self._done = 0
        self._jobs: deque[Any] = deque()
        self._closed = False
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        """As if nothing had come: a forked child has the queue, and none of the threads."""
        self._jobs.clear()
        self._lock = threading.Lock()
        self._awake = False
        self._busy = False
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, job: Any) -> bool:
        """Have it done some time; False: it was dropped. From any thread; waits for nothing."""
        waiting = len(self._jobs)
        if waiting >= self._most or self._closed:
            self._drop()
            return False
        self._jobs.append(job)
        if not self._awake:
            self._wake()
        elif waiting >= self._half and not self._bell.is_set():  # there is no room to sleep on
            self._bell.set()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until everything that came before is done, at most so many seconds; whether it is."""
        until = time.monotonic() + timeout
        if threading.current_thread() is self._thread:
            return False
        waiting = len(self._jobs)
        upto = waiting + self._done + 1  # one may be in hand
        while (self._jobs or self._busy) and self._done < upto:
            self._wake()
            if time.monotonic() >= until:
                return False
            time.sleep(0.001)
        return True

    def close(self, timeout: float) -> bool:
        """Flush, and take no more."""
        done = self.flush(timeout)
        self._closed = True
        self._bell.set()
        return done

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1
            first = self.dropped == 1
        if first:
            why = (
                "it is closed" if self._closed else f"{self._most} wait already: whoever exports is too slow"
            )
            _log.warning("%s drops what it is told, and counts it: %s.", self.name, why)

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None and not self._start():
                return
            self._awake = True
            self._bell.set()

    def _start(self) -> bool:
        """Whether a thread is to be had; if not, the next job tries again."""
        thread = threading.Thread(target=self._run, args=(self._bell,), name=self.name, daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            return False
        at_exit_first()
        return True

    def _run(self, bell: threading.Event) -> None:
        try:
            while self._goes_on(bell):
                self._awake = True
                while self._jobs:
                    self._all_there_is()
                    if not self._closed:
                        bell.wait(MOMENT)  # who puts sees that this is awake; who flushes rings
                        bell.clear()
                self._awake = False
                if self._jobs:  # came in between, and rang no bell
                    bell.set()
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread, self._awake = None, False

    def _goes_on(self, bell: threading.Event) -> bool:
        """Wait for work; whether there is to be any."""
        rang = bell.wait(IDLE)
        with self._lock:
            bell.clear()
            if self._jobs:
                return True
            if rang and not self._closed:
                return True
            self._thread, self._awake = None, False
            return False

    def _all_there_is(self) -> None:
        self._busy = True
        try:
            while self._jobs:
                self._do(self._jobs.popleft())
                self._done += 1
        finally:
            self._busy = False

    def _do(self, job: Any) -> None:
        try:
            self._work(job)
        except BaseException as error:  # an exit or a cancellation, too: it is not this thread that is meant
            self.failed += 1
            if self.failed == 1:
                _log.warning("%s failed, and goes on: %r", self.name, error, exc_info=error)


def _after_fork() -> None:
    for spool in list(_all):
        spool._reset()


def _finish() -> None:
    """Who is quick is not to wait for who hangs: all are asked in turn."""
    until = time.monotonic() + AT_EXIT
    waiting = list(_all)
    while waiting and (left := until - time.monotonic()) > 0:
        waiting = [spool for spool in waiting if not spool.flush(min(left, 0.05))]


def at_exit_first() -> None:
    """Finish before what was registered by now, such as an exporter's end."""
    with contextlib.suppress(RuntimeError):  # the process ends already
        atexit.unregister(_finish)
        atexit.register(_finish)


os.register_at_fork(after_in_child=_after_fork)
