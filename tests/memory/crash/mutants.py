"""Deliberately broken variants of the product, switched on in a child: each must be caught by a law.

They replace parts of the product from outside; where one is not there any more, that is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _replace(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    setattr(owner, name, made(getattr(owner, name)))


def remembered_after_the_end() -> None:
    """The end is recorded, and then what was said is kept."""
    from shipworthy.engine import deliver
    from shipworthy.engine.memory.memory import Memory

    end, keep = deliver._end, Memory.keep
    left: list[Any] = []

    async def later(self: Any, scope: Any, items: Any) -> None:
        left.append((self, scope, items))

    async def late(run: Any, ended: Any, value: Any) -> None:
        await end(run, ended, value)
        await run.commit()
        while left:
            await keep(*left.pop())

    Memory.keep = later  # type: ignore[method-assign, assignment]
    _replace(deliver, "_end", lambda _: late)


def random_ids() -> None:
    """What is remembered has an id of its own each time."""
    from shipworthy.engine import remembering

    _replace(remembering, "_run_digest", lambda digest: lambda run: os.urandom(16).hex())


def kept_before_the_journal() -> None:
    """An answer is kept in memory before it is in the journal."""
    from shipworthy.engine.remembering import Remembering

    remember = Remembering.remember

    async def early(self: Any, run: Any, ended: Any) -> None:
        commit = type(run).commit

        async def nothing(live: Any) -> None:
            if live is not run:
                await commit(live)

        type(run).commit = nothing
        try:
            await remember(self, run, ended)
        finally:
            type(run).commit = commit

    _replace(Remembering, "remember", lambda _: early)


def learned_before_the_journal() -> None:
    """What a model proposed is learned before it is in the journal."""
    from shipworthy.app.learning import Learning

    learn = Learning.learn

    async def early(self: Any, run: Any, value: Any) -> None:
        commit = type(run).commit

        async def nothing(live: Any) -> None:
            if live is not run:
                await commit(live)

        type(run).commit = nothing
        try:
            await learn(self, run, value)
        finally:
            type(run).commit = commit

    _replace(Learning, "learn", lambda _: early)


def begun_after_the_end() -> None:
    """The learning run is begun when the end of the run that it learns from is recorded."""
    from shipworthy.app.learning import Learning
    from shipworthy.engine import deliver
    from shipworthy.rules.learning import learning_of

    begin, end = Learning.begin, deliver._end
    left: dict[str, Any] = {}

    async def later(self: Any, run: Any, partition: Any, said: Any) -> str:
        left[run.run_id] = (self, run, partition, said)
        return learning_of(run.scope.tenant, run.run_id)

    async def late(run: Any, ended: Any, value: Any) -> None:
        await end(run, ended, value)
        if run.run_id in left:
            await run.commit()
            await begin(*left.pop(run.run_id))

    Learning.begin = later  # type: ignore[method-assign]
    _replace(deliver, "_end", lambda _: late)


def learned_without_a_batch() -> None:
    """Facts are learned anew each time that it is done."""
    from shipworthy.engine.memory.facts import Facts

    learn = Facts.learn

    async def anew(self: Any, scope: Any, beliefs: Any, **given: Any) -> Any:
        given.pop("batch", None)
        given["source"] = type(given["source"])(given["source"].run_id, int.from_bytes(os.urandom(3), "big"))
        return await learn(self, scope, beliefs, **given)

    _replace(Facts, "learn", lambda _: anew)


def learned_without_a_note() -> None:
    """That a batch was learned is not written down with its facts."""
    from shipworthy.engine.memory.facts import Facts

    write = Facts._write

    async def silent(self: Any, scope: Any, facts: Any, topics: Any, at: Any, notes: Any = ()) -> None:
        await write(self, scope, facts, topics, at)

    _replace(Facts, "_write", lambda _: silent)


def named_only_where_begun() -> None:
    """The learning run is named by whoever begins it, and by nobody who finds it begun."""
    from shipworthy.app.learning import Learning

    start, begin, own = Learning.start, Learning.begin, set[str]()

    async def noted(self: Any, partition: Any, words: Any, user: Any, source: str, run_id: str) -> Any:
        task = await start(self, partition, words, user, source, run_id)
        own.update([source] if task is not None else [])
        return task

    async def named(self: Any, run: Any, partition: Any, said: Any) -> str | None:
        learning = await begin(self, run, partition, said)
        return learning if run.run_id in own else None

    Learning.start = noted  # type: ignore[method-assign]
    _replace(Learning, "begin", lambda _: named)


def true_since_it_was_learned() -> None:
    """What is learned late counts as said late."""
    from shipworthy.app import learning

    def now(belief: Any) -> Any:
        return lambda **given: belief(**given | {"valid_from": None})

    _replace(learning, "Belief", now)


def journals_forgotten() -> None:
    """Erasing leaves journals alone."""
    from shipworthy.engine.erasing import JournalsErased
    from shipworthy.engine.memory import erasing

    async def nothing(runtime: Any, scope: Any) -> Any:
        return JournalsErased((), ())

    _replace(erasing, "erase_journals", lambda _: nothing)


def traces_kept() -> None:
    """What wider partitions have of a run stays there."""
    from shipworthy.engine.memory.erasing import _Traces

    async def nothing(self: Any) -> None:
        """Nothing is forgotten."""

    _replace(_Traces, "forget", lambda _: nothing)


def learners_by_the_journal() -> None:
    """Who learns from a run is erased with it if its journal names it."""
    from shipworthy.domain.events import MemoryWritten
    from shipworthy.engine import erasing

    bury = erasing._Erasing._bury

    async def by_the_journal(self: Any, root: str, members: Any) -> None:
        events = await self._store.read(self._tenant, root)
        named = {event.learning for event in events if isinstance(event, MemoryWritten)}
        learning_of = erasing.learning_of

        def found(tenant: str, run_id: str) -> str:
            learning = learning_of(tenant, run_id)
            return learning if learning in named else "none"

        erasing.learning_of = found
        try:
            await bury(self, root, members)
        finally:
            erasing.learning_of = learning_of

    _replace(erasing._Erasing, "_bury", lambda _: by_the_journal)


def stale_marks(folder: Path) -> None:
    """A reindex goes on after what it noted that it was about to do."""
    from shipworthy.engine.memory import reindexing

    note = folder / "reindexed"
    renew, stale = reindexing._renew, reindexing._is_stale

    async def noted(store: Any, vectors: Any, scope: Any, ids: Any) -> int:
        with note.open("a") as file:
            file.writelines([f"{scope}{id}\n" for id in ids])
        return await renew(store, vectors, scope, ids)

    done = note.read_text() if note.exists() else ""
    _replace(reindexing, "_renew", lambda _: noted)
    _replace(
        reindexing,
        "_is_stale",
        lambda _: lambda record, vectors: record.id not in done and stale(record, vectors),
    )


def switch_on(name: str, folder: Path) -> None:
    """Break this process so."""
    if name == "stale_marks":
        return stale_marks(folder)
    globals()[name]()
