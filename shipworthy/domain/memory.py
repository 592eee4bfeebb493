"""What is remembered, and what a store keeps of it. Times are milliseconds since the Unix epoch.

Everything that is remembered belongs to one *partition*: an exact Scope. `Scope("acme")` has what is everybody's of the
tenant, `Scope("acme", "alice")` what is Alice's, and `Scope("acme", "alice", "trip-42")` what is that session's. A
partition never shows what is in another one, not even in a narrower or a wider one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shipworthy.domain.messages import USER, Trust
from shipworthy.domain.scope import Scope
from shipworthy.errors import ConfigurationError

Level = Literal["session", "user", "tenant"]
Kind = Literal["episode", "fact", "block", "topic"]
"""A topic is not remembered by anybody: it names the facts about one thing."""
Role = Literal["user", "assistant", "tool", "note"]


class Source(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where something was learned: an event of a run's journal. `user`: whose run it was, so that whoever erases them
    finds what others share of it."""

    run_id: str
    seq: int = 0
    user: str | None = None


class Episode(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Something that was said or done. `importance`: from 0 to 1."""

    id: str
    text: str
    at: int
    role: Role = "note"
    importance: float = 0.5
    source: Source | None = None
    session: str | None = None
    origin: str = USER
    trust: Trust = "trusted"


class Ended(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How it became known that a fact ends: learned `at`, of the fact `by`. Until then its `valid_to` was `was`."""

    at: int
    by: str
    was: int | None = None


class Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A triple with two times: when it is true in the world (from `valid_from` on, before `valid_to`), and when it was
    believed (`learned_at` to `superseded_at`). It is superseded and never overwritten.

    `single`: the subject has one such object at a time, so that where a later one begins, this one ends. If that is in
    the past or now, this one is superseded; if it is still to come, it gets its `valid_to` and is believed meanwhile.
    What is superseded remains true of the time from `valid_from` to `valid_to`. `ends`: what `valid_to` was before, so
    that what was known at any time can be told; `released_at`: when it was sure enough, having been quarantined.

    `quarantined`: it is kept and not recalled. `confidence`: from 0 to 1.
    """

    id: str
    subject: str
    predicate: str
    object: str
    learned_at: int
    valid_from: int
    valid_to: int | None = None
    superseded_at: int | None = None
    superseded_by: str | None = None
    single: bool = False
    confidence: float = 1.0
    quarantined: bool = False
    sources: tuple[Source, ...] = ()
    origin: str = USER
    trust: Trust = "trusted"
    ends: tuple[Ended, ...] = ()
    released_at: int | None = None

    def end(self, known_at: int | None = None) -> int | None:
        """When it ends in the world, as far as is known now, or was at *known_at*; None: it does not."""
        if known_at is not None:
            for each in self.ends:
                if known_at < each.at:
                    return each.was
        return self.valid_to

    def holds(self, at: int, known_at: int | None = None) -> bool:
        """Whether it is true in the world *at* that time, as far as is known now, or was at *known_at*."""
        end = self.end(known_at)
        return self.valid_from <= at and (end is None or at < end)

    @property
    def text(self) -> str:
        """The triple as words."""
        return f"{self.subject} {self.predicate.replace('_', ' ')} {self.object}"


class Block(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A small named text that every run of the partition sees. There is one of a name."""

    name: str
    text: str
    at: int
    origin: str = USER
    trust: Trust = "trusted"


Remembered = Episode | Fact | Block


class Why(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Why something was recalled: its rank (from 1) by the words it shares with the query and by the nearness of its
    vector, each None where it was not found that way; the nearness itself (cosine)."""

    words: int | None = None
    vector: int | None = None
    nearness: float | None = None
    always: bool = False


class Recalled(msgspec.Struct, frozen=True, gc=False):
    """One thing that memory gave, best first, and why. `score` orders the things of one recall and means nothing
    beyond it."""

    item: Remembered
    scope: Scope
    score: float
    why: Why

    @property
    def text(self) -> str:
        """What was remembered, as words."""
        return self.item.text


class Weights(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """How much each reason says when they are added up to one order; 0: nothing. Each reason is from 0 to about 1.

    `words` and `vector` find things: how much of the question's words a thing has, and how near its vector is.
    `recency` and `importance` only move what was found: what is of this moment gains the whole weight and what is
    `half_life_days` old half of it; importance counts as it is. `min_similarity`: the cosine (-1 to 1) from which on a
    vector is near enough; what that means is the embedder's.
    """

    words: float = 0.75
    vector: float = 1.0
    recency: float = 0.0
    importance: float = 0.2
    half_life_days: float = 30.0
    min_similarity: float = 0.25

    def __post_init__(self) -> None:
        for name in ("words", "vector", "recency", "importance"):
            if not 0 <= getattr(self, name) <= 1_000:
                raise ConfigurationError(
                    f"Weights({name}={getattr(self, name)!r}) is no weight.",
                    fix=f"Give `{name}` a number from 0 (it says nothing) to 1000.",
                )
        if not self.words and not self.vector:
            raise ConfigurationError(
                "Weights without words and without a vector find nothing.",
                fix="Leave one of the two above 0.",
            )
        if not 0 < self.half_life_days < float("inf"):
            raise ConfigurationError(
                f"Weights(half_life_days={self.half_life_days!r}) is no age.",
                fix="Give it days, more than 0.",
            )
        if not -1 <= self.min_similarity <= 1:
            raise ConfigurationError(
                f"Weights(min_similarity={self.min_similarity!r}) is no cosine.", fix="Give it from -1 to 1."
            )


class Consolidated(msgspec.Struct, frozen=True, gc=False):
    """What consolidating did: runs that learned, facts that were joined with others, and partitions that were looked
    at."""

    learned: int = 0
    joined: int = 0
    partitions: int = 0


# What stores keep


class Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One remembered thing as a store keeps it, without knowing what it means.

    `id` is unique in its partition, at most 200 bytes. `data`: the thing as JSON. `at`: when it was said, learned or
    set. `weight`: its importance. `terms` and `vector` are what it is found by, opaque to the store; both empty: it is
    not recalled. `n` is the store's: it grows with every write in the partition.
    """

    id: str
    kind: Kind
    data: bytes
    at: int
    weight: float = 0.0
    terms: bytes = b""
    vector: bytes = b""
    n: int = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What of a record its partition's index needs. `data`: the record's, where the partition is small and the store
    has it at hand; empty: `get` gives it."""

    id: str
    n: int
    kind: Kind
    at: int
    weight: float
    terms: bytes
    vector: bytes
    data: bytes = b""


class Mark(msgspec.Struct, frozen=True, gc=False, order=False):
    """How far a reader has read a partition. `epoch` is another one, never used before, after anything was removed from
    the partition; `n` is the highest `Record.n` that was read. `NOWHERE`: nothing was."""

    epoch: int
    n: int


NOWHERE = Mark(0, 0)


class Changes(msgspec.Struct, frozen=True, gc=False):
    """What was written in a partition since a mark, by growing `n`. `reset`: forget all that was read before. `mark` is
    for the next call; `more`: call again, for not everything was given."""

    entries: list[Entry]
    mark: Mark
    reset: bool
    more: bool


class Stamp(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a store's records were made with: how words become terms, and whose vectors they have ("": none), of so
    many dimensions. The first to come sets it."""

    terms: str
    embedder: str = ""
    dimensions: int = 0


class Erased(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an erasure did: records removed, and what may still hold copies, as sentences for whoever answers for it."""

    records: int
    remains: tuple[str, ...] = ()
