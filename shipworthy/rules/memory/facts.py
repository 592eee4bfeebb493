"""What becomes of facts when more is learned: joined, superseded, or set aside, and never overwritten.

Two facts are about the same where subject and predicate agree, whatever their case and spacing. Of what can be true of
one object at a time (`single`), one ends where a later one begins, in whatever order they are learned; of two that are
true from the same time on nobody can say which is right, and both stay. What is not sure puts an end to nothing, and
what is not trusted to nothing that is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from shipworthy.domain.memory import Ended, Fact, Source
from shipworthy.domain.messages import Trust

MOST_SOURCES = 20
"""Sources that a fact names; further ones only make it surer."""


class Belief(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What somebody says is a fact. `valid_from`: since when, None for now. Times in milliseconds since the epoch."""

    subject: str
    predicate: str
    object: str
    single: bool = False
    confidence: float = 1.0
    valid_from: int | None = None
    valid_to: int | None = None
    trust: Trust = "trusted"


class Learned(msgspec.Struct, frozen=True, gc=False):
    """What is to be written, and the ids of facts by what became of them."""

    put: tuple[Fact, ...]
    added: tuple[str, ...]
    confirmed: tuple[str, ...]
    superseded: tuple[str, ...]
    quarantined: tuple[str, ...]


def same(text: str) -> str:
    """*text* as facts are compared by: without case, and with single spaces for spaces and underscores."""
    return " ".join(text.casefold().replace("_", " ").split())


def topic(subject: str, predicate: str) -> str:
    """Names what a fact is about: the same for the same subject and predicate, and for no others."""
    parts = [same(subject), same(predicate)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def learn(
    known: Iterable[Fact],
    beliefs: Sequence[Belief],
    *,
    now: int,
    source: Source | None,
    origin: str,
    ids: Sequence[str],
    sure: float,
) -> Learned:
    """What *beliefs* change of what is *known* about the same. *ids*: one for each belief, for the fact that it becomes
    if it is new. Below the confidence *sure* a fact is quarantined: kept, not recalled, and superseding nothing.
    """
    mind = _Mind(known, now)
    for belief, fact_id in zip(beliefs, ids, strict=True):
        if (there := mind.facts.get(fact_id)) is not None:
            if there.superseded_at is None:
                mind.fates.setdefault(fact_id, "quarantined" if there.quarantined else "added")
            continue
        made = _made(belief, fact_id, now, source, origin, sure)
        if (twin := mind.twin(made)) is None:
            mind.add(made)
            continue
        better = _confirmed(twin, made, source, sure, now)
        mind.fates.setdefault(twin.id, "confirmed")
        if better != twin:
            mind.write(better)
        if twin.quarantined and not better.quarantined:
            mind.end_others(better)
    fates = [_of(mind.fates, name) for name in Learned.__struct_fields__[1:]]
    return Learned(tuple(mind.put.values()), *fates)


def shown(
    fact: Fact,
    true_at: int | None,
    known_at: int | None,
    *,
    superseded: bool = False,
    quarantined: bool = False,
) -> bool:
    """Whether it is among the facts that are believed now, or were at *known_at*; or, with *true_at*, among those by
    which one would say now, or would have said at *known_at*, what was true in the world then: what is superseded
    remains true of its time. *superseded* and *quarantined*: those as well."""
    if known_at is not None and fact.learned_at > known_at:
        return False
    released = fact.released_at is not None and known_at is not None and known_at < fact.released_at
    if (fact.quarantined or released) and not quarantined:
        return False
    if true_at is not None:
        return fact.holds(true_at, known_at)
    gone = fact.superseded_at
    return superseded or gone is None or (known_at is not None and known_at < gone)


def is_empty(fact: Fact) -> bool:
    """Whether it is true at no time: another one says all that it said."""
    return fact.valid_to is not None and fact.valid_to <= fact.valid_from


class _About:
    """The facts about one subject and predicate."""

    __slots__ = ("by_object", "ids", "singles")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.singles: list[str] = []
        self.by_object: dict[str, list[str]] = {}


class _Mind:
    """What is known, found by what it is about; what is to be written of it, and what became of what."""

    def __init__(self, known: Iterable[Fact], now: int) -> None:
        self.now = now
        self.facts: dict[str, Fact] = {}
        self.put: dict[str, Fact] = {}
        self.fates: dict[str, str] = {}
        self._about: dict[tuple[str, str], _About] = {}
        for fact in known:
            self._keep(fact)

    def _keep(self, fact: Fact) -> None:
        if fact.id not in self.facts:
            about = self._of(fact)
            about.ids.append(fact.id)
            about.by_object.setdefault(same(fact.object), []).append(fact.id)
            if fact.single:
                about.singles.append(fact.id)
        self.facts[fact.id] = fact

    def _of(self, fact: Fact) -> _About:
        return self._about.setdefault((same(fact.subject), same(fact.predicate)), _About())

    def write(self, fact: Fact) -> None:
        """Have it kept."""
        self._keep(fact)
        self.put[fact.id] = fact

    def twin(self, made: Fact) -> Fact | None:
        """The fact that says the same of the time when *made* begins; or, since lessons are not learned in the order in
        which they were said, of a time that began after it, with nothing else in between. What is trusted is made
        surer by what is trusted alone, and so has no twin that is not."""
        ids = self._of(made).by_object.get(same(made.object), ())
        alike = [f for fact_id in ids if not is_empty(f := self.facts[fact_id])]
        for trust in ("trusted", "untrusted") if made.trust == "untrusted" else ("trusted",):
            mine = [f for f in alike if f.trust == trust]
            if (twin := next((f for f in mine if f.holds(made.valid_from)), None)) is not None:
                return twin
            after = [f for f in mine if made.valid_from < f.valid_from <= self.now]
            if after and made.valid_to is None:
                first = min(after, key=lambda f: f.valid_from)
                if not any([f.valid_from < first.valid_from for f in self._beside(made) if _ends(made, f)]):
                    return first
        return None

    def _beside(self, fact: Fact) -> Iterator[Fact]:
        """The facts that may end *fact*, or be ended by it."""
        about = self._of(fact)
        ids = about.ids if fact.single else {*about.singles, *about.by_object.get(same(fact.object), ())}
        for fact_id in ids:
            if fact_id != fact.id:
                yield self.facts[fact_id]

    def add(self, made: Fact) -> None:
        """A new fact, ended by what is known already to come after it, and an end to what was before."""
        ends = [f.valid_from for f in self._beside(made) if _ends(made, f)]
        made = replace(made, valid_to=min(ends)) if ends else made
        self.fates[made.id] = "quarantined" if made.quarantined else "added"
        self.write(made)
        self.end_others(made)

    def end_others(self, new: Fact) -> None:
        """What was before *new*, and cannot be beside it, ends where it begins."""
        for old in [f for f in self._beside(new) if _ends(f, new)]:
            until = max(old.valid_from, new.valid_from)
            gone = replace(old, valid_to=until, ends=(*old.ends, Ended(self.now, new.id, old.valid_to)))
            if old.superseded_at is None and (until <= self.now or is_empty(gone)):
                gone = replace(gone, superseded_at=self.now, superseded_by=new.id)
                self.fates[old.id] = "superseded"
            self.write(gone)


def _of(fates: dict[str, str], name: str) -> tuple[str, ...]:
    return tuple([fact_id for fact_id, fate in fates.items() if fate == name])


def _made(belief: Belief, fact_id: str, now: int, source: Source | None, origin: str, sure: float) -> Fact:
    return Fact(
        id=fact_id,
        subject=belief.subject,
        predicate=belief.predicate,
        object=belief.object,
        learned_at=now,
        valid_from=now if belief.valid_from is None else belief.valid_from,
        valid_to=belief.valid_to,
        single=belief.single,
        confidence=belief.confidence,
        quarantined=belief.confidence < sure,
        sources=() if source is None else (source,),
        origin=origin,
        trust=belief.trust,
    )


def _ends(old: Fact, new: Fact) -> bool:
    """Whether *old* ends where *new* begins, as the two are known now."""
    if new.quarantined or (old.trust == "trusted" and new.trust == "untrusted"):
        return False
    if is_empty(old) or (old.valid_to is not None and old.valid_to <= new.valid_from):
        return False
    if same(old.object) == same(new.object):
        return old.valid_from < new.valid_from or (old.trust != new.trust and new.holds(old.valid_from))
    return (old.single or new.single) and old.valid_from < new.valid_from


def _confirmed(fact: Fact, made: Fact, source: Source | None, sure: float, now: int) -> Fact:
    """The same fact, said again: surer, unless it was said by the same event before. Whoever is not trusted makes
    nothing surer that is. A developer, who names no event, is taken at their word: it is as sure as they say."""
    if (fact.trust == "trusted" and made.trust == "untrusted") or source in fact.sources:
        return fact
    confidence = max(fact.confidence, made.confidence)
    if source is not None:
        confidence = 1 - (1 - fact.confidence) * (1 - made.confidence)
    released = fact.quarantined and confidence >= sure
    return replace(
        fact,
        confidence=confidence,
        quarantined=fact.quarantined and not released,
        released_at=now if released else fact.released_at,
        sources=fact.sources if source is None else (*fact.sources, source)[-MOST_SOURCES:],
    )
