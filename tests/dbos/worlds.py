"""Worlds of the crash proofs whose processes have their runs driven by DBOS."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import msgspec

from shipworthy.testing.faults import Point
from tests.crash import proof
from tests.crash.databases import Kind
from tests.crash.zygote import Child, Zygote

PLAN = proof.Plan(way="run", runs=("z1",))
BODY = Point("once", 1, "before")
NAMES = [
    "before the intent",
    "after the intent",
    "before the effect",
    "after the effect",
    "after the result",
    "before DBOS notes the step",
    "after DBOS notes the step",
]
_zygote: Zygote | None = None


class World(proof.World):
    """A journal and DBOS's tables, in two files or in one database."""

    def start(self, job: proof.Job) -> Child:
        assert _zygote is not None
        return _zygote.start(msgspec.to_builtins(job), self.folder / f"log-{job.generation}")

    def workflows(self) -> list[tuple[str, int]]:
        """Status of each in the file, and how often DBOS gave it to an executor."""
        connection = apsw.Connection(str(self.folder / "runs.db.dbos"))
        try:
            return connection.execute("SELECT status, recovery_attempts FROM workflow_status").fetchall()
        finally:
            connection.close()


@contextmanager
def worlds(marked: str = "", store: Kind = "sqlite") -> Iterator[Iterator[World]]:
    """Fresh ones, with such a file in them. DBOS's tables are where the journal is."""

    def made(fresh: Iterator[proof.World]) -> Iterator[World]:
        for plain in fresh:
            if marked:
                (plain.folder / marked).touch()
            yield World(plain.folder, plain.database)

    with proof.worlds(store) as fresh:
        yield made(fresh)


@contextmanager
def processes() -> Iterator[None]:
    """While this lasts, there is a process that the worlds' children are forked from."""
    global _zygote
    _zygote = Zygote("tests.dbos.child")
    try:
        yield
    finally:
        _zygote.close()
        _zygote = None
        proof.end_zygote()


@functools.cache
def points() -> dict[str, Point]:
    """Those around the first effect, by name. What DBOS notes is a durable write as well."""
    with worlds() as fresh:
        world = next(fresh)
        reached = world.do(PLAN.job(world)).points
    body = reached.index(BODY)
    before, after = reached[:body][::-1], reached[body:]

    def first(where: list[Point], kind: str, side: str) -> Point:
        return next(p for p in where if (p.kind, p.side) == (kind, side))

    found = [
        first(before, "commit", "before"),
        first(before, "commit", "after"),
        BODY,
        first(after, "once", "after"),
        first(after, "commit", "after"),
        first(after, "dbos", "before"),
        first(after, "dbos", "after"),
    ]
    return dict(zip(NAMES, found, strict=True))
