"""Checkpoints, held to the tree of a log while it is read. They are taken in step with its entries, and never all of
them at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

from shipworthy.domain.audit import FORMAT, TreeHead
from shipworthy.rules.audit import form
from shipworthy.rules.audit.formed import LOG, MAC
from shipworthy.rules.audit.merkle import Tree
from shipworthy.rules.audit.signatures import is_signed

NEVER = 1 << 62
_RECENT = 1024
_Read = tuple[TreeHead, bytes, bytes]


@lru_cache(maxsize=8)
def checkpoint_of(line: bytes) -> _Read | None:
    """What `form.head_of` gives, of a checkpoint whose peaks are those of its root; None for anything else."""
    read = form.head_of(line)
    if read is None or read[0].entries >= NEVER or read[0].v != FORMAT:
        return None
    hashes = [read[0].signer, read[0].root, *read[0].peaks]
    if not LOG.match(read[0].log) or not all([MAC.match(each) for each in hashes]) or not _is_lower(line):
        return None
    try:
        tree = Tree(read[0].entries, [bytes.fromhex(peak) for peak in read[0].peaks])
    except ValueError:
        return None
    return read if tree.root().hex() == read[0].root else None


def _is_lower(line: bytes) -> bool:
    """Whether a checkpoint's signature is as it is written; hexadecimal in capitals would be another line."""
    signature = line.rstrip(b"\n")[-130:-2]
    return signature == signature.lower()


class Source:
    """The checkpoints of one place. `due`: how many entries the next one covers."""

    __slots__ = ("_lines", "_log", "due", "foreign", "last", "outside", "read", "signer", "unread")

    def __init__(self, lines: Iterable[bytes], *, outside: bool) -> None:
        self._lines: Iterator[bytes] = iter(lines)
        self._log = ""
        self.outside = outside
        self.read: _Read | None = None
        self.due = NEVER
        self.last: _Read | None = None
        self.signer: str | None = None
        """Who signs what the last one covers, as the log says; None where it covers more than there is."""
        self.unread = False
        """Whether the last line of the log's own is no checkpoint."""
        self.foreign: dict[str, _Read] = {}

    def peek(self) -> str | None:
        """The log of the first one; "" for a line that is none, None where there is nothing."""
        for line in self._lines:
            self._lines = chain([line], self._lines)
            read = checkpoint_of(line)
            return "" if read is None else read[0].log
        return None

    def begin(self, log: str | None) -> None:
        """Take the first one, of this log."""
        self._log = log or ""
        self.take()

    def take(self) -> None:
        """Go to the next one."""
        self.read, self.due = None, NEVER
        for line in self._lines:
            read = checkpoint_of(line)
            if read is None:
                self.unread = True
                continue
            if not self.outside:
                self.unread, self.last, self.signer = False, read, None
            if read[0].log == self._log:
                self.last, self.read, self.due = read, read, read[0].entries
                return
            kept = self.foreign.get(read[0].log)
            if kept is None or kept[0].at < read[0].at:
                self.foreign[read[0].log] = read


class Heads:
    """All checkpoints of a log, and its tree. *signers* of `finish` and `foreign`: whose signatures are right where the
    log's entries do not say it."""

    def __init__(self, own: Iterable[bytes], anchored: Sequence[Iterable[bytes]]) -> None:
        self.sources = [Source(own, outside=False), *[Source(lines, outside=True) for lines in anchored]]
        self.tree = Tree()
        self.due = NEVER
        self.sound = self.anchored = self.beyond = 0
        """Up to where checkpoints, and anchored ones, tell of this tree; and what one covers after the end."""
        self.seen = 0
        self.unsigned = ""
        """The first that does not have a right signature."""
        self.rewritten = False
        self._named: set[str] = set()
        self._newest = -1
        """When the newest anchored checkpoint of this log was made."""
        self._roots: OrderedDict[int, str] = OrderedDict()
        self._signed: tuple[bytes, bytes, str, bool] | None = None

    def begin(self, log: str | None) -> None:
        """Take the first ones, of this log."""
        for source in self.sources:
            source.begin(log)
        self.due = min([source.due for source in self.sources])

    def reached(self, signer: str) -> None:
        """The tree has as many leaves as a checkpoint is due of; *signer* signs those."""
        size = self.tree.size
        self._roots[size] = self.tree.root().hex()
        if len(self._roots) > _RECENT:
            self._roots.popitem(last=False)
        self._named.add(signer)
        for source in self.sources:
            while source.due <= size and source.read is not None:
                self._hold(source, source.read, signer, self._roots.get(source.due), now=source.due == size)
                source.take()
        self.due = min([source.due for source in self.sources])

    def _hold(self, source: Source, read: _Read, signer: str, root: str | None, *, now: bool) -> None:
        """Hold one to the tree. One that came too late to be held to it is held to its signature alone."""
        head = read[0]
        self.seen += 1
        same = root is None or head.root == root
        source.signer = signer
        if same and root is not None:
            self.sound = max(self.sound, head.entries)
        if same and not source.outside:
            return  # who signed it says nothing that the root does not; the last one's signature is looked at later
        right = (now or head.signer in self._named) and self._is_right(read, signer if now else head.signer)
        if right and source.outside:
            self._newest = max(self._newest, head.at)
        if right and not same:
            self.rewritten = True
        elif right and root is not None:
            self.anchored = max(self.anchored, head.entries)
        elif not right and source.outside:
            self._unsigned(f"an anchored checkpoint of {head.entries} entries")

    def _unsigned(self, which: str) -> None:
        self.unsigned = self.unsigned or which

    def _is_right(self, read: _Read, signer: str) -> bool:
        head, plain, signature = read
        if head.signer != signer:
            return False
        if self._signed is None or self._signed[:3] != (plain, signature, signer):
            self._signed = plain, signature, signer, is_signed(signer, plain, signature)
        return self._signed[3]

    def finish(self, signers: Callable[[str], Sequence[str]], log: str) -> None:
        """What is left of them covers more than there is, or is the last of its place."""
        known = signers(log)
        for source in self.sources:
            while source.read is not None:
                read = source.read
                self.seen += 1
                if read[0].signer in known and self._is_right(read, read[0].signer):
                    self.beyond = max(self.beyond, read[0].entries)
                    if source.outside:
                        self._newest = max(self._newest, read[0].at)
                elif source.outside:
                    self._unsigned(f"an anchored checkpoint of {read[0].entries} entries")
                source.take()
        own = self.sources[0]
        if own.unread or (own.last and not self._is_last_right(own.last, known, log)):
            self._unsigned("the last of the log's own checkpoints")

    def _is_last_right(self, read: _Read, known: Sequence[str], log: str) -> bool:
        named = self.sources[0].signer
        by_it = read[0].signer in known if named is None else read[0].signer == named
        return read[0].log == log and by_it and self._is_right(read, read[0].signer)

    def foreign(self, signers: Callable[[str], Sequence[str]]) -> str | None:
        """Another log, of which an anchor has a checkpoint that is right, and newer than any of this one."""
        for source in self.sources[1:]:
            for log, read in source.foreign.items():
                newer = read[0].at > self._newest and read[0].signer in signers(log)
                if newer and self._is_right(read, read[0].signer):
                    return log
        return None

    def expected(self) -> str | None:
        """The log that an anchor tells of; None where none does."""
        return next((log for source in self.sources[1:] if (log := source.peek())), None)

    def tells(self) -> bool:
        """Whether there is any."""
        return any([source.peek() is not None for source in self.sources])
