"""The memory store in DynamoDB: one table, one item collection for each partition, boto3 on threads."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from shipworthy.adapters.dynamodb.connection import THREADS, Changed, Connection, NoTable
from shipworthy.adapters.dynamodb.layout import (
    FORMAT,
    FORMAT_KEY,
    INDEX,
    PLACES,
    STAMP_KEY,
    Item,
    Meta,
    Place,
    Work,
    entry_of,
    is_ours,
    key_of,
    meta_of,
    number,
    put_of,
    record_of,
    stamp_from,
    stamp_item,
    table_of,
)
from shipworthy.adapters.dynamodb.partitions import Partitions, new_epoch
from shipworthy.adapters.shared.entries import demand
from shipworthy.adapters.shared.limits import at_least_one, cut, refuse
from shipworthy.adapters.shared.places import once, place_of, scope_from, within
from shipworthy.adapters.shared.turns import Turns
from shipworthy.domain.memory import NOWHERE, Changes, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import (
    ConfigurationError,
    MemoryClosed,
    MemoryConflict,
    MemoryForeign,
    MemoryUnavailable,
)

T = TypeVar("T")

MADE_WITHIN = 60.0
"""Seconds in which a new table is there."""
AT_ONCE = 4
"""Partitions that are erased at once."""
REMAINS = (
    "Point-in-time recovery of the table {name}, where it is on, has what was written in up to 35 days before; so do "
    "backups and exports that were made of it.",
    "A stream of the table, where it is on, has what was written and removed in the last 24 hours.",
)


class DynamoDBMemoryStore:
    """Partitions in one DynamoDB table, which *create* makes where it is not there; without a *client* of boto3's, one
    is made for the *region*, or for the server at *endpoint_url*, with the credentials that boto3 finds.

    Requests wait on sixteen threads of the store's, of which one tenant has at most half. Each of their attempts may
    take *timeout* seconds to connect and as many to be answered; throttled and lost ones are begun again for *patience*
    seconds. Then MemoryUnavailable. Every read is consistent, and what is acknowledged is durable.

    A record has at most 400 KB, of which what it is found by takes twice its size (RecordTooLarge); a partition has at
    most 10 GB (MemoryFull). New partitions are entered in one list, which takes some 500 of them in a second.
    """

    def __init__(
        self,
        table: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        create: bool = False,
        client: Any = None,
        timeout: float = 5.0,
        patience: float = 10.0,
    ) -> None:
        if not isinstance(table, str) or not re.fullmatch(r"[A-Za-z0-9_.\-]{3,255}|arn:.+", table):
            raise ConfigurationError(
                f"{table!r} is not the name of a DynamoDB table.",
                fix="Use from 3 to 255 letters, digits, `_`, `-` and `.`.",
            )
        if not 0 < timeout < 1e9 or not 0 <= patience < 1e9:
            raise ConfigurationError(
                f"timeout={timeout!r} and patience={patience!r} are not times.", fix="Pass seconds."
            )
        self._server = Connection(table, region, endpoint_url, client, timeout, patience)
        self._partitions = Partitions(self._server)
        self._create = create
        self._tenants, self._changing = Turns(THREADS // 2), Turns(1)
        self._opened = self._closed = False

    @property
    def name(self) -> str:
        return self._server.name

    def __repr__(self) -> str:
        return f"<DynamoDBMemoryStore: {self.name}>"

    async def open(self) -> None:
        self._closed = False
        if not self._opened:
            await self._server.run(self._make_ready)
            self._opened = True

    async def close(self) -> None:
        self._closed, self._opened = True, False
        await self._server.close()

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        return await self._run(None, self._stamp, wanted, replace)

    # a partition

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        refuse(scope, records)
        return await self._change(scope, self._put, Place(scope), once(records, replace), replace, at)

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        place = Place(scope)
        keys = {id: place.record(key_of(id)) for id in ids}

        def read(meta: Meta) -> list[Record]:
            found = {record.id: record for record in map(record_of, self._partitions.items(keys.values()))}
            return [found[id] for id in ids if id in found]

        if not keys:
            return []
        return await self._run(scope, self._partitions.steady, place, read, list[Record]())

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        return await self._run(scope, self._changes, Place(scope), since, at_least_one(limit))

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        place = Place(scope)

        def read(meta: Meta) -> list[Record]:
            items = self._numbered(place, after, meta.top, limit, kind, Select="ALL_ATTRIBUTES")
            return [record_of(item) for item in items]

        return await self._run(scope, self._partitions.steady, place, read, list[Record]())

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        return await self._change(scope, self._remove, Place(scope), sorted({key_of(id) for id in ids}))

    # all of them

    async def within(self, scope: Scope) -> list[Scope]:
        return await self._run(scope, self._within, scope)

    async def erase(self, scope: Scope) -> Erased:
        """Its own partition and every other one that is entered; one that was being erased is still entered, so that
        erasing again completes it."""
        covered = [Place(each) for each in await self._run(scope, self._covered, scope)]
        records = 0
        for first in range(0, len(covered), AT_ONCE):
            places = covered[first : first + AT_ONCE]
            some = [self._run(scope, self._partitions.erase, place) for place in places]
            records += sum(await asyncio.gather(*some))
        return Erased(records, tuple([said.format(name=self._server.table) for said in REMAINS]))

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        demand(operator)
        return await self._run(None, self._everything, after, limit)

    # on threads

    async def _change(self, scope: Scope, work: Callable[..., T], *arguments: Any) -> T:
        """Those who change a partition through this store do not get into each other's way, and wait on no thread:
        others need them."""
        async with self._changing.one(scope):
            return await self._run(scope, work, *arguments)

    async def _run(self, scope: Scope | None, work: Callable[..., T], *arguments: Any) -> T:
        """What *work* gives, on a thread: however much a tenant has to do, some are left for the others."""
        if self._closed:
            raise MemoryClosed(f"The memory in {self.name} was closed.")
        if not self._opened:
            await self.open()
        async with self._tenants.one(None if scope is None else scope.tenant):
            return await self._server.run(work, *arguments)

    def _put(self, place: Place, records: list[Record], replace: bool, at: Mark | None) -> Mark:
        keys = [place.record(key_of(record.id)) for record in records]
        for record in records:
            put_of(record, 0)

        def plan(meta: Meta | None) -> Work | None:
            if at is not None and at != _mark(meta):
                raise MemoryConflict("Somebody else wrote to this partition meanwhile.")
            known = self._known(keys) if meta is not None else set()
            writing = [record for record in records if replace or key_of(record.id) not in known]
            if not writing:
                return None
            epoch, top, held = (new_epoch(), 0, 0) if meta is None else (meta.epoch, meta.top, meta.held)
            puts = [put_of(record, top + index) for index, record in enumerate(writing, 1)]
            held += len({put.sk for put in puts} - known)
            return Work("change", epoch, puts[-1].n, held, puts)

        meta, work = self._partitions.change(place, plan)
        return _mark(meta) if work is None else Mark(work.epoch, work.top)

    def _remove(self, place: Place, keys: list[str]) -> int:
        def plan(meta: Meta | None) -> Work | None:
            if meta is None or not keys:
                return None
            known = self._known([place.record(key) for key in keys])
            if not known:
                return None
            return Work("change", new_epoch(), meta.top, meta.held - len(known), removed=sorted(known))

        _, work = self._partitions.change(place, plan)
        return 0 if work is None else len(work.removed)

    def _changes(self, place: Place, since: Mark, limit: int) -> Changes:
        meta = self._partitions.there(place)
        here = _mark(meta)
        if meta is None:
            return Changes([], here, since != here, more=False)
        reset = since.epoch != here.epoch or since.n > here.n
        found = self._numbered(place, 0 if reset else since.n, here.n, limit + 1)
        entries, more = cut([entry_of(item) for item in found], limit)
        mark = Mark(here.epoch, entries[-1].n) if more else here
        return Changes(entries, mark, reset, more)

    def _numbered(
        self, place: Place, after: int, top: int, limit: int, kind: Kind | None = None, **options: Any
    ) -> list[Item]:
        """Records of the partition by n, those above *after* and up to *top*."""
        if after >= top or limit < 1:
            return []
        values = {":pk": place.pk, ":after": number(after + 1), ":top": number(top)}
        if kind is None:
            options["Limit"] = limit
        else:
            values[":kind"] = {"S": kind}
            options["FilterExpression"] = "k = :kind"
        found = self._partitions.query(
            IndexName=INDEX,
            KeyConditionExpression="pk = :pk AND n BETWEEN :after AND :top",
            ExpressionAttributeValues=values,
            **options,
        )
        return list(itertools.islice(found, limit))

    def _known(self, keys: list[Item]) -> set[str]:
        """Which of these records are there."""
        return {item["sk"]["S"] for item in self._partitions.items(keys, ProjectionExpression="sk")}

    # the directory

    def _covered(self, scope: Scope) -> list[Scope]:
        """The scope, and the partitions within it that are entered. Nothing is within a session."""
        if scope.session is not None:
            return [scope]
        first, end = within(scope)
        found = self._places("sk BETWEEN :a AND :b", first, end)
        return [scope, *[_scope(item) for item in found if item["sk"]["S"] != end]]

    def _within(self, scope: Scope) -> list[Scope]:
        covered = self._covered(scope)
        there = self._there(covered)
        return [each for each in covered if place_of(each) in there]

    def _everything(self, after: str, limit: int) -> list[tuple[str, Scope]]:
        found: list[tuple[str, Scope]] = []
        while len(found) < limit:
            some = [_scope(item) for item in itertools.islice(self._places("sk > :a", after or " "), limit)]
            if not some:
                break
            after, there = place_of(some[-1]), self._there(some)
            found += [(place_of(each), each) for each in some if place_of(each) in there]
        return found[:limit]

    def _places(self, condition: str, *names: str) -> Any:
        values = {f":{letter}": {"S": name} for letter, name in zip("ab", names, strict=False)}
        return self._partitions.query(
            KeyConditionExpression=f"pk = :pk AND {condition}",
            ExpressionAttributeValues={":pk": PLACES, **values},
        )

    def _there(self, scopes: list[Scope]) -> set[str]:
        """Places of those that have records."""
        places = {Place(scope).pk["S"]: Place(scope) for scope in scopes}
        there: set[str] = set()
        for item in self._partitions.items([place.meta for place in places.values()]):
            meta, place = meta_of(item), places[item["pk"]["S"]]
            if meta.held if meta.token is None else self._partitions.there(place):
                there.add(place.place)
        return there

    # the table

    def _make_ready(self) -> None:
        described = self._described()
        if described is None:
            if not self._create:
                raise self._server.no_table()
            described = self._made()
        if not is_ours(described):
            raise MemoryForeign(f"{self.name} has other keys, or no local index {INDEX}.")
        known = self._put_new(FORMAT_KEY | {"f": {"S": FORMAT}})
        if known is not None and known.get("f") != {"S": FORMAT}:
            raise MemoryForeign(f"{self.name} has a memory of another format.")

    def _described(self) -> Item | None:
        try:
            described: Item = self._server.ask("describe_table", TableName=self._server.table)["Table"]
        except NoTable:
            return None
        return described

    def _made(self) -> Item:
        try:
            self._server.ask("create_table", **table_of(self._server.table))
        except Changed:
            pass  # somebody else makes it
        until = time.monotonic() + MADE_WITHIN
        while time.monotonic() < until:
            described = self._described()
            if described is not None and described["TableStatus"] == "ACTIVE":
                return described
            if not self._server.rest(0.2):
                break
        raise MemoryUnavailable(f"{self.name} was made, and is not there after {MADE_WITHIN:.0f} s.")

    def _stamp(self, wanted: Stamp, replace: bool) -> Stamp:
        item = STAMP_KEY | stamp_item(wanted)
        if replace:
            self._server.ask("put_item", TableName=self._server.table, Item=item)
            return wanted
        known = self._put_new(item)
        return wanted if known is None else stamp_from(known)

    def _put_new(self, item: Item) -> Item | None:
        """Put it where nothing is; what is there, otherwise."""
        try:
            self._server.ask(
                "put_item",
                TableName=self._server.table,
                Item=item,
                ConditionExpression="attribute_not_exists(pk)",
            )
        except Changed:
            pass
        else:
            return None
        key = {"pk": item["pk"], "sk": item["sk"]}
        said = self._server.ask("get_item", TableName=self._server.table, Key=key, ConsistentRead=True)
        known: Item = said["Item"]
        return known


def _mark(meta: Meta | None) -> Mark:
    return NOWHERE if meta is None or not meta.held else Mark(meta.epoch, meta.top)


def _scope(item: Item) -> Scope:
    return scope_from(item["s"]["B"])
