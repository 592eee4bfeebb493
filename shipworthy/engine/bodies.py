"""What becomes an event is valid Unicode and small: what is large is stored once, under the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from shipworthy.domain.messages import (
    AnyPart,
    File,
    Image,
    Message,
    Stored,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Trust,
)
from shipworthy.errors import JournalDamaged
from shipworthy.rules.codec import decode_part, encode_part
from shipworthy.rules.text import clean

INLINE = 4096
"""Characters, or bytes, up to which a body stays in its event."""

Fetch = Callable[[str], Awaitable[bytes]]


class Bodies:
    """The bodies of one run while it is driven here: what to store with the next commit, and what was read.

    `used`: whether the run may have any; a run that was read back may.
    """

    __slots__ = ("_fetch", "_parts", "fresh", "used")

    def __init__(self, fetch: Fetch, *, used: bool = False) -> None:
        self._fetch = fetch
        self.used = used
        self._parts: dict[str, AnyPart] = {}
        self.fresh: dict[str, bytes] = {}

    def keep(self, data: bytes, *, origin: str, trust: Trust) -> Stored:
        """Store *data* with the next commit."""
        digest = hashlib.sha256(data).hexdigest()
        self.fresh[digest] = data
        self.used = True
        return Stored(digest=digest, size=len(data), origin=origin, trust=trust)

    def take(self) -> dict[str, bytes]:
        """What the next commit stores."""
        fresh, self.fresh = self.fresh, {}
        return fresh

    def pack(self, part: Any) -> Any:
        """*part* as an event carries it: valid Unicode, and itself only while it is small."""
        match part:
            case Text(text) if len(text) <= INLINE and text.isascii():
                return part
            case Text():
                part = msgspec.structs.replace(part, text=clean(part.text))
                return part if len(part.text) <= INLINE else self._put(part)
            case ToolCall():
                return self._pack_call(part)
            case Thinking():
                size = len(part.text) + len(part.signature or "") + len(part.redacted or "")
                part = msgspec.structs.replace(part, text=clean(part.text))
                return part if size <= INLINE else self._put(part)
            case Image() | File():
                return part if len(part.data or b"") <= INLINE else self._put(part)
            case _:
                return part

    def _pack_call(self, call: ToolCall) -> ToolCall:
        raw = clean(call.raw_arguments)
        call = msgspec.structs.replace(call, name=clean(call.name), arguments=raw)
        if len(raw) <= INLINE:
            return call
        stored = self.keep(raw.encode(), origin=call.origin, trust=call.trust)
        self._parts[stored.digest] = call
        return msgspec.structs.replace(call, arguments="", stored=stored)

    def _put(self, part: Any) -> Stored:
        stored = self.keep(encode_part(part), origin=part.origin, trust=part.trust)
        self._parts[stored.digest] = part
        return stored

    async def part(self, part: Any) -> Any:
        """The part that *part* stands for."""
        if type(part) is Stored:
            found = self._parts.get(part.digest)
            if found is None:
                found = self._parts[part.digest] = decode_part(await self._body(part.digest))
            return found
        if type(part) is ToolCall and part.stored is not None:
            return msgspec.structs.replace(part, arguments=await self.arguments(part), stored=None)
        if type(part) is ToolResult:
            content = tuple([await self.part(c) for c in part.content])
            return msgspec.structs.replace(part, content=content)
        return part

    async def _body(self, digest: str) -> bytes:
        data = await self._fetch(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise JournalDamaged(f"The stored body {digest[:12]} is not what it was when it was stored.")
        return data

    async def arguments(self, call: ToolCall) -> str:
        """A call's arguments as JSON text, wherever they are."""
        if call.stored is None:
            return call.raw_arguments
        found = self._parts.get(call.stored.digest)
        if type(found) is not ToolCall:
            raw = (await self._body(call.stored.digest)).decode("utf-8", "replace")
            self._parts[call.stored.digest] = found = ToolCall(call.name, raw, call.call_id)
        return found.raw_arguments

    async def message(self, message: Message) -> Message:
        """The message with every body in its place."""
        return Message(message.role, tuple([await self.part(p) for p in message.parts]))


def digests_of(value: Any) -> list[str]:
    """The bodies that *value* refers to, events or parts of them, each once."""
    return sorted({stored.digest for stored in _stored(value)})


def _stored(value: Any) -> Iterator[Stored]:
    if isinstance(value, Stored):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _stored(getattr(value, field))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _stored(item)
