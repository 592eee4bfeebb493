"""A process that was stopped goes on when its runs have been taken over, and DBOS does not tell it: the fence does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shipworthy.testing.faults import Point
from tests.crash import proof
from tests.crash.proof import INSIDE, ZOMBIES
from tests.dbos.child import UNTOLD
from tests.dbos.worlds import processes, worlds

pytestmark = pytest.mark.crash


@pytest.fixture(scope="module", autouse=True)
def zygote() -> Iterator[None]:
    with processes():
        yield


def before_the_intent() -> list[Point]:
    """Of the first `once` call, under DBOS."""
    with worlds() as fresh:
        world = next(fresh)
        points = world.do(ZOMBIES.job(world)).points
    return [p for p in points[: points.index(INSIDE)] if (p.kind, p.side) == ("commit", "before")][-1:]


def test_a_process_that_comes_to_itself_again_harms_nothing() -> None:
    expected, _ = proof.uncrashed(ZOMBIES)
    with worlds(UNTOLD) as fresh:
        assert proof.stop_and_judge(fresh, ZOMBIES, expected, [*before_the_intent(), INSIDE]) == {}


def test_without_the_fence_it_doubles_an_effect() -> None:
    plan = proof.with_setting(ZOMBIES, fencing=False)
    expected, _ = proof.uncrashed(plan)
    broken = proof.with_mutant(plan, "no_fence")
    with worlds(UNTOLD) as fresh:
        found = proof.stop_and_judge(fresh, broken, expected, before_the_intent())
    assert "repeated" in {violation.kind for violations in found.values() for violation in violations}
