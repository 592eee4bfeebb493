"""Workers and their leases: who may drive a run, and how it is known that a worker is gone.

A worker holds an operating-system lock for as long as its process lives, so that a dead one is seen at once.
The lease, on the boot-time clock, is for one that was stopped. Where the kernel has no boot id, a reboot is
seen by the lock alone; where it has no boot-time clock, the monotonic one is used, which stands still while
the machine sleeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
import weakref
from typing import Literal

import apsw

from shipworthy.adapters.sqlite.connection import rows
from shipworthy.errors import StoreError

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

Standing = Literal["alive", "expired", "dead"]


def now() -> int:
    """Milliseconds since the machine started, the time it slept included."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def boot_id() -> str:
    """Which boot of the machine this is; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Lock:
    """An exclusive `flock` on `<folder>/<name>`, held until `release` or the end of the process."""

    def __init__(self, folder: str, name: str) -> None:
        self._path = os.path.join(folder, name)
        self._fd: int | None = None
        os.makedirs(folder, exist_ok=True)
        while self._fd is None:
            self._fd = _create_locked(self._path)
        _held.add(self)

    def release(self) -> None:
        """Remove the file, then let go: whoever opened it before finds a file that has no name any more."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self.drop()

    def drop(self) -> None:
        """Let go and leave the file, as the end of the process would."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _held.discard(self)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_in_child() -> None:
    # A lock belongs to every process that inherited its descriptor: a child would keep its dead parent alive.
    for lock in list(_held):
        lock.drop()


os.register_at_fork(after_in_child=_forget_in_child)


def _create_locked(path: str) -> int | None:
    """A locked descriptor, or None if the file was swept away between its creation and its locking."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink > 0:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def holder_lives(folder: str, name: str) -> bool | None:
    """Whether a process holds this lock. Only a lock that could be had proves that nobody does: None for a file that is
    gone, whoever removed it.

    The question is a shared lock, so that two who ask at once do not take each other for the holder.
    """
    path = os.path.join(folder, name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class Worker:
    """This store's identity among the owners of runs. `ttl` and `skew` in milliseconds."""

    def __init__(self, path: str, ttl: int, skew: int) -> None:
        self.id = secrets.token_hex(8)
        self.ttl = ttl
        self.skew = skew
        self.start_by = 0
        """The last expiry that was written durably."""
        self._boot = boot_id()
        self._folder = f"{path}-workers"
        try:
            self.lock = Lock(self._folder, self.id)
        except OSError as error:
            raise StoreError(
                f"No lock can be held in {self._folder} ({error}).", fix="Use a local disk."
            ) from error

    def register(self, cursor: apsw.Cursor) -> int:
        """Write the lease anew; gives its expiry. What dead workers left is swept: their rows now, their files when a
        later worker comes, since this transaction may yet fail."""
        known = [other for (other,) in rows(cursor, "SELECT id FROM workers")]
        self._sweep(known)
        for other in known:
            if other != self.id and self.standing(cursor, other) == "dead":
                self.bury(cursor, other)
        return self.renew(cursor)

    def _sweep(self, known: list[str]) -> None:
        """Remove the lock files of workers that are in no row and that nobody holds."""
        for name in set(os.listdir(self._folder)) - {*known, self.id}:
            if holder_lives(self._folder, name) is False:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._folder, name))

    def renew(self, cursor: apsw.Cursor) -> int:
        """Write the lease anew; gives its expiry."""
        until = now() + self.ttl
        cursor.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (self.id, self._boot, until))
        return until

    def resign(self, cursor: apsw.Cursor) -> None:
        """Release the runs that this worker drives, and its lease."""
        cursor.execute("UPDATE runs SET worker = NULL WHERE worker = ? AND status = 'running'", (self.id,))
        self.bury(cursor, self.id)

    def bury(self, cursor: apsw.Cursor, worker: str) -> None:
        """Forget a worker; its runs are seen as those of a dead one."""
        cursor.execute("DELETE FROM workers WHERE id = ?", (worker,))

    def standing(self, cursor: apsw.Cursor, worker: str) -> Standing:
        """What is known of *worker*."""
        found = rows(cursor, "SELECT boot, lease_until FROM workers WHERE id = ?", (worker,))
        if not found or found[0][0] != self._boot or holder_lives(self._folder, worker) is False:
            return "dead"
        return "expired" if now() > found[0][1] + self.skew else "alive"
