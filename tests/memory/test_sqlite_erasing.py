"""Erasing a memory on SQLite leaves no byte in the file, its WAL and its index: whatever was done before, who else has
the file open, and wherever the process dies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

import shipworthy.adapters.sqlite.memory as memory
import shipworthy.adapters.sqlite.memory_erasing as erasing
import shipworthy.adapters.sqlite.memory_records as records
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.adapters.sqlite.memory_schema import MEMORY, PARTITIONS, records_of
from shipworthy.adapters.sqlite.power import PowerLossVfs
from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import ErasureIncomplete
from shipworthy.testing.contracts.store.workers import ALICE, begun

ROOT = Path(__file__).parents[2]
TENANT = "acme"


def canary(number: int) -> str:
    """What is in all that is a user's, the name too, and nowhere else."""
    return f"canary{number:03}x"


def remembered(user: int, number: int, dice: random.Random) -> Record:
    """A record of any size, with the user's canary in each of its columns."""
    mark = canary(user)

    def filled(most: int) -> bytes:
        return f"{mark}{dice.randrange(10**6)} ".encode() * dice.randrange(1, most)

    text = filled(dice.choice([2, 30, 400]))
    return Record(
        id=f"{mark}{number}", kind="episode", data=text, terms=filled(9), vector=filled(90), at=number
    )


def small(user: int, number: int) -> Record:
    """One that fits beside others on a page."""
    return Record(id=f"small{number}", kind="episode", data=canary(user).encode() * 9, at=number)


def raw(path: Path) -> bytes:
    """All that is in the files. Another process reads them: this one would drop its locks on them."""
    files = [str(file) for file in path.parent.glob(f"{path.name}*") if file.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


async def torn(path: Path, seed: int, steps: int = 250) -> list[int]:
    """Write, replace, remove and erase at random; the users of whom a byte was left after an erasure."""
    dice = random.Random(seed)
    store = SqliteMemoryStore(path, durability="process")
    runs = SqliteStore(path, durability="process")
    await store.open()
    await runs.open()
    left: list[int] = []
    for step in range(steps):
        user = dice.randrange(16)
        scope = Scope(TENANT, canary(user), dice.choice([None, canary(user)]))
        some = [remembered(user, dice.randrange(60), dice) for _ in range(dice.choice([1, 5, 20]))]
        chance = dice.random()
        if chance < 0.7:
            await store.put(scope, some, replace=dice.random() < 0.5)
        elif chance < 0.93:
            await store.remove(scope, [record.id for record in some])
            await begun(runs, ALICE, f"r{step}")  # the runtime takes pages that a memory gave back
        else:
            await store.erase(Scope(TENANT, canary(user)))
            if canary(user).encode() in raw(path):
                left.append(user)
    await store.close()
    await runs.close()
    return left


def one_shelf(patch: pytest.MonkeyPatch) -> None:
    """All users on one table, so that their records share pages."""
    patch.setattr(records, "SHELVES", 1)
    patch.setattr(erasing, "SHELVES", 1)


def no_secure_delete(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "MEMORY", msgspec.structs.replace(MEMORY, overwrites=False))


def not_made_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(erasing, "make_again", lambda cursor, table: None)


def wal_not_cut(patch: pytest.MonkeyPatch) -> None:
    def passive(connection: apsw.Connection) -> None:
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)

    patch.setattr(erasing, "cut", passive)


def test_no_byte_is_left_whatever_was_done_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        assert asyncio.run(torn(tmp_path / f"{seed}.db", seed)) == []
    one_shelf(monkeypatch)
    for seed in range(2, 4):
        assert asyncio.run(torn(tmp_path / f"{seed}.db", seed)) == []


@pytest.mark.parametrize("break_it", [no_secure_delete, not_made_again, wal_not_cut])
def test_bytes_are_left_without_any_one_of_its_parts(
    break_it: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_shelf(monkeypatch)
    break_it(monkeypatch)
    assert any(asyncio.run(torn(tmp_path / f"{seed}.db", seed)) for seed in range(2, 6))


# several processes

BESIDE = """
import asyncio, random, sys
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.memory import NOWHERE, Record
from shipworthy.domain.scope import Scope
async def main():
    store = SqliteMemoryStore(sys.argv[1], durability="process")
    await store.open()
    scope, number = Scope("acme", "beside"), 0
    print("open", flush=True)
    while True:
        number += 1
        record = Record(id=f"r{number % 50}", kind="episode", data=b"beside" * 200, at=number)
        await store.put(scope, [record], replace=True)
        await store.changes(scope, NOWHERE)
        await asyncio.sleep(0.002)
asyncio.run(main())
"""
ERASE = """
import asyncio, sys
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.scope import Scope
async def main():
    store = SqliteMemoryStore(sys.argv[1])
    await store.open()
    print("open", flush=True)
    sys.stdin.readline()
    await store.erase(Scope("acme", sys.argv[2]))
asyncio.run(main())
"""


@contextlib.contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child
    finally:
        child.kill()
        child.communicate()


async def filled(store: SqliteMemoryStore, users: int, each: int = 12) -> None:
    dice = random.Random(7)
    await store.open()
    for number in range(each):  # in turn, so that the users' pages lie among each other
        for user in range(users):
            await store.put(Scope(TENANT, canary(user)), [remembered(user, number, dice)])


def test_no_byte_is_left_while_another_process_uses_the_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "memory.db"
        store = SqliteMemoryStore(path, durability="process")
        await filled(store, 12)
        with process(BESIDE, str(path)) as child:
            for user in range(12):
                assert (await store.erase(Scope(TENANT, canary(user)))).records == 12
                assert canary(user).encode() not in raw(path)
            assert child.poll() is None
        assert await store.within(Scope(TENANT)) == [Scope(TENANT, "beside")]
        await store.close()

    asyncio.run(scenario())


def test_a_reader_that_prevents_it_is_told_of_and_erasing_again_completes(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, mark = tmp_path / "memory.db", canary(0).encode()
        store = SqliteMemoryStore(path, busy_timeout=0.1)
        await filled(store, 2)
        with contextlib.closing(apsw.Connection(str(path))) as other:
            other.execute("BEGIN; SELECT * FROM memory_partitions").fetchall()
            with pytest.raises(ErasureIncomplete, match=r"12 records are gone.*End long transactions"):
                await store.erase(Scope(TENANT, canary(0)))
            assert await store.page(Scope(TENANT, canary(0))) == []
            with pytest.raises(ErasureIncomplete):
                await store.erase(Scope(TENANT, canary(0)))
            assert mark in raw(path)
            other.execute("COMMIT")
        assert (await store.erase(Scope(TENANT, canary(0)))).records == 0
        assert mark not in raw(path)
        assert canary(1).encode() in raw(path)
        await store.close()

    asyncio.run(scenario())


def test_what_was_removed_or_replaced_before_is_erased_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, scope = tmp_path / "memory.db", Scope(TENANT, canary(0))
        store = SqliteMemoryStore(path)
        await filled(store, 3)
        await store.remove(scope, [record.id for record in await store.page(scope)])
        assert (await store.erase(scope)).records == 0
        assert canary(0).encode() not in raw(path)
        await store.close()

    asyncio.run(scenario())


# death at any point


async def check(path: Path, others: dict[str, list[Record]]) -> bool:
    """Hold what a death left to the law: all is there or nothing; erasing again leaves no byte. Gives whether it was
    there."""
    store = SqliteMemoryStore(path, durability="process")
    await store.open()
    found = await store.page(Scope(TENANT, canary(0)))
    assert len(found) in (0, 12), "half erased"
    await store.erase(Scope(TENANT, canary(0)))
    assert await store.page(Scope(TENANT, canary(0))) == []
    assert canary(0).encode() not in raw(path), "a byte is left"
    for user, theirs in others.items():
        assert await store.page(Scope(TENANT, user)) == theirs
    await store.close()
    return bool(found)


def at_every_operation(folder: Path, seed: int) -> tuple[list[Path], dict[str, list[Record]]]:
    """What of a file is there at some points while it is erased: after a death, and after a loss of power."""
    path, disk, dice = folder / "memory.db", f"erasing{seed}", random.Random(seed)
    vfs = PowerLossVfs(disk)
    images: list[Path] = []

    def image(operation: str, _: str) -> None:
        into = folder / f"{operation}-{len(images)}"
        into.mkdir()
        if len(images) % 2:
            vfs.lose_power(into, torn=dice)
        else:
            for file in (path, Path(f"{path}-wal")):
                shutil.copy(file, into)
        images.append(into / path.name)

    async def scenario() -> dict[str, list[Record]]:
        with pytest.MonkeyPatch.context() as patch:
            no_secure_delete(patch)
            store = SqliteMemoryStore(path, vfs=disk)
        await filled(store, 3)
        scope, old = Scope(TENANT, canary(0)), [small(0, number) for number in range(3)]
        await store.put(scope, old)
        await store.remove(scope, [record.id for record in old])  # copies are left in the gaps of a page
        await store.close()
        store = SqliteMemoryStore(path, vfs=disk)
        await store.open()
        others = {canary(user): await store.page(Scope(TENANT, canary(user))) for user in (1, 2)}
        vfs.before = image
        await store.erase(Scope(TENANT, canary(0)))
        vfs.before = None
        await store.close()
        return others

    others = asyncio.run(scenario())
    assert len(images) > 10
    return images, others


def sound(image: Path, others: dict[str, list[Record]]) -> bool:
    """Whether what was left keeps the law."""
    try:
        asyncio.run(check(image, others))
    except AssertionError:
        return False
    return True


def some(images: list[Path]) -> list[Path]:
    """Every third: whole deaths and losses of power by turns."""
    return images[::3]


def test_a_death_at_any_point_leaves_all_or_what_erasing_again_completes(tmp_path: Path) -> None:
    images, others = at_every_operation(tmp_path, 1)
    was_there = [asyncio.run(check(image, others)) for image in some(images)]
    assert any(was_there)
    assert not all(was_there)


def test_an_erasure_that_notes_too_late_what_is_to_be_done_loses_it_in_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: the tables to be made again are noted in a transaction after the one that removes."""
    forget, to_be_made_again = erasing.forget, erasing.to_be_made_again

    def forgetful(cursor: apsw.Cursor, scope: Scope) -> int:
        count = forget(cursor, scope)
        cursor.execute("DELETE FROM memory_unclean")
        return count

    def late(cursor: apsw.Cursor, scope: Scope) -> list[str]:
        records.unclean(cursor, PARTITIONS)
        records.unclean(cursor, records_of(0))
        return to_be_made_again(cursor, scope)

    one_shelf(monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasing, "forget", forgetful)
        patch.setattr(erasing, "to_be_made_again", late)
        images, others = at_every_operation(tmp_path, 2)
    assert not all(sound(image, others) for image in some(images))


def test_a_process_that_is_killed_while_it_erases_leaves_what_erasing_again_completes(tmp_path: Path) -> None:
    async def others() -> dict[str, list[Record]]:
        store = SqliteMemoryStore(path, durability="process")
        await filled(store, 3)
        found = {canary(user): await store.page(Scope(TENANT, canary(user))) for user in (1, 2)}
        await store.close()
        return found

    for number, wait in enumerate((0.0, 0.003, 0.01, 0.03)):
        path = tmp_path / f"{number}.db"
        theirs = asyncio.run(others())
        with process(ERASE, str(path), canary(0)) as child:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(wait)
        asyncio.run(check(path, theirs))


def test_a_full_disk_is_told_of_and_erasing_again_completes(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, vfs = tmp_path / "memory.db", PowerLossVfs("full")
        store = SqliteMemoryStore(path, vfs="full")
        await filled(store, 2)
        done: list[str] = []

        def full(operation: str, _: str) -> None:
            done.append(operation)
            if "sync" in done and operation == "write":  # the removal itself was committed
                raise apsw.exception_for(apsw.SQLITE_FULL)

        vfs.before = full
        with pytest.raises(ErasureIncomplete, match="erase again"):
            await store.erase(Scope(TENANT, canary(0)))
        vfs.before = None
        await store.erase(Scope(TENANT, canary(0)))
        assert canary(0).encode() not in raw(path)
        assert len(await store.page(Scope(TENANT, canary(1)))) == 12
        await store.close()

    asyncio.run(scenario())


def test_only_the_tables_of_the_erased_are_made_again(tmp_path: Path) -> None:
    """A user's erasure takes the time of one shelf, whatever the others hold."""

    async def scenario() -> None:
        path = tmp_path / "memory.db"
        store = SqliteMemoryStore(path)
        await filled(store, 40, each=1)
        for user in range(40):
            scope = Scope(TENANT, canary(user))
            await store.remove(scope, [record.id for record in await store.page(scope)])
        await store.erase(Scope(TENANT, canary(0)))
        with contextlib.closing(apsw.Connection(str(path))) as other:
            left = {name for (name,) in other.execute("SELECT name FROM memory_unclean")}
        shelf = records_of(records.shelf_of(*records.whose(Scope(TENANT, canary(0)))[:2]))
        assert len(left) > 8
        assert not left & {shelf, PARTITIONS}
        await store.close()

    asyncio.run(scenario())
