"""Asks one anchor what it knows, and brings checkpoints to it: the newest first, again and again until it has it, on a
thread of its own. An anchor that hangs delays nobody else."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import msgspec

from shipworthy.domain.audit import Standing, TreeHead
from shipworthy.errors import AnchorError, AnchorRefused, AuditDamaged
from shipworthy.ports.anchors import Anchor
from shipworthy.rules.audit import form

log = logging.getLogger("shipworthy.audit")
_FIRST, _LONGEST = 0.25, 60.0

Judge = Callable[["Courier", list[TreeHead]], bool]
"""Whether the log is what an anchor says, which answered late."""


class _Parcel(msgspec.Struct, frozen=True, gc=False):
    name: str
    log: str
    entries: int
    line: bytes


class Courier:
    """Of several checkpoints that wait, only the newest is sent: it covers the others. If the anchor was asked what it
    knows, none is sent before it said so. *own* gives the newest of the log itself, into which each comes before it is
    sent."""

    def __init__(self, anchor: Anchor, own: Callable[[], TreeHead | None]) -> None:
        self._anchor, self._own = anchor, own
        self._news = threading.Condition()
        self._parcel: _Parcel | None = None
        self._asking = ""
        self._heard: list[TreeHead] | None = None
        self._was_asked = False
        self._judge: Judge | None = None
        self._is_halted = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._complained: set[str] = set()
        self._anchored = 0
        self._newest = 0
        self.failures = 0

    @property
    def behind(self) -> int:
        """Entries of which a checkpoint was made, and is not there."""
        return self._newest - self._anchored

    @property
    def where(self) -> str:
        """The anchor's address."""
        return self._anchor.where

    def ask(self, name: str) -> None:
        """Begin to ask what the anchor knows of a log of this name. Never waits."""
        with self._news:
            self._asking, self._heard, self._was_asked = name, None, False
            self._begin()

    def heard(self, until: float, late: Judge | None = None) -> list[TreeHead] | None:
        """What it said; None where it has not by then, or cannot be asked: *late* judges of what it says later."""
        with self._news:
            patience = max(until - time.monotonic(), 0.0)
            self._news.wait_for(lambda: self._heard is not None or self._was_asked, patience)
            if self._heard is None:
                self._judge = late
            return self._heard

    def check(
        self,
        heads: list[TreeHead],
        standing: Standing,
        own: TreeHead | None,
        reaches: Callable[[int], bool],
    ) -> None:
        """Whether the log is at least what the anchor said that it has of it, before the log was looked at. Raises
        AuditDamaged."""
        if not heads:
            return
        head = next((head for head in heads if head.log == standing.log), None)
        if head is None:
            raise AuditDamaged(
                f"{self._anchor.where} knows {standing.name!r} as the log {heads[0].log}, and here is {standing.log} "
                "(swapped). A log that is begun anew needs another name=."
            )
        if not reaches(head.entries):
            raise AuditDamaged(
                f"The log {standing.name!r} ends after {standing.count} entries, and {self._anchor.where} has a "
                f"checkpoint of {head.entries} (rolled_back)."
            )
        if own is not None and own.entries == head.entries and own.root != head.root:
            raise AuditDamaged(
                f"The log {standing.name!r} has another history than {self._anchor.where} (rewritten)."
            )
        with self._news:
            self._anchored = max(self._anchored, head.entries)
            self._newest = max(self._newest, self._anchored)

    def _heads(self, name: str) -> list[TreeHead]:
        found = [form.head_of(line) for line in self._anchor.newest(name)]
        return [each[0] for each in found if each is not None]

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shipworthy-courier", daemon=True)
            self._thread.start()
        self._news.notify_all()

    def send(self, standing: Standing, line: bytes) -> None:
        """Take this to the anchor, instead of what waits. Never waits."""
        with self._news:
            self._parcel = _Parcel(standing.name, standing.log, standing.count, line)
            self._newest = standing.count
            self._begin()

    def stop(self) -> None:
        """Try once more what waits, and end."""
        with self._news:
            self._stopping = True
            self._news.notify_all()

    def join(self, patience: float) -> None:
        """Wait for the end, not for ever: the thread is a daemon."""
        if self._thread is not None:
            self._thread.join(patience)
            if self._parcel is not None or (self._thread.is_alive() and self._asking):
                log.error("%s was not reached before the audit log was closed.", self._anchor.where)
        if self._thread is None or not self._thread.is_alive():
            self._anchor.close()
        self._thread, self._stopping = None, False

    # on the thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._news:
                if pause:
                    self._news.wait_for(lambda: self._stopping, pause)
                else:
                    self._news.wait_for(lambda: self._stopping or self._has_work)
                parcel, stopping, name = self._parcel, self._stopping, self._asking
            if name and not (stopping and parcel is None):
                pause = self._listened(name, pause)
            if parcel is not None and not self._asking and not self._is_halted:
                pause = self._brought(parcel, pause)
            if stopping:
                return

    @property
    def _has_work(self) -> bool:
        return bool(self._asking) or (self._parcel is not None and not self._is_halted)

    def _listened(self, name: str, pause: float) -> float:
        """Seconds to wait before it is asked again; 0 where it answered."""
        try:
            heads = self._heads(name)
        except Exception as error:
            self._failed(error)
            with self._news:
                self._was_asked = True
                self._news.notify_all()
            return _longer(pause)
        self._complained.clear()
        with self._news:
            self._heard, self._asking = heads, ""
            judge, self._judge = self._judge, None
            self._news.notify_all()
        if judge is not None and not judge(self, heads):
            self._is_halted = True  # what it has is right: nothing else is sent
        return 0.0

    def _brought(self, parcel: _Parcel, pause: float) -> float:
        """Seconds to wait before it is tried again; 0 where it is there, or is of no use."""
        try:
            self._anchor.put(parcel.name, parcel.log, parcel.entries, parcel.line)
        except AnchorRefused as error:
            self._taken(parcel, self._ahead(parcel, error))
            return 0.0
        except Exception as error:
            self._failed(error)
            return _longer(pause)
        self._complained.clear()
        self._taken(parcel, parcel.entries)
        return 0.0

    def _ahead(self, parcel: _Parcel, error: AnchorRefused) -> int:
        """What the anchor has, where another process brought a newer one meanwhile. Anything else is reported."""
        try:
            heads = self._heads(parcel.name)
        except Exception as failure:
            self._failed(failure)
            heads = []
        own = self._own()  # after them: each checkpoint is kept there before it is sent
        head = next((each for each in heads if each.log == parcel.log), None)
        if own is None or head is None or not parcel.entries < head.entries <= own.entries:
            self._failed(error)
            return self._anchored
        return parcel.entries

    def _taken(self, parcel: _Parcel, anchored: int) -> None:
        with self._news:
            self._anchored = anchored
            if self._parcel is parcel:
                self._parcel = None

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        kind = type(error).__name__
        if kind not in self._complained:
            self._complained.add(kind)
            level = logging.WARNING if isinstance(error, AnchorError) else logging.ERROR
            level = logging.ERROR if isinstance(error, AnchorRefused) else level
            log.log(level, "%s does not serve an audit log: %s", self._anchor.where, error)


def _longer(pause: float) -> float:
    return min(2 * pause or _FIRST, _LONGEST) * random.uniform(0.75, 1.0)
