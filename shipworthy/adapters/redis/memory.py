"""The memory store in Redis or Valkey: each step on a partition is one script, and all keys of a scope begin alike."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shipworthy.adapters.redis.connection import MEMORY, Connection, Script, script
from shipworthy.adapters.redis.durability import Losses, evicts, fields, losses
from shipworthy.adapters.shared.entries import demand
from shipworthy.adapters.shared.limits import PAGE, at_least_one, refuse
from shipworthy.adapters.shared.places import (
    entry_from,
    once,
    packed,
    place_of,
    raw,
    record_from,
    scope_bytes,
    scope_from,
    size_of,
    within,
)
from shipworthy.domain.memory import Changes, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import (
    ConfigurationError,
    MemoryClosed,
    MemoryConflict,
    MemoryForeign,
    MemoryStoreError,
    MemoryUnavailable,
    RecordTooLarge,
)

FORMAT = "1"
MOST = 64 * 2**20
"""Bytes that may be put at once: while they are written, the server does nothing else."""
AT_ONCE = 64
"""Partitions that are looked at, or erased, at once."""
SLICE = 500
"""Ids that one script has: while it runs, the server does nothing else."""
TURNS = 100
"""How often a put may be told that its partition was erased before it was made."""
LOSSES = Losses(
    "what was remembered is gone",
    "a restart forgets what was remembered since its last snapshot",
    "the last seconds of what was remembered are lost",
)
REMAINS = (
    "Until it is rewritten (BGREWRITEAOF), the append-only file of {name} has what was written, and with it the files "
    "of its replicas.",
    "Snapshots (RDB files) and backups of {name} that were made before keep what they have.",
)
_FIRST, _AFTER, _BELOW = b"[%s", b"(%s", b"(%s"
_log = logging.getLogger("shipworthy")


class RedisMemoryStore:
    """Partitions on a Redis (6.2 or newer) or Valkey server, shared by all processes.

    *server* is an address, redis://user:password@host:6379/0 (rediss:// for TLS), or a function that makes a
    `redis.asyncio.Redis` or `RedisCluster`, which must not decode answers, for each event loop. The keys of a partition
    begin with `{prefix:memory:`, its tenant, user and session, and `}`, which keeps them on one node of a cluster. An
    attempt may take *timeout* seconds to connect and as many to be answered; attempts are begun again for *patience*
    seconds: every step may come twice, and is done once. Then MemoryUnavailable.

    What was acknowledged is as durable as the server: `open` refuses one that evicts keys (MemoryStoreError), and
    warns, in the log "shipworthy", of what a restart of this one would lose: only `appendonly yes` with
    `appendfsync always` keeps all. A failover to a replica loses what had not reached it.
    """

    def __init__(
        self,
        server: str | Callable[[], Any],
        *,
        prefix: str = "shipworthy",
        timeout: float = 5.0,
        patience: float = 5.0,
    ) -> None:
        if not prefix or re.search(r"[{}\s]", prefix):
            raise ConfigurationError(
                f"prefix={prefix!r} cannot begin the keys of a memory.", fix="Pass a word without braces."
            )
        if not 0 < timeout < 1e9 or not 0 <= patience < 1e9:
            raise ConfigurationError(
                f"timeout={timeout!r} and patience={patience!r} are not times.", fix="Pass seconds."
            )
        self._prefix = prefix
        directory = f"{{{prefix}:memory}}"
        self._server = Connection(server, directory, timeout, patience, family=MEMORY, decode=False)
        self._opened = self._closed = False

    @property
    def name(self) -> str:
        return f"{self._server.name}, {self._prefix}"

    def __repr__(self) -> str:
        return f"<RedisMemoryStore: {self.name}>"

    async def open(self) -> None:
        self._closed = False
        if self._opened:
            return
        told = await self._server.run(script("inspect"))
        if not all([isinstance(part, bytes) for part in told]):
            raise ConfigurationError(
                "The client of the memory decodes what the server answers, and records are bytes.",
                fix="Make it with decode_responses=False.",
            )
        said = fields(b"\n".join(told).decode(errors="replace").replace("\r", ""))
        if policy := evicts(said):
            raise MemoryStoreError(
                f"{self._server.name} evicts keys when its memory is full (maxmemory-policy {policy}), and with them "
                "what was remembered.",
                fix="CONFIG SET maxmemory-policy noeviction, or keep the memory on a server of its own.",
            )
        [there] = await self._server.run(_script("stamp"), FORMAT)
        if there != FORMAT.encode():
            raise MemoryForeign(
                f"{self.name} has a memory of format {there.decode(errors='replace')[:20]!r}."
            )
        if loss := losses(said, await self._server.setting("appendfsync"), LOSSES):
            _log.warning("%s keeps the memory, but %s", self._server.name, loss)
        self._opened = True

    async def close(self) -> None:
        self._closed = True
        await self._server.close()

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        said = await self._directory(
            "stamp",
            FORMAT,
            "replace" if replace else "",
            raw(wanted.terms),
            raw(wanted.embedder),
            wanted.dimensions,
        )
        if len(said) != 4:
            raise MemoryForeign(f"{self.name} has a memory of another format.")
        _, terms, embedder, dimensions = said
        return Stamp(terms.decode(), embedder.decode(), int(dimensions))

    # a partition

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        refuse(scope, records)
        told: list[str | bytes] = []
        for record in (writing := once(records, replace)):
            told += [raw(record.id), record.kind, packed(record), record.data]
        self._refuse_large(writing)
        drawn, token = b"", _token()
        expected = ("", "") if at is None else (str(at.epoch), str(at.n))
        for _ in range(TURNS):
            said, *rest = await self._partition(
                "put", scope, token, "replace" if replace else "", *expected, _epoch(), drawn, *told
            )
            if said == b"at":
                return Mark(int(rest[0]), int(rest[1]))
            if said == b"conflict":
                raise MemoryConflict("Somebody else wrote to this partition meanwhile.")
            [drawn] = rest
            await self._directory("register", place_of(scope), secrets.token_bytes(16) + scope_bytes(scope))
        raise MemoryUnavailable(f"A partition in {self.name} is being erased again and again.")

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        found: list[Record] = []
        done = 0
        while done < len(ids):
            some = map(raw, ids[done : done + SLICE])
            looked_for, *rest = await self._partition("get", scope, PAGE, *some)
            done += int(looked_for)
            found += _records(rest)
        return found

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        limit = at_least_one(limit)
        epoch, n, more, *rest = await self._partition("changes", scope, since.epoch, since.n, limit, PAGE)
        here = Mark(int(epoch), int(n))
        entries = [entry_from(index, int(number)) for number, index in _rows(rest, 2)]
        mark = Mark(here.epoch, entries[-1].n) if more else here
        return Changes(entries, mark, since.epoch != here.epoch or since.n > here.n, bool(more))

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        """In answers of about 1 MiB each, so that neither the server nor the event loop is held up by one."""
        found: list[Record] = []
        while len(found) < limit:
            left = limit - len(found)
            more, *rest = await self._partition("page", scope, after, left, kind or "", PAGE)
            found += _records(rest)
            if not more:
                break
            after = found[-1].n
        return found

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        """Some hundred at a time, so that the server has time for others; each time is whole or not at all."""
        total = 0
        for first in range(0, len(ids), SLICE):
            some = map(raw, ids[first : first + SLICE])
            removed, left = await self._partition("remove", scope, _token(), _epoch(), *some)
            if removed and not left:
                await self._leave(place_of(scope))
            total += int(removed)
        return total

    # all of them

    async def within(self, scope: Scope) -> list[Scope]:
        covered = [found for _, found, _ in await self._registered(scope)]
        there = await self._each(covered, self._has)
        return [found for found, is_there in zip(covered, there, strict=True) if is_there]

    async def erase(self, scope: Scope) -> Erased:
        """Its own partition in any case, and every other one that is registered; who is about to make one has to
        register it again, and a place is forgotten last: so that erasing again completes what was interrupted."""
        registered = await self._registered(scope)
        covered = {place_of(scope): scope} | {place: found for place, found, _ in registered}
        records = await self._each(list(covered.values()), self._erase)
        for place, _, who in registered:
            await self._directory("drop", place, who)
        return Erased(sum(records), tuple([said.format(name=self._server.name) for said in REMAINS]))

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        demand(operator)
        found: list[tuple[str, Scope]] = []
        while len(found) < limit:
            first = _AFTER % after.encode() if after else b"-"
            some = await self._places(first, b"+", limit)
            if not some:
                break
            after = some[-1][0]
            there = await self._each([scope for _, scope, _ in some], self._has)
            found += [
                (place, scope) for (place, scope, _), is_there in zip(some, there, strict=True) if is_there
            ]
        return found[:limit]

    async def _registered(self, scope: Scope) -> list[tuple[str, Scope, bytes]]:
        """The places of the scope and of what is within it, the scopes, and who registered them."""
        own = place_of(scope).encode()
        first, end = within(scope)
        found = await self._places(_FIRST % own, _FIRST % own, -1)
        return found + await self._places(_FIRST % first.encode(), _BELOW % end.encode(), -1)

    async def _places(self, first: bytes, last: bytes, most: int) -> list[tuple[str, Scope, bytes]]:
        said = await self._directory("places", first, last, most)
        return [(place.decode(), scope_from(who[16:]), who) for place, who in _rows(said, 2)]

    async def _leave(self, place: str) -> None:
        """Forget the place of a partition that is gone, unless somebody is making it again."""
        for _, scope, who in await self._places(_FIRST % place.encode(), _FIRST % place.encode(), 1):
            if not await self._partition("has", scope, "close"):
                await self._directory("drop", place, who)

    async def _has(self, scope: Scope) -> int:
        return int(await self._partition("has", scope, ""))

    async def _erase(self, scope: Scope) -> int:
        return int(await self._partition("erase", scope))

    async def _each(self, scopes: Sequence[Scope], ask: Callable[[Scope], Any]) -> list[int]:
        said: list[int] = []
        for first in range(0, len(scopes), AT_ONCE):
            said += await asyncio.gather(*[ask(scope) for scope in scopes[first : first + AT_ONCE]])
        return said

    # the server

    def _key(self, scope: Scope) -> str:
        """What all keys of the scope's partition begin with, and no other's. Nothing else makes one."""
        return f"{{{self._prefix}:memory:{place_of(scope)}}}"

    async def _partition(self, name: str, scope: Scope, *arguments: str | int | bytes) -> Any:
        await self._ready()
        return await self._server.run(_script(name), *arguments, key=self._key(scope))

    async def _directory(self, name: str, *arguments: str | int | bytes) -> Any:
        await self._ready()
        return await self._server.run(_script(name), *arguments)

    async def _ready(self) -> None:
        if self._closed:
            raise MemoryClosed(f"The memory in {self.name} was closed.")
        if not self._opened:
            await self.open()

    def _refuse_large(self, records: Sequence[Record]) -> None:
        if sum(map(size_of, records)) > MOST:
            raise RecordTooLarge(
                f"{len(records)} records of more than {MOST // 2**20} MiB in all are too much to put at once.",
                fix="Put fewer at a time.",
            )


def _records(said: list[Any]) -> list[Record]:
    return [record_from(index, int(n), data) for n, index, data in _rows(said, 3)]


def _rows(values: Sequence[Any], width: int) -> Iterable[tuple[Any, ...]]:
    return zip(*[iter(values)] * width, strict=True)


def _token() -> str:
    return secrets.token_hex(16)


def _epoch() -> str:
    """Never 0, never one that was before."""
    return str(secrets.randbelow(2**63 - 1) + 1)


@functools.cache
def _script(name: str) -> Script:
    return script(f"memory_{name}", "memory")
