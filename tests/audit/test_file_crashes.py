"""Every point at which a writer of a file may die leaves a log that verifies, and goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipworthy import FileAuditLog
from shipworthy.adapters.files.audit_lane import Appender, Place
from shipworthy.adapters.shared.lane import Job
from shipworthy.errors import AuditDamaged, AuditError
from shipworthy.rules.audit.keys import Secret
from tests.audit.file_logs import SECRET, draft, said, verified
from tests.audit.file_mutants import broken

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def appender(path: Path, rotate: int = 0) -> Appender:
    """What appends, on this thread."""
    place = Place(str(path), (Secret(SECRET),), None, path.name, rotate, False)
    return Appender(place, lambda: "", lambda more: None)


def enter(path: Path, *what: str, rotate: int = 0) -> None:
    """Open the log, enter these one by one, and let go. Raises AuditError."""
    lane = appender(path, rotate)
    try:
        for each in what:
            lane.do(lambda at, each=each: at.enter([draft(each, b'"a body"')]))
        lane.do(lambda at: None)
    finally:
        lane.end()


def put(path: Path, data: bytes) -> None:
    """Make it this, and not by way of an empty file: of those, file systems see to it that they are written at once."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def points(path: Path) -> Iterator[tuple[int, bool]]:
    """Each state that a crash in the last append may leave, and whether that append is whole."""
    seal = path.with_name(path.name + ".seal")
    before, sealed = path.read_bytes(), seal.read_bytes()
    enter(path, "last")
    after = path.read_bytes()
    first, last = len(before), len(after)
    sizes = range(first, last + 1)
    for size in sizes if LONG else sorted({first, first + 1, *sizes[::3], last - 1, last}):
        put(path, after[:size])
        put(seal, sealed)
        yield size, size == len(after)


def crashed(path: Path) -> str:
    """What is wrong after a crash at any byte of the last append; "" for nothing."""
    enter(path, "first", "second")
    for size, whole in points(path):
        if (verdict := verified(path).verdict) != "ok":
            return f"cut at {size} it is called {verdict}"
        try:
            enter(path, "next")
        except AuditError as error:
            return f"cut at {size} it does not go on: {error}"
        if said(path) != ["first", "second", *(["last"] if whole else []), "next"]:
            return f"cut at {size} it says {said(path)}"
        if (verdict := verified(path).verdict) != "ok":
            return f"cut at {size} and mended it is called {verdict}"
    return ""


def test_an_append_that_was_cut_at_any_byte_is_no_tampering_and_is_cut_off(path: Path) -> None:
    assert crashed(path) == ""


def test_a_torn_end_that_is_called_tampering_is_found_out(path: Path) -> None:
    with broken("stern"):
        assert "does not go on" in crashed(path)


def test_what_is_behind_the_seal_and_is_no_torn_end_is_damage(path: Path) -> None:
    enter(path, "first")
    seal = path.with_name(path.name + ".seal")
    sealed = seal.read_bytes()
    enter(path, "second", "third")
    seal.write_bytes(sealed)
    edited = path.read_bytes().replace(b'"second"', b'"zecond"')
    path.write_bytes(edited)
    with pytest.raises(AuditDamaged, match="edited"):
        enter(path, "next")
    assert path.read_bytes() == edited


def test_a_log_whose_beginning_was_cut_at_any_byte_begins_again(path: Path) -> None:
    enter(path)
    seal = path.with_name(path.name + ".seal")
    begun = path.read_bytes()
    for size in [*range(0, len(begun), 23), len(begun) - 1, len(begun)]:
        put(path, begun[:size])
        seal.unlink(missing_ok=True)
        assert verified(path).verdict == "ok"  # it may have no seal yet
        enter(path, "next")
        assert (verified(path).verdict, said(path)) == ("ok", ["next"])


def test_a_file_that_was_cut_off_and_not_begun_anew_is_no_harm(path: Path) -> None:
    enter(path, *"abcdefgh")
    path.rename(path.with_name(path.name + ".000001"))
    assert verified(path).verdict == "ok"
    enter(path, "next")
    assert (verified(path).verdict, "".join(said(path))) == ("ok", "abcdefghnext")
    path.rename(path.with_name(path.name + ".000002"))
    path.touch()
    enter(path, *"ij")
    assert (verified(path).verdict, "".join(said(path))) == ("ok", "abcdefghnextij")


def test_a_whole_append_that_was_not_sealed_is_kept_and_sealed(path: Path) -> None:
    with broken("no_seal"):
        enter(path, "first", "second")
    assert verified(path).verdict == "ok"
    enter(path)
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-3]) + b"\n")
    assert verified(path).verdict == "truncated"
    with pytest.raises(AuditDamaged, match="truncated"):
        enter(path, "next")


def test_two_who_append_in_turns_and_cut_the_file_make_one_chain(path: Path) -> None:
    lanes = [appender(path, 4096), appender(path, 4096)]
    for number in range(60):
        jobs = [Job[None](lambda at, n=number, k=k: at.enter([draft(f"{n}.{k}", b'"b"')])) for k in range(3)]
        lanes[number * number % 7 % 2]._perform(jobs)
        assert [job.error for job in jobs] == [None] * 3
    for lane in lanes:
        lane.end()
    assert len(list(path.parent.glob("audit.jsonl.0*"))) >= 5
    assert verified(path).verdict == "ok"
    assert said(path) == [f"{n}.{k}" for n in range(60) for k in range(3)]


def test_a_log_is_copied_with_its_torn_end_and_goes_on_under_the_public_class(
    path: Path, tmp_path: Path
) -> None:
    async def go_on(at: Path) -> None:
        log = FileAuditLog(at, secret=SECRET)
        await log.open()
        await log.append([draft("next")])
        await log.close()

    enter(path, "first")
    other = tmp_path / "copy"
    other.mkdir()
    for file in path.parent.glob("audit*"):
        shutil.copy(file, other)
    with (other / "audit.jsonl").open("ab") as file:
        file.write(b'{"action":"te')
    asyncio.run(go_on(other / "audit.jsonl"))
    assert (verified(other / "audit.jsonl").verdict, said(other / "audit.jsonl")) == ("ok", ["first", "next"])
