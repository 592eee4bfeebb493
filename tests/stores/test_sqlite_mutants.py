"""The laws catch a SQLite store that is broken on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from shipworthy.adapters.shared import entries, lane, queries
from shipworthy.adapters.shared.keys import new_key
from shipworthy.adapters.sqlite import SqliteStore, operations, reader, signing, workers
from shipworthy.domain.grants import SigningKey
from shipworthy.testing.contracts.store import Law, Workers, check, name, waiting
from shipworthy.testing.contracts.store import signing as laws
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
from shipworthy.testing.contracts.store.workers import OPERATOR


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


def changed(where: object, what: str, before: str, after: str) -> Patch:
    """A statement in which something is different."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        statement = getattr(where, what)
        assert before in statement
        monkeypatch.setattr(where, what, statement.replace(before, after))

    return patch


def a_key_of_each_workers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in the process, and remembered there."""

    async def keys(self: Any) -> Any:
        self.own = getattr(self, "own", [new_key()])
        return self.own

    monkeypatch.setattr(SqliteStore, "signing_keys", keys)


def the_first_key_is_made_by_whoever_read_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(cursor: apsw.Cursor) -> list[SigningKey]:
        return [signing.rotate(cursor, 9)]

    monkeypatch.setattr(signing, "keys", keys)


def grants_before_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in a transaction of their own, as what is no part of the batch would be."""
    commit = SqliteStore.commit

    async def early(self: Any, fence: Any, batch: Any) -> Any:
        await self.adopt(OPERATOR, (), batch.grants)
        return await commit(self, fence, batch)

    monkeypatch.setattr(SqliteStore, "commit", early)


def grants_for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "demand_own", lambda scope, grants: None)


def revoked_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left that says so."""
    query = "DELETE FROM grants" + signing._REVOKE[signing._REVOKE.index("\nWHERE") :]
    monkeypatch.setattr(signing, "_REVOKE", query)


OF_SIGNING: dict[str, tuple[Patch, Law]] = {
    "whatever waits is due": (
        changed(queries, "_DUE", "wake_at <= ?", "coalesce(?, 1) IS NOT NULL"),
        waiting.a_paused_run_is_due_from_its_time_on,
    ),
    "due though it runs": (
        changed(operations, "_CHANGE", "wake_at = ?", "wake_at = coalesce(?, wake_at)"),
        waiting.a_claim_alone_leaves_a_run_due,
    ),
    "due though it has ended": (
        changed(queries, "_DUE", "status = 'paused'", "true"),
        waiting.what_runs_or_has_ended_is_not_due,
    ),
    "a key for each worker": (a_key_of_each_workers_own, laws.all_workers_sign_with_one_key),
    "a key for whoever read none": (
        the_first_key_is_made_by_whoever_read_that_there_is_none,
        laws.all_workers_sign_with_one_key,
    ),
    "adopted keys sign": (
        changed(signing, "_OLD_KEY", "min(nth) - 1", "max(nth) + 1"),
        laws.adopted_keys_are_older_than_all,
    ),
    "dropped keys are forgotten": (
        changed(signing, "_DROP", "UPDATE signing_keys SET secret = NULL", "DELETE FROM signing_keys"),
        laws.a_key_that_was_dropped_does_not_come_back,
    ),
    "grants before the fence": (grants_before_the_fence, laws.a_batch_that_does_not_land_remembers_nothing),
    "grants for anybody": (grants_for_anybody, laws.a_run_remembers_nothing_for_anybody_else),
    "any user's grants": (
        changed(queries, "_GRANTS", '"user" = ?', "? IS NOT NULL"),
        laws.grants_are_of_a_tenants_user,
    ),
    "any tenant revokes": (
        changed(signing, "_REVOKE", "tenant = ?", "? IS NOT NULL"),
        laws.a_foreign_grant_is_revoked_as_an_unknown_one_is,
    ),
    "any user revokes": (
        changed(signing, "_REVOKE", "coalesce(?, user)", "coalesce(user, ?)"),
        laws.a_user_revokes_only_grants_of_that_user,
    ),
    "revoked is gone": (revoked_is_gone, laws.what_was_revoked_does_not_come_back),
    "a grant for ever": (
        changed(queries, "_GRANTS", "expires_at > {now}", "{now} IS NOT NULL"),
        laws.what_has_expired_is_not_given,
    ),
    "nothing is swept": (
        changed(signing, "_SWEEP", "WHERE", "WHERE false AND"),
        laws.what_has_expired_is_not_given,
    ),
}


@pytest.mark.parametrize("mutant", OF_SIGNING)
def test_a_mutant_of_what_waits_or_is_signed_is_caught(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch, law = OF_SIGNING[mutant]
    patch(monkeypatch)
    with pytest.raises(AssertionError):
        check(law, Sqlite(tmp_path / "mutant.db"))


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
