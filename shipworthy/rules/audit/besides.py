"""Bodies, held to the entries that they follow."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from shipworthy.rules.audit import form
from shipworthy.rules.audit.verdicts import Bodies

_SALT = 32
_body_of = msgspec.json.Decoder(form.Body).decode


class Beside:
    """What stands beside a log's entries. `first`: the entry whose body is the first that does not fit."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._due = ""
        self._fit = self._erased = self._missing = self._edited = 0

    def expect(self, seq: int, digest: str) -> None:
        """An entry, with this digest of its body."""
        if self._due:
            self._missing += 1
        self._due = digest

    def take(self, line: bytes, seq: int, whole: bool, ends: bool = True) -> bool:
        """A body's line, after the entry of this number. False: it is not *whole*, and does not fit, so it is none.
        *ends*: it has its newline."""
        due = self._due
        self._due = ""
        if due and fits(line, seq, due):
            self._fit += 1
        elif due and is_erased(line, seq, ends):
            self._erased += 1
        elif not whole:
            self._due = due
            return False
        else:
            self._edited += 1
            self.first = seq if self.first is None else self.first
        return True

    def finish(self) -> None:
        """There are no more lines."""
        self.expect(0, "")

    def counts(self) -> Bodies:
        """How many of each."""
        return Bodies(self._fit, self._erased, self._missing, self._edited)


def is_erased(line: bytes, seq: int, ends: bool = True) -> bool:
    """Whether it says that the body of this entry was erased, or is what an erasure left that was interrupted."""
    if line.startswith(form.BODY):
        return ends and form.is_erased(line)
    return line.startswith(b'{"erased":') and line.rstrip(b" ") == b'{"erased":%d}' % seq


def fits(line: bytes, seq: int, digest: str) -> bool:
    """Whether it is the body that the entry of this number tells of."""
    try:
        body = _body_of(line)
        salted = bytes.fromhex(body.salt) + body.body.encode()
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return body.seq == seq and len(body.salt) == _SALT and sha256(salted).hexdigest() == digest
