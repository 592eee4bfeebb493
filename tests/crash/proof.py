"""How a proof goes: a world in a folder, children that work and die in it, and what is found there afterwards."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shipworthy.domain.events import ToolAttempted
from shipworthy.testing.faults import Point
from tests.crash import checks, databases, scenario
from tests.crash.checks import Ack, Asked, Effect, Reference, Request, Violation
from tests.crash.child import Action, DiskFault, Followed, Job, Outcome, Pending, Way
from tests.crash.links import LinkFault
from tests.crash.zygote import Child, Zygote

S = TypeVar("S")
T = TypeVar("T")
LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
SEED = int(os.environ.setdefault("SHIPWORTHY_SEED", str(random.SystemRandom().randrange(2**32))))
"""Of the random kills; the processes that pytest starts share it."""
GENERATIONS = 12
PATIENCE = 60.0
"""Seconds."""
KEPT = 16
"""Worlds that are there at once."""
SHARDS = 4
_zygote: Zygote | None = None


class Figures(msgspec.Struct):
    """What a proof counted."""

    points: int = 0
    kills: int = 0
    lost: int = 0
    repeated: int = 0
    invalid: int = 0

    def add(self, other: Figures) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def found(self, violations: Sequence[Violation]) -> None:
        for violation in violations:
            match violation.kind:
                case "lost" | "missing":
                    self.lost += 1
                case "repeated" | "zombie":
                    self.repeated += 1
                case "invalid" | "different":
                    self.invalid += 1


figures = Figures()
"""Of the present test."""


def zygote() -> Zygote:
    """The one of this process."""
    global _zygote
    if _zygote is None:
        _zygote = Zygote()
    return _zygote


def end_zygote() -> None:
    """Let go of it, if there is one."""
    global _zygote
    if _zygote is not None:
        _zygote.close()
        _zygote = None


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """One variant of the scenario. `mutant` is switched on in each of its processes."""

    way: Way
    runs: tuple[str, ...]
    setting: scenario.Setting = scenario.Setting()
    mutant: str | None = None

    def job(self, world: World, **options: Any) -> Job:
        """What a process of the variant is to do."""
        return Job(
            folder=str(world.folder),
            database=world.database.address,
            generation=world.next_generation(),
            way=self.way,
            runs=list(self.runs),
            setting=self.setting,
            mutant=self.mutant,
            **options,
        )


SESSION = ("a", "b")
TOGETHER = ("g1", "g2", "g3", "g4")
ONE_SESSION = ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8")
PLANS = {
    "run, verify": Plan(way="run", runs=SESSION),
    "stream, person": Plan(way="stream", runs=SESSION, setting=scenario.Setting(verified=False)),
    "run_sync, verify": Plan(way="sync", runs=SESSION),
    "together, verify": Plan(way="together", runs=TOGETHER),
}


POSITIONS = Plan(way="run", runs=("p",))


def with_mutant(plan: Plan, mutant: str | None) -> Plan:
    """The same plan, in broken processes."""
    return msgspec.structs.replace(plan, mutant=mutant)


def with_runs(plan: Plan, runs: tuple[str, ...]) -> Plan:
    """The same plan with other runs."""
    return msgspec.structs.replace(plan, runs=runs)


def with_setting(plan: Plan, **changes: Any) -> Plan:
    """The same plan, its processes set up otherwise."""
    return msgspec.structs.replace(plan, setting=msgspec.structs.replace(plan.setting, **changes))


class World:
    """A database, and a folder with all that is known from outside."""

    def __init__(self, folder: Path, database: databases.Database | None = None) -> None:
        self.folder = folder
        self.database = database or databases.SqliteFile(folder)
        self._generation = itertools.count(1)

    def next_generation(self) -> int:
        return next(self._generation)

    def start(self, job: Job) -> Child:
        return zygote().start(msgspec.to_builtins(job), self.folder / f"log-{job.generation}")

    def do(self, job: Job) -> Outcome:
        """A child that has to come to its end."""
        child = self.start(job)
        code = child.wait()
        assert code == 0, f"A child ended with {code}.\n{child.log.read_text()}"
        return self.outcome(job)

    def die(self, job: Job) -> bool:
        """A child that has to die by SIGKILL, at its point; False where it came to its end without reaching it."""
        child = self.start(job)
        code = child.wait()
        if code == 0:
            return False
        assert code == -signal.SIGKILL, f"A child ended with {code}.\n{child.log.read_text()}"
        figures.kills += 1
        if job.at is not None:
            assert self.died()[-1] == str(job.at)
        return True

    def killed(self, where: str) -> None:
        """Note that a child did not die by its own hand."""
        scenario.append(self.folder / "died", where)
        figures.kills += 1

    def copy(self, into: Path) -> World:
        """The same world again, as it lies. The shared-memory file is not a part of the database."""
        shutil.copytree(self.folder, into, ignore=shutil.ignore_patterns("*-shm"))
        copy = World(into, self.database.copy(into))
        copy._generation = itertools.count(100)
        return copy

    def remove(self) -> None:
        """Nobody needs it any more."""
        self.database.drop()
        shutil.rmtree(self.folder)

    # what is known from outside

    def outcome(self, job: Job) -> Outcome:
        return msgspec.json.decode((self.folder / f"outcome-{job.generation}").read_bytes(), type=Outcome)

    def died(self) -> list[str]:
        return self._lines("died", str)

    def acks(self) -> list[Ack]:
        return self._lines("acks", Ack)

    def requests(self) -> list[Request]:
        return self._lines("requests", Request)

    def asked(self) -> list[Asked]:
        return self._lines("asked", Asked)

    def sink(self) -> list[Effect]:
        return self._lines("sink", Effect)

    def followed(self) -> list[Followed]:
        return self._lines("followed", Followed)

    def _lines(self, name: str, kind: Any) -> list[Any]:
        path = self.folder / name
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=kind) for line in lines]

    def journal(self) -> checks.Journal:
        """The runs as they lie."""
        return self.database.journal()

    def session_order(self) -> dict[str, int]:
        """The places that runs have in their session."""
        return self.database.session_order()


@contextmanager
def worlds(store: databases.Kind = "sqlite") -> Iterator[Iterator[World]]:
    """Fresh worlds: on a disk in memory in the short form, where there is one; they are removed at the end."""
    memory = "/dev/shm" if not LONG and os.access("/dev/shm", os.W_OK) else None
    kept: deque[World] = deque()
    with tempfile.TemporaryDirectory(prefix="crash-", dir=memory) as folder:

        def fresh() -> Iterator[World]:
            for number in itertools.count():
                made = Path(folder) / str(number)
                made.mkdir()
                kept.append(World(made, databases.fresh(store, made)))
                yield kept[-1]
                if len(kept) > KEPT:
                    kept.popleft().remove()

        yield fresh()
        for world in kept:
            world.database.drop()


@functools.cache
def uncrashed(plan: Plan) -> tuple[Reference, list[Point]]:
    """What every other run is compared with, and the points that there are."""
    with worlds(plan.setting.store) as fresh:
        world = next(fresh)
        outcome = world.do(plan.job(world))
        assert not outcome.pending
        assert not outcome.errors
        journal, sink, requests = world.journal(), world.sink(), world.requests()
        expected = checks.reference(journal, sink, requests)
        assert checks.at_the_end(expected, world.acks(), journal, sink, requests) == []
        return expected, outcome.points


def judge_crash(world: World) -> list[Violation]:
    """What is wrong with a world right after a kill."""
    return _unless_damaged(world, lambda: checks.at_the_crash(world.acks(), world.journal(), world.sink()))


def judge_end(world: World, expected: Reference) -> list[Violation]:
    """What is wrong with a world whose runs have all ended."""
    return _unless_damaged(world, lambda: _at_the_end(world, expected))


def _at_the_end(world: World, expected: Reference) -> list[Violation]:
    journal, acks = world.journal(), world.acks()
    found = checks.at_the_end(expected, acks, journal, world.sink(), world.requests())
    if not world.database.knows_the_dead:
        found += checks.believed_too_early(journal, world.asked(), acks, 0)
    return found


def _unless_damaged(world: World, judge: Callable[[], list[Violation]]) -> list[Violation]:
    try:
        return judge()
    except databases.DAMAGE as error:
        return [
            *checks.repeated(world.sink()),
            Violation("invalid", f"the database cannot be read: {error!r}"),
        ]


def judge_zombie(
    world: World, expected: Reference, before: checks.Journal, setting: scenario.Setting
) -> list[Violation]:
    """What is wrong with a world after a stopped process went on to its end in it."""

    def judge() -> list[Violation]:
        after = world.journal()
        changed = Violation("zombie", "a stopped worker wrote to a run that it had lost")
        skew = int(setting.skew * 1000) if world.database.knows_the_dead else 0
        early = checks.believed_too_early(after, world.asked(), world.acks(), skew)
        return [*early, *([] if after == before else [changed])]

    return [*judge_end(world, expected), *_unless_damaged(world, judge)]


def finish(world: World, plan: Plan, pending: Sequence[Pending] = ()) -> None:
    """New processes resume until all runs have ended; who settles what waits for a person looks at the sink."""
    for _ in range(GENERATIONS):
        outcome = settled(world, plan, pending)
        pending = outcome.pending
        if not pending:
            return
    raise AssertionError(f"The runs did not come to an end in {GENERATIONS} generations.")


def settled(world: World, plan: Plan, pending: Sequence[Pending]) -> Outcome:
    """What becomes of it when a person settles what is pending, again while that could still be untrue."""
    settle = settlements(world, pending)
    until = time.monotonic() + PATIENCE
    while "SettlementRefused" in (outcome := world.do(plan.job(world, recover=True, settle=settle))).errors:
        assert time.monotonic() < until, "A settlement is refused for ever."
        settle = {run_id: told for run_id, told in settle.items() if run_id not in outcome.settled}
        time.sleep(0.1)
    return outcome


def settlements(world: World, pending: Sequence[Pending]) -> dict[str, dict[str, str | None]]:
    """What an operator finds out: None for "it did not happen"."""
    happened = {(e.run_id, e.tool, e.args) for e in world.sink()}
    found: dict[str, dict[str, str | None]] = {}
    for call in pending:
        args = msgspec.json.decode(call.args)
        written = msgspec.json.format(msgspec.json.encode(args), indent=0).decode()
        done = (call.run_id, call.tool, written) in happened
        found.setdefault(call.run_id, {})[call.call_id] = (
            scenario.receipt(call.tool, written) if done else None
        )
    return found


def finish_and_judge(
    world: World, plan: Plan, expected: Reference, pending: Sequence[Pending] = ()
) -> list[Violation]:
    """Look at a world after a kill, go on in new processes to the end, look again."""
    violations = judge_crash(world)
    if not violations:
        finish(world, plan, pending)
        violations = judge_end(world, expected)
    figures.found(violations)
    return violations


def crash_and_judge(
    world: World, plan: Plan, expected: Reference, point: Point, **options: Any
) -> list[Violation]:
    """Die at *point*, look, go on in new processes to the end, look again."""
    assert world.die(plan.job(world, at=point, **options)), f"The point was never reached: {point}."
    figures.points += 1
    return finish_and_judge(world, plan, expected)


def each(items: Iterable[tuple[T, S]], judge: Callable[[T, S], None], at_once: int) -> None:
    """Judge them, some *at_once*: what takes time on a server is waiting."""
    left = iter(items)
    with ThreadPoolExecutor(at_once) as pool:
        while some := list(itertools.islice(left, at_once)):
            list(pool.map(lambda item: judge(*item), some))


def crash_again_and_judge(
    crashed: World,
    plan: Plan,
    expected: Reference,
    chosen: slice,
    pending: Sequence[Pending] = (),
    at_once: int = 1,
) -> dict[str, list[Violation]]:
    """Die at the chosen points of the process that resumes a crashed world; each time in a copy of it."""
    found = {}
    with worlds() as rehearsals, worlds() as fresh:
        rehearsal = crashed.copy(next(rehearsals).folder / "rehearsal")
        outcome = settled(rehearsal, plan, pending)
        settle = settlements(crashed, pending)

        def judge(point: Point, folder: Path) -> None:
            world = crashed.copy(folder / "world")
            job = plan.job(world, at=point, recover=True, settle=settle)
            assert world.die(job), f"Never reached: {point}."
            figures.points += 1
            if violations := finish_and_judge(world, plan, expected):
                found[str(point)] = violations
            world.database.drop()

        places = ((p, place.folder) for p, place in zip(outcome.points[chosen], fresh, strict=False))
        each(places, judge, at_once)
        if outcome.pending and not pending:
            found |= crash_again_and_judge(rehearsal, plan, expected, chosen, outcome.pending, at_once)
        rehearsal.database.drop()
    return found


ZOMBIES = Plan(
    way="run", runs=("z1",), setting=scenario.Setting(ttl=0.6, skew=0.1, tool_timeout=0.4, fencing=True)
)


IN_DOUBT = with_setting(ZOMBIES, tool_timeout=1.5)
INSIDE = Point("once", 1, "before")


def stop_and_judge(
    fresh: Iterator[World], plan: Plan, expected: Reference, points: Sequence[Point]
) -> dict[str, list[Violation]]:
    """Stop a process at each point until its lease has expired and another one has finished its run; let it go on."""
    stopped: list[tuple[Point, World, Child]] = []
    try:
        for point, world in zip(points, fresh, strict=False):
            child = world.start(plan.job(world, at=point, action="stop", tolerant=True))
            stopped.append((point, world, child))
            child.wait_stopped()
        heirs = [world.start(plan.job(world, tolerant=True)) for _, world, _ in stopped]
        found = {}
        for (point, world, zombie), heir in zip(stopped, heirs, strict=True):
            assert heir.wait() == 0, heir.log.read_text()
            before = world.journal()
            figures.points += 1
            go_on(zombie)
            violations = judge_zombie(world, expected, before, plan.setting)
            figures.found(violations)
            if violations:
                found[str(point)] = violations
        return found
    finally:
        for _, _, child in stopped:
            child.signal(signal.SIGCONT)
            child.signal(signal.SIGKILL)


def go_on(zombie: Child) -> None:
    """A stopped process goes on, to its end."""
    zombie.signal(signal.SIGCONT)
    assert zombie.wait() == 0, zombie.log.read_text()


def first_attempt(journal: checks.Journal) -> ToolAttempted:
    """The first attempt of a `once` call that is on record."""
    events = [e for run in journal.values() for e in run.events]
    return next(e for e in events if isinstance(e, ToolAttempted) and e.start_by)


def part(points: Sequence[Point], shard: int) -> Sequence[Point]:
    """The points of one of the SHARDS tests among which a plan's are spread."""
    return points[shard::SHARDS]


__all__ = ["Action", "DiskFault", "LinkFault", "Plan", "World"]
