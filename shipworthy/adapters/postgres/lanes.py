"""Threads that each have a session: some that read, and one that listens for news."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from shipworthy.adapters.postgres.connection import Connection, Server, connect, is_lost, translate
from shipworthy.adapters.shared.lane import Job, Lane, unexpected
from shipworthy.errors import ShipworthyError

T = TypeVar("T")
_RETRY = 0.05
_LOOK = 1.0


class Session(Lane):
    """Does each job in a session that is made again when it was lost."""

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name, server.name)
        self._server = server
        self._connection: Connection | None = None

    def _deadline(self) -> float:
        return time.monotonic() + self._server.patience

    def _persist(self, work: Callable[[Connection], T], deadline: float) -> T:
        """Do *work*; until *deadline* again, in a new session, where the server went away. Raises StoreError."""
        while True:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return work(self._connection)
            except psycopg.Error as error:
                lost = is_lost(error, self._connection)
                if lost:
                    self._end()
                if not lost or time.monotonic() > deadline:
                    raise translate(error, self._server) from error
                time.sleep(_RETRY)

    def _connect(self) -> Connection:
        return connect(self._server)

    def _perform(self, group: list[Job[Any]]) -> None:
        deadline = self._deadline()  # of all: who waits in a queue does not wait for longer
        for job in group:
            try:
                job.value = self._persist(job.work, deadline)
            except ShipworthyError as refusal:
                job.error = refusal
            except Exception as error:
                self._end()
                job.error = unexpected(error)

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Listener:
    """Wakes whoever waits for a run when some instance tells of a commit to it. While the server is away nobody is
    woken: those who wait look by themselves in the end. *lost* is called when it goes away."""

    def __init__(self, server: Server, lost: Callable[[], None]) -> None:
        self._server, self._lost = server, lost
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipworthy-listener", daemon=True)
        self.start = self._thread.start

    def stop(self) -> None:
        """Listen no more. Blocks until that is so: a second, less if somebody notifies once `stopped` is set."""
        self.stopped.set()
        self._thread.join()

    async def wait(self, key: str, within: float) -> None:
        """Until the run is told of, at most *within* seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.setdefault(key, set()).add(future)
        try:
            await asyncio.wait([future], timeout=within)
        finally:
            with self._lock:
                self._waiting[key].discard(future)
                if not self._waiting[key]:
                    del self._waiting[key]

    # on the thread

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                with connect(self._server) as connection:
                    connection.execute("LISTEN shipworthy")
                    while not self.stopped.is_set():
                        for note in connection.notifies(timeout=_LOOK, stop_after=1):
                            self._wake(note.payload)
            except psycopg.Error:
                self._lost()
                self.stopped.wait(_LOOK)

    def _wake(self, key: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get(key, ()))
        for future in waiting:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                future.get_loop().call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
