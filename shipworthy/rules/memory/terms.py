"""Words of a text, as the terms that it is found by: packed bytes, opaque to the stores that keep them.

A text is NFKC-normalised and case-folded; accents, stop words and English endings are dropped (Snowball's English
stemmer, https://snowballstem.org, and a list of irregular forms). Scripts without spaces between words are taken by
pairs of characters. A term is the CRC-32 of what is left.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from snowballstemmer.english_stemmer import EnglishStemmer  # type: ignore[import-untyped]

from shipworthy.rules.memory.english import ENDINGS, IRREGULAR, STOP

TERMS = "english-1"
"""Names this way of making terms. Texts are found by terms that were made in the same way only."""

PACKED = np.dtype([("term", "<u4"), ("count", "<u2")])
"""A term and how often it occurs; a text's terms stand in ascending order."""

LONGEST_WORD = 64
"""Characters of a word that is still looked at; a longer one is taken as it is."""
MOST = 0xFFFF
LONGEST_QUERY = 4_000
"""Characters of a question that are looked at: half of them where it begins and half where it ends."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"  # kana, Han, Hangul
)
_MARKS = "\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_LETTER = rf"[^\W_{_UNSPACED}]"
_WORD = rf"(?:{_LETTER}|[{_MARKS}])+"
_PLAIN = re.compile(r"[a-z0-9]+(?:(?:['._/:@-]|(?<=[0-9]),(?=[0-9]))[a-z0-9]+)*'?")
_ANY = re.compile(rf"[{_UNSPACED}]+|{_WORD}(?:(?:['._/:@-]|(?<=[0-9]),(?=[0-9])){_WORD})*'?")
_PARTS = re.compile(r"[._/:@-]")
_NUMBER = re.compile(r"[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?")
_ACCENTS = re.compile("[\u0300-\u036f]")
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_FIRST_UNSPACED = "\u0e00"


def terms_of(text: str) -> bytes:
    """The terms of *text*, each with how often it occurs; empty where it has no words."""
    counts = Counter(_terms(text, document=True))
    pairs = [part for term in sorted(counts) for part in (term, min(counts[term], MOST))]
    return struct.pack("<" + "IH" * len(counts), *pairs)


def query_of(text: str) -> NDArray[np.uint32]:
    """The distinct terms of a question, ascending."""
    return np.array(sorted(set(_terms(bounded(text), document=False))), dtype=np.uint32)


def bounded(query: str) -> str:
    """What is looked at of a question: of a long one its beginning and its end, where people say what they want."""
    half = LONGEST_QUERY // 2
    return query if len(query) <= LONGEST_QUERY else f"{query[: half - 1]} {query[-half:]}"


def _terms(text: str, *, document: bool) -> list[int]:
    """Terms in the order of the text. A text of nothing but stop words has those."""
    words = list(_words(_folded(text), document))
    return [term for word in words if (term := _term(word))] or [_hash(word) for word in words]


def _folded(text: str) -> str:
    """*text* in the one form that words are compared in."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", bare).translate(_UNSEEN).replace("\u2019", "'")


def _words(text: str, document: bool) -> Iterator[str]:
    for match in (_PLAIN if text.isascii() else _ANY).finditer(text):
        word = match[0]
        if word[0] >= _FIRST_UNSPACED:
            yield from _pairs(word, document)
        elif len(word) > LONGEST_WORD or word.isalpha():
            yield word
        else:
            yield from _compound(word)


def _pairs(run: str, document: bool) -> Iterator[str]:
    """Pairs of neighbours. A document has its single characters too, for questions of one."""
    for place in range(len(run) - 1):
        yield run[place : place + 2]
    if document or len(run) == 1:
        yield from run


def _compound(word: str) -> Iterator[str]:
    """What a word is found by that is not of letters alone: `A-17` by `a17` and `17`, `follow-up` by `followup`,
    `follow` and `up`. An apostrophe's ending is dropped, and the commas of a number.
    """
    if "'" in word and word not in STOP:
        word = _without_ending(word).replace("'", "")
    if _NUMBER.fullmatch(word):
        yield word.replace(",", "").lstrip("0") or "0"
        return
    parts = [part for part in _PARTS.split(word) if part]
    if len(parts) == 1:
        yield word
        return
    if "-" in word or any([character.isdigit() for character in word]):
        yield "".join(parts) if any([part.isalpha() for part in parts]) else word
    for part in parts:
        if len(part) > 1 or part.isdigit():
            yield (part.lstrip("0") or "0") if part.isdigit() else part


def _without_ending(word: str) -> str:
    for ending in ENDINGS:
        if word.endswith(ending):
            return word[: -len(ending)]
    return word


def _term(word: str) -> int:
    """The term of *word*; 0 for a stop word. What is too long to be a word is not kept in mind."""
    return _hash(word) if len(word) > LONGEST_WORD else _known(word)


@lru_cache(maxsize=1 << 14)
def _known(word: str) -> int:
    if word in STOP:
        return 0
    word = IRREGULAR.get(word, word)
    # A stemmer of its own for each word: it is no thread's, and making one costs nothing beside its work.
    return _hash(EnglishStemmer().stemWord(word) if word.isascii() and word.isalpha() else word)


def _hash(word: str) -> int:
    """Never 0, which no word has."""
    return crc32(word.encode("utf-8", "surrogatepass")) or 1
