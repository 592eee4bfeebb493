"""The laws of audit logs catch stores that carry their entries wrongly: one law is named for each, and must fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

import shipworthy.adapters.postgres.audit as on_postgres
import shipworthy.adapters.postgres.writer as writer
import shipworthy.adapters.sqlite.audit as on_sqlite
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.shared.entries import Entry
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import Outcome
from shipworthy.errors import ShipworthyError
from shipworthy.ports.store import Store
from shipworthy.testing.contracts import audit, audit_joined
from shipworthy.testing.contracts.audit import Law, Logs, check
from tests.audit.test_contract import OnPostgres, Sqlite
from tests.servers.postgres import Postgres

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> Iterator[str]:
    made = postgres.fresh_database()
    yield made
    postgres.drop_database(made)


def caught(law: Law, logs: Logs) -> None:
    """The law fails, and not because the test does."""
    with pytest.raises((AssertionError, ShipworthyError)):
        check(law, logs)


class Outside(Sqlite):
    """Entries land in a transaction of their own, before the batch's."""

    def make_store(self) -> Store:
        logs = self

        class Store(SqliteStore):
            async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
                await enter_first(logs, batch)
                return await super().commit(fence, batch)

        return Store(self.path)


class OutsideOnPostgres(OnPostgres):
    def make_store(self) -> Store:
        logs = self

        class Store(PostgresStore):
            async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
                await enter_first(logs, batch)
                return await super().commit(fence, batch)

        return Store(self.dsn)


async def enter_first(logs: Logs, batch: Batch) -> None:
    links, batch.audit = batch.audit, None
    if links is not None:
        await logs._made[0].append(links.drafts)


def test_links_outside_the_transaction_are_caught(tmp_path: Path, dsn: str) -> None:
    caught(audit_joined.a_refused_batch_leaves_no_entry, Outside(tmp_path / "a.db"))
    caught(audit_joined.a_refused_batch_leaves_no_entry, OutsideOnPostgres(dsn))


# SQLite


def write_at_once(patch: pytest.MonkeyPatch) -> None:
    """Entries are written before it is known whether the batch is refused."""
    growth = on_sqlite.growth

    def growing(cursor: apsw.Cursor, batch: Entry) -> None:
        if (made := growth(cursor, batch)) is not None:
            on_sqlite.write(cursor, made)

    patch.setattr(on_sqlite, "growth", growing)


def keep_what_was_taken_back(patch: pytest.MonkeyPatch) -> None:
    """A batch that is taken back leaves the log where it stood with it."""
    patch.setattr(on_sqlite, "forget", lambda cursor: None)


def remember_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Where a log stands is remembered beyond the transaction, though others write in between."""

    class Known(dict[apsw.Connection, Any]):
        def get(self, cursor: apsw.Cursor, default: Any = None) -> Any:
            return super().get(cursor.connection, default)

        def setdefault(self, cursor: apsw.Cursor, default: Any = None) -> Any:
            return super().setdefault(cursor.connection, default)

        def pop(self, cursor: apsw.Cursor, default: Any = None) -> Any:
            return super().pop(cursor.connection, default)

    patch.setattr(on_sqlite, "_written", Known())


def trust(patch: pytest.MonkeyPatch) -> None:
    """It is not looked whether a log still stands as this connection wrote it last."""
    seen = on_sqlite._seen
    patch.setattr(on_sqlite, "_unchanged", lambda cursor, name: seen.get(cursor.connection, {}).get(name))


def leave_salts(patch: pytest.MonkeyPatch) -> None:
    """With its salt it can be guessed what a body said, which is elsewhere perhaps."""
    patch.setattr(on_sqlite, "_ERASE", "UPDATE audit_entries SET body = NULL WHERE id = ?")


def erase_one_page(patch: pytest.MonkeyPatch) -> None:
    """Of a large log what is in its first page alone."""
    matching = on_sqlite.matching
    patch.setattr(on_sqlite, "matching", lambda *page, **of: (matching(*page, **of)[0], None))


ON_SQLITE: list[tuple[Patch, Law]] = [
    (write_at_once, audit_joined.a_refused_batch_leaves_no_entry),
    (keep_what_was_taken_back, audit_joined.who_is_refused_leaves_no_entry_among_others),
    (trust, audit.two_writers_make_one_chain),
    (remember_for_ever, audit_joined.many_workers_make_one_chain),
    (leave_salts, audit_joined.who_is_disowned_is_gone_from_every_log_of_the_store),
    (erase_one_page, audit_joined.who_is_disowned_is_gone_from_every_log_of_the_store),
]


@pytest.mark.parametrize(("broken", "law"), ON_SQLITE, ids=lambda it: it.__name__)
def test_a_broken_sqlite_is_caught(
    broken: Patch, law: Law, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    caught(law, Sqlite(tmp_path / "a.db"))


# PostgreSQL


def link_all(patch: pytest.MonkeyPatch) -> None:
    """Entries of batches that were refused are linked too."""
    carried = writer._carried

    def carrying(batches: Sequence[Any], rows: list[Any]) -> list[Any]:
        return carried(batches, [(nth, "landed", handle, why) for nth, _, handle, why in rows])

    patch.setattr(writer, "_carried", carrying)


def test_a_postgres_that_leaves_salts_is_caught(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    erase = "UPDATE audit_entries SET body = NULL WHERE log = %s AND seq = ANY (%s)"
    monkeypatch.setattr(on_postgres, "_ERASE", erase)
    caught(audit_joined.who_is_disowned_is_gone_from_every_log_of_the_store, OnPostgres(dsn))


def test_a_postgres_that_links_what_was_refused_is_caught(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link_all(monkeypatch)
    caught(audit_joined.who_is_refused_leaves_no_entry_among_others, OnPostgres(dsn))
