"""Runs that people answer, killed at every point between an answer and the result of the effect; and their judge."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.domain.events import ApprovalGranted, HumanAnswered, ToolsJudged
from shipworthy.errors import StoreError
from shipworthy.rules.state import replay
from shipworthy.testing.faults import Point
from tests.control.child import Outcome, Step
from tests.control.proof import World
from tests.control.scenario import Setting
from tests.crash import checks
from tests.crash import proof as crash
from tests.crash.checks import Violation


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """One variant: which run waits for people, how they answer, and what happens afterwards in the same process.
    `needed`: how many of them have to say yes."""

    run: str
    people: str = "plain"
    setting: Setting = Setting()
    needed: int = 1
    then: str | None = None

    @property
    def steps(self) -> list[Step]:
        """What a process does that drives it to the end, whatever became of it before."""
        made = [Step(do="drive", run=self.run)]
        if self.then is not None:
            made += [Step(do="run", run=self.then), Step(do="drive", run=self.then)]
        return made


PLANS = {
    "one yes": Plan(run="p1"),
    "one yes, a person settles": Plan(run="p1", setting=Setting(verified=False)),
    "edited": Plan(run="p1", people="edit"),
    "edited by the first of two": Plan(run="p1", people="edit", setting=Setting(policy="two"), needed=2),
    "two": Plan(run="p1", setting=Setting(policy="two"), needed=2),
    "two calls": Plan(run="m1"),
    "a question in a once tool": Plan(run="q1"),
    "questions, a person settles": Plan(run="q1", setting=Setting(verified=False)),
    "remembered for the run": Plan(run="r1", people="remember run"),
    "nested": Plan(run="n1"),
    "nested two deep": Plan(run="o1"),
    "nested two deep, two, a person settles": Plan(
        run="o1", setting=Setting(policy="two", verified=False), needed=2
    ),
    "remembered for the user": Plan(run="p1", people="remember user", then="p2"),
}


class Reference(msgspec.Struct):
    """The uncrashed run: what happened, what was said, and the points that there are."""

    effects: Counter[tuple[str, str, str]]
    conversations: dict[tuple[str, str], str]
    points: list[Point]


class Rehearsal:
    """A world in which a run waits for people, and what comes of it if nobody dies. `mutant`: in each process after."""

    def __init__(self, fresh: Iterator[World], plan: Plan, mutant: str | None = None) -> None:
        self._fresh, self._plan, self._mutant = fresh, plan, mutant
        self._paused = next(fresh)
        self._paused.setting = plan.setting
        self._paused.paused(plan.run)
        world = self._copy(self._paused)
        outcome = drive(world, plan)
        assert all([said.pays for said in outcome.said]), outcome.said
        self.expected = Reference(effects(world), conversations(world), outcome.points)
        assert judge_end(world, plan, self.expected) == []

    def _copy(self, world: World, mutant: str | None = None) -> World:
        """The same world elsewhere, for processes that are broken so."""
        copy = world.copy(next(self._fresh).folder / "world")
        copy.mutant = mutant
        return copy

    def _judged(self, before: World, point: Point) -> list[Violation]:
        """What is found in a copy of this world in which a process dies at *point*, and a new one goes on."""
        world = self._copy(before, self._mutant)
        violations = dies_and_is_judged(world, self._plan, self.expected, point)
        shutil.rmtree(world.folder)
        return violations

    def each(self, points: Sequence[Point]) -> dict[str, list[Violation]]:
        """What is found where a process died at each of these points, and a new one went on."""
        found = {str(point): self._judged(self._paused, point) for point in points}
        return {where: violations for where, violations in found.items() if violations}

    def first(self, points: Sequence[Point]) -> set[str]:
        """The kinds of what is found at the first of these points where anything is."""
        for point in points:
            if violations := self._judged(self._paused, point):
                return {str(violation.kind) for violation in violations}
        return set()

    def each_twice(self, first: Point, chosen: slice) -> dict[str, list[Violation]]:
        """What is found where the process that goes on after a death at *first* dies as well, at each of its points."""
        crashed = self._copy(self._paused)
        assert crashed.dies(job(crashed, self._plan, first))
        points = drive(self._copy(crashed), self._plan).points
        found = {f"{first}, {second}": self._judged(crashed, second) for second in points[chosen]}
        return {where: violations for where, violations in found.items() if violations}


def job(world: World, plan: Plan, at: Point | None = None) -> Any:
    """A process that drives the plan to its end, or to its point."""
    return world.job(*plan.steps, people=plan.people, at=at)


def drive(world: World, plan: Plan) -> Outcome:
    """To the end."""
    return world.finished(job(world, plan))


def dies_and_is_judged(world: World, plan: Plan, expected: Reference, point: Point) -> list[Violation]:
    """Die at *point*, look, go on in a new process to the end, look again."""
    assert world.dies(job(world, plan, point)), f"The point was never reached: {point}."
    crash.figures.points += 1
    crash.figures.kills += 1
    violations = judge_crash(world)
    if not violations:
        drive(world, plan)
        violations = judge_end(world, plan, expected)
    crash.figures.found(violations)
    return violations


# ------------------------------------------------------------------------------------------------- the judge


def judge_crash(world: World) -> list[Violation]:
    """What must hold at every moment: what was taken from people is in the journal, and nothing happened twice."""
    try:
        journal = world.journal()
    except StoreError as error:
        return [Violation("invalid", f"the database cannot be read: {error!r}")]
    return [*checks.invalid(journal), *lost(world, journal), *repeated(world)]


def judge_end(world: World, plan: Plan, expected: Reference) -> list[Violation]:
    """What must hold once all runs have ended."""
    found = judge_crash(world)
    if made := effects(world) - expected.effects:
        found.append(Violation("repeated", f"more happened than was approved: {made}"))
    if missing := expected.effects - effects(world):
        found.append(Violation("missing", f"what was approved did not happen: {missing}"))
    if conversations(world) != expected.conversations:
        found.append(Violation("different", "the conversation is another one"))
    return [*found, *asked_again(world, plan), *used_twice(world)]


def effects(world: World) -> Counter[tuple[str, str, str]]:
    return Counter([(effect.run_id, effect.tool, effect.args) for effect in world.sink()])


def conversations(world: World) -> dict[tuple[str, str], str]:
    return {key: checks.normal(replay(run.events).messages) for key, run in world.journal().items()}


def repeated(world: World) -> list[Violation]:
    """By the key that each effect carries, which is that of its call."""
    counted = Counter([effect.key for effect in world.sink()])
    return [Violation("repeated", f"{key} happened {n} times") for key, n in counted.items() if n > 1]


def lost(world: World, journal: Mapping[tuple[str, str], Any]) -> list[Violation]:
    """Each answer whose taking was acknowledged is in the journal of the run that it was brought to."""
    known = set()
    for (_, run_id), run in journal.items():
        for event in run.events:
            if isinstance(event, ApprovalGranted):
                known.add((run_id, event.address, event.approver))
            elif isinstance(event, HumanAnswered):
                known.add((run_id, event.address, str(event.ordinal)))
    taken = [told for told in world.told() if told.how == "taken"]
    labels = [(t.run, t.address, t.by if t.kind == "approval" else str(t.ordinal)) for t in taken]
    return [Violation("lost", f"an answer is gone: {label}") for label in labels if label not in known]


def asked_again(world: World, plan: Plan) -> list[Violation]:
    """Nobody is asked for what they answered, and nobody at all for what is remembered."""
    found = []
    said: dict[tuple[str, str, str], set[str]] = {}
    remembered = False
    for told in world.told():
        question = (told.run, told.address, told.digest if told.kind == "approval" else f"{told.ordinal}")
        answered = said.setdefault(question, set())
        if told.how == "taken":
            answered.add(told.by)
            remembered = remembered or (told.kind == "approval" and plan.people.startswith("remember"))
            continue
        enough = 1 if told.kind == "answer" else plan.needed
        if len(answered) >= enough or not (told.kind == "answer" or answered <= set(told.approved_by)):
            found.append(Violation("lost", f"asked again, though {answered} answered: {told}"))
        if remembered and told.kind == "approval":
            found.append(Violation("lost", f"asked again, though it is remembered: {told}"))
    return found


def used_twice(world: World) -> list[Violation]:
    """An approval is used for one call, unless it is to be remembered."""
    used: dict[str, set[tuple[str, str]]] = {}
    remembered: set[str] = set()
    for (_, run_id), run in world.journal().items():
        for event in run.events:
            if isinstance(event, ApprovalGranted) and event.remember is not None:
                remembered.add(event.id)
            for judged in event.calls if isinstance(event, ToolsJudged) else ():
                for name in judged.approvals:
                    used.setdefault(name, set()).add((run_id, judged.call_id))
    return [
        Violation("repeated", f"approval {name} was used for {calls}")
        for name, calls in used.items()
        if len(calls) > 1 and name not in remembered
    ]


def rehearsed(fresh: Iterator[World], name: str, mutant: str | None = None) -> Rehearsal:
    """The plan of this name."""
    return Rehearsal(fresh, PLANS[name], mutant)
