"""A proof that cannot fail proves nothing: each deliberately broken variant is caught, and for the right reason."""

from __future__ import annotations

import pytest

from shipworthy.testing.faults import Point
from tests.crash import proof
from tests.crash.checks import Kind
from tests.crash.proof import IN_DOUBT, INSIDE, ZOMBIES

pytestmark = pytest.mark.crash
COUNTED = False


def first_violation(name: str, mutant: str, kinds: set[str]) -> set[Kind]:
    """What the proof of the points says of the mutant, at the first point where it says anything."""
    plan = proof.PLANS[name]
    expected, points = proof.uncrashed(plan)
    broken = proof.with_mutant(plan, mutant)
    with proof.worlds() as fresh:
        for point, world in zip([p for p in points if p.kind in kinds], fresh, strict=False):
            if violations := proof.crash_and_judge(world, broken, expected, point):
                return {v.kind for v in violations}
    return set()


def test_an_effect_before_its_intent_is_caught() -> None:
    assert "repeated" in first_violation("run, verify", "effect_before_intent", {"once"})


def test_a_fold_that_forgets_doubt_is_caught() -> None:
    assert "repeated" in first_violation("stream, person", "doubt_forgotten", {"once"})


def test_events_that_are_shown_before_they_are_durable_are_caught() -> None:
    assert "lost" in first_violation("stream, person", "shown_before_durable", {"commit"})


def test_an_old_result_that_is_given_to_a_later_call_is_caught() -> None:
    """The run itself goes wrong here, without any crash."""
    expected, _ = proof.uncrashed(proof.POSITIONS)
    with proof.worlds() as fresh:
        world = next(fresh)
        proof.finish(world, proof.with_mutant(proof.POSITIONS, "replayed_by_position"))
        assert {"missing", "different"} <= {v.kind for v in proof.judge_end(world, expected)}


@pytest.mark.parametrize("mutant", [None, "no_fsync"])
def test_a_kill_alone_cannot_tell_whether_writes_are_synced(mutant: str | None) -> None:
    """Only the loss of power can, which `test_power_loss` proves: the kernel keeps what a dead process wrote."""
    plan = proof.PLANS["run, verify"]
    expected, points = proof.uncrashed(plan)
    with proof.worlds() as fresh:
        for point, world in zip(points[5::12], fresh, strict=False):
            assert proof.crash_and_judge(world, proof.with_mutant(plan, mutant), expected, point) == []


def zombie_violations(mutant: str, setting: proof.Plan, point: Point) -> set[Kind]:
    """What the proof of the zombies says of the mutant."""
    expected, _ = proof.uncrashed(setting)
    with proof.worlds() as fresh:
        found = proof.stop_and_judge(fresh, proof.with_mutant(setting, mutant), expected, [point])
    return {v.kind for violations in found.values() for v in violations}


def before_the_intent(plan: proof.Plan) -> Point:
    """Before the commit of the first `once` call's intent."""
    _, points = proof.uncrashed(plan)
    return [p for p in points[: points.index(INSIDE)] if (p.kind, p.side) == ("commit", "before")][-1]


def test_a_store_without_a_fence_is_caught() -> None:
    plan = proof.with_setting(ZOMBIES, fencing=False)
    assert "repeated" in zombie_violations("no_fence", plan, before_the_intent(plan))


def test_a_body_that_starts_late_is_caught() -> None:
    plan = proof.with_setting(ZOMBIES, fencing=False)
    point = before_the_intent(plan)
    assert "repeated" in zombie_violations("late_start", plan, Point(point.kind, point.ordinal, "after"))


def test_a_denial_that_is_believed_too_early_is_caught() -> None:
    assert "zombie" in zombie_violations("settled_too_early", IN_DOUBT, INSIDE)


def test_a_store_that_does_not_sync_is_caught_by_a_loss_of_power() -> None:
    plan = proof.PLANS["run, verify"]
    expected, points = proof.uncrashed(plan)
    with proof.worlds() as fresh:
        broken = proof.with_mutant(plan, "no_fsync")
        found = proof.crash_and_judge(next(fresh), broken, expected, points[-1], lossy=True)
    assert "lost" in {v.kind for v in found}
