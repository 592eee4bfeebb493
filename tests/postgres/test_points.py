"""Before and after each durable write and each effect the process is killed, and a new one goes on, on PostgreSQL.

The law of `tests/crash/test_points.py`; and whoever takes over believes that an effect did not happen only when it
can no longer happen. The short form takes a sample: some points around the effects, and some others.
"""

from __future__ import annotations

import random

import pytest

from shipworthy.testing.faults import Point
from tests.crash import proof
from tests.postgres.plans import AT_ONCE, PLANS, around_effects, killed_at

pytestmark = pytest.mark.crash

SHARDS = 4 if proof.LONG else 1


def chosen(name: str) -> list[Point]:
    _, points = proof.uncrashed(PLANS[name])
    if proof.LONG:
        return points
    chance = random.Random(f"{proof.SEED} {name}")
    some = chance.sample(around_effects(points), AT_ONCE // 2)
    return some + chance.sample([p for p in points if p not in some], AT_ONCE // 2)


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("name", PLANS)
def test_a_kill_at_any_point_harms_nothing(name: str, shard: int) -> None:
    assert killed_at(PLANS[name], chosen(name)[shard::SHARDS]) == {}
