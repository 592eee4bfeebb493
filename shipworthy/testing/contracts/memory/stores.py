"""What the laws of a memory store need: stores, records, and a reader that follows a partition."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from shipworthy.domain.memory import NOWHERE, Entry, Kind, Mark, Record
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import MemoryConflict, ShipworthyError
from shipworthy.ports.memory import MemoryStore


class MemoryStores:
    """Where a law gets its stores: each is another process' way to the same records, of which there are none at
    first."""

    def __init__(self) -> None:
        self._made: list[MemoryStore] = []

    def make(self) -> MemoryStore:
        """A store that is not open yet."""
        raise NotImplementedError

    async def new(self) -> MemoryStore:
        """An open store."""
        store = self.made()
        await store.open()
        return store

    def made(self) -> MemoryStore:
        """A store that is not open yet, and is closed in the end."""
        store = self.make()
        self._made.append(store)
        return store

    async def close(self) -> None:
        """Close every store that was made."""
        for store in self._made:
            await store.close()


Law = Callable[[MemoryStores], Awaitable[None]]


def check(law: Law, stores: MemoryStores) -> None:
    """Hold *stores* to *law*. Raises AssertionError where it is broken."""

    async def run() -> None:
        try:
            await law(stores)
        finally:
            await stores.close()

    asyncio.run(run())


def name(law: Law) -> str:
    """A law's name, for a test's id."""
    return str(getattr(law, "__name__", law))


ALICE = Scope("acme", "alice")
TRIP = Scope("acme", "alice", "trip")
BOB = Scope("acme", "bob")
ACME = Scope("acme")
STRANGER = Scope("globex", "alice")
OPERATOR = Operator("the memory store's laws")
MANY = 10_000
"""More than any law writes."""


@contextmanager
def refused(error: type[ShipworthyError]) -> Iterator[None]:
    """What is inside must raise *error*."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised.")


def record(id: str, text: str = "", *, kind: Kind = "episode", at: int = 1000) -> Record:
    """A record of this text, of which all else depends on it."""
    data = (text or f"text of {id}").encode(errors="surrogatepass")
    return Record(id=id, kind=kind, data=data, at=at, weight=0.5, terms=b"t" + data, vector=b"v" + data)


def records(*ids: str, text: str = "", kind: Kind = "episode") -> list[Record]:
    """A record for each id."""
    return [record(id, text, kind=kind) for id in ids]


def numbered(many: int, text: str = "") -> list[Record]:
    """So many records; their ids in the order of their numbers."""
    return records(*(f"r{number:05}" for number in range(many)), text=text)


async def paged(store: MemoryStore, scope: Scope, limit: int = MANY) -> list[Record]:
    """A partition's records, page by page: each page is full, but for the last."""
    found: list[Record] = []
    while True:
        last = found[-1].n if found else 0
        page = await store.page(scope, last, limit)
        assert len(page) <= limit, f"a page of at most {limit} has {len(page)}"
        assert all(one.n > last for one in page), f"what is above {last} has {[one.n for one in page]}"
        found += page
        if len(page) < limit:
            return found


async def texts(store: MemoryStore, scope: Scope) -> dict[str, str]:
    """What is in a partition: text by id."""
    return {found.id: found.data.decode(errors="surrogatepass") for found in await paged(store, scope)}


async def mark_of(store: MemoryStore, scope: Scope) -> Mark:
    """Where a partition is, as a reader learns it."""
    reader = Reader(scope)
    await reader.follow(store)
    return reader.mark


class Reader:
    """Who keeps an index of a partition: what it knows is what `changes` told it."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.mark = scope, NOWHERE
        self.known: dict[str, Entry] = {}

    async def follow(self, store: MemoryStore, limit: int = 1000) -> list[str]:
        """Read on to the end; the ids of what came."""
        came: list[str] = []
        while True:
            news = await store.changes(self.scope, self.mark, limit)
            entries = news.entries
            last = 0 if news.reset else self.mark.n
            assert len(entries) <= limit, f"{len(entries)} entries where at most {limit} were asked for"
            assert entries or not news.more, "there is more, but nothing came"
            for entry in entries:
                assert entry.n > last, f"after {last} came {entry.n}"
                last = entry.n
            assert news.reset == (news.mark.epoch != self.mark.epoch), (
                "a new epoch is a reset, and nothing else is"
            )
            if news.reset:
                self.known.clear()
            self.known.update({entry.id: entry for entry in entries})
            came += [entry.id for entry in entries]
            self.mark = news.mark
            if not news.more:
                return came

    async def agrees(self, store: MemoryStore) -> None:
        """What it knows is what is there, page by page."""
        with_data = {entry.id for entry in self.known.values() if entry.data}
        there = [entry_of(found, found.id in with_data) for found in await paged(store, self.scope)]
        known = sorted(self.known.values(), key=lambda entry: entry.n)
        assert known == there, f"{self.scope}: known are {_brief(known)}, there are {_brief(there)}"


def entry_of(found: Record, with_data: bool) -> Entry:
    """What an index has to know of a record, and what a store may say beside it."""
    data = found.data if with_data else b""
    return Entry(found.id, found.n, found.kind, found.at, found.weight, found.terms, found.vector, data)


def _brief(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    return [(entry.id, entry.n) for entry in entries]


async def added(store: MemoryStore, scope: Scope, id: str) -> None:
    """Count one on in the record *id*, as who changes what it has read does: again after a conflict."""
    while True:
        at = await mark_of(store, scope)
        found = await store.get(scope, [id])
        count = int(found[0].data) + 1 if found else 1
        try:
            await store.put(scope, [record(id, str(count))], replace=True, at=at)
        except MemoryConflict:
            await asyncio.sleep(0)
        else:
            return
