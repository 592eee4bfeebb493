"""Each deliberately broken variant is caught by the proofs of this folder, and for the right reason."""

from __future__ import annotations

import pytest

from shipworthy.testing.faults import Point
from tests.crash import proof
from tests.crash.checks import Kind
from tests.crash.proof import INSIDE, Plan
from tests.postgres.plans import IN_DOUBT, PLANS, ZOMBIES, killed_at
from tests.postgres.test_links import told_of_lost_answers

pytestmark = pytest.mark.crash
COUNTED = False

FIRST_PAYMENT = [Point("once", 1, "before"), Point("once", 1, "after")]


def said_of(mutant: str, plan: Plan, points: list[Point]) -> set[Kind]:
    found = killed_at(proof.with_mutant(plan, mutant), points)
    return {violation.kind for violations in found.values() for violation in violations}


def said_of_zombie(mutant: str, plan: Plan, point: Point) -> set[Kind]:
    expected, _ = proof.uncrashed(plan)
    with proof.worlds("postgres") as fresh:
        found = proof.stop_and_judge(fresh, proof.with_mutant(plan, mutant), expected, [point])
    return {violation.kind for violations in found.values() for violation in violations}


def before_the_intent(plan: Plan) -> Point:
    """Before the commit of the first `once` call's intent."""
    _, points = proof.uncrashed(plan)
    return [p for p in points[: points.index(INSIDE)] if (p.kind, p.side) == ("commit", "before")][-1]


def test_an_effect_before_its_intent_is_caught() -> None:
    assert "repeated" in said_of("effect_before_intent", PLANS["run, verify"], FIRST_PAYMENT)


def test_a_fold_that_forgets_doubt_is_caught() -> None:
    assert "repeated" in said_of("doubt_forgotten", PLANS["stream, person"], FIRST_PAYMENT)


UNHURRIED = proof.with_setting(PLANS["run, verify"], ttl=5.0, tool_timeout=5.0)
"""On a busy machine, too, the world is asked before an attempt can no longer be under way."""


def test_a_denial_that_is_believed_too_early_is_caught() -> None:
    assert "zombie" in said_of("settled_too_early", UNHURRIED, FIRST_PAYMENT)


def test_a_lost_session_that_is_taken_for_a_death_is_caught() -> None:
    assert "zombie" in said_of("lost_is_dead", UNHURRIED, FIRST_PAYMENT)


def test_events_that_are_shown_before_they_are_durable_are_caught() -> None:
    points = [Point("commit", n, "before") for n in range(8, 14)]
    assert "lost" in said_of("shown_before_durable", PLANS["stream, person"], points)


@pytest.mark.parametrize("name", ["run, verify", "together, verify"])
def test_a_group_that_is_answered_before_its_commit_is_caught(name: str) -> None:
    assert "lost" in said_of("answered_before_commit", PLANS[name], [Point("commit", 3, "after")])


def test_a_store_without_a_fence_is_caught() -> None:
    plan = proof.with_setting(ZOMBIES, fencing=False)
    assert "repeated" in said_of_zombie("no_fence", plan, before_the_intent(plan))


def test_a_body_that_starts_late_is_caught() -> None:
    plan = proof.with_setting(ZOMBIES, fencing=False)
    point = before_the_intent(plan)
    assert "repeated" in said_of_zombie("late_start", plan, Point(point.kind, point.ordinal, "after"))


def test_a_denial_of_a_stopped_workers_call_that_is_believed_too_early_is_caught() -> None:
    assert "zombie" in said_of_zombie("settled_too_early", IN_DOUBT, INSIDE)


def test_a_resend_that_is_taken_for_a_new_batch_is_caught() -> None:
    assert "Fenced" in told_of_lost_answers("resend_is_new")
