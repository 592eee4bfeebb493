"""Kills from outside, at random times: they reach moments that have no number, such as the middle of a commit."""

from __future__ import annotations

import random

import pytest

from tests.crash import laws, proof
from tests.postgres.plans import on_postgres

pytestmark = pytest.mark.crash

KILLS = 500 if proof.LONG else 6
SHARDS = 8 if proof.LONG else 1
TOGETHER = 6
PLANS = [
    on_postgres(proof.Plan(way="together", runs=("g1", "g2", "z3", "z4"))),
    on_postgres(proof.Plan(way="together", runs=("a", "g2", "p3", "z4")), verified=False),
]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kills_at_random_times_harm_nothing(shard: int) -> None:
    chances = [random.Random(f"{proof.SEED} {shard} {part}") for part in range(TOGETHER)]
    found: list[dict[str, list[proof.Violation]]] = []
    kills = -(-KILLS // SHARDS // TOGETHER)

    def kill(chance: random.Random, part: int) -> None:
        found.append(laws.kills_at_random_times_harm_nothing(PLANS, kills, chance))

    proof.each(zip(chances, range(TOGETHER), strict=True), kill, TOGETHER)
    assert found == [{}] * TOGETHER
