"""The schema of memory: made, brought to this release's format, and checked before anything is written."""

from __future__ import annotations

import contextlib

import msgspec
import psycopg
from psycopg import errors, sql

from shipworthy.adapters.postgres import memory_statements
from shipworthy.adapters.postgres.connection import ROLE, Connection, Server, connect
from shipworthy.adapters.postgres.memory_session import Sight, enter, perform, said
from shipworthy.errors import MemoryForeign, MemoryStoreError

_OWNER = "SET search_path = pg_catalog, pg_temp"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('shipworthy_memory schema', 0))"
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
_THERE = "SELECT FROM pg_namespace WHERE nspname = 'shipworthy_memory'"
_RIGHTS = {
    "meta": "SELECT",
    "stamp": "SELECT, INSERT, UPDATE",
    "partitions": "SELECT, INSERT, UPDATE, DELETE",
    "records": "SELECT, INSERT, DELETE",
    "vectors": "SELECT, INSERT",
}
_LACKING = """SELECT u.name FROM unnest(%s::text[], %s::text[]) AS u (name, rights)
JOIN pg_class AS c ON c.relname = u.name AND c.relnamespace = 'shipworthy_memory'::regnamespace
CROSS JOIN regexp_split_to_table(u.rights, ', ') AS r WHERE NOT has_table_privilege(c.oid, r)
UNION SELECT 'the schema' WHERE NOT has_schema_privilege('shipworthy_memory', 'USAGE')"""
_UNGUARDED = """SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'shipworthy_memory'::regnamespace AND c.relname IN ('partitions', 'records', 'vectors')
AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND row_security_active(c.oid)
AND c.relowner <> current_user::regrole
AND (SELECT array_agg(concat(polname, polcmd, polpermissive::int, polwithcheck IS NULL) ORDER BY polname)
  FROM pg_policy WHERE polrelid = c.oid) IS NOT DISTINCT FROM CASE c.relname
    WHEN 'partitions' THEN ARRAY['operatorr1t', 'place*1t', 'withinr1t', 'within_erasedd1t']
    WHEN 'records' THEN ARRAY['place*1t', 'withinr1t', 'within_erasedd1t']
    ELSE ARRAY['place*1t'] END
AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND NOT coalesce(
  pg_get_expr(polqual, polrelid) LIKE '%%shipworthy.memory_' || split_part(polname, '_', 1) || '''%%'
  AND pg_get_expr(polqual, polrelid) NOT LIKE '%% OR %%', false)))"""
_PASSES = "SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"
_EXTENSION = """SELECT nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE extname = 'vector'"""
_USABLE = """SELECT a.atttypid, t.typarray FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
JOIN pg_depend AS d ON d.objid = t.oid AND d.deptype = 'e' JOIN pg_extension AS e ON e.oid = d.refobjid
WHERE a.attrelid = to_regclass('shipworthy_memory.vectors') AND a.attname = 'embedding' AND e.extname = 'vector'
AND has_table_privilege(a.attrelid, 'INSERT') AND has_schema_privilege(e.extnamespace, 'USAGE')"""


class Pgvector(msgspec.Struct, frozen=True, gc=False):
    """The numbers of the type `vector` and of its array in this database."""

    oid: int
    array: int


def prepare(server: Server, migrations: tuple[str, ...] | None = None) -> Pgvector | None:
    """Make the schema, or bring it to this release's format, and check that all is as the guarantees need it. Any
    number of processes may do so at once. Gives what ranks vectors, where the server has it. Raises
    MemoryStoreError."""
    steps = memory_statements.MIGRATIONS if migrations is None else migrations
    try:
        with connect(server, _OWNER) as connection:
            if _format(connection, server, len(steps)) < len(steps):
                with connection.transaction():
                    connection.execute(_LOCK)
                    for step in steps[_format(connection, server, len(steps)) :]:
                        connection.execute(step.encode())
            _add_vectors(connection)
        with enter(server) as connection:
            _check(connection, server)
            return _pgvector(connection)
    except psycopg.Error as error:
        raise said(error, server) from error


def _format(connection: Connection, server: Server, ours: int) -> int:
    """The format of the schema that is there, 0 where there is none. Raises MemoryForeign."""
    # Not by to_regnamespace, which may remember how it was before another process made it.
    if not connection.execute(_THERE).fetchall():
        return 0
    tables = {name for (name,) in connection.execute(_TABLES, ("shipworthy_memory",)).fetchall()}
    if not tables:
        return 0
    version: int | str = "unknown"
    oldest = ours + 1
    if {"meta", "partitions", "records", "stamp"} <= tables:
        try:
            with connection.transaction(force_rollback=True):  # which gives the role back
                connection.execute(f"SET LOCAL ROLE {ROLE}".encode())
                [(version, oldest)] = connection.execute("SELECT version, oldest FROM shipworthy_memory.meta")
        except errors.InsufficientPrivilege:
            return ours  # what is lacking is told in the end
        except (errors.UndefinedColumn, ValueError):
            pass
    if oldest > ours or not isinstance(version, int):
        raise MemoryForeign(
            f"{server.name} has a schema `shipworthy_memory` of a newer release, or of something else (format "
            f"{version}; this release knows {ours}).",
            fix="Upgrade shipworthy on this instance, or use another database; nothing was changed.",
        )
    return version


def _add_vectors(connection: Connection) -> None:
    """Make what `nearest` needs, if the server has pgvector and lets us."""
    try:
        if connection.execute("SELECT to_regclass('shipworthy_memory.vectors')").fetchall() != [(None,)]:
            return
        with connection.transaction():
            connection.execute(_LOCK)
            schema = _extended(connection)
            if connection.execute("SELECT to_regclass('shipworthy_memory.vectors')").fetchall() == [(None,)]:
                name = sql.Identifier(schema).as_string(connection)
                connection.execute(memory_statements.VECTORS.replace("{schema}", name).encode())
    except (psycopg.Error, ValueError):  # exact search in the process does without
        if connection.closed:
            raise


def _extended(connection: Connection) -> str:
    """The schema that pgvector is in; where nobody has put it anywhere, the public one, or else our own."""
    for where in ("public", "shipworthy_memory"):
        if connection.execute(_EXTENSION).fetchall():
            break
        with contextlib.suppress(errors.InsufficientPrivilege), connection.transaction():
            connection.execute(f"CREATE EXTENSION vector SCHEMA {where}".encode())
    [(schema,)] = connection.execute(_EXTENSION).fetchall()
    return str(schema)


def _check(connection: Connection, server: Server) -> None:
    """Refuse what would make a promise hollow. Raises MemoryStoreError."""
    grants = " ".join(
        [f"GRANT {rights} ON shipworthy_memory.{table} TO {ROLE};" for table, rights in _RIGHTS.items()]
    )
    rights = [list(_RIGHTS), list(_RIGHTS.values())]
    if connection.execute(_PASSES).fetchall():
        what = f"is used as {ROLE}, which passes by row level security"
        fix = f"ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS;"
    elif lacking := connection.execute(_LACKING, rights).fetchall():
        what = f"lacks privileges of {ROLE} (on {', '.join([name for (name,) in lacking])})"
        fix = f"As the owner of the schema: GRANT USAGE ON SCHEMA shipworthy_memory TO {ROLE}; {grants}"
    elif tables := connection.execute(_UNGUARDED.replace("%%", "%").encode()).fetchall():
        what = f"does not enforce row level security on {', '.join([name for (name,) in tables])} as it has to be"
        fix = (
            "ALTER TABLE ... ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; its only policies are those of "
            f"memory.sql; and {ROLE} must not own it."
        )
    elif perform(connection, Sight(), ("guarded", {})) != [[(True,)]]:
        what = f"is not used as {ROLE}, which sees one partition at a time"
        fix = "Please report it; nothing was read or written."
    elif connection.execute("SELECT current_setting('fsync')").fetchall() == [("off",)]:
        what = "runs with fsync off: what it acknowledges does not survive power loss"
        fix = "Set fsync = on."
    else:
        return
    raise MemoryStoreError(f"{server.name} {what}.", fix=fix)


def _pgvector(connection: Connection) -> Pgvector | None:
    found = connection.execute(_USABLE).fetchall()
    return Pgvector(*found[0]) if len(found) == 1 else None
