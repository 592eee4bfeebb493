"""What was left unlearned is learned late, and is true since it was said: what was said after it stands."""

from __future__ import annotations

import pytest

from shipworthy.testing.faults import Point
from tests.memory.crash import proof
from tests.memory.crash.proof import Plan
from tests.memory.crash.scenario import MOVING

pytestmark = pytest.mark.crash


def learned_late(mutant: str | None = None) -> set[str]:
    """What is wrong where a process died before it learned the first saying, and the second was learned first."""
    with proof.worlds(Plan()) as fresh:
        world = fresh.fresh(mutant)
        assert world.dies(Point("ask learning of r1", 1, "before"))
        world.do(sayings=[MOVING[1]], takes_up="nothing")
        outcome = world.do()
        homes = [fact for each in outcome.items if (fact := each.fact) and fact.predicate == "lives in"]
        now = [fact.object for fact in homes if fact.superseded_at is None and fact.valid_to is None]
        known = sorted([fact.object for fact in homes])
        return set() if (now, known) == (["Bergen"], ["Bergen", "Oslo"]) else {"different"}


def test_of_two_contradictions_the_one_that_was_said_last_stands_whichever_is_learned_last() -> None:
    assert learned_late() == set()
