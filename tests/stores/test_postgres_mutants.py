"""The laws catch a Postgres store that is broken on purpose: in its schema, and in how it sends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from shipworthy.adapters.postgres import PostgresStore, operations, writer
from shipworthy.adapters.postgres.connection import connect
from shipworthy.adapters.postgres.connection import schema as whole_schema
from shipworthy.adapters.shared import entries, queries
from shipworthy.domain.scope import Scope
from shipworthy.errors import RunBusy, ShipworthyError
from shipworthy.testing.contracts.store import LAWS, SHARED_LAWS, Law, Workers, check, name
from shipworthy.testing.contracts.store.directory import a_foreign_run_is_an_unknown_run
from shipworthy.testing.contracts.store.journal import (
    a_batch_goes_on_from_the_last,
    a_run_begins_with_the_token_it_is_given,
    an_old_token_writes_nothing,
    one_of_many_begins_wins,
)
from shipworthy.testing.contracts.store.leases import (
    a_claim_that_commits_nothing_does_not_hide_a_stopped_worker,
    a_live_workers_run_is_busy,
    parking_and_ending_release,
)
from shipworthy.testing.contracts.store.signing import (
    a_batch_that_does_not_land_remembers_nothing,
    what_was_revoked_does_not_come_back,
)
from shipworthy.testing.contracts.store.waiting import a_claim_alone_leaves_a_run_due
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    STRANGER,
    answer,
    begun,
    ending,
    opening,
    refused,
    seqs,
)
from tests.contracts.test_store import OnPostgres
from tests.servers.postgres import Postgres
from tests.servers.proxy import Proxy
from tests.stores import test_postgres_network as network
from tests.stores import test_postgres_server as server

# laws of this store alone


async def a_failure_costs_the_group_nothing(workers: Workers) -> None:
    """One batch that breaks a rule of the database is rolled back by itself, and the group is not sent again."""
    store = await workers.new()
    fences = [await begun(store, ALICE, f"r{i}") for i in range(4)]
    sent: list[int] = []

    def counting(me: str, again: bool, batches: Any) -> Any:
        sent.append(len(batches))
        return values(me, again, batches)

    values, writer._values = writer._values, counting
    try:
        nobody = Scope("")
        told = await asyncio.gather(
            *[store.commit(fence, answer(3)) for fence in fences],
            store.begin(nobody, "r", opening(nobody, "r")),
            return_exceptions=True,
        )
    finally:
        writer._values = values
    assert [isinstance(outcome, ShipworthyError) for outcome in told] == [False] * 4 + [True]
    assert sum(sent) == len(told)


async def ends_of_a_session_have_each_their_place(workers: Workers) -> None:
    """Whoever ends a run while another end of its session is not committed yet waits for it."""
    store: Any = await workers.new()
    first, second = await begun(store, ALICE, "a"), await begun(store, ALICE, "b")
    elsewhere = await begun(store, BOB, "c")
    batch = writer.Append(ALICE, "a", first, entries.entry_of(ending(3), ALICE))
    with connect(store._server) as slow, slow.transaction():
        values = writer._values(store._sessions.lease.id, False, [batch])
        assert slow.execute(writer._APPEND, values).fetchall() == []  # it has landed
        waiting = asyncio.ensure_future(second_store(workers, store, second))
        await asyncio.sleep(0.3)
        await store.commit(elsewhere, ending(3))
    await waiting
    with psycopg.connect(store._server.dsn) as admin:
        found = admin.execute("SELECT run_id, position FROM shipworthy.runs ORDER BY 1").fetchall()
    assert found == [("a", 1), ("b", 2), ("c", 1)], found


async def second_store(workers: Workers, owner: Any, fence: Any) -> None:
    """The same worker's batch, over a session of its own, as another instance's would come."""
    batch = writer.Append(ALICE, "b", fence, entries.entry_of(ending(3), ALICE))

    def append() -> None:
        with connect(owner._server) as c:
            c.execute(writer._APPEND, writer._values(owner._sessions.lease.id, False, [batch])).fetchall()

    await asyncio.to_thread(append)


async def a_lease_is_over_only_by_all_clocks(workers: Workers) -> None:
    """Between its end and the skew after it nobody takes the runs of a worker whose session lives."""
    one, two = await workers.new(lease_ttl=0.2, clock_skew=3600.0), await workers.new(clock_skew=3600.0)
    await begun(one, ALICE, "r")
    await workers.freeze(one)
    await asyncio.sleep((one.start_by() - two.clock()) / 1000 + 0.1)
    with refused(RunBusy):
        await two.claim(ALICE, "r")


async def a_server_that_starts_anew_takes_no_runs_away(workers: Workers) -> None:
    """All sessions ended with it, so that they prove nothing: the lease counts until the worker is back."""
    one: Any = await workers.new(lease_ttl=3600.0)
    two = await workers.new()
    fence = await begun(one, ALICE, "r")
    await workers.freeze(one)
    with psycopg.connect(one._server.dsn, autocommit=True) as admin:
        admin.execute("UPDATE shipworthy.workers SET locked_at = pg_postmaster_start_time() - interval '1 s'")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
    with refused(RunBusy):
        await two.claim(ALICE, "r")
    await one.commit(fence, answer(3))


async def a_store_wakes_who_follows(workers: Workers) -> None:
    """At the first commit after somebody asked."""
    one, two = await workers.new(), await workers.new()
    fence = await begun(one, ALICE, "r")
    await two.news(ALICE, "r", 0.0)
    waiting = asyncio.ensure_future(two.news(ALICE, "r", 60.0))
    await asyncio.sleep(0.1)
    await one.commit(fence, answer(3))
    done, _ = await asyncio.wait([waiting], timeout=1.0)
    waiting.cancel()
    assert done


async def a_server_that_turns_read_only_is_waited_for(workers: Workers) -> None:
    """Another session may be one that writes: it is not the batch that is wrong."""
    store: Any = await workers.new()
    fence = await begun(store, ALICE, "r")
    store._sessions.writer._connection.execute("SET default_transaction_read_only = on")
    await store.commit(fence, answer(3))


async def nothing_of_another_tenant_is_given(workers: Workers) -> None:
    """By reading or by appending, whoever's key a fence holds."""
    store = await workers.new()
    theirs = await begun(store, STRANGER, "their-run")
    forged = type(theirs)(ALICE, "their-run", theirs.token, theirs.key)
    with refused(ShipworthyError):
        await store.commit(forged, answer(3))
    await store.release(forged)
    with refused(ShipworthyError):
        await store.read(ALICE, "their-run")
    assert await seqs(store, STRANGER, "their-run") == [1, 2]
    await store.commit(theirs, answer(3))


# mutants of the schema


def made(dsn: str, *changes: tuple[str, str]) -> str:
    """A database with a schema in which something is different."""
    schema = whole_schema()
    for before, after in changes:
        assert before in schema, before
        schema = schema.replace(before, after)
    with psycopg.connect(dsn) as admin:
        admin.execute(schema.encode())
    return dsn


SCHEMAS: dict[str, tuple[list[tuple[str, str]], Law]] = {
    "no fence": ([(" AND r.fence = b.token", "")], an_old_token_writes_nothing),
    "no head": ([(" AND r.head = b.first - 1", "")], a_batch_goes_on_from_the_last),
    "no owner": ([(" AND r.worker = me", "")], parking_and_ending_release),
    "first tokens": (
        [("b.status, coalesce(b.token, 1),", "b.status, 1,")],
        a_run_begins_with_the_token_it_is_given,
    ),
    "no savepoint": (
        [("WHEN OTHERS THEN fate := SQLSTATE; why := SQLERRM; named := NULL;", "WHEN OTHERS THEN RAISE;")],
        a_failure_costs_the_group_nothing,
    ),
    "known at the first attempt": ([("ELSIF again THEN", "ELSE")], one_of_many_begins_wins),
    "no lock on a session": (
        [("PERFORM pg_advisory_xact_lock(hash", "PERFORM abs(hash")],
        ends_of_a_session_have_each_their_place,
    ),
    "no skew": ([("w.lease_until + skew", "w.lease_until")], a_lease_is_over_only_by_all_clocks),
    "no worker's lock": (
        [("NOT pg_try_advisory_xact_lock_shared(w.lock)", "false")],
        a_live_workers_run_is_busy,
    ),
    "a restart is a death": (
        [("w.locked_at < pg_postmaster_start_time() OR ", "")],
        a_server_that_starts_anew_takes_no_runs_away,
    ),
    "a claim hides an expiry": (
        [("expired = (previous = 'expired')", "expired = false")],
        a_claim_that_commits_nothing_does_not_hide_a_stopped_worker,
    ),
    "a read-only server is a batch's fault": (
        [("WHEN read_only_sql_transaction THEN RAISE;", "")],
        a_server_that_turns_read_only_is_waited_for,
    ),
    "due whatever came after": (
        [("wake_at = b.wake_at, worker", "wake_at = coalesce(b.wake_at, r.wake_at), worker")],
        a_claim_alone_leaves_a_run_due,
    ),
    "grants before the fence": (
        [
            ("        IF b.grants IS NOT NULL THEN PERFORM remember(b.grants); END IF;\n", ""),
            (
                "      batch := decode(b.events, 'base64');",
                "      batch := decode(b.events, 'base64');\n"
                "      IF b.grants IS NOT NULL THEN PERFORM remember(b.grants); END IF;",
            ),
        ],
        a_batch_that_does_not_land_remembers_nothing,
    ),
    "grants are written over": (
        [
            (
                "ON CONFLICT (tenant, id) DO NOTHING;\nEND",
                "ON CONFLICT (tenant, id) DO UPDATE SET data = excluded.data, revoked = false;\nEND",
            )
        ],
        what_was_revoked_does_not_come_back,
    ),
    "nobody is told": (
        [("PERFORM pg_notify('shipworthy', handle::text);", "NULL;")],
        a_store_wakes_who_follows,
    ),
}


@pytest.mark.parametrize("mutant", SCHEMAS)
def test_a_mutant_of_the_schema_is_caught(mutant: str, postgres: Postgres) -> None:
    changes, law = SCHEMAS[mutant]
    if law not in LAWS + SHARED_LAWS:  # those are held against the sound store elsewhere
        check(law, OnPostgres(made(postgres.fresh_database())))
    with pytest.raises((AssertionError, ShipworthyError)):
        check(law, OnPostgres(made(postgres.fresh_database(), *changes)))
    assert name(law)


# mutants of what is sent, and of what is recognised


Test = Callable[[str, Proxy], None]
AGAIN: dict[str, tuple[list[tuple[str, str]], Test]] = {
    "never known": (
        [("ELSIF again THEN", "ELSIF false THEN")],
        lambda dsn, proxy: network.test_a_commit_that_is_cut_lands_once("lose the answer", dsn, proxy),
    ),
    "known by the id alone": (
        [(" AND j.events = batch", "")],
        network.test_a_begin_that_was_lost_does_not_take_an_earlier_run,
    ),
    "known by the first token": (
        [("r.fence = coalesce(b.token, 1)", "r.fence = CASE WHEN b.key IS NULL THEN 1 ELSE b.token END")],
        lambda dsn, proxy: network.test_a_begin_that_is_cut_makes_one_run("lose the answer", dsn, proxy),
    ),
    "known whoever began it": (
        [(" AND coalesce(r.worker, me) = me", "")],
        network.test_a_begin_that_was_lost_does_not_take_anothers_run,
    ),
}


def proxied(dsn: str) -> Proxy:
    return Proxy(int(str(conninfo_to_dict(dsn)["port"])))


@pytest.mark.parametrize("mutant", AGAIN)
def test_a_mutant_is_caught_when_a_commit_is_cut(mutant: str, postgres: Postgres) -> None:
    changes, test = AGAIN[mutant]
    dsn = made(postgres.fresh_database(), *changes)
    with proxied(dsn) as proxy, pytest.raises((AssertionError, ShipworthyError)):
        test(dsn, proxy)


def test_a_writer_that_forgets_that_it_sent_a_commit_is_caught(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = writer._values
    monkeypatch.setattr(writer, "_values", lambda me, again, batches: values(me, False, batches))
    dsn = postgres.fresh_database()
    with proxied(dsn) as proxy, pytest.raises((AssertionError, ShipworthyError)):
        network.test_a_commit_that_is_cut_lands_once("lose the answer", dsn, proxy)


def test_groups_that_take_the_locks_of_sessions_in_any_order_are_caught(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_order", lambda job: job.work.run_id)
    monkeypatch.setattr(writer, "_CROSSED", ())  # what was crossed is made again, otherwise
    with pytest.raises(ShipworthyError, match="40P01"):
        server.test_two_stores_that_end_runs_of_the_same_sessions_do_not_wait_in_a_circle(
            postgres.fresh_database()
        )


# two lines of defence between tenants


OPEN = ("(tenant = current_setting(''shipworthy.tenant'', true)\n      OR", "(true OR")
BLIND = [
    (" AND r.tenant = b.tenant", ""),
    ("WHERE tenant = whose AND run_id = which", "WHERE run_id = which"),
]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store starts under any policy."""
    monkeypatch.setattr("shipworthy.adapters.postgres.connection._FORCED", "SELECT WHERE false")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own statements do not look at the tenant."""
    for where, what in (
        (queries, "_FIND"),
        (queries, "_BODY"),
        (operations, "HISTORY"),
        (PostgresStore, "_history"),
    ):
        text = getattr(where, what)
        changed = re.sub(r"(r\.)?tenant = \?", "coalesce(?, '') IS NOT NULL", text)
        assert changed != text
        monkeypatch.setattr(where, what, changed)


@pytest.mark.parametrize(
    "law", [a_foreign_run_is_an_unknown_run, nothing_of_another_tenant_is_given], ids=name
)
def test_row_level_security_holds_where_a_statement_forgets_the_tenant(
    law: Law, postgres: Postgres, blind: None
) -> None:
    check(law, OnPostgres(made(postgres.fresh_database(), *BLIND)))


@pytest.mark.parametrize(
    "law", [a_foreign_run_is_an_unknown_run, nothing_of_another_tenant_is_given], ids=name
)
def test_statements_name_the_tenant_where_row_level_security_is_open(
    law: Law, postgres: Postgres, unchecked: None
) -> None:
    check(law, OnPostgres(made(postgres.fresh_database(), OPEN)))


@pytest.mark.parametrize(
    "law", [a_foreign_run_is_an_unknown_run, nothing_of_another_tenant_is_given], ids=name
)
def test_a_store_without_either_is_caught(law: Law, postgres: Postgres, blind: None, unchecked: None) -> None:
    with pytest.raises((AssertionError, ShipworthyError)):
        check(law, OnPostgres(made(postgres.fresh_database(), OPEN, *BLIND)))
