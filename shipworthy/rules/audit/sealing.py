"""A log's seals, held to it while it is read."""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.rules.audit.chain import Seal, seal_of
from shipworthy.rules.audit.epochs import Epochs
from shipworthy.rules.audit.formed import LOG, MAC
from shipworthy.rules.audit.heads import NEVER

_FARTHEST = 1 << 20
"""Epochs after a log's end that a seal is believed to count; making their keys takes a second."""


class Seals:
    """The seals of a log: of those that are right, the one with the highest count holds. `due`: what the next one
    counts; `most`: what they claim; `rewritten`: the entry that it counts last is another one."""

    def __init__(self, seals: Sequence[Seal]) -> None:
        formed = [seal for seal in seals if _is_formed(seal)]
        self._seals = sorted(formed, key=lambda seal: seal.count)
        self._next: list[Seal] = []
        self._every = 0
        self._count = 0
        self.most = self._seals[-1].count if self._seals else 0
        self.log = self._seals[-1].log if self._seals else None
        self.due = NEVER
        self.rewritten = False

    def begin(self, log: str, every: int) -> None:
        """This is the log, with so many entries of one epoch."""
        self._every = every
        self._next = [seal for seal in self._seals if seal.log == log]
        self.due = self._next[0].count if self._next else NEVER

    @property
    def claimed(self) -> int:
        """How many entries of this log they count as they stand."""
        return max([seal.count for seal in self._next], default=0)

    def reached(self, now: Epochs, last: str) -> None:
        """There are as many entries as the next one counts; the last one's mac is *last*, and made with this secret."""
        while self._next and self._next[0].count == self.due:
            seal = self._next.pop(0)
            if _is_right(seal, now.key((seal.count - 1) // self._every)):
                self._count, self.rewritten = seal.count, seal.mac != last
        self.due = self._next[0].count if self._next else NEVER

    def count(self, now: Epochs | None, known: Sequence[Epochs]) -> int:
        """How many entries the seal counts that holds; 0 without a right one."""
        if now is None:
            return self._count
        for seal in reversed(self._next):
            if any([_is_right(seal, key) for epochs in known if (key := self._key(seal, epochs))]):
                return seal.count
        return self._count

    def _key(self, seal: Seal, epochs: Epochs) -> bytes:
        epoch = (seal.count - 1) // self._every
        return epochs.key(epoch) if epochs.made_to(epoch) <= _FARTHEST else b""

    def foreign(self) -> str | None:
        """Another log, which the seal is of as it stands."""
        return None if self._next else self.log


def _is_formed(seal: Seal) -> bool:
    texts = LOG.match(seal.log) and MAC.match(seal.mac) and MAC.match(seal.seal)
    return bool(texts) and 0 < seal.count < NEVER


def _is_right(seal: Seal, key: bytes) -> bool:
    return seal_of(key, seal.log, seal.count, seal.mac).hex() == seal.seal
