"""A session on the server: what server and schema must be before anything is written, and their errors in our words."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import msgspec
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from shipworthy.errors import (
    ConfigurationError,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnavailable,
)

VERSION = 1
"""The format of `schema.sql`."""
ROLE = "shipworthy_app"
SILENCE = 60.0
"""Seconds after which a server that neither takes nor sends anything while it is waited for is taken for gone."""
_WORK = f"SET ROLE {ROLE}"
_SESSION = """SET statement_timeout = 0; SET search_path = shipworthy, pg_temp;
SET default_transaction_isolation = 'read committed'; SET row_security = on;
SET shipworthy.tenant = ''; SET shipworthy.operator = ''; SET shipworthy.signing = ''; SET shipworthy.audit = '';
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name ~ '^(statement|lock|transaction|idle_in_transaction_session|idle_session)_timeout$'; """
_SYNCED = """SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') <> 'remote_apply'; """
_GUARDED = (
    "runs",
    "journal",
    "bodies",
    "grants",
    "counters",
    "balances",
    "holds",
    "places",
    "caps",
    "changes",
    "carried",
)
_WRITTEN = (*_GUARDED, "workers")
_AUDIT = ("audit_logs", "audit_entries", "audit_checkpoints")
_NARROW = ("meta", "signing_keys", *_AUDIT)
"""Tables with which the role may not do everything."""
_MADE = f"""SELECT count(c.oid) = {len(_WRITTEN) + len(_NARROW)} FROM pg_namespace AS n
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname IN {(*_NARROW, *_WRITTEN)}
WHERE n.nspname = 'shipworthy' GROUP BY n.oid"""
_LACKING = f"""SELECT c.relname FROM pg_class AS c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
WHERE c.relnamespace = 'shipworthy'::regnamespace AND c.relkind = 'r' AND NOT has_table_privilege(c.oid, p)
AND (c.relname IN {_WRITTEN} OR c.relname = 'meta' AND p = 'SELECT' OR c.relname = 'signing_keys' AND p <> 'DELETE'
  OR c.relname IN {_AUDIT} AND p IN ('SELECT', 'INSERT') OR c.relname = 'audit_logs' AND p = 'UPDATE')
UNION SELECT c.relname FROM pg_class AS c, unnest(ARRAY['salt', 'body']) AS a
WHERE c.relnamespace = 'shipworthy'::regnamespace AND c.relname = 'audit_entries'
AND NOT has_column_privilege(c.oid, a, 'UPDATE')
UNION SELECT 'the schema' WHERE NOT has_schema_privilege('shipworthy', 'USAGE')
UNION SELECT proname FROM pg_proc
WHERE pronamespace = 'shipworthy'::regnamespace AND NOT has_function_privilege(oid, 'EXECUTE')"""
_GRANTS = f"""GRANT USAGE ON SCHEMA shipworthy TO {ROLE}; GRANT SELECT ON shipworthy.meta TO {ROLE}; \
GRANT SELECT, INSERT, UPDATE ON shipworthy.signing_keys, shipworthy.audit_logs TO {ROLE}; \
GRANT SELECT, INSERT, UPDATE (salt, body) ON shipworthy.audit_entries TO {ROLE}; \
GRANT SELECT, INSERT ON shipworthy.audit_checkpoints TO {ROLE}; \
GRANT SELECT, INSERT, UPDATE, DELETE ON {", ".join([f"shipworthy.{table}" for table in _WRITTEN])} TO {ROLE}; \
 GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shipworthy TO {ROLE};"""
_OF_AUDIT = "policyname = 'audit' AND qual LIKE '%shipworthy.audit%'"
_FORCED = f"""SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'shipworthy'::regnamespace
AND c.relname IN {(*_GUARDED, "signing_keys", *_AUDIT)}
AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND c.relowner <> current_user::regrole
AND (SELECT array_agg(cmd = 'ALL' AND with_check IS NULL AND CASE c.relname
  WHEN 'signing_keys' THEN policyname = 'signing' AND qual LIKE '%shipworthy.signing%'
  WHEN 'audit_logs' THEN {_OF_AUDIT} WHEN 'audit_entries' THEN {_OF_AUDIT} WHEN 'audit_checkpoints' THEN {_OF_AUDIT}
  ELSE policyname = 'tenant' AND qual LIKE '%shipworthy.tenant%shipworthy.operator%' END) FROM pg_policies AS p
  WHERE p.schemaname = 'shipworthy' AND p.tablename = c.relname) IS NOT DISTINCT FROM '{{t}}')"""
_MEANINGS: tuple[tuple[tuple[type[psycopg.Error], ...], type[StoreError], str | None], ...] = (
    ((errors.DiskFull,), StoreFull, None),
    (
        (errors.ReadOnlySqlTransaction,),
        StoreReadOnly,
        "Connect to the primary: add target_session_attrs=read-write to the address.",
    ),
    (
        (errors.InsufficientPrivilege, errors.InvalidParameterValue, errors.UndefinedObject),
        StoreRefused,
        f'As an administrator: CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO "<your role>"; '
        'GRANT CREATE ON DATABASE "<database>" TO "<your role>";',
    ),
    (
        (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn),
        StoreForeign,
        "The schema `shipworthy` is not that of this release: upgrade the older instances, or use another database.",
    ),
    ((errors.DataCorrupted, errors.IndexCorrupted), StoreCorrupt, "Restore the database from a backup."),
    ((psycopg.OperationalError, psycopg.InterfaceError), StoreUnavailable, None),
    ((psycopg.Error,), StoreError, "Look at the server's log."),
)


class Connection(psycopg.Connection[Any]):
    """A session that is over, as if the server had closed it, when the server has been silent for too long."""

    silence: float | None = None
    """Seconds, where they are not SILENCE."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        return super().wait(self._heard(gen), *args, **options)

    def _heard(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        ready, heard = None, time.monotonic()
        while True:
            try:
                ready = yield gen.send(ready)
            except StopIteration as end:
                return end.value
            if ready:
                heard = time.monotonic()
            elif time.monotonic() > heard + (SILENCE if self.silence is None else self.silence):
                self.close()
                raise psycopg.OperationalError("the server does not answer")


class Server(msgspec.Struct, frozen=True, gc=False):
    """Where the database is. `patience`: seconds for which a server that is away is waited for."""

    dsn: str
    durable: bool
    patience: float

    @property
    def name(self) -> str:
        """The server in a message, without user or password."""
        said = conninfo_to_dict(self.dsn)
        return f"The database {said.get('dbname', '')!r} on {said.get('host') or 'the local server'}"

    def __repr__(self) -> str:
        return f"<{self.name}>"


def checked(dsn: str) -> str:
    """The address as libpq takes it. Raises ConfigurationError, which does not repeat a password."""
    try:
        said = conninfo_to_dict(dsn)
        if "@" in f"{said.get('host')}{said.get('dbname')}":
            raise ValueError("a part of the password would be taken for an address")
        int(said.get("connect_timeout") or 0)
    except (psycopg.Error, AttributeError, ValueError):
        raise ConfigurationError(
            "The address of the PostgreSQL server cannot be read.",
            fix="Pass postgres://user@host:5432/database (percent-encode special characters).",
        ) from None
    return dsn


def connect(server: Server, first: str = _WORK) -> Connection:
    """A session in which no setting of the role's, the database's or the address's counts that a promise depends on; as
    the role that sees one tenant at a time, unless *first* says otherwise. Raises psycopg.Error."""
    ours = {
        "connect_timeout": max(int(server.patience), 2),
        "fallback_application_name": "shipworthy",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(max(server.patience, 2) * 1000),
    }
    said: dict[str, Any] = ours | conninfo_to_dict(server.dsn) | {"client_encoding": "utf8"}
    connection = Connection.connect(autocommit=True, **said)
    try:
        synced = _SYNCED if server.durable else "SET synchronous_commit = off; "
        connection.execute((_SESSION + synced + first).encode())
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def of(connection: Connection, name: str, value: str) -> Iterator[None]:
    """A transaction in which the rows of a tenant can be seen, or as operator ("on") those of all."""
    with connection.pipeline(), connection.transaction():
        connection.execute("SELECT set_config(%s, %s, true)", (f"shipworthy.{name}", value))
        yield


def _show(connection: Connection, setting: str) -> Any:
    return connection.execute("SELECT current_setting(%s)", (setting,)).fetchall()[0][0]


def schema() -> str:
    """What makes the schema, in one transaction."""
    folder = resources.files("shipworthy.adapters.postgres")
    names = ("schema.sql", "signing.sql", "ledger.sql", "audit.sql")
    return "\n".join([folder.joinpath(name).read_text("utf-8") for name in names])


def prepare(server: Server) -> None:
    """Make the schema, unless it is there, and check that all is as the guarantees need it. Any number of instances may
    do so at once. Raises StoreError."""
    try:
        with connect(server, first="") as connection:
            if not _is_made(connection, server):
                with connection.transaction():
                    connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended('shipworthy schema', 0))"
                    )
                    if not _is_made(connection, server):
                        connection.execute(schema().encode())
        with connect(server) as connection:
            _check(connection, server)
    except psycopg.Error as error:
        raise translate(error, server) from error


def _is_made(connection: Connection, server: Server) -> bool:
    """Whether the schema is there. Raises StoreForeign for one of a newer format."""
    # Not by to_regnamespace, which may remember how it was before another instance made it.
    if not (found := connection.execute(_MADE.encode()).fetchall()):
        return False
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL ROLE {ROLE}")
            [(version, oldest)] = connection.execute("SELECT version, oldest FROM shipworthy.meta").fetchall()
    except (psycopg.ProgrammingError, ValueError) as error:
        if isinstance(error, errors.InsufficientPrivilege) and found == [(True,)]:
            return True  # what is lacking is told in the end
        version, oldest = "unknown", VERSION + 1
    if oldest > VERSION:
        raise StoreForeign(
            f"{server.name} has a schema `shipworthy` of a newer release, or of something else (format {version}; "
            f"this release knows {VERSION}).",
            fix="Upgrade shipworthy on this instance, or use another database; nothing was changed.",
        )
    return True


def _check(connection: Connection, server: Server) -> None:
    """Refuse what would make a promise hollow. Raises StoreRefused."""
    passes = "SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"
    if connection.execute(passes).fetchall():
        what = f"is used as {ROLE}, which passes by row level security"
        fix = f"ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS;"
    elif lacking := connection.execute(_LACKING.encode()).fetchall():
        what = f"lacks privileges of {ROLE} (on {', '.join([name for (name,) in lacking])})"
        fix = f"As the owner of the schema: {_GRANTS}"
    elif tables := connection.execute(_FORCED.encode()).fetchall():
        what = f"does not enforce row level security on {', '.join([name for (name,) in tables])}"
        fix = (
            "ALTER TABLE ... ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; its only policy is `tenant`, as in "
            f"schema.sql (of the keys: `signing`, of audit logs: `audit`); and {ROLE} must not own it."
        )
    elif server.durable and _show(connection, "fsync") == "off":
        what = "runs with fsync off: what it acknowledges does not survive power loss"
        fix = 'Set fsync = on, or pass durability="process" where that is acceptable.'
    else:
        return
    raise StoreRefused(f"{server.name} {what}.", fix=fix)


def is_lost(error: psycopg.Error, connection: Connection | None) -> bool:
    """Whether there is no session, or one that serves no writes any more, so that another one is worth trying."""
    return is_unanswered(error, connection) or isinstance(error, errors.ReadOnlySqlTransaction)


def is_unanswered(error: psycopg.Error, connection: Connection | None) -> bool:
    """Whether what was asked may have been done for all that: the session ended, or ends (57P..), before an answer."""
    if connection is None or connection.closed:
        return True
    ends = error.sqlstate is None or error.sqlstate.startswith(("57P", "08"))
    return ends and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))


def translate(error: psycopg.Error, server: Server) -> StoreError:
    """What *error* means to whoever runs the store."""
    said = str(error).strip().partition("\n")[0]
    kind, fix = next((kind, fix) for classes, kind, fix in _MEANINGS if isinstance(error, classes))
    return kind(f"{server.name} failed: {said}.", fix=fix)
