"""Runs that DBOS or Temporal drives recall, are remembered and are learned from, and so where a process died."""

from __future__ import annotations

import pytest

from shipworthy.testing.faults import Point
from tests.memory.crash import proof
from tests.memory.crash.proof import Plan, World
from tests.servers.temporal import fresh_name

pytestmark = pytest.mark.crash
DEATHS = [
    Point("put episode", 1, "after"),
    Point("begin learning of r2", 1, "after"),
    Point("put fact", 2, "after"),
    Point("ask r2", 1, "before"),
    Point("commit learning of r1", 1, "after"),
]


def goes_on(world: World, expected: proof.Reference, point: Point) -> None:
    assert proof.killed_and_judged(world, expected, point) == [], point
    assert '"remembered":"user like tea"' in world.shown("r2")


@pytest.fixture(scope="module")
def expected() -> proof.Reference:
    """What comes of it where nobody dies, and no other engine drives."""
    with proof.worlds(Plan()) as fresh:
        return proof.uncrashed(fresh)


@pytest.mark.parametrize("point", DEATHS if proof.LONG else DEATHS[2:3], ids=str)
def test_under_dbos_memory_is_what_it_would_be_if_nobody_had_died(
    point: Point, expected: proof.Reference
) -> None:
    with proof.worlds(Plan(driver="dbos")) as fresh:
        goes_on(fresh.fresh(), expected, point)


@pytest.mark.parametrize("point", DEATHS if proof.LONG else DEATHS[1:2], ids=str)
def test_under_temporal_memory_is_what_it_would_be_if_nobody_had_died(
    point: Point, expected: proof.Reference, temporal: str
) -> None:
    with proof.worlds(Plan(driver="temporal")) as fresh:
        world = fresh.fresh()
        world.driven |= {"address": temporal, "queue": fresh_name("memory")}
        goes_on(world, expected, point)
