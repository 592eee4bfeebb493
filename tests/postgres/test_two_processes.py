"""Two processes on one database: the same runs in both, and different runs of one session."""

from __future__ import annotations

import random

import pytest

from tests.crash import laws, proof
from tests.postgres.plans import on_postgres

pytestmark = pytest.mark.crash

PLANS = {
    "run": proof.Plan(way="run", runs=proof.SESSION),
    "together": proof.Plan(way="together", runs=("g1", "g2", "z3", "p4")),
}
if proof.LONG:
    PLANS["stream"] = proof.Plan(way="stream", runs=proof.SESSION)
ROUNDS = 20 if proof.LONG else 1
TOGETHER = 3


@pytest.mark.parametrize("name", PLANS)
def test_the_same_runs_in_two_processes_are_driven_once(name: str) -> None:
    plan = on_postgres(PLANS[name], pause=0.005, ttl=10.0)
    laws.the_same_runs_in_two_processes_are_driven_once(plan, ROUNDS)


@pytest.mark.parametrize("name", PLANS)
def test_one_of_two_processes_is_killed_and_the_other_goes_on(name: str) -> None:
    """The sink knows fences: where many processes share few cores, a short lease may well run out in a body."""
    plan = on_postgres(PLANS[name], pause=0.005, fencing=True)
    proof.uncrashed(plan)

    def law(chance: random.Random, rounds: int) -> None:
        laws.one_of_two_processes_is_killed_and_the_other_goes_on(plan, rounds, chance)

    chances = [random.Random(f"{proof.SEED} {name} {part}") for part in range(TOGETHER)]
    proof.each([(chance, ROUNDS) for chance in chances], law, TOGETHER)


def test_two_processes_on_one_session_agree_on_its_order() -> None:
    plan = on_postgres(proof.Plan(way="run", runs=proof.ONE_SESSION), fencing=True)
    laws.two_processes_on_one_session_agree_on_its_order(plan, ROUNDS + 1)
