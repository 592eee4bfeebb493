"""Where a scope's partition is in a store that finds things by text: one text for each scope, and none for two.

Every key of such a store is made from `place_of`; `within` says which places belong to a scope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from shipworthy.domain.memory import Entry, Kind, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryForeign

LONGEST = 250
"""Characters that a part of a place may have. What is longer is there by its digest."""


class Packed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What of a record its partition's index needs, as it is kept; `n` is beside it."""

    id: bytes
    kind: Kind
    at: int
    weight: float
    terms: bytes
    vector: bytes


_encode = msgspec.msgpack.Encoder().encode
_packed = msgspec.msgpack.Decoder(Packed).decode
_names = msgspec.msgpack.Decoder(tuple[bytes, bytes | None, bytes | None]).decode


def place_of(scope: Scope) -> str:
    """The place of the scope's partition: at most some 750 characters, of ASCII, without braces, blanks or `#`."""
    parts = ["t:" + escaped(scope.tenant)]
    if scope.user is not None:
        parts.append("u:" + escaped(scope.user))
    if scope.session is not None:
        parts.append("s:" + escaped(scope.session))
    return "/".join(parts)


def within(scope: Scope) -> tuple[str, str]:
    """What lies between these two, without the second, is within the scope, and so is its own place."""
    first = place_of(scope) + "/"
    return first, first[:-1] + "0"  # the character after "/", which no part has in it


def escaped(name: str) -> str:
    """*name* in letters, digits and `%._-`: no two names become one. Any text will do, lone surrogates too."""
    text = quote(raw(name), safe="").replace("~", "%7E")
    return text if len(text) <= LONGEST else "~" + hashlib.sha256(raw(name)).hexdigest()


def raw(name: str) -> bytes:
    """*name* as bytes, whatever is in it."""
    return name.encode(errors="surrogatepass")


def named(name: bytes) -> str:
    """What `raw` was given."""
    return name.decode(errors="surrogatepass")


def scope_bytes(scope: Scope) -> bytes:
    """The scope, to be read back from the directory: a place may have digests in it."""
    return _encode(
        [None if part is None else raw(part) for part in (scope.tenant, scope.user, scope.session)]
    )


def scope_from(data: bytes) -> Scope:
    """What `scope_bytes` was given."""
    tenant, user, session = _names(data)
    return Scope(
        named(tenant), None if user is None else named(user), None if session is None else named(session)
    )


def packed(record: Record) -> bytes:
    """What of *record* its partition's index needs."""
    return _encode(Packed(raw(record.id), record.kind, record.at, record.weight, record.terms, record.vector))


def entry_from(data: bytes, n: int) -> Entry:
    """What `packed` was given, for an index. Raises MemoryForeign."""
    it = _unpacked(data)
    return Entry(named(it.id), n, it.kind, it.at, it.weight, it.terms, it.vector)


def record_from(data: bytes, n: int, said: bytes) -> Record:
    """What `packed` was given, with the record's own data. Raises MemoryForeign."""
    it = _unpacked(data)
    return Record(
        id=named(it.id),
        kind=it.kind,
        data=said,
        at=it.at,
        weight=it.weight,
        terms=it.terms,
        vector=it.vector,
        n=n,
    )


def once(records: Iterable[Record], replace: bool) -> list[Record]:
    """Each id once: the first of it, or with *replace* the last."""
    chosen: dict[str, Record] = {}
    for record in records:
        if replace:
            chosen.pop(record.id, None)
            chosen[record.id] = record
        else:
            chosen.setdefault(record.id, record)
    return list(chosen.values())


def size_of(record: Record) -> int:
    """Bytes of what it says and what it is found by."""
    return len(record.data) + len(record.terms) + len(record.vector)


def _unpacked(data: bytes) -> Packed:
    try:
        return _packed(data)
    except msgspec.DecodeError as error:
        raise MemoryForeign(f"A record is not one of this format: {error}.") from None
