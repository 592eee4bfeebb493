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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import msgspec

from shipworthy.domain.memory import Ended, Fact, Mark, Record, Remembered, Source
from shipworthy.domain.messages import DEVELOPER, Trust
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.checking import check
from shipworthy.engine.memory.records import LEARNED, TOPIC, readable, sound
from shipworthy.errors import ConfigurationError, InputError, MemoryConflict
from shipworthy.rules.memory.facts import MOST_SOURCES, Belief, Learned, is_empty, learn, same, shown, topic
from shipworthy.rules.per_loop import PerLoop

if TYPE_CHECKING:
    from shipworthy.engine.memory.memory import Memory

SURE = 0.6
"""Confidence below which a fact is quarantined."""
PAGE = 200
_TRIES = 12
_AT_ONCE = 100
"""Facts up to which learning is done where it is asked for: it costs less than going to a thread."""
MOST_PAST = 100
"""Facts that are superseded and that a topic still names, the last of them: what is learned late ends those in turn."""
T = TypeVar("T")

_ids = msgspec.json.Decoder(list[str])
_learned = msgspec.json.Decoder(Learned)


class Facts:
    """The facts of a memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._turns: PerLoop[WeakValueDictionary[Scope, asyncio.Lock]] = PerLoop()

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
        now = _now()
        beliefs = [_sound(belief, now) for belief in beliefs]
        check(source=source, origin=origin)
        digest = None if batch is None else hashlib.sha256(batch.encode(errors="surrogatepass")).hexdigest()
        name = os.urandom(12).hex() if digest is None else digest[:32]
        ids = [f"fact:{name}:{nth}" for nth in range(len(beliefs))]

        async def once(mark: Mark) -> Learned:
            for record in [] if batch is None else await memory.fact_store.get(scope, [LEARNED + name]):
                return _learned.decode(record.data)  # whatever became of it since, it is not learned again
            topics, known = await self._known(scope, beliefs)
            at = max([now, *[fact.learned_at + 1 for fact in known]])  # later than what it is told against

            def work() -> Learned:
                return learn(known, beliefs, now=at, source=source, origin=origin, ids=ids, sure=SURE)

            small = len(beliefs) + len(known) <= _AT_ONCE
            learned = work() if small else await asyncio.to_thread(work)
            if learned.put:
                note = Record(id=LEARNED + name, kind="topic", data=_told(learned), at=at)
                notes = [] if batch is None else [note]
                await self._write(scope, learned.put, (topics, known), mark, notes)
            return learned

        return await self._tried(scope, once)

    async def keep(
        self, scope: Scope, facts: Sequence[Fact], *, replace: bool, beside: Sequence[Remembered] = ()
    ) -> None:
        """Keep facts that are made already and checked, so that learning knows them, with other things of the same
        store *beside* them, whole or not at all. Without *replace* those that are there stay as they are."""
        memory = self._memory
        await memory.ready(scope)
        given = {fact.id: fact for fact in (facts if replace else facts[::-1])}

        async def once(mark: Mark) -> None:
            others = await memory.vectors.records(beside)
            new = dict(given)
            if not replace:
                ids = [*new, *[record.id for record in others]]
                there = {record.id for record in await memory.fact_store.get(scope, ids)}
                new = {fact_id: fact for fact_id, fact in new.items() if fact_id not in there}
                others = list(
                    {record.id: record for record in others[::-1] if record.id not in there}.values()
                )
            if new or others:
                facts = list(new.values())
                await self._write(scope, facts, await self._known(scope, facts), mark, others[::-1])

        await self._tried(scope, once)

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
        """The partition's facts, the first learned first: those that are believed now, or that were at `known_at`. With
        `true_at`: those by which one would say now, or would have said at `known_at`, what was true in the world then,
        whether or not they were superseded since. `superseded` and `quarantined` show those as well. Times in
        milliseconds since the epoch."""
        await self._memory.ready(scope)
        about, says = [None if text is None else same(text) for text in (subject, predicate)]
        found = [
            fact
            async for fact in self._all(scope)
            if (about is None or same(fact.subject) == about)
            and (says is None or same(fact.predicate) == says)
            and shown(fact, true_at, known_at, superseded=superseded, quarantined=quarantined)
        ]
        return sorted(found, key=lambda fact: (fact.learned_at, fact.id))

    async def join(self, scope: Scope) -> int:
        """Join facts of the partition that say the same; how many were joined with others. They may have been written
        before their topic was known, or brought from elsewhere."""
        await self._memory.ready(scope)

        async def once(mark: Mark) -> int:
            changed, joined = _joined(await self.of(scope, quarantined=True), _now())
            if changed:
                await self._write(scope, changed, await self._known(scope, changed), mark)
            return joined

        return await self._tried(scope, once)

    # parts

    async def _tried(self, scope: Scope, work: Callable[[Mark], Awaitable[T]]) -> T:
        """*work*, which writes to the partition if nobody else did since the mark; else it is done again."""
        async with self._turn(scope):
            for turn in range(_TRIES):
                mark = await self._memory.fact_store.put(scope, [])
                try:
                    return await work(mark)
                except MemoryConflict:
                    if turn == _TRIES - 1:
                        raise
                    await asyncio.sleep(random.uniform(0, min(0.005 * 2**turn, 0.5)))
        raise AssertionError

    def _turn(self, scope: Scope) -> asyncio.Lock:
        """Whose turn it is at the partition, of those of this process: only another process is in the way."""
        turns = self._turns.get(asyncio.get_running_loop(), WeakValueDictionary)
        return turns.setdefault(scope, asyncio.Lock())

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
        known: tuple[dict[str, list[str]], Sequence[Fact]],
        at: Mark,
        beside: Sequence[Record] = (),
    ) -> None:
        """The facts, and that their topics name them, in one write with what is *beside* them."""
        memory, (topics, there) = self._memory, known
        named: dict[str, dict[str, Fact]] = {name: {} for name in topics}
        for fact in [*there, *facts]:
            if (those := named.get(TOPIC + topic(fact.subject, fact.predicate))) is not None:
                those[fact.id] = fact
        now = _now()
        records = [
            Record(id=name, kind="topic", data=msgspec.json.encode(ids), at=now)
            for name, about in named.items()
            if (ids := _named(about.values())) != topics[name]
        ]
        await memory.fact_store.put(
            scope, [*await memory.vectors.records(facts), *records, *beside], replace=True, at=at
        )


def _named(facts: Iterable[Fact]) -> list[str]:
    """The ids that their topic keeps: of all that are believed, and of the last that are superseded."""
    counting = [fact for fact in facts if not is_empty(fact)]
    past = [fact for fact in counting if fact.superseded_at is not None]
    past.sort(key=lambda fact: (fact.valid_to or 0, fact.id))
    dropped = {fact.id for fact in past[:-MOST_PAST]}
    return [fact.id for fact in counting if fact.id not in dropped]


def _joined(facts: Iterable[Fact], now: int) -> tuple[list[Fact], int]:
    """What changes where facts that say the same of the same time are joined, and how many are joined with others. What
    is trusted gains nothing from what is not."""
    changed: dict[str, Fact] = {}
    firsts: dict[tuple[str, str, str], list[Fact]] = {}
    joined = 0
    for fact in sorted(
        facts, key=lambda f: (f.trust == "untrusted", f.quarantined, f.valid_from, f.learned_at)
    ):
        if is_empty(fact):
            continue
        alike = firsts.setdefault((same(fact.subject), same(fact.predicate), same(fact.object)), [])
        where = next((i for i, first in enumerate(alike) if _says_all(first, fact)), None)
        if where is None:
            alike.append(fact)
            continue
        first = alike[where]
        if first.trust == fact.trust:
            sources = tuple(dict.fromkeys((*first.sources, *fact.sources)))[-MOST_SOURCES:]
            confidence = max(first.confidence, fact.confidence)
            better = msgspec.structs.replace(first, sources=sources, confidence=confidence)
            if better != first:
                alike[where] = changed[first.id] = better
        gone = Ended(now, first.id, fact.valid_to)
        changed[fact.id] = msgspec.structs.replace(
            fact,
            valid_to=fact.valid_from,
            ends=(*fact.ends, gone),
            superseded_at=now,
            superseded_by=first.id,
        )
        joined += 1
    return list(changed.values()), joined


def _says_all(first: Fact, fact: Fact) -> bool:
    """Whether *first* is true of all the time of *fact*."""
    ends = (float("inf") if each.valid_to is None else each.valid_to for each in (first, fact))
    return first.holds(fact.valid_from) and next(ends) >= next(ends)


def _told(learned: Learned) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(learned, put=()))


def _now() -> int:
    return time.time_ns() // 1_000_000


def _sound(belief: Belief, now: int) -> Belief:
    """A belief that can be kept. Raises InputError, RecordTooLarge."""
    begins = now if belief.valid_from is None else belief.valid_from
    check(
        valid_from=begins,
        valid_to=belief.valid_to,
        single=belief.single,
        confidence=belief.confidence,
        trust=belief.trust,
    )
    if belief.valid_to is not None and belief.valid_to <= begins:
        raise InputError(
            f"A fact cannot be over at {belief.valid_to}, before it began.",
            fix="Pass a valid_from before valid_to; by default it is now.",
        )
    given = (belief.subject, belief.predicate, belief.object)
    words = [sound(text, "fact").strip() if isinstance(text, str) else "" for text in given]
    if not all(words):
        raise InputError("A fact needs a subject, a predicate and an object.", fix="Pass three texts.")
    subject, predicate, object_ = words
    return msgspec.structs.replace(belief, subject=subject, predicate=predicate, object=object_)
