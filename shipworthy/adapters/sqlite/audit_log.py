"""Where audit logs are kept in an SQLite file, a store's or one of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import apsw
from msgspec.structs import replace

import shipworthy.adapters.sqlite.audit as audit
import shipworthy.adapters.sqlite.erasing as erasing
from shipworthy.adapters.shared.lane import Lane
from shipworthy.adapters.sqlite.connection import (
    RUNS,
    Database,
    Durability,
    connect,
    prepare,
    rows,
    translating,
)
from shipworthy.adapters.sqlite.writer import Alone, Committer
from shipworthy.domain.audit import EpochKeys, Links, Standing
from shipworthy.errors import AuditUnavailable, ConfigurationError

T = TypeVar("T")
_HERE = "SELECT 1 FROM sqlite_schema WHERE name = 'audit_logs'"


def _reading(database: Database) -> apsw.Connection:
    """A connection to a file that has logs. Raises AuditUnavailable."""
    if not os.path.isfile(database.path):
        raise AuditUnavailable(f"There is no file {database.path}.", fix="Name the file of the log.")
    connection = connect(database, reads=True)
    try:
        if not rows(connection.cursor(), _HERE):
            raise AuditUnavailable(f"{database.path} has no audit logs.", fix="Name the file of the log.")
    except BaseException:
        connection.close()
        raise
    return connection


class SqliteAudits:
    """The audit logs of one SQLite file, which several processes of one machine may share."""

    tables = audit

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "power",
        busy_timeout: float = 5.0,
        vfs: str | None = None,
    ) -> None:
        if durability not in ("power", "process"):
            raise ConfigurationError(
                f"durability={durability!r} is unknown.", fix='Use "power" or "process".'
            )
        place = os.path.realpath(path)
        self.place = f"sqlite:{place}"
        # What is erased is overwritten as well; copies in the file's free pages go when the store is scrubbed.
        self._file = Database(place, durability, busy_timeout, vfs, replace(RUNS, overwrites=True))
        # Checkpoints are made again where power is lost, so that nobody has to wait for a sync of theirs.
        self._relaxed = replace(self._file, durability="process")
        self._lock = threading.Lock()
        self._reader: apsw.Connection | None = None
        self._hands: dict[Durability, Committer] = {}

    def ask(self, work: Callable[[apsw.Cursor], T]) -> T:
        """What *work* gives, which only reads, done on this thread."""
        with self._lock:
            if self._reader is None:
                self._reader = translating(self._file, _reading)
            cursor = self._reader.cursor()
            return translating(self._file, lambda _: work(cursor))

    def prepared(self) -> Lane:
        """A lane that is to be started, in a file that is ready."""
        return Committer(self._file, prepare(self._file))

    def begin(self, on: apsw.Cursor, keys: tuple[EpochKeys, ...], name: str) -> Standing:
        """The lane's work: where the log stands, which is begun if there is none. Raises AuditError."""
        return audit.begin(on, keys, name)

    def entering(self, links: Links) -> Callable[[apsw.Cursor], None]:
        """The lane's work: enter these."""
        return partial(audit.append, links=links)

    def keep(self, key: int, entries: int, line: bytes) -> None:
        """Put a checkpoint to the log's own, on this thread."""
        self._done(self._relaxed, lambda cursor: audit.keep(cursor, key, entries, line))

    def settle(self, key: int) -> None:
        """Make durable, on this thread, what was committed of a log: a sync is of the whole WAL."""
        self._done(self._file, lambda cursor: audit.touch(cursor, key))

    def _done(self, file: Database, work: Callable[[apsw.Cursor], None]) -> None:
        with self._lock:
            hand = self._hands.get(file.durability)
            if hand is None:
                hand = self._hands[file.durability] = Committer(file, translating(file, connect))
            hand.do(work)

    def scrubbing(self) -> Alone[None]:
        """The lane's work: write the file anew, and cut its WAL to nothing."""
        return Alone(erasing.scrub)

    def close(self) -> None:
        """Let go of what is not the lane's."""
        with self._lock:
            hands, self._hands = self._hands, {}
            reader, self._reader = self._reader, None
            for hand in hands.values():
                hand.end()
            if reader is not None:
                reader.close()
