"""An anchor in a PostgreSQL database of somebody else's: a table that its writers can only add to (anchor.sql)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import resources
from typing import TypeVar

import psycopg

from shipworthy.adapters.postgres import connection as sessions
from shipworthy.adapters.postgres.connection import Connection, Server
from shipworthy.adapters.shared.checkpoints import checked, goes_back, rewrites
from shipworthy.adapters.shared.places import escaped
from shipworthy.domain.audit import TreeHead
from shipworthy.errors import AnchorError, ConfigurationError

T = TypeVar("T")

_FIRST = "SET search_path = shipworthy_anchor, pg_temp"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('shipworthy_anchor schema', 0))"
_THERE = "SELECT FROM pg_class WHERE relname = 'checkpoints' AND relnamespace = to_regnamespace('shipworthy_anchor')"
_HOLLOW = """SELECT CASE WHEN r.rolsuper THEN 'is a superuser''s'
WHEN pg_has_role(session_user, c.relowner, 'MEMBER') THEN 'owns the table'
WHEN has_table_privilege(session_user, c.oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER') THEN 'may change the table'
WHEN NOT coalesce((SELECT bool_and(t.tgenabled = 'A') AND count(*) = 2 FROM pg_trigger AS t
  WHERE t.tgrelid = c.oid AND t.tgname IN ('keep', 'no_change')), false) THEN 'meets a table without its triggers' END
FROM pg_roles AS r, pg_class AS c
WHERE r.rolname = session_user AND c.oid = 'shipworthy_anchor.checkpoints'::regclass"""
_UNSYNCED = "SELECT FROM pg_settings WHERE name = 'fsync' AND setting = 'off'"
_PUT = "INSERT INTO checkpoints (place, log, entries, root, line) VALUES (%s, %s, %s, %s, %s)"
_NEWEST = """WITH RECURSIVE logs (log) AS (
  (SELECT log FROM checkpoints WHERE place = %(place)s ORDER BY log LIMIT 1)
  UNION ALL SELECT (SELECT c.log FROM checkpoints AS c WHERE c.place = %(place)s AND c.log > logs.log
    ORDER BY c.log LIMIT 1) FROM logs WHERE logs.log IS NOT NULL)
SELECT newest.line FROM logs CROSS JOIN LATERAL (SELECT c.line FROM checkpoints AS c
  WHERE c.place = %(place)s AND c.log = logs.log ORDER BY c.entries DESC LIMIT 1) AS newest"""
_PAGE = """SELECT log, entries, line FROM checkpoints WHERE place = %s AND (log, entries) > (%s, %s)
ORDER BY log, entries LIMIT 500"""
_GRANT = (
    "Its owner runs PostgresAnchor(dsn_of_the_owner, create=True).prepare() once, and then "
    'GRANT shipworthy_anchor TO "<role of the writers>"; nobody who writes a log is to be the owner.'
)


class PostgresAnchor:
    """Checkpoints in a table that its writers can neither change nor empty, in a database that is not the log's.

    *dsn* is that of a role that is a member of `shipworthy_anchor` and no more than that: any other is given nothing to
    keep, though whoever may SELECT can read. *create* is for the owner, who makes the table and could also drop it:
    for setting up, and for trying out. *timeout*: seconds for which the server is waited for.
    """

    def __init__(self, dsn: str, *, create: bool = False, timeout: float = 5.0) -> None:
        if not isinstance(dsn, str):
            raise ConfigurationError("dsn= is not a text.", fix="Pass postgres://user@host:5432/database.")
        self._server = Server(dsn=sessions.checked(dsn), durable=True, patience=timeout)
        self._create = create
        self._timeout = timeout
        self._lock = threading.Lock()
        self._session: Connection | None = None
        self._is_sound = False
        """Whether the session's role can take nothing back."""

    @property
    def where(self) -> str:
        """The server and the database."""
        return f"The anchor in {self._server.name[:1].lower()}{self._server.name[1:]}"

    def prepare(self) -> None:
        """Make the table where that is asked for, and check that it is as it has to be. Raises AnchorError."""
        self._do(lambda session: None)

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        """Keep this checkpoint: committed, and synced, when it returns."""
        head = checked(self.where, name, log, entries, line)
        row = (escaped(name), log, entries, head.root, line)
        self._do(partial(self._kept, row=row), head)

    def _kept(self, session: Connection, row: tuple[str, str, int, str, bytes]) -> None:
        if not (self._create or self._is_sound):
            self._check_role(session)
            self._is_sound = True
        session.execute(_PUT, row)

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log under this name, the checkpoint of the most entries."""
        where = {"place": escaped(name)}
        return [line for (line,) in self._do(lambda session: session.execute(_NEWEST, where).fetchall())]

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint under this name, log by log."""
        place, last = escaped(name), ("", 0)
        while True:
            rows = self._do(partial(_page, after=(place, *last)))
            if not rows:
                return
            for log, entries, line in rows:
                last = (log, entries)
                yield line

    def close(self) -> None:
        """Close the session."""
        with self._lock:
            self._leave()

    # the session

    def _do(self, work: Callable[[Connection], T], head: TreeHead | None = None) -> T:
        """What *work* gives; once more where the session from last time is over. What is asked may be done twice."""
        with self._lock:
            try:
                fresh = self._session is None
                try:
                    return work(self._entered())
                except psycopg.Error as error:
                    if fresh or not sessions.is_lost(error, self._session):
                        raise
                    self._leave()
                    return work(self._entered())
            except psycopg.Error as error:
                if sessions.is_lost(error, self._session):
                    self._leave()
                raise self._translated(error, head) from None

    def _entered(self) -> Connection:
        if self._session is None:
            session = sessions.connect(self._server, _FIRST)
            session.silence = self._timeout
            try:
                if self._create:
                    _make(session)
                self._check(session)
            except BaseException:
                session.close()
                raise
            self._session = session
        return self._session

    def _leave(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session, self._is_sound = None, False

    def _check(self, session: Connection) -> None:
        """Raises AnchorError where nothing is kept, or nothing that lasts."""
        if not session.execute(_THERE).fetchall():
            raise AnchorError(f"{self.where} has no table for checkpoints.", fix=_GRANT)
        if session.execute(_UNSYNCED).fetchall():
            raise AnchorError(
                f"{self.where} runs with fsync off: what it acknowledges does not survive power loss.",
                fix="Set fsync = on.",
            )

    def _check_role(self, session: Connection) -> None:
        """Refuse what would make the promise hollow. Raises AnchorError."""
        [(hollow,)] = session.execute(_HOLLOW.encode()).fetchall()
        if hollow is not None:
            raise AnchorError(f"{self.where} keeps nothing from this role, which {hollow}.", fix=_GRANT)

    def _translated(self, error: psycopg.Error, head: TreeHead | None) -> AnchorError:
        """The one place where the driver's errors become ours."""
        if head is not None and error.sqlstate == "SW001":
            return goes_back(self.where, head, int(error.diag.message_detail or 0))
        if head is not None and error.sqlstate == "SW002":
            return rewrites(self.where, head)
        told = sessions.translate(error, self._server)
        if isinstance(error, (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)):
            return AnchorError(told.what, fix=_GRANT)
        return AnchorError(
            told.what, fix=told.fix.replace("runs are resumed", "the checkpoint is sent again")
        )


def _page(session: Connection, after: tuple[str, str, int]) -> list[tuple[str, int, bytes]]:
    return session.execute(_PAGE, after).fetchall()


def schema() -> str:
    """What makes the table, in one transaction."""
    return resources.files("shipworthy.adapters.postgres").joinpath("anchor.sql").read_text("utf-8")


def _make(session: Connection) -> None:
    """Make the table unless it is there; any number of processes may do so at once."""
    if session.execute(_THERE).fetchall():
        return
    with session.transaction():
        session.execute(_LOCK)
        if not session.execute(_THERE).fetchall():
            session.execute(schema().encode())
