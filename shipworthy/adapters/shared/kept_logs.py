"""What audit logs in databases have in common: reading a copy, for which no key is needed, and the log itself, whose
entries may also ride in a store's commits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from shipworthy.adapters.shared.chaining import Held, Kept, said, sound, written
from shipworthy.adapters.shared.forgetting import Forgettable, forgotten
from shipworthy.adapters.shared.lane import Lane, forks
from shipworthy.adapters.shared.notary import Notary
from shipworthy.domain.audit import Draft, Entry, EpochKeys, Links, Standing
from shipworthy.errors import AuditClosed, AuditDamaged, AuditError, AuditUnavailable, StoreClosed, StoreError
from shipworthy.ports.anchors import Anchor
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import Chain, Seal

T = TypeVar("T")


class Tables(Forgettable, Protocol):
    """A database's tables of audit logs; the first argument is a cursor, or a session."""

    def names(self, on: Any, /) -> list[str]: ...
    def kept(self, on: Any, /, name: str) -> Kept | None: ...
    def lines(self, on: Any, /, key: int, start: int) -> list[tuple[int, bytes]]: ...
    def held(self, on: Any, /, key: int, start: int) -> list[Held]: ...
    def checkpoints(self, on: Any, /, key: int, start: int) -> list[tuple[int, bytes]]: ...
    def newest(self, on: Any, /, key: int) -> bytes | None: ...


class Database(Protocol):
    """Where logs are kept. What it raises are StoreErrors."""

    @property
    def place(self) -> str:
        """The store whose commits can carry a log's entries."""
        ...

    @property
    def tables(self) -> Tables: ...

    def ask(self, work: Callable[[Any], T]) -> T:
        """What *work* gives, which only reads, done on this thread."""
        ...

    def prepared(self) -> Lane:
        """A lane that is to be started, in a database that is ready."""
        ...

    def begin(self, on: Any, /, keys: tuple[EpochKeys, ...], name: str) -> Standing:
        """The lane's work: where the log stands, which is begun if there is none."""
        ...

    def entering(self, links: Links) -> Callable[[Any], None]:
        """The lane's work: enter these."""
        ...

    def keep(self, key: int, entries: int, line: bytes) -> None:
        """Put a checkpoint to the log's own, on this thread."""
        ...

    def settle(self, key: int) -> None:
        """Make durable, on this thread, what was committed of a log."""
        ...

    def scrubbing(self) -> Callable[[Any], None] | None:
        """The lane's work: leave no byte of what was erased; None where that is not in its power."""
        ...

    def close(self) -> None:
        """Let go of what is not the lane's."""
        ...


class Copy:
    """The log of this name as a database has it: read in pages, so that a large one takes no more memory than a small
    one. It changes nothing. Threads may share it. Raises AuditError."""

    def __init__(self, database: Database, name: str) -> None:
        self._database, self._tables, self.name = database, database.tables, name

    def _ask(self, work: Callable[[Any], T]) -> T:
        with translated():
            return self._database.ask(work)

    def names(self) -> list[str]:
        """What the logs are called that are there."""
        return self._ask(self._tables.names)

    def kept(self) -> Kept | None:
        """Where the log stands, unchecked; None where there is none."""
        return self._ask(lambda on: self._tables.kept(on, self.name))

    def seal(self) -> Seal | None:
        """The log's seal; None where there is none that can be read."""
        kept = self.kept()
        standing = None if kept is None else said(kept)
        if kept is None or standing is None:
            return None
        return Seal(standing.count, standing.log, standing.mac, kept.seal.hex())

    def lines(self, after: int = 0) -> Iterator[bytes]:
        """The entries' lines from number *after* on, without newlines."""
        return (line for page in self._pages(self._tables.lines, after) for _, line in page)

    def written(self, after: int = 0) -> Iterator[bytes]:
        """The same with their bodies, as the lines of a file that has them."""
        return (line for page in self._pages(self._tables.held, after) for line in written(page))

    def checkpoints(self, after: int = 0) -> Iterator[bytes]:
        """The log's own checkpoints, from the one on that covers *after* entries."""
        return (line for page in self._pages(self._tables.checkpoints, after) for _, line in page)

    def last_checkpoint(self) -> bytes | None:
        """The newest of them."""
        key = self._key()
        return None if key is None else self._ask(lambda on: self._tables.newest(on, key))

    def let_go(self) -> None:
        """Close what reading opened."""
        self._database.close()

    def _pages(self, of: Callable[[Any, int, int], list[Any]], start: int) -> Iterator[list[Any]]:
        key = self._key()
        while key is not None:
            at = start
            page = self._ask(lambda on: of(on, key, at))  # noqa: B023 - done at once
            if not page:
                return
            yield page
            last = page[-1]
            start = (last.seq if isinstance(last, Held) else last[0]) + 1

    def _key(self) -> int | None:
        kept = self.kept()
        return None if kept is None else kept.key


class KeptLog(Copy):
    """A log of an agent, or of many, in a database that may be a store's. Several event loops, and processes, may write
    one log; a process that was forked needs a log object of its own."""

    anchor_patience: float | None = None
    """Seconds that opening waits for all anchors together; None: two."""

    def __init__(
        self, database: Database, *, name: str, keys: tuple[EpochKeys, ...], anchors: Sequence[Anchor] = ()
    ) -> None:
        super().__init__(database, name)
        self.place = database.place
        self._keys, self._anchors = keys, tuple(anchors)
        self._opening = threading.Lock()
        self._log = ""
        self._linked = 0
        self._joined = False
        self._forks = 0
        self._lane: Lane | None = None
        self.notary: Notary | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {self.place}>"

    @property
    def unanchored(self) -> int:
        """Entries that the anchor which is most behind has no checkpoint of."""
        return 0 if self.notary is None else self.notary.unanchored

    @property
    def anchor_failures(self) -> int:
        """How often an anchor could not be asked, or did not take a checkpoint."""
        return 0 if self.notary is None else self.notary.anchor_failures

    @property
    def key_failures(self) -> int:
        """How often a sealed key could not move on, or a retired one could not be destroyed."""
        return 0 if self.notary is None else self.notary.key_failures

    # the port

    async def open(self) -> None:
        """Make ready, once: begin the log where there is none. Raises AuditError, and appends nothing, where the log is
        not as it was left."""
        if self._lane is None:
            await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with self._opening:
            if self._lane is not None:
                return
            notary = Notary(self, self._anchors, keys=self._keys, asking=self.anchor_patience)
            with translated():
                lane = self._database.prepared()
                try:
                    if self.kept() is None and (told := notary.is_known(self.name)):
                        raise AuditDamaged(f"The log {self.name!r} is gone: {told}.")
                    self._log = lane.do(partial(self._database.begin, keys=self._keys, name=self.name)).log
                    notary.check()
                except BaseException:
                    lane.end()
                    notary.close(0)
                    self.let_go()
                    raise
            lane.start()
            self._forks, self._linked = forks(), 0
            self.notary, self._lane = notary, lane

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Enter these, in this order and with nothing between them, durably when it returns. Raises AuditError."""
        lane = self._ready()
        if not drafts:
            return
        future = lane.submit(self._database.entering(Links(self.name, self._keys, tuple(drafts), self._log)))
        try:
            with translated():
                await future
        finally:
            if self.notary is not None and future.done() and future.exception() is None:
                self.notary.made(len(drafts))

    def links(self, drafts: Sequence[Draft]) -> Links:
        """The same, to be carried by a commit of the store at its `place`. Raises AuditClosed."""
        self._ready()
        self._joined = True
        self._linked += len(drafts)
        return Links(self.name, self._keys, tuple(drafts), self._log)

    def carried(self) -> None:
        """A commit carried entries: there is something to make a checkpoint of. Never waits."""
        linked, self._linked = self._linked, 0
        if self.notary is not None and linked:
            self.notary.made(linked)

    async def erase(self, match: Callable[[Entry], bool]) -> int:
        """Forget the bodies and salts of the entries that match; the entries stay, and verify. How many. Where commits
        of a store carry them, bytes are left until that is scrubbed."""
        lane, key, gone = self._ready(), await asyncio.to_thread(self._key), 0
        if key is not None:
            with translated():
                gone = await forgotten(self._tables, key, match, read=self._looked, write=lane.submit)
        if gone and not self._joined and (scrub := self._database.scrubbing()):
            with translated():
                await lane.submit(scrub)
        return gone

    async def _looked(self, work: Callable[[Any], T]) -> T:
        return await asyncio.to_thread(self._ask, work)

    async def close(self) -> None:
        """Make a last checkpoint, and let go."""
        await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        with self._opening:
            lane, self._lane = self._lane, None
            notary, self.notary = self.notary, None
            if lane is None or notary is None or self._forks != forks():
                return
            lane.stop()
            notary.close()
            self.let_go()

    # the notary's side, beside `lines` and `last_checkpoint`

    def standing(self) -> tuple[Standing, EpochKeys]:
        """Where the log stands, and the keys in use there. Raises AuditDamaged, AuditKeyWrong."""
        kept = self.kept()
        if kept is None:
            raise AuditDamaged(f"The log {self.name!r} is gone.")
        standing = sound(kept, self._keys, self.name)
        return standing, Chain(self._keys, standing).active()

    def keep(self, line: bytes) -> None:
        """Put this to the log's own checkpoints."""
        key, head = self._key(), form.head_of(line)
        if key is not None and head is not None:
            with translated():
                self._database.keep(key, head[0].entries, line)

    def settle(self) -> None:
        """Make durable what `standing` gave: the store whose commits carried it may not have waited for that."""
        key = self._key()
        if key is not None:
            with translated():
                self._database.settle(key)

    def _ready(self) -> Lane:
        if self._lane is None:
            raise AuditClosed(f"The audit log {self.name!r} is not open.")
        if self._forks != forks():
            raise AuditClosed(
                f"The audit log {self.name!r} was opened before this process was forked.",
                fix="Make a log object of its own in each process.",
            )
        if self.notary is not None:
            self.notary.sound()
        return self._lane


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """A store's errors as those of a log."""
    try:
        yield
    except AuditError:
        raise
    except StoreClosed as error:
        raise AuditClosed(error.what) from error
    except StoreError as error:
        raise AuditUnavailable(error.what, fix=error.fix) from error
