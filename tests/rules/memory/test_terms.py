"""Words as terms: what is the same word is one term, on every machine and in every release."""

from __future__ import annotations

import unicodedata
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.rules.memory import terms
from shipworthy.rules.memory.terms import PACKED, query_of, terms_of

SAME = [
    ("running", "runs"),
    ("bought", "buys"),
    ("children", "child"),
    ("CAFÉ", "cafe"),
    ("ﬁne", "fine"),
    ("Straße", "STRASSE"),
    ("Alice's", "Alice"),
    ("Alice\u2019s", "alice"),
    ("A-17", "A17"),
    ("e-mail", "email"),
    ("1,000", "1000"),
    ("007", "7"),
    ("O'Brien", "OBrien"),
    ("na\u00efve", "nai\u0308ve"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_forms_of_one_word_find_each_other(one: str, other: str) -> None:
    assert set(query_of(one)) & set(query_of(other))


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("room A-17 on 2026-03-14 at 7:30", "2026-03-14"),
        ("write to bob@acme.example", "bob"),
        ("我喜欢绿茶", "绿茶"),
        ("我喜欢绿茶", "茶"),
        ("東京タワー", "タワー"),
        ("ฉันชอบกาแฟ", "กาแฟ"),
        ("한국어를 배워요", "한국어"),
        ("हिन्दी में लिखा", "हिन्दी"),
        ("version v1.2.3 of GPT-4o", "GPT-4o"),
    ],
)
def test_ids_dates_and_scripts_without_spaces_are_found(text: str, question: str) -> None:
    assert set(query_of(question)) & {term for term, _ in np.frombuffer(terms_of(text), PACKED).tolist()}


@pytest.mark.parametrize(
    ("one", "other"), [("3.5", "35"), ("cat", "category"), ("A-17", "B-17x"), ("不", "是")]
)
def test_other_words_do_not(one: str, other: str) -> None:
    assert not set(query_of(one)) & set(query_of(other))


def test_stop_words_are_left_out_unless_there_is_nothing_else() -> None:
    assert set(query_of("what is the price of it")) == set(query_of("price"))
    assert len(query_of("who are you")) == 3
    assert terms_of("") == terms_of("!? ... \N{PARTY POPPER}") == b""


@given(st.text())
def test_terms_are_those_of_the_question_in_ascending_order_and_counted(text: str) -> None:
    packed = np.frombuffer(terms_of(text), PACKED)
    assert np.all(np.diff(packed["term"].astype(np.int64)) > 0)
    assert np.all(packed["count"] >= 1)
    assert set(query_of(text)) <= set(packed["term"])


@given(st.text())
def test_case_and_composition_change_nothing(text: str) -> None:
    if unicodedata.normalize("NFC", text) == text and text.lower().upper().lower() == text.lower():
        assert terms_of(unicodedata.normalize("NFD", text)) == terms_of(text)
    assert terms_of(text.casefold()) == terms_of(text)


def test_a_word_that_is_said_more_often_than_fits_is_counted_as_often_as_fits() -> None:
    assert np.frombuffer(terms_of("tea " * 70_000), PACKED)["count"].tolist() == [0xFFFF]


def test_a_word_that_is_too_long_to_be_one_is_not_kept_in_mind() -> None:
    before = terms._known.cache_info().currsize
    assert len(query_of("x" * 10_000 + " " + "y1" * 5_000)) == 2
    assert terms._known.cache_info().currsize == before


def looks_at_both_ends(asked: Any) -> bool:
    found = asked("boiler " + "filler words of no weight " * 40_000 + " price")
    ends = set(query_of("boiler price").tolist())
    return ends <= set(found.tolist()) and len(terms.bounded("x" * 10**7)) == terms.LONGEST_QUERY


def test_of_a_very_long_question_its_beginning_and_its_end_are_looked_at() -> None:
    assert looks_at_both_ends(query_of)
    assert terms.bounded("x" * terms.LONGEST_QUERY) == "x" * terms.LONGEST_QUERY
    long = terms.bounded("tea " * 10_000)
    assert terms.bounded(long) == long


@pytest.mark.parametrize("kept", [lambda text: text, lambda text: text[:4_000], lambda text: text[-4_000:]])
def test_what_looks_at_all_of_it_or_at_one_end_is_caught(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "bounded", kept)
    assert not looks_at_both_ends(query_of)


def test_a_lone_surrogate_is_no_error() -> None:
    assert len(query_of("tea\ud800cup")) == 2


def test_threads_get_the_same_terms() -> None:
    words = [
        f"{stem}{end}"
        for stem in ("walk", "formal", "relat", "nation")
        for end in ("ing", "ed", "ional", "s")
    ]
    text = " ".join(words * 50)
    terms._known.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(terms_of, [text] * 32))) == 1


GOLDEN = (
    "The children's teacher was running late; 1,250 reports (A-17, 3.5 MB) were relationally organised on 2026-03-14, "
    "generously, happily and nationally: cities flying, dying, skies, Zoë's cafés. 我喜欢绿茶 and Ünïcode."
)
FINGERPRINT = 3970477762


def test_the_scheme_has_another_name_when_it_makes_other_terms() -> None:
    """A new release of the stemmer may stem otherwise: then TERMS gets another name, and stores are indexed anew."""
    assert (terms.TERMS, zlib.crc32(terms_of(GOLDEN))) == ("english-1", FINGERPRINT)
