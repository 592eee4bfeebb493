"""The audit log on PostgreSQL: what the role may not do to it, who waits for whom, and answers that were lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

import shipworthy.adapters.postgres.audit as on_postgres
import shipworthy.adapters.postgres.connection as connection
import shipworthy.adapters.postgres.writer as writer
from shipworthy.testing.contracts.audit import said
from shipworthy.testing.contracts.audit_joined import begun, entered, told
from shipworthy.testing.contracts.store.workers import answer
from tests.audit.test_contract import OnPostgres
from tests.audit.test_kept_logs import do
from tests.servers.postgres import Postgres
from tests.servers.proxy import Proxy


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> Iterator[str]:
    made = postgres.fresh_database()
    yield made
    postgres.drop_database(made)


@pytest.mark.parametrize(
    "query",
    [
        "UPDATE audit_entries SET line = '\\x00'",
        "DELETE FROM audit_entries",
        "UPDATE audit_entries SET seq = seq + 1",
        "UPDATE audit_checkpoints SET line = '\\x00'",
        "DELETE FROM audit_checkpoints",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_entries",
    ],
)
def test_the_stores_role_may_neither_change_nor_drop_an_entry(query: str, dsn: str) -> None:
    logs = OnPostgres(dsn)

    async def law() -> None:
        await logs.new()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SET search_path = shipworthy; SET ROLE shipworthy_app")
            assert connection.execute("SELECT FROM audit_logs").fetchall() == []  # unless it says so
            connection.execute("SET shipworthy.audit = 'on'")
            assert connection.execute("SELECT FROM audit_logs").fetchall() != []
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(query.encode())

    do(logs, law)


def waits_its_turn(dsn: str) -> None:
    """Somebody is in the middle of a transaction that writes the log: a commit waits, and goes on from there."""
    logs = OnPostgres(dsn)

    async def law() -> None:
        store, log = await logs.store(), await logs.new()
        fence = await begun(logs, log, store, "r")
        with connection.connect(connection.Server(dsn, True, 5.0)) as other, on_postgres.writing(other):
            locked = on_postgres.Locked(other, [log.name])
            assert locked.kept(log.name) is not None
            commit = asyncio.ensure_future(store.commit(fence, told(logs, log, "r", answer(3))))
            until = time.monotonic() + 10
            while not commit.done() and not waiting(dsn) and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            locked.carry([on_postgres.Carried(0, log.links([said("between")]))])
        await commit
        assert logs.actions()[2:] == ["between", "ModelAnswered"]
        logs.verified()

    do(logs, law)


def waiting(dsn: str) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(dsn, autocommit=True) as asking:
        return bool(asking.execute(query).fetchall())


def test_who_writes_a_log_waits_for_who_is_at_it(dsn: str) -> None:
    waits_its_turn(dsn)


def test_a_postgres_on_which_nobody_waits_is_caught(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = connection.schema().replace("WHERE name = called FOR UPDATE", "WHERE name = called")
    assert made != connection.schema()
    monkeypatch.setattr(connection, "schema", lambda: made)
    with pytest.raises(psycopg.errors.UniqueViolation):
        waits_its_turn(database)


@pytest.fixture(scope="module")
def proxy(dsn: str) -> Iterator[Proxy]:
    with Proxy(int(dsn.rpartition(":")[2].partition("/")[0])) as made:
        yield made


def lost_answers(dsn: str, proxy: Proxy) -> None:
    """The answer to a commit, to a run's begin and to an append is lost: what was done is not done again."""
    logs = OnPostgres(proxy.dsn(dsn))

    async def law() -> None:
        store, log = await logs.store(), await logs.new()
        struck = proxy.struck
        proxy.fault(b"COMMIT", "lose the answer")
        fence = await begun(logs, log, store, "r")
        proxy.fault(b"COMMIT", "lose the answer")
        await store.commit(fence, told(logs, log, "r", answer(3)))
        proxy.fault(b'"mac":"', "lose the request")
        await store.commit(fence, told(logs, log, "r", answer(4)))
        proxy.fault(b"COMMIT", "lose the answer")
        await log.append([said("5", b"{}"), said("6")])
        assert proxy.struck == struck + 4
        assert entered(logs, "r") == [1, 2, 3, 4]
        assert logs.actions()[4:] == ["5", "6"]
        assert logs.verified().entries == 7

    do(logs, law)


def test_what_was_done_though_its_answer_was_lost_is_not_entered_again(dsn: str, proxy: Proxy) -> None:
    lost_answers(dsn, proxy)


def test_who_enters_again_what_was_done_is_caught(
    dsn: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = writer._carried

    def carrying(batches: object, rows: list[tuple[object, ...]]) -> object:
        return carried(batches, [(nth, "landed", *more) for nth, _, *more in rows])  # type: ignore[arg-type]

    for module, name, broken in ((writer, "_carried", carrying), (on_postgres, "has", lambda *_: False)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            with pytest.raises(AssertionError):
                lost_answers(dsn, proxy)
