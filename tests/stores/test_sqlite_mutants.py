"""The laws catch a SQLite store that is broken on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shipworthy.adapters.shared import lane, queries
from shipworthy.adapters.sqlite import SqliteStore, operations, reader, workers
from shipworthy.testing.contracts.store import Law, Workers, check, name
from shipworthy.testing.contracts.store.directory import (
    a_foreign_run_is_an_unknown_run,
    a_session_is_its_ended_runs_in_the_order_of_their_ends,
)
from shipworthy.testing.contracts.store.journal import (
    a_batch_goes_on_from_the_last,
    a_cancelled_commit_lands_or_not_before_it_is_cancelled,
    a_run_begins_with_the_token_it_is_given,
    an_old_token_writes_nothing,
    bodies_are_not_shared,
)
from shipworthy.testing.contracts.store.leases import a_live_workers_run_is_busy, parking_and_ending_release


class Sqlite(Workers):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, *, lease_ttl: float, clock_skew: float) -> SqliteStore:
        return SqliteStore(self.path, lease_ttl=lease_ttl, clock_skew=clock_skew)


Patch = Callable[[pytest.MonkeyPatch], None]


def unchecked(column: str) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for statement in ("_GO_ON", "_CHANGE"):
            before, _, condition = getattr(operations, statement).partition("WHERE")
            assert f"{column} = ?" in condition
            changed = condition.replace(f"{column} = ?", f"coalesce(?, {column}) IS NOT NULL")
            monkeypatch.setattr(operations, statement, f"{before}WHERE{changed}")

    return patch


def cancellable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane.Fate, "cancel", asyncio.Future.cancel)


def nobody_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "holder_lives", lambda folder, name: False)


def any_tenants_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    query = reader.HISTORY.replace("r.tenant = ?2", "coalesce(?2, 1) IS NOT NULL")
    monkeypatch.setattr(SqliteStore, "_history", query)


def any_runs_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_BODY", queries._BODY.replace("b.run = r.key AND ", ""))


def order_of_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_JOIN", operations._JOIN.replace("coalesce(max(position), 0) + 1", "?4"))


def first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    row = "VALUES (?, ?, ?, ?, ?, ?,"
    assert row in operations._CREATE
    monkeypatch.setattr(operations, "_CREATE", operations._CREATE.replace(row, f"{row[:-2]}min(?, 1),"))


@pytest.mark.parametrize(
    ("mutant", "law"),
    [
        pytest.param(unchecked("fence"), an_old_token_writes_nothing, id="no fence"),
        pytest.param(unchecked("head"), a_batch_goes_on_from_the_last, id="no order"),
        pytest.param(unchecked("worker"), parking_and_ending_release, id="no owner"),
        pytest.param(
            cancellable, a_cancelled_commit_lands_or_not_before_it_is_cancelled, id="abandoned commit"
        ),
        pytest.param(nobody_lives, a_live_workers_run_is_busy, id="no lock"),
        pytest.param(first_tokens, a_run_begins_with_the_token_it_is_given, id="first tokens"),
        pytest.param(any_tenants_journal, a_foreign_run_is_an_unknown_run, id="no tenant"),
        pytest.param(any_runs_bodies, bodies_are_not_shared, id="shared bodies"),
        pytest.param(
            order_of_beginnings,
            a_session_is_its_ended_runs_in_the_order_of_their_ends,
            id="order of beginnings",
        ),
    ],
)
def test_a_mutant_is_caught(mutant: Patch, law: Law, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(law, Sqlite(tmp_path / "sound.db"))
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check(law, Sqlite(tmp_path / "mutant.db"))
    assert name(law)
