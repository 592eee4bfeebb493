"""Items of the table, and their keys. Nothing else makes a key of a scope.

    pk          sk              attributes
    store       format          f
    store       stamp           f: the stamp
    places      <place>         s: the scope of a partition that was made
    p#<place>   meta            epoch, top (the highest n), held (how many records); while it is being changed: t (a
                                token), w (what is being done)
    p#<place>   r#<id>          n, k (its kind), e (what it is found by), d (what it says); by n in the index by_n
    p#<place>   s#<token>#<i>   b: a part of what is to be done, where it does not fit into the partition's meta

What `w` says is a `Work`. An item has at most 400 KB, and what is in the index counts twice.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shipworthy.adapters.shared.places import entry_from, escaped, packed, place_of, record_from, scope_bytes
from shipworthy.domain.memory import Entry, Record, Stamp
from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryForeign, RecordTooLarge

FORMAT = "1"
INDEX = "by_n"
LARGEST_ITEM = 400 * 1024 - 1024
LONGEST_KEY = 1000
INLINE = 150_000
"""Bytes of work that the partition's meta holds."""
PART = 350_000
"""Bytes of work that one other item holds."""

META = {"S": "meta"}
RECORDS, STAGED = "r#", "s#"
PLACES = {"S": "places"}
FORMAT_KEY = {"pk": {"S": "store"}, "sk": {"S": "format"}}
STAMP_KEY = {"pk": {"S": "store"}, "sk": {"S": "stamp"}}

Item = dict[str, Any]


class Put(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A record that is to be there."""

    sk: str
    n: int
    kind: str
    index: bytes
    data: bytes

    @property
    def size(self) -> int:
        return 2 * len(self.index) + len(self.data) + 1024


class Work(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A change of a partition that is decided, and done by whoever comes by: what is written and removed, then what
    its meta says. "erase": everything of it is removed, and `held` is how much that is."""

    kind: Literal["change", "erase"]
    epoch: int
    top: int
    held: int
    puts: list[Put] = []
    removed: list[str] = []


class Head(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where the work is: in so many parts, or here; and what the meta says in the end. Where a part is missing, the
    work was done, for then they are removed."""

    kind: Literal["change", "erase"]
    epoch: int
    top: int
    held: int
    parts: int
    work: bytes


class Meta(msgspec.Struct, frozen=True, gc=False):
    """What a partition's meta says."""

    epoch: int
    top: int
    held: int
    token: str | None
    head: Head | None

    @property
    def erasing(self) -> bool:
        return self.head is not None and self.head.kind == "erase"


def head_of(work: Work, parts: int, data: bytes) -> bytes:
    """What the meta says of it while it is being done."""
    return encode(Head(work.kind, work.epoch, work.top, work.held, parts, data))


encode = msgspec.msgpack.Encoder().encode
_stamp = msgspec.msgpack.Decoder(Stamp).decode
_work = msgspec.msgpack.Decoder(Work).decode
_head = msgspec.msgpack.Decoder(Head).decode


class Place:
    """A scope's partition: every key of it, and no other's."""

    def __init__(self, scope: Scope) -> None:
        self.place = place_of(scope)
        self.scope = scope_bytes(scope)
        self.pk = {"S": f"p#{self.place}"}
        self.meta = {"pk": self.pk, "sk": META}
        self.entry = {"pk": PLACES, "sk": {"S": self.place}}

    def record(self, sk: str) -> Item:
        return {"pk": self.pk, "sk": {"S": sk}}

    def part(self, token: str, number: int) -> Item:
        return {"pk": self.pk, "sk": {"S": f"{STAGED}{token}#{number:06}"}}

    def item(self, put: Put) -> Item:
        said = {"n": number(put.n), "k": {"S": put.kind}, "e": {"B": put.index}, "d": {"B": put.data}}
        return self.record(put.sk) | said


def number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def key_of(id: str) -> str:
    """The sort key of a record."""
    return RECORDS + escaped(id)


def put_of(record: Record, n: int) -> Put:
    """What is written of *record*. Raises RecordTooLarge."""
    put = Put(key_of(record.id), n, record.kind, packed(record), record.data)
    if put.size + LONGEST_KEY > LARGEST_ITEM:
        raise RecordTooLarge(
            f"A record of {len(record.data):,} bytes, found by {len(record.terms) + len(record.vector):,}, is larger "
            "than DynamoDB's 400 KB, of which what it is found by takes twice its size."
        )
    return put


def record_of(item: Item) -> Record:
    return record_from(item["e"]["B"], int(item["n"]["N"]), item["d"]["B"])


def entry_of(item: Item) -> Entry:
    return entry_from(item["e"]["B"], int(item["n"]["N"]))


def meta_of(item: Item) -> Meta:
    """What the item says. Raises MemoryForeign."""
    try:
        token, head = item.get("t"), item.get("w")
        return Meta(
            int(item["epoch"]["N"]),
            int(item["top"]["N"]),
            int(item["held"]["N"]),
            token["S"] if token else None,
            _head(head["B"]) if head else None,
        )
    except (KeyError, msgspec.DecodeError) as error:
        raise MemoryForeign(f"The meta of a partition is not one of this format: {error}.") from None


def meta_item(place: Place, epoch: int) -> Item:
    """A partition that was just made."""
    return place.meta | {"epoch": number(epoch), "top": number(0), "held": number(0)}


def work_from(data: bytes) -> Work:
    """What was decided. Raises MemoryForeign."""
    try:
        return _work(data)
    except msgspec.DecodeError as error:
        raise MemoryForeign(f"What is to be done with a partition is not of this format: {error}.") from None


def parts_of(data: bytes) -> list[bytes]:
    return [data[start : start + PART] for start in range(0, len(data), PART)]


def table_of(name: str) -> Item:
    """What CreateTable takes."""
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
            {"AttributeName": "n", "AttributeType": "N"},
        ],
        "LocalSecondaryIndexes": [
            {
                "IndexName": INDEX,
                "KeySchema": [
                    {"AttributeName": "pk", "KeyType": "HASH"},
                    {"AttributeName": "n", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["e", "k"]},
            }
        ],
    }


def is_ours(described: Item) -> bool:
    """Whether a table that is there has the keys and the index of ours."""
    wanted = table_of("")
    keys = {each["AttributeName"]: each["AttributeType"] for each in described["AttributeDefinitions"]}
    indexes = {each["IndexName"]: each for each in described.get("LocalSecondaryIndexes", ())}
    if described["KeySchema"] != wanted["KeySchema"] or INDEX not in indexes:
        return False
    projection = indexes[INDEX]["Projection"]
    shown = projection["ProjectionType"] == "ALL" or {"e", "k"} <= set(projection.get("NonKeyAttributes", ()))
    return (
        shown
        and indexes[INDEX]["KeySchema"] == wanted["LocalSecondaryIndexes"][0]["KeySchema"]
        and all([keys.get(name) == kind for name, kind in (("pk", "S"), ("sk", "S"), ("n", "N"))])
    )


def stamp_item(stamp: Stamp) -> Item:
    return {"f": {"B": encode(stamp)}}


def stamp_from(item: Item) -> Stamp:
    """What the item says. Raises MemoryForeign."""
    try:
        return _stamp(item["f"]["B"])
    except (KeyError, msgspec.DecodeError) as error:
        raise MemoryForeign(f"The stamp of a memory is not one of this format: {error}.") from None
