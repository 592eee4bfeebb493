"""A process is killed at every durable write and every effect between a person's answer and the effect's result.

Another one goes on by the run's id: nobody is asked again for what was answered, and what was approved happens once.
"""

from __future__ import annotations

import pytest

from tests.control import kills, proof

pytestmark = pytest.mark.crash
WHOLE = ("one yes", "two")
"""Plans of which the short form tries all points; of others it tries each third one, of both sides."""
SPARSE = 11
"""After each first kill, the long form tries each eleventh second one, and other ones after each."""


@pytest.mark.parametrize("name", kills.PLANS)
def test_a_kill_at_any_point_neither_loses_an_answer_nor_uses_it_twice(name: str) -> None:
    with proof.worlds() as fresh:
        rehearsal = kills.rehearsed(fresh, name)
        points = rehearsal.expected.points
        third = points[list(kills.PLANS).index(name) % 3 :: 3]
        assert rehearsal.each(points if proof.LONG or name in WHOLE else third) == {}


@pytest.mark.parametrize("name", kills.PLANS)
def test_the_points_are_those_between_an_answer_and_its_effect(name: str) -> None:
    """Both sides of each, and each kind: what is not counted cannot be killed."""
    with proof.worlds() as fresh:
        points = kills.rehearsed(fresh, name).expected.points
        kinds = {point.kind for point in points}
        assert {"claim", "commit", "once"} <= kinds <= {"begin", "claim", "commit", "once", "release"}
        for kind in kinds:
            befores = {p.ordinal for p in points if (p.kind, p.side) == (kind, "before")}
            assert befores == set(range(1, len(befores) + 1))


@pytest.mark.skipif(not proof.LONG, reason="the long form")
@pytest.mark.parametrize("name", kills.PLANS)
def test_a_kill_of_whoever_goes_on_after_a_kill_harms_nothing_either(name: str) -> None:
    found = {}
    with proof.worlds() as fresh:
        rehearsal = kills.rehearsed(fresh, name)
        for number, first in enumerate(rehearsal.expected.points):
            found |= rehearsal.each_twice(first, slice(number % SPARSE, None, SPARSE))
    assert found == {}


@pytest.mark.skipif(proof.LONG, reason="the short form: a few of the second kills")
@pytest.mark.parametrize("name", ["one yes", "two"])
def test_a_kill_of_some_who_go_on_after_a_kill_harms_nothing_either(name: str) -> None:
    found = {}
    with proof.worlds() as fresh:
        rehearsal = kills.rehearsed(fresh, name)
        for first in rehearsal.expected.points[3::9]:
            found |= rehearsal.each_twice(first, slice(1, None, 5))
    assert found == {}
