"""Long-term memory: one store of records, what finds them, and whose they are.

Every method takes the partition first: an exact Scope (see `shipworthy.domain.memory`). What comes out has the origin
and the trust that it went in with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.domain.memory import (
    Block,
    Episode,
    Erased,
    Fact,
    Kind,
    Level,
    Recalled,
    Record,
    Remembered,
    Role,
    Source,
    Weights,
)
from shipworthy.domain.messages import DEVELOPER, Trust
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory import retention as keeping
from shipworthy.engine.memory.checking import check, check_scope, checked, said
from shipworthy.engine.memory.facts import Facts
from shipworthy.engine.memory.finding import Place, find
from shipworthy.engine.memory.forgetting import forget
from shipworthy.engine.memory.indexes import Indexes, Question
from shipworthy.engine.memory.journals import Journals
from shipworthy.engine.memory.records import block_id, readable, record_of, sound
from shipworthy.engine.memory.reindexing import Progress, reindex
from shipworthy.engine.memory.rendering import within
from shipworthy.engine.memory.vectors import Vectors
from shipworthy.engine.memory.wording import asked as asked_of
from shipworthy.errors import EmbedderChanged, InputError, MemoryProblem
from shipworthy.ports.embedder import Embedder
from shipworthy.ports.memory import MemoryStore

log = logging.getLogger("shipworthy.memory")

PAGE = 200
_RECALLED: tuple[Kind, ...] = ("episode", "fact")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How runs use a memory.

    `level`: whose partition runs write to and recall from; `also`: further levels that they recall from. `top_k` things
    of at most `max_tokens` (four bytes each) in all. `cache_bytes` bounds the indexes that are kept in this
    process. `retention`: seconds after which episodes are forgotten, by level.
    """

    level: Level = "user"
    also: tuple[Level, ...] = ()
    top_k: int = 8
    max_tokens: int = 1200
    weights: Weights = Weights()
    cache_bytes: int = 64 * 1024 * 1024
    retention: Mapping[Level, float] = {}
    with_facts: bool = True


class Memory:
    """Episodes, facts and blocks of many tenants and users, in *store*; facts in *fact_store* where that is another.

    `embedder` makes vectors, so that what means the same is found in other words; without one memory is found by the
    words it shares with what is asked, inflected or not. A store has the vectors of one embedder.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        embedder: Embedder | None = None,
        local: Any = None,
        fact_store: MemoryStore | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.store = store
        self.fact_store = store if fact_store is None else fact_store
        self.settings = Settings() if settings is None else settings
        self.vectors = Vectors(embedder, local)
        self._indexes: dict[int, Indexes] = {}
        self._facts = Facts(self)
        self._retention = keeping.Retention(self.settings.retention)
        self._journals = Journals()
        self._holders = 0
        self._opened = False

    @property
    def name(self) -> str:
        """Where it is, without a password."""
        return self.store.name

    @property
    def stores(self) -> tuple[MemoryStore, ...]:
        """The store, and that of facts where it is another."""
        return (self.store,) if self.fact_store is self.store else (self.store, self.fact_store)

    async def open(self) -> None:
        """Make ready, once. Raises MemoryProblem, EmbedderChanged among them."""
        if self._opened:
            return
        for store in self.stores:
            await store.open()
            stamp = await store.stamp(await self.vectors.stamp())
            self.vectors.settle(store.name, stamp)
        self.vectors.serve(self.stores)
        share = self.settings.cache_bytes // len(self.stores)
        for store in self.stores:
            self._indexes[id(store)] = Indexes(store, self.vectors.tag, share)
        self._opened = True

    async def acquire(self) -> None:
        """Open, and stay open until `release`: several agents may share a memory."""
        await self.open()
        self.hold()

    def hold(self) -> None:
        """Have it stay open until `release`, once somebody opens it."""
        self._holders += 1

    @property
    def held(self) -> bool:
        """Whether somebody acquired it and did not release it yet."""
        return self._holders > 0

    async def release(self) -> None:
        """Close, if nobody else holds it."""
        self._holders -= 1
        if not self._holders:
            await self.close()

    async def close(self) -> None:
        """Give up connections; what was acknowledged is durable."""
        self._opened = False
        self._indexes.clear()
        await self.vectors.close()
        for store in self.stores:
            await store.close()

    def partition(self, scope: Scope, level: Level | None = None) -> Scope | None:
        """The partition of a run's *scope* at this level (by default the one that runs write to); None where the run
        names nobody who could have it."""
        match level or self.settings.level:
            case "tenant":
                return None if scope.anonymous else Scope(scope.tenant)
            case "user":
                return None if scope.user is None else Scope(scope.tenant, scope.user)
            case "session":
                named = scope.user is not None and scope.session is not None
                return Scope(scope.tenant, scope.user, scope.session) if named else None

    # episodes

    async def remember(
        self,
        scope: Scope,
        text: str,
        *,
        role: Role = "note",
        at: int | None = None,
        importance: float = 0.5,
        id: str | None = None,
        source: Source | None = None,
        origin: str = DEVELOPER,
        trust: Trust = "trusted",
    ) -> Episode:
        """Keep *text* in the partition, durably when this returns. An `id` that is there already is left as it is, so
        that doing it again after a crash does nothing. Raises MemoryProblem, RecordTooLarge, InputError."""
        episode = Episode(
            id=os.urandom(12).hex() if id is None else id,
            text=said(text),
            at=_now() if at is None else at,
            role=role,
            importance=importance,
            source=source,
            session=scope.session,
            origin=origin,
            trust=trust,
        )
        await self._journals.note("memory.written", scope, ids=[episode.id])
        await self.keep(scope, [episode])
        return episode

    async def keep(self, scope: Scope, items: Sequence[Remembered], *, replace: bool = False) -> None:
        """Keep things that are made already, whole or not at all (facts and others each, where facts have a store of
        their own). Raises MemoryProblem, RecordTooLarge, InputError."""
        await self.ready(scope)
        items = [checked(item) for item in items]
        facts = [item for item in items if isinstance(item, Fact)]
        others = [item for item in items if not isinstance(item, Fact)]
        if others and not (facts and self.store is self.fact_store):
            await self.store.put(scope, await self.vectors.records(others), replace=replace)
            others = []
        if facts:
            await self._facts.keep(scope, facts, replace=replace, beside=others)

    async def episodes(self, scope: Scope, *, after: int = 0, limit: int = PAGE) -> list[Episode]:
        """Episodes of the partition in the order in which they were kept, without the first *after* records."""
        await self.ready(scope)
        found = await self.store.page(scope, after, limit, "episode")
        return [item for record in found if isinstance(item := readable(record), Episode)]

    # recall

    async def recall(
        self,
        scope: Scope,
        query: str,
        *,
        limit: int | None = None,
        kinds: Sequence[Kind] = _RECALLED,
        max_tokens: int | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> list[Recalled]:
        """What the partition has for *query*, best first, and why: at most *limit* things of *max_tokens* in all, said
        or learned between *since* and *until*. What was learned to be over, or is not sure enough, is not among them.

        Raises MemoryProblem.
        """
        await self.ready(scope)
        vector, problem = await self.vectors.of_query(query)
        if problem is not None:
            raise problem
        found = await self.find([scope], query, vector, limit or self.settings.top_k, kinds, since, until)
        return within(found, max_tokens or self.settings.max_tokens, query)

    async def find(
        self,
        partitions: Sequence[Scope],
        query: str,
        vector: NDArray[np.float32] | None,
        limit: int,
        kinds: Sequence[Kind] = _RECALLED,
        since: int | None = None,
        until: int | None = None,
    ) -> list[Recalled]:
        """The same of several partitions in one order, of whatever length, with a vector that is made already, or by
        words alone."""
        now, terms = _now(), await asked_of(query)
        places: list[Place] = []
        for scope in partitions:
            oldest = keeping.oldest(self.settings.retention, scope, now)
            for store in self.stores:
                own: list[Kind] = [kind for kind in kinds if self._store_of(kind) is store]
                for some, after in keeping.since_when(tuple(own), since, oldest) if own else ():
                    asked = Question(terms, vector, limit, self.settings.weights, some, after, until)
                    places.append(Place(self._indexes[id(store)], scope, asked))
        return await find(places, limit, now)

    def _store_of(self, kind: Kind) -> MemoryStore:
        return self.fact_store if kind == "fact" else self.store

    # facts

    @property
    def facts(self) -> Facts:
        """What is believed: `await memory.facts.of(scope)`, `memory.facts.learn(scope, ...)`."""
        return self._facts

    # blocks

    async def set_block(
        self, scope: Scope, name: str, text: str, *, origin: str = DEVELOPER, trust: Trust = "trusted"
    ) -> Block:
        """Give the partition's block of this name a text, which every run of the partition sees; an empty one removes
        it. Raises MemoryProblem, RecordTooLarge, InputError."""
        await self.ready(scope)
        check(name=name, text=text, origin=origin, trust=trust)
        block = Block(name=sound(name, "name"), text=sound(text), at=_now(), origin=origin, trust=trust)
        await self._journals.note("memory.written", scope, ids=[block_id(block.name)])
        if block.text:
            await self.store.put(scope, [record_of(block)], replace=True)
        else:
            await self.store.remove(scope, [block_id(block.name)])
        return block

    async def blocks(self, scope: Scope) -> list[Block]:
        """The partition's blocks, by name."""
        await self.ready(scope)
        found = [readable(record) async for record in _all(self.store, scope, "block")]
        return sorted([item for item in found if isinstance(item, Block)], key=lambda block: block.name)

    # rights

    async def export(self, scope: Scope) -> AsyncIterator[tuple[Scope, Remembered]]:
        """Everything of the scope's partition and those within it, superseded and quarantined facts included, each with
        its partition, in bounded memory."""
        await self.reach(scope)
        for store in self.stores:
            for partition in await store.within(scope):
                async for record in _all(store, partition):
                    if record.kind != "topic" and (item := readable(record)) is not None:
                        yield partition, item

    async def forget(
        self,
        scope: Scope,
        *,
        ids: Sequence[str] = (),
        before: int | None = None,
        query: str | None = None,
        kinds: Sequence[Kind] = _RECALLED,
    ) -> int:
        """Forget episodes and facts of the partition: those of these *ids*, and those from before a time, or that have
        every word of *query*, inflected or not (with both: that have the words and are that old). How many there were.

        A query's words are looked for in all that there is, superseded and quarantined facts too, and nothing is left
        that has them. What says the same in other words is not forgotten: `recall` finds that, and gives its ids. They
        are not recalled any more; that no copy of their bytes is left is what `erase` promises. Raises InputError if
        nothing says what to forget.
        """
        await self.reach(scope)
        if not ids and before is None and query is None:
            raise InputError(
                "Nothing says what to forget.", fix="Pass ids=, before= or query=, or erase the scope."
            )
        if set(kinds) - {*_RECALLED}:
            raise InputError(
                f"kinds={kinds!a} cannot be forgotten so.",
                fix='Pass "episode", "fact" or both; set_block(scope, name, "") removes a block.',
            )
        await self._journals.note("memory.forgotten", scope, ids=list(ids), before=before, kinds=list(kinds))
        return sum(
            [
                await forget(
                    store, scope, ids=ids, before=before, query=query, kinds=kinds, as_indexed=self._opened
                )
                for store in self.stores
            ]
        )

    async def erase(self, scope: Scope) -> Erased:
        """Forget the scope, with all partitions within it, for good: afterwards nothing of it can be retrieved. Of a
        user: what sessions have too, and the journals of the runtimes whose agents use this memory.

        What may still hold copies, where no code of ours reaches, is in `remains`. Raises ErasureIncomplete.
        """
        await self.reach(scope)
        from shipworthy.engine.memory.erasing import erase

        return await erase(self, self._journals.runtimes(), scope)

    def covers(self, runtime: Any) -> None:
        """Have `erase` cover this runtime's journals too."""
        self._journals.add(runtime)

    def forget_indexes(self, scopes: Sequence[Scope]) -> None:
        """Keep nothing of these partitions in this process."""
        for indexes in self._indexes.values():
            for scope in scopes:
                indexes.forget(scope)

    async def reindex(self, progress: Progress | None = None) -> int:
        """Make terms and vectors of everything anew, where they are not those of this embedder; how many things that
        were. It may be interrupted and done again. Raises EmbedderError, MemoryStoreError."""
        changed = sum([await reindex(store, self.vectors, progress) for store in self.stores])
        self._opened = False
        await self.open()
        return changed

    async def sweep(self) -> int:
        """Forget episodes that are older than their level's retention; how many there were."""
        await self.open()
        return await self._retention.sweep(self.stores, _now())

    async def keep_sweeping(self, every: float) -> None:
        """Forget what is too old again and again, every so many seconds."""
        while True:
            try:
                await self.sweep()
            except MemoryProblem as error:
                log.warning("Old memories could not be forgotten: %s", error)
            await asyncio.sleep(every)

    # parts

    async def ready(self, scope: Scope) -> None:
        """Open, for a scope that is one. Raises InputError, MemoryProblem."""
        check_scope(scope)
        if not self._opened:
            await self.open()

    async def reach(self, scope: Scope) -> None:
        """Open the stores, for a scope that is one; whoever has a right to what is in them has it whatever embedder is
        configured. Raises InputError, MemoryProblem."""
        check_scope(scope)
        if not self._opened:
            try:
                await self.open()
            except EmbedderChanged:
                for store in self.stores:
                    await store.open()


def _now() -> int:
    return time.time_ns() // 1_000_000


async def _all(store: MemoryStore, scope: Scope, kind: Kind | None = None) -> AsyncIterator[Record]:
    after = 0
    while page := await store.page(scope, after, PAGE, kind):
        for record in page:
            yield record
        after = page[-1].n
