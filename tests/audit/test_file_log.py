"""What an audit log in files makes of bad input, full disks and other writers: a clear error, and nothing appended."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shipworthy_verify
from shipworthy import FileAnchor, FileAuditLog
from shipworthy.adapters.files import audit_lane
from shipworthy.adapters.shared import filelock, lane
from shipworthy.app.commands.opening_audit import OfFile
from shipworthy.domain.audit import Entry
from shipworthy.errors import (
    AuditClosed,
    AuditDamaged,
    AuditError,
    AuditKeyWrong,
    AuditUnavailable,
    ConfigurationError,
    ShipworthyError,
)
from shipworthy.rules.audit.chain import Seal, seals_of
from shipworthy.rules.audit.form import encode
from tests.audit.file_logs import OTHER, SECRET, draft, entries, said, verified
from tests.audit.file_mutants import broken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log" / "audit.jsonl"


def beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def files(folder: Path) -> dict[str, bytes]:
    """All that there is, but for locks."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}


async def entered(path: Path, *what: str, secret: Any = SECRET, **options: Any) -> None:
    """Open the log, enter these, and close it."""
    log = FileAuditLog(path, secret=secret, **options)
    await log.open()
    try:
        for each in what:
            await log.append([draft(each, b'"a body"')])
    finally:
        await log.close()


# what was done to the files while nobody had them open


def cut(path: Path) -> None:
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-3]) + b"\n")


def edit_last(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"what":"last"', b'"what":"lost"'))


def edit_first(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"log.begun"', b'"log.bogus"'))


def unseal(path: Path) -> None:
    beside(path, "seal").unlink()


def smear_seal(path: Path) -> None:
    beside(path, "seal").write_bytes(
        beside(path, "seal").read_bytes().replace(b'"seal":"', b'"seal":"00')[:1024]
    )


def seal_far_ahead(path: Path) -> None:
    seal = seals_of(beside(path, "seal").read_bytes())[0]
    text = encode(Seal(1 << 62, seal.log, seal.mac, seal.seal))
    beside(path, "seal").write_bytes((text.ljust(511) + b"\n") * 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove_all_but_checkpoints(path: Path) -> None:
    path.unlink()
    beside(path, "seal").unlink()


def remove_all(path: Path) -> None:
    remove_all_but_checkpoints(path)
    beside(path, "checkpoints").unlink()


def swap(path: Path) -> None:
    shutil.copy(path.parent.parent / "other.jsonl", path)


def swap_all(path: Path) -> None:
    for end in ("", ".seal", ".checkpoints"):
        shutil.copy(path.parent.parent / f"other.jsonl{end}", f"{path}{end}")


def roll_back(path: Path) -> None:
    for end in ("", ".seal"):
        shutil.copy(path.parent.parent / f"earlier{end}", f"{path}{end}")


def roll_all_back(path: Path) -> None:
    roll_back(path)
    shutil.copy(path.parent.parent / "earlier.checkpoints", beside(path, "checkpoints"))


def replace(path: Path) -> None:
    path.unlink()  # another file of this name
    roll_all_back(path)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut, "truncated"),
    (edit_last, "edited"),
    (edit_first, "edited"),
    (unseal, "unsealed"),
    (smear_seal, "unsealed"),
    (seal_far_ahead, "unsealed"),
    (Path.unlink, "missing"),
    (empty, "emptied"),
    (remove_all_but_checkpoints, "missing"),
    (remove_all, "missing"),
    (swap, "swapped"),
    (swap_all, "swapped"),
    (roll_back, "rolled_back"),
    (roll_all_back, "rolled_back"),
]


async def damaged(path: Path, damage: Callable[[Path], None]) -> str:
    """What a log with an anchor says at its next opening; and whether it left everything as it was."""
    anchors = [FileAnchor(path.parent.parent / "anchor")]
    await entered(path.parent.parent / "other.jsonl", "other", name="audit.jsonl")
    await entered(path, "first", anchors=anchors)
    for end in ("", ".seal", ".checkpoints"):
        shutil.copy(f"{path}{end}", path.parent.parent / f"earlier{end}")
    await entered(path, "second", "last", anchors=anchors)
    damage(path)
    before = files(path.parent)
    try:
        await entered(path, "next", anchors=anchors)
    except AuditDamaged as error:
        assert files(path.parent) == before
        return str(error)
    return ""


@pytest.mark.parametrize(("damage", "word"), DAMAGE, ids=lambda value: getattr(value, "__name__", value))
def test_a_log_that_is_not_as_it_was_left_is_not_appended_to(
    path: Path, damage: Callable[[Path], None], word: str
) -> None:
    assert f"({word})" in asyncio.run(damaged(path, damage))


def test_a_log_that_trusts_its_tail_is_found_out(path: Path) -> None:
    with broken("trusting"):
        assert "(edited)" not in asyncio.run(damaged(path, edit_last))


def test_a_log_without_seals_is_found_out(path: Path) -> None:
    with broken("no_seal"):
        assert "(truncated)" not in asyncio.run(damaged(path, cut))


@pytest.mark.parametrize(
    ("damage", "word"),
    [(Path.unlink, "missing"), (replace, "swapped"), (cut, "truncated"), (unseal, "unsealed")],
    ids=["unlink", "roll_back", "cut", "unseal"],
)
def test_a_file_that_is_removed_replaced_or_cut_while_it_is_open_takes_nothing_more(
    path: Path, damage: Callable[[Path], None], word: str
) -> None:
    async def scene() -> None:
        await entered(path, "first")
        for end in ("", ".seal", ".checkpoints"):
            shutil.copy(f"{path}{end}", path.parent.parent / f"earlier{end}")
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        await log.append([draft("second", b'"b"')])
        damage(path)
        before = files(path.parent)
        for _ in range(2):
            with pytest.raises(AuditDamaged, match=word):
                await log.append([draft("next")])
        assert {name: data for name, data in files(path.parent).items() if "check" not in name} == {
            name: data for name, data in before.items() if "check" not in name
        }
        await log.close()

    asyncio.run(scene())


# keys and names


def test_two_writers_with_different_keys_are_told_so(path: Path) -> None:
    async def scene() -> None:
        await entered(path, "first")
        with pytest.raises(AuditKeyWrong, match="another key"):
            await entered(path, "second", secret=OTHER)
        first = FileAuditLog(path, secret=SECRET)
        await first.open()
        await first.append([draft("second")])
        await entered(path, "third", secret=[OTHER, SECRET])
        with pytest.raises(AuditKeyWrong, match="another key"):
            await first.append([draft("fourth")])
        await first.close()
        await entered(path, "fifth", secret=OTHER)

    asyncio.run(scene())
    assert said(path) == ["first", "second", "third", "fifth"]
    assert [entry.action for entry in entries(path)].count("log.key_rotated") == 1
    assert verified(path, OTHER, SECRET).verdict == "ok"


def test_a_log_of_another_name_is_not_appended_to(path: Path) -> None:
    asyncio.run(entered(path, "first", name="agent-a"))
    with pytest.raises(AuditDamaged, match="'agent-a', not 'agent-b'"):
        asyncio.run(entered(path, "second", name="agent-b"))


@pytest.mark.parametrize(
    "options",
    [
        {"secret": ""},
        {"secret": "too short"},
        {"secret": "aaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"secret": []},
        {"secret": None},
        {"secret": [SECRET, "short"]},
        {"secret": Path("no such key")},
    ],
    ids=str,
)
def test_a_secret_that_is_none_is_refused_with_the_command_that_makes_one(path: Path, options: Any) -> None:
    with pytest.raises(ConfigurationError, match="shipworthy audit keys new"):
        FileAuditLog(path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"rotate_bytes": 10},
        {"rotate_bytes": True},
        {"durability": "none"},
        {"anchors": ["here"]},
    ],
    ids=str,
)
def test_an_option_that_is_none_is_refused(path: Path, options: Any) -> None:
    with pytest.raises(ConfigurationError):
        FileAuditLog(path, secret=SECRET, **options)
    for wrong in ("", "folder/", "a\0b"):
        with pytest.raises(ConfigurationError, match="path"):
            FileAuditLog(wrong, secret=SECRET)


# disks and locks


async def filled(path: Path) -> str:
    """What is wrong after a disk was full in the middle of an append; "" for nothing."""
    log = FileAuditLog(path, secret=SECRET)
    await log.open()
    await log.append([draft("first")])
    size, (_, hard) = len(files(path.parent)[path.name]), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1500, hard))
    try:
        many = [log.append([draft(f"lost {n}", b'"%s"' % (b"x" * 500))]) for n in range(5)]
        results = await asyncio.gather(*many, return_exceptions=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if not all([type(each) is AuditUnavailable and "resume" in str(each) for each in results]):
        return f"they were told {results}"
    if len(files(path.parent)[path.name]) != size:
        return "what was written in part is there"
    await log.append([draft("second")])
    await log.close()
    return "" if said(path) == ["first", "second"] and verified(path).verdict == "ok" else "it does not go on"


def test_a_disk_that_is_full_in_the_middle_of_an_append_loses_nothing_and_is_written_to_later(
    path: Path,
) -> None:
    assert asyncio.run(filled(path)) == ""


def test_a_part_of_an_append_that_is_left_on_a_full_disk_is_found_out(path: Path) -> None:
    with broken("no_cut"):
        assert "in part" in asyncio.run(filled(path))


def test_after_a_failed_sync_the_file_is_read_back_and_nothing_unacknowledged_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        await log.append([draft("first")])
        monkeypatch.setattr(audit_lane, "_sync", failing)
        with pytest.raises(AuditUnavailable, match="Input/output error"):
            await log.append([draft("lost")])
        await log.append([draft("second")])
        await log.close()

    asyncio.run(scene())
    assert (verified(path).verdict, said(path)) == ("ok", ["first", "second"])


def test_a_file_that_cannot_be_written_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def read_only(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, "Read-only file system", path)
        return plain(path, flags, mode)

    async def refused(at: Path, why: str) -> None:
        with pytest.raises(AuditUnavailable, match=why):
            await entered(at, "first")

    plain = os.open
    asyncio.run(refused(path.parent / "nowhere" / "audit.jsonl", "No such file"))
    (path.parent / "folder.jsonl").mkdir()
    asyncio.run(refused(path.parent / "folder.jsonl", "directory"))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        asyncio.run(refused(path, "has no locks"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        asyncio.run(refused(path, "Read-only"))


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(path: Path) -> None:
    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        assert log._lane is not None
        log._lane._lock.patience = 0.05
        too_long = pytest.raises(AuditUnavailable, match=r"another process has it for 0.05 s")
        with filelock.FileLock(f"{path}.lock"), too_long:
            await log.append([draft("lost")])
        await log.append([draft("first")])
        await log.close()

    asyncio.run(scene())
    assert said(path) == ["first"]


# tasks and processes


def test_an_append_that_is_cancelled_completes_first(path: Path) -> None:
    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        task = asyncio.create_task(log.append([draft("kept")]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert said(path) == ["kept"]
        await log.close()

    asyncio.run(scene())


def test_a_log_that_is_not_open_and_one_of_a_forked_process_say_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(log: FileAuditLog, why: str) -> None:
        with pytest.raises(AuditClosed, match=why):
            await log.append([draft("lost")])

    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await refused(log, "not open")
        await log.open()
        await log.open()
        with monkeypatch.context() as patch:
            patch.setattr(lane, "_forks", lane.forks() + 1)
            await refused(log, "forked")
        await log.append([])
        await log.close()
        await log.close()
        await refused(log, "not open")
        await log.open()
        await log.append([draft("again")])
        await log.close()

    asyncio.run(scene())
    assert said(path) == ["again"]


def test_an_entry_that_cannot_be_written_harms_no_other(path: Path) -> None:
    async def scene() -> list[Any]:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        bad = [draft("half"), draft("bad", tenant="\ud800")]
        worse = [draft("half"), draft("bad", body=b"\xff")]
        groups = [[draft("first")], bad, [draft("second"), draft("third")], worse, [draft("fourth")]]
        results = await asyncio.gather(*map(log.append, groups), return_exceptions=True)
        await log.close()
        return results

    results = asyncio.run(scene())
    assert [type(each) for each in results] == [type(None), AuditError, type(None), AuditError, type(None)]
    assert all([each is None or isinstance(each, ShipworthyError) for each in results])
    assert (verified(path).verdict, said(path)) == ("ok", ["first", "second", "third", "fourth"])


def test_a_clock_that_was_set_back_stops_nothing_and_is_said_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        await log.append([draft("first")])
        past = audit_lane.time.time_ns() - 60 * 10**9
        monkeypatch.setattr(audit_lane.time, "time_ns", lambda: past)
        await log.append([draft("second")])
        await log.append([draft("third")])
        monkeypatch.undo()
        await log.close()

    with caplog.at_level(logging.ERROR, "shipworthy.audit"):
        asyncio.run(scene())
    assert [record.getMessage().count("The clock is behind") for record in caplog.records] == [1]
    assert (verified(path).verdict, said(path)) == ("clock_back", ["first", "second", "third"])


def test_without_syncs_the_laws_of_a_process_that_dies_hold_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(audit_lane, "_sync", synced.append)
    asyncio.run(entered(path, "first", "second", durability="process"))
    assert synced == []
    asyncio.run(entered(path, "third", "fourth"))
    assert len(synced) == 2
    assert (verified(path).verdict, said(path)) == ("ok", ["first", "second", "third", "fourth"])


# erasing


def test_bodies_are_erased_in_older_parts_too_and_everything_verifies(path: Path) -> None:
    def mine(entry: Entry) -> bool:
        return entry.user == "eve"

    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET, rotate_bytes=4096)
        await log.open()
        for n in range(20):
            user = ("eve", "bob")[n % 2]
            await log.append([draft(str(n), b'"a secret of %s"' % user.encode(), user=user)])
        assert await log.erase(mine) == 10
        assert await log.erase(mine) == 0
        await log.append([draft("next", b'"a body"')])
        await log.close()

    asyncio.run(scene())
    everything = b"".join(files(path.parent).values())
    assert len(files(path.parent)) > 4
    assert (everything.count(b"secret of eve"), everything.count(b"secret of bob")) == (0, 10)
    report = verified(path)
    assert report.verdict == "ok"
    assert report.bodies.erased == 10


def test_an_erasure_that_was_interrupted_is_completed_by_doing_it_again(path: Path) -> None:
    asyncio.run(entered(path, "first"))
    path.write_bytes(path.read_bytes().replace(b'{"body":"\\"a body', b'{"erased":1}     '))
    assert b"erased" in path.read_bytes()

    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        assert await log.erase(lambda entry: True) == 1
        await log.close()

    asyncio.run(scene())
    report = verified(path)
    assert (report.verdict, report.bodies.erased) == ("ok", 1)


def test_a_line_that_no_verifier_reads_is_refused_and_nothing_of_it_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_lane, "_LONGEST", 1000)

    async def scene() -> None:
        log = FileAuditLog(path, secret=SECRET)
        await log.open()
        with pytest.raises(AuditError, match="shorter than 1000"):
            await log.append([draft("first"), draft("large", b'"%s"' % (b"x" * 1000))])
        await log.append([draft("second")])
        await log.close()

    asyncio.run(scene())
    assert (verified(path).verdict, said(path)) == ("ok", ["second"])


def test_a_log_by_a_link_is_the_log_itself(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(path)

    async def scene() -> None:
        logs = [FileAuditLog(at, secret=SECRET) for at in (tmp_path / "link.jsonl", path)]
        for log in logs:
            await log.open()
        for n in range(4):
            await logs[n % 2].append([draft(str(n))])
        for log in logs:
            await log.close()

    asyncio.run(scene())
    assert (verified(path).verdict, said(path)) == ("ok", ["0", "1", "2", "3"])
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("link")] == ["link.jsonl"]
    by_link = shipworthy_verify.verify_file(tmp_path / "link.jsonl", secrets=[SECRET.encode()])
    assert (by_link.verdict, len(OfFile(str(tmp_path / "link.jsonl")).seals())) == ("ok", 2)
