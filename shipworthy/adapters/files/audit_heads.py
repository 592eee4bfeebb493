"""A log's own checkpoints, in a file beside it. They are not synced: one that is lost is made again."""

from __future__ import annotations

import os

from shipworthy.adapters.files.audit_lines import backwards
from shipworthy.adapters.shared.filelock import FileLock, write_at
from shipworthy.rules.audit.form import head_of


class Heads:
    """The file, which several processes append to."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._turn = FileLock(path)

    def last(self) -> bytes | None:
        """The last one, without its newline. What a crash tore is passed over."""
        return self._last()[0]

    def keep(self, line: bytes) -> None:
        """Append this one, unless there is one of at least as many entries."""
        with self._turn:
            last, end = self._last()
            old, new = head_of(last or b""), head_of(line)
            if old is not None and new is not None and old[0].entries >= new[0].entries:
                return
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size > end:
                    os.ftruncate(fd, end)
                write_at(fd, line + b"\n", end)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Let go of the file."""
        self._turn.close()

    def _last(self) -> tuple[bytes | None, int]:
        """The last line that ends, and where it does."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, 0
        try:
            for at, line in backwards(fd, os.fstat(fd).st_size):
                if line.endswith(b"\n"):
                    return line[:-1], at + len(line)
            return None, 0
        finally:
            os.close(fd)
