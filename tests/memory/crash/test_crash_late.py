"""What was left unlearned is learned late, and is true since it was said: what was said after it stands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import InMemoryRuntime, Scope
from shipworthy.app.memories import InMemoryMemory
from shipworthy.engine.memory.facts import Facts
from shipworthy.testing.faults import Point, Points
from tests.memory.crash import proof, scenario
from tests.memory.crash.proof import Plan
from tests.memory.crash.scenario import MOVING

pytestmark = pytest.mark.crash


def learned_late(mutant: str | None = None) -> set[str]:
    """What is wrong where a process died before it learned the first saying, and the second was learned first."""
    with proof.worlds(Plan()) as fresh:
        world = fresh.fresh(mutant)
        assert world.dies(Point("ask learning of r1", 1, "before"))
        world.do(sayings=[MOVING[1]], takes_up="nothing")
        outcome = world.do()
        homes = [fact for each in outcome.items if (fact := each.fact) and fact.predicate == "lives in"]
        now = [fact.object for fact in homes if fact.superseded_at is None and fact.valid_to is None]
        known = sorted([fact.object for fact in homes])
        return set() if (now, known) == (["Bergen"], ["Bergen", "Oslo"]) else {"different"}


def test_of_two_contradictions_the_one_that_was_said_last_stands_whichever_is_learned_last() -> None:
    assert learned_late() == set()


async def learned_again(folder: Path) -> list[str]:
    """What the tenant knows after a user was erased and said it again, in a run of the same id."""
    memory, runtime = InMemoryMemory(embedder=None, level="tenant"), InMemoryRuntime()
    for _ in range(2):
        await memory.erase(Scope("acme", "alice"))
        async with scenario.agent(folder, runtime, memory, Points(), {}) as agent:
            await agent.run(MOVING[0].text, run_id="r1", tenant_id="acme", user_id="alice")
    return [fact.object for fact in await memory.facts.of(Scope("acme"))]


def test_a_run_that_is_given_the_id_of_an_erased_one_is_learned_from(tmp_path: Path) -> None:
    assert asyncio.run(learned_again(tmp_path))[:2] == ["Oslo", "tea"]


def test_a_batch_that_is_known_by_the_id_alone_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Facts.learn

    async def by_id(self: Facts, scope: Scope, beliefs: Any, *, batch: str, **given: Any) -> Any:
        return await learn(self, scope, beliefs, batch=batch.partition(":")[2], **given)

    monkeypatch.setattr(Facts, "learn", by_id)
    assert asyncio.run(learned_again(tmp_path)) == []
