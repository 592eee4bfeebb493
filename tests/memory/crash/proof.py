"""How a proof goes: a world in a folder, with a memory somewhere; processes that work and die in it; what is found."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy.domain.memory import Level
from shipworthy.testing.faults import Point
from tests.crash import proof as crash
from tests.crash.checks import Journal, Violation
from tests.crash.databases import SqliteFile
from tests.crash.zygote import Child, Zygote
from tests.memory.crash import laws
from tests.memory.crash.child import Job, Outcome, Way
from tests.memory.crash.scenario import MOVING, Kind, Place, Saying

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
_zygote: Zygote | None = None


def zygote() -> Zygote:
    """The one of this process."""
    global _zygote
    if _zygote is None:
        _zygote = Zygote("tests.memory.crash.child")
    return _zygote


def end_zygote() -> None:
    """Let go of it, if there is one."""
    global _zygote
    if _zygote is not None:
        _zygote.close()
        _zygote = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is said, how, and where memory is. A kind has one place for all worlds, each of which is a tenant of its
    own."""

    kind: Kind = "same"
    way: Way = "run"
    sayings: tuple[Saying, ...] = MOVING
    level: Level = "user"
    driver: Literal["", "dbos", "temporal"] = ""


class World:
    """A folder with runs and all that is known from outside, and a memory. `mutant`: in each of its processes."""

    def __init__(
        self, folder: Path, place: Place, plan: Plan, tenant: str, mutant: str | None = None
    ) -> None:
        self.folder, self.place, self.plan, self.tenant, self.mutant = folder, place, plan, tenant, mutant
        self.driven: dict[str, str] = {"driver": plan.driver}
        self._generation = itertools.count(1)

    def job(self, **more: Any) -> Job:
        """What a process is to do."""
        plan = self.plan
        given = {
            **self.driven,
            "sayings": list(plan.sayings),
            "way": plan.way,
            "level": plan.level,
            "mutant": self.mutant,
        } | more
        number = next(self._generation)
        return Job(folder=str(self.folder), generation=number, place=self.place, tenant=self.tenant, **given)

    def start(self, job: Job) -> Child:
        return zygote().start(msgspec.to_builtins(job), self.folder / f"log-{job.generation}")

    def do(self, **more: Any) -> Outcome:
        """A process that has to come to its end."""
        return self.ended(job := self.job(**more), self.start(job))

    def ended(self, job: Job, child: Child) -> Outcome:
        """What a process says that has to come to its end."""
        code = child.wait()
        assert code == 0, f"A child ended with {code}.\n{child.log.read_text()}"
        return msgspec.json.decode((self.folder / f"outcome-{job.generation}").read_bytes(), type=Outcome)

    def dies(self, at: Point, **more: Any) -> bool:
        """A process that has to die at this point; False where it came to its end without reaching it."""
        child = self.start(self.job(at=at, **more))
        code = child.wait()
        assert code in (0, -signal.SIGKILL), f"A child ended with {code}.\n{child.log.read_text()}"
        if code:
            crash.figures.points += 1
            crash.figures.kills += 1
        return code != 0

    def journal(self) -> Journal:
        """The runs as they lie."""
        return SqliteFile(self.folder).journal()

    def shown(self, run_id: str) -> str:
        """What the model was shown when a run first asked it."""
        asked = (self.folder / "asked").read_bytes().splitlines()
        return next(
            t for run, t in (msgspec.json.decode(a, type=tuple[str, str]) for a in asked) if run == run_id
        )

    def judged(self, outcome: Outcome, expected: Sequence[str] | None = None) -> list[Violation]:
        """What is wrong with the world, by what its last process says of memory."""
        found = laws.violations(self.seen(outcome), expected)
        crash.figures.found(found)
        return found

    def seen(self, outcome: Outcome) -> laws.Seen:
        """What is known of it."""
        return laws.Seen(self.tenant, self.plan.sayings, self.journal(), outcome)

    def copy(self, into: Path) -> World:
        """The same world again, as it lies; with a memory on a server it is the same memory."""
        shutil.copytree(self.folder, into, ignore=shutil.ignore_patterns("*-shm", "died"))
        copy = World(into, self.place, self.plan, self.tenant, self.mutant)
        copy._generation = itertools.count(1000)
        return copy


class Worlds:
    """Fresh worlds of one plan in one place."""

    def __init__(self, folder: Path, place: Place, plan: Plan) -> None:
        self._folder, self._place, self._plan = folder, place, plan
        self._numbers = itertools.count()

    def fresh(self, mutant: str | None = None) -> World:
        """One more."""
        number = next(self._numbers)
        folder = self._folder / str(number)
        folder.mkdir()
        return World(folder, self._place, self._plan, f"acme{number}", mutant)


@contextmanager
def worlds(plan: Plan) -> Iterator[Worlds]:
    """Worlds: on a disk in memory in the short form, where there is one; they are removed at the end."""
    memory = "/dev/shm" if not LONG and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="memory-", dir=memory) as folder, place_of(plan.kind) as place:
        yield Worlds(Path(folder), place, plan)


@contextmanager
def place_of(kind: Kind) -> Iterator[Place]:
    """An empty place of this kind."""
    name = f"memory-{uuid.uuid4().hex[:8]}"
    match kind:
        case "same" | "own":
            yield Place(kind=kind)
        case "postgres":
            from tests.servers.postgres import a_database

            with a_database() as dsn:
                yield Place(kind=kind, address=dsn)
        case "redis":
            from tests.servers.redis import a_redis_database

            with a_redis_database() as url:
                yield Place(kind=kind, address=url, name=name)
        case "dynamodb":
            from tests.servers.dynamodb import a_dynamodb_table

            with a_dynamodb_table() as table:
                yield Place(kind=kind, address=table.url, name=table.name)


class Reference(msgspec.Struct):
    """What an uncrashed world comes to, and the points that there are."""

    points: list[Point]
    told: list[str]


def uncrashed(fresh: Worlds) -> Reference:
    """What every other world is compared with."""
    fresh.fresh().do()  # makes tables, which is not what is to be counted
    world = fresh.fresh()
    outcome = world.do()
    assert (found := world.judged(outcome)) == [], found
    return Reference(outcome.points, laws.told(world.seen(outcome)))


def killed_and_judged(world: World, expected: Reference, point: Point, **after: Any) -> list[Violation]:
    """Die at *point*, go on in a new process to the end, look."""
    assert world.dies(point), f"Never reached: {point}."
    return world.judged(world.do(**after), expected.told)


Choose = Callable[[Sequence[Point]], Sequence[Point]]


def each(plan: Plan, choose: Choose, mutant: str | None = None, **after: Any) -> dict[str, list[Violation]]:
    """What is found where a process died at each of the chosen points, and a new one went on."""
    found = {}
    with worlds(plan) as fresh:
        expected = uncrashed(fresh)
        for point in choose(expected.points):
            world = fresh.fresh(mutant)
            if violations := killed_and_judged(world, expected, point, **after):
                found[str(point)] = violations
            shutil.rmtree(world.folder)
    return found


def each_twice(plan: Plan, first: Choose, second: Choose) -> dict[str, list[Violation]]:
    """What is found where the process that goes on after a death dies as well. Memory is beside the runs."""
    found = {}
    with worlds(plan) as fresh:
        expected = uncrashed(fresh)
        for point in first(expected.points):
            crashed = fresh.fresh()
            assert crashed.dies(point)
            rehearsal = crashed.copy(fresh.fresh().folder / "world")
            for again in second(rehearsal.do().points):
                world = crashed.copy(fresh.fresh().folder / "world")
                if world.dies(again) and (violations := world.judged(world.do(), expected.told)):
                    found[f"{point}, {again}"] = violations
                shutil.rmtree(world.folder)
    return found
