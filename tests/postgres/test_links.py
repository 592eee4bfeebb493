"""The connection is lost around an append, before it is sent or when only its answer is to come.

The group is sent again in a new session, and nobody notices; a server that stays away stops the run with a typed
error, and resuming reads back what became of it.
"""

from __future__ import annotations

import pytest

from shipworthy import errors
from tests.crash import proof
from tests.crash.proof import LinkFault, Violation, World
from tests.postgres.plans import judged, on_postgres

pytestmark = pytest.mark.crash

PLANS = {
    "run": on_postgres(proof.Plan(way="run", runs=("z1", "p2"))),
    "together": on_postgres(proof.Plan(way="together", runs=("g1", "g2", "z3"))),
}
if proof.LONG:
    PLANS["stream"] = on_postgres(proof.Plan(way="stream", runs=("z1", "p2")))
FOR_EVER = 10**6


def faults(plan: proof.Plan, times: int = 1) -> list[LinkFault]:
    """Each append on either side; in the short form some of them. How many there are depends on who shares a group."""
    with proof.worlds("postgres") as fresh:
        world = next(fresh)
        made = world.do(plan.job(world)).operations["append"]
    surely = made // 2 if plan.way == "together" else made
    chosen = range(1, surely + 1, 1 if proof.LONG else max(surely // 3, 1))
    return [LinkFault(nth, side, times) for nth in chosen for side in ("before", "after")]


@pytest.mark.parametrize("name", PLANS)
def test_a_connection_that_is_lost_around_an_append_is_noticed_by_nobody(name: str) -> None:
    plan = PLANS[name]
    expected, _ = proof.uncrashed(plan)

    def judge(world: World, fault: LinkFault) -> list[Violation]:
        outcome = world.do(plan.job(world, link=fault))
        assert world.died(), "never reached"
        assert (outcome.errors, outcome.pending) == ([], [])
        proof.figures.points += 1
        violations = proof.judge_end(world, expected)
        proof.figures.found(violations)
        return violations

    assert judged(faults(plan), judge) == {}


@pytest.mark.parametrize("name", PLANS)
def test_a_server_that_stays_away_stops_the_run_and_harms_nothing(name: str) -> None:
    plan = proof.with_setting(PLANS[name], patience=0.1)
    expected, _ = proof.uncrashed(plan)
    told: set[str] = set()

    def judge(world: World, fault: LinkFault) -> list[Violation]:
        outcome = world.do(plan.job(world, link=fault, tolerant=True))
        told.update(outcome.errors)
        proof.figures.points += 1
        return proof.finish_and_judge(world, plan, expected, outcome.pending)

    assert judged(faults(plan, FOR_EVER), judge) == {}
    assert "CommitUncertain" in told
    assert all(issubclass(getattr(errors, name), errors.StoreError) for name in told)


def told_of_lost_answers(mutant: str) -> set[str]:
    """What runs are told when an answer is lost at each of their first appends, in broken processes."""
    plan = proof.with_mutant(PLANS["run"], mutant)
    told: set[str] = set()

    def judge(world: World, fault: LinkFault) -> list[Violation]:
        told.update(world.do(plan.job(world, link=fault, tolerant=True)).errors)
        return []

    judged([LinkFault(nth, "after") for nth in range(2, 6)], judge)
    return told
