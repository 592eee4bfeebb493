"""What a PostgresStore says of servers, roles and schemas that it cannot use, and of those that turn against it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shipworthy import DBOSRuntime, PostgresRuntime
from shipworthy.adapters.postgres import PostgresStore, operations
from shipworthy.adapters.postgres.connection import Connection, Server
from shipworthy.app.commands.runs import existing, place_of
from shipworthy.app.runtimes import runtime_for
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.scope import Scope
from shipworthy.errors import (
    ConfigurationError,
    ShipworthyError,
    StoreClosed,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnavailable,
)
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    STRANGER,
    answer,
    begun,
    digest_of,
    ended,
    ending,
    opening,
    seqs,
)
from tests.servers.postgres import OwnPostgres

SECRET = "hunter2"


@pytest.fixture(scope="module")
def own() -> Iterator[OwnPostgres]:
    """A server whose roles and settings the tests of this file may change; each puts back what it changed."""
    with OwnPostgres(max_connections="60") as server:
        yield server


@pytest.fixture
def fresh(own: OwnPostgres) -> str:
    return own.fresh_database()


def sql(dsn: str, *statements: str) -> list[Any]:
    """What the last statement gives, said by the superuser."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement.encode())
        cursor = connection.execute(statements[-1].encode())
        return cursor.fetchall() if cursor.description else []


def as_role(dsn: str, role: str, password: str = "") -> str:
    return dsn.replace("postgres@", f"{role}:{password}@" if password else f"{role}@", 1)


def on(dsn: str, database: str) -> str:
    return f"{dsn.rpartition('/')[0]}/{database}"


def database_of(dsn: str) -> str:
    return dsn.rpartition("/")[2]


def role(own: OwnPostgres, name: str, what: str = "") -> str:
    """A login role of the server, made anew."""
    sql(
        own.dsn,
        f"DO $$ BEGIN CREATE ROLE {name} LOGIN {what}; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    )
    return name


async def use(dsn: str, **settings: Any) -> None:
    """Open a store, begin and end a run, read it, and close."""
    given: dict[str, Any] = {"patience": 0.3} | settings
    store = PostgresStore(dsn, **given)
    await store.open()
    try:
        name = os.urandom(4).hex()
        await ended(store, ALICE, name)
        assert await seqs(store, ALICE, name) == [1, 2, 3]
    finally:
        await store.close()


def works(dsn: str, **settings: Any) -> None:
    asyncio.run(use(dsn, **settings))


def made(dsn: str) -> str:
    """The schema is there."""
    works(dsn)
    return dsn


# addresses


@pytest.mark.parametrize(
    "dsn",
    [
        None,
        5,
        b"postgres://x",
        "garbage",
        "postgres://%zz",
        f"postgres://u:{SECRET}\ud800@h/d",
        f"postgres://u:{SECRET}@h/d?colour=red",
        f"postgres://u:p@{SECRET}@127.0.0.1/d",
        f"postgres://u:p/{SECRET}@127.0.0.1/d",
        f"postgres://u:{SECRET}@127.0.0.1/d?connect_timeout=soon",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(dsn: Any) -> None:
    with pytest.raises(ConfigurationError, match="postgres://user@host") as caught:
        PostgresRuntime(dsn)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("runtime", "named"),
    [
        ("postgres", "'postgres' is not"),
        ("postgres:", "'postgres' is not"),
        ("postgres:/x", "'postgres' is not"),
        ("mysql://u:hunter2@h/d", "'mysql' is not"),
        ("postgresql+psycopg://u:hunter2@h/d", "'postgresql\\+psycopg' is not"),
        ("POSTGRES://h/d", "'POSTGRES' is not"),
        ("host=db user=bot password=hunter2 dbname=b", "This str is not"),
        ("host=db user=bot password=hunter2 options=-csearch_path=a:b", "This str is not"),
        ("hunter2@h/d", "This str is not"),
        (b"postgres://u:hunter2@h/d", "This bytes is not"),
        ({"password": "hunter2"}, "This dict is not"),
        ("", "This str is not"),
    ],
)
def test_a_runtime_that_means_nothing_is_refused_without_its_password(runtime: Any, named: str) -> None:
    for refused in (runtime_for, DBOSRuntime):
        if refused is DBOSRuntime and str(runtime).startswith("postgres:/"):
            continue
        with pytest.raises(ConfigurationError, match=f"{named}.*postgres://user@host/database") as caught:
            refused(runtime)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_representation_of_a_server_has_its_user_or_password() -> None:
    server = Server(f"postgres://somebody:{SECRET}@127.0.0.1/d", True, 5.0)
    assert repr(server) == str(server) == "<The database 'd' on 127.0.0.1>"
    store = PostgresStore(server.dsn)
    assert SECRET not in repr(vars(store)) + repr(PostgresRuntime(server.dsn))


def test_several_hosts_are_taken_by_the_commands_too(fresh: str) -> None:
    """As by the runtime: the first that answers."""
    several = fresh.replace("@127", "@127.0.0.1:1,127").replace("postgres@", f"postgres:{SECRET}@")
    assert place_of(several) == several.replace(f"postgres:{SECRET}@", "").replace("postgresql", "postgres")
    assert place_of(f"postgres://u:{SECRET}@one,two:1/d") == "postgres://one:5432,two:1/d"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        place_of("postgres://u@one:1,two:x/d")

    async def scenario() -> None:
        runtime = existing(several)
        await runtime.open()
        await runtime.close()

    asyncio.run(scenario())


def test_the_addresss_own_time_to_connect_counts() -> None:
    def took(dsn: str, patience: float) -> float:
        since = time.monotonic()
        with pytest.raises(StoreUnavailable):
            works(dsn, patience=patience)
        return time.monotonic() - since

    with socket.create_server(("127.0.0.1", 0), backlog=8) as deaf, ThreadPoolExecutor(2) as at_once:
        address = f"postgres://u@127.0.0.1:{deaf.getsockname()[1]}/d"
        soon = at_once.submit(took, f"{address}?connect_timeout=2", 30.0)
        late = at_once.submit(took, f"{address}?connect_timeout=3", 0.2)
        assert 1.5 < soon.result() < 10.0
        assert 2.5 < late.result() < 12.0


@pytest.mark.parametrize(
    "settings",
    [
        {"durability": "maybe"},
        {"lease_ttl": 0},
        *[{"patience": wrong} for wrong in (-1, 3601, float("inf"), float("nan"))],
        *[{"readers": wrong} for wrong in (0, -1, 65, 100_000, True, "2", 2.0, None)],
    ],
)
def test_settings_are_refused_when_the_store_is_built(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PostgresStore("postgres://127.0.0.1/d", **settings)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("postgres://u:hunter2@127.0.0.1:1/d", "Connection refused"),
        ("postgres://u:hunter2@localhost:1/d", "localhost"),
        ("postgres://u:hunter2@nowhere.invalid/d", "resolve"),
        ("postgres://u:hunter2@127.0.0.1:99999/d", "99999"),
        ("host=127.0.0.1 port=1 password=hunter2", "Connection refused"),
        ("postgres://u:hunter2@127.0.0.1:1/d?sslmode=x", "sslmode"),
    ],
)
def test_a_server_that_is_not_there_is_unavailable(
    said: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StoreUnavailable, match=meant) as caught:
        works(said)
    assert caught.value.fix
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_wrong_password_role_or_database_is_told_without_the_password(
    own: OwnPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    role(own, "guarded", "PASSWORD 'right'")
    hba = Path(sql(own.dsn, "SHOW hba_file")[0][0])
    hba.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
    sql(own.dsn, "SELECT pg_reload_conf()")
    for dsn, meant in (
        (as_role(own.dsn, "guarded", SECRET), "password authentication failed"),
        (as_role(own.dsn, "nobody_at_all"), "does not exist"),
        (f"{own.dsn}_nowhere", "does not exist"),
    ):
        with pytest.raises(StoreUnavailable, match=meant) as caught:
            works(dsn)
        assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


# roles


def test_a_schema_whose_functions_are_nobodys_by_default_is_made_whole(own: OwnPostgres, fresh: str) -> None:
    """Where an administrator has taken from PUBLIC what functions give it."""
    me = role(own, "hardened")
    sql(
        fresh,
        "DO $$ BEGIN CREATE ROLE shipworthy_app; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT shipworthy_app TO hardened",
        f"GRANT CREATE ON DATABASE {database_of(fresh)} TO hardened",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {me} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    )
    works(as_role(fresh, me))


PRIVILEGES = {
    "all": [
        "REVOKE ALL ON ALL TABLES IN SCHEMA shipworthy FROM shipworthy_app",
        "REVOKE ALL ON SCHEMA shipworthy FROM shipworthy_app",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA shipworthy FROM PUBLIC, shipworthy_app",
    ],
    "the schema": ["REVOKE ALL ON SCHEMA shipworthy FROM shipworthy_app"],
    "meta": ["REVOKE ALL ON shipworthy.meta FROM shipworthy_app"],
    "bodies": ["REVOKE DELETE ON shipworthy.bodies FROM shipworthy_app"],
    "beat": [
        "REVOKE ALL ON FUNCTION shipworthy.beat(text, bigint, bigint, boolean) FROM PUBLIC, shipworthy_app"
    ],
}


@pytest.mark.parametrize("lost", PRIVILEGES)
def test_privileges_that_a_restore_left_out_are_told_with_what_gives_them_back(
    lost: str, own: OwnPostgres, fresh: str
) -> None:
    """`pg_restore --no-acl` keeps none."""
    made(fresh)
    sql(fresh, *PRIVILEGES[lost])
    with pytest.raises(StoreRefused, match="lacks privileges of shipworthy_app") as caught:
        works(fresh)
    assert lost in ("all", *caught.value.what.partition("(on ")[2].rstrip(").").split(", "))
    sql(fresh, caught.value.fix.partition(": ")[2])
    works(fresh)


def test_the_statements_that_a_refusal_names_are_enough(own: OwnPostgres, fresh: str) -> None:
    """A role that may do nothing is told what an administrator has to say; once that is said, it works."""
    me = role(own, "humble")
    dsn = as_role(fresh, me)
    with pytest.raises(StoreRefused, match="permission denied") as caught:
        works(dsn)
    for statement in caught.value.fix.partition(": ")[2].replace("<your role>", me).split(";"):
        if statement.strip():
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                sql(fresh, statement.replace("<database>", database_of(fresh)))
    works(dsn)


def test_a_role_that_may_make_roles_makes_the_schema_by_itself(own: OwnPostgres) -> None:
    """Also the first of all; it is no superuser, and has no other privilege on the server."""
    with OwnPostgres() as other:
        sql(other.dsn, "CREATE ROLE landlord LOGIN CREATEROLE", "CREATE DATABASE flat OWNER landlord")
        works(as_role(on(other.dsn, "flat"), "landlord"))


def test_a_role_that_is_no_member_is_refused(own: OwnPostgres, fresh: str) -> None:
    made(fresh)
    stranger = as_role(fresh, role(own, "stranger"))
    with pytest.raises(StoreRefused, match='GRANT shipworthy_app TO "<your role>"'):
        works(stranger)
    sql(fresh, "GRANT shipworthy_app TO stranger")
    works(stranger)
    sql(fresh, "REVOKE shipworthy_app FROM stranger")


def test_a_membership_that_is_taken_away_meanwhile_is_told(own: OwnPostgres, fresh: str) -> None:
    """Of the next session; nothing is lost, and it goes on when the membership is back."""
    made(fresh)
    me = role(own, "member")
    sql(fresh, "GRANT shipworthy_app TO member")

    async def scenario() -> None:
        store = PostgresStore(as_role(fresh, me), patience=0.3)
        await store.open()
        fence = await begun(store, ALICE, "r")
        sql(fresh, "REVOKE shipworthy_app FROM member")
        terminate(fresh)
        with pytest.raises(StoreError) as caught:
            await store.commit(fence, answer(3))
        assert "GRANT" in caught.value.fix or "resume" in caught.value.fix.lower()
        sql(fresh, "GRANT shipworthy_app TO member")
        again = (await store.claim(ALICE, "r")).fence
        await store.commit(again, answer(3))
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("power", ["BYPASSRLS", "SUPERUSER"])
def test_a_role_that_passes_by_row_level_security_is_refused(
    power: str, own: OwnPostgres, fresh: str
) -> None:
    made(fresh)
    sql(own.dsn, f"ALTER ROLE shipworthy_app {power}")
    try:
        with pytest.raises(StoreRefused, match="NOSUPERUSER NOBYPASSRLS"):
            works(fresh)
    finally:
        sql(own.dsn, f"ALTER ROLE shipworthy_app NO{power}")
    works(fresh)


@pytest.mark.parametrize("table", ["runs", "journal", "bodies"])
@pytest.mark.parametrize(
    "change", ["DISABLE ROW LEVEL SECURITY", "NO FORCE ROW LEVEL SECURITY", "OWNER TO shipworthy_app"]
)
def test_a_table_that_is_not_under_row_level_security_is_refused(
    table: str, change: str, own: OwnPostgres, fresh: str
) -> None:
    made(fresh)
    sql(fresh, f"ALTER TABLE shipworthy.{table} {change}")
    with pytest.raises(StoreRefused, match=rf"{table}.*ENABLE ROW LEVEL SECURITY"):
        works(fresh)


POLICIES = {
    "one more": ["CREATE POLICY x ON shipworthy.{} USING (true)"],
    "one more for reading": ["CREATE POLICY x ON shipworthy.{} FOR SELECT USING (true)"],
    "all may be seen": ["ALTER POLICY tenant ON shipworthy.{} USING (true)"],
    "only one setting counts": [
        "ALTER POLICY tenant ON shipworthy.{} USING (tenant = current_setting('shipworthy.tenant', true))"
    ],
    "all may be written": ["ALTER POLICY tenant ON shipworthy.{} WITH CHECK (true)"],
    "another": [
        "DROP POLICY tenant ON shipworthy.{}",
        "CREATE POLICY tenant ON shipworthy.{} FOR SELECT USING (tenant = current_setting('shipworthy.tenant', true)"
        " OR current_setting('shipworthy.operator', true) = 'on')",
    ],
    "another name": ["ALTER POLICY tenant ON shipworthy.{} RENAME TO landlord"],
    "none": ["DROP POLICY tenant ON shipworthy.{}"],
}


@pytest.mark.parametrize("table", ["runs", "journal", "bodies"])
@pytest.mark.parametrize("change", POLICIES)
def test_a_table_under_another_policy_is_refused(table: str, change: str, fresh: str) -> None:
    made(fresh)
    sql(fresh, *[statement.format(table) for statement in POLICIES[change]])
    with pytest.raises(StoreRefused, match=rf" {table}\..*its only policy is `tenant`"):
        works(fresh)


@pytest.mark.parametrize("where", ["DATABASE", "ROLE", "options"])
@pytest.mark.parametrize("setting", ["operator", "tenant"])
def test_a_tenant_or_an_operator_that_is_set_elsewhere_does_not_count(
    where: str, setting: str, own: OwnPostgres, fresh: str
) -> None:
    """Neither in a transaction that names a tenant, nor in a session that names none."""
    made(fresh)
    me = role(own, f"preset_{os.getpid()}_{setting}_{where}".lower())
    value = "on" if setting == "operator" else STRANGER.tenant
    dsn = as_role(fresh, me)
    sql(fresh, f"GRANT shipworthy_app TO {me}")
    if where == "options":
        dsn += f"?options=-c%20shipworthy.{setting}%3D{value}"
    else:
        whose = database_of(fresh) if where == "DATABASE" else me
        sql(fresh, f"ALTER {where} {whose} SET \"shipworthy.{setting}\" = '{value}'")

    def seen(c: Connection) -> tuple[Any, Any]:
        with operations.of(c, "tenant", ALICE.tenant):
            mine = c.execute("SELECT DISTINCT tenant FROM runs").fetchall()
        return mine, c.execute("SELECT tenant FROM runs").fetchall()

    async def scenario() -> None:
        store = PostgresStore(dsn)
        await store.open()
        for scope in (ALICE, STRANGER):
            await ended(store, scope, "r")
        assert await store._do(seen) == ([(ALICE.tenant,)], [])
        assert store._sessions is not None
        writer = store._sessions.writer._connection
        assert writer is not None
        assert seen(writer) == ([(ALICE.tenant,)], [])  # its thread rests
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("local", "on"),
        ("remote_write", "on"),
        ("off", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ],
)
def test_a_commit_is_synced_at_least(asked: str, got: str, fresh: str) -> None:
    async def said(durability: Any) -> list[Any]:
        store = PostgresStore(f"{fresh}?options=-csynchronous_commit%3D{asked}", durability=durability)
        await store.open()
        assert store._sessions is not None
        writer = store._sessions.writer._connection
        assert writer is not None
        rows = writer.execute("SHOW synchronous_commit").fetchall()  # its thread rests
        await store.close()
        return rows

    assert asyncio.run(said("power")) == [(got,)]
    assert asyncio.run(said("process")) == [("off",)]


HOSTILE = {
    "statement_timeout": "100ms",
    "lock_timeout": "100ms",
    "idle_session_timeout": "100ms",
    "idle_in_transaction_session_timeout": "100ms",
    "transaction_timeout": "100ms",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "search_path": "nowhere",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "DateStyle": "German",
    "standard_conforming_strings": "off",
    "default_transaction_deferrable": "on",
    "plan_cache_mode": "force_generic_plan",
}


def test_what_is_set_for_the_login_role_does_not_reach_the_store(own: OwnPostgres, fresh: str) -> None:
    """Neither its timeouts nor its isolation; and two groups that wait for each other's locks still land."""
    made(fresh)
    me = role(own, "hampered")
    sql(
        fresh,
        "GRANT shipworthy_app TO hampered",
        *[f"ALTER ROLE {me} SET {k} = '{v}'" for k, v in HOSTILE.items()],
    )

    async def scenario() -> None:
        stores = [PostgresStore(as_role(fresh, me), patience=0.3) for _ in range(2)]
        for store in stores:
            await store.open()
        fences = [
            (store, await begun(store, ALICE, f"räksmörgås-{i}-日本")) for i, store in enumerate(stores * 20)
        ]
        with psycopg.connect(fresh) as other:
            other.execute("SELECT FROM shipworthy.runs FOR UPDATE")
            commits = asyncio.gather(*[store.commit(fence, ending(3)) for store, fence in fences])
            await asyncio.sleep(0.4)
        await commits
        assert len(await stores[0].session(ALICE)) == 41  # with the one of `made`
        for store in stores:
            assert store._sessions is not None
            assert (await store._do(lambda c: c.execute("SHOW synchronous_commit").fetchall())) == [("on",)]
            await store.close()

    asyncio.run(scenario())


# schemas


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE shipworthy.ships (name text)",
        "GRANT USAGE ON SCHEMA shipworthy TO shipworthy_app",
        "CREATE TABLE shipworthy.meta (a int); GRANT ALL ON SCHEMA shipworthy TO shipworthy_app; "
        "GRANT ALL ON shipworthy.meta TO shipworthy_app",
        "CREATE TABLE shipworthy.meta (version int, oldest int); GRANT ALL ON SCHEMA shipworthy TO shipworthy_app; "
        "GRANT ALL ON shipworthy.meta TO shipworthy_app",
    ],
    ids=["no grant", "no meta", "another meta", "an empty meta"],
)
def test_a_schema_of_something_else_is_refused_and_not_changed(
    schema: str, own: OwnPostgres, fresh: str
) -> None:
    made(own.fresh_database())  # the role is there
    sql(fresh, "CREATE SCHEMA shipworthy", schema)
    tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'shipworthy'::regnamespace"
    before = sql(fresh, tables)
    with pytest.raises(StoreForeign, match="another database"):
        works(fresh)
    assert sql(fresh, tables) == before


def test_a_schema_of_a_newer_release_is_used_as_long_as_it_says_that_it_may_be(fresh: str) -> None:
    """Its columns may be more; format 1 is the first, so that there is no older one to be brought up to date."""
    made(fresh)
    sql(
        fresh,
        "UPDATE shipworthy.meta SET version = 7",
        "ALTER TABLE shipworthy.runs ADD colour text DEFAULT 'red'",
    )
    works(fresh)
    sql(fresh, "UPDATE shipworthy.meta SET oldest = 2")
    with pytest.raises(StoreForeign, match=r"format 7; this release knows 1.*Upgrade shipworthy"):
        works(fresh)
    sql(fresh, "UPDATE shipworthy.meta SET oldest = 1")
    works(fresh)


def test_an_instance_whose_schema_is_changed_under_it_is_told_and_loses_nothing(fresh: str) -> None:
    """A newer release that takes away what the older one calls; when it is back, the older one goes on."""

    async def scenario() -> None:
        store = PostgresStore(fresh, patience=0.3)
        await store.open()
        fence = await begun(store, ALICE, "r")
        sql(fresh, "ALTER FUNCTION shipworthy.append RENAME TO append_2")
        with pytest.raises(StoreForeign, match="release"):
            await store.commit(fence, answer(3))
        sql(fresh, "ALTER FUNCTION shipworthy.append_2 RENAME TO append")
        await store.commit(fence, answer(3))
        sql(fresh, "ALTER TABLE shipworthy.journal ADD colour text", "ANALYZE")
        await store.commit(fence, answer(4))
        assert await seqs(store, ALICE, "r") == [1, 2, 3, 4]
        await store.close()

    asyncio.run(scenario())


def test_many_instances_make_the_schema_at_once() -> None:
    """In one database and in several of a server that has not even the role."""
    with OwnPostgres() as server:
        databases = [server.fresh_database() for _ in range(3)]
        with ThreadPoolExecutor(12) as pool:
            for done in [pool.submit(works, dsn) for dsn in databases * 4]:
                done.result(60)
        for dsn in databases:
            assert sql(dsn, "SELECT version, oldest FROM shipworthy.meta") == [(1, 1)]
            assert sql(dsn, "SELECT count(*) FROM shipworthy.runs") == [(4,)]


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'repeatable read'",
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '20ms'",
    ],
)
def test_settings_of_the_role_that_makes_the_schema_do_not_count(
    setting: str, own: OwnPostgres, fresh: str
) -> None:
    """Neither when several instances make it at once, nor when they wait for each other for long."""
    me = role(own, f"maker_{os.urandom(4).hex()}", "SUPERUSER")
    sql(own.dsn, f"ALTER ROLE {me} SET {setting}")
    with psycopg.connect(fresh) as other:  # none is first: all wait, and go on at once
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('shipworthy schema', 0))")
        with ThreadPoolExecutor(4) as pool:
            starts = [pool.submit(works, as_role(fresh, me)) for _ in range(4)]
            time.sleep(0.5)
            other.rollback()
            for start in starts:
                start.result(60)


# settings of the server


@contextlib.contextmanager
def set_to(own: OwnPostgres, setting: str, value: str) -> Iterator[None]:
    """The whole server runs with this setting."""
    sql(own.dsn, f"ALTER SYSTEM SET {setting} = {value}", "SELECT pg_reload_conf()")
    wait_for(own.dsn, f"SELECT current_setting('{setting}') = '{value}'")
    try:
        yield
    finally:
        # Said by a session that may write, whatever was set.
        with psycopg.connect(
            own.dsn, autocommit=True, options="-c default_transaction_read_only=off"
        ) as connection:
            connection.execute(f"ALTER SYSTEM RESET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
        wait_for(own.dsn, f"SELECT current_setting('{setting}') <> '{value}'")


def wait_for(dsn: str, query: str) -> None:
    for _ in range(1000):
        if sql(dsn, query) == [(True,)]:
            return
    raise AssertionError(query)


def test_a_server_without_fsync_is_refused_unless_that_is_accepted(own: OwnPostgres, fresh: str) -> None:
    with set_to(own, "fsync", "off"):
        with pytest.raises(StoreRefused, match=r'fsync = on, or pass durability="process"'):
            works(fresh)
        works(fresh, durability="process")


def test_a_server_that_can_only_be_read_is_told_and_waited_for(own: OwnPostgres, fresh: str) -> None:
    """As long as patience lasts; beyond it nothing was written."""

    async def scenario() -> None:
        hurried, patient = PostgresStore(fresh, patience=0.2), PostgresStore(fresh, patience=20.0)
        await hurried.open()
        await patient.open()
        fences = [await begun(hurried, ALICE, "a"), await begun(patient, ALICE, "b")]
        with set_to(own, "default_transaction_read_only", "on"):
            with pytest.raises(StoreReadOnly, match="target_session_attrs=read-write"):
                await hurried.commit(fences[0], answer(3))
            with pytest.raises(StoreReadOnly):
                await hurried.claim(ALICE, "a")
            with pytest.raises(StoreReadOnly):
                await PostgresStore(fresh, patience=0.2).open()
            assert await seqs(hurried, ALICE, "a") == [1, 2]
            waiting = asyncio.ensure_future(patient.commit(fences[1], answer(3)))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        await waiting
        await hurried.commit(fences[0], answer(3))
        assert await seqs(patient, ALICE, "a") == await seqs(hurried, ALICE, "b") == [1, 2, 3]
        await hurried.close()
        await patient.close()

    asyncio.run(scenario())


def terminate(dsn: str) -> None:
    """End every other session of the database."""
    ours = "datname = current_database() AND pid <> pg_backend_pid()"
    sql(dsn, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")


def test_sessions_that_the_server_ends_are_made_again(fresh: str) -> None:
    """Nobody notices: neither who writes nor who reads, nor another worker that looks for runs without an owner."""

    async def scenario() -> None:
        store, other = PostgresStore(fresh), PostgresStore(fresh)
        await store.open()
        await other.open()
        fence = await begun(store, ALICE, "r")
        for seq in range(3, 9):
            terminate(fresh)
            await store.commit(fence, answer(seq))
            terminate(fresh)
            assert await seqs(other, ALICE, "r") == list(range(1, seq + 1))
        await store.close()
        await other.close()

    asyncio.run(scenario())


def test_a_server_that_takes_no_more_connections_is_told(own: OwnPostgres, fresh: str) -> None:
    """What has its sessions goes on; what has none is told, and goes on when there is room."""
    made(fresh)
    me = role(own, "crowded")
    sql(fresh, "GRANT shipworthy_app TO crowded")

    async def scenario() -> None:
        store = PostgresStore(as_role(fresh, me), patience=0.2, readers=1)
        await store.open()
        fence = await begun(store, ALICE, "r")
        await seqs(store, ALICE, "r")
        sql(fresh, f"ALTER DATABASE {database_of(fresh)} CONNECTION LIMIT 1")
        await store.commit(fence, answer(3))
        late = PostgresStore(as_role(fresh, me), patience=0.2)
        with pytest.raises(StoreUnavailable, match="too many connections"):
            await late.open()
        assert await seqs(store, ALICE, "r") == [1, 2, 3]
        sql(fresh, f"ALTER DATABASE {database_of(fresh)} CONNECTION LIMIT -1")
        await late.open()
        await late.close()
        await store.close()

    asyncio.run(scenario())


# what is written


def test_what_cannot_be_stored_is_refused_alone(fresh: str) -> None:
    """A NUL or a surrogate in an id, or an id too long for its index, fails its own batch and no other of the group."""

    async def scenario() -> None:
        store = PostgresStore(fresh, patience=0.3)
        await store.open()
        fences = [await begun(store, ALICE, f"r{i}") for i in range(4)]
        bad = [Scope("a\x00b"), Scope("\ud800"), Scope(os.urandom(9000).hex()), Scope("")]
        told = await asyncio.gather(
            *[store.commit(fence, answer(3)) for fence in fences],
            *[store.begin(scope, "r", opening(ALICE, "r")) for scope in bad],
            return_exceptions=True,
        )
        assert told[:4] == [()] * 4
        assert all(isinstance(outcome, StoreError) for outcome in told[4:]), told
        for scope in bad[:2]:
            for ask in (store.read(scope, "r"), store.claim(scope, "r"), store.list(scope, RunFilter())):
                with pytest.raises(ShipworthyError):
                    await ask
        for i, fence in enumerate(fences):
            await store.commit(fence, answer(4))
            assert await seqs(store, ALICE, f"r{i}") == [1, 2, 3, 4]
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_keeps_what_it_can(encoding: str, own: OwnPostgres) -> None:
    """And refuses alone what it cannot."""
    name = f"in_{encoding.lower()}"
    sql(
        own.dsn,
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0",
    )

    async def scenario() -> None:
        store = PostgresStore(on(own.dsn, name), patience=0.3)
        await store.open()
        names = ["smörgås", "plain", "日本"]
        told = await asyncio.gather(
            *[store.begin(Scope(n), n, opening(Scope(n), n)) for n in names], return_exceptions=True
        )
        for n, outcome in zip(names, told, strict=True):
            if isinstance(outcome, StoreError):
                assert (encoding, n) == ("LATIN1", "日本")
            else:
                assert [run.scope for run in await store.list(Scope(n), RunFilter())] == [Scope(n)]
                assert await seqs(store, Scope(n), n) == [1, 2]
        await store.close()

    asyncio.run(scenario())


def test_a_body_of_a_hundred_megabytes_is_kept(fresh: str) -> None:
    async def scenario() -> None:
        store = PostgresStore(fresh)
        await store.open()
        fence = await begun(store, ALICE, "r")
        batch, body = answer(3), bytes(100_000_000)
        batch.bodies[digest_of(body)] = body
        small = await begun(store, ALICE, "small")
        await asyncio.gather(store.commit(fence, batch), store.commit(small, answer(3)))
        assert await store.body(ALICE, "r", digest_of(body)) == body
        assert await seqs(store, ALICE, "small") == [1, 2, 3]
        await store.close()

    asyncio.run(scenario())


def test_two_stores_that_end_runs_of_the_same_sessions_do_not_wait_in_a_circle(fresh: str) -> None:
    """Whatever the order of the runs in their groups; each end lands at once, in one order."""

    async def scenario() -> None:
        one, two = PostgresStore(fresh), PostgresStore(fresh)
        await one.open()
        await two.open()
        x, y, alone = Scope("acme", "alice", "x"), Scope("acme", "alice", "y"), Scope("acme")
        runs = [
            (one, x, "0"),
            (one, alone, "1"),
            (one, y, "2"),
            (two, y, "3"),
            (two, alone, "4"),
            (two, x, "5"),
        ]
        ends = [(store, await begun(store, scope, run_id)) for store, scope, run_id in runs]
        with psycopg.connect(fresh) as other:  # both groups stop in the middle
            other.execute("SELECT FROM shipworthy.runs WHERE session IS NULL FOR UPDATE")
            commits = asyncio.gather(*[store.commit(fence, ending(3)) for store, fence in ends])
            await asyncio.sleep(0.3)
        await commits
        assert sorted(await one.session(x)) == ["0", "5"]
        assert sorted(await two.session(y)) == ["2", "3"]
        await one.close()
        await two.close()

    asyncio.run(asyncio.wait_for(scenario(), 10))


@contextlib.contextmanager
def small_disk(own: OwnPostgres, folder: Path) -> Iterator[str]:
    """A database on a disk of its own of a few megabytes, where this may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("A REAL FULL DISK IS NOT TESTED HERE: this user may not mount a tmpfs.")
    try:
        place = folder / "place"
        place.mkdir()
        owner = pwd.getpwuid(Path(sql(own.dsn, "SHOW data_directory")[0][0]).stat().st_uid)
        os.chown(place, owner.pw_uid, owner.pw_gid)
        for parent in (folder, *folder.parents):
            with contextlib.suppress(PermissionError):
                parent.chmod(parent.stat().st_mode | 0o011)
        sql(own.dsn, f"CREATE TABLESPACE small LOCATION '{place}'", "CREATE DATABASE tight TABLESPACE small")
        yield on(own.dsn, "tight")
        sql(own.dsn, "DROP DATABASE tight WITH (FORCE)", "DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(
    sys.platform != "linux", reason="A REAL FULL DISK IS NOT TESTED HERE: it needs Linux's tmpfs."
)
def test_a_full_disk_is_told_and_nothing_is_lost(own: OwnPostgres, tmp_path: Path) -> None:
    async def scenario(dsn: str, disk: Path) -> None:
        store = PostgresStore(dsn)
        await store.open()
        fence = await begun(store, ALICE, "r")
        free = os.statvfs(disk)
        filler = disk / "filler"
        filler.write_bytes(bytes(max(free.f_bavail * free.f_frsize - 2_000_000, 0)))
        seq = 3
        with pytest.raises(StoreFull, match="Free space"):  # noqa: PT012
            while True:
                batch = answer(seq)
                body = os.urandom(200_000)
                batch.bodies[digest_of(body)] = body
                await store.commit(fence, batch)
                seq += 1
        assert await seqs(store, ALICE, "r") == list(range(1, seq))
        filler.unlink()
        await store.commit(fence, answer(seq))
        assert await seqs(store, ALICE, "r") == list(range(1, seq + 1))
        await store.close()

    with small_disk(own, tmp_path / "disk") as dsn:
        asyncio.run(scenario(dsn, tmp_path / "disk"))


def test_a_store_is_used_between_open_and_close_only_and_may_be_opened_again(fresh: str) -> None:
    async def scenario() -> None:
        store = PostgresStore(fresh)
        with pytest.raises(StoreClosed, match=r"await store\.open\(\)"):
            await store.find(ALICE, "r")
        with pytest.raises(StoreClosed, match=r"^The database '\w+' on 127\.0\.0\.1 is not open\. Call"):
            await store.find(ALICE, "r")
        for is_new in (True, False):
            await asyncio.gather(*[store.open() for _ in range(4)])
            assert (await store.begin(ALICE, "r", opening(ALICE, "r")) is not None) == is_new
            await store.close()
            await store.close()
            with pytest.raises(StoreClosed):
                await store.find(ALICE, "r")
        left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert sql(fresh, left) == [(0,)]
        assert sql(fresh, "SELECT count(*) FROM shipworthy.workers") == [(0,)]

    asyncio.run(scenario())
