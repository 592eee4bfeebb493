"""Stores that forget too little, too much or too soon, and the laws that tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import shipworthy.adapters.inmemory.erasing as erasing
from shipworthy.adapters.inmemory.signing import Vault
from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.domain.journal import Tombstones
from shipworthy.domain.scope import Scope
from shipworthy.errors import ShipworthyError
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store import LAWS, Workers, check, name
from shipworthy.testing.contracts.store.erasure import ERASURE


class Mutant(Workers):
    def __init__(self, kind: Callable[[], Store]) -> None:
        super().__init__()
        self._kind = kind

    def make(self, *, lease_ttl: float, clock_skew: float) -> Store:
        return self._kind()


class BuriesTheLiving(InMemoryStore):
    """Does not ask whether a run has ended."""

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        for each in tombstones:
            self._bury(self._find(scope, each.run_id), each)


class BuriesSome(InMemoryStore):
    """Buries one after the other, and stops in the middle."""

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        for each in tombstones:
            await super().bury(scope, [each])


class KeepsBodies(InMemoryStore):
    def _bury(self, run: Any, left: Tombstones) -> None:
        bodies = run.bodies
        super()._bury(run, left)
        run.bodies = bodies


class KeepsWhose(InMemoryStore):
    def _bury(self, run: Any, left: Tombstones) -> None:
        scope = run.scope
        super()._bury(run, left)
        run.scope = scope


class KeepsTheSession(InMemoryStore):
    def _bury(self, run: Any, left: Tombstones) -> None:
        before = {scope: [*ids] for scope, ids in self._sessions.items()}
        super()._bury(run, left)
        self._sessions = before


class ScrubsTooMuch(InMemoryStore):
    async def scrub(self, operator: Any) -> Sequence[str]:
        for run in self._runs.values():
            run.bodies.clear()
        return await super().scrub(operator)


def fails(kind: Callable[[], Store]) -> set[str]:
    """The laws of erasure that it breaks."""
    broken: set[str] = set()
    for law in ERASURE:
        try:
            check(law, Mutant(kind))
        except (AssertionError, ShipworthyError, KeyError):
            broken.add(name(law))
    return broken


@pytest.mark.parametrize(
    ("mutant", "law"),
    [
        (BuriesTheLiving, "a_run_that_has_not_ended_is_not_buried"),
        (BuriesSome, "a_run_that_has_not_ended_is_not_buried"),
        (KeepsBodies, "a_buried_run_is_nobodys"),
        (KeepsWhose, "a_buried_run_is_nobodys"),
        (KeepsTheSession, "a_buried_run_is_nobodys"),
        (ScrubsTooMuch, "scrubbing_leaves_the_rest"),
    ],
)
def test_a_store_that_forgets_wrongly_breaks_a_law(mutant: Callable[[], Store], law: str) -> None:
    assert law in fails(mutant)


def test_a_user_who_is_disowned_with_others_or_not_at_all_breaks_a_law(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not fails(InMemoryStore)
    counted = "what_is_counted_for_a_user_is_disowned"
    for heads in ((), ('["',), ('["user","acme"',), ('["user","acme","[\\"alic',)):
        monkeypatch.setattr(erasing, "accounts_of", lambda scope, heads=heads: heads)
        assert counted in fails(InMemoryStore), heads
    monkeypatch.undo()
    monkeypatch.setattr(Vault, "disown", lambda self, scope: self._grants.clear() or self._of.clear())
    assert "approvals_of_a_user_are_disowned" in fails(InMemoryStore)


def test_the_laws_of_erasure_are_among_those_of_every_store() -> None:
    assert set(ERASURE) <= set(LAWS)
