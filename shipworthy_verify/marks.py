"""Checkpoints: what they say, whether they are signed, and which of them fit a log as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import ed25519, form, tree

_NAMES = ("at", "entries", "log", "name", "peaks", "root", "signer", "v", "sig")
_TYPES = (int, int, str, str, list, str, str, int, str)


class Mark:
    """A checkpoint. Its signature is checked when somebody asks, and once."""

    __slots__ = ("_signed", "anchored", "at", "entries", "line", "log", "name", "newest", "root", "signer")

    def __init__(self, line: bytes, found: form.Members, root: bytes) -> None:
        self.line, self.root = line, root
        self.at: int = found["at"]
        self.entries: int = found["entries"]
        self.log: str = found["log"]
        self.name: str = found["name"]
        self.signer: str = found["signer"]
        self.anchored = self.newest = False
        self._signed: bool | None = None

    @property
    def signed(self) -> bool:
        """Whether the signer that it names signed it."""
        if self._signed is None:
            text, signature = self.line[:-138] + b"}", self.line[-130:-2].decode()
            self._signed = ed25519.right(self.signer, text, signature)
        return self._signed

    @property
    def counts(self) -> bool:
        """Whether a wrong one has a verdict of its own."""
        return self.anchored or self.newest


def read(line: bytes) -> Mark | None:
    """Give the checkpoint that a line is, or None where it is none."""
    found = form.members(line, _NAMES)
    if found is None or tuple(map(type, found.values())) != _TYPES or found["v"] != 1:
        return None
    entries, peaks = found["entries"], found["peaks"]
    if not 0 < entries < form.TOP or not 0 <= found["at"] < form.TOP or line[-138:-130] != b',"sig":"':
        return None
    if not (form.is_hex(found["log"], 32) and form.is_hex(found["signer"], 64)):
        return None
    if not form.is_hex(found["sig"], 128) or len(peaks) != entries.bit_count():
        return None
    if not all(form.is_hex(peak, 64) for peak in peaks):
        return None
    root = tree.fold([bytes.fromhex(peak) for peak in peaks])
    return Mark(line, found, root) if root.hex() == found["root"] else None


class Marks:
    """All the checkpoints that a verifier was given, and what is wrong with them."""

    def __init__(self, own: Iterable[bytes], anchored: Iterable[bytes]) -> None:
        self._all: dict[bytes, Mark] = {}
        self._at: dict[int, list[Mark]] = {}
        self._fit: list[Mark] = []
        self.bad: list[str] = []  # why the verdict is `checkpoint`
        self.unlike = False  # whether one with a right signature has another root
        self.anchored = 0  # how many entries are under an anchored one that fits
        self.unread = 0  # lines of anchors that are no checkpoints
        for line, whole in _lines(anchored):
            mark = self._mark(line)
            if mark is not None:
                mark.anchored = True
            elif whole:
                self.unread += 1
        newest, junk = None, False
        for line, whole in _lines(own):
            mark = self._mark(line)
            if mark is not None or whole:
                newest, junk = mark, mark is None
        if newest is not None:
            newest.newest = True
        if junk:
            self.bad.append("the last line of the log's own is none")

    def _mark(self, line: bytes) -> Mark | None:
        mark = self._all.get(line) or read(line)
        if mark is not None:
            self._all[line] = mark
        return mark

    def anchored_logs(self) -> list[str]:
        """Give the logs of which anchored ones with a right signature tell, the longest first."""
        logs: dict[str, bool] = {}
        for mark in sorted(self._all.values(), key=lambda mark: -mark.entries):
            if mark.anchored and mark.log not in logs and mark.signed:
                logs[mark.log] = True
        return list(logs)

    def newest_log(self, name: str | None, log: str, signers: Callable[[str], set[str]]) -> str | None:
        """Give the log of the newest anchored one, of this name or of any, that its signer signed: this one, of two."""
        marks = (mark for mark in self._all.values() if mark.anchored and name in (None, mark.name))
        for mark in sorted(marks, key=lambda mark: (-mark.at, mark.log != log)):
            if mark.signer in signers(mark.log) and mark.signed:
                return mark.log
        return None

    def tell(self, expected: str | None) -> bool:
        """Whether any tells of entries of the log that is expected."""
        marks = self._all.values()
        return any(not mark.anchored or expected in (None, mark.log) for mark in marks)

    def hold(self, log: str) -> set[int]:
        """Leave the other logs aside; give the numbers of entries that are covered."""
        for mark in self._all.values():
            if mark.log == log:
                self._at.setdefault(mark.entries, []).append(mark)
            elif mark.newest:
                self.bad.append("the newest of the log's own is one of another log")
        self._all = {}
        return set(self._at)

    def judge(self, entries: int, root: bytes, signer: str) -> None:
        """Judge those that cover exactly these entries."""
        for mark in self._at.pop(entries, ()):
            fits = mark.root == root
            if mark.counts and (mark.signer != signer or not mark.signed):
                self._wrong(mark)
            elif mark.signer != signer or (not fits and not mark.signed):
                continue
            elif fits:
                self._fit.append(mark)
                self.anchored = entries if mark.anchored else self.anchored
            else:
                self.unlike = True

    def covered(self) -> int:
        """Give how many entries are under a checkpoint that fits."""
        return next((mark.entries for mark in reversed(self._fit) if mark.signed), 0)

    @property
    def left(self) -> bool:
        """Whether any covers a number of entries that was not reached."""
        return bool(self._at)

    def beyond(self, signers: set[str]) -> int:
        """Give how far those with a right signature reach beyond the log's end; 0 where none does."""
        for entries in sorted(self._at, reverse=True):
            for mark in self._at[entries]:
                if mark.signer in signers and mark.signed:
                    return entries
                if mark.counts:
                    self._wrong(mark)
        return 0

    def _wrong(self, mark: Mark) -> None:
        which = "an anchored one" if mark.anchored else "the newest of the log's own"
        self.bad.append(f"{which}, of {mark.entries} entries, has no right signature of the log's signer")


def _lines(lines: Iterable[bytes]) -> Iterable[tuple[bytes, bool]]:
    """Give the lines that are not empty, and whether each is whole."""
    for raw in lines:
        line = form.as_bytes(raw)
        whole = line.endswith(b"\n")
        line = line.removesuffix(b"\n")
        if line:
            yield line, whole
