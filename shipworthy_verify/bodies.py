"""The bodies of entries, which are judged apart from the chain."""

from __future__ import annotations

from . import form


class Bodies:
    """How many bodies fit, are erased, are missing, or do not fit."""

    def __init__(self) -> None:
        self.fit = self.erased = self.missing = self.edited = 0
        self.first_edited: int | None = None
        self.waiting: str | None = None  # the digest of the body that may come next; None where none may
        self._torn: tuple[int, int, str | None, int | None] | None = None

    def line(self, line: bytes, whole: bool, entries: int) -> None:
        """Judge a body's line that comes after so many entries."""
        digest, self.waiting = self.waiting, None
        found = form.body(line)
        if found is None and whole and form.is_half_erased(line):
            found = entries - 1, None
        self._torn = (entries, len(line), digest, self.first_edited) if found is None and not whole else None
        if found is None or not digest or found[0] != entries - 1 or found[1] not in (None, digest):
            self.edited += 1
            self.first_edited = max(entries - 1, 0) if self.first_edited is None else self.first_edited
        elif found[1] is None:
            self.erased += 1
        else:
            self.fit += 1

    def end(self, entries: int, behind: bool) -> int:
        """Judge the end of the log; give how long the torn line of a body is, behind the sealed count."""
        torn = 0
        if behind and self._torn is not None and self._torn[0] == entries:
            _, torn, self.waiting, self.first_edited = self._torn
            self.edited -= 1
        self.missing += bool(self.waiting)
        return torn

    def counts(self) -> dict[str, int]:
        """Give the counts by their names."""
        return {"fit": self.fit, "erased": self.erased, "missing": self.missing, "edited": self.edited}
