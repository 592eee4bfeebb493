"""Kills from outside, at random times: they reach moments that have no number, such as the middle of a commit.

Four runs share each process; whoever resumes them is killed too, until one is left in peace.
"""

from __future__ import annotations

import random

import pytest

from tests.crash import laws, proof, scenario

pytestmark = pytest.mark.crash

KILLS = 1000 if proof.LONG else 40
SHARDS = 8 if proof.LONG else 2
PLANS = [
    proof.Plan(way="together", runs=("g1", "g2", "z3", "z4")),
    proof.Plan(way="together", runs=("a", "g2", "p3", "z4"), setting=scenario.Setting(verified=False)),
]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kills_at_random_times_harm_nothing(shard: int) -> None:
    chance = random.Random(f"{proof.SEED} {shard}")
    assert laws.kills_at_random_times_harm_nothing(PLANS, -(-KILLS // SHARDS), chance) == {}
