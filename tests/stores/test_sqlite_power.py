"""What SQLite acknowledged survives the loss of power, and errors of the disk lose nothing that was acknowledged.

The proof cuts the power before operations on the files of a busy store and opens what is left. The same proof catches
a store that does not sync its commits, and a disk that only says that it did.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from shipworthy.adapters.sqlite import SqliteStore, writer
from shipworthy.adapters.sqlite.connection import Durability
from shipworthy.adapters.sqlite.power import PowerLossVfs
from shipworthy.domain.journal import Fence
from shipworthy.errors import CommitUncertain, StoreError, StoreFull
from shipworthy.testing.contracts.store.workers import ALICE, answer, begun, ending, seqs

RUNS, COMMITS, CUTS = 6, 10, 60
_number = itertools.count()


def new_vfs(*, honest: bool = True) -> tuple[PowerLossVfs, str]:
    name = f"lossy-{next(_number)}"
    return PowerLossVfs(name, honest=honest), name


class Cuts:
    """Cuts the power before a part of the operations, and remembers what had been acknowledged by then."""

    def __init__(self, vfs: PowerLossVfs, folder: Path, torn: random.Random | None) -> None:
        self.vfs, self.folder, self.torn = vfs, folder, torn
        self.acknowledged: dict[str, int] = {}
        self.made: list[tuple[Path, dict[str, int]]] = []
        self.operations: dict[str, int] = {}

    def __call__(self, operation: str, path: str) -> None:
        kind = f"{operation} {'wal' if path.endswith('-wal') else 'file'}"
        self.operations[kind] = self.operations.get(kind, 0) + 1
        self.cut()

    def cut(self) -> None:
        known = dict(self.acknowledged)
        image = self.folder / str(len(self.made))
        image.mkdir()
        self.vfs.lose_power(image, torn=self.torn)
        self.made.append((image, known))


async def drive(store: SqliteStore, run_id: str, acknowledged: dict[str, int]) -> None:
    fence = await begun(store, ALICE, run_id)
    acknowledged[run_id] = 2
    for seq in range(3, 3 + COMMITS):
        await store.commit(fence, answer(seq))
        acknowledged[run_id] = seq
    await store.commit(fence, ending(3 + COMMITS))
    acknowledged[run_id] = 3 + COMMITS


async def lost(image: Path, acknowledged: dict[str, int]) -> list[str]:
    """The runs of which the surviving file has less than was acknowledged, or that it cannot give at all."""
    store = SqliteStore(image / "runs.db", durability="process")
    missing = []
    try:
        await store.open()
        for run_id, events in acknowledged.items():
            try:
                if len(await seqs(store, ALICE, run_id)) < events:
                    missing.append(run_id)
            except Exception:
                missing.append(run_id)
    finally:
        await store.close()
    return missing


def prove(
    folder: Path, *, durability: Durability = "power", honest: bool = True, torn: int | None = None
) -> int:
    """How many of the cuts lost something that had been acknowledged."""
    vfs, name = new_vfs(honest=honest)
    images = folder / "images"
    images.mkdir()
    cuts = Cuts(vfs, images, None if torn is None else random.Random(torn))

    async def scenario() -> None:
        store = SqliteStore(folder / "runs.db", durability=durability, vfs=name)
        await store.open()
        vfs.before = cuts
        await asyncio.gather(*[drive(store, f"r{i}", cuts.acknowledged) for i in range(RUNS)])
        cuts.cut()
        await store.close()
        cuts.cut()

    async def judge() -> int:
        sample = cuts.made[-2:] + random.Random(7).sample(cuts.made, min(CUTS, len(cuts.made)))
        return sum([bool(await lost(image, known)) for image, known in sample])

    asyncio.run(scenario())
    assert {"write wal", "write file", "sync file"} <= set(cuts.operations), (
        "no checkpoint was among the points"
    )
    assert len(cuts.made) > CUTS
    return asyncio.run(judge())


@pytest.fixture
def checkpoints_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 24)


@pytest.mark.usefixtures("checkpoints_often")
@pytest.mark.parametrize("torn", [None, 1, 2], ids=["all lost", "torn 1", "torn 2"])
def test_what_was_acknowledged_survives_the_loss_of_power(tmp_path: Path, torn: int | None) -> None:
    assert prove(tmp_path, torn=torn) == 0


@pytest.mark.usefixtures("checkpoints_often")
def test_the_proof_catches_a_store_that_does_not_sync_its_commits(tmp_path: Path) -> None:
    assert prove(tmp_path, durability="process") > 0


@pytest.mark.usefixtures("checkpoints_often")
def test_the_proof_catches_a_sync_that_does_nothing(tmp_path: Path) -> None:
    assert prove(tmp_path, honest=False) > 0


class Faults:
    """Fails what it is told to, and keeps a record of what was done to the files."""

    def __init__(self) -> None:
        self.fails: Callable[[str, str], bool] = lambda operation, path: False
        self.code = apsw.SQLITE_IOERR_FSYNC
        self.record: list[tuple[str, str]] = []

    def __call__(self, operation: str, path: str) -> None:
        suffix = "wal" if path.endswith("-wal") else "file"
        if self.fails(operation, suffix):
            raise apsw.exception_for(self.code)
        self.record.append((operation, suffix))


async def faulty(folder: Path) -> tuple[SqliteStore, PowerLossVfs, Faults]:
    vfs, name = new_vfs()
    faults = Faults()
    store = SqliteStore(folder / "runs.db", vfs=name)
    await store.open()
    vfs.before = faults
    return store, vfs, faults


def test_a_failed_sync_leaves_the_whole_group_uncertain_and_the_store_recovers(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, vfs, faults = await faulty(tmp_path)
        fences = [await begun(store, ALICE, f"r{i}") for i in range(8)]
        faults.fails = lambda operation, path: operation == "sync"
        told = await asyncio.gather(*[store.commit(f, answer(3)) for f in fences], return_exceptions=True)
        assert {type(error) for error in told} == {CommitUncertain}
        faults.fails = lambda operation, path: False
        faults.record.clear()
        claims = [await store.claim(ALICE, f"r{i}") for i in range(8)]
        first_wal_write = faults.record.index(("write", "wal"))
        before_it = faults.record[:first_wal_write]
        assert ("sync", "file") in before_it, "the file was not checkpointed before the next commit"
        assert ("truncate", "wal") in before_it, "the next commit follows frames whose sync failed"
        for i, claim in enumerate(claims):
            head = len(await seqs(store, ALICE, f"r{i}"))
            assert head in (2, 3)
            await store.commit(claim.fence, answer(head + 1))
        vfs.before = None
        image = tmp_path / "image"
        image.mkdir()
        vfs.lose_power(image)
        assert await lost(image, {f"r{i}": len(await seqs(store, ALICE, f"r{i}")) for i in range(8)}) == []
        await store.close()

    asyncio.run(scenario())


def test_while_the_disk_fails_nothing_is_accepted_and_nothing_is_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, _, faults = await faulty(tmp_path)
        fence = await begun(store, ALICE, "r")
        faults.fails = lambda operation, path: operation == "sync"
        for attempt in range(3):
            with pytest.raises(StoreError) as told:
                await store.commit(fence, answer(3))
            assert (type(told.value) is CommitUncertain) == (attempt == 0)
            with pytest.raises(StoreError):
                await store.read(ALICE, "r")
        faults.fails = lambda operation, path: False
        head = len(await seqs(store, ALICE, "r"))
        await store.commit(fence, answer(head + 1))
        await store.close()

    asyncio.run(scenario())


def test_a_failed_sync_concerns_every_store_of_the_process_on_that_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, _, faults = await faulty(tmp_path)
        two = SqliteStore(tmp_path / "runs.db", vfs=one._database.vfs)
        await two.open()
        mine, theirs = await begun(one, ALICE, "r"), await begun(two, ALICE, "s")
        faults.fails = lambda operation, path: operation == "sync"
        with pytest.raises(CommitUncertain):
            await one.commit(mine, answer(3))
        faults.fails = lambda operation, path: False
        faults.record.clear()
        await two.commit(theirs, answer(3))
        assert ("sync", "file") in faults.record[: faults.record.index(("write", "wal"))]
        await two.close()
        await one.close()

    asyncio.run(scenario())


def test_a_full_disk_writes_nothing_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, _, faults = await faulty(tmp_path)
        fences = [await begun(store, ALICE, f"r{i}") for i in range(4)]
        faults.code = apsw.SQLITE_FULL
        faults.fails = lambda operation, path: operation == "write"
        told = await asyncio.gather(*[store.commit(f, answer(3)) for f in fences], return_exceptions=True)
        assert {type(error) for error in told} == {StoreFull}
        assert await seqs(store, ALICE, "r0") == [1, 2]
        faults.fails = lambda operation, path: False
        for fence in fences:
            await store.commit(fence, answer(3))
        await store.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("checkpoints_often")
def test_a_checkpoint_that_fails_to_sync_is_made_again_before_the_next_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, _, faults = await faulty(tmp_path)
        fence: Fence = await begun(store, ALICE, "r")
        faults.fails = lambda operation, path: (operation, path) == ("sync", "file")
        seq = 3
        while not (store._writer and store._writer.suspect):
            await store.commit(fence, answer(seq))
            seq += 1
            assert seq < 200, "no checkpoint was made"
            await asyncio.sleep(0.001)
        with pytest.raises(StoreError):
            await store.commit(fence, answer(seq))
        faults.fails = lambda operation, path: False
        await store.commit(fence, answer(seq))
        assert await seqs(store, ALICE, "r") == list(range(1, seq + 1))
        await store.close()

    asyncio.run(scenario())
