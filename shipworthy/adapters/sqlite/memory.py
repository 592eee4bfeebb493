"""The memory store on a SQLite file, its own or the runtime's: the port, put together from a writer and a reader."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import apsw
import msgspec

import shipworthy.adapters.sqlite.memory_erasing as erasing
import shipworthy.adapters.sqlite.memory_records as records_
from shipworthy.adapters.shared.entries import demand
from shipworthy.adapters.shared.lane import forks
from shipworthy.adapters.shared.limits import refuse
from shipworthy.adapters.sqlite.connection import Database, Durability, prepare, rows
from shipworthy.adapters.sqlite.erasing import REMAINS
from shipworthy.adapters.sqlite.memory_schema import MEMORY
from shipworthy.adapters.sqlite.memory_watch import Watch
from shipworthy.adapters.sqlite.reader import Reader
from shipworthy.adapters.sqlite.writer import Alone, Committer
from shipworthy.domain.memory import Changes, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import (
    CommitUncertain,
    ConfigurationError,
    ErasureIncomplete,
    MemoryClosed,
    MemoryForeign,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreTooOld,
)

T = TypeVar("T")


class SqliteMemoryStore:
    """A memory in one file, which may be the runtime's, and which several processes of one machine may share.

    durability: "power" (the default) syncs every commit, so that what was acknowledged survives the loss of power on
    storage that honours sync; "process" survives the death of the process only. busy_timeout: seconds to wait for
    other programs. vfs: the name of a registered apsw VFS, for tests that inject faults.

    `erase` leaves no byte in the file and its WAL; it copies what others have beside it, and meanwhile nobody else
    writes the file: 0.6 s beside 25,000 records of others. `remove` promises that nothing is retrieved any more, and
    what is removed is overwritten; but copies may stay in the gaps of pages until the scope is erased.

    Several event loops may use one store at once; a process that was forked needs a store of its own.
    """

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
        if busy_timeout < 0:
            raise ConfigurationError(
                f"busy_timeout={busy_timeout!r} is no such time.", fix="Pass seconds, 0 or more."
            )
        # Every process must mean the same file, whatever links lead there.
        self._database = Database(os.path.realpath(path), durability, busy_timeout, vfs, MEMORY)
        self._opening = threading.Lock()
        self._closed = False
        self._forks = 0
        self._writer: Committer | None = None
        self._reader: Reader | None = None
        self._watch: Watch | None = None

    @property
    def name(self) -> str:
        return f"sqlite:{self._database.path}"

    async def open(self) -> None:
        """Check or create the file, and bring an older memory to this format."""
        if self._writer is None:
            await _told(asyncio.to_thread(self._open))

    def _open(self) -> None:
        with self._opening:
            if self._writer is not None:
                return
            writer = Committer(self._database, prepare(self._database))
            self._reader = Reader(self._database)
            self._reader.start()
            writer.start()
            self._watch = _watching(self._database)
            self._forks = forks()
            self._closed = False
            self._writer = writer

    async def close(self) -> None:
        """Finish what is queued and let go of the file."""
        await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        with self._opening:
            self._closed = True
            writer, self._writer = self._writer, None
            if writer is None or self._reader is None or self._forks != forks():
                return
            if self._watch is not None:
                self._watch.close()
            self._reader.stop()
            writer.stop()

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        """The store's stamp; *wanted* becomes it if there is none, or with *replace*."""
        return await self._write(partial(_stamp, wanted=wanted, replace=replace))

    # a partition

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        """Keep *records* in one commit. Raises MemoryConflict, MemoryFull, RecordTooLarge."""
        refuse(scope, records)
        return await self._write(partial(records_.put, scope=scope, records=records, replace=replace, at=at))

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        """Those that are there, in the order of *ids*."""
        return await self._read(partial(records_.get, scope=scope, ids=ids))

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        """What was written in the partition since a mark."""
        return await self._read(partial(records_.changes, scope=scope, since=since, limit=limit))

    def version(self) -> tuple[int, int] | None:
        """See `Versioned`. None too where the store is not open, so that whoever asks it for more learns why."""
        writer, watch = self._writer, self._watch
        if writer is None or watch is None or writer.suspect or self._forks != forks():
            return None
        return watch.version()

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        """Records by growing `n`, only those above *after*."""
        return await self._read(partial(records_.page, scope=scope, after=after, limit=limit, kind=kind))

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        """Forget records; how many there were. That no byte is left is promised by `erase` only."""
        return await self._write(partial(records_.remove, scope=scope, ids=ids))

    # partitions

    async def within(self, scope: Scope) -> list[Scope]:
        """The partitions that have records, of the scope and within it."""
        return await self._read(partial(erasing.within, scope=scope))

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        """Some partitions of every tenant, in the order in which they were made, each with its place."""
        demand(operator)
        return await self._read(partial(erasing.everything, after=after, limit=limit))

    async def erase(self, scope: Scope) -> Erased:
        """Forget the scope's partitions, so that no byte of them is left in the file and its WAL. Other processes may
        use the file meanwhile; whoever reads it for longer than the busy timeout prevents it: ErasureIncomplete, and
        erasing again goes on where it was."""
        count = await self._write(partial(erasing.forget, scope=scope))
        try:
            for table in await self._write(partial(erasing.to_be_made_again, scope=scope)):
                await self._write(partial(erasing.make_again, table=table))
            pending = await self._write(erasing.pending)
            await _told(self._ready().submit(Alone(erasing.cut)))
            await self._write(partial(erasing.done, tables=pending))
        except MemoryUnavailable as error:
            raise ErasureIncomplete(
                f"{count} records are gone, but bytes of them are still in {self._database.path} or its WAL: another"
                f" program has read or written it for {self._database.busy_timeout:g} s without a break.",
                fix="End long transactions on the file (a shell, a backup), or raise busy_timeout=, and erase again.",
            ) from error
        except MemoryStoreError as error:
            raise ErasureIncomplete(
                f"{count} records are gone, but bytes of them are still in {self._database.path} or its WAL."
                f" {error.what}",
                fix=f"{error.fix} Then erase again.",
            ) from error
        return Erased(count, (REMAINS.format(path=self._database.path),))

    # parts

    def _ready(self) -> Committer:
        path = self._database.path
        if self._writer is None:
            if self._closed:
                raise MemoryClosed(f"The memory in {path} was closed.")
            raise MemoryClosed(f"The memory in {path} is not open.", fix="Call `await memory.open()` first.")
        if self._forks != forks():
            raise MemoryClosed(
                f"The memory in {path} was opened before this process was forked.",
                fix="Open one of its own in each process.",
            )
        return self._writer

    async def _write(self, work: Callable[[apsw.Cursor], T]) -> T:
        return await _told(self._ready().submit(work))

    async def _read(self, work: Callable[[apsw.Cursor], T]) -> T:
        writer = self._ready()
        if writer.suspect:
            await _told(writer.submit(lambda _: None))  # what is read must be what is on the disk
        assert self._reader is not None
        return await _told(self._reader.submit(work))


def _watching(database: Database) -> Watch | None:
    """None where the file cannot be watched: then it is asked each time."""
    try:
        return Watch(database)
    except apsw.Error:
        return None


def _stamp(cursor: apsw.Cursor, wanted: Stamp, replace: bool) -> Stamp:
    [(found,)] = rows(cursor, "SELECT stamp FROM memory_meta")
    if found is not None and not replace:
        return msgspec.json.decode(found, type=Stamp)
    cursor.execute("UPDATE memory_meta SET stamp = ?", (msgspec.json.encode(wanted),))
    return wanted


# errors

_MEANING: dict[type[StoreError], type[MemoryStoreError]] = {
    StoreLocked: MemoryUnavailable,
    StoreReadOnly: MemoryReadOnly,
    StoreForeign: MemoryForeign,
    StoreFull: MemoryFull,
    StoreClosed: MemoryClosed,
    StoreCorrupt: MemoryStoreError,
    StoreTooOld: MemoryStoreError,
}
_FIX: dict[type[StoreError], str] = {
    StoreForeign: "Point the memory to another path, or upgrade shipworthy; the file was not changed.",
    StoreFull: "Free space on the disk; nothing was written.",
    StoreCorrupt: "Restore the file from a backup; do not delete its -wal file, which may hold what was acknowledged.",
    StoreClosed: MemoryClosed.fix,
    CommitUncertain: "Do it again: what is there already is not written twice.",
}


async def _told(done: Awaitable[T]) -> T:
    """What *done* gives, with the store's errors in a memory's words."""
    try:
        return await done
    except StoreError as error:
        meaning = _MEANING.get(type(error), MemoryStoreError)
        raise meaning(error.what, fix=_FIX.get(type(error), error.fix)) from error
