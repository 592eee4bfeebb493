"""The audit log in memory, for tests: the same entries, chain and seal, without durability."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import copy

from shipworthy.adapters.shared.chaining import Growth, Held, Row, begun, written
from shipworthy.domain.audit import Draft, Entry, EpochKeys, Links, Standing
from shipworthy.errors import AuditClosed
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import Seal
from shipworthy.rules.audit.keys import Secret


class InMemoryAuditLog:
    """A log that lives as long as the process. Without a secret it makes one: `secret`."""

    place = ""

    def __init__(
        self, secret: str | None = None, *, name: str = "audit", keys: tuple[EpochKeys, ...] = ()
    ) -> None:
        self.secret = secrets.token_hex(32) if secret is None and not keys else secret
        self.name = name
        self._random = secret is None and not keys
        self._keys = keys or (Secret(self.secret or ""),)
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._standing: Standing | None = None
        self._seal = b""
        self._open = False

    def __repr__(self) -> str:
        made = " with a secret of its own" if self._random else ""
        return f"<InMemoryAuditLog {self.name!r}{made}, {len(self._rows)} entries>"

    # the port

    async def open(self) -> None:
        """Begin the log, unless it was."""
        with self._lock:
            if self._standing is None:
                self._grow(begun(self._keys, self.name))
            self._open = True

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Enter these, in this order and with nothing between them. Raises AuditError."""
        with self._lock:
            if self._standing is None or not self._open:
                raise AuditClosed(f"The audit log {self.name!r} is not open.")
            growth = Growth(0, copy(self._standing))
            growth.add(self._keys, drafts)
            self._grow(growth)

    def links(self, drafts: Sequence[Draft]) -> Links:
        """The same as a commit would carry it; no store is at its place."""
        return Links(self.name, self._keys, tuple(drafts))

    def carried(self) -> None:
        """There are no checkpoints to be made."""

    async def erase(self, match: Callable[[Entry], bool]) -> int:
        """Forget the bodies and salts of the entries that match. How many."""
        with self._lock:
            gone = [row for row in self._rows if row.salt is not None and match(_entry(row.line))]
            for row in gone:
                self._rows[row.seq] = Row(row.seq, row.line, None, None, False)
        return len(gone)

    async def close(self) -> None:
        """Take no more; what is entered stays."""
        self._open = False

    # for tests

    @property
    def entries(self) -> list[Entry]:
        """What was entered, `log.begun` first."""
        return [_entry(line) for line in self.lines()]

    @property
    def bodies(self) -> dict[int, bytes]:
        """The bodies that were not erased, by their entries' numbers."""
        return {row.seq: row.body for row in list(self._rows) if row.body is not None}

    def lines(self, after: int = 0) -> Iterator[bytes]:
        """The entries' lines from number *after* on, without newlines."""
        return (row.line for row in self._rows[after:])

    def written(self, after: int = 0) -> Iterator[bytes]:
        """The same with their bodies, as the lines of a file that has them."""
        return written(Held(row.seq, row.line, row.salt, row.body) for row in self._rows[after:])

    def checkpoints(self, after: int = 0) -> Iterator[bytes]:
        """There are none."""
        return iter(())

    def seal(self) -> Seal | None:
        """The log's seal."""
        at = self._standing
        return None if at is None else Seal(at.count, at.log, at.mac, self._seal.hex())

    def _grow(self, growth: Growth) -> None:
        self._rows += growth.rows
        self._standing, self._seal = growth.standing, growth.seal


def _entry(line: bytes) -> Entry:
    entry = form.entry_of(line)
    assert entry is not None
    return entry
