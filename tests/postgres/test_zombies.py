"""A worker is stopped until its lease has expired and another one has finished its run; then it goes on."""

from __future__ import annotations

import random

import pytest

from tests.crash import laws, proof
from tests.postgres.plans import IN_DOUBT, ZOMBIES

pytestmark = pytest.mark.crash

TOGETHER = 8
SHARDS = 4 if proof.LONG else 1


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("fencing", [True, False], ids=["a sink that knows fences", "one that does not"])
def test_a_stopped_worker_does_no_harm_when_it_goes_on(fencing: bool, shard: int) -> None:
    """Inside a body nothing can stop it: there only a sink that refuses old fences stays at one effect."""
    plan = proof.with_setting(ZOMBIES, fencing=fencing)
    expected, points = proof.uncrashed(plan)
    inside = {("once", "before"), ("idempotent", "before")}
    mine = [p for p in points if fencing or (p.kind, p.side) not in inside][shard::SHARDS]
    if not proof.LONG:
        mine = random.Random(f"{proof.SEED} {fencing}").sample(mine, TOGETHER)
    found = {}
    with proof.worlds("postgres") as fresh:
        for i in range(0, len(mine), TOGETHER):
            found |= proof.stop_and_judge(fresh, plan, expected, mine[i : i + TOGETHER])
    assert found == {}


def test_who_takes_over_and_dies_at_once_does_not_make_a_stopped_worker_a_dead_one() -> None:
    laws.who_takes_over_and_dies_at_once_does_not_make_a_stopped_worker_a_dead_one(IN_DOUBT)


def test_a_person_is_not_believed_while_a_stopped_worker_could_still_act() -> None:
    plan = proof.with_setting(IN_DOUBT, verified=False)
    laws.a_person_is_not_believed_while_a_stopped_worker_could_still_act(plan)
