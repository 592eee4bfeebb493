"""Which attempts may bring a limit to its warning when they are settled, so that their runs can still tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shipworthy.domain.ledger import Line


class Drawing(Protocol):
    """An attempt that draws on limits. `near`: settling it may bring one of them to its warning."""

    near: bool
    lines: tuple[Line, ...]


class Nearing:
    """The attempts of this process that were far from every warning when they were granted. Others may be granted
    after them and settled before them: then they are not far any more."""

    __slots__ = ("_far",)

    def __init__(self) -> None:
        self._far: dict[str, dict[int, Drawing]] = {}

    def granted(self, attempt: Drawing) -> None:
        """Remember an attempt that is far from every warning; one that is near brings the others near."""
        keys = _watched(attempt.lines)
        if attempt.near:
            for key in keys:
                for other in list(self._far.pop(key, {}).values()):
                    other.near = True
            return
        for key in keys:
            self._far.setdefault(key, {})[id(attempt)] = attempt

    def settled(self, attempt: Drawing) -> None:
        """Forget an attempt."""
        for key in _watched(attempt.lines):
            others = self._far.get(key)
            if others is not None and others.pop(id(attempt), None) is not None and not others:
                del self._far[key]


def _watched(lines: Sequence[Line]) -> list[str]:
    return [line.key for line in lines if line.soft]
