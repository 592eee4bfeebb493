"""An anchor in a file: on another machine's disk, in another user's folder, or one that can only be appended to.

The file has the checkpoints' lines as they came, of any names and logs. A line that is none (torn by a crash) is passed
over. Nothing is ever cut off or written over, so that the file may be append-only (`chattr +a`).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shipworthy.adapters.shared.checkpoints import LONGEST, checked, goes_back, head_in, rewrites
from shipworthy.domain.audit import TreeHead
from shipworthy.errors import AnchorError, ConfigurationError

_CHUNK = 1 << 20
_PAUSE = 0.005
_FIX = "Give this process write access to the file, room on its disk, and the folder it is to be in (it is not made)."


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """The newest checkpoint of a log."""

    entries: int
    root: str
    line: bytes


class FileAnchor:
    """Checkpoints in a file that is out of reach for whoever gets hold of the log. Several processes may share it.

    *timeout*: seconds for which another process's lock is waited for. Its folder is not made: a disk that is not
    mounted would else be taken for an empty one.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 5.0) -> None:
        if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
            raise ConfigurationError(
                f"{path!r} is not the path of a file.", fix='Pass a path such as "/mnt/anchor/app".'
            )
        self._path = Path(os.path.abspath(path))
        self._timeout = timeout
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._read = 0
        self._file = (0, 0)
        self._torn = False
        self._unsure = False
        """A line may be in the file and not on the disk."""
        self._in_folder = False

    @property
    def where(self) -> str:
        """Its path."""
        return f"The anchor {self._path}"

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        """Keep this checkpoint: synced to the disk when it returns."""
        head = checked(self.where, name, log, entries, line)
        with self._lock, self._opened(os.O_RDWR | os.O_APPEND | os.O_CREAT) as file, self._alone(file):
            self._follow(file)
            there = self._there(file, head)
            if there is not None and there != head.root:
                raise rewrites(self.where, head)
            if there is None or self._unsure:
                self._append(file, line)
            self._sync(file)
            self._follow(file)

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log under this name, the checkpoint of the most entries."""
        with self._lock:
            try:
                with self._opened(os.O_RDONLY) as file:
                    self._follow(file)
            except FileNotFoundError:
                self._refuse_what_is_gone()
            return [kept.line for (of, _), kept in self._kept.items() if of == name]

    def last(self, name: str, log: str) -> bytes | None:
        """The newest checkpoint of this log under this name."""
        self.newest(name)
        kept = self._kept.get((name, log))
        return None if kept is None else kept.line

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint under this name, as they came."""
        last: dict[str, int] = {}
        try:
            with self._opened(os.O_RDONLY) as file:
                for line, _ in self._lines(file, 0):
                    head = head_in(line)
                    if head is not None and head.name == name and last.get(head.log, 0) < head.entries:
                        last[head.log] = head.entries
                        yield line
        except FileNotFoundError:
            self._refuse_what_is_gone()

    def close(self) -> None:
        """The file is open only while it is used."""

    # the file

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        """The file, with the errors of the system as ours. Raises FileNotFoundError for one that is only to be read."""
        file = -1
        try:
            file = os.open(self._path, flags | os.O_CLOEXEC, 0o644)
            yield file
        except FileNotFoundError as error:
            if not flags & os.O_CREAT:
                raise
            raise AnchorError(f"{self.where} cannot be made: {error.strerror}.", fix=_FIX) from None
        except OSError as error:
            raise AnchorError(f"{self.where} failed: {error.strerror or error}.", fix=_FIX) from error
        finally:
            if file >= 0:
                os.close(file)

    @contextmanager
    def _alone(self, file: int) -> Iterator[None]:
        """The only one who writes to it; the lock goes with the file's descriptor."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise AnchorError(
                        f"{self.where} is locked by another process.",
                        fix="Look who holds it (`fuser`), or raise timeout=; the checkpoint is sent again.",
                    ) from None
                time.sleep(_PAUSE)
        yield

    def _follow(self, file: int) -> None:
        """Take in what came since the last look. Raises AnchorError for a file that has less than it had."""
        found = os.fstat(file)
        identity = (found.st_dev, found.st_ino)
        if self._read and (identity != self._file or found.st_size < self._read):
            raise AnchorError(
                f"{self.where} was replaced or cut: it had {self._read} bytes.",
                fix="Put the old file back and look who could do that; a new anchor is another path.",
            )
        self._file = identity
        for line, end in self._lines(file, self._read):
            self._read = end
            head = head_in(line)
            if head is None:
                continue
            key = (head.name, head.log)
            if key not in self._kept or self._kept[key].entries < head.entries:
                self._kept[key] = _Kept(head.entries, head.root, line)
        self._torn = os.fstat(file).st_size > self._read

    def _lines(self, file: int, start: int) -> Iterator[tuple[bytes, int]]:
        """The whole lines from *start* on, and where each ends. What is longer than any checkpoint comes in pieces."""
        rest, at = b"", start
        while chunk := os.pread(file, _CHUNK, at + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                at += len(line) + 1
                yield line, at
            if len(rest) > LONGEST:
                at += len(rest)
                rest = b""

    def _there(self, file: int, head: TreeHead) -> str | None:
        """The root that is kept of as many entries. Raises AnchorRefused where more are kept, and not these."""
        kept = self._kept.get((head.name, head.log))
        if kept is None or kept.entries < head.entries:
            return None
        if kept.entries == head.entries:
            return kept.root
        for line, _ in self._lines(file, 0):
            found = head_in(line)
            same = (head.name, head.log, head.entries)
            if found is not None and (found.name, found.log, found.entries) == same:
                return found.root
        raise goes_back(self.where, head, kept.entries)

    def _append(self, file: int, line: bytes) -> None:
        data = (b"\n" if self._torn else b"") + line + b"\n"
        self._unsure = True
        while data:
            data = data[os.write(file, data) :]

    def _sync(self, file: int) -> None:
        """The file, and that it is in its folder: whoever made it may have died before that."""
        os.fsync(file)
        self._unsure = False
        if self._in_folder:
            return
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._in_folder = True

    def _refuse_what_is_gone(self) -> None:
        if self._read:
            raise AnchorError(
                f"{self.where} is gone: it had {self._read} bytes.",
                fix="Put the old file back and look who could do that; a new anchor is another path.",
            )
