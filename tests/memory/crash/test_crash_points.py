"""A process may die before and after every durable write and every effect of a run that remembers and of the run that
learns from it: another one goes on, and memory is what it would be if nobody had died."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shipworthy.testing.faults import Point
from tests.memory.crash import proof
from tests.memory.crash.proof import Choose, Plan

pytestmark = pytest.mark.crash


def is_of_memory(point: Point) -> bool:
    """Whether it is at memory itself, and not at a journal, which is a file whatever memory is."""
    return point.kind.startswith(("put", "dynamodb"))


def some(step: int, of_memory: int) -> Choose:
    """Of the points at memory and of the others: one in so many."""

    def choose(points: Sequence[Point]) -> Sequence[Point]:
        others = [point for point in points if not is_of_memory(point)]
        return [*[p for p in points if is_of_memory(p)][::of_memory], *others[3::step]]

    return choose


PLANS: dict[str, tuple[Plan, Choose]] = {
    "in the runtime's file": (Plan(), lambda points: points[::2]),
    "streamed": (Plan(way="stream"), lambda points: points[1::4]),
    "in a file of its own": (Plan(kind="own"), some(10, 1)),
    "postgres": (Plan(kind="postgres"), some(20, 1)),
    "redis": (Plan(kind="redis", way="stream"), some(20, 1)),
    "dynamodb": (Plan(kind="dynamodb"), some(20, 4)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_kill_at_any_point_neither_loses_nor_doubles_what_is_remembered_and_learned(name: str) -> None:
    plan, chosen = PLANS[name]
    assert proof.each(plan, (lambda points: points) if proof.LONG else chosen) == {}


@pytest.mark.parametrize("takes_up", ["recover", "consolidate"])
def test_whoever_recovers_or_consolidates_completes_it_too(takes_up: str) -> None:
    step = 1 if proof.LONG else 9
    assert proof.each(Plan(), lambda points: points[5::step], takes_up=takes_up) == {}


def test_a_kill_of_whoever_goes_on_after_a_kill_harms_nothing_either() -> None:
    first, second = (3, 5) if proof.LONG else (20, 11)
    found = proof.each_twice(
        Plan(kind="own"), lambda points: points[14::first], lambda points: points[1::second]
    )
    assert found == {}


def test_the_points_are_those_of_a_run_of_what_it_remembers_and_of_what_learns_from_it() -> None:
    """Both sides of each: what is not counted cannot be killed."""
    with proof.worlds(Plan()) as fresh:
        points = proof.uncrashed(fresh).points
    runs = ("r1", "learning of r1", "r2", "learning of r2")
    kinds = {f"{what} {run}" for what in ("begin", "ask", "commit") for run in runs}
    assert kinds | {"book r1", "book r2", "put episode", "put fact"} <= {point.kind for point in points}
    sides = {side: {(p.kind, p.ordinal) for p in points if p.side == side} for side in ("before", "after")}
    assert sides["before"] == sides["after"]
