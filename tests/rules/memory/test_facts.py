"""What becomes of facts when more is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shipworthy.domain.memory import Ended, Fact, Source
from shipworthy.rules.memory import facts as rules
from shipworthy.rules.memory.facts import Belief, Learned, learn, topic

SURE = 0.6
SUBJECTS, PREDICATES, OBJECTS = (
    ("user", "User ", "dog"),
    ("lives in", "lives_in", "likes"),
    ("Rome", "rome", "Oslo", "Bonn"),
)
TIMES = (0, 5, 7, 10, 15, 20, 25, 30, 99, 100, 102, 104, 107, 200, 210, 300)
"""Of the world, around 100 to 105, when the lessons are learned."""


def bounded(belief: Belief) -> Belief:
    """The belief, unless it were over before it began."""
    begins = 110 if belief.valid_from is None else belief.valid_from
    over = belief.valid_to is not None and belief.valid_to <= begins
    return replace(belief, valid_to=None) if over else belief


beliefs = st.builds(
    Belief,
    subject=st.sampled_from(SUBJECTS),
    predicate=st.sampled_from(PREDICATES),
    object=st.sampled_from(OBJECTS),
    single=st.booleans(),
    confidence=st.sampled_from([0.2, 0.5, 0.9, 1.0]),
    valid_from=st.sampled_from([None, 5, 10, 20, 102, 200]),
    valid_to=st.sampled_from([None, None, None, 15, 30, 210]),
    trust=st.sampled_from(["trusted", "trusted", "untrusted"]),
).map(bounded)
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


def by_the_book(mind: Mind, said: dict[str, Belief], at: int) -> set[str]:
    """What is true in the world at a time, from all that was ever said, without regard to what learning noted of ends:
    a fact holds from when it began, until what was said of its end, or until what cannot be beside it began."""

    def told(fact: Fact) -> int | None:
        return said[fact.id].valid_to

    def holds(fact: Fact) -> bool:
        return fact.valid_from <= at and ((end := told(fact)) is None or at < end)

    def is_over(fact: Fact, other: Fact) -> bool:
        if other.quarantined or (fact.trust == "trusted" and other.trust == "untrusted"):
            return False
        if topic(fact.subject, fact.predicate) != topic(other.subject, other.predicate):
            return False
        apart = fact.single or other.single or rules.same(fact.object) == rules.same(other.object)
        return apart and fact.valid_from < other.valid_from <= at

    every = list(mind.facts.values())
    true = [fact for fact in every if not fact.quarantined and holds(fact)]
    return {fact.id for fact in true if not any([is_over(fact, other) for other in every])}


def seen(mind: Mind, true_at: int | None, known_at: int | None) -> set[str]:
    return {fact.id for fact in mind.facts.values() if rules.shown(fact, true_at, known_at)}


def check(given_lessons: list[list[Belief]]) -> None:
    """Everything that holds after each lesson, and whatever the lessons were."""
    mind, said, past = Mind({}), dict[str, Belief](), list[Mind]()
    for nth, lesson in enumerate(given_lessons):
        before = dict(mind.facts)
        made = mind.learn(nth, lesson)
        said |= {f"{nth}:{i}": belief for i, belief in enumerate(lesson)}
        assert set(before) <= set(mind.facts), "nothing is overwritten by forgetting"
        for fact_id, old in before.items():
            _changed_rightly(mind, lesson, old, mind.facts[fact_id])
        for fact in mind.facts.values():
            assert fact.quarantined == (fact.confidence < SURE)
        told = [*made.added, *made.confirmed, *made.superseded, *made.quarantined]
        assert len(told) == len(set(told))
        for fact in made.put:
            assert fact.id in told or (fact.id in before and fact.ends != before[fact.id].ends)
        again = dict(mind.facts)
        mind.learn(nth, lesson)
        assert len(lesson) > 1 or mind.facts == again, "learning the same again changes nothing"
        mind.facts = again
        _nothing_twice(mind)
        past.append(Mind(dict(mind.facts)))
    for at in TIMES:
        true, book = seen(mind, at, None), by_the_book(mind, said, at)
        trusted = {fact.id for fact in mind.facts.values() if fact.trust == "trusted"}
        assert true & trusted == book & trusted, f"what is true at {at}"
        assert true <= book, "what is not trusted may be over as well because what is says the same"
        assert trusted or true == book
        for nth, then in enumerate(past):
            assert seen(mind, at, 100 + nth) == seen(then, at, None), "what was known is told as it was known"
    for nth, then in enumerate(past):
        assert seen(mind, None, 100 + nth) == seen(then, None, None), "what was believed, too"


def _changed_rightly(mind: Mind, lesson: list[Belief], old: Fact, new: Fact) -> None:
    """What learning may change of a fact, and what it may not."""
    assert (new.subject, new.predicate, new.object) == (old.subject, old.predicate, old.object)
    assert (new.learned_at, new.valid_from, new.trust) == (old.learned_at, old.valid_from, old.trust)
    assert new.ends[: len(old.ends)] == old.ends, "what was known stays as it was"
    if old.superseded_at is not None:
        assert (new.superseded_at, new.superseded_by) == (old.superseded_at, old.superseded_by)
    if old.trust == "trusted" and all([belief.trust == "untrusted" for belief in lesson]):
        assert new == old, "who is not trusted changes nothing of what is"
    if new.superseded_at is not None and old.superseded_at is None:
        heir = mind.facts[new.superseded_by or ""]
        assert not heir.quarantined, "what is not sure puts an end to nothing"
        assert heir.valid_from > old.valid_from or rules.is_empty(new), "ties survive"
        assert (heir.trust, old.trust) != ("untrusted", "trusted")
        assert new.valid_to is not None
        assert new.valid_to <= new.superseded_at or rules.is_empty(new), "what is to come ends nothing yet"
        assert topic(heir.subject, heir.predicate) == topic(old.subject, old.predicate)


def _nothing_twice(mind: Mind) -> None:
    """Nothing is believed twice of one time."""
    sure = [fact for fact in mind.facts.values() if not fact.quarantined]
    for at in TIMES:
        names = [
            (rules.same(f.subject), rules.same(f.predicate), rules.same(f.object), f.trust)
            for f in sure
            if f.holds(at)
        ]
        assert len(names) == len(set(names)), f"nothing is believed twice of {at}"


@settings(max_examples=150, deadline=None)
@given(lessons)
def test_facts_are_superseded_and_never_overwritten(given_lessons: list[list[Belief]]) -> None:
    check(given_lessons)


LIVES_IN_ROME = Belief(subject="user", predicate="lives in", object="Rome", single=True, valid_from=5)


def oslo(valid_from: int, **changes: Any) -> Belief:
    return replace(LIVES_IN_ROME, object="Oslo", valid_from=valid_from, **changes)


CASES: dict[str, list[list[Belief]]] = {
    "a tie": [[LIVES_IN_ROME], [oslo(5)]],
    "a contradiction": [[LIVES_IN_ROME], [oslo(10)]],
    "not sure": [[LIVES_IN_ROME], [oslo(10, confidence=0.2)]],
    "not trusted": [[LIVES_IN_ROME], [oslo(10, trust="untrusted")]],
    "said twice": [
        [LIVES_IN_ROME],
        [replace(LIVES_IN_ROME, subject=" USER ", predicate="lives_in", object="rome")],
    ],
    "said twice, not trusted": [
        [replace(LIVES_IN_ROME, confidence=0.2)],
        [replace(LIVES_IN_ROME, confidence=0.9, trust="untrusted")],
    ],
    "not sure, and before": [[oslo(10, confidence=0.2)], [LIVES_IN_ROME]],
    "not trusted, and before": [[oslo(10, trust="untrusted")], [LIVES_IN_ROME]],
    "to come": [[LIVES_IN_ROME], [oslo(200)]],
    "made sure later": [[LIVES_IN_ROME], [oslo(10, confidence=0.5)], [oslo(20, confidence=0.9)]],
    "learned late": [[LIVES_IN_ROME], [oslo(20)], [replace(LIVES_IN_ROME, object="Bonn", valid_from=10)]],
    "back again": [[LIVES_IN_ROME], [oslo(10)], [replace(LIVES_IN_ROME, valid_from=20)]],
    "over, and so again": [[replace(LIVES_IN_ROME, valid_to=7)], [replace(LIVES_IN_ROME, valid_from=20)]],
    "by trusted words, too": [[oslo(10, trust="untrusted")], [oslo(10)]],
}


@pytest.mark.parametrize("case", CASES)
def test_known_cases(case: str) -> None:
    check(CASES[case])


def test_a_later_fact_supersedes_and_an_earlier_one_was_over() -> None:
    mind = Mind({})
    mind.learn(0, [LIVES_IN_ROME])
    mind.learn(1, [oslo(10)])
    mind.learn(2, [replace(LIVES_IN_ROME, object="Bonn", valid_from=1)])
    by_object = {fact.object: fact for fact in mind.facts.values()}
    assert (by_object["Rome"].superseded_by, by_object["Rome"].valid_to) == ("1:0", 10)
    assert by_object["Oslo"].superseded_at is None
    assert (by_object["Bonn"].valid_to, by_object["Bonn"].superseded_at) == (5, None)


def test_what_is_to_come_leaves_the_present_as_it_is() -> None:
    mind = Mind({})
    mind.learn(0, [LIVES_IN_ROME])
    mind.learn(1, [oslo(200)])
    by_object = {fact.object: fact for fact in mind.facts.values()}
    assert (by_object["Rome"].valid_to, by_object["Rome"].superseded_at) == (200, None)
    assert [seen(mind, at, None) for at in (110, 200)] == [{"0:0"}, {"1:0"}]


def test_a_developers_word_makes_sure_and_trusted() -> None:
    for before in (replace(LIVES_IN_ROME, confidence=0.4), replace(LIVES_IN_ROME, trust="untrusted")):
        first = learn([], [before], now=100, source=Source("run"), origin="model", ids=["one"], sure=SURE)
        mind = Mind({fact.id: fact for fact in first.put})
        for nth in (1, 2):
            made = learn(
                mind.facts.values(),
                [replace(LIVES_IN_ROME, valid_from=None)],
                now=100 + nth,
                source=None,
                origin="developer",
                ids=[f"word-{nth}"],
                sure=SURE,
            )
            mind.facts.update({fact.id: fact for fact in made.put})
        [fact] = [fact for fact in mind.facts.values() if rules.shown(fact, None, None)]
        assert (fact.trust, fact.confidence, fact.quarantined) == ("trusted", 1.0, False)


def comparisons(beliefs: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many texts are looked at to learn so many facts."""
    counted, plain = [0], rules.same

    def same(text: str) -> str:
        counted[0] += 1
        return plain(text)

    with monkeypatch.context() as patch:
        patch.setattr(rules, "same", same)
        Mind({}).learn(
            0, [Belief(subject="user", predicate="likes", object=f"tea {i}") for i in range(beliefs)]
        )
        Mind({}).learn(
            0, [Belief(subject="user", predicate=f"likes {i}", object="x") for i in range(beliefs)]
        )
    return counted[0]


def test_what_learning_costs_grows_with_what_is_learned_and_no_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_linear() -> bool:
        return comparisons(400, monkeypatch) < 5 * comparisons(100, monkeypatch)

    assert is_linear()
    with monkeypatch.context() as patch:
        patch.setattr(rules._Mind, "_beside", lambda self, fact: list(self.facts.values()))
        assert not is_linear()


_ENDS = rules._ends


def sure(fact: Fact) -> Fact:
    return replace(fact, quarantined=False)


def forgetful(self: Any, new: Fact) -> None:
    """What is over does not say what was known of its end before."""
    for old in [fact for fact in self._beside(new) if rules._ends(fact, new)]:
        until = max(old.valid_from, new.valid_from)
        self.write(replace(old, valid_to=until, superseded_at=self.now, superseded_by=new.id))


def at_once(self: Any, new: Fact) -> None:
    """What is to come supersedes what is."""
    for old in [fact for fact in self._beside(new) if rules._ends(fact, new)]:
        gone = Ended(self.now, new.id, old.valid_to)
        over = replace(old, valid_to=new.valid_from, ends=(*old.ends, gone))
        self.write(replace(over, superseded_at=self.now, superseded_by=new.id))


def not_after_all(fact: Fact, made: Fact, source: Any, least: float, now: int) -> Fact:
    """What is made sure by what is said again is as if it had been sure all the time."""
    return replace(fact, confidence=1.0, quarantined=False)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        pytest.param(
            rules, "_ends", lambda old, new: _ENDS(replace(old, trust="untrusted"), new), id="trust"
        ),
        pytest.param(rules, "_ends", lambda old, new: _ENDS(old, sure(new)), id="sure"),
        pytest.param(
            rules,
            "_ends",
            lambda old, new: _ENDS(replace(old, valid_from=old.valid_from - 1), new),
            id="ties",
        ),
        pytest.param(rules, "_ends", lambda old, new: False, id="nothing ends"),
        pytest.param(rules._Mind, "end_others", forgetful, id="forgetful"),
        pytest.param(rules._Mind, "end_others", at_once, id="at once"),
        pytest.param(rules._Mind, "end_others", lambda self, new: None, id="the earlier stays"),
        pytest.param(rules, "_confirmed", not_after_all, id="confirmed by anybody"),
        pytest.param(rules, "same", lambda text: text, id="spelling"),
    ],
)
def test_each_way_to_break_it_is_seen(
    where: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, broken)
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


def test_what_is_made_sure_takes_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    def believed() -> list[str]:
        mind = Mind({})
        for nth, lesson in enumerate(CASES["made sure later"]):
            mind.learn(nth, lesson)
        return [fact.object for fact in mind.facts.values() if rules.shown(fact, None, None)]

    assert believed() == ["Oslo"]
    end_others = rules._Mind.end_others
    monkeypatch.setattr(
        rules._Mind, "end_others", lambda self, new: None if len(new.sources) > 1 else end_others(self, new)
    )
    assert believed() == ["Rome", "Oslo"]
