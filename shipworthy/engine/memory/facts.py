"""What is believed of the world, in a memory: facts that are learned, superseded and never overwritten.

Facts about the same subject and predicate are found by their topic: a record that names them, so that learning costs
what is new and not what is known. Each write is checked against what was read: of two who learn at once, one reads
again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from shipworthy.domain.memory import Fact, Mark, Record, Source
from shipworthy.domain.messages import DEVELOPER, Trust
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.records import LEARNED, TOPIC, readable, sound
from shipworthy.errors import ConfigurationError, InputError, MemoryConflict
from shipworthy.rules.memory.facts import Belief, Learned, learn, same, topic

if TYPE_CHECKING:
    from shipworthy.engine.memory.memory import Memory

SURE = 0.6
"""Confidence below which a fact is quarantined."""
PAGE = 200
_TRIES = 12
_ids = msgspec.json.Decoder(list[str])
_learned = msgspec.json.Decoder(Learned)


class Facts:
    """The facts of a memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def add(
        self,
        scope: Scope,
        subject: str,
        predicate: str,
        object: str,
        *,
        single: bool = False,
        confidence: float = 1.0,
        valid_from: int | None = None,
        valid_to: int | None = None,
        source: Source | None = None,
        origin: str = DEVELOPER,
        trust: Trust = "trusted",
    ) -> Learned:
        """Learn one fact. `single`: the subject has one such object at a time, so that it supersedes what was so before
        `valid_from` (milliseconds since the epoch, by default now). Said twice, it is there once. Raises MemoryProblem,
        InputError."""
        belief = Belief(
            subject=subject,
            predicate=predicate,
            object=object,
            single=single,
            confidence=confidence,
            valid_from=valid_from,
            valid_to=valid_to,
            trust=trust,
        )
        return await self.learn(scope, [belief], source=source, origin=origin)

    async def learn(
        self,
        scope: Scope,
        beliefs: Sequence[Belief],
        *,
        source: Source | None = None,
        origin: str = DEVELOPER,
        batch: str | None = None,
    ) -> Learned:
        """Learn facts, durably, whole or not at all. *batch* names what they were learned from, so that learning it
        again after a crash does nothing. Raises MemoryProblem, InputError."""
        memory = self._memory
        if not memory.settings.with_facts:
            raise ConfigurationError("This memory keeps no facts.", fix="Make it without with_facts=False.")
        await memory.ready(scope)
        beliefs = [_sound(belief) for belief in beliefs]
        name = os.urandom(12).hex() if batch is None else hashlib.sha256(batch.encode()).hexdigest()[:32]
        ids = [f"fact:{name}:{nth}" for nth in range(len(beliefs))]
        now = time.time_ns() // 1_000_000
        for turn in range(_TRIES):
            mark = await memory.fact_store.put(scope, [])
            for record in [] if batch is None else await memory.fact_store.get(scope, [LEARNED + name]):
                return _learned.decode(record.data)  # whatever became of it since, it is not learned again
            topics, known = await self._known(scope, beliefs)
            learned = learn(known, beliefs, now=now, source=source, origin=origin, ids=ids, sure=SURE)
            if not learned.put:
                return learned
            note = Record(id=LEARNED + name, kind="topic", data=_told(learned), at=now)
            try:
                await self._write(scope, learned.put, topics, mark, [] if batch is None else [note])
                return learned
            except MemoryConflict:
                if turn == _TRIES - 1:
                    raise
                await asyncio.sleep(random.uniform(0, min(0.005 * 2**turn, 0.5)))
        raise AssertionError

    async def of(
        self,
        scope: Scope,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        true_at: int | None = None,
        known_at: int | None = None,
        superseded: bool = False,
        quarantined: bool = False,
    ) -> list[Fact]:
        """The partition's facts, the first learned first: those that are believed now, or that were at `known_at`; of
        these, those that are true at `true_at` in the world. `superseded` and `quarantined` show those as well. Times
        in milliseconds since the epoch."""
        await self._memory.ready(scope)
        found = [fact async for fact in self._all(scope)]
        if subject is not None:
            found = [fact for fact in found if same(fact.subject) == same(subject)]
        if predicate is not None:
            found = [fact for fact in found if same(fact.predicate) == same(predicate)]
        found = [fact for fact in found if quarantined or not fact.quarantined]
        found = [fact for fact in found if superseded or _is_believed(fact, known_at)]
        if true_at is not None:
            found = [fact for fact in found if _is_true(fact, true_at, known_at)]
        return sorted(found, key=lambda fact: (fact.learned_at, fact.id))

    async def join(self, scope: Scope) -> int:
        """Join facts of the partition that say the same; how many were joined with others. They may have been written
        before their topic was known, or brought from elsewhere."""
        memory, joined = self._memory, 0
        await memory.ready(scope)
        twins: dict[tuple[str, str, str], Fact] = {}
        mark = await memory.fact_store.put(scope, [])
        changed: dict[str, Fact] = {}
        now = time.time_ns() // 1_000_000
        for fact in await self.of(scope, quarantined=True):
            key = same(fact.subject), same(fact.predicate), same(fact.object)
            if (first := twins.get(key)) is None:
                twins[key] = fact
                continue
            sources = tuple(dict.fromkeys((*first.sources, *fact.sources)))
            confidence = max(first.confidence, fact.confidence)
            twins[key] = changed[first.id] = msgspec.structs.replace(
                first,
                sources=sources,
                confidence=confidence,
                quarantined=first.quarantined and fact.quarantined,
            )
            changed[fact.id] = msgspec.structs.replace(fact, superseded_at=now, superseded_by=first.id)
            joined += 1
        if changed:
            topics, _ = await self._known(scope, list(changed.values()))
            await self._write(scope, list(changed.values()), topics, mark)
        return joined

    # parts

    async def _all(self, scope: Scope) -> AsyncIterator[Fact]:
        store, after = self._memory.fact_store, 0
        while page := await store.page(scope, after, PAGE, "fact"):
            for record in page:
                if isinstance(item := readable(record), Fact):
                    yield item
            after = page[-1].n

    async def _there(self, scope: Scope, ids: Sequence[str]) -> list[Fact]:
        found = [readable(record) for record in await self._memory.fact_store.get(scope, ids)]
        return [item for item in found if isinstance(item, Fact)]

    async def _known(
        self, scope: Scope, about: Sequence[Belief] | Sequence[Fact]
    ) -> tuple[dict[str, list[str]], list[Fact]]:
        """The topics of these, with the ids of the facts that each names, and those facts."""
        store = self._memory.fact_store
        names = list(dict.fromkeys([TOPIC + topic(each.subject, each.predicate) for each in about]))
        topics: dict[str, list[str]] = {name: [] for name in names}
        for record in await store.get(scope, names):
            topics[record.id] = _ids.decode(record.data)
        ids = [fact_id for each in topics.values() for fact_id in each]
        return topics, await self._there(scope, ids) if ids else []

    async def _write(
        self,
        scope: Scope,
        facts: Sequence[Fact],
        topics: dict[str, list[str]],
        at: Mark,
        notes: Sequence[Record] = (),
    ) -> None:
        """The facts, and that their topics name those of them that are believed, in one write with *notes*."""
        memory = self._memory
        for fact in facts:
            named = topics.setdefault(TOPIC + topic(fact.subject, fact.predicate), [])
            if fact.superseded_at is None and fact.id not in named:
                named.append(fact.id)
            elif fact.superseded_at is not None and fact.id in named:
                named.remove(fact.id)
        now = time.time_ns() // 1_000_000
        records = [
            Record(id=name, kind="topic", data=msgspec.json.encode(named), at=now)
            for name, named in topics.items()
        ]
        await memory.fact_store.put(
            scope, [*await memory.vectors.records(facts), *records, *notes], replace=True, at=at
        )


def _told(learned: Learned) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(learned, put=()))


def _is_believed(fact: Fact, known_at: int | None) -> bool:
    if known_at is None:
        return fact.superseded_at is None
    return fact.learned_at <= known_at and (fact.superseded_at is None or known_at < fact.superseded_at)


def _is_true(fact: Fact, at: int, known_at: int | None) -> bool:
    """Whether it is true in the world then, as far as was known at *known_at*: that it is over was told by what
    superseded it."""
    untold = known_at is not None and fact.superseded_at is not None and known_at < fact.superseded_at
    return fact.valid_from <= at and (untold or fact.valid_to is None or at < fact.valid_to)


def _sound(belief: Belief) -> Belief:
    words = [sound(text, "fact").strip() for text in (belief.subject, belief.predicate, belief.object)]
    if not all(words):
        raise InputError("A fact needs a subject, a predicate and an object.", fix="Pass three texts.")
    if not 0 <= belief.confidence <= 1:
        raise InputError(f"confidence={belief.confidence!r} is none.", fix="Pass a number from 0 to 1.")
    subject, predicate, object_ = words
    return msgspec.structs.replace(belief, subject=subject, predicate=predicate, object=object_)
