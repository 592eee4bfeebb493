"""Several at once for one user: two processes that talk, and twenty runs that learn. What each said is there, once."""

from __future__ import annotations

import pytest

from tests.memory.crash import proof
from tests.memory.crash.proof import Plan, World
from tests.memory.crash.scenario import KINDS, Kind, Saying

pytestmark = pytest.mark.crash
TWENTY = tuple([Saying(f"r{n}", f"s{n}", f"I have thing{n}, and I like tea.") for n in range(20)])


def together(world: World, processes: int) -> list[str]:
    """Let so many processes say it all, each its part, at once. What is wrong afterwards."""
    parts = [list(TWENTY[number::processes]) for number in range(processes)]
    world.do(do="look")  # makes tables
    jobs = [world.job(do="together", sayings=part) for part in parts]
    children = [(job, world.start(job)) for job in jobs]
    errors = [error for job, child in children if (error := world.ended(job, child).error)]
    outcome = world.do(do="look")
    liked = [each.fact for each in outcome.items if each.fact is not None and each.fact.object == "tea"]
    if [len(fact.sources) for fact in liked] != [len(TWENTY)]:
        errors.append(f"tea is liked by {liked}")
    return [*errors, *map(repr, world.judged(outcome))]


@pytest.mark.parametrize("kind", KINDS if proof.LONG else ("same", "postgres"))
@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_said_and_learned_at_once_is_there_once(kind: Kind, processes: int) -> None:
    with proof.worlds(Plan(kind=kind, sayings=TWENTY)) as fresh:
        assert together(fresh.fresh(), processes) == []
