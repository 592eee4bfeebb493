"""Checkpoints kept in memory: an anchor for tests, since whoever gets hold of the process has it as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from shipworthy.adapters.shared.checkpoints import checked, goes_back, rewrites


class InMemoryAnchor:
    """Checkpoints that live as long as the process."""

    where = "an anchor in memory"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], dict[int, tuple[str, bytes]]] = {}

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        """Keep this checkpoint."""
        head = checked(self.where, name, log, entries, line)
        with self._lock:
            kept = self._kept.setdefault((name, log), {})
            there = kept.get(entries)
            if there is not None:
                if there[0] != head.root:
                    raise rewrites(self.where, head)
                return
            if kept and max(kept) > entries:
                raise goes_back(self.where, head, max(kept))
            kept[entries] = (head.root, line)

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log under this name, the checkpoint of the most entries."""
        with self._lock:
            return [kept[max(kept)][1] for (of, _), kept in self._kept.items() if of == name and kept]

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint under this name."""
        with self._lock:
            found = [dict(kept) for (of, _), kept in self._kept.items() if of == name]
        for kept in found:
            for entries in sorted(kept):
                yield kept[entries][1]

    def close(self) -> None:
        """There is nothing to let go of."""
