"""The one thread that writes: group commit, and what is done when a commit's fate is unknown.

The order of the lines is the guarantee: nobody is told of a batch before COMMIT, with its sync, has returned;
and after an error there nothing is written until the file was reopened, read back and checkpointed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import apsw
import msgspec

from shipworthy.adapters.shared.lane import Job, Lane, unexpected
from shipworthy.adapters.sqlite.connection import CHECKPOINT_PAGES, Database, recover, translate
from shipworthy.adapters.sqlite.workers import Worker, now
from shipworthy.errors import CommitUncertain, ShipworthyError, StoreError, StoreFull

T = TypeVar("T")
_OWN_FAULT = (apsw.ConstraintError, apsw.TooBigError, apsw.MismatchError, apsw.RangeError, apsw.BindingsError)


class Damage:
    """How often writing or syncing a file failed in this process, over all the stores that are open on it."""

    _all: dict[str, Damage] = {}  # noqa: RUF012 - the registry of the process
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    def of(cls, path: str) -> Damage:
        """The one for *path*."""
        with cls._lock:
            return cls._all.setdefault(path, cls())


class Alone(msgspec.Struct, Generic[T]):
    """A writer's job that is not part of a transaction. It is given the connection."""

    work: Callable[[apsw.Connection], T]

    def __call__(self, connection: apsw.Connection) -> T:
        return self.work(connection)


class Committer(Lane):
    """Commits what is queued in one transaction: each job whole or not at all, whatever others become."""

    def __init__(self, database: Database, connection: apsw.Connection) -> None:
        super().__init__("writer", database.path)
        self._database = database
        self._damage = Damage.of(database.path)
        self._seen = self._damage.count
        self._pages = 0
        self._connection: apsw.Connection | None = connection
        self._watch(connection)

    @property
    def suspect(self) -> bool:
        """Whether a write or a sync failed since the file was last read back and checkpointed."""
        return self._seen != self._damage.count

    # on the thread

    def _perform(self, group: list[Job[Any]]) -> None:
        together = [job for job in group if not isinstance(job.work, Alone)]
        try:
            if together:
                self._transact(self._sound(), together)
        except StoreError as error:
            for job in together:
                job.error = _again(error)
        for job in group:
            if isinstance(job.work, Alone):
                self._perform_alone(job)

    def _perform_alone(self, job: Job[Any]) -> None:
        try:
            job.value = job.work(self._sound())
        except ShipworthyError as refusal:
            job.error = refusal
        except apsw.Error as error:
            if not isinstance(error, (apsw.BusyError, apsw.FullError)):
                self._suspect()
            job.error = translate(error, self._database)

    def _sound(self) -> apsw.Connection:
        """The connection: after a failure a new one, read back and checkpointed. Raises StoreError."""
        failures = self._damage.count
        if self._connection is None or self._seen != failures:
            self._drop()
            self._connection = recover(self._database)
            self._watch(self._connection)
            self._seen = failures
        return self._connection

    def _transact(self, connection: apsw.Connection, group: list[Job[Any]]) -> None:
        """Do the group in one transaction. Who fails by its own fault leaves it, and the rest begin again."""
        pending = group
        while pending:
            culprit = self._attempt(connection, pending)
            if culprit is None:
                return
            pending = [job for job in pending if job is not culprit]

    def _attempt(self, connection: apsw.Connection, group: list[Job[Any]]) -> Job[Any] | None:
        """Commit the group, or give the job at fault with nothing written."""
        job: Job[Any] | None = None
        committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            cursor = connection.cursor()
            for job in group:
                job.error = None
                try:
                    job.value = job.work(cursor)
                except ShipworthyError as refusal:  # it wrote nothing, so the others go on
                    job.error = refusal
            committing = True
            connection.execute("COMMIT")
        except apsw.Error as error:
            if job is not None and not committing and isinstance(error, _OWN_FAULT):
                job.error = translate(error, self._database)
                self._roll_back(connection)
                return job
            raise self._failed(connection, error, committing) from error
        except Exception as error:
            if job is None or committing:
                self._suspect()
                raise
            self._roll_back(connection)
            job.error = unexpected(error)
            return job
        return None

    def _failed(self, connection: apsw.Connection, error: apsw.Error, committing: bool) -> StoreError:
        """What the whole group is told, and what has to happen before the next one."""
        meaning = translate(error, self._database)
        if isinstance(error, apsw.BusyError) and not committing:
            self._roll_back(connection)
            return meaning
        if isinstance(meaning, StoreFull) and self._roll_back(connection):
            # SQLite says FULL when the write of a frame failed. The frame that commits is written last, so it
            # is not in the file.
            return meaning
        self._suspect()
        if committing or isinstance(error, apsw.IOError):
            what = f"A commit to {self._database.path} failed ({type(error).__name__}: {error})."
            return CommitUncertain(what)
        return meaning

    def _roll_back(self, connection: apsw.Connection) -> bool:
        try:
            if not connection.get_autocommit():
                connection.execute("ROLLBACK")
            return True
        except apsw.Error:
            self._suspect()
            return False

    def _suspect(self) -> None:
        self._damage.count += 1
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is not used again, whatever it says
                connection.close()

    # checkpoints

    def _watch(self, connection: apsw.Connection) -> None:
        def committed(_: apsw.Connection, __: str, pages: int) -> int:
            self._pages = pages
            return apsw.SQLITE_OK

        connection.set_wal_hook(committed)

    def _after(self) -> None:
        """Move the WAL into the file when it has grown: after those who waited were told."""
        if self._pages < CHECKPOINT_PAGES or self._connection is None:
            return
        self._pages = 0
        try:
            self._connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.BusyError, apsw.FullError):
            pass  # another process is at it, or there is no room; nothing is lost: it stays in the WAL
        except apsw.Error:
            self._suspect()

    def _end(self) -> None:
        self._drop()


class Writer(Committer):
    """A committer that registers a worker, and renews its lease with what it commits."""

    def __init__(self, database: Database, connection: apsw.Connection, worker: Worker) -> None:
        super().__init__(database, connection)
        self._worker = worker
        self._renew_at = now() + worker.ttl // 3
        self._resigned = False
        self._resignation: Job[None] | None = None
        registration: Job[int] = Job(worker.register)
        self._perform_with(registration, [registration])
        if registration.error is not None:
            self._drop()
            raise registration.error

    def resign(self) -> None:
        """Queue the release of this worker's runs and of its lease, which is not renewed any more."""
        self._resigned = True
        self._resignation = Job(self._worker.resign)
        self._queue.put([self._resignation])

    @property
    def resigned(self) -> bool:
        """Whether the resignation is in the file; asked when the thread has ended."""
        return self._resignation is not None and self._resignation.error is None

    # on the thread

    def _patience(self) -> float:
        return max(self._renew_at - now(), 0) / 1000

    def _perform(self, group: list[Job[Any]]) -> None:
        renewal = self._renewal()
        everything = group if renewal is None else [*group, renewal]
        if everything:
            self._perform_with(renewal, everything)

    def _perform_with(self, renewal: Job[int] | None, group: list[Job[Any]]) -> None:
        super()._perform(group)
        if renewal is None:
            return
        if renewal.error is None and renewal.value is not None:
            self._worker.start_by = renewal.value  # only now: the expiry that others read is durable
        else:
            self._renew_at = now() + self._worker.ttl // 10

    def _renewal(self) -> Job[int] | None:
        """The lease's renewal, when it is due."""
        time = now()
        if time < self._renew_at:
            return None
        self._renew_at = time + max(self._worker.ttl // 3, 1)
        return None if self._resigned else Job(self._worker.renew)


def _again(error: StoreError) -> StoreError:
    """An exception of its own for each who is told, since a traceback grows on each that is raised."""
    copy = type(error)(error.what, fix=error.fix)
    copy.__cause__ = error.__cause__
    return copy
