"""Forgetting some things of a partition: those of some ids, from before a time, or that say something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shipworthy.domain.memory import Kind, Record
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.records import readable
from shipworthy.errors import InputError
from shipworthy.ports.memory import MemoryStore
from shipworthy.rules.memory.terms import PACKED, query_of, terms_of

PAGE = 200


async def forget(
    store: MemoryStore,
    scope: Scope,
    *,
    ids: Sequence[str],
    before: int | None,
    query: str | None,
    kinds: Sequence[Kind],
    as_indexed: bool,
) -> int:
    """Forget what `Memory.forget` says of one store. *as_indexed*: its records have their words as terms are made now.
    Raises InputError."""
    there = await store.get(scope, list(dict.fromkeys(ids))) if ids else []
    chosen = [record.id for record in there if record.kind in kinds]
    if query is not None or before is not None:
        words = None if query is None else query_of(query)
        if words is not None and not len(words):
            raise InputError(
                f"{ascii(query)[:80]} has no word to look for.", fix="Pass words, or ids= or before=."
            )
        after = 0
        while page := await store.page(scope, after, PAGE):
            after = page[-1].n
            due = [r for r in page if r.kind in kinds and (before is None or r.at < before)]
            chosen += [record.id for record in due if words is None or _has(record, words, as_indexed)]
    return await store.remove(scope, list(dict.fromkeys(chosen))) if chosen else 0


def _has(record: Record, words: np.ndarray[tuple[int, ...], np.dtype[np.uint32]], as_indexed: bool) -> bool:
    """Whether it has all of *words*: also what is not recalled, which has no terms of its own."""
    terms = record.terms if as_indexed else b""
    if not terms and (item := readable(record)) is not None:
        terms = terms_of(item.text)
    return bool(np.isin(words, np.frombuffer(terms, PACKED)["term"]).all())
