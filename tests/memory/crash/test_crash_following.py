"""A user's facts follow to a new session and a new process; of one time two survive; a contradiction supersedes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from shipworthy import InMemoryRuntime, Scope
from shipworthy.app.memories import InMemoryMemory
from shipworthy.domain.memory import Fact
from shipworthy.testing.faults import Points
from tests.memory.crash import proof, scenario
from tests.memory.crash.proof import Plan, World
from tests.memory.crash.scenario import KINDS, Kind, Saying

pytestmark = pytest.mark.crash
SAYINGS = (
    Saying("f1", "one", "I live in Oslo, I live in Rome, and I like tea."),
    Saying("f2", "two", "Where would I live if I have money?"),
    Saying("f3", "three", "I live in Bergen now."),
    Saying("f4", "four", "Where would I live if I have time?"),
)
OTHER = Saying("g1", "one", SAYINGS[1].text, "bob")
Say = Callable[[Saying], tuple[list[str], list[Fact]]]
"""Says something elsewhere, and gives the facts that the model was shown before its first turn, and those that there
are afterwards."""


def follow(say: Say, sayings: Sequence[Saying]) -> None:
    """The law."""
    first, asked, moved, asked_again = sayings
    assert say(first)[0] == []
    assert [line for line in say(asked)[0] if "lives in" in line] == [
        "user lives in Oslo",
        "user lives in Rome",
    ]
    say(moved)
    shown, known = say(asked_again)
    assert [line for line in shown if "lives in" in line] == ["user lives in Bergen"]
    facts = {fact.object: fact for fact in known}
    assert facts["Oslo"].superseded_by == facts["Rome"].superseded_by == facts["Bergen"].id
    assert facts["tea"].superseded_at is None
    assert say(OTHER)[0] == []


def facts_in(shown: str) -> list[str]:
    """Those of the facts among what was remembered."""
    lines = [line for line in shown.splitlines() if '"fact_since"' in line]
    return sorted([line.partition(":")[2].partition(",")[0].strip('"') for line in lines])


def in_processes(world: World) -> Say:
    """Each in a process of its own."""

    def say(saying: Saying) -> tuple[list[str], list[Fact]]:
        outcome = world.do(sayings=[saying])
        return facts_in(world.shown(saying.run)), [
            each.fact for each in outcome.items if each.fact is not None
        ]

    return say


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_facts_follow_to_new_sessions_and_processes(kind: Kind) -> None:
    with proof.worlds(Plan(kind=kind, sayings=SAYINGS)) as fresh:
        follow(in_processes(fresh.fresh()), SAYINGS)


def test_a_users_facts_follow_to_other_agents_of_a_process(tmp_path: Path) -> None:
    """In the memory of one process, where there is no other."""
    memory, runtime = InMemoryMemory(embedder=None), InMemoryRuntime()
    world = World(tmp_path, proof.Place(), Plan(), "acme")

    async def said(saying: Saying) -> list[Fact]:
        agent = scenario.agent(tmp_path, runtime, memory, Points(), {})
        async with agent:  # who leaves waits for what is being learned
            await agent.run(
                saying.text,
                run_id=saying.run,
                tenant_id="acme",
                user_id=saying.user,
                session_id=saying.session,
            )
        return await memory.facts.of(Scope("acme", saying.user), superseded=True)

    def say(saying: Saying) -> tuple[list[str], list[Fact]]:
        known = asyncio.run(said(saying))
        return facts_in(world.shown(saying.run)), known

    follow(say, SAYINGS)
