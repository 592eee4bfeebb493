"""Remembered things as records, and back. Text that enters is valid Unicode without NUL, which some stores refuse."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import msgspec

from shipworthy.domain.memory import Block, Episode, Fact, Kind, Record, Remembered
from shipworthy.errors import MemoryForeign, RecordTooLarge
from shipworthy.rules.memory.terms import terms_of
from shipworthy.rules.text import clean

log = logging.getLogger("shipworthy.memory")

OWN = "~"
"""How the ids of memory's own records begin: whoever remembers something cannot give it such an id."""
TOPIC = f"{OWN}topic:"
"""How the id begins of a record that names the facts about one thing."""
LEARNED = f"{OWN}learned:"
"""How the id begins of a note that a batch was learned, and what became of it; written with its facts."""
LEARNED_TO = f"{OWN}learned-to"
"""Id of a partition's note of how far its episodes were looked at by `consolidate`."""

LONGEST_TEXT = 100_000
"""Characters that one remembered thing may have: more than a model could be shown of it."""

_encode = msgspec.json.Encoder().encode
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "episode": msgspec.json.Decoder(Episode),
    "fact": msgspec.json.Decoder(Fact),
    "block": msgspec.json.Decoder(Block),
}


def sound(text: str, what: str = "text") -> str:
    """*text* as it is kept: a NUL and a lone surrogate become U+FFFD. Raises RecordTooLarge."""
    if len(text) > LONGEST_TEXT:
        raise RecordTooLarge(f"A {what} of {len(text):,} characters is over the bound of {LONGEST_TEXT:,}.")
    return clean(text).replace("\0", "\ufffd")


def kind_of(item: Remembered) -> Kind:
    """What kind of thing it is."""
    if isinstance(item, Episode):
        return "episode"
    return "fact" if isinstance(item, Fact) else "block"


def id_of(item: Remembered) -> str:
    """The id of its record."""
    return block_id(item.name) if isinstance(item, Block) else item.id


def block_id(name: str) -> str:
    """The id of the block of this name."""
    return f"{OWN}block:{name}"


def is_found(item: Remembered, at: int | None = None) -> bool:
    """Whether it is found by what it says: a block is always given, and what is not believed is not, nor, for whoever
    asks *at* a time, what is not true then."""
    if isinstance(item, Fact):
        return not item.quarantined and item.superseded_at is None and (at is None or item.holds(at))
    return isinstance(item, Episode)


SAID_BY: dict[str, float] = {"assistant": 0.5, "tool": 0.5}
"""What of its importance counts, by who said it: of two that answer a question as well, what the user said is first."""


def record_of(item: Remembered, vector: bytes = b"") -> Record:
    """The record of *item*; *vector* is that of its text, packed."""
    found = is_found(item)
    at = item.learned_at if isinstance(item, Fact) else item.at
    weight = item.confidence if isinstance(item, Fact) else 0.0
    if isinstance(item, Episode):
        weight = item.importance * SAID_BY.get(item.role, 1.0)
    return Record(
        id=id_of(item),
        kind=kind_of(item),
        data=_encode(item),
        at=at,
        weight=weight,
        terms=terms_of(item.text) if found else b"",
        vector=vector if found else b"",
    )


def item_of(record: Record) -> Remembered:
    """What was remembered. Raises MemoryForeign for what no release of ours wrote."""
    try:
        item: Remembered = _DECODERS[record.kind].decode(record.data)
    except (msgspec.DecodeError, KeyError) as error:
        raise MemoryForeign(f"The record {record.id!r} cannot be read: {error}.") from error
    return item


def readable(record: Record) -> Remembered | None:
    """What was remembered; None for what cannot be read, which is logged once: it is left alone, and stops nobody who
    reads the rest."""
    try:
        return item_of(record)
    except MemoryForeign as error:
        _warn_once(error.what)
        return None


@lru_cache(maxsize=1000)
def _warn_once(what: str) -> None:
    log.warning("%s It is left as it is, and out of everything else.", what)
