"""Where audit logs are kept in a PostgreSQL database, a store's or one of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

import shipworthy.adapters.postgres.audit as audit
from shipworthy.adapters.postgres.audit import Carried, Locked, Unwritten
from shipworthy.adapters.postgres.connection import (
    Connection,
    Server,
    checked,
    connect,
    is_lost,
    prepare,
    translate,
)
from shipworthy.adapters.postgres.lanes import Session
from shipworthy.adapters.postgres.place import place_of
from shipworthy.adapters.shared.chaining import Growth
from shipworthy.adapters.shared.lane import Job, Lane, unexpected
from shipworthy.domain.audit import EpochKeys, Links, Standing
from shipworthy.errors import AuditUnavailable, ConfigurationError, StoreError

T = TypeVar("T")
_TRIES = 20


class _Entering:
    """A lane's work: enter what comes with no batch, in one transaction with what others enter."""

    def __init__(self, links: Links) -> None:
        self.links = links

    def __call__(self, connection: Connection) -> None:
        raise NotImplementedError


class Appender(Session):
    """Enters what is queued in one transaction. Where its answer never came, it is looked whether it was done."""

    def __init__(self, server: Server) -> None:
        super().__init__("audit", server)

    def _perform(self, group: list[Job[Any]]) -> None:
        entering = [job for job in group if isinstance(job.work, _Entering)]
        super()._perform([job for job in group if not isinstance(job.work, _Entering)])
        tries = 0
        while entering:
            tries += 1
            try:
                self._enter([job.work.links for job in entering])  # type: ignore[attr-defined]
                return
            except Unwritten as refusal:
                for nth, error in refusal.errors.items():
                    entering[nth].error = error
                entering = [job for nth, job in enumerate(entering) if nth not in refusal.errors]
                if not refusal.errors and tries >= _TRIES:
                    self._fail(entering, AuditUnavailable("The audit log could not be begun."))
                    return
            except Exception as error:
                self._end()
                self._fail(entering, error if isinstance(error, StoreError) else unexpected(error))
                return

    def _enter(self, group: Sequence[Links]) -> None:
        made: list[Growth] = []
        carried = [Carried(nth, links) for nth, links in enumerate(group)]

        def enter(connection: Connection) -> None:
            if made and all([growth.key is not None and audit.has(connection, growth) for growth in made]):
                return
            made.clear()
            with audit.writing(connection):
                locked = Locked(connection, {links.name for links in group})
                made.extend(locked.carry(carried))

        self._persist(enter, self._deadline())

    def _fail(self, group: list[Job[Any]], error: StoreError) -> None:
        for job in group:
            job.error = type(error)(error.what, fix=error.fix)
            job.error.__cause__ = error.__cause__


class PostgresAudits:
    """The audit logs of one database, which processes on many machines share."""

    tables = audit

    def __init__(self, dsn: str, *, patience: float = 5.0) -> None:
        if not 0 <= patience <= 3600:
            raise ConfigurationError(
                f"patience={patience!r} is no such time.", fix="Pass seconds, 0 to 3600."
            )
        self._server = Server(checked(dsn), True, patience)
        self.place = place_of(dsn)
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def ask(self, work: Callable[[Connection], T]) -> T:
        """What *work* gives, done on this thread; once more in a new session, if the old one had ended meanwhile."""
        with self._lock:
            known = self._connection is not None
            while True:
                try:
                    if self._connection is None:
                        self._connection = connect(self._server)
                    return work(self._connection)
                except psycopg.Error as error:
                    lost = is_lost(error, self._connection)
                    if lost:
                        self._drop()
                    if not lost or not known:
                        raise translate(error, self._server) from error
                    known = False

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def prepared(self) -> Lane:
        """A lane that is to be started, in a database that is ready."""
        prepare(self._server)
        return Appender(self._server)

    def begin(self, on: Connection, keys: tuple[EpochKeys, ...], name: str) -> Standing:
        """The lane's work: where the log stands, which is begun if there is none. Raises AuditError."""
        for _ in range(_TRIES):
            try:
                return audit.begin(on, keys, name)
            except Unwritten:  # somebody else has begun it meanwhile
                continue
        raise AuditUnavailable(f"The audit log {name!r} could not be begun.")

    def entering(self, links: Links) -> Callable[[Any], None]:
        """The lane's work: enter these."""
        return _Entering(links)

    def keep(self, key: int, entries: int, line: bytes) -> None:
        """Put a checkpoint to the log's own, on this thread."""
        self.ask(lambda on: audit.keep(on, key, entries, line))

    def settle(self, key: int) -> None:
        """Make durable, on this thread, what was committed of a log: the server's log is synced up to there."""
        self.ask(lambda on: audit.touch(on, key))

    def scrubbing(self) -> None:
        """Nothing: the role owns no table, and so may not have one written anew."""

    def close(self) -> None:
        """Let go of what is not the lane's."""
        with self._lock:
            self._drop()
