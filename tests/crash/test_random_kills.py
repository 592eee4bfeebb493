"""Kills from outside, at random times: they reach moments that have no number, such as the middle of a commit.

Four runs share each process; whoever resumes them is killed too, until one is left in peace.
"""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.crash import proof, scenario

pytestmark = pytest.mark.crash

KILLS = 1000 if proof.LONG else 60
SHARDS = 8 if proof.LONG else 2
PLANS = [
    proof.Plan(way="together", runs=("g1", "g2", "z3", "z4")),
    proof.Plan(way="together", runs=("a", "g2", "p3", "z4"), setting=scenario.Setting(verified=False)),
]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kills_at_random_times_harm_nothing(shard: int, figures: proof.Figures) -> None:
    chance = random.Random(f"{proof.SEED} {shard}")
    spans = {plan: _span(plan) for plan in PLANS}
    found = {}
    with proof.worlds() as fresh:
        for number, world in enumerate(fresh):
            if figures.kills >= -(-KILLS // SHARDS):
                break
            plan = PLANS[number % len(PLANS)]
            if violations := _kill_until_it_ends(world, plan, spans[plan], chance):
                found[f"seed {proof.SEED}, shard {shard}, world {number}"] = violations
    assert found == {}


def _span(plan: proof.Plan) -> float:
    """Seconds that a process of the plan takes."""
    proof.uncrashed(plan)
    with proof.worlds() as fresh:
        world = next(fresh)
        began = time.monotonic()
        world.do(plan.job(world))
        return time.monotonic() - began


def _kill_until_it_ends(
    world: proof.World, plan: proof.Plan, span: float, chance: random.Random
) -> list[proof.Violation]:
    expected, _ = proof.uncrashed(plan)
    for generation in range(chance.randrange(1, 6)):
        job = plan.job(world, recover=generation > 0)
        child = world.start(job)
        time.sleep(chance.uniform(0.0, span))
        child.signal(signal.SIGKILL)
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.log.read_text()
        if code == 0:
            return _settle(world, plan, expected, world.outcome(job).pending)
        proof.figures.kills += 1
        if violations := proof.judge_crash(world):
            proof.figures.found(violations)
            return violations
    return _settle(world, plan, expected, [])


def _settle(
    world: proof.World, plan: proof.Plan, expected: proof.Reference, pending: list[proof.Pending]
) -> list[proof.Violation]:
    proof.finish(world, plan, pending)
    violations = proof.judge_end(world, expected)
    proof.figures.found(violations)
    return violations
