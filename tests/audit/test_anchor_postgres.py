"""What the database itself holds an anchor's writers to, whatever they send it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from shipworthy.adapters.postgres.anchor import PostgresAnchor
from shipworthy.errors import AnchorError
from shipworthy.testing.contracts.anchors import LAWS, Anchors, Log, check, name
from tests.servers.postgres import a_database


@pytest.fixture(scope="module")
def databases() -> Iterator[tuple[str, str]]:
    """The dsn of the owner, here a superuser, and that of a writer."""
    role = f"writer_{uuid.uuid4().hex[:8]}"
    with a_database() as owner:
        anchor = PostgresAnchor(owner, create=True)
        anchor.prepare()
        anchor.prepare()
        anchor.close()
        with psycopg.connect(owner, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hush' IN ROLE shipworthy_anchor".encode())
            yield owner, owner.replace("postgres@", f"{role}:hush@")
            admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("UPDATE checkpoints SET line = ''", "42501"),
        ("DELETE FROM checkpoints", "42501"),
        ("TRUNCATE checkpoints", "42501"),
        ("DROP TABLE checkpoints", "42501"),
        ("ALTER TABLE checkpoints DISABLE TRIGGER ALL", "42501"),
        ("CREATE TABLE shipworthy_anchor.other ()", "42501"),
        ("SET session_replication_role = replica", "42501"),
        ("INSERT INTO checkpoints SELECT place, log, entries - 1, root, line FROM checkpoints", "SW001"),
        (
            "INSERT INTO checkpoints SELECT place, log, entries, repeat('0', 64), line FROM checkpoints",
            "SW002",
        ),
        ("INSERT INTO checkpoints SELECT place, log, entries + 1, root, line FROM checkpoints", "23514"),
        (
            "INSERT INTO checkpoints SELECT place, log, entries + 1, repeat('0', 64), line FROM checkpoints",
            "23514",
        ),
        (
            "INSERT INTO checkpoints SELECT place, log, entries, repeat('0', 64), line FROM checkpoints "
            "ON CONFLICT (place, log, entries) DO UPDATE SET line = ''",
            "42501",
        ),
    ],
)
def test_the_database_refuses_what_would_take_back(
    databases: tuple[str, str], statement: str, state: str
) -> None:
    log, anchor = Log("one", id="1" * 32), PostgresAnchor(databases[1])
    line = log.put(anchor, 64)
    with psycopg.connect(databases[1], autocommit=True) as writer:
        writer.execute("SET search_path = shipworthy_anchor")
        with pytest.raises(psycopg.Error) as raised:
            writer.execute(statement.encode())
    assert raised.value.sqlstate == state
    assert list(anchor.all("one")) == [line]
    anchor.close()


@pytest.mark.parametrize(
    "statement", ["UPDATE checkpoints SET line = ''", "DELETE FROM checkpoints", "TRUNCATE checkpoints"]
)
def test_not_even_the_owner_changes_one_by_mistake(databases: tuple[str, str], statement: str) -> None:
    with psycopg.connect(databases[0], autocommit=True) as owner, pytest.raises(psycopg.Error) as raised:
        owner.execute(
            f"SET search_path = shipworthy_anchor; SET session_replication_role = replica; {statement}".encode()
        )
    assert raised.value.sqlstate == "SW003"


def test_a_role_that_could_take_back_is_refused(databases: tuple[str, str]) -> None:
    """A superuser's, the owner's, one that may do more than add."""
    log = Log("two")
    with pytest.raises(AnchorError, match="keeps nothing from this role, which is a superuser's") as raised:
        put(log, databases[0])
    assert "GRANT shipworthy_anchor" in raised.value.fix
    with psycopg.connect(databases[0], autocommit=True) as owner:
        for more, less, what in (
            (
                "GRANT DELETE ON shipworthy_anchor.checkpoints TO {}",
                "REVOKE DELETE ON shipworthy_anchor.checkpoints FROM {}",
                "may change the table",
            ),
            ("GRANT postgres TO {}", "REVOKE postgres FROM {}", "owns the table"),
            (
                "ALTER TABLE shipworthy_anchor.checkpoints DISABLE TRIGGER keep",
                "ALTER TABLE shipworthy_anchor.checkpoints ENABLE ALWAYS TRIGGER keep",
                "without its triggers",
            ),
        ):
            role = databases[1].partition("://")[2].partition(":")[0]
            owner.execute(more.format(role).encode())
            with pytest.raises(AnchorError, match=what):
                put(log, databases[1])
            owner.execute(less.format(role).encode())
    put(log, databases[1])


def put(log: Log, dsn: str) -> None:
    with contextlib.closing(PostgresAnchor(dsn)) as anchor:
        log.put(anchor, 64)


def test_whoever_may_select_can_read(databases: tuple[str, str]) -> None:
    """A verifier's login need not be a writer's."""
    log = Log("read")
    put(log, databases[1])
    with contextlib.closing(PostgresAnchor(databases[0])) as anchor:
        assert list(anchor.newest("read")) == list(anchor.all("read")) == [log.at(64)]


@pytest.mark.parametrize("caught", ["a_shorter_one_is_refused", "the_same_again_does_nothing"])
def test_the_laws_catch_a_table_without_its_trigger(database: str, caught: str) -> None:
    """A mutant; the owner's anchor does not look at the triggers."""
    anchor = PostgresAnchor(database, create=True)
    anchor.prepare()
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("DROP TRIGGER keep ON shipworthy_anchor.checkpoints")
    with pytest.raises((AssertionError, AnchorError)):
        check({name(law): law for law in LAWS}[caught], Owners(anchor))
    anchor.close()


class Owners(Anchors):
    def __init__(self, anchor: PostgresAnchor) -> None:
        super().__init__()
        self._anchor = anchor

    def make(self) -> PostgresAnchor:
        return self._anchor


def test_what_is_not_there_or_not_allowed_is_told_without_a_password(database: str) -> None:
    with pytest.raises(AnchorError, match="has no table for checkpoints") as raised:
        Log("app").put(PostgresAnchor(database.replace("postgres@", "postgres:hush@")), 64)
    assert "create=True" in raised.value.fix
    away = PostgresAnchor("postgres://someone:hush@127.0.0.1:9/nowhere", timeout=0.5)
    with pytest.raises(AnchorError, match="nowhere") as raised:
        Log("app").put(away, 64)
    assert "hush" not in f"{raised.value}{away.where}"


def test_a_session_that_was_ended_is_made_again(databases: tuple[str, str]) -> None:
    log, anchor = Log("three"), PostgresAnchor(databases[1])
    log.put(anchor, 64)
    with psycopg.connect(databases[0], autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'writer_%' "
            "AND datname = current_database()"
        )
    log.put(anchor, 128)
    assert list(anchor.all("three")) == [log.at(64), log.at(128)]
    anchor.close()
