"""What a SQLite store says of files that it cannot use, and that it leaves them as they were."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from shipworthy.adapters.sqlite import SqliteStore, connection
from shipworthy.adapters.sqlite.connection import USER_VERSION, gate
from shipworthy.domain.scope import Scope
from shipworthy.errors import (
    ConfigurationError,
    JournalDamaged,
    RunNotFound,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreTooOld,
    UnknownEvent,
)
from shipworthy.testing.contracts.store.workers import ALICE, answer, begun, opening, seqs


async def use(path: Path, runs: int = 1) -> None:
    """Open a store, begin a few runs and close it."""
    store = SqliteStore(path, busy_timeout=0.05)
    try:
        await store.open()
        for i in range(runs):
            await begun(store, ALICE, f"r{i}")
    finally:
        await store.close()


def made(path: Path, runs: int = 1) -> Path:
    asyncio.run(use(path, runs))
    return path


def edit(path: Path, sql: str) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as other:
        other.execute(sql).fetchall()


def everything(folder: Path) -> dict[str, str]:
    """The files below *folder* with digests of what they hold."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def text(path: Path) -> None:
    path.write_text("Dear diary, this is not a database. " * 40)


def short_text(path: Path) -> None:
    path.write_bytes(b"x")


def foreign(path: Path) -> None:
    edit(path, "PRAGMA application_id = 7; CREATE TABLE t (x)")


def nameless(path: Path) -> None:
    edit(path, "CREATE TABLE t (x); INSERT INTO t VALUES (1)")


def nameless_with_a_wal(path: Path) -> None:
    edit(path, "PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES (1)")


def newer(path: Path) -> None:
    edit(made(path), f"PRAGMA user_version = {USER_VERSION + 1}")


@pytest.mark.parametrize("write", [text, short_text, foreign, nameless, nameless_with_a_wal, newer])
def test_a_file_that_is_not_ours_is_refused_and_not_changed(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    write(path)
    before = everything(tmp_path)
    with pytest.raises(StoreForeign):
        asyncio.run(use(path))
    assert everything(tmp_path) == before


def test_an_empty_file_is_made_ours(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch()
    made(path)
    assert b"SHPW"[::-1] in path.read_bytes()[:100] or b"SHPW" in path.read_bytes()[:100]


def test_a_folder_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreForeign, match="is a folder"):
        asyncio.run(use(tmp_path))
    with pytest.raises(StoreReadOnly, match=r"there is no folder .*nowhere.*Create the folder first"):
        asyncio.run(use(tmp_path / "nowhere" / "runs.db"))
    assert everything(tmp_path) == {}


def test_odd_names_are_only_names(tmp_path: Path) -> None:
    for name in ("with space.db", "q?mode=ro#x%41.db", "file:x.db", "ünï.db"):
        made(tmp_path / name)
        assert (tmp_path / name).is_file()


def test_a_file_held_by_another_program_is_locked(tmp_path: Path) -> None:
    path = made(tmp_path / "runs.db")
    with contextlib.closing(apsw.Connection(str(path))) as other:
        other.execute("PRAGMA locking_mode = exclusive; BEGIN EXCLUSIVE").fetchall()
        with pytest.raises(StoreLocked, match=r"busy_timeout"):
            asyncio.run(use(path))
        other.execute("ROLLBACK")


def test_a_writer_that_is_kept_waiting_loses_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "runs.db", busy_timeout=0.05)
        await store.open()
        fence = await begun(store, ALICE, "r")
        with contextlib.closing(apsw.Connection(str(tmp_path / "runs.db"))) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreLocked):
                await store.commit(fence, answer(3))
            assert await seqs(store, ALICE, "r") == [1, 2]
            other.execute("ROLLBACK")
        await store.commit(fence, answer(3))
        await store.close()

    asyncio.run(scenario())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "runs.db", runs=400)
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(os.urandom(8 * 4096))
    with pytest.raises(StoreCorrupt):
        asyncio.run(use(path))


def test_a_large_damaged_file_is_refused_by_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "runs.db", runs=400)
    monkeypatch.setattr(connection, "CHECKED_WHOLE", 0)
    made(tmp_path / "other.db")
    with contextlib.closing(apsw.Connection(str(path))) as other:
        page = other.execute("SELECT max(pageno) FROM dbstat WHERE name = 'runs'").fetchall()[0][0]
    assert isinstance(page, int)
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    with pytest.raises(StoreCorrupt):
        asyncio.run(use(path))


def test_a_journal_with_a_gap_or_an_unknown_kind_is_not_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        for run_id in ("gap", "new", "bad"):
            fence = await begun(store, ALICE, run_id)
            await store.commit(fence, answer(3))
            await store.commit(fence, answer(4))
        with contextlib.closing(apsw.Connection(str(tmp_path / "runs.db"))) as other:
            run = "(SELECT key FROM runs WHERE run_id = '{}')"
            other.execute(f"DELETE FROM journal WHERE run = {run.format('gap')} AND first = 3")
            for run_id, events in (("new", '[{"kind":"teleported","seq":3}]'), ("bad", "[{")):
                where = f"run = {run.format(run_id)} AND first = 3"
                other.execute(f"UPDATE journal SET events = CAST(? AS BLOB) WHERE {where}", (events,))
        for run_id, error in (("gap", JournalDamaged), ("new", UnknownEvent), ("bad", JournalDamaged)):
            with pytest.raises(error):
                await store.read(ALICE, run_id)
        await store.close()

    asyncio.run(scenario())


AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
import importlib.resources
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.errors import StoreReadOnly
async def main():
    try:
        await SqliteStore(Path(sys.argv[1])).open()
    except StoreReadOnly as error:
        print("refused:", error)
asyncio.run(asyncio.to_thread(int))
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(main())
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_and_a_folder_that_may_not_be_written(exists: bool) -> None:
    # Root may write everything, so the store is opened by a process that gave its rights up.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if exists:
            made(folder / "runs.db").chmod(0o444)
        folder.chmod(0o555)
        before = everything(folder)
        command = [sys.executable, "-c", AS_NOBODY, str(folder / "runs.db")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
        )
        assert done.stdout.startswith("refused:"), done
        assert everything(folder) == before
        folder.chmod(0o755)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of one megabyte, where this may be mounted."""
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounting.returncode != 0:
        pytest.skip("A REAL FULL DISK IS NOT TESTED HERE: this user may not mount a tmpfs.")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(
    sys.platform != "linux", reason="A REAL FULL DISK IS NOT TESTED HERE: it needs Linux's tmpfs."
)
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    async def scenario(disk: Path) -> None:
        (disk / "filler").write_bytes(bytes(600_000))
        store = SqliteStore(disk / "runs.db")
        await store.open()
        fence = await begun(store, ALICE, "r")
        seq = 3
        with pytest.raises(StoreFull, match="Free space"):  # noqa: PT012
            while True:
                batch = answer(seq)
                batch.bodies[hashlib.sha256(bytes([seq])).hexdigest()] = os.urandom(20_000)
                await store.commit(fence, batch)
                seq += 1
        assert await seqs(store, ALICE, "r") == list(range(1, seq))
        (disk / "filler").unlink()
        await store.commit(fence, answer(seq))
        await store.close()
        again = SqliteStore(disk / "runs.db")
        await again.open()
        assert await seqs(again, ALICE, "r") == list(range(1, seq + 1))
        await again.close()

    with small_disk(tmp_path / "disk") as disk:
        asyncio.run(scenario(disk))


def test_an_old_sqlite_is_refused() -> None:
    for version in ("3.40.1", "3.51.2"):
        with pytest.raises(StoreTooOld):
            gate(version)
    for version in ("3.51.3", "3.54.1", "4.0.0"):
        gate(version)


def test_settings_are_refused_when_the_store_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        SqliteStore(tmp_path / "runs.db", durability="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        SqliteStore(tmp_path / "runs.db", lease_ttl=0)


def test_a_store_is_used_between_open_and_close_only_and_may_be_opened_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "runs.db")
        with pytest.raises(StoreClosed, match=r"await store\.open\(\)"):
            await store.find(ALICE, "r")
        await store.open()
        await store.close()
        await store.close()
        with pytest.raises(StoreClosed):
            await store.find(ALICE, "r")
        await store.open()
        with pytest.raises(RunNotFound):
            await store.find(ALICE, "r")
        await store.close()

    asyncio.run(scenario())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["runs.db"]


def test_what_cannot_be_stored_is_refused_alone(tmp_path: Path) -> None:
    """A surrogate in an id, or a body beyond SQLite's limit, fails its own batch and no other of the group."""

    async def scenario() -> None:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        fences = [await begun(store, ALICE, f"r{i}") for i in range(8)]
        assert store._writer is not None
        assert store._writer._connection is not None
        store._writer._connection.limit(apsw.SQLITE_LIMIT_LENGTH, 100_000)
        batches = [answer(3) for _ in fences]
        batches[2].bodies["0" * 64] = bytes(200_000)
        told = await asyncio.gather(
            *[store.commit(fence, batch) for fence, batch in zip(fences, batches, strict=True)],
            store.begin(Scope("\ud800"), "r", opening(ALICE, "r")),
            return_exceptions=True,
        )
        for i, outcome in enumerate(told):
            assert isinstance(outcome, StoreError) if i in (2, 8) else outcome == (), (i, outcome)
        assert await seqs(store, ALICE, "r2") == [1, 2]
        await store.commit(fences[2], answer(3))
        await store.close()

    asyncio.run(scenario())
