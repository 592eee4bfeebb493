"""The seal's file: two slots, written in turn, so that one is whole whatever happens while the other is written."""

from __future__ import annotations

import os

from shipworthy.adapters.shared.filelock import sync_folder, write_at
from shipworthy.domain.audit import Standing
from shipworthy.rules.audit.chain import SLOT, Seal, seals_of, slot_of

_BLANK = b" " * (SLOT - 1) + b"\n"


class SealFile:
    """Says how far a log goes. Whoever writes holds the log's lock."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._id = (0, 0)
        self._slot = 0

    def read(self) -> list[tuple[int, Seal]]:
        """The seals that can be read, with their slots, the highest count first. [] where there is no file."""
        self.close()
        try:
            self._has(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return []
        data = os.pread(self._fd, 2 * SLOT, 0)
        found = [(at, seal) for at in (0, 1) for seal in seals_of(data[at * SLOT : (at + 1) * SLOT])]
        return sorted(found, key=lambda each: -each[1].count)

    @property
    def is_there(self) -> bool:
        """Whether the file that was read is still the one of this name."""
        try:
            at = os.stat(self.path)
        except FileNotFoundError:
            return False
        return self._fd >= 0 and (at.st_dev, at.st_ino) == self._id

    def holds(self, slot: int) -> None:
        """This slot is the one that must not be lost: the other one is written next."""
        self._slot = 1 - slot

    def create(self, standing: Standing, seal: bytes) -> None:
        """The first seal, durable."""
        self.close()
        beside = self.path + ".new"
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_at(fd, slot_of(standing, seal) + _BLANK, 0)
            os.fsync(fd)
            os.rename(beside, self.path)
        except BaseException:
            os.close(fd)
            raise
        self._has(fd)
        sync_folder(self.path)
        self.holds(0)

    def write(self, standing: Standing, seal: bytes) -> None:
        """Seal what is durable. Not synced: a seal that is behind does no harm."""
        write_at(self._fd, slot_of(standing, seal), self._slot * SLOT)
        self.holds(self._slot)

    def sync(self) -> None:
        """Make durable what was written, from any thread."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _has(self, fd: int) -> None:
        at = os.fstat(fd)
        self._fd, self._id = fd, (at.st_dev, at.st_ino)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
