"""The crash proof under DBOS: it has a step executed again, and the journal knows what that step did.

The ends are those of runs that were never crashed, and that no DBOS drove.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from tests.crash import proof
from tests.dbos.child import QUEUED, SAME_EXECUTOR
from tests.dbos.worlds import NAMES, PLAN, points, processes, worlds

pytestmark = pytest.mark.crash

BY_PERSON = proof.Plan(way="stream", runs=("z1",), setting=proof.scenario.Setting(verified=False))


@pytest.fixture(scope="module", autouse=True)
def zygote() -> Iterator[None]:
    with processes():
        yield


@pytest.mark.parametrize(
    ("name", "plan"), [*[(name, PLAN) for name in NAMES], *[(name, BY_PERSON) for name in NAMES[2:4]]]
)
def test_a_kill_at_any_point_harms_nothing(name: str, plan: proof.Plan) -> None:
    expected, _ = proof.uncrashed(plan)
    with worlds() as fresh:
        assert proof.crash_and_judge(next(fresh), plan, expected, points()[name]) == []


@pytest.mark.parametrize("name", NAMES if proof.LONG else ["after the effect", "before DBOS notes the step"])
def test_nor_does_one_after_which_dbos_recovers_the_workflow(name: str) -> None:
    """It executes the step again, in the process that comes next, and nothing else has the run go on."""
    expected, _ = proof.uncrashed(PLAN)
    with worlds(SAME_EXECUTOR) as fresh:
        world = next(fresh)
        assert proof.crash_and_judge(world, PLAN, expected, points()[name]) == []
        assert world.workflows() == [("SUCCESS", 2)]


def test_nor_does_one_of_a_process_that_took_the_run_from_a_queue() -> None:
    """It goes on through the queue, and the next process takes it."""
    expected, _ = proof.uncrashed(PLAN)
    with worlds(QUEUED) as fresh:
        world = next(fresh)
        assert proof.crash_and_judge(world, PLAN, expected, points()["after the effect"]) == []
        assert len(world.workflows()) > 1


@pytest.mark.parametrize("marked", ["", SAME_EXECUTOR, QUEUED])
def test_without_the_journals_doubt_a_step_that_is_executed_again_doubles_its_effect(
    marked: str,
) -> None:
    """The mutant of both of these."""
    expected, _ = proof.uncrashed(PLAN)
    broken = msgspec.structs.replace(PLAN, mutant="doubt_forgotten")
    with worlds(marked) as fresh:
        found = proof.crash_and_judge(next(fresh), broken, expected, points()["after the effect"])
    assert "repeated" in {violation.kind for violation in found}


if proof.LONG:

    @pytest.mark.parametrize("marked", ["", SAME_EXECUTOR])
    @pytest.mark.parametrize("name", proof.PLANS)
    def test_a_kill_at_any_point_at_all_harms_nothing(name: str, marked: str) -> None:
        plan = proof.PLANS[name]
        expected, _ = proof.uncrashed(plan)
        found = {}
        with worlds() as fresh:
            world = next(fresh)
            reached = world.do(plan.job(world)).points
        with worlds(marked) as fresh:
            for point, world in zip(reached, fresh, strict=False):
                if violations := proof.crash_and_judge(world, plan, expected, point):
                    found[str(point)] = violations
        assert found == {}
