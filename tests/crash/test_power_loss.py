"""The power fails: what was written and not synced is gone, or a part of it. What was acknowledged is there."""

from __future__ import annotations

import random

import pytest

from tests.crash import proof

pytestmark = pytest.mark.crash

PLAN = proof.PLANS["run, verify"]
STREAM = proof.PLANS["stream, person"]
EVERY = 1 if proof.LONG else 6
SHARDS = 4


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("plan", [PLAN, STREAM], ids=["run, verify", "stream, person"])
def test_what_was_acknowledged_survives_a_loss_of_power_at_any_point(plan: proof.Plan, shard: int) -> None:
    expected, points = proof.uncrashed(plan)
    found = {}
    with proof.worlds() as fresh:
        for point, world in zip(points[::EVERY][shard::SHARDS], fresh, strict=False):
            if violations := proof.crash_and_judge(world, plan, expected, point, lossy=True):
                found[str(point)] = violations
    assert found == {}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_it_survives_a_loss_in_the_middle_of_a_commit(shard: int) -> None:
    """Before any write, truncation or sync of the files, with any part of what was not synced left in any order."""
    expected, _ = proof.uncrashed(PLAN)
    found = {}
    with proof.worlds() as fresh:
        world = next(fresh)
        cuts = world.do(PLAN.job(world, lossy=True)).operations["any"]
        assert cuts > 100
        chosen = range(1 + shard, cuts + 1, SHARDS * (1 if proof.LONG else 16))
        for cut, world in zip(chosen, fresh, strict=False):
            torn = random.Random(f"{proof.SEED} {cut}").choice([None, proof.SEED + cut])
            assert world.die(PLAN.job(world, lossy=True, cut=cut, torn=torn)), f"never reached: {cut}"
            assert world.died() == [f"operation {cut}"]
            proof.figures.points += 1
            if violations := proof.finish_and_judge(world, PLAN, expected):
                found[f"operation {cut}, torn {torn}"] = violations
    assert found == {}
