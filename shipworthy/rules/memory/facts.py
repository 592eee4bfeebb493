"""What becomes of facts when more is learned: joined, superseded, or set aside, and never overwritten.

Two facts are about the same where subject and predicate agree, whatever their case and spacing. Of what can be true of
one object at a time (`single`), the later supersedes the earlier; of two that are true from the same time on nobody can
say which is right, and both stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from shipworthy.domain.memory import Fact, Source
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
    """What *beliefs* change of what is *known* about the same. *ids*: one for each belief, so that learning the same
    again does nothing. Below the confidence *sure* a fact is quarantined: kept, not recalled, and superseding nothing.
    What is not trusted does not supersede what is.
    """
    facts = {fact.id: fact for fact in known}
    put: dict[str, Fact] = {}
    fates: dict[str, str] = {}
    new: set[str] = set(ids)
    for belief, fact_id in zip(beliefs, ids, strict=True):
        if fact_id in facts:
            if facts[fact_id].superseded_at is None:
                fates.setdefault(fact_id, "quarantined" if facts[fact_id].quarantined else "added")
            continue
        alike = [f for f in facts.values() if f.superseded_at is None and _is_about(f, belief)]
        if (twin := next((f for f in alike if same(f.object) == same(belief.object)), None)) is not None:
            better = _confirmed(twin, belief, source, sure)
            fates.setdefault(twin.id, "confirmed")
            if better != twin:
                facts[twin.id] = put[twin.id] = better
            continue
        made = _made(belief, fact_id, now, source, origin, sure)
        if not made.quarantined:
            older = [f for f in alike if f.id not in new and _yields(f, made)]
            for each in older:
                until = made.valid_from if each.valid_to is None else min(each.valid_to, made.valid_from)
                gone = replace(each, superseded_at=now, superseded_by=made.id, valid_to=until)
                facts[each.id] = put[each.id] = gone
                fates[each.id] = "superseded"
            made = _before_what_came_later(made, alike)
        facts[made.id] = put[made.id] = made
        fates[made.id] = "quarantined" if made.quarantined else "added"
    return Learned(tuple(put.values()), *[_of(fates, name) for name in Learned.__struct_fields__[1:]])


def _of(fates: dict[str, str], name: str) -> tuple[str, ...]:
    return tuple([fact_id for fact_id, fate in fates.items() if fate == name])


def _is_about(fact: Fact, belief: Belief) -> bool:
    return same(fact.subject) == same(belief.subject) and same(fact.predicate) == same(belief.predicate)


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


def _yields(old: Fact, new: Fact) -> bool:
    """Whether *new* says that *old* is over."""
    if not (old.single or new.single) or (old.trust == "trusted" and new.trust == "untrusted"):
        return False
    return old.quarantined or old.valid_from < new.valid_from


def _before_what_came_later(made: Fact, alike: Sequence[Fact]) -> Fact:
    """A fact that was true before what is known already was over when that began."""
    later = [f.valid_from for f in alike if (f.single or made.single) and f.valid_from > made.valid_from]
    if not later or made.valid_to is not None:
        return made
    return replace(made, valid_to=min(later))


def _confirmed(fact: Fact, belief: Belief, source: Source | None, sure: float) -> Fact:
    """The same fact, said again: surer, unless it was said by the same event before. Whoever is not trusted makes
    nothing surer that is."""
    if source is None or source in fact.sources:
        return fact
    if fact.trust == "trusted" and belief.trust == "untrusted":
        return fact
    confidence = 1 - (1 - fact.confidence) * (1 - belief.confidence)
    return replace(
        fact,
        confidence=confidence,
        quarantined=fact.quarantined and confidence < sure,
        sources=(*fact.sources, source)[-MOST_SOURCES:],
        trust=belief.trust if fact.trust == "untrusted" else fact.trust,
    )
