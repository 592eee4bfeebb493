"""A worker is stopped until its lease has expired and another one has finished its run; then it goes on.

It commits nothing, and starts no body whose time to start has passed. Inside a body nothing can stop it: there a sink
that refuses old fences stays at one effect.
"""

from __future__ import annotations

import pytest

from tests.crash import laws, proof
from tests.crash.proof import IN_DOUBT, ZOMBIES

pytestmark = pytest.mark.crash

TOGETHER = 8


@pytest.mark.parametrize("shard", range(4))
def test_a_stopped_worker_does_no_harm_when_it_goes_on(shard: int) -> None:
    expected, points = proof.uncrashed(ZOMBIES)
    mine = points[shard::4]
    found = {}
    with proof.worlds() as fresh:
        for i in range(0, len(mine), TOGETHER):
            found |= proof.stop_and_judge(fresh, ZOMBIES, expected, mine[i : i + TOGETHER])
    assert found == {}


@pytest.mark.parametrize("shard", range(2))
def test_outside_its_bodies_it_does_no_harm_to_a_sink_that_knows_no_fences(shard: int) -> None:
    plan = proof.with_setting(ZOMBIES, fencing=False)
    expected, points = proof.uncrashed(plan)
    outside = [p for p in points if (p.kind, p.side) not in {("once", "before"), ("idempotent", "before")}]
    with proof.worlds() as fresh:
        assert proof.stop_and_judge(fresh, plan, expected, outside[shard::2][:TOGETHER]) == {}


def test_who_takes_over_and_dies_at_once_does_not_make_a_stopped_worker_a_dead_one() -> None:
    laws.who_takes_over_and_dies_at_once_does_not_make_a_stopped_worker_a_dead_one(IN_DOUBT)


def test_a_person_is_not_believed_while_a_stopped_worker_could_still_act() -> None:
    plan = proof.with_setting(IN_DOUBT, verified=False)
    laws.a_person_is_not_believed_while_a_stopped_worker_could_still_act(plan)
