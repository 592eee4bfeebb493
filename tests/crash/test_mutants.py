"""A proof that cannot fail proves nothing: each deliberately broken variant is caught, and for the right reason."""

from __future__ import annotations

import pytest

from tests.crash import proof
from tests.crash.checks import Kind

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
