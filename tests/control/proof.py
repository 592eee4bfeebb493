"""How a proof goes: a world in a folder, processes that work, attack and die in it, and what is found there."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from shipworthy.domain.events import AnyEvent
from shipworthy.rules.codec import decode_events, encode_events
from tests.control import scenario
from tests.control.child import Job, Outcome, Said, Step, Told
from tests.crash.checks import Effect
from tests.crash.databases import SqliteFile
from tests.crash.zygote import Child, Zygote

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
_zygote: Zygote | None = None


def zygote() -> Zygote:
    """The one of this process."""
    global _zygote
    if _zygote is None:
        _zygote = Zygote("tests.control.child")
    return _zygote


def end_zygote() -> None:
    """Let go of it, if there is one."""
    global _zygote
    if _zygote is not None:
        _zygote.close()
        _zygote = None


class World:
    """A database, and a folder with all that is known from outside. `mutant`: switched on in each of its processes."""

    def __init__(
        self, folder: Path, setting: scenario.Setting = scenario.USUAL, mutant: str | None = None
    ) -> None:
        self.folder, self.setting, self.mutant = folder, setting, mutant
        self._generation = itertools.count(1)

    # processes

    def job(self, *steps: Step, **more: Any) -> Job:
        """What a process is to do."""
        more = {"setting": self.setting, "mutant": self.mutant} | more
        return Job(folder=str(self.folder), generation=next(self._generation), steps=list(steps), **more)

    def start(self, job: Job) -> Child:
        return zygote().start(msgspec.to_builtins(job), self.folder / f"log-{job.generation}")

    def outcome(self, job: Job) -> Outcome:
        return msgspec.json.decode((self.folder / f"outcome-{job.generation}").read_bytes(), type=Outcome)

    def do(self, *steps: Step, **more: Any) -> list[Said]:
        """A new process that does these steps to their end."""
        return self.finished(self.job(*steps, **more)).said

    def finished(self, job: Job) -> Outcome:
        """A process that has to come to its end."""
        child = self.start(job)
        code = child.wait()
        assert code == 0, f"A child ended with {code}.\n{child.log.read_text()}"
        return self.outcome(job)

    def dies(self, job: Job) -> bool:
        """A process that has to die by SIGKILL at its point; False where it came to its end without reaching it."""
        child = self.start(job)
        code = child.wait()
        assert code in (0, -signal.SIGKILL), f"A child ended with {code}.\n{child.log.read_text()}"
        return code != 0

    # the usual steps

    def paused(self, run: str, tenant: str = "acme", user: str | None = "alice", **more: Any) -> Said:
        """A run that waits for people; the process that began it is gone."""
        [said] = self.do(Step(do="run", run=run, tenant=tenant, user=user), **more)
        assert said.status == "paused", said
        return said

    def resumed(self, run: str, answer: Any = None, tenant: str | None = "acme", **more: Any) -> Said:
        """What a new process is told that resumes the run by its id."""
        [said] = self.do(Step(do="resume", run=run, tenant=tenant, answer=answer), **more)
        return said

    def checked(self, checkpoint: Any, answer: Any = None, tenant: str | None = None, **more: Any) -> Said:
        """What a new process is told that resumes by a checkpoint."""
        [said] = self.do(Step(do="resume", checkpoint=checkpoint, tenant=tenant, answer=answer), **more)
        return said

    # what is found

    def paid(self) -> list[str]:
        """What happened outside: arguments as JSON."""
        return [effect.args for effect in self.sink()]

    def sink(self) -> list[Effect]:
        return self._lines("sink", Effect)

    def told(self) -> list[Told]:
        return self._lines("told", Told)

    def events(self, run: str, tenant: str = "acme") -> list[AnyEvent]:
        """A run's journal as it lies."""
        return self.journal()[tenant, run].events

    def journal(self) -> Any:
        return SqliteFile(self.folder).journal()

    def of(self, run: str, kind: type[Any], tenant: str = "acme") -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events(run, tenant) if type(event) is kind]

    def _lines(self, name: str, kind: Any) -> list[Any]:
        path = self.folder / name
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=kind) for line in lines]

    def copy(self, into: Path) -> World:
        """The same world again, as it lies. The shared-memory file is not a part of the database."""
        assert self.folder not in into.parents, "A copy within the world would be copied with it, and so on."
        shutil.copytree(self.folder, into, ignore=shutil.ignore_patterns("*-shm", "died"))
        copy = World(into, self.setting, self.mutant)
        copy._generation = itertools.count(1000)
        return copy

    # the file itself, in the hands of somebody who may write it

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What a statement gives on the database file."""
        connection = apsw.Connection(str(self.folder / "runs.db"))
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def rewrite(self, change: Any) -> int:
        """Replace each event of the file by what *change* makes of it; how many it changed."""
        changed = 0
        for row, data in self.rows("SELECT id, events FROM journal"):
            events = decode_events(data)
            made = [change(event) for event in events]
            if made != events:
                changed += sum([a != b for a, b in zip(made, events, strict=True)])
                self.rows("UPDATE journal SET events = ? WHERE id = ?", encode_events(made), row)
        return changed


@contextmanager
def worlds(
    setting: scenario.Setting = scenario.USUAL, mutant: str | None = None
) -> Iterator[Iterator[World]]:
    """Fresh worlds: on a disk in memory in the short form, where there is one; they are removed at the end."""
    memory = "/dev/shm" if not LONG and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="control-", dir=memory) as folder:

        def fresh() -> Iterator[World]:
            for number in itertools.count():
                made = Path(folder) / str(number)
                made.mkdir()
                yield World(made, setting, mutant)

        yield fresh()


@contextmanager
def world(setting: scenario.Setting = scenario.USUAL, mutant: str | None = None) -> Iterator[World]:
    """One of them."""
    with worlds(setting, mutant) as fresh:
        yield next(fresh)
