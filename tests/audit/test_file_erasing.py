"""A body that is written over, and every state in which a crash may leave it: the log verifies, and so do others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import shipworthy_verify
from shipworthy import FileAuditLog
from shipworthy.adapters.files import audit_erasing
from shipworthy.adapters.files.audit_lines import onwards, parts
from shipworthy.adapters.shared import filelock
from tests.audit.file_logs import SECRET, draft, verified

SECTOR = 512


class Power(BaseException):
    """It went off."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of which one body's line begins so near a sector's end that `{"erased":N}` would cross it."""

    async def entered(*padding: int) -> None:
        log = FileAuditLog(at, secret=SECRET)
        await log.open()
        for length in padding:
            await log.append([draft("x" * length, b'"%b"' % (b"a secret  of  eve  " * 60))])
        await log.close()

    at = tmp_path / "first.jsonl"
    asyncio.run(entered(0))
    body = at.read_bytes().index(b'\n{"body":') + 1
    at = tmp_path / "audit.jsonl"
    asyncio.run(entered((SECTOR - 4 - body) % SECTOR, 0, 700))
    return at


def torn(start: int, size: int) -> Iterator[slice]:
    """Which parts of a write a crash may leave: sectors, from either end."""
    cuts = [
        at - start for at in range(start - start % SECTOR, start + size, SECTOR) if start < at < start + size
    ]
    yield slice(0, 0)
    for cut in cuts:
        yield from (slice(0, cut), slice(cut, size))


def erase(path: Path) -> int:
    with parts(str(path)) as files:
        return sum([audit_erasing.erased(part, lambda entry: entry.seq > 0, 99) for part in files])


def judge(path: Path) -> None:
    """Both verifiers agree that nothing is wrong."""
    mine = verified(path)
    other = shipworthy_verify.verify_file(path, secrets=[SECRET.encode()])
    assert (mine.verdict, other.verdict) == ("ok", "ok")
    assert (mine.bodies.fit + mine.bodies.erased, mine.bodies.edited, mine.bodies.missing) == (3, 0, 0)
    assert {name: getattr(mine.bodies, name) for name in other.bodies} == other.bodies


def every_crash(path: Path, patch: pytest.MonkeyPatch) -> None:
    def failing(fd: int, data: bytes, at: int) -> None:
        writes.append((at, len(data)))
        number, kept = crash[0]
        if len(writes) <= number:
            plain(fd, data, at)
            return
        plain(fd, data[kept], at + kept.indices(len(data))[0])
        raise Power

    plain = filelock.write_at
    patch.setattr(audit_erasing, "write_at", failing)
    before = path.with_name("before")
    shutil.copy(path, before)
    writes: list[tuple[int, int]] = []
    never = (1000, slice(0))
    crash: list[tuple[int, slice]] = [never]
    assert erase(path) == 3
    for number, write in enumerate(list(writes)):
        for kept in torn(*write):
            crash[0] = (number, kept)
            shutil.copy(before, path)
            writes.clear()
            with pytest.raises(Power):
                erase(path)
            judge(path)
    crash[0] = never
    erase(path)
    assert b"secret" not in path.read_bytes()
    assert (verified(path).bodies.erased, erase(path)) == (3, 0)
    judge(path)


def test_an_erasure_that_dies_anywhere_leaves_a_log_that_verifies(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_crash(path, monkeypatch)
    with path.open("rb") as file:
        lines = [line for _, line in onwards(file.fileno(), 0) if b'"log":' not in line]
    assert [line.rstrip() for line in lines] == [b'{"body":', b'{"erased":2}', b'{"erased":3}']


def no_mark(patch: pytest.MonkeyPatch) -> None:
    """Nothing says at first that the rest counts no more."""
    patch.setattr(audit_erasing, "_mark", lambda fd, doomed: None)


def at_once(patch: pytest.MonkeyPatch) -> None:
    """The beginning is not left for the end."""

    def all_of_it(fd: int, doomed: Any) -> None:
        audit_erasing._begin(fd, msgspec.structs.replace(doomed, begins=doomed.begins.ljust(doomed.length)))

    patch.setattr(audit_erasing, "_mark", all_of_it)


@pytest.mark.parametrize("mutant", [no_mark, at_once])
def test_an_erasure_in_another_order_is_found_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        every_crash(path, monkeypatch)


def test_a_body_that_was_cut_off_at_a_space_is_not_taken_for_an_erased_one(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"  of") + 1])
    other = shipworthy_verify.verify_file(path, secrets=[SECRET.encode()])
    assert (verified(path).bodies.erased, other.bodies["erased"]) == (0, 0)
