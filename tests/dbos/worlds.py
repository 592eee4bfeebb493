"""Worlds of the crash proofs whose processes have their runs driven by DBOS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import msgspec

from tests.crash import proof
from tests.crash.zygote import Child, Zygote

_zygote: Zygote | None = None


class World(proof.World):
    """A folder with a journal, and DBOS's own file beside it."""

    def start(self, job: proof.Job) -> Child:
        assert _zygote is not None
        return _zygote.start(msgspec.to_builtins(job), self.folder / f"log-{job.generation}")

    def workflows(self) -> list[tuple[str, int]]:
        """Status of each, and how often DBOS gave it to an executor."""
        connection = apsw.Connection(str(self.folder / "runs.db.dbos"))
        try:
            return connection.execute("SELECT status, recovery_attempts FROM workflow_status").fetchall()
        finally:
            connection.close()


@contextmanager
def worlds(marked: str = "") -> Iterator[Iterator[World]]:
    """Fresh ones, with such a file in them."""

    def made(fresh: Iterator[proof.World]) -> Iterator[World]:
        for plain in fresh:
            if marked:
                (plain.folder / marked).touch()
            yield World(plain.folder)

    with proof.worlds() as fresh:
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
