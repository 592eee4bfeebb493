"""Knowing without waiting that nobody wrote to a file, in this process or in another one.

SQLite's `PRAGMA data_version` on a connection that writes nothing is another number after each commit of any other
connection (https://sqlite.org/pragma.html#pragma_data_version). It looks at the memory that the connections share and,
after a commit, at the file's first page, so that it is asked on the event loop.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

import apsw

from shipworthy.adapters.sqlite.connection import Database, connect

_numbers = itertools.count()


class Watch:
    """A connection that is asked nothing else. Whoever cannot be told at once is told None."""

    def __init__(self, database: Database) -> None:
        self._number = next(_numbers)  # what one connection counts means nothing to another
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = connect(database, reads=True)
        self._connection.set_busy_timeout(0)
        self._cursor = self._connection.cursor()

    def version(self) -> tuple[int, int] | None:
        """The same as before only if nobody wrote in between."""
        if self._connection is None or not self._lock.acquire(blocking=False):
            return None
        try:
            [(version,)] = self._cursor.execute("PRAGMA data_version")
        except apsw.BusyError:
            return None
        except apsw.Error:
            self._leave()
            return None
        finally:
            self._lock.release()
        return self._number, version

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is not used again, whatever it says
                connection.close()
