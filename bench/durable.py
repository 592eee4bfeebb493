"""The durable rows: our SQLite runtime beside a bare FULL commit and a bare group commit, in one folder.

A *step* is one batch of bytes that is durable when the call returns, with `synchronous=FULL`.

* Ours: one `Store.begin` or `Store.commit` of a run that a real agent drives, holding the events of that point of
  its loop. In one transaction it moves the run's row on under its fence and adds a row, with its index entry, to
  the journal. Between two steps the agent does everything that it does: decide, ask the model, parse arguments,
  run the tool, fold, encode.
* The bare FULL commit: one INSERT of a blob of the same length into a table of two columns, in a transaction of
  its own, by one caller who does nothing else.
* The bare group commit: as many tasks as there are runs, each with one blob after the other for one writer thread,
  which commits whatever waits in one transaction and wakes the tasks with one call to the event loop.

A *turn* is one call of the model and one call of a `once` tool. It has two steps: the intent is durable before the
tool starts, and the result before the model is asked again. Its floor is the governed loop, with one ready-made
blob committed through the bare group commit before each tool and one after it: what is left of the time when the
journal costs no work of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
from floors import Governed, GovernedTool, Json, Permissions, Replies, Service, Span, call, say

from shipworthy import Agent, ScriptedModel, SqliteRuntime, ToolCall, tool

CHECKPOINT_PAGES = 4096
"""What our store uses; the floors checkpoint as seldom."""

SEAT = '{"seat":"12A","name":"Ada Lovelace"}'
BOOKED = "Seat 12A is booked for Ada Lovelace. The booking code is QX7-33-LOVELACE."


@tool(effect="once", timeout=30.0)
async def book(seat: str, name: str) -> str:
    """Book a seat for somebody."""
    return BOOKED


@tool(effect="read", timeout=30.0)
async def look_up(seat: str, name: str) -> str:
    """Who sits there."""
    return BOOKED


class Durable(msgspec.Struct):
    """Steps and turns of one sample, in seconds of wall time."""

    steps: int
    turns: int
    seconds: float


class Folder:
    """A folder of its own for each sample, on the file system that is measured."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix=".bench-", dir=self._parent))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


# --- ours -------------------------------------------------------------------------------------


def agent_of(runtime: Any, turns: int, each: Sequence[ToolCall], audit_log: Any = None) -> Agent[Any, str]:
    script: list[Any] = [list(each)] * turns
    return Agent(
        "You book seats.",
        name="clerk",
        model=ScriptedModel([*script, "All seats are booked."]),
        tools=[book, look_up],
        runtime=runtime,
        max_turns=1_000_000,
        audit_log=audit_log,
    )


def ours(parent: Path, runs: int, turns: int, log: Callable[[Path], Any] = lambda _: None) -> Durable:
    """So many runs at once, of so many turns with one `once` call each. *log* makes an audit log in their folder."""
    with Folder(parent) as folder:
        path = folder / "runs.db"

        async def measured() -> float:
            each = [ToolCall("book", SEAT)]
            async with agent_of(SqliteRuntime(path), turns, each, log(folder)) as agent:
                asks = [agent.run("Book.", tenant_id="acme", user_id=f"user-{n}") for n in range(runs)]
                begun = time.perf_counter()
                results = await asyncio.gather(*asks)
                seconds = time.perf_counter() - begun
            assert all(result.output == "All seats are booked." for result in results)
            return seconds

        seconds = asyncio.run(measured())
        return Durable(len(batch_sizes(path)), runs * turns, seconds)


def batch_sizes(path: Path) -> list[int]:
    """The length of every batch in the journal of a file, in the order of their commits."""
    connection = apsw.Connection(str(path))
    try:
        return [size for (size,) in connection.execute("SELECT length(events) FROM journal ORDER BY id")]
    finally:
        connection.close()


def payloads(parent: Path, turns: int) -> list[bytes]:
    """What the floors commit: blobs as long as the batches of one such run."""
    with Folder(parent) as folder:
        path = folder / "runs.db"

        async def run() -> None:
            async with agent_of(
                SqliteRuntime(path, durability="process"), turns, [ToolCall("book", SEAT)]
            ) as agent:
                await agent.run("Book.", tenant_id="acme", user_id="user-0")

        asyncio.run(run())
        return [b"x" * size for size in batch_sizes(path)]


# --- the floors -------------------------------------------------------------------------------


def _bare(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", 2)
    connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    return connection


def full_commits(parent: Path, blobs: Sequence[bytes]) -> Durable:
    """One caller, one transaction for each blob."""
    with Folder(parent) as folder:
        connection = _bare(folder / "bare.db")
        cursor = connection.cursor()
        begun = time.perf_counter()
        for blob in blobs:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("INSERT INTO log (data) VALUES (?)", (blob,))
            cursor.execute("COMMIT")
        seconds = time.perf_counter() - begun
        connection.close()
    return Durable(len(blobs), 0, seconds)


class GroupCommit:
    """One thread that commits whatever waits, and wakes all who waited at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def land(self, blobs: Sequence[bytes]) -> None:
        """Commit them in one transaction."""
        raise NotImplementedError

    def commit(self, blob: bytes) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._queue.put((blob, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            while not self._queue.empty() and (more := self._queue.get()) is not None:
                group.append(more)
            self.land([blob for blob, _ in group])
            self._loop.call_soon_threadsafe(_wake, [future for _, future in group])


class OnDisk(GroupCommit):
    """Into a SQLite file."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = _bare(path)
        super().__init__(loop)

    def land(self, blobs: Sequence[bytes]) -> None:
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany("INSERT INTO log (data) VALUES (?)", [(blob,) for blob in blobs])
        cursor.execute("COMMIT")

    def close(self) -> None:
        super().close()
        self._connection.close()


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def group_commits(parent: Path, blobs: Sequence[bytes], committers: int) -> Durable:
    """So many tasks, each with all the blobs one after the other."""
    with Folder(parent) as folder:

        async def commit_all(group: GroupCommit) -> None:
            for blob in blobs:
                await group.commit(blob)

        async def measured() -> float:
            group = OnDisk(folder / "group.db", asyncio.get_running_loop())
            begun = time.perf_counter()
            await asyncio.gather(*[commit_all(group) for _ in range(committers)])
            seconds = time.perf_counter() - begun
            group.close()
            return seconds

        seconds = asyncio.run(measured())
    return Durable(len(blobs) * committers, 0, seconds)


class Place(msgspec.Struct):
    """The arguments of `book`, for the governed floor."""

    seat: str
    name: str


async def _book(seat: str, name: str) -> str:
    return BOOKED


class GovernedOnDisk(Governed):
    """The governed loop with both commits of a `once` call."""

    def __init__(self, turns: int, group: GroupCommit, intent: bytes, result: bytes) -> None:
        service = Service()
        service.permissions = Permissions(granted={"acme": frozenset({"_book"})}, denied={})
        replies = [call(("_book", SEAT), turn=turn) for turn in range(turns)]
        tools = [GovernedTool(_book, Place, effect="once", timeout=30.0)]
        super().__init__("You book seats.", Replies([*replies, say("All seats are booked.")]), tools, service)
        self._group, self._intent, self._result = group, intent, result

    async def _call(self, who: tuple[str, str, str], root: Span, asked: Json) -> Json:
        await self._group.commit(self._intent)
        message = await super()._call(who, root, asked)
        await self._group.commit(self._result)
        return message


def governed(parent: Path, blobs: Sequence[bytes], runs: int, turns: int) -> Durable:
    """So many governed runs at once, through one group commit."""
    with Folder(parent) as folder:

        async def measured() -> float:
            group = OnDisk(folder / "group.db", asyncio.get_running_loop())
            loop = GovernedOnDisk(turns, group, blobs[1], blobs[2])
            begun = time.perf_counter()
            await asyncio.gather(*[loop.run("Book.", "acme", f"user-{n}") for n in range(runs)])
            seconds = time.perf_counter() - begun
            group.close()
            return seconds

        seconds = asyncio.run(measured())
    return Durable(2 * runs * turns, runs * turns, seconds)


# --- what a turn writes and syncs -------------------------------------------------------------


class _CountingFile(apsw.VFSFile):
    def __init__(self, vfs: CountingVFS, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:
        self._vfs.syncs += 1
        super().xSync(flags)


class CountingVFS(apsw.VFS):
    """The default VFS, counting its syncs: those of the log, of the file and of folders alike."""

    _names = itertools.count()

    def __init__(self) -> None:
        self.syncs = 0
        self.name = f"bench-{next(self._names)}"
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _CountingFile(self, name, flags)


def syncs_per_turn(parent: Path, each: Sequence[ToolCall], turns: int) -> float:
    """Syncs that one more turn costs: a run of twice as many turns against one of *turns*."""
    return (_syncs(parent, each, 2 * turns) - _syncs(parent, each, turns)) / turns


def _syncs(parent: Path, each: Sequence[ToolCall], turns: int) -> int:
    with Folder(parent) as folder:
        vfs = CountingVFS()

        async def run() -> None:
            # A long lease, for its renewal is a commit of its own that belongs to no turn.
            runtime = SqliteRuntime(folder / "runs.db", lease_ttl=3600.0, vfs=vfs.name)
            async with agent_of(runtime, turns, each) as agent:
                await agent.run("Book.", tenant_id="acme", user_id="user-0")

        asyncio.run(run())
        vfs.unregister()
        return vfs.syncs


def bytes_beyond_content(parent: Path, turns: int) -> float:
    """Bytes by which a run lets the database file grow for each turn, without the arguments and results themselves."""
    return bytes_a_turn(parent, turns) - len(SEAT) - len(BOOKED)


def bytes_a_turn(parent: Path, turns: int, log: Callable[[Path], Any] = lambda _: None) -> float:
    """Bytes by which everything in the folder grows for each turn, once the WAL is in the file."""
    return (_size(parent, turns, log) - _size(parent, 0, log)) / turns


def _size(parent: Path, turns: int, log: Callable[[Path], Any]) -> int:
    with Folder(parent) as folder:
        path = folder / "runs.db"

        async def run() -> None:
            runtime = SqliteRuntime(path, durability="process")
            async with agent_of(runtime, turns, [ToolCall("look_up", SEAT)], log(folder)) as agent:
                await agent.run("Book.", tenant_id="acme", user_id="user-0")

        asyncio.run(run())
        connection = apsw.Connection(str(path))
        try:
            connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
            size: int = connection.pragma("page_count") * connection.pragma("page_size")
        finally:
            connection.close()
        return size + sum([each.stat().st_size for each in folder.glob("audit.jsonl*")])
