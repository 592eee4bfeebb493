"""The sessions that do not append: some that read, and one that listens for news."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import psycopg

from shipworthy.adapters.postgres.connection import Connection, Server, connect, is_lost, translate
from shipworthy.adapters.shared.lane import Job, Lane, unexpected
from shipworthy.errors import ShipworthyError

_RETRY = 0.05
_LOOK = 1.0


class Reader(Lane):
    """Does each job in a transaction of its own; again in a new session, for a while, where the server went away."""

    def __init__(self, server: Server) -> None:
        super().__init__("reader", server.name)
        self._server = server
        self._connection: Connection | None = None

    def _perform(self, group: list[Job[Any]]) -> None:
        for job in group:
            deadline = time.monotonic() + self._server.patience
            while not self._done(job, time.monotonic() > deadline):
                time.sleep(_RETRY)

    def _done(self, job: Job[Any], last: bool) -> bool:
        try:
            if self._connection is None:
                self._connection = connect(self._server)
            job.value = job.work(self._connection)
        except ShipworthyError as refusal:
            job.error = refusal
        except psycopg.Error as error:
            lost = self._connection is None or is_lost(error, self._connection)
            if lost:
                self._end()
                if not last:
                    return False
            job.error = translate(error, self._server)
        except Exception as error:
            self._end()
            job.error = unexpected(error)
        return True

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Listener:
    """Wakes whoever waits for a run when some instance tells of a commit to it. While the server is away nobody is
    woken: those who wait look by themselves in the end."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipworthy-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Blocks until that is so: a second, less if somebody notifies once `stopped` is set."""
        self.stopped.set()
        self._thread.join()

    async def wait(self, key: int, within: float) -> None:
        """Until the run is told of, at most *within* seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.setdefault(key, set()).add(future)
        try:
            await asyncio.wait([future], timeout=within)
        finally:
            with self._lock:
                waiting = self._waiting.get(key, set())
                waiting.discard(future)
                if not waiting:
                    self._waiting.pop(key, None)

    # on the thread

    def _run(self) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(psycopg.Error), connect(self._server) as connection:
                connection.execute("LISTEN shipworthy")
                while not self.stopped.is_set():
                    for note in connection.notifies(timeout=_LOOK):
                        self._wake(int(note.payload))
                        if self.stopped.is_set():
                            return
            self.stopped.wait(_LOOK)

    def _wake(self, key: int) -> None:
        with self._lock:
            waiting = list(self._waiting.get(key, ()))
        for future in waiting:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                future.get_loop().call_soon_threadsafe(_done, future)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
