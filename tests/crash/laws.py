"""What is proved on every store that processes share: each law takes the plans, which say where their runs are."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence

from shipworthy.domain.events import RunResumed
from shipworthy.rules.state import replay
from shipworthy.testing.faults import Point
from tests.crash import checks, proof
from tests.crash.proof import INSIDE, Plan, World

# kills at random times


def kills_at_random_times_harm_nothing(
    plans: Sequence[Plan], kills: int, chance: random.Random
) -> dict[str, list[proof.Violation]]:
    """Several runs share each process; whoever resumes them is killed too, until one is left in peace."""
    spans = [_span(plan) for plan in plans]
    found, done = {}, 0
    with proof.worlds(plans[0].setting.store) as fresh:
        for number, world in enumerate(fresh):
            if done >= kills:
                break
            which = number % len(plans)
            before = len(world.died())
            violations = _kill_until_it_ends(world, plans[which], spans[which], chance)
            done += len(world.died()) - before
            if violations:
                found[f"seed {proof.SEED}, world {number}"] = violations
    return found


def _span(plan: Plan) -> float:
    """Seconds that a process of the plan takes."""
    proof.uncrashed(plan)
    with proof.worlds(plan.setting.store) as fresh:
        world = next(fresh)
        began = time.monotonic()
        world.do(plan.job(world))
        return time.monotonic() - began


def _kill_until_it_ends(
    world: World, plan: Plan, span: float, chance: random.Random
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
        world.killed("from outside")
        if violations := proof.judge_crash(world):
            proof.figures.found(violations)
            return violations
    return _settle(world, plan, expected, [])


def _settle(
    world: World, plan: Plan, expected: proof.Reference, pending: list[proof.Pending]
) -> list[proof.Violation]:
    proof.finish(world, plan, pending)
    violations = proof.judge_end(world, expected)
    proof.figures.found(violations)
    return violations


# two processes


def the_same_runs_in_two_processes_are_driven_once(plan: Plan, rounds: int) -> None:
    expected, _ = proof.uncrashed(plan)
    with proof.worlds(plan.setting.store) as fresh:
        for _, world in zip(range(rounds), fresh, strict=False):
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


def one_of_two_processes_is_killed_and_the_other_goes_on(
    plan: Plan, rounds: int, chance: random.Random
) -> None:
    expected, points = proof.uncrashed(plan)
    with proof.worlds(plan.setting.store) as fresh:
        for _, world in zip(range(rounds), fresh, strict=False):
            first = world.start(plan.job(world, at=chance.choice(points)))
            second = world.start(plan.job(world, recover=chance.random() < 0.5))
            time.sleep(chance.uniform(0.0, 0.1))
            third = world.start(plan.job(world, recover=True))
            codes = {first.wait(), second.wait(), third.wait()}
            assert codes <= {0, -signal.SIGKILL}, [c.log.read_text() for c in (first, second, third)]
            proof.figures.kills += -signal.SIGKILL in codes
            assert proof.finish_and_judge(world, plan, expected) == []


def two_processes_on_one_session_agree_on_its_order(plan: Plan, rounds: int) -> None:
    """Each run begins with the conversations of those that had ended by then, in the order in which all see them."""
    halves = [proof.with_runs(plan, plan.runs[i::2]) for i in range(2)]
    kills = 0
    with proof.worlds(plan.setting.store) as fresh:
        for number, world in zip(range(rounds), fresh, strict=False):
            children = [world.start(half.job(world)) for half in halves]
            if number % 2:
                time.sleep(random.Random(f"{proof.SEED} {number}").uniform(0.0, 0.2))
                children[0].signal(signal.SIGKILL)
            for child in children:
                kills += child.wait() == -signal.SIGKILL
            for half in halves:
                proof.finish(world, half)
            violations = [*proof.judge_crash(world), *out_of_order(world, plan.runs)]
            proof.figures.found(violations)
            assert violations == []
            assert Counter(e.label for e in world.sink()) == Counter(
                {("acme", run_id, "pay", '{"amount": 40}'): 1 for run_id in plan.runs}
            )
    proof.figures.kills += kills


def out_of_order(world: World, runs: tuple[str, ...]) -> list[checks.Violation]:
    """Where the session's order, its runs' heads and what the model was shown do not fit together."""
    states = {run_id: replay(run.events) for (_, run_id), run in world.journal().items()}
    order = world.session_order()
    found = []
    if sorted(order) != sorted(runs) or set(order.values()) != set(range(1, len(runs) + 1)):
        found.append(checks.Violation("invalid", f"the session's order is {order}"))
    by_position = sorted(order, key=lambda run_id: order[run_id])
    for asked in world.requests():
        if asked.ordinal or asked.run_id not in runs:
            continue
        state = states[asked.run_id]
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


# zombies


def who_takes_over_and_dies_at_once_does_not_make_a_stopped_worker_a_dead_one(plan: Plan) -> None:
    """Between taking a run and recording it there is a moment; who comes next must know of the stopped worker."""
    expected, _ = proof.uncrashed(plan)
    with proof.worlds(plan.setting.store) as fresh:
        world = next(fresh)
        zombie = world.start(plan.job(world, at=INSIDE, action="stop", tolerant=True))
        zombie.wait_stopped()
        time.sleep(plan.setting.ttl + plan.setting.skew + 0.2)  # its lease expires
        assert world.die(plan.job(world, at=Point("claim", 1, "after")))
        proof.finish(world, plan)
        before = world.journal()
        proof.go_on(zombie)
        assert proof.judge_zombie(world, expected, before, plan.setting) == []


def a_person_is_not_believed_while_a_stopped_worker_could_still_act(plan: Plan) -> None:
    """The plan's calls cannot be verified."""
    setting = plan.setting
    with proof.worlds(setting.store) as fresh:
        world = next(fresh)
        zombie = world.start(plan.job(world, at=INSIDE, action="stop", tolerant=True))
        zombie.wait_stopped()
        pending = world.do(plan.job(world)).pending
        assert [call.tool for call in pending] == ["pay"]
        settle = proof.settlements(world, pending)
        refused = world.do(plan.job(world, settle=settle, tolerant=True))
        assert refused.errors == ["SettlementRefused"]
        while (
            "SettlementRefused" in (settled := world.do(plan.job(world, settle=settle, tolerant=True))).errors
        ):
            time.sleep(0.2)
        attempted = proof.first_attempt(world.journal())
        assert settled.clock >= attempted.start_by + (setting.tool_timeout + setting.skew) * 1000
        assert settled.errors == []
        proof.finish(world, plan, settled.pending)
        proof.go_on(zombie)
        assert proof.judge_end(world, proof.uncrashed(plan)[0]) == []
