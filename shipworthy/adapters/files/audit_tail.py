"""Where a log in files stands, learned from its tail: from the entry that the seal counts last to the end.

What is behind the sealed count and is not whole was never acknowledged, and may be cut off. Anything else that does not
fit is damage.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Sequence

import msgspec

from shipworthy.adapters.files.audit_lines import Part, backwards, onwards
from shipworthy.domain.audit import Entry, EpochKeys, Standing
from shipworthy.errors import AuditDamaged, AuditKeyWrong
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import BEGUN, ROTATED, Seal, seal_of
from shipworthy.rules.audit.signatures import public_of


class Tail(msgspec.Struct, frozen=True, gc=False):
    """Where the log stands. `part`, `end`: where its last whole append ends. `torn`: something follows that is to be
    cut off. `slot`: that of the seal that holds; None where there is none yet. `sealed`: how many entries it counts.
    `maker`: whose key made the last entry."""

    standing: Standing
    part: Part
    end: int
    torn: bool
    slot: int | None
    sealed: int
    maker: EpochKeys


_SHORTEST = 256
"""Bytes that an entry's line has at least."""
_AHEAD = 1 << 20
"""Epochs by which a seal is believed to be ahead of its log; making their keys takes a second."""


class Begin(msgspec.Struct, frozen=True, gc=False):
    """What entry 0 says. `farthest`: the last epoch of which keys are made for what cannot be believed yet."""

    log: str
    name: str
    every: int
    farthest: int


def damaged(verdict: str, what: str) -> AuditDamaged:
    """The log is not as it was left: with the verdict's word, as the verifier says it."""
    return AuditDamaged(f"{what} ({verdict}).")


def beginning(files: Sequence[Part], path: str) -> Begin | None:
    """What the first entry says; None where there is none, nor anything else."""
    for part in files:
        for _, line in onwards(part.fd, 0):
            entry = form.entry_of(line)
            every = entry.facts.get("every") if entry is not None else None
            if (
                entry is None
                or entry.action != BEGUN
                or entry.seq != 0
                or type(every) is not int
                or every < 1
            ):
                raise damaged("edited", f"The audit log {path} does not begin with its first entry")
            farthest = sum([part.size for part in files]) // _SHORTEST // every + _AHEAD
            return Begin(entry.log, str(entry.facts.get("name")), every, farthest)
    return None


def tail_of(
    files: Sequence[Part], path: str, begin: Begin, keys: tuple[EpochKeys, ...], seals: list[tuple[int, Seal]]
) -> Tail:
    """Where the log stands. Raises AuditDamaged, AuditKeyWrong."""
    held = _held(files, path, begin, keys, seals)
    if held is None:
        return _lone(files, path, begin, keys)
    slot, seal, key = held
    lines = _behind(files, path, seal)
    part, at, line = lines[0]
    entry = form.entry_of(line[:-1])
    if entry is None or not _is_made(key, begin, line[:-1], entry):
        raise damaged("edited", f"Entry {seal.count - 1} of the audit log {path} is not authentic")
    if form.mac_of(line[:-1]) != seal.mac:
        raise damaged(
            "rewritten", f"Entry {seal.count - 1} of the audit log {path} is not the one that was sealed"
        )
    walk = _Walk(path, begin, keys, _Place(entry, seal.mac, key.id, part, at + len(line)))
    torn = walk.over(lines[1:])
    return walk.tail(torn, slot, seal.count)


def _lone(files: Sequence[Part], path: str, begin: Begin, keys: tuple[EpochKeys, ...]) -> Tail:
    """A log that has only begun, and no seal yet: nothing is appended before it has one."""
    part = next(part for part in files if part.size)
    line = next(onwards(part.fd, 0))[1]
    entry = form.entry_of(line)
    assert entry is not None
    key = next((key for key in keys if key.id == entry.facts.get("key")), None)
    if key is None:
        raise _wrong(path, keys)
    if not _is_made(key, begin, line, entry):
        raise damaged("edited", f"The first entry of the audit log {path} is not authentic")
    if sum([part.size for part in files]) > len(line) + 1:
        raise damaged("unsealed", f"The audit log {path} has no seal")
    walk = _Walk(path, begin, keys, _Place(entry, form.mac_of(line), key.id, part, len(line) + 1))
    return walk.tail(False, None, 0)


def _held(
    files: Sequence[Part], path: str, begin: Begin, keys: tuple[EpochKeys, ...], seals: list[tuple[int, Seal]]
) -> tuple[int, Seal, EpochKeys] | None:
    """The seal that holds, with its slot and whose key made it; None where there is no seal."""
    over = False
    for slot, seal in seals:
        if seal.log != begin.log:
            raise damaged("swapped", f"The audit log {path} is {begin.log}, and its seal is of {seal.log}")
        for key in keys:
            try:
                if _is_right(key, begin, seal):
                    return slot, seal, key
            except AuditKeyWrong:
                over = over or (key.log == begin.log and not getattr(key, "retired", False))
    if not seals:
        return None
    if over:
        raise damaged("rolled_back", f"The audit log {path} is behind its sealed key")
    if _is_ours(files, begin, keys):
        raise damaged("unsealed", f"The audit log {path} has no seal that is right")
    raise _wrong(path, keys)


def _is_right(key: EpochKeys, begin: Begin, seal: Seal) -> bool:
    epoch = (seal.count - 1) // begin.every
    if not 0 <= epoch <= begin.farthest:
        return False
    try:
        made = seal_of(key.epoch(seal.log, epoch), seal.log, seal.count, seal.mac)
    except ValueError:
        return False
    return hmac.compare_digest(made.hex().encode(), seal.seal.encode())


def _is_made(key: EpochKeys, begin: Begin, line: bytes, entry: Entry) -> bool:
    """Whether an entry of this log is authentic. Raises AuditKeyWrong where its key is gone."""
    if entry.log != begin.log or not 0 <= entry.epoch == entry.seq // begin.every <= begin.farthest:
        return False
    return form.is_authentic(key.epoch(entry.log, entry.epoch), line)


def _is_ours(files: Sequence[Part], begin: Begin, keys: tuple[EpochKeys, ...]) -> bool:
    """Whether the last entry is made with one of these."""
    for part in reversed(files):
        for _, line in backwards(part.fd, part.size):
            if (entry := _whole(line)) is None:
                continue
            for key in keys:
                with contextlib.suppress(AuditKeyWrong):
                    if _is_made(key, begin, line[:-1], entry):
                        return True
            return False
    return False


def _whole(line: bytes) -> Entry | None:
    """The entry of a line that ends; None for anything else."""
    return form.entry_of(line[:-1]) if line.endswith(b"\n") and form.is_entry(line) else None


def _wrong(path: str, keys: tuple[EpochKeys, ...]) -> AuditKeyWrong:
    have = ", ".join([key.id for key in keys])
    return AuditKeyWrong(
        f"The audit log {path} goes on under another key, and here is {have}.",
        fix="Pass the secret, or the sealed key file, that took over from it.",
    )


def _behind(files: Sequence[Part], path: str, seal: Seal) -> list[tuple[Part, int, bytes]]:
    """The lines from the entry that the seal counts last to the end."""
    found: list[tuple[Part, int, bytes]] = []
    for part in reversed(files):
        for at, line in backwards(part.fd, part.size):
            found.append((part, at, line))
            entry = _whole(line)
            if entry is None or entry.seq >= seal.count:
                continue
            if entry.seq < seal.count - 1:
                what = f"The audit log {path} ends after {entry.seq + 1} entries, and had {seal.count}"
                raise damaged("truncated", what)
            return found[::-1]
    raise damaged("edited", f"The audit log {path} has no entry {seal.count - 1}, which its seal counts last")


class _Place(msgspec.Struct, gc=False):
    """An entry that fits, and where it ends with its body. `maker`: the key it is made with; `key`: the one after."""

    entry: Entry
    mac: str
    maker: str
    part: Part
    end: int
    key: str = ""
    has_body: bool = False

    @property
    def is_whole(self) -> bool:
        return self.has_body or not self.entry.body

    def turned(self) -> _Place:
        """The same, with the key that is used after it."""
        turns = self.entry.action == ROTATED
        self.key = str(self.entry.facts.get("key")) if turns else self.maker
        return self


class _Walk:
    """Goes over what is behind the sealed count."""

    def __init__(self, path: str, begin: Begin, keys: tuple[EpochKeys, ...], first: _Place) -> None:
        self._path, self._begin, self._keys = path, begin, keys
        self.places = [first.turned()]

    def over(self, lines: list[tuple[Part, int, bytes]]) -> bool:
        """Take up what fits; whether something follows that is to be cut off. Raises AuditDamaged."""
        for number, (part, at, line) in enumerate(lines, 1):
            if self._fits(part, at, line):
                continue
            if number < len(lines):
                raise damaged(
                    "edited", f"The audit log {self._path} has a line at byte {at} that is not authentic"
                )
            self._drop_half()
            return True
        return self._drop_half()

    def tail(self, torn: bool, slot: int | None, sealed: int) -> Tail:
        """Where the log stands after what fits."""
        last = self.places[-1]
        key = self._key(last.key)
        standing = Standing(
            log=self._begin.log,
            name=self._begin.name,
            every=self._begin.every,
            count=last.entry.seq + 1,
            mac=last.mac,
            key=key.id,
            signer=public_of(key.seed(self._begin.log)).hex(),
            logged=last.entry.logged,
        )
        return Tail(standing, last.part, last.end, torn, slot, sealed, self._key(last.maker))

    def _fits(self, part: Part, at: int, line: bytes) -> bool:
        last = self.places[-1]
        if not form.is_entry(line):
            if not line.endswith(b"\n") or last.is_whole:
                return False
            last.has_body, last.part, last.end = True, part, at + len(line)
            return True
        entry = _whole(line)
        if entry is None or entry.seq != last.entry.seq + 1 or entry.prev != last.mac:
            return False
        if not _is_made(self._key(last.key), self._begin, line[:-1], entry):
            return False
        self.places.append(_Place(entry, form.mac_of(line[:-1]), last.key, part, at + len(line)).turned())
        return True

    def _drop_half(self) -> bool:
        """Drop the last entry if its body is not there and it is not sealed: it was never acknowledged."""
        if len(self.places) == 1 or self.places[-1].is_whole:
            return False
        self.places.pop()
        return True

    def _key(self, name: str) -> EpochKeys:
        key = next((key for key in self._keys if key.id == name), None)
        if key is None:
            raise _wrong(self._path, self._keys)
        return key
