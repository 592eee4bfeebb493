"""What becomes of facts when more is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shipworthy.domain.memory import Fact, Source
from shipworthy.rules.memory import facts as rules
from shipworthy.rules.memory.facts import Belief, Learned, learn, topic

SURE = 0.6
SUBJECTS, PREDICATES, OBJECTS = (
    ("user", "User ", "dog"),
    ("lives in", "lives_in", "likes"),
    ("Rome", "rome", "Oslo"),
)

beliefs = st.builds(
    Belief,
    subject=st.sampled_from(SUBJECTS),
    predicate=st.sampled_from(PREDICATES),
    object=st.sampled_from(OBJECTS),
    single=st.booleans(),
    confidence=st.sampled_from([0.2, 0.5, 0.9, 1.0]),
    valid_from=st.sampled_from([None, 5, 10, 20]),
    trust=st.sampled_from(["trusted", "untrusted"]),
)
lessons = st.lists(st.lists(beliefs, min_size=1, max_size=3), min_size=1, max_size=6)


@dataclass
class Mind:
    """Facts, as learning leaves them, kept as a store would."""

    facts: dict[str, Fact]

    def learn(self, nth: int, lesson: list[Belief]) -> Learned:
        made = learn(
            list(self.facts.values()),
            lesson,
            now=100 + nth,
            source=Source(f"run-{nth}"),
            origin="model",
            ids=[f"{nth}:{i}" for i in range(len(lesson))],
            sure=SURE,
        )
        self.facts.update({fact.id: fact for fact in made.put})
        return made


def check(given_lessons: list[list[Belief]]) -> None:
    """Everything that holds after each lesson, and whatever the lessons were."""
    mind = Mind({})
    for nth, lesson in enumerate(given_lessons):
        before = dict(mind.facts)
        made = mind.learn(nth, lesson)
        assert set(before) <= set(mind.facts), "nothing is overwritten by forgetting"
        for fact_id, old in before.items():
            new = mind.facts[fact_id]
            assert (new.subject, new.predicate, new.object) == (old.subject, old.predicate, old.object)
            assert (new.learned_at, new.valid_from) == (old.learned_at, old.valid_from)
            assert old.superseded_at is None or new == old, "what is over stays as it was"
            assert not (old.trust == "trusted" and new.trust == "untrusted")
            if old.trust == "trusted" and all([belief.trust == "untrusted" for belief in lesson]):
                assert new == old, "who is not trusted changes nothing of what is"
            if new.superseded_at is not None and old.superseded_at is None:
                heir = mind.facts[new.superseded_by or ""]
                assert not heir.quarantined, "what is not sure puts an end to nothing"
                assert heir.valid_from > old.valid_from or old.quarantined, "ties survive"
                assert (heir.trust, old.trust) != ("untrusted", "trusted")
                assert new.valid_to is not None
                assert topic(heir.subject, heir.predicate) == topic(old.subject, old.predicate)
        for fact in mind.facts.values():
            assert fact.quarantined == (fact.confidence < SURE) or fact.superseded_at is not None
        told = [*made.added, *made.confirmed, *made.superseded, *made.quarantined]
        assert len(told) == len(set(told))
        assert {fact.id for fact in made.put} <= set(told)
        again = dict(mind.facts)
        mind.learn(nth, lesson)
        assert mind.facts == again, "learning the same lesson again changes nothing"
        live = [f for f in mind.facts.values() if f.superseded_at is None]
        names = [(rules.same(f.subject), rules.same(f.predicate), rules.same(f.object)) for f in live]
        assert len(names) == len(set(names)), "nothing is believed twice"


@settings(max_examples=150, deadline=None)
@given(lessons)
def test_facts_are_superseded_and_never_overwritten(given_lessons: list[list[Belief]]) -> None:
    check(given_lessons)


LIVES_IN_ROME = Belief(subject="user", predicate="lives in", object="Rome", single=True, valid_from=5)
CASES: dict[str, list[list[Belief]]] = {
    "a tie": [[LIVES_IN_ROME], [replace(LIVES_IN_ROME, object="Oslo")]],
    "a contradiction": [[LIVES_IN_ROME], [replace(LIVES_IN_ROME, object="Oslo", valid_from=10)]],
    "not sure": [[LIVES_IN_ROME], [replace(LIVES_IN_ROME, object="Oslo", valid_from=10, confidence=0.2)]],
    "not trusted": [
        [LIVES_IN_ROME],
        [replace(LIVES_IN_ROME, object="Oslo", valid_from=10, trust="untrusted")],
    ],
    "said twice": [
        [LIVES_IN_ROME],
        [replace(LIVES_IN_ROME, subject=" USER ", predicate="lives_in", object="rome")],
    ],
    "said twice, not trusted": [
        [replace(LIVES_IN_ROME, confidence=0.2)],
        [replace(LIVES_IN_ROME, confidence=0.9, trust="untrusted")],
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_known_cases(case: str) -> None:
    check(CASES[case])


def test_a_later_fact_supersedes_and_an_earlier_one_was_over() -> None:
    mind = Mind({})
    mind.learn(0, [LIVES_IN_ROME])
    mind.learn(1, [replace(LIVES_IN_ROME, object="Oslo", valid_from=10)])
    mind.learn(2, [replace(LIVES_IN_ROME, object="Bonn", valid_from=1)])
    by_object = {fact.object: fact for fact in mind.facts.values()}
    assert (by_object["Rome"].superseded_by, by_object["Rome"].valid_to) == ("1:0", 10)
    assert by_object["Oslo"].superseded_at is None
    assert (by_object["Bonn"].valid_to, by_object["Bonn"].superseded_at) == (10, None)


def mutant(name: str, function: Callable[..., Any]) -> Any:
    return pytest.param(name, function, id=name)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        mutant("_yields", lambda old, new: (old.single or new.single) and old.valid_from <= new.valid_from),
        mutant("_yields", lambda old, new: (old.single or new.single) and old.valid_from < new.valid_from),
        mutant(
            "_confirmed", lambda fact, belief, source, sure: replace(fact, confidence=1.0, quarantined=False)
        ),
        mutant("same", lambda text: text),
    ],
)
def test_each_way_to_break_it_is_seen(name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, name, broken)
    failed = 0
    for case in CASES.values():
        try:
            check(case)
        except AssertionError:
            failed += 1
    if name == "same":
        mind = Mind({})
        mind.learn(0, CASES["said twice"][0])
        mind.learn(1, CASES["said twice"][1])
        failed += len(mind.facts) != 1
    assert failed
