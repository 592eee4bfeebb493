"""Two processes on one file: the same runs in both, and different runs of one session."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

import pytest

from shipworthy.domain.events import RunResumed
from shipworthy.rules.state import replay
from tests.crash import checks, proof, scenario

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
    plan = BOTH[name]
    expected, _ = proof.uncrashed(plan)
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS), fresh, strict=False):
            jobs = [plan.job(world, recover=recover) for recover in (False, True)]
            children = [world.start(job) for job in jobs]
            assert [child.wait() for child in children] == [0, 0], [c.log.read_text() for c in children]
            violations = proof.judge_end(world, expected)
            proof.figures.found(violations)
            assert violations == []
            assert [world.outcome(job).pending for job in jobs] == [[], []]
            for run in world.journal().values():
                assert not [e for e in run.events if isinstance(e, RunResumed)]
            asked = Counter((r.run_id, r.ordinal) for r in world.requests())
            assert set(asked.values()) == {1}


@pytest.mark.parametrize("name", BOTH)
def test_one_of_two_processes_is_killed_and_the_other_goes_on(name: str) -> None:
    plan = BOTH[name]
    expected, points = proof.uncrashed(plan)
    chance = random.Random(f"{proof.SEED} {name}")
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS * 2), fresh, strict=False):
            first = world.start(plan.job(world, at=chance.choice(points)))
            second = world.start(plan.job(world, recover=chance.random() < 0.5))
            time.sleep(chance.uniform(0.0, 0.1))
            third = world.start(plan.job(world, recover=True))
            codes = {first.wait(), second.wait(), third.wait()}
            assert codes <= {0, -signal.SIGKILL}, [c.log.read_text() for c in (first, second, third)]
            proof.figures.kills += -signal.SIGKILL in codes
            assert proof.finish_and_judge(world, plan, expected) == []


def test_two_processes_on_one_session_agree_on_its_order() -> None:
    """Each run begins with the conversations of those that had ended by then, in the order in which all see them."""
    runs = ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8")
    halves = [proof.Plan(way="run", runs=runs[i::2]) for i in range(2)]
    kills = 0
    with proof.worlds() as fresh:
        for number, world in zip(range(ROUNDS), fresh, strict=False):
            children = [world.start(plan.job(world)) for plan in halves]
            if number % 2:
                time.sleep(random.Random(f"{proof.SEED} {number}").uniform(0.0, 0.2))
                children[0].signal(signal.SIGKILL)
            for child in children:
                kills += child.wait() == -signal.SIGKILL
            for plan in halves:
                proof.finish(world, plan)
            violations = [*proof.judge_crash(world), *out_of_order(world, runs)]
            proof.figures.found(violations)
            assert violations == []
            assert Counter(e.label for e in world.sink()) == Counter(
                {("acme", run_id, "pay", '{"amount": 40}'): 1 for run_id in runs}
            )
    proof.figures.kills += kills


def out_of_order(world: proof.World, runs: tuple[str, ...]) -> list[checks.Violation]:
    """Where the session's order, its runs' heads and what the model was shown do not fit together."""
    states = {run_id: replay(run.events) for (_, run_id), run in world.journal().items()}
    order = world.session_order()
    found = []
    if sorted(order) != sorted(runs) or set(order.values()) != set(range(1, len(runs) + 1)):
        found.append(checks.Violation("invalid", f"the session's order is {order}"))
    by_position = sorted(order, key=lambda run_id: order[run_id])
    for asked in world.requests():
        state = states[asked.run_id]
        if asked.ordinal:
            continue
        before = [m for run_id in by_position[: state.started.session_head] for m in states[run_id].messages]
        instructions = state.started.instructions
        assert instructions is not None
        shown = checks.digest(getattr(instructions, "text", ""), [*before, state.messages[0]])
        if shown != asked.digest:
            found.append(
                checks.Violation("different", f"{asked.run_id} was shown another past than it pinned")
            )
        if order[asked.run_id] <= state.started.session_head:
            found.append(checks.Violation("invalid", f"{asked.run_id} began with its own future"))
    return found
