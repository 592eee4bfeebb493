"""Which attempts may bring a limit to its warning when they are settled, so that their runs can still tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Drawing(Protocol):
    """An attempt that draws on limits. `near`: settling it may bring one of them to its warning."""

    near: bool

    @property
    def watched(self) -> Sequence[str]:
        """The keys of those among them that have a warning to give."""
        ...


class Nearing:
    """The attempts of this process that were far from every warning when they were granted. Others may be granted
    after them and settled before them: then they are not far any more."""

    __slots__ = ("_far",)

    def __init__(self) -> None:
        self._far: dict[str, dict[int, Drawing]] = {}

    def granted(self, attempt: Drawing) -> None:
        """Remember an attempt that is far from every warning; one that is near brings the others near."""
        if attempt.near:
            for key in attempt.watched:
                for other in list(self._far.pop(key, {}).values()):
                    other.near = True
            return
        for key in attempt.watched:
            others = self._far.get(key)
            if others is None:
                self._far[key] = {id(attempt): attempt}
            else:
                others[id(attempt)] = attempt

    def settled(self, attempt: Drawing) -> None:
        """Forget an attempt."""
        for key in attempt.watched:
            others = self._far.get(key)
            if others is not None and others.pop(id(attempt), None) is not None and not others:
                del self._far[key]
