"""The store on a SQLite file: the port, put together from a writer, a reader and a worker's lease."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import apsw

import shipworthy.adapters.sqlite.audit as audit
import shipworthy.adapters.sqlite.budget as budget
import shipworthy.adapters.sqlite.erasing as erasing
import shipworthy.adapters.sqlite.operations as operations
import shipworthy.adapters.sqlite.reader as reader
import shipworthy.adapters.sqlite.signing as signing
from shipworthy.adapters.shared.entries import demand, entry_of
from shipworthy.adapters.shared.forgetting import forgotten_of
from shipworthy.adapters.shared.grants import rows_of
from shipworthy.adapters.shared.lane import forks, outlived
from shipworthy.adapters.shared.queries import KEYS, Ask, Reads
from shipworthy.adapters.sqlite.connection import Database, Durability, prepare, rows
from shipworthy.adapters.sqlite.ledger import SqliteLedger
from shipworthy.adapters.sqlite.operations import PRUNED_AT_ONCE
from shipworthy.adapters.sqlite.reader import Reader
from shipworthy.adapters.sqlite.workers import Worker, now
from shipworthy.adapters.sqlite.writer import Alone, Writer
from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.journal import Batch, Claim, Fence, RunSummary, Tombstones
from shipworthy.domain.ledger import Outcome
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, StoreClosed

T = TypeVar("T")


class SqliteStore(Reads):
    """A durable store in one file, which several processes of one machine may share.

    durability: "power" (the default) syncs every commit, so that what was acknowledged survives the loss of
    power on storage that honours sync; "process" survives the death of the process only. lease_ttl,
    clock_skew, busy_timeout: seconds. A worker that was stopped for longer than `lease_ttl` loses its runs; a
    worker that died loses them at once. vfs: the name of a registered apsw VFS, for tests that inject faults.

    Several event loops may use one store at once; a process that was forked needs a store of its own.
    """

    _history = reader.HISTORY
    _now = signing.NOW

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "power",
        lease_ttl: float = 10.0,
        clock_skew: float = 0.5,
        busy_timeout: float = 5.0,
        vfs: str | None = None,
    ) -> None:
        if durability not in ("power", "process"):
            raise ConfigurationError(
                f"durability={durability!r} is unknown.", fix='Use "power" or "process".'
            )
        if lease_ttl <= 0 or clock_skew < 0 or busy_timeout < 0:
            raise ConfigurationError(
                f"lease_ttl={lease_ttl!r}, clock_skew={clock_skew!r}, busy_timeout={busy_timeout!r} are no such times.",
                fix="Pass seconds: lease_ttl above 0, clock_skew and busy_timeout 0 or more.",
            )
        # Every process must mean the same file and the same folder of locks, whatever links lead there.
        self._database = Database(os.path.realpath(path), durability, busy_timeout, vfs)
        self.place = f"sqlite:{self._database.path}"
        self._ttl = max(int(lease_ttl * 1000), 1)
        self._skew = int(clock_skew * 1000)
        self._opening = threading.Lock()
        self._closed = False
        self._forks = 0
        self._worker: Worker | None = None
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._users: set[str] = set()
        self.ledger = SqliteLedger(
            self._write, self._read, partial(self._use, "ledger"), partial(self._leave, "ledger")
        )

    async def open(self) -> None:
        """Check or create the file and register a worker, a new one after `close`. Raises a StoreError that says what
        is wrong."""
        await self._use("store")

    async def _use(self, user: str) -> None:
        """Open the file for *user*, unless it is open."""
        self._users.add(user)
        try:
            if self._writer is None:
                await asyncio.to_thread(self._open)
        except Exception:
            self._users.discard(user)
            raise

    async def _leave(self, user: str) -> None:
        """Close the file, unless somebody else opened it too."""
        if user in self._users:
            self._users.discard(user)
            if not self._users:
                await self.close()

    def _open(self) -> None:
        with self._opening:
            if self._writer is not None:
                return
            connection = prepare(self._database)
            worker = Worker(self._database.path, self._ttl, self._skew)
            try:
                writer = Writer(self._database, connection, worker)
            except BaseException:
                worker.lock.release()
                raise
            self._worker, self._reader = worker, Reader(self._database)
            self._reader.start()
            writer.start()
            self._forks = forks()
            self._closed = False
            self._writer = writer

    async def close(self) -> None:
        """Finish what is queued, release this worker's runs, and let go of the file, whoever opened it."""
        self._users.clear()
        await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        with self._opening:
            self._closed = True
            writer, self._writer = self._writer, None
            if writer is None or self._reader is None or self._worker is None or self._forks != forks():
                return
            writer.resign()
            self._reader.stop()
            writer.stop()
            if writer.resigned:
                self._worker.lock.release()
            else:
                self._worker.lock.drop()  # the lock that nobody holds says to others what the file could not

    # journal

    async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
        """Create a run with its first batch, owned by this worker. None if there is one of this id."""
        writer, worker = self._ready()
        entry = entry_of(batch, scope)
        return await outlived(
            writer.submit(lambda cursor: operations.begin(cursor, worker, scope, run_id, entry, token))
        )

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        """Take a run that nobody drives. Raises RunNotFound, RunBusy."""
        writer, worker = self._ready()
        return await writer.submit(lambda cursor: operations.claim(cursor, worker, scope, run_id))

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        """Append *batch*, durably, whole or not at all. Raises Fenced, HoldRefused, StoreFull, CommitUncertain."""
        writer, worker = self._ready()
        entry = entry_of(batch, fence.scope)
        if entry.budget:
            return await writer.submit(lambda cursor: budget.commit(cursor, worker, fence, entry))
        await writer.submit(lambda cursor: operations.commit(cursor, worker, fence, entry))
        return ()

    async def release(self, fence: Fence) -> None:
        """Let go of a run. Whoever claims it next waits for what could still be under way here."""
        writer, worker = self._ready()
        await writer.submit(lambda cursor: operations.release(cursor, worker, fence))

    async def news(self, scope: Scope, run_id: str, within: float) -> None:
        """Nobody tells one process of another's commits, so the whole time is waited."""
        await asyncio.sleep(within)

    # directory

    async def orphans(self, operator: Operator) -> Sequence[RunSummary]:
        """Runs of every tenant that are running and that no other live worker owns."""
        demand(operator)
        _, worker = self._ready()
        return await self._read(lambda cursor: reader.orphans(cursor, worker))

    async def prune(self, operator: Operator, ended_before: int) -> int:
        """Forget old runs, a few in each transaction, and old sessions, one in each."""
        demand(operator)
        keys = await self._read(partial(operations.old_singles, ended_before=ended_before))
        sessions = await self._read(partial(operations.old_sessions, ended_before=ended_before))
        steps = [
            partial(operations.forget_singles, keys=keys[i : i + PRUNED_AT_ONCE])
            for i in range(0, len(keys), PRUNED_AT_ONCE)
        ]
        steps += [
            partial(operations.forget_session, scope=scope, ended_before=ended_before) for scope in sessions
        ]
        steps.append(partial(signing.forget_expired))
        return sum([await self._ready()[0].submit(step) for step in steps])

    # signing

    async def signing_keys(self) -> Sequence[SigningKey]:
        """The keys, newest first; the first one is made by whoever asks first."""
        found = await self._read(lambda cursor: rows(cursor, KEYS))
        return [SigningKey(*row) for row in found] or await self._write(signing.keys)

    async def rotate_signing_key(self, operator: Operator, keep: int = 4) -> SigningKey:
        """Sign with a new key from now on; the *keep* newest ones are kept."""
        demand(operator)
        return await self._write(partial(signing.rotate, keep=keep))

    async def revoke(self, scope: Scope, grant_id: str) -> bool:
        """Take a grant of the user, or of the tenant, back, for good."""
        return await self._write(partial(signing.revoke, scope=scope, grant_id=grant_id))

    async def adopt(
        self, operator: Operator, keys: Sequence[SigningKey], grants: Sequence[Grant] = ()
    ) -> None:
        """Take over another store's keys, to verify with, and grants."""
        demand(operator)
        await self._write(partial(signing.adopt, others=keys, grants=rows_of(grants)))

    # erasure

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        """Put tombstones in the place of journals, in one transaction. Raises RunBusy, RunNotFound."""
        await self._write(partial(erasing.bury, scope=scope, tombstones=tombstones))

    async def disown(self, scope: Scope, run_ids: Collection[str] = ()) -> Sequence[str]:
        """Forget what is kept under the name of a user, or of their session, beside runs; which audit logs it is in."""
        await self._write(partial(erasing.disown, scope=scope))
        return await forgotten_of(audit, scope, run_ids, read=self._read, write=self._write)

    async def scrub(self, operator: Operator) -> Sequence[str]:
        """Write the file anew, and cut its WAL to nothing. Whoever writes waits meanwhile; leases are not renewed."""
        demand(operator)
        await self._ready()[0].submit(Alone(erasing.scrub))
        return (erasing.REMAINS.format(path=self._database.path),)

    # lease

    clock = staticmethod(now)
    """Milliseconds on the machine's boot-time clock."""

    def start_by(self) -> int:
        """The expiry of this worker's lease that was last written durably."""
        return self._ready()[1].start_by

    @property
    def skew(self) -> int:
        """Milliseconds by which two workers' readings may differ."""
        return self._skew

    # parts

    def _ready(self) -> tuple[Writer, Worker]:
        if self._writer is None or self._worker is None:
            path = self._database.path
            if self._closed:
                raise StoreClosed(f"The store {path} was closed.")
            raise StoreClosed(f"The store {path} is not open.", fix="Call `await store.open()` first.")
        if self._forks != forks():
            raise StoreClosed(
                f"The store {self._database.path} was opened before this process was forked.",
                fix="Open a store of its own in each process.",
            )
        return self._writer, self._worker

    def _asked(self, whose: Scope | Operator, work: Callable[[Ask], T]) -> Awaitable[T]:
        return self._read(lambda cursor: work(partial(rows, cursor)))

    async def _write(self, work: Callable[[apsw.Cursor], T]) -> T:
        return await self._ready()[0].submit(work)

    async def _read(self, work: Callable[[apsw.Cursor], T]) -> T:
        writer, _ = self._ready()
        if writer.suspect:
            await writer.submit(lambda _: None)  # what is read must be what is on the disk
        assert self._reader is not None
        return await self._reader.submit(work)
