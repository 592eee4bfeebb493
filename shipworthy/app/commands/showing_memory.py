"""How remembered things are shown to people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from shipworthy.app.commands.timeline import moment, one_line
from shipworthy.app.commands.visible import visible
from shipworthy.domain.memory import Block, Episode, Fact, Recalled, Remembered, Why
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.records import id_of

_SHORT = 400
"""Characters of one text that are shown to people."""


def numbered(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def named(scope: Scope) -> str:
    """Whose it is, on a line."""
    parts = [part for part in (scope.tenant, scope.user, scope.session) if part]
    return visible(" / ".join(parts)).replace("\n", "\\n")


def why_data(why: Why) -> dict[str, Any]:
    """Why something was found, as JSON has it."""
    return {"words": why.words, "vector": why.vector, "nearness": why.nearness}


def _why(why: Why) -> str:
    words = "" if why.words is None else f"words {why.words}"
    near = "" if why.nearness is None else f" ({why.nearness:.2f})"
    vector = "" if why.vector is None else f"vector {why.vector}{near}"
    return ", ".join([each for each in (words, vector) if each])


def lines_of_found(found: list[Recalled]) -> Iterator[str]:
    """What was found, best first, and why."""
    for each in found:
        item = each.item
        when = item.learned_at if isinstance(item, Fact) else item.at
        yield from _two(item, f"{each.score:.2f} by {_why(each.why)}, {moment(when)[:10]}")


def lines_of(items: Iterable[Remembered]) -> Iterator[str]:
    """What is remembered, with where it is from, or when it was true."""
    for item in items:
        if isinstance(item, Fact):
            true, believed = _span(item.valid_from, item.valid_to), _span(item.learned_at, item.superseded_at)
            yield from _two(item, f"true {true}, believed {believed}")
        else:
            yield from _two(item, f"{_said_by(item)}, {moment(item.at)}")


def _two(item: Remembered, about: str) -> Iterator[str]:
    """A line with the text, and one with what is to be known of it and its id."""
    text = one_line(_text(item))
    yield text if len(text) <= _SHORT else f"{text[:_SHORT]} [cut: {len(text):,} characters; --json has them]"
    yield f"    {one_line(about)}; {one_line(id_of(item))}"


def _span(start: int, end: int | None) -> str:
    return f"since {moment(start)}" if end is None else f"from {moment(start)} to {moment(end)}"


def _said_by(item: Episode | Block) -> str:
    return item.origin + ("" if item.trust == "trusted" else ", untrusted")


def _text(item: Remembered) -> str:
    if isinstance(item, Block):
        return f"{item.name}: {item.text}"
    if isinstance(item, Episode):
        return item.text
    marks = [
        *([] if item.superseded_at is None else ["superseded"]),
        *(["quarantined"] if item.quarantined else []),
        *([f"confidence {item.confidence:g}"] if item.confidence < 1 else []),
        *([] if item.trust == "trusted" else ["untrusted"]),
    ]
    return item.text + (f" [{', '.join(marks)}]" if marks else "")
