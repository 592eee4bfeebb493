"""How the proof goes: processes spend one cap and are killed meanwhile; what they spent is counted outside them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.budget import judge, places
from tests.budget.judge import Bills, Violation
from tests.budget.worker import Job, Said
from tests.crash.zygote import Child, Zygote

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
SEED = os.environ.setdefault("SHIPWORTHY_SEED", str(random.SystemRandom().randrange(2**32)))
"""Of who is killed when, and of what the model does; the processes that pytest starts share it."""
PATIENCE = 1500.0 if LONG else 300.0
"""Seconds after which workers hang: they are made to write their stacks."""
_zygote: Zygote | None = None


def zygote() -> Zygote:
    """The process that the workers are forked from."""
    global _zygote
    if _zygote is None:
        _zygote = Zygote("tests.budget.worker")
    return _zygote


def end_zygote() -> None:
    """Let go of it, if there is one."""
    global _zygote
    if _zygote is not None:
        _zygote.close()
        _zygote = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How many spend how much. `kills`: how often one worker is killed; `stops`: how often one is stopped until its
    holds and its lease are over; `blackouts`: how often all are killed, and come back when their holds are charged.
    `stuck`: how long nothing may happen while something is held. Times in seconds."""

    workers: int
    at_once: int
    cap: int
    kills: int
    stops: int
    blackouts: int
    ttl: float = 2.0
    lease: float = 2.0
    stuck: float = 60.0
    mutant: str = ""


def with_mutant(plan: Plan, mutant: str) -> Plan:
    """The same plan, in broken processes."""
    return msgspec.structs.replace(plan, mutant=mutant)


class Figures(msgspec.Struct):
    """What happened in one proof."""

    place: str
    runs: int = 0
    attempts: int = 0
    kills: int = 0
    stops: int = 0
    restarts: int = 0
    samples: int = 0
    seconds: float = 0.0
    cap: int = 0
    billed: int = 0
    spent: int = 0
    held: int = 0
    most: int = 0
    ended: dict[str, int] = {}

    def told(self) -> str:
        """One line."""
        ended = ", ".join([f"{how} {count}" for how, count in sorted(self.ended.items())])
        return (
            f"budget proof, {self.place}: {self.runs} runs, {self.attempts} attempts billed, {self.kills} kills, "
            f"{self.stops} stops, {self.restarts} restarts in {self.seconds:.1f} s; cap {self.cap}, at most "
            f"{self.most} spent and held in {self.samples} samples, {self.billed} billed, {self.spent} spent, "
            f"{self.held} held: {self.spent / max(self.cap, 1):.2%} used, "
            f"{self.billed / max(self.cap, 1):.1%} billed ({ended})"
        )


class Fleet:
    """The workers of one proof."""

    def __init__(self, place: places.Place, folder: Path, plan: Plan, figures: Figures) -> None:
        self._place, self._folder, self._plan, self._figures = place, folder, plan, figures
        self._numbers = itertools.count(1)
        self._children: dict[int, tuple[str, Child]] = {}
        self._said: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self.stopped: list[tuple[float, Child]] = []

    def start(self, slot: int, *, sweeps: bool = False) -> None:
        """A worker in this place; one that only sweeps, or one that does everything."""
        name = f"{slot}.{next(self._numbers)}"
        runs, ledger = self._place.address(slot)
        plan = self._plan
        job = Job(
            folder=str(self._folder),
            runs=runs,
            ledger=ledger,
            name=name,
            at_once=plan.at_once,
            cap=plan.cap,
            ttl=plan.ttl,
            lease=plan.lease,
            seed=SEED,
            mutant=plan.mutant,
            sweeps=sweeps,
        )
        self._children[slot] = name, zygote().start(msgspec.to_builtins(job), self._folder / f"log-{name}")

    def kill(self, slot: int) -> None:
        """SIGKILL this one; it is gone when this returns."""
        name, child = self._children.pop(slot)
        child.signal(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL:
            self._figures.kills += 1
        else:
            self._listen(name)

    def wait(self, slot: int) -> None:
        """Until this one has come to its end; who was stopped within a transaction goes on meanwhile, and frees it."""
        name, child = self._children.pop(slot)
        while not child.ended:
            self.let_go_on()
            time.sleep(0.02)
        assert child.wait() == 0, child.log.read_text()
        self._listen(name)

    def restart(self, slot: int) -> None:
        self._figures.restarts += 1
        self.start(slot)

    def stop(self, slot: int, seconds: float) -> None:
        """SIGSTOP this one, and let it go on later."""
        _, child = self._children[slot]
        child.signal(signal.SIGSTOP)
        self._figures.stops += 1
        self.stopped.append((time.monotonic() + seconds, child))

    def let_go_on(self) -> None:
        """Those whose time has come."""
        now = time.monotonic()
        for until, child in self.stopped:
            if until <= now:
                child.signal(signal.SIGCONT)
        self.stopped = [(until, child) for until, child in self.stopped if until > now]

    @property
    def at_work(self) -> list[int]:
        """The slots of those who run."""
        asleep = [child for _, child in self.stopped]
        return [
            slot for slot, (_, child) in self._children.items() if child not in asleep and not child.ended
        ]

    @property
    def all_ended(self) -> bool:
        return all([child.ended for _, child in self._children.values()])

    def collect(self) -> None:
        """Take in what those had to say who came to their end."""
        for name, child in self._children.values():
            code = child.wait()
            assert code == 0, f"A worker ended with {code}.\n{child.log.read_text()[-4000:]}"
            self._listen(name)
        self._children.clear()
        self._figures.ended = dict(self._said)

    def _listen(self, name: str) -> None:
        """What this one had to say when it came to its end."""
        said = msgspec.json.decode((self._folder / f"said-{name}").read_bytes(), type=Said)
        self._said.update(said.ended)
        self.raised.update(said.raised)

    def end(self) -> None:
        """Whatever they do."""
        for _, child in self._children.values():
            child.signal(signal.SIGKILL)

    def stacks(self) -> str:
        """What those do who do not come to their end."""
        for _, child in self._children.values():
            child.signal(signal.SIGCONT)
            child.signal(signal.SIGABRT)
        time.sleep(1.0)
        return "\n".join([child.log.read_text()[-4000:] for _, child in self._children.values()])


class Proof:
    """One proof in one place."""

    def __init__(self, place: places.Place, folder: Path, plan: Plan) -> None:
        self._place, self._plan, self._folder = place, plan, folder
        self.figures = Figures(place.name, cap=plan.cap)
        self._fleet = Fleet(place, folder, plan, self.figures)
        self._bills = Bills(folder / "bills")
        self._chance = random.Random(f"{SEED} {place.name} {plan.mutant}")
        self._until = time.monotonic() + PATIENCE
        self._spent = 0
        self._changed = time.monotonic(), (0, 0)
        self._tolerated: list[Violation] | None = None

    def run(self, *, to_the_end: bool = False) -> list[Violation]:
        """What is wrong, as soon as anything is; or all that is, when nothing more happens."""
        self._tolerated = [] if to_the_end else None
        began = time.monotonic()
        try:
            return [*(self._chaos() or self._peace() or self._end()), *(self._tolerated or [])]
        finally:
            self._fleet.end()
            self.figures.seconds = time.monotonic() - began

    def _sample(self) -> list[Violation]:
        """Look once, while they work."""
        violations = self._look()
        if self._tolerated is not None:
            self._tolerated += violations
            violations = []
        return violations + self._stuck()

    def _stuck(self) -> list[Violation]:
        """Something is held and nothing happens, for longer than any hold lasts that nobody renews."""
        now, (since, (_, held)) = time.monotonic(), self._changed
        if held and now - since > self._plan.stuck:
            return [
                Violation("leaked", f"{held} were held for {now - since:.0f} s in which nothing happened")
            ]
        return []

    def _look(self) -> list[Violation]:
        figures, billed = self.figures, self._bills.read()
        counters = self._place.counters()
        total = judge.everybodys(counters)
        self._spent = total.spent
        figures.samples += 1
        figures.attempts, figures.billed = len(self._bills.by_attempt), billed
        figures.spent, figures.held = total.spent, total.held
        if self._changed[1] != (total.spent, total.held):
            self._changed = time.monotonic(), (total.spent, total.held)
        figures.most = max(figures.most, total.spent + total.held)
        self._fleet.let_go_on()
        if time.monotonic() > self._until:
            raise AssertionError(f"The workers hang: {self.figures}\n{self._fleet.stacks()}")
        time.sleep(0.02)
        return judge.at_any_time(billed, counters, self._plan.cap)

    def _chaos(self) -> list[Violation]:
        """Everything that is planned happens at some part of the cap, chosen by chance."""
        plan, chance = self._plan, self._chance
        what = ["kill"] * plan.kills + ["stop"] * plan.stops + ["blackout"] * plan.blackouts
        chance.shuffle(what)
        when = sorted([chance.uniform(0.03, 0.8) * plan.cap for _ in what])
        for slot in range(plan.workers):
            self._fleet.start(slot)
        for action, spent in zip(what, when, strict=True):
            while self._spent < spent and not self._fleet.all_ended:
                if violations := self._sample():
                    return violations
            if violations := self._harm(action):
                return violations
        return []

    def _harm(self, action: str) -> list[Violation]:
        fleet, chance, plan = self._fleet, self._chance, self._plan
        if not (at_work := fleet.at_work):
            return []
        slot = chance.choice(at_work)
        match action:
            case "stop":
                fleet.stop(slot, plan.ttl + plan.lease)
                return []
            case "kill":
                fleet.kill(slot)
                violations = self._look_for(chance.uniform(0.0, 0.4))
                fleet.restart(slot)
                return violations
            case _:
                return self._blackout()

    def _blackout(self) -> list[Violation]:
        """All die while something is held; it is charged before they are back, so that they find it expired."""
        fleet = self._fleet
        while not self.figures.held and not fleet.all_ended:
            if violations := self._sample():
                return violations
        at_work = fleet.at_work
        for each in at_work:
            fleet.kill(each)
        violations = self._look_for(self._plan.ttl + 0.2)
        if at_work:
            fleet.start(at_work[0], sweeps=True)
            fleet.wait(at_work[0])
        for each in at_work:
            fleet.restart(each)
        return violations

    def _look_for(self, seconds: float) -> list[Violation]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if violations := self._sample():
                return violations
        return []

    def _peace(self) -> list[Violation]:
        """Until nobody can afford anything; then once more, for what late settlements gave back, and for the runs of
        those who died last."""
        for again in (True, False):
            while not self._fleet.all_ended:
                if violations := self._sample():
                    return violations
            self._fleet.collect()
            if again:
                for slot in range(self._plan.workers):
                    self._fleet.start(slot)
        return []

    def _end(self) -> list[Violation]:
        """When holds have expired, one more worker looks for them, as every worker does."""
        if violations := self._look_for(self._plan.ttl + 0.2):
            return violations
        for slot in range(self._plan.workers if not self._place.joined else 1):
            self._fleet.start(slot)
        while not self._fleet.all_ended:
            if violations := self._sample():
                return violations
        self._fleet.collect()
        self._sample()
        self.figures.runs = len(self._place.journal())
        assert not self._fleet.raised, f"Runs raised {dict(self._fleet.raised)}.\n{self.logs()}"
        return judge.in_the_end(self._place, self._bills, self._plan.cap)

    def logs(self) -> str:
        """What workers wrote of what went wrong: the end of each log."""
        return "\n".join([path.read_text()[-4000:] for path in sorted(self._folder.glob("log-*"))])


@contextmanager
def proofs(place: str, plan: Plan) -> Iterator[Proof]:
    """A proof in a fresh place: in the short form on a disk in memory, where there is one."""
    memory = "/dev/shm" if not LONG and os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="budget-", dir=memory) as folder,
        places.made(place, Path(folder)) as there,
    ):
        yield Proof(there, Path(folder), plan)
