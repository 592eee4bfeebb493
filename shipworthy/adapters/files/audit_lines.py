"""Reading the files of an audit log: its parts, and their lines, from any place on and from the end backwards."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import msgspec

from shipworthy.domain.audit import Entry
from shipworthy.rules.audit import form

_BLOCK = 1 << 16
_LARGE = 1 << 20

Identity = tuple[int, int]
"""A file's device and inode."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """One file of a log, open for reading."""

    path: str
    fd: int
    size: int
    id: Identity


def numbers(path: str) -> list[int]:
    """The numbers of the older parts, the oldest first."""
    folder, name = os.path.split(os.path.abspath(path))
    form = re.compile(re.escape(name) + r"\.(\d{6,})\Z")
    return sorted([int(found[1]) for each in os.listdir(folder) if (found := form.match(each))])


def older(path: str, number: int) -> str:
    """The path of an older part."""
    return f"{path}.{number:06d}"


@contextlib.contextmanager
def parts(path: str) -> Iterator[list[Part]]:
    """The files of a log as they are at one moment, the oldest first. Raises OSError."""
    while True:
        before = numbers(path)
        found: list[Part] = []
        try:
            for each in [*(older(path, number) for number in before), path]:
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
                    at = os.fstat(fd)
                    found.append(Part(each, fd, at.st_size, (at.st_dev, at.st_ino)))
            if numbers(path) == before:
                yield found
                return
        finally:
            for part in found:
                os.close(part.fd)


def onwards(fd: int, at: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines from *at* on, where one begins: each one's place, and it without its newline."""
    rest, size = b"", _BLOCK
    while block := os.pread(fd, size, at + len(rest)):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield at, line
            at += len(line) + 1
        size = min(2 * size, _LARGE) if lines else 2 * size


def backwards(fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines up to *end*, the last one first: each one's place, and it with its newline, if it has one."""
    kept, at, size = b"", end, _BLOCK
    while at > 0:
        start = max(at - size, 0)
        kept = os.pread(fd, at - start, start) + kept
        at, size = start, 2 * size
        while (cut := kept.rfind(b"\n", 0, len(kept) - 1)) >= 0:
            yield at + cut + 1, kept[cut + 1 :]
            kept = kept[: cut + 1]
            size = _BLOCK
    if kept:
        yield 0, kept


def first_entry(fd: int, at: int) -> tuple[int, Entry] | None:
    """The first entry that begins at *at* or later, and its place."""
    if at > 0:
        line = next(onwards(fd, at - 1), None)
        if line is None:
            return None
        at += len(line[1])
    for place, text in onwards(fd, at):
        if form.is_entry(text) and (entry := form.entry_of(text)) is not None:
            return place, entry
    return None


class Reader:
    """Entry lines from a number on. It remembers where it was, so that going on costs no search."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: tuple[int, Identity, int] | None = None

    def lines(self, after: int) -> Iterator[bytes]:
        """The lines of the entries from number *after* on."""
        with parts(self._path) as files:
            index, at = self._place(files, after)
            for part in files[index:]:
                for place, line in onwards(part.fd, at):
                    if form.is_entry(line):
                        after += 1
                        self._mark = (after, part.id, place + len(line) + 1)
                        yield line
                at = 0

    def _place(self, files: list[Part], after: int) -> tuple[int, int]:
        mark = self._mark  # of several threads
        if mark is not None and mark[0] == after:
            for index, part in enumerate(files):
                if part.id == mark[1]:
                    return index, mark[2]
        chosen = 0
        for index, part in enumerate(files):
            found = first_entry(part.fd, 0)
            if found is not None and found[1].seq <= after:
                chosen = index
        return chosen, _bisected(files[chosen], after) if files and after else 0


def _bisected(part: Part, seq: int) -> int:
    """Where the first entry of at least this number begins."""
    low, high = 0, part.size
    while low < high:
        middle = (low + high) // 2
        found = first_entry(part.fd, middle)
        if found is None or found[1].seq >= seq:
            high = middle
        else:
            low = found[0] + 1
    found = first_entry(part.fd, low)
    return part.size if found is None else found[0]
