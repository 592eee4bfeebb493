"""Catching up: learning from what was said in one partition and was not learned from yet, or not with success."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shipworthy.domain.journal import RunSummary
from shipworthy.domain.memory import Episode, Record
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.records import LEARNED_TO, readable
from shipworthy.errors import RunNotFound
from shipworthy.rules.learning import ATTEMPTS, attempt_of, learning_of, pause_after

if TYPE_CHECKING:
    from shipworthy.app.learning import Learning

log = logging.getLogger("shipworthy.memory")

PAGE = 200
AT_ONCE = 8
"""Runs that are learned from beside each other."""
MOST_FAILURES = 20
"""Failures after which the rest of the partition is left for the next time."""
MOST_LEFT = 1_000
"""Runs that are still to be learned from, while later ones were. Where so many are, nothing later is looked at."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a partition's episodes were looked at, and the ids of those before that are still to be learned from, by
    the run in which they were said."""

    after: int = 0
    left: dict[str, list[str]] = {}


class CatchingUp:
    """One look at a partition. *patient*: what failed is not learned again at once, but after a while."""

    def __init__(self, learning: Learning, partition: Scope, *, patient: bool) -> None:
        self._learning, self._partition, self._patient = learning, partition, patient
        self._store, self._journal = learning.memory.store, learning.runtime.store
        self._left: dict[str, list[str]] = {}
        self._learned, self._failures = 0, 0

    async def go(self) -> int:
        """From where the last look ended, and then what it left; how many runs were learned from."""
        noted = await self._noted()
        self._left, after = dict(noted.left), noted.after
        while len(self._left) < MOST_LEFT:
            page = await self._store.page(self._partition, after, PAGE, "episode")
            if not page:
                break
            if not await self._of(page):
                return self._learned  # and those that failed are seen again
            after = page[-1].n
            await self._note(after)
        await self._retry(noted)
        if self._left != noted.left:
            await self._note(after)
        return self._learned

    async def _retry(self, noted: Progress) -> None:
        for run_id, ids in noted.left.items():
            there = await self._store.get(self._partition, ids)
            if not there:
                self._left.pop(run_id)  # it was forgotten
            elif not await self._of(there):
                break

    async def _noted(self) -> Progress:
        for record in await self._store.get(self._partition, [LEARNED_TO]):
            try:
                return msgspec.json.decode(record.data, type=Progress)
            except msgspec.DecodeError:
                log.warning(
                    "How far %s was learned from cannot be read: it is looked at anew.", self._partition
                )
        return Progress()

    async def _note(self, after: int) -> None:
        data = msgspec.json.encode(Progress(after, self._left))
        note = Record(id=LEARNED_TO, kind="topic", data=data, at=time.time_ns() // 1_000_000)
        await self._store.put(self._partition, [note], replace=True)

    async def _of(self, records: Sequence[Record]) -> bool:
        """Have it learned what these say; False if so much failed that nothing more should be tried."""
        said: dict[str, list[Episode]] = {}
        for episode in [item for record in records if isinstance(item := readable(record), Episode)]:
            if episode.role == "user" and episode.source is not None:
                said.setdefault(episode.source.run_id, []).append(episode)
        every = list(said.items())
        for some in [every[first : first + AT_ONCE] for first in range(0, len(every), AT_ONCE)]:
            begun: dict[str, str] = {}
            tasks: list[asyncio.Task[Any]] = []
            for run_id, words in some:
                self._left[run_id] = [each.id for each in words]
                verdict, name = await self._due(run_id)
                if verdict == "done":
                    del self._left[run_id]
                elif verdict == "due" and (task := await self._begin(run_id, words, name)) is not None:
                    begun[run_id] = name
                    tasks.append(task)
            if tasks:
                await asyncio.wait(tasks)
            for run_id, name in begun.items():
                await self._see(run_id, name)
            if self._failures >= MOST_FAILURES:
                return False
        return True

    async def _see(self, run_id: str, name: str) -> None:
        """What came of learning from a run."""
        run = await self._found(name)
        if run is not None and run.status == "completed":
            self._learned += 1
            del self._left[run_id]
        elif run is None or run.status not in ("running", "paused"):
            self._failures += 1

    async def _due(self, run_id: str) -> tuple[Literal["done", "later", "due"], str]:
        """Whether a run is learned from, or is to be now; and by which run."""
        learning = learning_of(self._partition.tenant, run_id)
        failed: RunSummary | None = None
        for nth in range(1, ATTEMPTS + 1):
            name = attempt_of(learning, nth)
            run = await self._found(name)
            if run is None:
                return "later" if failed and self._patient and _is_too_early(failed, nth) else "due", name
            if run.status in ("running", "paused"):
                return "later", name
            if run.status == "completed":
                return "done", name
            failed = run
        log.warning("Learning from run %r failed %d times, and is given up.", run_id, ATTEMPTS)
        return "done", learning

    async def _begin(self, run_id: str, words: Sequence[Episode], name: str) -> asyncio.Task[Any] | None:
        """None if somebody else began it, or if nobody knows whose words they are: what is learned in a partition that
        several users share is at the expense of who said it, and names them."""
        user = self._partition.user or next((w.source.user for w in words if w.source is not None), None)
        if user is None:
            run = await self._found(run_id)
            if run is None:
                del self._left[run_id]
                return None
            user = run.scope.user
        return await self._learning.start(self._partition, words, user, run_id, name)

    async def _found(self, run_id: str) -> RunSummary | None:
        try:
            return await self._journal.find(Scope(self._partition.tenant), run_id)
        except RunNotFound:
            return None


def _is_too_early(failed: RunSummary, nth: int) -> bool:
    """Whether the attempt before the *nth* failed just now."""
    return time.time_ns() // 1_000_000 < failed.updated_at + pause_after(nth - 1)
