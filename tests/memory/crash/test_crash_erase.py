"""A process may die at every step of erasing somebody, journals and memory: erasing again completes it, no byte of
theirs is left in a file, and nothing of anybody else is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from shipworthy.domain.scope import Scope
from shipworthy.testing.faults import Point
from tests.crash import proof as crash
from tests.crash.checks import Violation
from tests.memory.crash import proof
from tests.memory.crash.child import Item, Outcome
from tests.memory.crash.proof import Plan, World
from tests.memory.crash.scenario import Saying

pytestmark = pytest.mark.crash
CANARY = "Zuzannaville4711"
HER = f"u-{CANARY}"
SAYINGS = (
    Saying("b1", "one", "I have bikes, and I like tea.", "bob"),
    Saying("a1", f"s-{CANARY}", f"I live in {CANARY}, and I like tea.", HER),
    Saying("a2", f"s-{CANARY}", f"I live in Bergen now, not in {CANARY}.", HER),
)
SESSION = (
    Saying("b1", "one", "I live in Oslo, and I like tea."),
    Saying("a1", "two", f"I have {CANARY}, and I like tea."),
)
"""Two sessions of one user; the second one is to be erased."""


def names_her(folder: Path) -> list[str]:
    """Files that have a byte of hers. What the test itself notes is no file of ours."""
    files = [path for path in folder.iterdir() if ".db" in path.name and path.is_file()]
    assert files
    return [path.name for path in files if CANARY.encode() in path.read_bytes()]


def of_others(outcome: Outcome) -> list[Item]:
    """What is not hers: of what everybody shares, what Bob said."""
    kept = []
    for each in outcome.items:
        sources = [each.episode.source] if each.episode is not None else list(each.item.sources)  # type: ignore[union-attr]
        his = [source for source in sources if source is not None and source.run_id.startswith("b")]
        if his and each.fact is not None:
            kept.append(
                msgspec.structs.replace(each, fact=msgspec.structs.replace(each.fact, sources=tuple(his)))
            )
        elif his:
            kept.append(each)
    return kept


def erased_and_judged(world: World, before: Outcome, scope: Scope) -> list[Violation]:
    """Erase, in a new process, and look."""
    after = world.do(do="erase", scope=scope)
    found = [Violation("lost", f"{name} still names her") for name in names_her(world.folder)]
    if after.items != of_others(before):
        found.append(Violation("different", f"{after.items} is not {of_others(before)}"))
    hers = {
        run
        for (_, run), each in world.journal().items()
        if CANARY.encode() in msgspec.json.encode(each.events)
    }
    found += [Violation("lost", f"the journal of {run} has her words") for run in hers]
    crash.figures.found(found)
    return found


def each_step(
    plan: Plan, scope_of: Callable[[World], Scope], choose: proof.Choose, mutant: str | None = None
) -> dict[str, list[Violation]]:
    """What is found where a process died at each of the chosen steps of erasing, and another one erased again."""
    found: dict[str, list[Violation]] = {}
    with proof.worlds(plan) as fresh:
        said = fresh.fresh()
        before = said.do()
        scope = scope_of(said)
        assert said.plan.kind == plan.kind
        rehearsal = said.copy(fresh.fresh().folder / "world")
        points = rehearsal.do(do="erase", scope=scope).points
        for point in choose(points):
            if plan.kind in ("same", "own"):
                world = said.copy(fresh.fresh().folder / "world")
            else:  # of a memory on a server there is no copy
                world = fresh.fresh()
                before, scope = world.do(), scope_of(world)
            world.mutant = mutant
            assert world.dies(point, do="erase", scope=scope), point
            if violations := erased_and_judged(world, before, scope):
                found[str(point)] = violations
            shutil.rmtree(world.folder)
    return found


def her(world: World) -> Scope:
    """The user."""
    return Scope(world.tenant, HER)


def the_session(world: World) -> Scope:
    """One session of hers."""
    return Scope(world.tenant, "alice", "two")


def few(points: Sequence[Point]) -> Sequence[Point]:
    """What touches memory, and one in eight of the others, and the last one."""
    at_memory = [p for p in points if p.kind in ("put fact", "remove", "erase", "scrub", "disown")]
    return list(dict.fromkeys([*at_memory, *points[1::8]]))


ERASED: dict[str, tuple[Plan, Callable[[World], Scope], proof.Choose]] = {
    "in the runtime's file": (Plan(sayings=SAYINGS), her, lambda points: points[::4]),
    "what the tenant shares": (Plan(kind="own", sayings=SAYINGS, level="tenant"), her, few),
    "a session": (Plan(sayings=SESSION), the_session, few),
    "redis": (Plan(kind="redis", sayings=SAYINGS), her, lambda points: points[-3:]),
}
LONG = ERASED | {
    "postgres": (Plan(kind="postgres", sayings=SAYINGS), her, few),
    "dynamodb": (Plan(kind="dynamodb", sayings=SAYINGS), her, few),
}


@pytest.mark.parametrize("name", LONG if proof.LONG else ERASED)
def test_a_kill_at_any_step_of_erasing_leaves_what_erasing_again_completes(name: str) -> None:
    plan, scope_of, chosen = LONG[name]
    whole = proof.LONG and plan.kind in ("same", "own")
    assert each_step(plan, scope_of, (lambda points: points) if whole else chosen) == {}


def test_what_learns_from_a_run_is_erased_with_it_though_its_process_died_before_that_was_recorded() -> None:
    assert left_of_a_learner(None) == []


def left_of_a_learner(mutant: str | None) -> list[str]:
    """What names her after a session is erased whose process died between the begin of the learning run and the end
    of the run that it learns from."""
    with proof.worlds(Plan(sayings=SESSION)) as fresh:
        world = fresh.fresh(mutant)
        assert world.dies(Point("begin learning of a1", 1, "after"))
        assert names_her(world.folder)
        world.do(do="erase", scope=the_session(world))
        return names_her(world.folder)
