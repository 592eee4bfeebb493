"""An audit log in files: PATH with its older parts, its seal and its checkpoints beside it. Several processes of one
machine may append."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from shipworthy.adapters.files.audit_erasing import erased
from shipworthy.adapters.files.audit_heads import Heads
from shipworthy.adapters.files.audit_lane import Appender, Place
from shipworthy.adapters.files.audit_lines import Reader, parts
from shipworthy.adapters.shared.lane import forks
from shipworthy.adapters.shared.notary import Notary
from shipworthy.domain.audit import Draft, Entry, EpochKeys, Links, Standing
from shipworthy.errors import AuditClosed, AuditUnavailable
from shipworthy.ports.anchors import Anchor


class FileLog:
    """See `shipworthy.FileAuditLog`."""

    anchor_patience: float | None = None
    """Seconds that opening waits for all anchors together; None: two."""

    def __init__(
        self,
        path: str,
        keys: tuple[EpochKeys, ...],
        *,
        name: str | None = None,
        anchors: Sequence[Anchor] = (),
        rotate_bytes: int = 0,
        synced: bool = True,
    ) -> None:
        sealed = next((named for key in keys if (named := getattr(key, "name", ""))), None)
        name = name or sealed
        self.path = os.path.realpath(path)  # not a link's: lock and seal are beside the file itself
        self.name = name or os.path.basename(os.path.abspath(path))
        self._files = Place(self.path, keys, name, self.name, rotate_bytes, synced)
        self._anchors = tuple(anchors)
        self._heads = Heads(self.path + ".checkpoints")
        self._reader = Reader(self.path)
        self._guard = threading.Lock()
        self._lane: Appender | None = None
        self._newest: Appender | None = None
        self._notary: Notary | None = None
        self._forks = forks()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.path!r}>"

    @property
    def place(self) -> str:
        """No store carries its entries."""
        return ""

    @property
    def unanchored(self) -> int:
        """Entries that the anchor which is most behind has no checkpoint of."""
        return 0 if self._notary is None else self._notary.unanchored

    @property
    def anchor_failures(self) -> int:
        """How often an anchor could not be asked, or did not take a checkpoint."""
        return 0 if self._notary is None else self._notary.anchor_failures

    @property
    def key_failures(self) -> int:
        """How often a sealed key could not move on, or a retired one could not be destroyed."""
        return 0 if self._notary is None else self._notary.key_failures

    async def open(self) -> None:
        """Begin the log where there is none; cut off the torn end that a crash left. Raises AuditError."""
        await asyncio.to_thread(self._open)

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Enter these, one after the other, durably when it returns. Raises AuditError."""
        lane = self._opened()
        if drafts:
            await lane.submit(lambda appender: appender.enter(drafts))

    def links(self, drafts: Sequence[Draft]) -> Links:
        """Only a log in a store's own database is carried by its commits. Raises AuditUnavailable."""
        raise AuditUnavailable(f"The audit log {self.path} is in no store.", fix="Use append().")

    def carried(self) -> None:
        """Nothing carries its entries."""

    async def erase(self, match: Callable[[Entry], bool]) -> int:
        """Write over the bodies of the entries that match, in place. Nothing of the chain changes. Raises AuditError;
        doing it again completes what was interrupted."""
        count: int = await self._opened().submit(lambda appender: appender.count)
        return await asyncio.to_thread(self._erase, match, count)

    async def close(self) -> None:
        """Append what is under way, make a last checkpoint, and let go."""
        await asyncio.to_thread(self._close)

    def _opened(self) -> Appender:
        if self._lane is None:
            raise AuditClosed(f"The audit log {self.path} is not open.")
        if self._forks != forks():
            raise AuditClosed(
                f"The audit log {self.path} was opened in the process that this one was forked from.",
                fix="Make and open another one after the fork.",
            )
        if self._notary is not None:
            self._notary.sound()
        return self._lane

    # on other threads

    def _open(self) -> None:
        with self._guard:
            if self._lane is not None and self._forks == forks():
                return
            self._forks = forks()
            notary = Notary(self, self._anchors, keys=self._files.keys, asking=self.anchor_patience)
            self._notary = None
            lane = self._newest = Appender(self._files, lambda: self._tells(notary), self._made)
            try:
                lane.do(lambda _: None)
                notary.check()
                lane.is_trusted = True
                lane.do(lambda _: None)
            except BaseException:
                notary.close(0)
                lane.end()
                raise
            self.name = self.standing()[0].name
            lane.start()
            self._lane, self._notary = lane, notary
            notary.made()  # what a writer that died may have left without a checkpoint

    def _made(self, more: int) -> None:
        if self._notary is not None:
            self._notary.made(more)

    def _tells(self, notary: Notary) -> str:
        """What tells of a log, though there is none."""
        if self._heads.last() is not None:
            return self._heads.path
        begun = next((key for key in self._files.keys if getattr(key, "begun", False)), None)
        return repr(begun) if begun is not None else notary.is_known(self.name)

    def _close(self) -> None:
        with self._guard:
            if self._lane is None or self._forks != forks():
                return
            self._lane.stop()
            if self._notary is not None:
                self._notary.close()
            self._lane = None
            self._heads.close()

    def _erase(self, match: Callable[[Entry], bool], count: int) -> int:
        try:
            with parts(self.path) as files:
                return sum([erased(part, match, count) for part in files])
        except OSError as error:
            raise AuditUnavailable(
                f"Bodies of the audit log {self.path} cannot be erased: {error}."
            ) from error

    # for the notary

    def standing(self) -> tuple[Standing, EpochKeys]:
        """Where the log stood when this process appended last."""
        assert self._newest is not None
        assert self._newest.durable is not None
        return self._newest.durable

    def lines(self, after: int) -> Iterator[bytes]:
        """The entries' lines from this number on."""
        return self._reader.lines(after)

    def last_checkpoint(self) -> bytes | None:
        """The newest of the log's own checkpoints."""
        return self._heads.last()

    def keep(self, line: bytes) -> None:
        """Put this to them."""
        self._heads.keep(line)

    def settle(self) -> None:
        """Make the seal durable, and before it what it counts."""
        assert self._newest is not None
        self._newest.settle()
