"""A disk that loses what was not synced: an apsw VFS for tests of durability.

    vfs = PowerLossVfs("lossy")
    store = SqliteStore(path, vfs="lossy")
    ...
    vfs.lose_power(into=folder)     # what the disk would hold now, as files in *folder*; this process goes on
    vfs.lose_power()                # or: the files themselves become that, and every later access fails; then SIGKILL

What it promises is what storage that honours sync promises, and no more: what was written to a file before a
successful sync of it is kept; of what was written since, nothing, or with *torn*, any part. A write whose
sync failed is gone for good, also when a later sync succeeds, though it can still be read. Names of files are
kept at once and removed at once (SQLite syncs a WAL's folder itself); the shared-memory file is not kept. It
is for one process, in which every store on the file must use it.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import apsw

if TYPE_CHECKING:
    from typing_extensions import Buffer

Operation = Literal["write", "truncate", "sync"]
Filename: TypeAlias = "str | apsw.URIFilename | None"
_KEPT = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
_SECTOR = 512


class _Platter:
    """What of one file is on the disk, and what was written since it was last synced (an int is a truncation)."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.pending: list[tuple[int, bytes] | int] = []

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.data, change)
        self.pending.clear()

    def survivor(self, torn: random.Random | None) -> bytes:
        """What the disk holds after the loss."""
        image = bytearray(self.data)
        if torn is not None:
            reached = [change for change in self.pending if torn.random() < 0.5]
            for change in reached:
                if not isinstance(change, int) and torn.random() < 0.25:
                    change = (change[0], change[1][: torn.randrange(0, len(change[1]) + 1, _SECTOR)])
                _apply(image, change)
        return bytes(image)


def _apply(image: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del image[change:]
        image.extend(bytes(change - len(image)))
        return
    offset, data = change
    image.extend(bytes(max(offset - len(image), 0)))
    image[offset : offset + len(data)] = data


class PowerLossVfs(apsw.VFS):
    """A VFS by the name of *name*. With honest=False a sync is acknowledged and does nothing: the mutant.

    before: called with each operation and the file's path, on the thread that makes it; what it raises (see
    `apsw.exception_for`) is that operation's failure.
    """

    def __init__(self, name: str, *, honest: bool = True) -> None:
        self.honest = honest
        self.before: Callable[[Operation, str], None] | None = None
        self.lock = threading.RLock()
        self._platters: dict[str, _Platter] = {}
        self._off = False
        super().__init__(name, "")

    def lose_power(
        self, into: str | os.PathLike[str] | None = None, *, torn: random.Random | None = None
    ) -> None:
        """Write what survives into the folder *into*, or over the files themselves, which nobody can use any more."""
        with self.lock:
            self._off = self._off or into is None
            for path, platter in self._platters.items():
                target = path if into is None else os.path.join(into, os.path.basename(path))
                with open(target, "wb") as file:
                    file.write(platter.survivor(torn))

    def xOpen(self, name: Filename, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not flags[0] & _KEPT:
            return apsw.VFSFile("", name, flags)
        with self.lock:
            if path not in self._platters:
                try:
                    with open(path, "rb") as file:
                        self._platters[path] = _Platter(file.read())
                except FileNotFoundError:
                    self._platters[path] = _Platter(b"")
            return _File(self, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self.lock:
            super().xDelete(filename, syncdir)
            self._platters.pop(filename, None)

    def perform(self, operation: Operation, path: str, change: tuple[int, bytes] | int | None) -> None:
        """Record an operation, or fail it. The caller holds `lock`."""
        if self._off:
            raise apsw.exception_for(apsw.SQLITE_IOERR)
        platter = self._platters[path]
        try:
            if self.before is not None:
                self.before(operation, path)
        except BaseException:
            if operation == "sync":
                platter.pending.clear()
            raise
        if change is not None:
            platter.pending.append(change)
        elif self.honest:
            platter.sync()


class _File(apsw.VFSFile):
    """An open file. Writes go through to the real one, so that every connection of this process sees them."""

    def __init__(self, vfs: PowerLossVfs, path: str, name: Filename, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._path = path

    def xWrite(self, data: Buffer, offset: int) -> None:
        with self._vfs.lock:
            self._vfs.perform("write", self._path, (offset, bytes(data)))
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        with self._vfs.lock:
            self._vfs.perform("truncate", self._path, newsize)
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        with self._vfs.lock:
            self._vfs.perform("sync", self._path, None)
