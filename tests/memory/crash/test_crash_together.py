"""Several at once for one user: two processes that talk, and twenty runs that learn. What each said is there, once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shipworthy import Scope
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.domain.memory import Record
from shipworthy.engine.memory.facts import Facts
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import MemoryConflict
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


class Slow(InMemoryMemoryStore):
    """A store that takes its time to answer."""

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        await asyncio.sleep(0.01)
        return await super().get(scope, ids)


async def forty_at_once() -> int:
    """How many facts there are after forty were learned at once."""
    memory, alice = Memory(Slow()), Scope("acme", "alice")
    await asyncio.gather(*[memory.facts.add(alice, "user", "has", f"thing {n}") for n in range(40)])
    return len(await memory.facts.of(alice))


def test_however_many_learn_at_once_in_a_process_each_has_its_turn() -> None:
    assert asyncio.run(forty_at_once()) == 40


def test_learning_without_turns_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tries as often as it may, and somebody else is always faster."""
    with monkeypatch.context() as patch:
        patch.setattr(Facts, "_turn", lambda *_: asyncio.Lock())
        patch.setattr("shipworthy.engine.memory.facts.random.uniform", least)
        with pytest.raises(MemoryConflict):
            asyncio.run(forty_at_once())


def least(low: float, high: float) -> Any:
    """Nobody waits for long."""
    return low
