"""The process that resumes is killed too, at every point of its own; a third one goes on.

The long form takes every point of the first process, and of the second those until it is like any other; of some first
points, all of the second.
"""

from __future__ import annotations

import pytest

from tests.crash import proof

pytestmark = pytest.mark.crash

RECOVERY = slice(8)
"""Claiming, taking over, settling, and the first steps after them."""
FIRST = slice(0, None, 1) if proof.LONG else slice(3, None, 12)
SHARDS = 8 if proof.LONG else 2


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("name", ["run, verify", "stream, person"])
def test_a_kill_during_recovery_harms_nothing(name: str, shard: int) -> None:
    plan = proof.PLANS[name]
    expected, points = proof.uncrashed(plan)
    found = {}
    with proof.worlds() as fresh:
        for first, world in zip(points[FIRST][shard::SHARDS], fresh, strict=False):
            assert world.die(plan.job(world, at=first))
            for second, violations in proof.crash_again_and_judge(world, plan, expected, RECOVERY).items():
                found[f"{first}, then {second}"] = violations
    assert found == {}


@pytest.mark.skipif(not proof.LONG, reason="the long form: make proof-crash")
@pytest.mark.parametrize("name", ["run, verify", "together, verify"])
@pytest.mark.parametrize("ordinal", [1, 2])
def test_a_kill_at_any_later_point_harms_nothing(name: str, ordinal: int) -> None:
    plan = proof.PLANS[name]
    expected, points = proof.uncrashed(plan)
    first = next(p for p in points if (p.kind, p.ordinal, p.side) == ("once", ordinal, "after"))
    with proof.worlds() as fresh:
        world = next(fresh)
        assert world.die(plan.job(world, at=first))
        assert proof.crash_again_and_judge(world, plan, expected, slice(None)) == {}
