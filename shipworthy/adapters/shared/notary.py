"""The notary: makes checkpoints of a log, and has them sent to anchors, on threads of its own. A writer only tells it
that there is something, and waits for nothing.

Several processes may each have one on the same log: who finds that the newest checkpoint covers everything does
nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from shipworthy.adapters.shared.courier import Courier, Judge
from shipworthy.adapters.shared.sealed import SealedKey
from shipworthy.domain.audit import EVERY, EpochKeys, Standing, TreeHead
from shipworthy.errors import AuditDamaged
from shipworthy.ports.anchors import Anchor
from shipworthy.rules.audit import form
from shipworthy.rules.audit.merkle import Tree
from shipworthy.rules.audit.signatures import checkpoint, is_signed, public_of

log = logging.getLogger("shipworthy.audit")
_EVOLVE = 1.0
"""Seconds between two moves of a sealed key; the file is synced for each."""
_BREATH = 0.05
"""Seconds between two checkpoints, however many entries are made: each costs a signature."""
_FIRST_WORD = 2.0
"""Seconds that opening waits for anchors, for all of them together."""
_LAST_WORD = 2.0
"""Seconds that closing waits for anchors."""


class Notarised(Protocol):
    """A log of which checkpoints are made. All of this is called on the notary's thread."""

    def standing(self) -> tuple[Standing, EpochKeys]:
        """Where the log stands, as far as it is durable, and the keys in use there. Copies: a writer goes on."""
        ...

    def lines(self, after: int) -> Iterator[bytes]:
        """The lines of the entries from number *after* on, without newlines; the notary takes as many as it needs."""
        ...

    def last_checkpoint(self) -> bytes | None:
        """The newest of the log's own checkpoints."""
        ...

    def keep(self, line: bytes) -> None:
        """Put this to the log's own checkpoints, unless one of at least as many entries is there."""
        ...

    def settle(self) -> None:
        """Make durable the seal that counts what `standing` gave, if it is not: keys before that are let go of."""
        ...


class Notary:
    """Makes a checkpoint after *every* entries, or *patience* seconds after the first that has none."""

    def __init__(
        self,
        of: Notarised,
        anchors: Sequence[Anchor] = (),
        *,
        keys: Sequence[EpochKeys] = (),
        every: int = EVERY,
        patience: float = 1.0,
        asking: float | None = None,
    ) -> None:
        """*keys*: the writer's. Those that the first one took over from are destroyed, where they can be. *asking*:
        seconds that opening waits for what anchors know."""
        self._log, self._keys, self._every, self._patience = of, tuple(keys), every, patience
        self._couriers = [Courier(anchor, self._own) for anchor in anchors]
        self._tree = Tree()
        self._sound: tuple[bytes, TreeHead | None] = (b"", None)
        self._news = threading.Condition()
        self._pending = 0
        self._due = 0.0
        self._earliest = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._evolved = (-1, "")
        self._evolve_at = 0.0
        self._complained: set[str] = set()
        self._asked = ("", 0.0)
        self._asking = _FIRST_WORD if asking is None else asking
        self._damage = ""
        self.failures = 0
        """How often a checkpoint could not be made."""
        self.key_failures = 0
        """How often a sealed key could not move on, or a retired one could not be destroyed."""

    @property
    def unanchored(self) -> int:
        """Entries that the anchor which is most behind has no checkpoint of, as far as this process knows."""
        return max([courier.behind for courier in self._couriers], default=0)

    @property
    def anchor_failures(self) -> int:
        """How often an anchor did not take a checkpoint."""
        return sum([courier.failures for courier in self._couriers])

    def made(self, more: int = 1) -> None:
        """That so many entries are durable. Never waits."""
        with self._news:
            self._pending += more
            if not self._due:
                self._due = time.monotonic() + self._patience
                self._begin()
                self._news.notify()
            elif self._pending >= self._every > self._pending - more:
                self._news.notify()

    def close(self, patience: float | None = None) -> None:
        """Make a last checkpoint of what this process made. Anchors are waited for, but not for long."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        until = time.monotonic() + (_LAST_WORD if patience is None else patience)
        for courier in self._couriers:
            courier.stop()
        for courier in self._couriers:
            courier.join(max(until - time.monotonic(), 0.02))

    def check(self) -> None:
        """Whether the log's own newest checkpoint, and those of the anchors, fit the log. Raises AuditDamaged. An
        anchor that cannot be asked is no reason to stop: it is asked again, and if it tells of damage `sound` does."""
        answers = self._told(self._log.standing()[0].name, self._late)
        standing, head = self._compared()
        for courier, heads in answers:
            courier.check(heads, standing, head, self._reaches)

    def sound(self) -> None:
        """Whether no anchor that answered late told of damage. Raises AuditDamaged."""
        if self._damage:
            raise AuditDamaged(self._damage)

    def is_known(self, name: str) -> str:
        """The first anchor that tells of a log of this name, and what it tells; "" for none."""
        for courier, heads in self._told(name, None):
            if heads:
                return f"{courier.where} has {heads[0].entries} entries of one"
        return ""

    def _told(self, name: str, late: Judge | None) -> list[tuple[Courier, list[TreeHead]]]:
        """What the anchors say which can be asked, within the time that they have together."""
        if self._asked[0] != name:
            self._asked = (name, self._asked[1] or time.monotonic() + self._asking)
            for courier in self._couriers:
                courier.ask(name)
        said = [(courier, courier.heard(self._asked[1], late)) for courier in self._couriers]
        return [(courier, heads) for courier, heads in said if heads is not None]

    def _late(self, courier: Courier, heads: list[TreeHead]) -> bool:
        """An anchor answers after the log was opened, on its courier's thread: whether it fits."""
        try:
            standing, head = self._compared()
            courier.check(heads, standing, head, self._reaches)
        except AuditDamaged as error:
            self._damage = error.what
            log.critical("Nothing more is entered in the audit log: %s", error)
            return False
        except Exception as error:  # the log cannot be read now; who writes it finds out
            log.error("An audit log could not be held to %s: %s", courier.where, error)
        return True

    def _compared(self) -> tuple[Standing, TreeHead | None]:
        """Where the log stands, and its newest checkpoint, which fits. The checkpoint is read first: others may go on
        meanwhile. Raises AuditDamaged."""
        head = self._own()
        standing, _ = self._log.standing()
        if head is not None and head.log != standing.log:
            raise AuditDamaged(f"The checkpoints of {standing.name!r} are of another log (swapped).")
        if head is not None and not self._reaches(head.entries):
            raise AuditDamaged(
                f"The log {standing.name!r} ends after {standing.count} entries, and a checkpoint has {head.entries} "
                "(rolled_back)."
            )
        return standing, head

    def _reaches(self, count: int) -> bool:
        """Whether the log has so many entries. Before that is denied, it is looked at as it is now."""
        return count <= self._log.standing()[0].count or next(self._log.lines(count - 1), None) is not None

    # on the thread

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shipworthy-notary", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._is_due():
                    self._news.wait(self._wait())
                closing = self._closing
                pending, self._pending, self._due = self._pending, 0, 0.0
                self._earliest = time.monotonic() + _BREATH
            if (pending or closing) and not self._tried(closing) and not closing:
                with self._news:  # not at once, however many there are
                    self._due = self._due or time.monotonic() + self._patience
                    self._earliest = self._due
            if closing:
                return

    def _wait(self) -> float | None:
        if not self._due:
            return None
        until = min(self._due, self._earliest) if self._pending >= self._every else self._due
        return max(until - time.monotonic(), 0.0)

    def _is_due(self) -> bool:
        if self._closing or not self._due:
            return self._closing
        now = time.monotonic()
        return now >= self._due or (self._pending >= self._every and now >= self._earliest)

    def _tried(self, closing: bool) -> bool:
        try:
            standing, keys = self._log.standing()
            self._certify(standing, keys)
        except Exception as error:
            self.failures += 1
            self._complain("No checkpoint of an audit log could be made", error)
            return False
        try:
            self._evolve(standing, keys, closing)
            self._retire(standing, keys)
        except Exception as error:
            self.key_failures += 1
            self._complain("Keys of an audit log that are over could not be let go of", error)
            return False
        self._complained.clear()
        return True

    def _complain(self, what: str, error: Exception) -> None:
        """Once for each kind, until all is well again."""
        kind = type(error).__name__
        if what + kind not in self._complained:
            self._complained.add(what + kind)
            log.error("%s: %s: %s", what, kind, error)

    def _certify(self, standing: Standing, keys: EpochKeys) -> None:
        head = self._own()
        tree = self._tree
        if head is not None and head.entries > tree.size:
            tree = self._grown_to(head, standing, keys)
        if head is not None and head.entries >= standing.count:
            self._tree = tree
            return
        self._extend(tree, standing.count)
        line = checkpoint(
            keys.seed(standing.log), standing.log, standing.name, tree, time.time_ns() // 1_000_000
        )
        self._tree = tree
        self._log.keep(line)
        for courier in self._couriers:
            courier.send(standing, line)

    def _own(self) -> TreeHead | None:
        """The newest own checkpoint. Raises AuditDamaged for one that is none."""
        line = self._log.last_checkpoint()
        if line is None:
            return None
        if line == self._sound[0]:
            return self._sound[1]
        found = form.head_of(line)
        if (
            found is None
            or not is_signed(found[0].signer, found[1], found[2])
            or _root(found[0]) != found[0].root
        ):
            raise AuditDamaged("The newest checkpoint of an audit log is not one (checkpoint).")
        self._sound = line, found[0]
        return found[0]

    def _grown_to(self, head: TreeHead, standing: Standing, keys: EpochKeys) -> Tree:
        """The tree of a checkpoint: as its peaks say, where it is signed with the key in use; otherwise made anew."""
        if head.log != standing.log:
            raise AuditDamaged(f"The checkpoints of {standing.name!r} are of another log (swapped).")
        if head.signer == public_of(keys.seed(standing.log)).hex():
            return Tree(head.entries, map(bytes.fromhex, head.peaks))
        tree = Tree(self._tree.size, self._tree.peaks)
        self._extend(tree, min(head.entries, standing.count))
        if tree.size == head.entries and tree.root().hex() != head.root:
            raise AuditDamaged(
                f"The log {standing.name!r} is not what its newest checkpoint says (rewritten)."
            )
        return tree

    def _extend(self, tree: Tree, count: int) -> None:
        lines = self._log.lines(tree.size)
        while tree.size < count:
            line = next(lines, None)
            if line is None:
                raise AuditDamaged(
                    f"An audit log ends after {tree.size} entries, and had {count} (truncated)."
                )
            tree.add(line)

    def _evolve(self, standing: Standing, keys: EpochKeys, closing: bool) -> None:
        """Let go of the keys that are over, not more often than needed."""
        reached = ((standing.count - 1) // standing.every, keys.id)
        now = time.monotonic()
        if keys.sealed and reached != self._evolved and (closing or now >= self._evolve_at):
            self._log.settle()
            keys.over(standing.log, reached[0])
            self._evolved, self._evolve_at = reached, now + _EVOLVE

    def _retire(self, standing: Standing, keys: EpochKeys) -> None:
        """Destroy the sealed keys from which the first one took over: they could make anew what came after. Not before
        the seal, and the last entry that it counts, are the new one's."""
        if not self._keys or keys.id != self._keys[0].id:
            return
        retired = [
            key
            for key in self._keys[1:]
            if isinstance(key, SealedKey)
            and not key.retired
            and key.id != keys.id
            and key.log == standing.log
        ]
        if not retired:
            return
        line = next(self._log.lines(standing.count - 1), b"")
        if form.is_authentic(keys.epoch(standing.log, (standing.count - 1) // standing.every), line):
            self._log.settle()
            for key in retired:
                key.retire()


def _root(head: TreeHead) -> str:
    try:
        return Tree(head.entries, map(bytes.fromhex, head.peaks)).root().hex()
    except ValueError:
        return ""
