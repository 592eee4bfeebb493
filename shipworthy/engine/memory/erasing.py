"""Erasing somebody for good: the journals of their runs, what was remembered of them, and what was learned from either.

What wider partitions have from a user's runs says whose it is (`Source.user`), or says the run, which the journal knows
as the user's, or an episode of the session. So it is forgotten before the journals are; and after them, for a run that
had not ended may have written meanwhile. Wherever that is interrupted, doing it again goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence

import msgspec

from shipworthy.domain.memory import Episode, Erased, Fact, Record, Source
from shipworthy.domain.scope import Scope
from shipworthy.engine.erasing import LOG_ELSEWHERE, erase_journals, runs_of
from shipworthy.engine.memory.memory import PAGE, Memory
from shipworthy.engine.memory.records import readable
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ErasureIncomplete, MemoryConflict
from shipworthy.ports.memory import MemoryStore

NO_JOURNALS = (
    "No journal was erased, for no runtime is known to use this memory here: erase with the memory of an agent, or "
    "where one has run."
)
SHOWN = (
    "What others of the tenant, or other sessions of the user, were shown of it by a memory that they share is in the "
    "journals of their runs, and in what was answered and remembered of those."
)
NO_LOGS = "Audit logs that are kept beside those journals are as they were. " + LOG_ELSEWHERE
_TRIES = 30
"""How often it is tried to change what others share, while those write to it."""
_encode = msgspec.json.Encoder().encode


async def erase(memory: Memory, runtimes: Sequence[Runtime], scope: Scope) -> Erased:
    """Erase the scope from journals and memory. Raises ErasureIncomplete, when all that can be erased is."""
    remains: list[str] = [] if runtimes else [NO_JOURNALS, NO_LOGS]
    left: list[ErasureIncomplete] = []
    traces = _Traces(memory, scope)
    records = 0
    try:
        for runtime in runtimes:
            traces.run_ids.update(await runs_of(runtime, scope))
        await traces.forget()
        for runtime in runtimes:
            try:
                journals = await erase_journals(runtime, scope)
            except ErasureIncomplete as error:
                left.append(error)
                continue
            traces.run_ids.update(journals.run_ids)
            remains += journals.remains
        await traces.forget()
    except MemoryConflict as error:
        left.append(_contended(error))
    for store in memory.stores:
        partitions = await store.within(scope)
        try:
            erased = await store.erase(scope)
        except ErasureIncomplete as error:
            left.append(error)
            continue
        finally:
            memory.forget_indexes([scope, *partitions])
        records += erased.records
        remains += erased.remains
    if left:
        raise ErasureIncomplete(" ".join([error.what for error in left]), fix=left[0].fix)
    if traces.gone:
        remains.append(SHOWN)
    return Erased(records + traces.gone, tuple(dict.fromkeys(remains)))


def _contended(error: MemoryConflict) -> ErasureIncomplete:
    return ErasureIncomplete(
        f"What others share with them could not be changed, and their journals may be there: {error.what}",
        fix="Erase again when less is written to what the tenant shares: it goes on where it was.",
    )


class _Traces:
    """What wider partitions have from the scope's runs. `run_ids`: those that are known to be the scope's; `gone`: how
    many records were forgotten."""

    def __init__(self, memory: Memory, scope: Scope) -> None:
        self._memory, self._scope = memory, scope
        self.run_ids: set[str] = set()
        self.gone = 0
        self._read: dict[tuple[int, Scope], int] = {}

    async def forget(self) -> None:
        """Forget what the partitions around the scope's have from its runs, and that they have it from them; the next
        time only what was written since. Raises MemoryConflict."""
        scope = self._scope
        around = [Scope(scope.tenant)] if scope.user is not None else []
        if scope.session is not None:
            around.append(Scope(scope.tenant, scope.user))
        for store in self._memory.stores:
            for partition in around:
                try:
                    await self._forget_in(store, partition)
                finally:
                    self._memory.forget_indexes([partition])

    async def _forget_in(self, store: MemoryStore, partition: Scope) -> None:
        after = self._read.get((id(store), partition), 0)
        while page := await store.page(partition, after, PAGE):
            for record in page:
                self._note(partition, record)
            if ids := [record.id for record in page if self._touches(record)]:
                await self._forget_these(store, partition, ids)
            after = self._read[id(store), partition] = page[-1].n

    async def _forget_these(self, store: MemoryStore, partition: Scope, ids: Sequence[str]) -> None:
        """As they are now: what others wrote since they were read stays written."""
        for turn in range(_TRIES):
            mark = await store.put(partition, [])
            there = await store.get(partition, ids)
            shared = [kept for record in there if (kept := self._without(record)) is not None]
            try:
                if shared:
                    await store.put(partition, shared, replace=True, at=mark)
            except MemoryConflict:
                if turn == _TRIES - 1:
                    raise
                await asyncio.sleep(random.uniform(0, min(0.005 * 2**turn, 0.25)))
                continue
            if gone := [record.id for record in there if self._is_theirs(record)]:
                self.gone += await store.remove(partition, gone)
            return

    def _note(self, partition: Scope, record: Record) -> None:
        """The run that an episode is from, where the episode says that it is the scope's: facts may be from it too."""
        item = readable(record) if record.kind == "episode" else None
        if not isinstance(item, Episode) or item.source is None:
            return
        mine = item.source.user == self._scope.user or partition.user is not None
        if mine and self._scope.session in (None, item.session):
            self.run_ids.add(item.source.run_id)

    def _is_mine(self, source: Source) -> bool:
        if self._scope.session is None and source.user == self._scope.user:
            return True
        return source.run_id in self.run_ids and source.user in (None, self._scope.user)

    def _touches(self, record: Record) -> bool:
        return self._is_theirs(record) or self._without(record) is not None

    def _is_theirs(self, record: Record) -> bool:
        """Whether something is known from the scope's runs alone."""
        if record.kind not in ("episode", "fact"):
            return False
        item = readable(record)
        if item is None:  # whose it is, its bytes say
            return _names(record, self.run_ids) or (
                self._scope.session is None and b'"user":' + _encode(self._scope.user) in record.data
            )
        if isinstance(item, Episode):
            return item.source is not None and self._is_mine(item.source)
        sources = item.sources if isinstance(item, Fact) else ()
        return bool(sources) and all([self._is_mine(source) for source in sources])

    def _without(self, record: Record) -> Record | None:
        """A fact that others said too, without the scope's runs among its sources; None: it has none of them, or no
        others."""
        item = readable(record) if record.kind == "fact" else None
        if not isinstance(item, Fact):
            return None
        others = tuple([source for source in item.sources if not self._is_mine(source)])
        if not others or len(others) == len(item.sources):
            return None
        return msgspec.structs.replace(record, data=_encode(msgspec.structs.replace(item, sources=others)))


def _names(record: Record, run_ids: Iterable[str]) -> bool:
    return any([f'"{run_id}"'.encode(errors="replace") in record.data for run_id in run_ids])
