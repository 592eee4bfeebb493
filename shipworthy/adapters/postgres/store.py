"""The store on PostgreSQL: the port, put together from a writer, some readers, a listener and a worker's lease."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from shipworthy.adapters.postgres import audit, erasing, operations, signing
from shipworthy.adapters.postgres.connection import Connection, Server, checked, prepare
from shipworthy.adapters.postgres.holds import Apply
from shipworthy.adapters.postgres.lanes import Listener, Session
from shipworthy.adapters.postgres.ledger import PostgresLedger
from shipworthy.adapters.postgres.place import place_of
from shipworthy.adapters.postgres.writer import Append, Lease, Writer
from shipworthy.adapters.shared.entries import demand, entry_of
from shipworthy.adapters.shared.forgetting import forgotten_of
from shipworthy.adapters.shared.grants import rows_of
from shipworthy.adapters.shared.keys import new_key
from shipworthy.adapters.shared.lane import forks, outlived
from shipworthy.adapters.shared.queries import Ask, Reads
from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.journal import Batch, Claim, Fence, RunSummary, Tombstones
from shipworthy.domain.ledger import Outcome, Refused
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, Fenced, StoreClosed, StoreError

T = TypeVar("T")


class _Sessions:
    """What an open store has: threads, each with a session, and this process's part in them."""

    def __init__(self, server: Server, ttl: int, skew: int, readers: int) -> None:
        self.forks = forks()
        self.lease = Lease(ttl, skew)
        self.writer = Writer(server, self.lease)
        self.readers = [Session("reader", server) for _ in range(readers)]
        self.turn = itertools.cycle(self.readers)
        self.listener = Listener(server, self.writer.renew_now)
        for thread in (self.writer, *self.readers):
            thread.start()
        self.listener.start()

    def stop(self) -> None:
        """End the sessions that do not write."""
        for reader in self.readers:
            reader.stop()
        self.listener.stop()


class PostgresStore(Reads):
    """A durable store that many processes on many machines share.

    durability: "power" (the default) asks the server to sync every commit; "process" leaves that to the server's
    own time, so that its crash may cost the last commits. lease_ttl, clock_skew, patience: seconds. A worker that
    was stopped for longer than `lease_ttl` loses its runs; one whose session ended, by its death or the network's,
    loses them at once, but as one that may still be inside a body. `patience`: for how long a server that restarts
    or fails over is waited for. readers: sessions for reading, beside one that writes and one that listens.
    """

    _history = operations.HISTORY
    _now = "now_ms()"

    def __init__(
        self,
        dsn: str,
        *,
        durability: Literal["power", "process"] = "power",
        lease_ttl: float = 10.0,
        clock_skew: float = 0.5,
        patience: float = 5.0,
        readers: int = 2,
    ) -> None:
        if durability not in ("power", "process"):
            raise ConfigurationError(
                f"durability={durability!r} is unknown.", fix='Use "power" or "process".'
            )
        if lease_ttl <= 0 or clock_skew < 0 or not 0 <= patience <= 3600:
            raise ConfigurationError(
                f"lease_ttl={lease_ttl!r}, clock_skew={clock_skew!r}, patience={patience!r} are no such times.",
                fix="Pass seconds: lease_ttl above 0, clock_skew 0 or more, patience 0 to 3600.",
            )
        if type(readers) is not int or not 1 <= readers <= 64:
            raise ConfigurationError(f"readers={readers!r} is no number of sessions.", fix="Pass 1 to 64.")
        self._server = Server(checked(dsn), durability == "power", patience)
        self.place = place_of(dsn)
        self._ttl, self._skew, self._readers = max(int(lease_ttl * 1000), 1), int(clock_skew * 1000), readers
        self._opening = threading.Lock()
        self._closed = self._used = False
        self._sessions: _Sessions | None = None
        self._watched: dict[tuple[str, str], tuple[int, float]] = {}
        self.ledger = PostgresLedger(self)

    async def open(self) -> None:
        """Make or check the schema, and register a worker. Raises a StoreError that says what is wrong."""
        await self.use()
        self._used = True

    async def use(self) -> None:
        """Open it for its ledger alone."""
        if self._sessions is None:
            await asyncio.to_thread(self._open)

    async def leave(self) -> None:
        """Close it, unless it was opened for more than its ledger."""
        if not self._used:
            await self.close()

    def _open(self) -> None:
        with self._opening:
            if self._sessions is None:
                prepare(self._server)
                self._sessions, self._closed = (
                    _Sessions(self._server, self._ttl, self._skew, self._readers),
                    False,
                )

    async def close(self) -> None:
        """Finish what is queued, release this worker's runs, and end the sessions."""
        sessions, self._sessions, self._closed, self._used = self._sessions, None, True, False
        if sessions is not None and sessions.forks == forks():
            await asyncio.shield(self._end(sessions))

    async def _end(self, sessions: _Sessions) -> None:
        await asyncio.to_thread(sessions.writer.stop)
        sessions.listener.stopped.set()
        with contextlib.suppress(
            StoreError
        ):  # a server that is away sees by itself that the session has ended
            await next(sessions.turn).submit(lambda c: operations.resign(c, sessions.lease))
        await asyncio.to_thread(sessions.stop)

    # journal

    async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
        entry = entry_of(batch, scope)
        if entry.first != 1:
            raise Fenced(
                f"The first batch of run {run_id!r} starts at event {entry.first}; nothing was written."
            )
        fence: Fence | None = await outlived(
            self._ready().writer.submit(Append(scope, run_id, None, entry, token))
        )
        return fence

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        lease = self._ready().lease
        return await self._do(lambda c: operations.claim(c, lease, scope, run_id))

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        append = Append(fence.scope, fence.run_id, fence, entry_of(batch, fence.scope))
        outcomes: Sequence[Outcome] | None = await self._ready().writer.submit(append)
        return outcomes or ()

    async def release(self, fence: Fence) -> None:
        lease = self._ready().lease
        await self._do(lambda c: operations.release(c, lease, fence))

    async def news(self, scope: Scope, run_id: str, within: float) -> None:
        """Returns at a commit of any instance, once the run was asked after for the first time."""
        now = time.monotonic()
        key, until = self._watched.get((scope.tenant, run_id), (0, 0.0))
        if now > until:
            self._watched = {run: mark for run, mark in list(self._watched.items()) if mark[1] > now}
            key = await self._do(lambda c: operations.watch(c, scope, run_id))
            self._watched[scope.tenant, run_id] = key, now + operations.WATCHED / 2
        await self._ready().listener.wait(str(key), within)

    # directory

    async def orphans(self, operator: Operator) -> Sequence[RunSummary]:
        demand(operator)
        lease = self._ready().lease
        return await self._do(lambda c: operations.orphans(c, lease))

    async def prune(self, operator: Operator, ended_before: int) -> int:
        demand(operator)
        total = 0
        while gone := await self._do(lambda c: operations.prune_singles(c, ended_before)):
            total += gone
        for session in await self._do(lambda c: operations.old_sessions(c, ended_before)):
            total += await self._do(
                partial(operations.prune_session, session=session, ended_before=ended_before)
            )
        await self._do(operations.forget_expired)
        return total

    # signing

    async def signing_keys(self) -> Sequence[SigningKey]:
        return await self._do(signing.keys)

    async def rotate_signing_key(self, operator: Operator, keep: int = 4) -> SigningKey:
        demand(operator)
        key = new_key()
        await self._do(lambda c: signing.rotate(c, key, keep))
        return key

    async def revoke(self, scope: Scope, grant_id: str) -> bool:
        return await self._do(lambda c: signing.revoke(c, scope, grant_id))

    async def adopt(
        self, operator: Operator, keys: Sequence[SigningKey], grants: Sequence[Grant] = ()
    ) -> None:
        """Keys, then grants: no transaction sees both."""
        demand(operator)
        await self._do(lambda c: signing.adopt_keys(c, keys))
        await self._do(lambda c: signing.adopt_grants(c, rows_of(grants)))

    # erasure

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        await self._do(lambda c: erasing.bury(c, scope, tombstones))

    async def disown(self, scope: Scope, run_ids: Collection[str] = ()) -> Sequence[str]:
        await self._do(lambda c: erasing.disown(c, scope))
        return await forgotten_of(audit, scope, run_ids, read=self._do, write=self._do)

    async def scrub(self, operator: Operator) -> Sequence[str]:
        """Nothing: the store's role owns no table, and so may not have one written anew."""
        demand(operator)
        self._ready()
        return (erasing.REMAINS.format(name=self._server.name),)

    # lease

    def clock(self) -> int:
        """Milliseconds on the server's clock, as far as it is known here."""
        return self._ready().lease.clock()

    def start_by(self) -> int:
        """The expiry of this worker's lease that the server acknowledged last."""
        return self._ready().lease.start_by

    @property
    def skew(self) -> int:
        return self._skew if self._sessions is None else self._sessions.lease.slack

    # parts

    def _ready(self) -> _Sessions:
        if self._sessions is None:
            fix = None if self._closed else "Call `await store.open()` first."
            raise StoreClosed(f"{self._server.name} is not open.", fix=fix)
        if self._sessions.forks != forks():
            raise StoreClosed(
                f"{self._server.name} was opened before this process was forked.",
                fix="Open a store of its own in each process.",
            )
        return self._sessions

    # what its ledger asks for

    async def apply(self, work: Apply) -> Outcome | Refused:
        """Do operations on the ledger, in the same transactions as commits."""
        return await self._ready().writer.submit(work)

    async def operate(self, work: Callable[[Connection], T]) -> T:
        """Do *work* in a transaction in which an operator sees every tenant's rows."""

        def operated(connection: Connection) -> T:
            with operations.of(connection, "operator", "on"):
                return work(connection)

        return await self._do(operated)

    async def look(self, scope: Scope, query: str, values: Sequence[Any]) -> list[Any]:
        """The rows that a query gives a tenant."""
        return await self._asked(scope, lambda ask: ask(query, values))

    async def _asked(self, whose: Scope | Operator, work: Callable[[Ask], T]) -> T:
        seen = ("operator", "on") if isinstance(whose, Operator) else ("tenant", whose.tenant)

        def read(connection: Connection) -> T:
            with operations.of(connection, *seen):
                return work(partial(operations.ask, connection))

        return await self._do(read)

    async def _do(self, work: Callable[[Connection], T]) -> T:
        return await next(self._ready().turn).submit(work)
