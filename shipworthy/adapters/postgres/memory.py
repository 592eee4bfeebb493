"""The memory store on PostgreSQL: the port, put together from sessions and named statements."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from shipworthy.adapters.postgres.connection import Connection, Server, checked
from shipworthy.adapters.postgres.memory_nearest import Ranking
from shipworthy.adapters.postgres.memory_places import decoded, encoded, place_of_scope, scope_of_place
from shipworthy.adapters.postgres.memory_schema import prepare
from shipworthy.adapters.postgres.memory_session import MemorySession, Rows, Sight, Step, perform, sight_of
from shipworthy.adapters.postgres.memory_writing import MemoryWriter, draw, put_of
from shipworthy.adapters.postgres.place import place_of
from shipworthy.adapters.shared.entries import demand
from shipworthy.adapters.shared.lane import forks
from shipworthy.adapters.shared.limits import PAGE, at_least_one, cut, refuse
from shipworthy.domain.memory import NOWHERE, Changes, Entry, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, MemoryClosed, MemoryStoreError, StoreClosed, StoreError

T = TypeVar("T")
ERASED_AT_ONCE = 20_000
"""Records of one transaction of an erasure, unless a single partition has more."""
ERASING = 600.0
"""Seconds that a statement of an erasure may take."""
REMAINS = (
    "PostgreSQL keeps deleted rows in its files until they are written anew: VACUUM (FULL) "
    "shipworthy_memory.records, shipworthy_memory.partitions{vectors}; as their owner, when nobody needs them for a "
    "moment. Plain autovacuum frees them later, without overwriting.",
    "The write-ahead log has them until its segments are recycled (SELECT pg_switch_wal(); CHECKPOINT;), and its "
    "archive until that expires.",
    "Replicas, replication slots, backups and snapshots of the database have them until they follow or expire.",
)


class _Sessions:
    """What an open store has: threads, each with a session."""

    def __init__(self, server: Server, readers: int) -> None:
        self.forks = forks()
        self.writer = MemoryWriter("memory-writer", server)
        self.readers = [MemorySession("memory-reader", server) for _ in range(readers)]
        self.turn = itertools.cycle(self.readers)
        for thread in (self.writer, *self.readers):
            thread.start()

    def stop(self) -> None:
        for thread in (self.writer, *self.readers):
            thread.stop()


class PostgresMemoryStore:
    """Memory in a PostgreSQL database that many processes on many machines share, in the schema `shipworthy_memory`.

    patience: seconds for which a server that restarts or fails over is waited for, and that a statement may take (at
    least two). readers: sessions for reading, beside one that writes. Several event loops may use one store.

    Where the server has pgvector, an open store is `Nearest` as well.
    """

    nearest: Callable[[Scope, bytes, int, Sequence[Kind]], Any]
    """`Nearest.nearest`: it is there once the store was opened on a server that has pgvector."""

    def __init__(self, dsn: str, *, patience: float = 5.0, readers: int = 2) -> None:
        if isinstance(patience, bool) or not isinstance(patience, (int, float)) or not 0 <= patience <= 3600:
            raise ConfigurationError(f"patience={patience!r} is no such time.", fix="Pass 0 to 3600 seconds.")
        if type(readers) is not int or not 1 <= readers <= 64:
            raise ConfigurationError(f"readers={readers!r} is no number of sessions.", fix="Pass 1 to 64.")
        self._server = Server(checked(dsn), True, patience)
        self.name = place_of(dsn)
        self._readers = readers
        self._opening = threading.Lock()
        self._closed = False
        self._sessions: _Sessions | None = None

    async def open(self) -> None:
        """Make the schema, or bring it to this release's format, and check it. Raises a MemoryStoreError that says what
        is wrong."""
        if self._sessions is None:
            await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with self._opening:
            if self._sessions is None:
                pgvector = prepare(self._server)
                if pgvector is not None:
                    self.nearest = partial(self._nearest, Ranking(pgvector))
                self._sessions, self._closed = _Sessions(self._server, self._readers), False

    async def close(self) -> None:
        """Finish what is queued, and end the sessions."""
        sessions, self._sessions, self._closed = self._sessions, None, True
        if sessions is not None and sessions.forks == forks():
            await asyncio.shield(asyncio.to_thread(sessions.stop))

    # a partition

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        refuse(scope, records)
        put = put_of(place_of_scope(scope), records, replace, at)
        return await _told(self._ready().writer.submit(put))

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        [rows] = await self._read(sight_of(scope), ("get", {"ids": [encoded(id) for id in ids]}))
        found = {record.id: record for record in map(_record, rows)}
        return [found[id] for id in ids if id in found]

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        limit = at_least_one(limit)
        values = {"epoch": since.epoch, "n": since.n, "limit": limit, "bytes": PAGE}
        [rows] = await self._read(sight_of(scope), ("changes", values))
        if not rows:
            return Changes([], NOWHERE, reset=since != NOWHERE, more=False)
        epoch, n = rows[0][:2]
        entries, more = cut([_entry(row) for row in rows if row[2] is not None], limit)
        mark = Mark(epoch, entries[-1].n if more else n)
        return Changes(entries, mark, reset=since.epoch != epoch or since.n > n, more=more)

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        values = {"after": after, "limit": max(limit, 0)}
        step = ("page", values) if kind is None else ("page_of_kind", {**values, "kind": kind})
        [rows] = await self._read(sight_of(scope), step)
        return [_record(row) for row in rows]

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        """Where the server went away meanwhile, those that an earlier attempt removed are not counted."""
        again = {"epoch": draw()}
        removing = ("remove", {**again, "ids": [encoded(id) for id in ids]})
        _, rows, _ = await self._write(sight_of(scope), ("lock", {}), removing, ("tidy", again))
        return int(rows[0][0]) if rows else 0

    # partitions

    async def within(self, scope: Scope) -> list[Scope]:
        [rows] = await self._read(sight_of(scope, within=True), ("within", {}))
        return [scope_of_place(place) for (place,) in rows]

    async def erase(self, scope: Scope) -> Erased:
        """Partition by partition, each at once. Where the server went away meanwhile, what an earlier attempt erased is
        not counted."""
        total, sight = 0, sight_of(scope, within=True)
        while (erased := await _told(self._ready().writer.submit(partial(_erase, sight=sight)))) is not None:
            total += erased
        vectors = ", shipworthy_memory.vectors" if hasattr(self, "nearest") else ""
        return Erased(total, tuple([remains.format(vectors=vectors) for remains in REMAINS]))

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        demand(operator)
        step = ("everything", {"after": encoded(after), "limit": limit})
        [rows] = await self._read(sight_of(operator), step)
        return [(decoded(place), scope_of_place(place)) for (place,) in rows]

    # the store

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        step = ("stamp_anew" if replace else "stamp_once", {"data": msgspec.json.encode(wanted)})
        _, [(data,)] = await self._write(Sight(), step, ("stamped", {}))
        return msgspec.json.decode(data, type=Stamp)

    async def _nearest(
        self, ranking: Ranking, scope: Scope, vector: bytes, limit: int, kinds: Sequence[Kind]
    ) -> list[tuple[str, float]]:
        sight = sight_of(scope)
        while await _told(self._ready().writer.submit(partial(ranking.copy, sight=sight))):
            pass
        work = partial(ranking.rank, sight=sight, vector=vector, limit=limit, kinds=kinds)
        return await _told(next(self._ready().turn).submit(work))

    # parts

    async def _read(self, sight: Sight, *steps: Step) -> list[Rows]:
        return await _told(next(self._ready().turn).submit(lambda c: perform(c, sight, *steps)))

    async def _write(self, sight: Sight, *steps: Step) -> list[Rows]:
        return await _told(self._ready().writer.submit(lambda c: perform(c, sight, *steps)))

    def _ready(self) -> _Sessions:
        if self._sessions is None:
            fix = None if self._closed else "Call `await store.open()` first."
            raise MemoryClosed(f"{self._server.name} is not open.", fix=fix)
        if self._sessions.forks != forks():
            raise MemoryClosed(
                f"{self._server.name} was opened before this process was forked.",
                fix="Open a store of its own in each process.",
            )
        return self._sessions


async def _told(future: asyncio.Future[T]) -> T:
    """What a session gives, with the errors of its thread as memory's."""
    try:
        return await future
    except StoreClosed as error:
        raise MemoryClosed(error.what) from error
    except StoreError as error:
        raise MemoryStoreError(error.what, fix="Please report it.") from error


def _erase(connection: Connection, sight: Sight) -> int | None:
    """Erase the next partitions of those that are seen; how many records, or None when there are none left."""
    [found] = perform(connection, sight, ("erasable", {"many": ERASED_AT_ONCE}))
    if not found:
        return None
    places = {"places": [place for (place,) in found]}
    before, connection.silence = connection.silence, ERASING + 1
    try:
        *_, [(count,)] = perform(
            connection,
            sight,
            ("take_time", {"milliseconds": f"{int(ERASING * 1000)}"}),
            ("erase_partitions", places),
            ("erase_records", places),
        )
    finally:
        connection.silence = before
    return int(count)


def _record(row: tuple[Any, ...]) -> Record:
    id, kind, data, at, weight, terms, vector, n = row
    return Record(id=decoded(id), kind=kind, data=data, at=at, weight=weight, terms=terms, vector=vector, n=n)


def _entry(row: tuple[Any, ...]) -> Entry:
    _, _, id, n, kind, at, weight, terms, vector = row
    return Entry(decoded(id), n, kind, at, weight, terms, vector)
