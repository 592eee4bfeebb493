"""A bounded queue with a daemon thread behind it, for work that nobody may wait for.

The thread is woken once for all that comes while it is awake, and stays awake for a moment after it had work: under
load a job costs an append and no wake-up.
"""

from __future__ import annotations

import atexit
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
AT_EXIT = 2.0
"""Seconds that a process waits for what is left when it exits."""
_log = logging.getLogger("shipworthy")
_all: weakref.WeakSet[Spool] = weakref.WeakSet()


class Spool:
    """Has *work* done with each job, in their order, on one thread. At most *most* jobs wait; what comes beyond them is
    dropped, counted, and logged once. What *work* raises is logged once, and goes no further."""

    def __init__(self, name: str, work: Callable[[Any], None], most: int) -> None:
        self.name, self._work, self._most = name, work, most
        self.dropped = 0
        self.failed = 0
        self._jobs: deque[Any] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._reset()
        _all.add(self)
        atexit.register(
            _at_exit, weakref.ref(self)
        )  # before what was registered by now, such as an exporter's end

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
        if len(self._jobs) >= self._most or self._closed:
            self._drop()
            return False
        self._jobs.append(job)
        if not self._awake:
            self._wake()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until everything that came before is done, at most so many seconds; whether it is."""
        until = time.monotonic() + timeout
        if threading.current_thread() is self._thread:
            return False
        while self._jobs or self._busy:
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
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                    self._thread.start()
        self._awake = True
        self._bell.set()

    def _run(self) -> None:
        bell = self._bell
        while not (self._closed and not self._jobs):
            bell.wait()
            bell.clear()
            self._awake = True
            while self._jobs:
                self._all_there_is()
                if not self._closed:
                    bell.wait(MOMENT)  # set by who flushes or closes; whoever puts sees that this is awake
                    bell.clear()
            self._awake = False
            if self._jobs:  # came in between, and rang no bell
                bell.set()

    def _all_there_is(self) -> None:
        self._busy = True
        try:
            while self._jobs:
                self._do(self._jobs.popleft())
        finally:
            self._busy = False

    def _do(self, job: Any) -> None:
        try:
            self._work(job)
        except Exception as error:
            self.failed += 1
            if self.failed == 1:
                _log.warning("%s failed, and goes on: %r", self.name, error, exc_info=error)


def _after_fork() -> None:
    for spool in list(_all):
        spool._reset()


def _at_exit(of: weakref.ref[Spool]) -> None:
    if (spool := of()) is not None:
        spool.flush(AT_EXIT)


os.register_at_fork(after_in_child=_after_fork)
