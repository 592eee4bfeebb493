"""Connecting: what the server and its schema must be before anything is written, and its errors in our words."""

from __future__ import annotations

from importlib import resources
from typing import Any

import msgspec
import psycopg
from psycopg import errors, sql
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
_GRANT = f'As an administrator of the database: CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO "<your role>";'
_LOST = (psycopg.OperationalError, psycopg.InterfaceError)

Connection = psycopg.Connection[Any]


class Server(msgspec.Struct, frozen=True, gc=False):
    """Where the database is. `patience`: seconds for which a server that is away is waited for."""

    dsn: str
    durable: bool
    patience: float

    @property
    def name(self) -> str:
        """The server in a message, without user or password."""
        said = conninfo_to_dict(self.dsn)
        return f"the database {said.get('dbname', '')!r} on {said.get('host') or 'the local server'}"


def checked(dsn: str) -> str:
    """The address as libpq takes it. Raises ConfigurationError, which does not repeat a password."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        raise ConfigurationError(
            "The address of the PostgreSQL server cannot be read.",
            fix="Pass postgres://user@host:5432/database (percent-encode special characters).",
        ) from None
    return dsn


def connect(server: Server) -> Connection:
    """A session with our settings, as the role that sees one tenant at a time. Raises psycopg.Error, StoreError."""
    connection = _connect(server)
    try:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(ROLE)))
        if not server.durable:
            connection.execute("SET synchronous_commit = off")
        elif connection.execute("SHOW synchronous_commit").fetchall() == [("off",)]:
            connection.execute("SET synchronous_commit = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(server: Server) -> Connection:
    return psycopg.connect(
        server.dsn,
        autocommit=True,
        connect_timeout=max(int(server.patience), 2),
        fallback_application_name="shipworthy",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=int(max(server.patience, 2) * 1000),
    )


def prepare(server: Server) -> None:
    """Make the schema, unless it is there, and check that everything is as the guarantees need it.

    Any number of instances may do so at once. Raises StoreError.
    """
    try:
        with _connect(server) as connection:
            _migrate(connection, server)
        with connect(server) as connection:
            _check(connection, server)
    except psycopg.Error as error:
        raise translate(error, server) from error


def _migrate(connection: Connection, server: Server) -> None:
    if connection.execute("SHOW transaction_read_only").fetchall() == [("on",)]:
        raise StoreReadOnly(
            f"{server.name} can only be read.",
            fix="Connect to the primary: add target_session_attrs=read-write to the address.",
        )
    if _version(connection, server) is not None:
        return
    schema = resources.files("shipworthy.adapters.postgres").joinpath("schema.sql").read_bytes()
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('shipworthy schema', 0))")
        if _version(connection, server) is None:
            connection.execute(schema)


def _version(connection: Connection, server: Server) -> int | None:
    """The schema's version; None where there is none. Raises StoreForeign."""
    if connection.execute("SELECT to_regnamespace('shipworthy')").fetchall() == [(None,)]:
        return None
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(ROLE)))
            version, oldest = connection.execute("SELECT version, oldest FROM shipworthy.meta").fetchall()[0]
    except (errors.UndefinedTable, errors.UndefinedObject, errors.InvalidParameterValue):
        raise StoreForeign(
            f"The schema `shipworthy` of {server.name} was made by something else.",
            fix="Use another database, or rename that schema.",
        ) from None
    if oldest > VERSION:
        raise StoreForeign(
            f"{server.name} has the schema of a newer release (format {version}; this one knows {VERSION}).",
            fix="Upgrade shipworthy on this instance; nothing was changed.",
        )
    return int(version)


def _check(connection: Connection, server: Server) -> None:
    """Refuse what would make a promise hollow. Raises StoreRefused."""
    query = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    if connection.execute(query).fetchall() != [(False,)]:
        raise StoreRefused(
            f"The role {ROLE} of {server.name} passes by row level security.",
            fix=f"ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS;",
        )
    query = """SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'shipworthy' AND c.relname IN ('runs', 'journal', 'bodies')
    AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND c.relowner <> current_user::regrole)"""
    if open_tables := [name for (name,) in connection.execute(query).fetchall()]:
        raise StoreRefused(
            f"Row level security is not in force on {', '.join(open_tables)} of {server.name}.",
            fix=f"ALTER TABLE ... ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; {ROLE} must not own it.",
        )
    if server.durable and connection.execute("SHOW fsync").fetchall() == [("off",)]:
        raise StoreRefused(
            f"{server.name} runs with fsync off: what it acknowledges does not survive power loss.",
            fix='Set fsync = on, or pass durability="process" where that is acceptable.',
        )


def is_lost(error: psycopg.Error, connection: Connection) -> bool:
    """Whether the session is gone, or serves no writes any more, so that another one is worth trying."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return True
    return isinstance(error, _LOST) and (connection.closed or connection.broken)


def translate(error: psycopg.Error, server: Server) -> StoreError:
    """What *error* means to whoever runs the store."""
    said = str(error).strip().partition("\n")[0]
    match error:
        case errors.DiskFull():
            return StoreFull(f"No room is left for {server.name}.")
        case errors.ReadOnlySqlTransaction():
            return StoreReadOnly(
                f"{server.name} can only be read ({said}).",
                fix="Connect to the primary: add target_session_attrs=read-write to the address.",
            )
        case errors.InsufficientPrivilege() | errors.InvalidParameterValue() | errors.UndefinedObject():
            return StoreRefused(f"{server.name} refused what the store needs ({said}).", fix=_GRANT)
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return StoreCorrupt(f"{server.name} is damaged ({said}).", fix="Restore it from a backup.")
        case errors.UndefinedTable() | errors.UndefinedFunction() | errors.UndefinedColumn():
            return StoreForeign(
                f"The schema of {server.name} is not that of this release ({said}).",
                fix="Open the store again, so that it is brought up to date; upgrade the older instances.",
            )
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return StoreUnavailable(f"{server.name} cannot be used now ({said}).")
        case _:
            return StoreError(
                f"{server.name} failed ({type(error).__name__}: {said}).", fix="Look at its log."
            )
