"""Fifty who bring one checkpoint, or one answer, at once: one goes on with the run, and the others are told no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from shipworthy.domain.events import ApprovalGranted, ToolAttempted
from tests.control import proof
from tests.control.child import Said, Step
from tests.control.proof import World
from tests.control.scenario import yes

pytestmark = pytest.mark.crash
PAID = ['{"amount": 50}']
AT_ONCE = 50
ROUNDS = 20 if proof.LONG else 2
PROCESSES = [1, 5] if not proof.LONG else [1, 2, 5, 10]
REFUSALS = {"AnswerRefused", "CheckpointRefused", "RunBusy"}


def at_once(world: World, steps: Sequence[Step], processes: int) -> list[Said]:
    """All of the steps at the same time, spread over so many processes."""
    jobs = [world.job(Step(do="together", steps=list(steps[i::processes]))) for i in range(processes)]
    children = [world.start(job) for job in jobs]
    codes = [child.wait() for child in children]
    assert codes == [0] * processes, [child.log.read_text() for child in children]
    return [each for job in jobs for each in world.outcome(job).said[0].each]


def one_of_them(world: World, said: Sequence[Said]) -> None:
    """One went on to the end, and all others were refused; the effect happened once."""
    assert world.paid() == PAID, Counter([each.error or each.status for each in said])
    assert [each.status for each in said if not each.error] == ["completed"], Counter(
        [each.error or each.status for each in said]
    )
    assert {each.error for each in said if each.error} <= REFUSALS
    assert len(world.of("p1", ToolAttempted)) == 1


@pytest.mark.parametrize("processes", PROCESSES)
def test_of_fifty_who_bring_one_checkpoint_and_an_answer_one_wins(processes: int) -> None:
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS), fresh, strict=False):
            checkpoint = world.paused("p1").checkpoint
            step = Step(do="resume", checkpoint=checkpoint, tenant=None, answer=yes())
            one_of_them(world, at_once(world, [step] * AT_ONCE, processes))
            assert len(world.of("p1", ApprovalGranted)) == 1


@pytest.mark.parametrize("processes", PROCESSES)
def test_of_fifty_who_bring_an_answer_by_the_runs_id_one_wins(processes: int) -> None:
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS), fresh, strict=False):
            world.paused("p1")
            step = Step(do="resume", run="p1", answer=yes())
            one_of_them(world, at_once(world, [step] * AT_ONCE, processes))
            assert len(world.of("p1", ApprovalGranted)) == 1


@pytest.mark.parametrize("processes", PROCESSES)
def test_of_fifty_who_bring_the_checkpoint_of_a_run_that_was_answered_one_wins(processes: int) -> None:
    """Nothing but the checkpoint itself says who goes on."""
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS), fresh, strict=False):
            checkpoint = world.paused("p1").checkpoint
            world.do(Step(do="inbox", run="p1", answer=yes()))
            step = Step(do="resume", checkpoint=checkpoint, tenant=None)
            one_of_them(world, at_once(world, [step] * AT_ONCE, processes))


@pytest.mark.parametrize("processes", PROCESSES)
def test_those_who_resume_without_an_answer_do_not_make_an_approval_count_twice(processes: int) -> None:
    """Whoever resumes first may have the run ask anew, so that the checkpoint is an old one: then nobody wins, and the
    run waits on."""
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS), fresh, strict=False):
            checkpoint = world.paused("p1").checkpoint
            answered = Step(do="resume", checkpoint=checkpoint, tenant=None, answer=yes())
            said = at_once(world, [answered, Step(do="resume", run="p1")] * (AT_ONCE // 2), processes)
            assert {each.error for each in said if each.error} <= REFUSALS
            assert len(world.of("p1", ApprovalGranted)) <= 1
            taken = world.resumed("p1")
            if taken.status == "paused":
                assert world.paid() == []
                assert world.resumed("p1", yes()).pays
            assert world.paid() == PAID
            assert len(world.of("p1", ToolAttempted)) == 1


@pytest.mark.parametrize("processes", PROCESSES)
def test_fifty_people_at_once_are_one_yes_where_one_is_needed(processes: int) -> None:
    """Through the inbox, without going on with the run."""
    with proof.worlds() as fresh:
        for _, world in zip(range(ROUNDS), fresh, strict=False):
            world.paused("p1")
            people = [Step(do="inbox", run="p1", answer=yes(f"person {n}")) for n in range(AT_ONCE)]
            said = at_once(world, people, processes)
            assert [each.error for each in said].count("") == 1
            assert len(world.of("p1", ApprovalGranted)) == 1
            assert world.paid() == []
            assert world.resumed("p1").pays
            assert world.paid() == PAID
