"""Row level security against an attacker who has a connection, and against mistakes in our own code: 0 foreign rows.

Two tenants have runs, with a body each. An attack is made by a session of the first tenant, and gives what it got of
the second's. The schema is made, and owned, by a role that is no superuser.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres import PostgresStore, operations
from shipworthy.adapters.postgres.connection import Connection, Server, connect, schema
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.journal import Batch, Fence, RunFilter
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import Fenced, JournalDamaged, RunNotFound, ShipworthyError, StoreError
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import OPERATOR, granted, hold, line, turned_away
from shipworthy.testing.contracts.store.signing import grant, granting
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    STRANGER,
    answer,
    begun,
    digest_of,
    ending,
    opening,
)
from tests.servers.postgres import Postgres

MINE, THEIRS = ALICE, STRANGER
OWNER = "shipworthy_test_owner"
SECRET = b"the secret of globex"
DIGEST = digest_of(SECRET)
LEDGER = ("counters", "balances", "holds", "places", "caps", "changes")
TABLES = ("runs", "journal", "bodies", "grants", *LEDGER)
COLUMNS = (
    ("runs", "run_id"),
    ("journal", "events"),
    ("bodies", "data"),
    ("grants", "id"),
    ("counters", "key"),
    ("balances", "spent"),
    ("holds", "id"),
    ("places", "counter"),
    ("caps", "cap"),
    ("changes", "who"),
)
Attack = Callable[[Connection], Any]
ATTACKS: list[Attack] = []


@pytest.fixture(scope="module")
def owned(postgres: Postgres) -> Iterator[str]:
    """A database that the owner's store filled; its dsn is the owner's."""
    dsn = an_owned_database(postgres)
    asyncio.run(fill(dsn))
    yield dsn
    postgres.drop_database(dsn)


def an_owned_database(postgres: Postgres) -> str:
    """Of a role that is no superuser, and may only create."""
    dsn = postgres.fresh_database()
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(4711)")  # roles are the server's; tests run side by side
        for role, what in (("shipworthy_app", "NOLOGIN"), (OWNER, "LOGIN")):
            with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                admin.execute(f"CREATE ROLE {role} {what}".encode())
        admin.execute(f"GRANT shipworthy_app TO {OWNER}".encode())
        admin.execute(f"GRANT CREATE ON DATABASE {dsn.rpartition('/')[2]} TO {OWNER}".encode())
    return dsn.replace("postgres@", f"{OWNER}@", 1)


async def fill(dsn: str) -> None:
    store = PostgresStore(dsn)
    await store.open()
    for scope in (MINE, THEIRS):
        fence = await begun(store, scope, "the-run")
        batch = answer(3)
        body = SECRET if scope is THEIRS else b"mine"
        batch.bodies[digest_of(body)] = body
        batch.grants = (grant(f"grant of {scope.tenant}", scope),)
        await store.commit(fence, batch)
        await store.commit(await begun(store, scope, f"ended-{scope.tenant}"), ending(3))
        await draw(store, scope.tenant)
    await store.signing_keys()
    await store.close()


async def draw(store: PostgresStore, tenant: str) -> None:
    """A row of every table of the ledger: a hold, and somebody who waits for more than is left."""
    own = line(account("user", tenant, f"user of {tenant}"), soft=1)
    note = SECRET.decode() if tenant == THEIRS.tenant else ""
    await granted(store.ledger, hold(f"hold of {tenant}", 60, own, tenant=tenant, note=note))
    await turned_away(store.ledger, hold(f"another of {tenant}", 60, own, tenant=tenant, patient=True))
    everybody = line(account("global"), cap=10**6)
    await granted(store.ledger, hold(f"share of {tenant}", 1, everybody, tenant=tenant))
    await store.ledger.set_cap(OPERATOR, own.account, own.unit, own.window, 99, f"for {tenant}", "test")


def session(dsn: str, *, as_owner: bool = False) -> Connection:
    """As the store has it, or as the owner of the tables."""
    if not as_owner:
        return connect(Server(dsn, True, 5.0))
    made = Connection.connect(dsn, autocommit=True)
    made.execute("SET search_path = shipworthy, pg_temp")
    return made


def name(what: Any) -> str:
    return str(getattr(what, "__name__", what))


# attacks in a session that names the first tenant: each gives the rows of the other that it got hold of


def attack(found: Attack) -> Attack:
    ATTACKS.append(found)
    return found


def foreign(rows: Any) -> list[Any]:
    """Those that are not the first tenant's, whatever they look like."""
    return [row for row in rows if re.search(r"globex|secret of|[0-9a-f]{2}7365637265", repr(row))]


@attack
def reading_every_table(c: Connection) -> Any:
    return [
        row for table in TABLES for row in foreign(c.execute(f"SELECT * FROM {table}".encode()).fetchall())
    ]


@attack
def naming_the_other_tenant(c: Connection) -> Any:
    query = (
        "SELECT * FROM {} WHERE tenant = 'globex' OR tenant NOT IN ('acme', '')"  # '': everybody's counters
    )
    return [row for table in TABLES for row in c.execute(query.format(table).encode()).fetchall()]


@attack
def counting_and_joining(c: Connection) -> Any:
    query = """SELECT r.tenant, j.events, b.data
    FROM runs AS r FULL JOIN journal AS j ON true FULL JOIN bodies AS b ON true"""
    return foreign(c.execute(query).fetchall())


@attack
def a_function_that_sees_each_row_first(c: Connection) -> Any:
    """A cheap function with a side effect, which a planner would like to call before the policy."""
    c.execute("""CREATE OR REPLACE FUNCTION pg_temp.peep(t text, e anyelement) RETURNS boolean COST 0.0000001
    LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% %', t, e; RETURN true; END $$""")
    seen: list[str] = []
    c.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
    for table, column in COLUMNS:
        c.execute(f"SELECT FROM {table} WHERE pg_temp.peep(tenant, {column})".encode())
    return foreign(seen)


@attack
def an_error_that_quotes_a_row(c: Connection) -> Any:
    told = []
    for probe in (
        "tenant::int",
        "1 / (CASE tenant WHEN 'globex' THEN 0 ELSE 1 END)",
        "('{' || tenant)::json",
    ):
        with contextlib.suppress(psycopg.DataError):
            c.execute(f"SELECT {probe} FROM runs WHERE tenant <> 'acme'".encode()).fetchall()
            continue
        told.append(probe)
    return told


@attack
def a_view_and_a_common_table_expression(c: Connection) -> Any:
    c.execute("CREATE OR REPLACE TEMP VIEW v AS SELECT * FROM bodies")
    query = (
        "WITH t AS MATERIALIZED (SELECT * FROM journal) SELECT t.tenant, v.data FROM t FULL JOIN v ON true"
    )
    return foreign(c.execute(query.encode()).fetchall())


@attack
def copying_out(c: Connection) -> Any:
    found = []
    for what in (*TABLES, *[f"(SELECT * FROM {table})" for table in TABLES]):
        with c.cursor() as cursor, cursor.copy(f"COPY {what} TO STDOUT".encode()) as copy:
            found += [bytes(row) for row in copy]
    return foreign(found)


@attack
def copying_in(c: Connection) -> Any:
    return let(c, lambda: _copy_in(c))


def _copy_in(c: Connection) -> Any:
    with c.cursor() as cursor, cursor.copy("COPY bodies (run, tenant, digest, data) FROM STDIN") as copy:
        copy.write_row((1, "globex", "forged", b"x"))
    return [("COPY FROM",)]


def let(c: Connection, attempt: Callable[[], Any]) -> Any:
    """What an attempt that should be refused gives; that a row is there already is an answer as well."""
    try:
        return attempt()
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
        return []
    except psycopg.errors.UniqueViolation as error:
        return [str(error)]


@attack
def writing_for_the_other(c: Connection) -> Any:
    found = []
    for statement in (
        "INSERT INTO journal VALUES (1, 'globex', 9, 9, '[]') RETURNING *",
        "INSERT INTO bodies VALUES (1, 'globex', 'forged', '') RETURNING *",
        "INSERT INTO runs (tenant, run_id, status, fence, head, started_at, updated_at) "
        "VALUES ('globex', 'forged', 'running', 1, 0, 0, 0) RETURNING *",
        "INSERT INTO runs (tenant, run_id, status, fence, head, started_at, updated_at) "
        "VALUES ('globex', 'the-run', 'running', 1, 0, 0, 0) ON CONFLICT (tenant, run_id) "
        "DO UPDATE SET fence = 99 RETURNING *",
        "INSERT INTO grants (tenant, id, \"user\", expires_at, data) VALUES ('globex', 'forged', 'alice', 0, '') "
        "RETURNING *",
        'INSERT INTO grants (tenant, id, "user", expires_at, data) '
        "VALUES ('globex', 'grant of globex', 'alice', 0, '') ON CONFLICT DO NOTHING RETURNING *",
        'SELECT 1 FROM remember(\'[{"tenant": "globex", "id": "forged", "user_id": "alice", '
        '"expires_at": 1, "data": ""}]\')',
        "INSERT INTO balances VALUES (-1, 'globex') RETURNING *",
        "INSERT INTO caps VALUES ('globex', 'forged', 1) RETURNING *",
        "INSERT INTO caps SELECT 'globex', \"limit\", 1 FROM counters LIMIT 1 RETURNING *",
        'INSERT INTO counters (tenant, key, "limit", level, name, unit, "window", start, ends) '
        "VALUES ('globex', 'forged', '', '', '', '', '', 0, 0) ON CONFLICT DO NOTHING RETURNING *",
        "INSERT INTO holds VALUES ('globex', 'hold of globex', 'held', 0, '{}', '{}', '{}', NULL, 0, '0', '0') "
        "ON CONFLICT DO NOTHING RETURNING *",
        "INSERT INTO places VALUES ('x', 1, 'globex', DEFAULT, 0) RETURNING *",
        'INSERT INTO changes (at, action, tenant, level, name, unit, "window", who, why) '
        "VALUES (0, 'set', 'globex', '', '', '', '', '', '') RETURNING *",
        "INSERT INTO runs (tenant, run_id, status, fence, head, started_at, updated_at) "
        "VALUES ('globex', 'the-run', 'running', 1, 0, 0, 0) ON CONFLICT DO NOTHING RETURNING 1",
    ):
        found += let(c, lambda statement=statement: c.execute(statement.encode()).fetchall())
    return found


@attack
def moving_a_row_to_the_other(c: Connection) -> Any:
    found = []
    for table in TABLES:
        found += let(
            c,
            lambda table=table: c.execute(
                f"UPDATE {table} SET tenant = 'globex' RETURNING *".encode()
            ).fetchall(),
        )
    return found


@attack
def changing_and_deleting(c: Connection) -> Any:
    """The rows that are the other's are not there to be changed."""
    found = []
    for table, column in COLUMNS:
        for statement in (
            f"UPDATE {table} SET {column} = {column} RETURNING *",
            f"DELETE FROM {table} WHERE tenant <> 'acme' RETURNING *",
            f"MERGE INTO {table} AS t USING (SELECT) AS s ON t.tenant = 'globex' "
            "WHEN MATCHED THEN DELETE RETURNING t.*",
        ):
            found += foreign(c.execute(statement.encode()).fetchall())
    return found


@attack
def locking_and_sampling(c: Connection) -> Any:
    return foreign(c.execute("SELECT * FROM runs FOR UPDATE").fetchall()) + foreign(
        c.execute("SELECT * FROM runs TABLESAMPLE SYSTEM (100)").fetchall()
    )


@attack
def the_stores_own_functions(c: Connection) -> Any:
    """They run as whoever calls them."""
    gave = c.execute("SELECT handle FROM claim('attacker', 0, 'globex', 'the-run')").fetchall()
    return [row for row in gave if row != (None,)]


@attack
def the_keys_of_the_store(c: Connection) -> Any:
    """They are no tenant's: whoever had one could sign for any."""
    found = []
    for statement in (
        "SELECT secret FROM signing_keys",
        "UPDATE signing_keys SET secret = 'mine' RETURNING *",
        "DELETE FROM signing_keys RETURNING *",
        "INSERT INTO signing_keys VALUES (99, 'mine', 'mine', 0) RETURNING *",
    ):
        found += let(c, lambda statement=statement: c.execute(statement.encode()).fetchall())
    with c.cursor() as cursor, cursor.copy(b"COPY signing_keys TO STDOUT") as copy:
        return found + [bytes(row) for row in copy]


@attack
def what_the_planner_knows(c: Connection) -> Any:
    """The most frequent values of columns, which ANALYZE keeps."""
    return foreign(
        c.execute(
            "SELECT * FROM pg_stats WHERE schemaname = 'shipworthy' AND tablename <> 'workers'"
        ).fetchall()
    )


@attack
def what_other_sessions_do(c: Connection) -> Any:
    return foreign(c.execute("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall())


def attacked(c: Connection, tenant: str | None) -> dict[str, Any]:
    """What each attack finds, in a transaction that is rolled back."""
    found = {}
    for each in ATTACKS:
        c.execute("BEGIN")
        try:
            if tenant is not None:
                c.execute("SELECT set_config('shipworthy.tenant', %s, true)", (tenant,))
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                got = survives(c, each)
                if got:
                    found[name(each)] = got
        finally:
            c.rollback()
    return found


def survives(c: Connection, each: Attack) -> Any:
    return each(_Forgiving(c))  # type: ignore[arg-type]


class _Forgiving:
    """A connection each of whose statements is in a savepoint."""

    def __init__(self, c: Connection) -> None:
        self._c = c

    def execute(self, *args: Any) -> Any:
        with self._c.transaction():
            return self._c.execute(*args)

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        with self._c.transaction(), self._c.cursor() as cursor:
            yield cursor

    def add_notice_handler(self, handler: Any) -> None:
        self._c.add_notice_handler(handler)


@pytest.mark.parametrize("as_owner", [False, True], ids=["app", "owner"])
@pytest.mark.parametrize("tenant", ["acme", None, "", "initech", "GLOBEX", "globex ", "%", "' OR true --"])
def test_no_attack_finds_a_row_of_another_tenant(tenant: str | None, as_owner: bool, owned: str) -> None:
    with psycopg.connect(owned.replace(OWNER, "postgres"), autocommit=True) as admin:
        admin.execute("ANALYZE")
    with session(owned, as_owner=as_owner) as c:
        assert attacked(c, tenant) == {}


def test_the_attacks_find_rows_where_they_may(owned: str) -> None:
    """Of the tenant itself, as it should be: the attacks do work."""
    with session(owned) as c:
        found = attacked(c, "globex")
    assert {name(each) for each in (reading_every_table, copying_out, counting_and_joining)} <= set(found)
    assert {
        name(each) for each in (writing_for_the_other, changing_and_deleting, the_stores_own_functions)
    } <= set(found)


# the setting


def visible(c: Connection) -> int:
    return sum(c.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0] for table in TABLES)


def test_the_setting_does_not_outlive_its_transaction(owned: str) -> None:
    """After a commit, a rollback, an exception of ours, an error of the server's, and a broken pipeline."""
    with session(owned) as c:
        for setting, value in (("tenant", "globex"), ("operator", "on")):
            with operations.of(c, setting, value):
                assert visible(c) > 0
            assert visible(c) == 0
            with contextlib.suppress(KeyError), operations.of(c, setting, value):
                raise KeyError
            assert visible(c) == 0
            with contextlib.suppress(psycopg.Error), operations.of(c, setting, value):
                c.execute("SELECT 1 / 0")
            assert visible(c) == 0
            with contextlib.suppress(psycopg.Error), operations.of(c, setting, value):
                c.execute("SELECT nothing FROM nowhere").fetchall()
            assert visible(c) == 0
            with contextlib.suppress(psycopg.Error), operations.of(c, setting, value):
                c.execute("ROLLBACK")
                c.execute("SELECT 1")
            assert visible(c) == 0
            with c.transaction(), contextlib.suppress(KeyError), c.transaction():
                c.execute("SELECT set_config(%s, %s, true)", (f"shipworthy.{setting}", value))
                raise KeyError
            assert visible(c) == 0


def test_a_prepared_statement_sees_the_tenant_of_its_execution(owned: str) -> None:
    """Made under one tenant and used under another, often enough for a plan that is kept."""
    with session(owned) as c:
        c.execute("PREPARE all_runs AS SELECT tenant FROM runs")
        for i in range(24):
            tenant = ("globex", "acme", "nobody")[i % 3] if i > 9 else "globex"
            with operations.of(c, "tenant", tenant):
                by_name = c.execute("EXECUTE all_runs").fetchall()
                by_driver = c.execute(
                    "SELECT tenant FROM runs WHERE fence > %s", (0,), prepare=True
                ).fetchall()
            assert {row[0] for row in by_name + by_driver} == ({tenant} - {"nobody"})
        assert c.execute("EXECUTE all_runs").fetchall() == []
        with operations.of(c, "operator", "on"):
            assert {row[0] for row in c.execute("EXECUTE all_runs").fetchall()} == {"acme", "globex"}
        assert c.execute("EXECUTE all_runs").fetchall() == []
        [(kept,)] = c.execute("SELECT sum(generic_plans) FROM pg_prepared_statements").fetchall()
        assert kept > 5


# through the store


def test_ids_and_fences_of_another_tenant_open_nothing(owned: str) -> None:
    """Right in all but whose they are, in whatever part of the port they are used."""

    async def scenario() -> None:
        store = PostgresStore(owned)
        await store.open()
        run_id = "secret-plan"
        theirs = await begun(store, THEIRS, run_id)
        batch = answer(3)
        batch.bodies[DIGEST] = SECRET
        await store.commit(theirs, batch)
        for ask in (
            store.read(MINE, run_id),
            store.find(MINE, run_id),
            store.claim(MINE, run_id),
            store.body(MINE, run_id, DIGEST),
        ):
            with pytest.raises(RunNotFound):
                await ask
        with pytest.raises(JournalDamaged):
            await store.body(MINE, "the-run", DIGEST)
        for scope in (MINE, Scope("acme"), Scope("acme", THEIRS.user, THEIRS.session)):
            for which in (RunFilter(), RunFilter(status="running"), RunFilter(status="completed")):
                assert {run.scope.tenant for run in await store.list(scope, which)} <= {"acme"}
            assert set(await store.session(scope)) <= {"ended-acme"}
        forged = [
            Fence(MINE, run_id, theirs.token, theirs.key),
            Fence(MINE, "the-run", theirs.token, theirs.key),
            Fence(Scope(""), run_id, theirs.token, theirs.key),
            Fence(THEIRS, run_id, theirs.token + 1, theirs.key),
        ]
        for fence in forged:
            for forgery in (answer(4), ending(4), Batch(answer(4).events, {"0" * 64: b"forged"})):
                with pytest.raises((Fenced, StoreError)):
                    await store.commit(fence, forgery)
            await store.release(fence)
        await store.news(MINE, run_id, 0.0)
        assert (
            await store.begin(MINE, run_id, opening(MINE, run_id)) is not None
        )  # another tenant's id is free
        await store.commit(theirs, answer(4))
        assert [event.seq for event in await store.read(THEIRS, run_id)] == [1, 2, 3, 4]
        await store.close()

    asyncio.run(scenario())


def test_no_operation_of_a_scope_leaves_a_session_that_sees_anything(owned: str) -> None:
    """Nor one of an operator, nor one that fails: after each, every session of the store sees no row at all."""

    async def scenario() -> None:
        store = PostgresStore(owned, readers=1)
        await store.open()
        assert store._sessions is not None
        lanes = [store._sessions.writer, *store._sessions.readers]
        said: list[str] = []

        async def blind() -> None:
            for lane in lanes:
                if lane._connection is not None and lane is not store._sessions.writer:  # type: ignore[union-attr]
                    assert await store._do(visible) == 0
            writer = store._sessions.writer._connection  # type: ignore[union-attr]
            assert writer is not None
            assert visible(writer) == 0  # its thread rests
            for c in [lane._connection for lane in lanes if lane._connection is not None]:
                [settings] = c.execute(
                    "SELECT current_setting('shipworthy.tenant', true), current_setting('shipworthy.operator', true), "
                    "current_setting('shipworthy.signing', true)"
                ).fetchall()
                said.append("".join(settings))
                assert not any(settings)

        fence = await begun(store, MINE, "sober")
        operator = Operator("the test")
        for work in (
            lambda: store.commit(fence, answer(3)),
            lambda: store.commit(fence, answer(3)),
            lambda: store.begin(MINE, "sober", opening(MINE, "sober")),
            lambda: store.begin(Scope(""), "sober", opening(MINE, "sober")),
            lambda: store.begin(Scope("\x00"), "sober", opening(MINE, "sober")),
            lambda: store.read(MINE, "sober"),
            lambda: store.read(MINE, "nothing"),
            lambda: store.read(Scope("\x00"), "sober"),
            lambda: store.body(MINE, "sober", "none"),
            lambda: store.find(MINE, "sober"),
            lambda: store.list(MINE, RunFilter()),
            lambda: store.list(MINE, RunFilter(limit=-1)),
            lambda: store.session(MINE),
            lambda: store.session(MINE, 2**40),
            lambda: store.news(MINE, "sober", 0.0),
            lambda: store.claim(MINE, "sober"),
            lambda: store.claim(MINE, "nothing"),
            lambda: store.release(fence),
            lambda: store.orphans(operator),
            lambda: store.signing_keys(),
            lambda: store.rotate_signing_key(operator),
            lambda: store.rotate_signing_key(operator, 2**80),
            lambda: store.grants(MINE),
            lambda: store.grants(Scope("acme", "\x00")),
            lambda: store.revoke(MINE, "none"),
            lambda: store.adopt(operator, [SigningKey("k", b"k", 2**80)], [grant("g", MINE)]),
            lambda: store.adopt(operator, [SigningKey("k", b"k", 1)], [grant("\x00", MINE)]),
            lambda: store.everyones_grants(operator),
            lambda: store.due(operator, 2**40),
            lambda: store.commit(fence, granting(answer(4), grant("g", MINE))),
            lambda: store.commit(fence, granting(answer(5), grant("\x00", MINE))),
            lambda: store.prune(operator, 0),
            lambda: store.prune(operator, 2**80),
        ):
            with contextlib.suppress(ShipworthyError):
                await work()
            await blind()
        assert len(said) > 20
        await store.close()

    asyncio.run(scenario())


def test_a_notification_tells_a_number_and_nothing_of_whose_it_is(owned: str) -> None:
    async def scenario() -> list[str]:
        store = PostgresStore(owned)
        await store.open()
        with psycopg.connect(owned, autocommit=True) as ear:
            ear.execute("LISTEN shipworthy")
            fence = await begun(store, THEIRS, "listened-to")
            await store.commit(fence, answer(3))
            await store.news(THEIRS, "listened-to", 0.0)
            await store.commit(fence, answer(4))
            await store.commit(fence, ending(5))
            await store.close()
            return [note.payload for note in ear.notifies(timeout=5, stop_after=3)]

    heard = asyncio.run(scenario())
    assert len(heard) == 3  # none before somebody followed
    assert all(re.fullmatch(r"\d{1,6}", payload) for payload in heard), heard


# schemas and code that are broken on purpose


def _schema(*changes: tuple[str, str]) -> bytes:
    text = schema()
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text.encode()


POLICY = """(tenant = current_setting(''shipworthy.tenant'', true)
      OR current_setting(''shipworthy.operator'', true) = ''on'')"""
BROKEN = {
    "no policy on bodies": [("ARRAY['runs', 'journal', 'bodies']", "ARRAY['runs', 'journal']")],
    "no policy on the journal": [("ARRAY['runs', 'journal', 'bodies']", "ARRAY['runs', 'bodies']")],
    "not forced": [("ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY")],
    "no setting sees all": [(POLICY, f"({POLICY} OR current_setting(''shipworthy.tenant'', true) IS NULL)")],
    "an empty setting sees all": [
        (POLICY, f"({POLICY} OR current_setting(''shipworthy.tenant'', true) = '''')")
    ],
    "writing is not checked": [(POLICY, f"{POLICY} WITH CHECK (true)")],
    "grants of every tenant": [
        ("ALTER TABLE grants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;", ""),
    ],
    "keys for everybody": [
        ("USING (current_setting('shipworthy.signing', true) = 'on')", "USING (true)"),
    ],
    "keys for whoever owns them": [
        ("ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY, FORCE", "ALTER TABLE signing_keys ENABLE"),
    ],
    "functions of the owner's": [
        ("LANGUAGE plpgsql SET", "LANGUAGE plpgsql SECURITY DEFINER SET"),
        (", FORCE ROW LEVEL SECURITY", ""),
    ],
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_schema_that_is_broken_is_caught(broken: str, postgres: Postgres) -> None:
    dsn = an_owned_database(postgres)
    try:
        with psycopg.connect(dsn, autocommit=False) as owner:
            owner.execute(_schema(*BROKEN[broken]))
        with contextlib.suppress(StoreError):
            asyncio.run(fill(dsn))  # the store refuses some of them by itself
        plant(dsn)
        found: dict[str, Any] = {}
        for as_owner in (False, True):
            for tenant in ("acme", None, ""):
                with session(dsn, as_owner=as_owner) as c:
                    found |= attacked(c, tenant)
        assert found
    finally:
        postgres.drop_database(dsn)


def plant(dsn: str) -> None:
    """The rows that the store would have written, by the superuser."""
    with psycopg.connect(dsn.replace(OWNER, "postgres"), autocommit=True) as admin:
        admin.execute("SET search_path = shipworthy")
        for tenant in ("acme", "globex"):
            admin.execute(
                "INSERT INTO runs (tenant, run_id, status, fence, head, started_at, updated_at) "
                "VALUES (%s, 'the-run', 'running', 1, 0, 0, 0) ON CONFLICT DO NOTHING",
                (tenant,),
            )
            admin.execute("INSERT INTO journal VALUES (77, %s, %s, 1, '[]')", (tenant, len(tenant)))
            admin.execute("INSERT INTO bodies VALUES (77, %s, %s, 'the secret of globex')", (tenant, tenant))
            admin.execute(
                'INSERT INTO grants (tenant, id, "user", expires_at, data) VALUES (%s, %s, %s, 0, %s)',
                (tenant, f"planted of {tenant}", "u", b""),
            )
        admin.execute("INSERT INTO signing_keys VALUES (77, 'planted', 'secret', 0)")


def test_a_setting_for_the_session_is_caught(owned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SET in the place of SET LOCAL."""

    @contextlib.contextmanager
    def of(connection: Connection, setting: str, value: str) -> Iterator[None]:
        connection.execute("SELECT set_config(%s, %s, false)", (f"shipworthy.{setting}", value))
        yield

    monkeypatch.setattr(operations, "of", of)
    with pytest.raises(AssertionError):
        test_the_setting_does_not_outlive_its_transaction(owned)
    with pytest.raises(AssertionError):
        test_no_operation_of_a_scope_leaves_a_session_that_sees_anything(owned)
