"""Files that several processes share: a lock, which the kernel drops when its holder dies, and writing whole."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from types import TracebackType

from shipworthy.adapters.shared.lane import forks

_FIRST, _LONGEST = 0.000_1, 0.003
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class LockBusy(OSError):
    """Somebody else kept it for longer than this one waits."""


class FileLock:
    """An `flock` on a file that is there for nothing else. One thread at a time may hold it through one of these."""

    def __init__(self, path: str, patience: float = 10.0) -> None:
        self.path, self.patience = path, patience
        self._fd = -1
        self._id = (0, 0)
        self._forks = forks()

    def __enter__(self) -> None:
        """Raises OSError; LockBusy after *patience* seconds."""
        if self._forks != forks():  # else it would be held together with the process that this one comes from
            self.close()
            self._forks = forks()
        while True:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                at = os.fstat(self._fd)
                self._id = (at.st_dev, at.st_ino)
            try:
                self._take()
            except OSError as error:
                self.close()
                if error.errno in _NO_LOCKS:
                    raise OSError(error.errno, f"{self.path}: this file system has no locks") from error
                raise
            if self._is_there():
                return
            self.close()  # it was removed: others lock another file of this name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take(self) -> None:
        pause, until = _FIRST, 0.0
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                now = time.monotonic()
                until = until or now + self.patience
                if now >= until:
                    raise LockBusy(f"{self.path}: another process has it for {self.patience} s") from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    def _is_there(self) -> bool:
        try:
            at = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (at.st_dev, at.st_ino) == self._id


def write_at(fd: int, data: bytes, at: int) -> None:
    """Write all of it there. Raises OSError; some of it may be there then."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written


def sync_folder(path: str) -> None:
    """Make durable which names are in the folder of *path*."""
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
