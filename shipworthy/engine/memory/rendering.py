"""Remembered things as the lines that a model is shown, and how many of them it is shown."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from shipworthy.domain.memory import Block, Episode, Fact, Recalled

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8 that are counted as a token: that many letters of English, or about one character of Chinese."""
LEAST = 60
"""Bytes of a text that are worth showing without the rest."""
_MOST_WORDS = 32
_CUT = "[...]"

_WORD = re.compile(r"[^\W_]{2,}")
_UNSEEN = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""What JSON leaves as it is and a reader may take for another line, for another order, or for nothing at all: controls,
separators of lines and paragraphs, marks of direction, invisible characters and tags. Joiners within words are none."""


def line_of(each: Recalled, *, with_id: str | None = None) -> str:
    """One remembered thing as a line of JSON, which no text of it can break out of."""
    item = each.item
    line: dict[str, object] = {"remembered": item.text}
    if isinstance(item, Block):
        line = {"about": item.name, **line}
    elif isinstance(item, Episode):
        line |= {"said_by": item.role, "on": _day(item.at)}
    else:
        line |= {"fact_since": _day(item.valid_from)}
        if item.valid_to is not None:
            line["until"] = _day(item.valid_to)
    if item.trust == "untrusted":
        line["trust"] = "untrusted"
    if with_id is not None:
        line = {"id": with_id, **line}
    return _UNSEEN.sub(_escaped, msgspec.json.encode(line).decode())


def within(found: Sequence[Recalled], tokens: int, query: str = "") -> list[Recalled]:
    """As many as fit into so many tokens, the best first, counted as they are shown. Of one that is too long there is a
    part, marked as cut, as long as half of what is left (of the last, all of it): where it has most of the query's
    words, else its beginning."""
    chosen, left = list[Recalled](), tokens * BYTES_PER_TOKEN
    for nth, each in enumerate(found):
        size = _size(each)
        if size > left:
            shorter = _cut(each, left if nth == len(found) - 1 else max(left // 2, LEAST * 2), left, query)
            if shorter is None:
                continue
            each, size = shorter, _size(shorter)
        chosen.append(each)
        left -= size
    return chosen


def _size(each: Recalled) -> int:
    return len(line_of(each).encode()) + 1


def _cut(each: Recalled, wanted: int, left: int, query: str) -> Recalled | None:
    """As much of it as is shown in *wanted* bytes; None where that would say nothing."""
    field, text = _longest_text(each)
    frame = _size(_saying(each, field, ""))
    room = characters = min(wanted, left) - frame
    if room < LEAST:
        return None
    while characters > len(_CUT):
        made = _saying(each, field, excerpt(text, characters, query))
        size = _size(made) - frame
        if size <= room:
            return made
        characters = min(characters * room // size, characters - 1)  # some characters take several bytes
    return None


def excerpt(text: str, size: int, query: str = "") -> str:
    """At most *size* characters of *text*, marked as cut: where most of the query's words are, else its beginning."""
    if len(text) <= size:
        return text
    if size < LEAST // 2:
        return f"{text[: max(size - len(_CUT), 0)]}{_CUT}"
    at = _best(text, size, query)
    inner = size - 2 * (len(_CUT) + 1)
    start = max(min(at - inner // 4, len(text) - inner), 0)
    before, after = ("", size - len(_CUT) - 1) if start == 0 else (f"{_CUT} ", inner)
    kept = text[start : start + after]
    return f"{before}{kept}" + ("" if start + after >= len(text) else f" {_CUT}")


def _best(text: str, size: int, query: str) -> int:
    """Where the stretch of *size* characters begins that has most of the query's words, the rarer counting more."""
    words = list(dict.fromkeys([word.casefold() for word in _WORD.findall(query)]))[-_MOST_WORDS:]
    stems = sorted({word[: max(3, len(word) - 3)] for word in words}, key=len, reverse=True)
    if not stems:
        return 0
    found = re.finditer("|".join([rf"{re.escape(stem)}" for stem in stems]), text, re.IGNORECASE)
    places = [(match.start(), match[0].casefold()) for match in found]
    often = Counter([stem for _, stem in places])
    best, at, first = 0.0, 0, 0
    inside: Counter[str] = Counter()
    score = 0.0
    for place, stem in places:
        score += 0 if inside[stem] else 1 / often[stem]
        inside[stem] += 1
        while place - places[first][0] > size // 2:
            gone = places[first][1]
            inside[gone] -= 1
            score -= 0 if inside[gone] else 1 / often[gone]
            first += 1
        if score > best + 1e-9:
            best, at = score, places[first][0]
    return at


def _longest_text(each: Recalled) -> tuple[str, str]:
    """That of its texts which is cut, with the name of its field."""
    item = each.item
    if not isinstance(item, Fact):
        return "text", item.text
    texts = {"object": item.object, "subject": item.subject, "predicate": item.predicate}
    return max(texts.items(), key=lambda text: len(text[1]))


def _saying(each: Recalled, field: str, text: str) -> Recalled:
    """The same with another text in that field."""
    return msgspec.structs.replace(each, item=msgspec.structs.replace(each.item, **{field: text}))


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join([f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)])


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(min(max(at, 0), 253_402_300_799_000) / 1000))
