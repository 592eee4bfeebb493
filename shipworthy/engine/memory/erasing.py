"""Erasing somebody for good: the journals of their runs, what was remembered of them, and what was learned from either.

Journals come first, for a run that has not ended may still write to memory; what wider partitions have from a run is
forgotten before the run is, which is all that says whose it was. Wherever that is interrupted, doing it again goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shipworthy.domain.memory import Episode, Erased, Fact, Record
from shipworthy.domain.scope import Scope
from shipworthy.engine.erasing import erase_journals, runs_of
from shipworthy.engine.memory.memory import PAGE, Memory
from shipworthy.engine.memory.records import readable
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ErasureIncomplete
from shipworthy.ports.memory import MemoryStore

NO_JOURNALS = (
    "No journal was erased, for no runtime is known to use this memory here: erase with the memory of an agent, or "
    "where one has run."
)
SHOWN = (
    "What others of the tenant, or other sessions of the user, were shown of it by a memory that they share is in the "
    "journals of their runs, and in what was answered and remembered of those."
)
_encode = msgspec.json.Encoder().encode


async def erase(memory: Memory, runtimes: Sequence[Runtime], scope: Scope) -> Erased:
    """Erase the scope from journals and memory. Raises ErasureIncomplete, when all that can be erased is."""
    remains: list[str] = [] if runtimes else [NO_JOURNALS]
    left: list[ErasureIncomplete] = []
    traces = records = 0
    for runtime in runtimes:
        known = await runs_of(runtime, scope)
        traces += await _forget_traces(memory, scope, known)
        try:
            journals = await erase_journals(runtime, scope)
        except ErasureIncomplete as error:
            left.append(error)
            continue
        traces += await _forget_traces(memory, scope, sorted({*journals.run_ids} - {*known}))
        remains += journals.remains
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
    if traces:
        remains.append(SHOWN)
    return Erased(records + traces, tuple(dict.fromkeys(remains)))


# what wider partitions have of the scope's runs


async def _forget_traces(memory: Memory, scope: Scope, run_ids: Sequence[str]) -> int:
    """Forget what the partitions around the scope's have from these runs, and that they have it from them. How many
    records were forgotten."""
    whose = frozenset(run_ids)
    around = [Scope(scope.tenant)] if scope.user is not None else []
    if scope.session is not None:
        around.append(Scope(scope.tenant, scope.user))
    gone = 0
    for store in memory.stores if whose else ():
        for partition in around:
            gone += await _forget_in(store, partition, whose)
            memory.forget_indexes([partition])
    return gone


async def _forget_in(store: MemoryStore, partition: Scope, whose: frozenset[str]) -> int:
    gone: list[str] = []
    after = 0
    while page := await store.page(partition, after, PAGE):
        after = page[-1].n
        gone += [record.id for record in page if _is_from(record, whose)]
        if shared := [kept for record in page if (kept := _without(record, whose)) is not None]:
            await store.put(partition, shared, replace=True)
    return await store.remove(partition, gone) if gone else 0


def _is_from(record: Record, whose: frozenset[str]) -> bool:
    """Whether something is known from these runs alone."""
    if record.kind not in ("episode", "fact"):
        return False
    item = readable(record)
    if item is None:  # whose it is, its bytes say
        return any([run_id.encode(errors="replace") in record.data for run_id in whose])
    if isinstance(item, Episode):
        return item.source is not None and item.source.run_id in whose
    sources = item.sources if isinstance(item, Fact) else ()
    return bool(sources) and all([source.run_id in whose for source in sources])


def _without(record: Record, whose: frozenset[str]) -> Record | None:
    """A fact that others said too, without these runs among its sources; None: it has none of them, or no others."""
    if record.kind != "fact":
        return None
    item = readable(record)
    if not isinstance(item, Fact):
        return None
    others = tuple([source for source in item.sources if source.run_id not in whose])
    if not others or len(others) == len(item.sources):
        return None
    return msgspec.structs.replace(record, data=_encode(msgspec.structs.replace(item, sources=others)))
