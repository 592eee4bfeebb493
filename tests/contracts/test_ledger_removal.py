"""The ledgers of stores keep the laws of being taken along, and each law is broken by a mutant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.sqlite import SqliteStore, carrying
from shipworthy.domain.ledger import Change
from shipworthy.testing.contracts.ledger import Law, Ledgers, OwnLedger, check, name
from shipworthy.testing.contracts.ledger import removal as laws


class Made(Ledgers):
    """By a function."""

    def __init__(self, make: Callable[[], OwnLedger]) -> None:
        super().__init__()
        self.make = make  # type: ignore[method-assign]


@pytest.mark.parametrize("law", laws.REMOVAL, ids=name)
def test_the_ledger_in_memory(law: Law) -> None:
    check(law, Made(InMemoryLedger))


@pytest.mark.parametrize("law", laws.REMOVAL, ids=name)
def test_the_ledger_in_sqlite(law: Law, tmp_path: Path) -> None:
    check(law, Made(lambda: SqliteStore(tmp_path / "ledger.db", durability="process").ledger))


@pytest.mark.parametrize("law", laws.REMOVAL, ids=name)
def test_the_ledger_in_postgres(law: Law, database: str) -> None:
    check(law, Made(lambda: PostgresStore(database, durability="process").ledger))


# --- the mutants ------------------------------------------------------------------------------


def _adds_again(patch: pytest.MonkeyPatch) -> None:
    """What was carried before is not remembered."""
    patch.setattr(carrying, "_REMEMBER", "SELECT ?, ?, ?")


def _leaves_what_is_held(patch: pytest.MonkeyPatch) -> None:
    """What a dead process held is free to be spent again."""
    patch.setattr(carrying, "_COUNTERS", carrying._COUNTERS.replace("spent + held", "spent + 0 * held"))


def _brings_it_back(patch: pytest.MonkeyPatch) -> None:
    """What came from there goes there as well."""
    patch.setattr(carrying, "_COUNTERS", carrying._COUNTERS.replace("coalesce(o.amount, 0)", "0"))


def _older_wins(patch: pytest.MonkeyPatch) -> None:
    """Whatever is carried last is in force."""
    patch.setattr(carrying, "_LATER", f"{carrying._LATER} AND false")


def _caps_stay(patch: pytest.MonkeyPatch) -> None:
    """Overrides do not come along."""

    def nothing(cursor: Any, change: Change) -> None:
        return None

    patch.setattr(carrying, "_change", nothing)


def _rates_begin_anew(patch: pytest.MonkeyPatch) -> None:
    """A rate is what was carried last."""
    patch.setattr(carrying, "_OWE", carrying._OWE.replace("max(owed, excluded.owed)", "excluded.owed"))


MUTANTS = [
    (_adds_again, laws.carrying_again_adds_only_what_is_new),
    (_leaves_what_is_held, laws.every_counter_goes_with_what_it_holds),
    (_brings_it_back, laws.every_counter_goes_with_what_it_holds),
    (_older_wins, laws.a_later_override_stays_in_force),
    (_caps_stay, laws.an_override_comes_along_with_who_and_why),
    (_rates_begin_anew, laws.a_rate_is_used_up_as_far_as_elsewhere),
]


@pytest.mark.parametrize(("mutant", "law"), MUTANTS, ids=lambda each: each.__name__)
def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], law: Law, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check(law, Made(lambda: SqliteStore(tmp_path / "ledger.db", durability="process").ledger))
