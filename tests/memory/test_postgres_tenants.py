"""Row-level security of memory against an attacker who has a session, and against mistakes of ours: no foreign row.

The attacker is in a transaction that says which partition it is about, or within which scope, or nothing; as the role
of the store, or as the owner of the tables, who is no superuser. An attack gives what it got of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres import memory_schema, memory_session, memory_statements
from shipworthy.adapters.postgres.connection import Connection, Server
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.postgres.memory_places import place_of_scope
from shipworthy.adapters.postgres.memory_session import Sight, enter, perform, perform_all, sight_of
from shipworthy.adapters.postgres.memory_statements import STATEMENTS
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import MemoryStoreError
from tests.memory.postgres_world import (
    MINE,
    OTHERS,
    OWNER,
    TABLES,
    THEIRS,
    WITHIN,
    admin,
    an_owned_database,
    fill,
    record,
    session,
)

Attack = Callable[[Any], Any]
GET: memory_session.Step = ("get", {"ids": [b"a", b"b", b"c"]})
SIGHTS = {
    "partition": sight_of(MINE),
    "within": sight_of(MINE, within=True),
    "nobody": Sight(),
    "quotes": sight_of(Scope("' OR true --", '"; RESET ROLE; --')),
    "NUL": sight_of(Scope("acme\0", "alice")),
}
ALL = [f"SELECT * FROM shipworthy_memory.{table}" for table in TABLES]


@pytest.fixture(scope="module")
def owned() -> Iterator[str]:
    """A database that the owner's store filled; its dsn is the owner's."""
    with an_owned_database() as dsn:
        asyncio.run(fill(dsn))
        with admin(dsn) as c:
            c.execute(EVIL)
            c.execute("ANALYZE")
        yield dsn


def place(scope: Scope) -> str:
    return f"'\\x{place_of_scope(scope).hex()}'::bytea"


def every(c: Any, *statements: str) -> list[Any]:
    """What they give together, without those that are refused."""
    found = []
    for statement in statements:
        with contextlib.suppress(
            psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported, psycopg.DataError
        ):
            found += c.execute(statement.encode()).fetchall()
    return found


# attacks


def reading(c: Any) -> Any:
    return every(c, *ALL, *[f"{select} WHERE place <> {place(MINE)}" for select in ALL])


def locking_and_sampling(c: Any) -> Any:
    return every(
        c, *[f"{ALL[n]} {how}" for n in (0, 1) for how in ("FOR UPDATE", "TABLESAMPLE SYSTEM (100)")]
    )


def joining(c: Any) -> Any:
    return every(
        c,
        "WITH t AS MATERIALIZED (SELECT * FROM shipworthy_memory.records) SELECT t.*, p.* FROM t "
        "FULL JOIN shipworthy_memory.partitions AS p ON true",
    )


def copying_out(c: Any) -> Any:
    found = []
    for table in TABLES:
        with c.cursor() as cursor, cursor.copy(f"COPY shipworthy_memory.{table} TO STDOUT".encode()) as copy:
            found += [bytes(row).decode() for row in copy]
    return found


def a_function_that_sees_each_row_first(c: Any) -> Any:
    """A cheap function with a side effect, which a planner would like to call before the policy."""
    c.execute("""CREATE OR REPLACE FUNCTION pg_temp.peep(t bytea, d bytea) RETURNS boolean COST 0.0000001
    LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% %', t, d; RETURN true; END $$""")
    seen: list[str] = []
    c.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
    c.execute("SELECT FROM shipworthy_memory.records WHERE pg_temp.peep(place, data)")
    return seen


def names_that_hide_others(c: Any) -> Any:
    """Functions and operators of the attacker's, which a path finds before PostgreSQL's own."""
    c.execute("SET LOCAL search_path = evil, pg_catalog")
    return every(c, *ALL)


EVIL = """CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT '74' $$;
CREATE FUNCTION evil.always(bytea, bytea) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR evil.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.always);
CREATE OPERATOR evil.< (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.always);
CREATE OPERATOR evil.>= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.always);"""


def writing_for_others(c: Any) -> Any:
    theirs, fresh = place(THEIRS), place(Scope("globex", "forged"))
    found = []
    for statement in (
        f"INSERT INTO shipworthy_memory.partitions VALUES ({fresh}, 1, 1, 1)",
        f"INSERT INTO shipworthy_memory.records VALUES ({theirs}, '\\x66', 99, 'episode', 1, 1, '', '', '')",
        f"INSERT INTO shipworthy_memory.records VALUES ({theirs}, '\\x61', 99, 'episode', 1, 1, '', '', '')",
        f"UPDATE shipworthy_memory.partitions SET place = {theirs}",
    ):
        try:
            if c.execute(statement.encode()).rowcount:
                found.append(("written", statement))
        except psycopg.errors.UniqueViolation as error:
            found.append(("written", f"it is known that a row is there: {error}"))
        except psycopg.errors.InsufficientPrivilege:
            pass
    return found


def changing_and_deleting(c: Any) -> Any:
    return every(
        c,
        "UPDATE shipworthy_memory.partitions SET epoch = 1 RETURNING *",
        *[f"DELETE FROM shipworthy_memory.{table} RETURNING *" for table in ("records", "partitions")],
        f"MERGE INTO shipworthy_memory.partitions AS t USING (SELECT) AS s ON t.place = {place(THEIRS)} "
        "WHEN MATCHED THEN DELETE RETURNING t.*",
    )


def what_the_planner_knows(c: Any) -> Any:
    return every(c, "SELECT * FROM pg_stats WHERE schemaname = 'shipworthy_memory'")


ATTACKS = (
    reading,
    locking_and_sampling,
    joining,
    copying_out,
    a_function_that_sees_each_row_first,
    names_that_hide_others,
    writing_for_others,
    changing_and_deleting,
    what_the_planner_knows,
)


class _Forgiving:
    """A connection each of whose statements is in a savepoint."""

    def __init__(self, c: Any) -> None:
        self._c = c
        self.add_notice_handler = c.add_notice_handler

    def execute(self, *args: Any) -> Any:
        with self._c.transaction():
            return self._c.execute(*args)

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        with self._c.transaction(), self._c.cursor() as cursor:
            yield cursor


def foreign(rows: Any, sight: Sight) -> list[str]:
    """Those that are not of what may be seen, whatever they look like."""
    may = {"partition": (MINE,), "within": (MINE, WITHIN)}
    names = [who for who, each in SIGHTS.items() if each == sight and who in may]
    mine = may[names[0]] if names else ()
    others = [scope for scope in (MINE, WITHIN, *OTHERS) if scope not in mine]
    marks = [re.escape(repr(place_of_scope(scope))[1:]) for scope in others]
    marks += [re.escape(f"canary of {scope}") for scope in others]
    marks += [re.escape(f"\\x{place_of_scope(scope).hex()}") + r"(?![0-9a-f])" for scope in others]
    said = [repr(row).replace("\\\\", "\\") for row in rows]
    return [text for text in said if re.search("|".join(marks), text) or text.startswith("('written'")]


@contextlib.contextmanager
def attacking(c: Any, sight: Sight, *, as_owner: bool) -> Iterator[None]:
    """A transaction that sees what *sight* shows, and is rolled back."""
    with c.transaction(force_rollback=True):
        text = STATEMENTS["enter"]
        if as_owner:
            assert "set_config('role', 'shipworthy_app', true)," in text
            text = text.replace("set_config('role', 'shipworthy_app', true),", "")
        c.execute(text.encode(), sight.said())
        yield


def attacked(dsn: str, *, as_owner: bool) -> Iterator[str]:
    """Which attacks find something, and in which sight."""
    with psycopg.connect(dsn, autocommit=True) if as_owner else session(dsn) as c:
        for (who, sight), attack in itertools.product(SIGHTS.items(), ATTACKS):
            refused = contextlib.suppress(psycopg.errors.InsufficientPrivilege)
            with attacking(c, sight, as_owner=as_owner), refused:
                if got := foreign(attack(_Forgiving(c)), sight):
                    yield f"{attack.__name__} {who}: {got}"


@pytest.mark.parametrize("as_owner", [False, True], ids=["app", "owner"])
def test_no_attack_finds_a_row_of_another_partition(as_owner: bool, owned: str) -> None:
    assert list(attacked(owned, as_owner=as_owner)) == []


def test_the_attacks_find_rows_where_there_is_no_security(owned: str) -> None:
    """As a superuser: the attacks do work."""
    found = list(attacked(owned.replace(OWNER, "postgres"), as_owner=True))
    assert {name.partition(" ")[0] for name in found} == {
        attack.__name__ for attack in ATTACKS if attack is not what_the_planner_knows
    }


# schemas that are broken on purpose

EXACT = "(place = decode(nullif(current_setting('shipworthy.memory_place', true), ''), 'hex'))"
UPPER = " || '2f', 'hex')\n    AND place < decode(nullif(current_setting('shipworthy.memory_within', true), '') || "
UPPER += "'30', 'hex'))"
ENABLED = "ALTER TABLE shipworthy_memory.records ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
BROKEN: dict[str, tuple[str, str, bool]] = {
    "no security": (ENABLED, "", True),
    "not forced": (", FORCE ROW LEVEL SECURITY", "", True),
    "vectors of everybody": (ENABLED.replace("records", "vectors"), "", True),
    "everybody's partition": (EXACT, "(true)", True),
    "no setting sees all": (
        EXACT,
        f"({EXACT} OR current_setting('shipworthy.memory_place', true) = '')",
        True,
    ),
    "writing is not checked": (EXACT, f"{EXACT} WITH CHECK (true)", True),
    "all operators": ("(current_setting('shipworthy.memory_operator', true) = 'on')", "(true)", True),
    "all that follow": (UPPER, " || '2f', 'hex'))", False),
    "all that begin so": ("|| '2f', 'hex')", ", 'hex')", False),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_schema_that_is_broken_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the attacks, and where it can be told from its looks by the store itself, which refuses it."""
    before, after, refused = BROKEN[broken]
    migration, vectors = memory_statements.MIGRATIONS[0], memory_statements.VECTORS
    assert before in migration + vectors
    monkeypatch.setattr(memory_statements, "MIGRATIONS", (migration.replace(before, after),))
    monkeypatch.setattr(memory_statements, "VECTORS", vectors.replace(before, after))
    with an_owned_database() as dsn:
        with monkeypatch.context() as blind:
            blind.setattr(memory_schema, "_check", lambda *_: None)
            asyncio.run(fill(dsn))
        with admin(dsn) as c:
            c.execute(EVIL)
        assert any(attacked(dsn, as_owner=False)) or any(attacked(dsn, as_owner=True))
        store = PostgresMemoryStore(dsn)
        with (
            pytest.raises(MemoryStoreError, match="row level security")
            if refused
            else contextlib.nullcontext()
        ):
            asyncio.run(store.open())
        asyncio.run(store.close())


# the one place that opens transactions


def visible(c: Any) -> int:
    return len(every(c, *ALL))


def outlives(c: Connection) -> list[str]:
    """After what a session still sees, or acts as, what it did before."""
    found = []
    for who, sight in (*SIGHTS.items(), ("operator", sight_of(Operator("test")))):
        for nth, steps in enumerate(([GET], [GET, ("no such statement", {})], [GET, ("failing", {})])):
            with contextlib.suppress(KeyError, psycopg.Error):
                perform(c, sight, *steps)
            assert not c.closed
            if visible(c) or c.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                found.append(f"{who} {nth}")
                c.rollback()
    return found


def test_what_was_said_does_not_outlive_its_transaction(owned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was done, after an exception of ours, and after an error of the server's in the middle."""
    monkeypatch.setitem(STATEMENTS, "failing", "SELECT 1 / 0")
    with session(owned) as c:
        assert outlives(c) == []
    monkeypatch.setitem(STATEMENTS, "enter", STATEMENTS["enter"].replace(", true)", ", false)"))
    with session(owned) as c:
        assert outlives(c)


def spoiled(dsn: str) -> list[str]:
    """Which sessions that somebody spoiled show more than a partition."""
    found = []
    for how in (
        "RESET ROLE",
        "SET SESSION AUTHORIZATION DEFAULT",
        f"SET shipworthy.memory_place = '{place_of_scope(THEIRS).hex()}'",
        "SET shipworthy.memory_within = '74676c6f626578'",
        "SET shipworthy.memory_operator = 'on'",
        "CREATE TEMP TABLE records (LIKE shipworthy_memory.records); SET search_path = pg_temp",
    ):
        with session(dsn) as c:
            c.execute(how.encode())
            for sight in SIGHTS.values():
                [got], [seen] = perform(c, sight, GET), perform(c, sight, ("seen", {}))
                if foreign([*got, *seen], sight) or (sight == SIGHTS["partition"] and len(got) != 3):
                    found.append(how)
    return found


ENTER = STATEMENTS["enter"]


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("", ""),
        ("set_config('role', 'shipworthy_app', true)", "''"),
        ("set_config('shipworthy.memory_place', %(said_place)b, true)", "%(said_place)b"),
        ("set_config('shipworthy.memory_within', %(said_within)b, true)", "%(said_within)b"),
        ("set_config('shipworthy.memory_operator', %(said_operator)b, true)", "%(said_operator)b"),
    ],
)
def test_a_session_that_was_spoiled_shows_no_more(
    said: str, instead: str, owned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction takes the role and says all three settings again; one that leaves any of them out is caught."""
    assert said in ENTER
    monkeypatch.setitem(STATEMENTS, "seen", "SELECT * FROM shipworthy_memory.partitions")
    monkeypatch.setitem(STATEMENTS, "enter", ENTER.replace(said, instead) if said else ENTER)
    assert bool(spoiled(owned.replace(OWNER, "postgres"))) == bool(said)


def test_a_statement_that_was_prepared_for_another_shows_no_more(owned: str) -> None:
    """Prepared and planned while others were seen, by the store and by hand; of several in one transaction too."""
    with session(owned) as c:
        for _ in range(12):
            for scope in (MINE, THEIRS, *OTHERS):
                [rows] = perform(c, sight_of(scope), GET)
                assert {row[2] for row in rows} == {f"canary of {scope}".encode()}
        c.execute("PREPARE p AS SELECT * FROM shipworthy_memory.records")
        for scope in (THEIRS, MINE):
            with c.transaction():
                c.execute(STATEMENTS["enter"].encode(), sight_of(scope).said())
                assert {row[6] for row in c.execute("EXECUTE p").fetchall()} == {
                    f"canary of {scope}".encode()
                }
        both = perform_all(c, [(sight_of(scope), [GET]) for scope in (THEIRS, MINE)])
        assert [rows[0][2].decode() for [rows] in both] == [f"canary of {scope}" for scope in (THEIRS, MINE)]


# roles that see too much


@pytest.mark.parametrize("superuser", [True, False], ids=["superuser", "owner"])
def test_a_store_that_stays_who_it_is_refuses_itself(
    superuser: bool, owned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A superuser's address is fine since the role is changed, which is verified."""
    dsn = owned.replace(OWNER, "postgres") if superuser else owned
    store = PostgresMemoryStore(dsn)
    asyncio.run(store.open())
    asyncio.run(store.close())

    def enter_as_before(server: Server) -> Connection:
        connection = enter(server)
        connection.execute("RESET ROLE")
        return connection

    monkeypatch.setattr(memory_schema, "enter", enter_as_before)
    said = "set_config('role', 'shipworthy_app', true)"
    monkeypatch.setitem(STATEMENTS, "enter", ENTER.replace(said, "''"))
    with pytest.raises(MemoryStoreError, match="row level security"):
        asyncio.run(PostgresMemoryStore(dsn).open())


def test_errors_name_nobody_else(owned: str) -> None:
    """A put that the server refuses quotes no row."""

    async def scenario() -> str:
        store = PostgresMemoryStore(owned)
        await store.open()
        try:
            with pytest.raises(MemoryStoreError) as refused:
                await store.put(Scope("acme" * 300, "alice" * 300, "trip" * 10), [record("x", MINE)])
        finally:
            await store.close()
        return str(refused.value)

    said = asyncio.run(scenario())
    assert "bytes" in said
    assert "acme" not in said
