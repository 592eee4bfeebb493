"""The process that resumes is killed too, at the points of its own; a third one goes on."""

from __future__ import annotations

import pytest

from tests.crash import proof
from tests.postgres.plans import AT_ONCE, PLANS, around_effects

pytestmark = pytest.mark.crash

RECOVERY = slice(8) if proof.LONG else slice(2, 5)
"""Claiming, taking over, settling, and the first steps after them."""
SHARDS = 4 if proof.LONG else 1


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("name", ["run, verify", "stream, person"] if proof.LONG else ["run, verify"])
def test_a_kill_during_recovery_harms_nothing(name: str, shard: int) -> None:
    plan = PLANS[name]
    expected, points = proof.uncrashed(plan)
    firsts = points[::2] if proof.LONG else around_effects(points)[1:2]
    found = {}
    with proof.worlds("postgres") as fresh:
        for first, world in zip(firsts[shard::SHARDS], fresh, strict=False):
            assert world.die(plan.job(world, at=first))
            again = proof.crash_again_and_judge(world, plan, expected, RECOVERY, at_once=AT_ONCE)
            for second, violations in again.items():
                found[f"{first}, then {second}"] = violations
    assert found == {}
