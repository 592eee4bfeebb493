"""Every durable write and every effect is numbered; before and after each the process is killed, and a new one goes on.

Nothing that was acknowledged is lost, no `once` effect happens twice or not at all, and every conversation is valid, at
the moment of the kill and at the end, which is that of the uncrashed run.
"""

from __future__ import annotations

import pytest

from tests.crash import proof

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("shard", range(proof.SHARDS))
@pytest.mark.parametrize("name", proof.PLANS)
def test_a_kill_at_any_point_harms_nothing(name: str, shard: int) -> None:
    plan = proof.PLANS[name]
    expected, points = proof.uncrashed(plan)
    found = {}
    with proof.worlds() as fresh:
        for point, world in zip(proof.part(points, shard), fresh, strict=False):
            if violations := proof.crash_and_judge(world, plan, expected, point):
                found[str(point)] = violations
    assert found == {}


@pytest.mark.parametrize("name", proof.PLANS)
def test_the_points_are_those_of_the_scenario(name: str) -> None:
    """Both sides of each, and each kind: what is not counted cannot be killed."""
    _, points = proof.uncrashed(proof.PLANS[name])
    kinds = {point.kind for point in points}
    assert {"begin", "commit", "once", "idempotent", "read"} == kinds
    for kind in kinds:
        befores = {p.ordinal for p in points if (p.kind, p.side) == (kind, "before")}
        assert befores == set(range(1, len(befores) + 1))
