"""A store that forgets what a root still needs, and one that hands nested runs out by themselves, are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipworthy.adapters.inmemory.store import InMemoryStore, _Run
from shipworthy.adapters.shared import entries
from shipworthy.adapters.sqlite import operations
from shipworthy.adapters.sqlite.store import SqliteStore
from shipworthy.domain.events import AnyEvent
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store import Workers, check
from shipworthy.testing.contracts.store.nested import (
    a_nested_run_outlives_no_need_of_its_root,
    nobody_is_asked_to_go_on_with_a_nested_run,
)


class InMemory(Workers):
    def make(self, *, lease_ttl: float, clock_skew: float) -> Store:
        return InMemoryStore()


class Sqlite(Workers):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make(self, *, lease_ttl: float, clock_skew: float) -> Store:
        return SqliteStore(self._path, lease_ttl=lease_ttl, clock_skew=clock_skew)


def test_a_store_in_memory_that_prunes_what_a_root_needs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_nothing(self: InMemoryStore, run: _Run) -> bool:
        return False

    monkeypatch.setattr(InMemoryStore, "_is_needed", needs_nothing)
    with pytest.raises(AssertionError):
        check(a_nested_run_outlives_no_need_of_its_root, InMemory())


def test_a_file_that_prunes_what_a_root_needs_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "UNNEEDED", "true")
    with pytest.raises(AssertionError):
        check(a_nested_run_outlives_no_need_of_its_root, Sqlite(tmp_path / "a.db"))


def test_a_store_that_does_not_know_whose_a_run_is_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobodys(first: AnyEvent) -> str | None:
        return None

    monkeypatch.setattr(entries, "root_of", nobodys)
    with pytest.raises(AssertionError):
        check(nobody_is_asked_to_go_on_with_a_nested_run, Sqlite(tmp_path / "a.db"))
