"""Two processes on one file: the same runs in both, and different runs of one session."""

from __future__ import annotations

import random

import pytest

from tests.crash import laws, proof, scenario

pytestmark = pytest.mark.crash

BOTH = {
    "run": proof.Plan(way="run", runs=proof.SESSION, setting=scenario.Setting(pause=0.005)),
    "stream": proof.Plan(way="stream", runs=proof.SESSION, setting=scenario.Setting(pause=0.005)),
    "together": proof.Plan(
        way="together", runs=("g1", "g2", "z3", "p4"), setting=scenario.Setting(pause=0.005)
    ),
}
ROUNDS = 40 if proof.LONG else 4


@pytest.mark.parametrize("name", BOTH)
def test_the_same_runs_in_two_processes_are_driven_once(name: str) -> None:
    laws.the_same_runs_in_two_processes_are_driven_once(BOTH[name], ROUNDS)


@pytest.mark.parametrize("name", BOTH)
def test_one_of_two_processes_is_killed_and_the_other_goes_on(name: str) -> None:
    chance = random.Random(f"{proof.SEED} {name}")
    laws.one_of_two_processes_is_killed_and_the_other_goes_on(BOTH[name], ROUNDS * 2, chance)


def test_two_processes_on_one_session_agree_on_its_order() -> None:
    plan = proof.Plan(way="run", runs=proof.ONE_SESSION)
    laws.two_processes_on_one_session_agree_on_its_order(plan, ROUNDS)
