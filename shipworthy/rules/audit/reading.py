"""Which entries of a log hold ("Reading a log" in docs/reference/audit-format.md), and sums over those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from shipworthy.domain.audit import Entry

Kept = TypeVar("Kept")
Run = tuple[str | None, str]
"""A run's tenant and id."""


class Telling(Generic[Kept]):
    """The entries of one run that hold so far, each with what is kept of it."""

    __slots__ = ("_fence", "_held")

    def __init__(self) -> None:
        self._fence = 0
        self._held: list[tuple[int, Kept]] = []

    def read(self, n: int, fence: int, kept: Kept | None = None) -> tuple[bool, list[Kept]]:
        """The next entry: whether it holds, and what was kept of those that it makes void."""
        if fence < self._fence:
            return False, []
        self._fence = fence
        void = []
        while self._held and self._held[-1][0] >= n:
            void.append(self._held.pop()[1])
        if kept is not None:
            self._held.append((n, kept))
        return True, void


class Holding:
    """Which entries of a log hold. What is kept of each is a few bytes."""

    def __init__(self) -> None:
        self._runs: dict[Run, Telling[int]] = {}
        self.void: set[int] = set()
        """The `seq` of the entries that do not hold, among those that were read."""

    def read(self, entry: Entry) -> None:
        """The next entry."""
        if entry.n < 1 or entry.run is None:
            return
        telling = self._runs.setdefault((entry.tenant, entry.run), Telling())
        holds, void = telling.read(entry.n, entry.fence, entry.seq)
        self.void.update(void if holds else [entry.seq])


class Sum(msgspec.Struct, kw_only=True):
    """Tokens as providers counted them, and what was charged; money in billionths of a US dollar."""

    model_answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    charged_input_tokens: int = 0
    charged_output_tokens: int = 0
    cost: int = 0
    started: int = 0
    ended: int = 0

    def add(self, other: Sum, times: int = 1) -> None:
        """Add another one, or take it back."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))

    @property
    def open(self) -> int:
        """Runs that were started and have not ended."""
        return self.started - self.ended


_SPENT = frozenset({"model.answered", "model.failed", "model.abandoned"})
_COUNTED = ("input_tokens", "output_tokens", "charged_input_tokens", "charged_output_tokens", "cost")


def sum_of(entry: Entry) -> Sum | None:
    """What one entry adds; None for nothing."""
    if entry.action == "run.started":
        return Sum(started=1)
    if entry.action == "run.ended":
        return Sum(ended=1)
    if entry.action not in _SPENT:
        return None
    counted = {name: _number(entry.facts, name) for name in _COUNTED}
    return Sum(model_answers=int(entry.action == "model.answered"), **counted)


def _number(facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    return value if type(value) is int else 0


class Sums:
    """Sums over the entries that hold: of each run, of each user and tenant, and of all. A run's entries are kept until
    the log ends, for a later one may make them void; what is kept is what they add."""

    def __init__(self) -> None:
        self._tellings: dict[Run, Telling[Sum]] = {}
        self.runs: dict[Run, Sum] = {}
        self.users: dict[tuple[str | None, str | None], Sum] = {}
        self.tenants: dict[str | None, Sum] = {}
        self.all = Sum()

    def read(self, entry: Entry) -> None:
        """The next entry."""
        if entry.n < 1 or entry.run is None:
            return
        run = entry.tenant, entry.run
        added = sum_of(entry)
        holds, void = self._tellings.setdefault(run, Telling()).read(entry.n, entry.fence, added)
        if not holds:
            return
        sums = (
            self.runs.setdefault(run, Sum()),
            self.users.setdefault((entry.tenant, entry.user), Sum()),
            self.tenants.setdefault(entry.tenant, Sum()),
            self.all,
        )
        for each in sums:
            for taken in void:
                each.add(taken, -1)
            if added is not None:
                each.add(added)

    def open_runs(self) -> list[Run]:
        """The runs that have not ended."""
        return [run for run, each in self.runs.items() if each.open > 0]
