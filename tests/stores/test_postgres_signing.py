"""Keys and grants on PostgreSQL: one key for all who find none, two lines of defence between tenants, and what it costs
to ask what is due."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg
import pytest

from shipworthy.adapters.postgres import PostgresStore, operations, signing
from shipworthy.adapters.postgres.connection import Connection, connect
from shipworthy.adapters.shared import entries, queries
from shipworthy.adapters.shared.keys import new_key
from shipworthy.domain.grants import SigningKey
from shipworthy.errors import Fenced, StoreError, StoreRefused
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store import check
from shipworthy.testing.contracts.store.signing import (
    a_foreign_grant_is_revoked_as_an_unknown_one_is,
    a_user_revokes_only_grants_of_that_user,
    grant,
    granting,
    grants_are_of_a_tenants_user,
)
from shipworthy.testing.contracts.store.workers import ALICE, OPERATOR, STRANGER, answer, begun, opening
from tests.contracts.test_store import OnPostgres
from tests.servers.postgres import Postgres


async def opened(dsn: str) -> Any:
    store = PostgresStore(dsn)
    await store.open()
    return store


# one key


async def two_who_find_none(dsn: str) -> list[list[SigningKey]]:
    """What two stores sign with that looked at the same moment."""
    stores = [await opened(dsn) for _ in range(2)]
    with psycopg.connect(dsn) as admin:
        admin.execute(signing._ONE_AT_A_TIME)
        asked = [asyncio.ensure_future(store.signing_keys()) for store in stores]
        query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(30):
            while len(admin.execute(query).fetchall()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the server tells nobody of it
        admin.commit()
        found = [list(await each) for each in asked]
    for store in stores:
        await store.close()
    return found


def test_two_who_find_no_key_sign_with_one(postgres: Postgres) -> None:
    one, two = asyncio.run(two_who_find_none(postgres.fresh_database()))
    assert one == two
    assert len(one) == 1


def test_whoever_does_not_look_again_is_caught(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(connection: Connection) -> list[SigningKey]:
        operations.do(connection, signing._ONE_AT_A_TIME)
        signing._add(connection, signing._NEW_KEY, key := new_key())
        return [key]

    monkeypatch.setattr(signing, "_made", made)
    one, two = asyncio.run(two_who_find_none(postgres.fresh_database()))
    assert one != two


# whose they are


async def foreign_grants(store: Store) -> None:
    """With a run's batch, by whoever's fence."""
    mine, theirs = await begun(store, ALICE, "r"), await begun(store, STRANGER, "r")
    forged = type(theirs)(ALICE, "r", theirs.token, theirs.key)
    for fence, batch in (
        (mine, granting(answer(3), grant("g", STRANGER))),
        (mine, granting(answer(3), grant("mine"), grant("g", STRANGER))),
        (forged, granting(answer(3), grant("g", STRANGER))),
    ):
        with pytest.raises((StoreError, Fenced)):
            await store.commit(fence, batch)
    with pytest.raises(StoreError):
        await store.begin(ALICE, "new", granting(opening(ALICE, "new"), grant("g", STRANGER)))
    assert list(await store.everyones_grants(OPERATOR)) == []
    await store.commit(mine, granting(answer(3), grant("g")))


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own code does not look at the tenant."""
    monkeypatch.setattr(entries, "demand_own", lambda scope, grants: None)
    for where, what in ((queries, "_GRANTS"), (signing, "_REVOKE")):
        text = getattr(where, what)
        assert "tenant = ?" in text
        monkeypatch.setattr(where, what, text.replace("tenant = ?", "coalesce(?, '') IS NOT NULL"))


def on(dsn: str, work: Callable[[Store], Any]) -> None:
    async def go() -> None:
        store = await opened(dsn)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(go())


def test_row_level_security_holds_where_the_store_forgets_the_tenant(postgres: Postgres, blind: None) -> None:
    on(postgres.fresh_database(), foreign_grants)
    for law in (a_foreign_grant_is_revoked_as_an_unknown_one_is, grants_are_of_a_tenants_user):
        check(law, OnPostgres(postgres.fresh_database()))


def test_whoever_lets_any_user_revoke_is_caught(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row-level security knows tenants, not users."""
    query = signing._REVOKE.replace('coalesce(?, "user")', 'coalesce("user", ?)')
    assert query != signing._REVOKE
    monkeypatch.setattr(signing, "_REVOKE", query)
    with pytest.raises(AssertionError):
        check(a_user_revokes_only_grants_of_that_user, OnPostgres(postgres.fresh_database()))


OPEN = "DROP POLICY tenant ON shipworthy.grants; CREATE POLICY tenant ON shipworthy.grants USING (true)"


async def opened_wide(dsn: str, change: LiteralString = OPEN) -> None:
    await (await opened(dsn)).close()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(change)


def test_the_store_names_the_tenant_where_row_level_security_is_open(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgres.fresh_database()
    asyncio.run(opened_wide(dsn))
    with pytest.raises(StoreRefused, match="grants"):
        on(dsn, foreign_grants)
    monkeypatch.setattr("shipworthy.adapters.postgres.connection._FORCED", "SELECT WHERE false")
    on(dsn, foreign_grants)


def test_a_store_without_either_is_caught(
    postgres: Postgres, blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgres.fresh_database()
    asyncio.run(opened_wide(dsn))
    monkeypatch.setattr("shipworthy.adapters.postgres.connection._FORCED", "SELECT WHERE false")
    with pytest.raises(pytest.fail.Exception):
        on(dsn, foreign_grants)


@pytest.mark.parametrize(
    "setting", [("tenant", "acme"), ("operator", "on"), ("signing", "off"), ("tenant", "")]
)
def test_the_keys_are_seen_by_what_signs_alone(setting: tuple[str, str], postgres: Postgres) -> None:
    async def look(store: Any) -> None:
        await store.signing_keys()
        with connect(store._server) as c:
            with operations.of(c, *setting):
                assert c.execute("SELECT FROM signing_keys").fetchall() == []
            with operations.of(c, "signing", "on"):
                assert len(c.execute("SELECT FROM signing_keys").fetchall()) == 1
                assert c.execute("SELECT FROM runs").fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege), operations.of(c, "signing", "on"):
                c.execute("DELETE FROM signing_keys")

    on(postgres.fresh_database(), look)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER POLICY signing ON shipworthy.signing_keys USING (true)",
        "CREATE POLICY more ON shipworthy.signing_keys USING (true)",
        "ALTER TABLE shipworthy.signing_keys DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE shipworthy.signing_keys NO FORCE ROW LEVEL SECURITY",
    ],
)
def test_keys_that_everybody_may_see_are_refused(change: LiteralString, postgres: Postgres) -> None:
    dsn = postgres.fresh_database()
    asyncio.run(opened_wide(dsn, change))
    with pytest.raises(StoreRefused, match="signing_keys"):
        asyncio.run(opened(dsn))


# what it costs


def test_what_is_parked_costs_nothing_where_nothing_is_due(postgres: Postgres) -> None:
    """Of many runs that are parked, those are looked at that are due."""

    async def look(store: Any) -> None:
        with psycopg.connect(store._server.dsn, autocommit=True) as admin:
            admin.execute(
                "INSERT INTO shipworthy.runs (tenant, run_id, status, fence, head, started_at, updated_at, wake_at) "
                "SELECT 't', n::text, 'paused', 1, 1, 0, 0, CASE WHEN n % 2 = 0 THEN 1000 + n END "
                "FROM generate_series(1, 10000) AS n"
            )
            admin.execute("ANALYZE shipworthy.runs")
        with connect(store._server) as c, operations.of(c, "operator", "on"):
            query = queries._DUE.replace("?", "%s")
            explain = f"EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) {query}".encode()
            [(plan,)] = c.execute(explain, (1005, 500, 0)).fetchall()
        assert [run.run_id for run in await store.due(OPERATOR, 1005)] == ["2", "4"]
        said = json.dumps(plan)
        assert "runs_due" in said
        assert "Seq Scan" not in said
        assert '"Rows Removed by Filter": 0' in said

    on(postgres.fresh_database(), look)
