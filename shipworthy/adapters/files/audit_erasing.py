"""Writing over bodies of an audit log in files, in an order in which every state that a crash may leave verifies: first
the line's last byte, which says that the rest counts no more, then the rest, and its beginning last."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from shipworthy.adapters.files.audit_lines import Part, numbers, older, onwards
from shipworthy.adapters.shared.filelock import write_at
from shipworthy.domain.audit import Entry
from shipworthy.rules.audit import form

_BATCH = 256
_BLANK = b" " * (1 << 20)
_PAGE = 512
"""Bytes that are written whole or not at all, from a multiple of it on."""


class _Doomed(msgspec.Struct, frozen=True, gc=False):
    """A body's line that is to go: its place and length, and how it begins when it is gone."""

    at: int
    length: int
    begins: bytes
    is_marked: bool


def erased(part: Part, match: Callable[[Entry], bool], count: int) -> int:
    """Write over what matches in one file, durably; entries from *count* on may be cut off yet, and are left. How many
    bodies that were there. Raises OSError: doing it again completes it."""
    done, writing = 0, -1
    try:
        doomed = _doomed(part, match, count)
        while batch := list(islice(doomed, _BATCH)):
            writing = _writable(part) if writing < 0 else writing
            for step in (_mark, _blank, _begin):
                for each in batch:
                    step(writing, each)
                os.fsync(writing)
            done += sum([not each.is_marked for each in batch])
    finally:
        if writing >= 0:
            os.close(writing)
    return done


def _doomed(part: Part, match: Callable[[Entry], bool], count: int) -> Iterator[_Doomed]:
    seq = -1
    for at, line in onwards(part.fd, 0):
        if form.is_entry(line):
            entry = form.entry_of(line)
            if entry is not None and entry.seq >= count:
                return
            seq = entry.seq if entry is not None and match(entry) else -1
        elif seq >= 0:
            over = form.erased_line(seq, len(line))
            begins = over.rstrip(b" ")
            if at // _PAGE != (at + len(begins) - 1) // _PAGE:  # torn, it would be no body's line any more
                begins = form.BODY
                over = begins.ljust(len(line))
            if line != over:
                yield _Doomed(at, len(line), begins, form.is_erased(line))


def _mark(fd: int, doomed: _Doomed) -> None:
    write_at(fd, b" ", doomed.at + doomed.length - 1)


def _blank(fd: int, doomed: _Doomed) -> None:
    """All but the beginning, from the end on: the salt goes first."""
    start, end = doomed.at + len(form.BODY), doomed.at + doomed.length
    while end > start:
        size = min(end - start, len(_BLANK))
        end -= size
        write_at(fd, _BLANK[:size], end)


def _begin(fd: int, doomed: _Doomed) -> None:
    write_at(fd, doomed.begins, doomed.at)


def _writable(part: Part) -> int:
    """The file of a part, though it may have been renamed meanwhile. Raises OSError."""
    path = part.path
    for place in (path, *[older(path, number) for number in numbers(path)[::-1]]):
        fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
        at = os.fstat(fd)
        if (at.st_dev, at.st_ino) == part.id:
            return fd
        os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "it was removed", path)
