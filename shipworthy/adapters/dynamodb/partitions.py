"""How a partition changes, so that nobody ever sees a part of a change, and none is left half done.

A change is decided by one conditional write to the partition's meta, which says what is to be done (or where that is
written down). Then it is done, and then the meta says what is true now. Whoever finds a change that nobody seems to go
on with does the rest of it: every step asks that it is still the partition's present one, so that two may do it. What a
meta without a change says is true of every item that is read after it.

All of this waits, and runs on threads.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from shipworthy.adapters.dynamodb.connection import Changed, Connection
from shipworthy.adapters.dynamodb.layout import (
    INLINE,
    META,
    STAGED,
    Item,
    Meta,
    Place,
    Work,
    encode,
    head_of,
    meta_item,
    meta_of,
    number,
    parts_of,
    work_from,
)
from shipworthy.errors import MemoryUnavailable

T = TypeVar("T")

HELP_AFTER = 0.25
"""Seconds for which a change is left to whoever began it."""
POLL = 0.01
TOGETHER = 90
"""Writes in one transaction, which has at most 100, and at most 4 MB."""
TOGETHER_BYTES = 3_000_000
STALE = 600
"""Seconds after which work that was written down and not begun is thrown away."""
FRESH = "epoch = :epoch AND top = :top AND attribute_not_exists(t)"


class Partitions:
    """The partitions of one table."""

    def __init__(self, server: Connection) -> None:
        self._server = server
        self._table = server.table

    # reading

    def meta(self, place: Place) -> Meta | None:
        """What the partition's meta says at this moment."""
        said = self._server.ask("get_item", TableName=self._table, Key=place.meta, ConsistentRead=True)
        return meta_of(said["Item"]) if "Item" in said else None

    def there(self, place: Place) -> Meta | None:
        """What the meta of a partition that has records says when no change is under way."""
        meta = self._settled(place, for_reading=True)
        return None if meta is None or not meta.held else meta

    def steady(self, place: Place, read: Callable[[Meta], T], nothing: T) -> T:
        """What *read* gives while the partition does not change."""
        for _ in self._turns(place):
            before = self.there(place)
            if before is None:
                return nothing
            found = read(before)
            after = self.meta(place)
            if after is not None and after.token is None and _mark(after) == _mark(before):
                return found
        raise self._restless()

    def query(self, **request: Any) -> Iterator[Item]:
        """All items of a query, read consistently."""
        start: Item = {}
        while True:
            said = self._server.ask("query", TableName=self._table, ConsistentRead=True, **request, **start)
            yield from said["Items"]
            if "LastEvaluatedKey" not in said:
                return
            start = {"ExclusiveStartKey": said["LastEvaluatedKey"]}

    def items(self, keys: Iterable[Item], **options: Any) -> list[Item]:
        """The items of these keys, each of them once, that are there, in no order."""
        found: list[Item] = []
        asked = list(keys)
        while asked:
            wanted = {self._table: {"Keys": asked[:100], "ConsistentRead": True, **options}}
            said = self._server.ask("batch_get_item", RequestItems=wanted)
            found += said["Responses"].get(self._table, [])
            left = said["UnprocessedKeys"].get(self._table, {}).get("Keys", [])
            if len(left) == len(asked[:100]):
                self._server.rest(10 * POLL)
            asked = asked[100:] + left
        return found

    # changing

    def change(
        self, place: Place, plan: Callable[[Meta | None], Work | None]
    ) -> tuple[Meta | None, Work | None]:
        """Do what *plan* makes of the partition's meta; asked again when somebody else was quicker. None: nothing is to
        be done. Gives the meta that was planned on, and what was done."""
        for _ in self._turns(place):
            meta = self._settled(place)
            work = plan(meta if meta is not None and meta.held else None)
            if work is None:
                return meta, None
            token = f"{int(time.time() * 1000):013}-{secrets.token_hex(8)}"
            try:
                parts = self._begin(place, meta, token, work)
            except Changed:
                continue
            self._finish(place, token, work, parts)
            return meta, work
        raise self._restless()

    def erase(self, place: Place) -> int:
        """Remove all that the partition has, and itself; how many records there were."""
        records = 0
        for _ in self._turns(place):
            meta = self.meta(place)
            if meta is not None and meta.erasing:
                records += self._help(place, meta)
                continue
            if meta is not None and meta.token is not None:
                meta = self._settled(place)
            if meta is None:
                return records
            token, work = secrets.token_hex(16), Work("erase", new_epoch(), 0, meta.held)
            try:
                parts = self._begin(place, meta, token, work)
            except Changed:
                continue
            self._finish(place, token, work, parts)
            return records + meta.held
        raise self._restless()

    def _begin(self, place: Place, meta: Meta | None, token: str, work: Work) -> int:
        """Decide it; in how many parts it is written down. Raises Changed where the partition is not as *meta* says any
        more."""
        data, parts = encode(work), list[bytes]()
        large = len(data) > INLINE
        if large and meta is None:
            meta = self._make(place, work.epoch)
        if meta is not None and (large or work.removed):
            self._sweep(place, meta)
        if meta is not None and large:
            parts, data = parts_of(data), b""
            self._stage(place, meta, token, parts)
        head = {"t": {"S": token}, "w": {"B": head_of(work, len(parts), data)}}
        if meta is None:
            self._make(place, work.epoch, head)
            return 0
        # Who has written down what to do before an erasure must not do it after.
        now = work.epoch if work.kind == "erase" else meta.epoch
        values: Item = {":epoch": number(meta.epoch), ":top": number(meta.top), ":now": number(now)}
        update = {
            "Key": place.meta,
            "UpdateExpression": "SET t = :t, w = :w, epoch = :now",
            "ConditionExpression": FRESH,
            "ExpressionAttributeValues": values | {f":{name}": value for name, value in head.items()},
        }
        check = [self._has(place.part(token, 0))] if parts else []
        try:
            self._write([{"Update": update}, *check])
        except Changed:
            self._unstage(place, token, len(parts))
            raise
        return len(parts)

    def _make(self, place: Place, epoch: int, head: Item | None = None) -> Meta:
        """A partition and its entry in the directory: never one without the other."""
        made = meta_item(place, epoch) | (head or {})
        self._write(
            [
                {"Put": {"Item": made, "ConditionExpression": "attribute_not_exists(pk)"}},
                {"Put": {"Item": place.entry | {"s": {"B": place.scope}}}},
            ]
        )
        return meta_of(made)

    def _stage(self, place: Place, meta: Meta, token: str, parts: list[bytes]) -> None:
        """Write down what is to be done, where a partition is that erasing finds."""
        for index, part in enumerate(parts):
            same = {
                "Key": place.meta,
                "ConditionExpression": "epoch = :epoch",
                "ExpressionAttributeValues": {":epoch": number(meta.epoch)},
            }
            item = place.part(token, index) | {"b": {"B": part}}
            self._write([{"ConditionCheck": same}, {"Put": {"Item": item}}])

    def _unstage(self, place: Place, token: str, parts: int) -> None:
        for index in range(parts):
            self._server.ask("delete_item", TableName=self._table, Key=place.part(token, index))

    def _finish(self, place: Place, token: str, work: Work, parts: int) -> None:
        """Do what was decided, or what is left of it; nothing where somebody else has done it."""
        try:
            if work.kind == "erase" or not work.held:
                self._empty(place, token)
            else:
                self._do(place, token, work)
                self._unstage(place, token, parts)
                self._conclude(place, token, work)
        except Changed:
            return

    def _do(self, place: Place, token: str, work: Work) -> None:
        writes = [({"Put": {"Item": place.item(put)}}, put.size) for put in work.puts]
        writes += [({"Delete": {"Key": place.record(sk)}}, 1000) for sk in work.removed]
        for together in _together(writes):
            self._write([self._during(place, token), *together])

    def _empty(self, place: Place, token: str) -> None:
        """Remove every item, the meta last: also what was written down and never begun."""
        keys = [key for key in self._keys(place) if key["sk"] != META]
        deletes: list[Item] = [{"Delete": {"Key": key}} for key in keys]
        while len(deletes) > TOGETHER:
            self._write([self._during(place, token), *deletes[:TOGETHER]])
            del deletes[:TOGETHER]
        gone = {"Key": place.meta, **self._present(token)}
        self._write([{"Delete": gone}, {"Delete": {"Key": place.entry}}, *deletes])

    def _conclude(self, place: Place, token: str, work: Work) -> None:
        said = {":epoch": number(work.epoch), ":top": number(work.top), ":held": number(work.held)}
        present = self._present(token)
        present["ExpressionAttributeValues"] |= said
        update = {
            "Key": place.meta,
            "UpdateExpression": "SET epoch = :epoch, top = :top, held = :held REMOVE t, w",
            **present,
        }
        self._write([{"Update": update}])

    def _sweep(self, place: Place, meta: Meta) -> None:
        """Throw away what was written down by somebody who did not come to begin it."""
        before = f"{STAGED}{int((time.time() - STALE) * 1000):013}"
        for key in list(self._keys(place, STAGED, before)):
            if key["sk"]["S"].startswith(f"{STAGED}{meta.token}#"):
                continue
            token = key["sk"]["S"].removeprefix(STAGED).partition("#")[0]
            other = {
                "Key": place.meta,
                "ConditionExpression": "attribute_not_exists(t) OR t <> :t",
                "ExpressionAttributeValues": {":t": {"S": token}},
            }
            try:
                self._write([{"ConditionCheck": other}, {"Delete": {"Key": key}}])
            except Changed:
                continue

    def _keys(self, place: Place, first: str = "", last: str = "") -> Iterator[Item]:
        values, expression = {":pk": place.pk}, "pk = :pk"
        if first:
            values |= {":first": {"S": first}, ":last": {"S": last}}
            expression += " AND sk BETWEEN :first AND :last"
        return self.query(
            KeyConditionExpression=expression,
            ExpressionAttributeValues=values,
            ProjectionExpression="pk, sk",
        )

    # others' changes

    def _settled(self, place: Place, *, for_reading: bool = False) -> Meta | None:
        """The meta when no change is under way. To a reader, what is being erased is gone."""
        seen, since = "", 0.0
        for _ in self._turns(place):
            meta = self.meta(place)
            if meta is None or meta.token is None:
                return meta
            if for_reading and meta.erasing:
                return None
            if meta.token != seen:
                seen, since = meta.token, time.monotonic()
            if time.monotonic() - since > HELP_AFTER:
                self._help(place, meta)
        raise self._restless()

    def _help(self, place: Place, meta: Meta) -> int:
        """Do the rest of what somebody else decided; how many records an erasure takes."""
        assert meta.token is not None
        assert meta.head is not None
        head, data = meta.head, meta.head.work
        work = Work(head.kind, head.epoch, head.top, head.held)
        if head.parts:
            keys = [place.part(meta.token, index) for index in range(head.parts)]
            found = {item["sk"]["S"]: item["b"]["B"] for item in self.items(keys)}
            data = b"".join([found[key["sk"]["S"]] for key in keys]) if len(found) == len(keys) else b""
        if data:
            work = work_from(data)
        self._finish(place, meta.token, work, head.parts)
        return work.held if work.kind == "erase" else 0

    def _turns(self, place: Place) -> Iterator[int]:
        """Turns, as long as the partition changes, or patience lasts; ten times that at most."""
        began = since = time.monotonic()
        known: object = None
        turn = 0
        while True:
            yield turn
            turn += 1
            now = time.monotonic()
            if not self._server.rest(min(POLL * turn, 0.1)):
                return
            if now - since > self._server.patience:
                meta = self.meta(place)
                present = None if meta is None else (meta.epoch, meta.top, meta.token)
                if present == known or now - began > 10 * self._server.patience:
                    return
                known, since = present, now

    def _restless(self) -> MemoryUnavailable:
        return MemoryUnavailable(
            f"{self._server.name} has a partition that others change without pause.",
            fix="Try again; write to it from fewer places at once.",
        )

    # requests

    def _write(self, writes: list[Item]) -> None:
        """All of it or nothing. Raises Changed."""
        for write in writes:
            [said] = write.values()
            said["TableName"] = self._table
        request = secrets.token_hex(16)
        self._server.ask("transact_write_items", TransactItems=writes, ClientRequestToken=request)

    def _present(self, token: str) -> Item:
        return {"ConditionExpression": "t = :t", "ExpressionAttributeValues": {":t": {"S": token}}}

    def _during(self, place: Place, token: str) -> Item:
        return {"ConditionCheck": {"Key": place.meta, **self._present(token)}}

    def _has(self, key: Item) -> Item:
        return {"ConditionCheck": {"Key": key, "ConditionExpression": "attribute_exists(pk)"}}


def _together(writes: list[tuple[Item, int]]) -> Iterator[list[Item]]:
    """Writes in transactions, none of which is too large."""
    some: list[Item] = []
    size = 0
    for write, large in writes:
        if some and (len(some) >= TOGETHER or size + large > TOGETHER_BYTES):
            yield some
            some, size = [], 0
        some.append(write)
        size += large
    if some:
        yield some


def _mark(meta: Meta) -> tuple[int, int]:
    return meta.epoch, meta.top


def new_epoch() -> int:
    """Never 0, never one that was before."""
    return secrets.randbelow(2**63 - 1) + 1
