"""What is special about an anchor in a file: crashes, locks, disks, and files that somebody took away."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shipworthy.adapters.anchors import file as anchors
from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.errors import AnchorError, AnchorRefused, ConfigurationError
from shipworthy.testing.contracts.anchors import Log


def test_the_file_is_the_lines_as_they_were_signed(tmp_path: Path) -> None:
    log = Log("app")
    lines = [log.put(FileAnchor(tmp_path / "a"), entries) for entries in (64, 128)]

    assert (tmp_path / "a").read_bytes() == b"".join(line + b"\n" for line in lines)


@pytest.mark.parametrize("kept", [1, 100, -2, -1])
def test_a_line_that_a_crash_tore_is_passed_over(tmp_path: Path, kept: int) -> None:
    """However much of it was written: the anchor goes on behind it, and cuts nothing off."""
    log, path = Log("app"), tmp_path / "a"
    first = log.put(FileAnchor(path), 64)
    torn = log.at(128) + b"\n"
    with path.open("ab") as file:
        file.write(torn[:kept])
    before = path.read_bytes()

    assert list(FileAnchor(path).all("app")) == [first]
    assert list(FileAnchor(path).newest("app")) == [first]
    last = log.put(FileAnchor(path), 192)

    assert path.read_bytes().startswith(before)
    whole = [log.at(128)] if kept == -1 else []
    assert list(FileAnchor(path).all("app")) == [first, *whole, last]


class GoesOnInTheLine(FileAnchor):
    """A mutant: it does not look how the file ends."""

    def _append(self, file: int, line: bytes) -> None:
        self._torn = False
        super()._append(file, line)


def test_an_anchor_that_goes_on_in_a_torn_line_loses_what_it_took(tmp_path: Path) -> None:
    log, path = Log("app"), tmp_path / "a"
    path.write_bytes(log.at(128)[:100])
    log.put(GoesOnInTheLine(path), 192)
    assert list(FileAnchor(path).all("app")) == []


def test_junk_in_the_file_hides_nothing(tmp_path: Path) -> None:
    log, path = Log("app"), tmp_path / "a"
    first = log.put(FileAnchor(path), 64)
    with path.open("ab") as file:
        file.write(
            b"\n\n{}\n"
            + b"\xff" * 3_000_000
            + b"\n"
            + log.at(10)
            + b"\n"
            + log.other(history="x").at(64)
            + b"\n"
        )
    anchor = FileAnchor(path)

    last = log.put(anchor, 128)

    assert list(anchor.all("app")) == [first, last]
    with pytest.raises(AnchorRefused):
        log.other(history="x").put(anchor, 64)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("harm", [_cut, _replace, Path.unlink], ids=["cut", "replaced", "gone"])
def test_a_file_that_lost_what_it_had_is_told(tmp_path: Path, harm: Any) -> None:
    log, path = Log("app"), tmp_path / "a"
    anchor = FileAnchor(path)
    log.put(anchor, 64)
    harm(path)

    for asks in (lambda: log.put(anchor, 128), lambda: anchor.newest("app")):
        with pytest.raises(AnchorError, match=r"cut|gone") as raised:
            asks()
        assert "Put the old file back" in raised.value.fix


def test_the_lock_of_another_process_is_waited_for_and_then_told(tmp_path: Path) -> None:
    log, path = Log("app"), tmp_path / "a"
    log.put(FileAnchor(path), 64)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AnchorError, match="locked by another process"):
            log.put(FileAnchor(path, timeout=0.02), 128)
        assert FileAnchor(path).newest("app") == [log.at(64)]

    log.put(FileAnchor(path, timeout=0.02), 128)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A disk that is not mounted must not be taken for an empty one."""
    anchor = FileAnchor(tmp_path / "mnt" / "a")

    assert anchor.newest("app") == []
    assert list(anchor.all("app")) == []
    with pytest.raises(AnchorError, match="cannot be made") as raised:
        Log("app").put(anchor, 64)
    assert "the folder" in raised.value.fix
    assert not (tmp_path / "mnt").exists()


@pytest.mark.parametrize("call", ["write", "fsync", "flock"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ENOLCK])
def test_what_the_system_refuses_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Nothing is taken for kept that a failed sync may have left in memory only: it is written once more."""
    log, path = Log("app"), tmp_path / "a"
    anchor = FileAnchor(path)
    first = log.put(anchor, 64)
    module = fcntl if call == "flock" else os

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(module, call, fails)
        with pytest.raises(AnchorError, match=os.strerror(number)) as raised:
            log.put(anchor, 128)
        assert raised.value.fix
    size = path.stat().st_size

    second = log.put(anchor, 128)

    assert path.stat().st_size == size + len(second) + 1
    assert list(anchor.all("app")) == list(FileAnchor(path).all("app")) == [first, second]


def test_each_checkpoint_is_synced_and_so_is_the_folder_of_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is there already: whoever wrote it may have died before its sync."""
    synced: list[str] = []

    def sync(file: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")

    monkeypatch.setattr(anchors.os, "fsync", sync)
    log, anchor = Log("app"), FileAnchor(tmp_path / "a")
    for entries in (64, 64, 128):
        log.put(anchor, entries)
    assert synced == ["file", "folder", "file", "file"]
    log.put(FileAnchor(tmp_path / "a"), 128)
    assert synced[4:] == ["file", "folder"]


@pytest.mark.parametrize("path", ["", None, 7, "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="not the path of a file"):
        FileAnchor(path)
