"""Where a memory on SQLite may be, who may use it at once, and what it says of files and things that it cannot take."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from shipworthy.adapters.shared.limits import LARGEST
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.adapters.sqlite.connection import APPLICATION_ID, MEMORY_ID, rows
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.adapters.sqlite.memory_schema import SHELVES, steps
from shipworthy.adapters.sqlite.power import PowerLossVfs
from shipworthy.domain.memory import NOWHERE, Record, Stamp
from shipworthy.domain.scope import Scope
from shipworthy.errors import (
    ConfigurationError,
    MemoryClosed,
    MemoryConflict,
    MemoryForeign,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    RecordTooLarge,
    StoreError,
    StoreForeign,
)
from shipworthy.testing.contracts.store.workers import ALICE as RUNNING
from shipworthy.testing.contracts.store.workers import begun, seqs

ROOT = Path(__file__).parents[2]
ALICE = Scope("acme", "alice")


def note(id: str, size: int = 10) -> Record:
    return Record(id=id, kind="episode", data=bytes(size), at=1)


async def use(path: Path) -> None:
    store = SqliteMemoryStore(path, busy_timeout=0.05)
    try:
        await store.open()
        await store.put(ALICE, [note("a")])
    finally:
        await store.close()


def edit(path: Path, sql: str) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as other:
        other.execute(sql).fetchall()


def application(path: Path) -> int:
    with contextlib.closing(apsw.Connection(str(path))) as other:
        return int(other.pragma("application_id"))


def digest(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# one file for the runtime and its memory


@pytest.mark.parametrize("first", ["memory", "runtime", "both"])
def test_a_runtime_and_its_memory_share_a_file_whoever_comes_first(first: str, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"

    async def scenario() -> None:
        memory, runs = SqliteMemoryStore(path), SqliteStore(path)
        if first == "both":
            await asyncio.gather(memory.open(), runs.open())
        for store in (memory, runs) if first == "memory" else (runs, memory):
            await store.open()
        assert application(path) == APPLICATION_ID
        await asyncio.gather(
            *[memory.put(ALICE, [note(f"n{number}")]) for number in range(20)],
            *[begun(runs, RUNNING, f"r{number}") for number in range(20)],
        )
        await memory.erase(ALICE)
        assert [await seqs(runs, RUNNING, f"r{number}") for number in range(20)] == [[1, 2]] * 20
        await memory.put(ALICE, [note("later")])
        await runs.close()
        assert [found.id for found in await memory.page(ALICE)] == ["later"]
        await memory.close()

    asyncio.run(scenario())


def test_a_file_with_a_memory_alone_says_so(tmp_path: Path) -> None:
    asyncio.run(use(tmp_path / "memory.db"))
    assert application(tmp_path / "memory.db") == MEMORY_ID
    assert [path.name for path in tmp_path.iterdir()] == ["memory.db"]


# several processes

MANY = """
import asyncio, json, sys
from shipworthy.adapters.sqlite import memory_schema
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Scope
steps = memory_schema.steps
def with_another_step():
    more = "ALTER TABLE memory_meta ADD COLUMN more TEXT; CREATE TABLE memory_more (x INT) STRICT;"
    return {**steps(), max(steps()) + 1: more}
async def main():
    for phase in ("new", "newer"):
        runs, store = SqliteStore(sys.argv[1]), SqliteMemoryStore(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(store.open(), *([runs.open()] if int(sys.argv[2]) % 2 else []))
        record = Record(id=phase + sys.argv[2], kind="episode", data=b"x", at=1)
        await store.put(Scope("acme", "alice"), [record])
        await store.close()
        await runs.close()
        memory_schema.steps = with_another_step
    print("done", flush=True)
asyncio.run(main())
"""


async def ids(path: Path) -> set[str]:
    store = SqliteMemoryStore(path)
    await store.open()
    found = {record.id for record in await store.page(ALICE)}
    await store.close()
    return found


def test_eight_processes_make_one_new_file_and_bring_one_old_file_up(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(8)
    ]
    for _ in ("new", "newer"):
        assert [heard(child) for child in children] == ["ready\n"] * 8
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
    assert [heard(child) for child in children] == ["done\n"] * 8
    assert [child.communicate() and child.wait(60) for child in children] == [0] * 8
    with contextlib.closing(apsw.Connection(str(path))) as other:
        assert other.execute("SELECT version, more FROM memory_meta").fetchall() == [(max(steps()) + 1, None)]
        other.execute("UPDATE memory_meta SET version = version - 1")
    assert asyncio.run(ids(path)) == {f"{phase}{number}" for number in range(8) for phase in ("new", "newer")}


def heard(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def test_several_event_loops_share_a_store(tmp_path: Path) -> None:
    store = SqliteMemoryStore(tmp_path / "memory.db")
    asyncio.run(store.open())

    async def write(name: str) -> None:
        await asyncio.gather(*[store.put(ALICE, [note(f"{name}{number}")]) for number in range(30)])

    threads = [threading.Thread(target=lambda n=name: asyncio.run(write(n))) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def look() -> None:
        found = await store.page(ALICE)
        assert [record.n for record in found] == list(range(1, 91))
        await store.close()

    asyncio.run(look())


FORKED = """
import asyncio, os, sys
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryClosed
store = SqliteMemoryStore(sys.argv[1])
asyncio.run(store.open())
async def child():
    try:
        await store.page(Scope("acme"))
    except MemoryClosed as error:
        await store.close()
        os._exit(7 if "forked" in str(error) else 1)
pid = os.fork()
if pid == 0:
    asyncio.run(child())
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
async def parent():
    assert await store.page(Scope("acme")) == []
    await store.close()
asyncio.run(parent())
"""


def test_a_forked_process_needs_a_store_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "memory.db")]
    subprocess.run(command, check=True, timeout=60, cwd=ROOT)


# files that it cannot use


def text(path: Path) -> None:
    path.write_text("Dear diary, this is not a database. " * 40)


def foreign(path: Path) -> None:
    edit(path, "PRAGMA application_id = 7; CREATE TABLE t (x)")


def nameless(path: Path) -> None:
    edit(path, "CREATE TABLE t (x); INSERT INTO t VALUES (1)")


def newer(path: Path) -> None:
    asyncio.run(use(path))
    edit(path, "UPDATE memory_meta SET version = 99")


def newer_runtime(path: Path) -> None:
    asyncio.run(use(path))
    edit(path, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99")


@pytest.mark.parametrize("write", [text, foreign, nameless, newer, newer_runtime])
def test_a_file_that_is_not_ours_is_refused_and_not_changed(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "memory.db")
    before = digest(tmp_path)
    with pytest.raises(MemoryForeign, match="another path"):
        asyncio.run(use(tmp_path / "memory.db"))
    assert digest(tmp_path) == before


def test_a_runtime_refuses_no_memory_and_no_less_than_before(tmp_path: Path) -> None:
    nameless(tmp_path / "foreign.db")
    with pytest.raises(StoreForeign):
        asyncio.run(SqliteStore(tmp_path / "foreign.db").open())


def test_a_missing_folder_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MemoryReadOnly, match="Create the folder first"):
        asyncio.run(use(tmp_path / "nowhere" / "memory.db"))
    with pytest.raises(MemoryForeign, match="is a folder"):
        asyncio.run(use(tmp_path))


AS_NOBODY = """
import asyncio, importlib.resources, os, sys
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.errors import MemoryReadOnly
async def main():
    try:
        await SqliteMemoryStore(sys.argv[1]).open()
    except MemoryReadOnly as error:
        print("refused:", error)
asyncio.run(asyncio.to_thread(int))
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(main())
"""


def test_a_file_that_may_not_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        asyncio.run(use(path))
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        command = [sys.executable, "-c", AS_NOBODY, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.stdout.startswith("refused:"), done
        Path(folder).chmod(0o755)


def test_a_file_that_another_program_holds_is_away_and_nothing_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "memory.db"
        store = SqliteMemoryStore(path, busy_timeout=0.05)
        await store.open()
        await store.put(ALICE, [note("a")])
        with contextlib.closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(MemoryUnavailable, match="busy_timeout"):
                await store.put(ALICE, [note("b")])
            assert [found.id for found in await store.page(ALICE)] == ["a"]
            other.execute("ROLLBACK")
        await store.put(ALICE, [note("b")])
        assert [found.id for found in await store.page(ALICE)] == ["a", "b"]
        await store.close()

    asyncio.run(scenario())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    asyncio.run(use(path))
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(os.urandom(8 * 4096))
    with pytest.raises(MemoryStoreError, match=r"(?s)damaged.*backup"):
        asyncio.run(use(path))


def test_a_disk_that_is_full_or_fails_is_told_of_and_what_was_acknowledged_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        vfs, failure = PowerLossVfs("failing"), apsw.SQLITE_FULL
        store = SqliteMemoryStore(tmp_path / "memory.db", vfs="failing")
        await store.open()
        await store.put(ALICE, [note("a")])

        def fails(operation: str, _: str) -> None:
            if operation == "write":
                raise apsw.exception_for(failure)

        vfs.before = fails
        with pytest.raises(MemoryFull, match="Free space"):
            await store.put(ALICE, [note("b")])
        failure = apsw.SQLITE_IOERR
        with pytest.raises(MemoryStoreError, match="Do it again"):
            await store.put(ALICE, [note("c")])
        vfs.before = None
        await store.put(ALICE, [note("d")])
        assert [found.id for found in await store.page(ALICE)] == ["a", "d"]
        await store.close()

    asyncio.run(scenario())


def test_a_record_is_one_sync_and_what_is_written_at_once_shares_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        vfs, done = PowerLossVfs("counting"), list[str]()
        store = SqliteMemoryStore(tmp_path / "memory.db", vfs="counting")
        await store.open()
        await store.put(ALICE, [note("a")])
        vfs.before = lambda operation, _: done.append(operation)
        await store.put(ALICE, [note("b")])
        assert done.count("sync") == 1
        await asyncio.gather(*[store.put(Scope("acme", f"u{number}"), [note("c")]) for number in range(50)])
        assert done.count("sync") <= 3
        await store.close()

    asyncio.run(scenario())


# things that it cannot take


def test_what_is_too_large_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteMemoryStore(tmp_path / "memory.db", durability="process")
        await store.open()
        await store.put(ALICE, [note("large", 10_000_000)])
        for refused in (note("x", LARGEST + 1), note("i" * 201), note("ü" * 101)):
            with pytest.raises(RecordTooLarge):
                await store.put(ALICE, [note("first"), refused])
        with pytest.raises(RecordTooLarge, match="shorter"):
            await store.put(Scope("t" * 513), [note("x")])
        assert [len(found.data) for found in await store.page(ALICE)] == [10_000_000]
        await store.close()

    asyncio.run(scenario())


def test_one_that_is_refused_or_fails_takes_no_other_of_its_group_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteMemoryStore(tmp_path / "memory.db")
        await store.open()
        mark = await store.put(ALICE, [note("a")])
        odd = Record(id="odd", kind="episode", data=b"", at=2**70)
        told = await asyncio.gather(
            store.put(ALICE, [note("b")], at=mark),
            store.put(ALICE, [note("c")], at=mark),
            store.put(ALICE, [note("d"), odd]),
            store.put(ALICE, [note("e")]),
            return_exceptions=True,
        )
        kinds = [type(outcome) for outcome in told]
        assert kinds[1] is MemoryConflict
        assert isinstance(told[2], MemoryStoreError)
        assert not any(isinstance(outcome, StoreError) for outcome in told)
        assert [found.id for found in await store.page(ALICE)] == ["a", "b", "e"]
        await store.close()

    asyncio.run(scenario())


def test_a_store_is_used_between_open_and_close_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteMemoryStore(tmp_path / "memory.db")
        with pytest.raises(MemoryClosed, match=r"open\(\)"):
            await store.page(ALICE)
        await store.open()
        await store.open()
        await store.close()
        await store.close()
        with pytest.raises(MemoryClosed):
            await store.put(ALICE, [note("a")])
        await store.open()
        assert (await store.changes(ALICE, NOWHERE)).mark == NOWHERE
        assert await store.stamp(Stamp("words")) == Stamp("words")
        await store.close()

    asyncio.run(scenario())


def test_settings_are_refused_when_the_store_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        SqliteMemoryStore(tmp_path / "m.db", durability="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        SqliteMemoryStore(tmp_path / "m.db", busy_timeout=-1)


def test_odd_numbers_reach_no_other_partition(tmp_path: Path) -> None:
    """A place in the file is made of a partition's number and a record's: neither end of the range may be passed."""

    async def scenario() -> None:
        store = SqliteMemoryStore(tmp_path / "memory.db")
        await store.open()
        neighbours = [Scope("acme", "alice", f"s{number}") for number in range(3)]
        for scope in neighbours:
            await store.put(scope, [note(scope.session or "")])
        for after in (-(2**40), -1, 0, 2**31, 2**32 - 1, 2**32, 2**40, 2**80):
            found = await store.page(neighbours[1], after, limit=10)
            assert [record.id for record in found] == (["s1"] if after <= 0 else [])
        mark = (await store.changes(neighbours[1], NOWHERE)).mark
        for n in (-(2**40), -1, 2**32, 2**40):
            news = await store.changes(neighbours[1], type(mark)(mark.epoch, n))
            assert [entry.id for entry in news.entries] == ["s1"]
        assert await store.page(neighbours[1], limit=-1) == []
        await store.close()

    asyncio.run(scenario())


def test_users_are_on_all_shelves(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteMemoryStore(tmp_path / "memory.db", durability="process")
        await store.open()
        await asyncio.gather(*[store.put(Scope("acme", f"u{number}"), [note("a")]) for number in range(200)])
        await store.close()
        with contextlib.closing(apsw.Connection(str(tmp_path / "memory.db"))) as other:
            count = "SELECT count(*) FROM memory_records_{:02}"
            counts = [rows(other.cursor(), count.format(shelf))[0][0] for shelf in range(SHELVES)]
        assert sum(counts) == 200
        assert min(counts) > 0

    asyncio.run(scenario())
