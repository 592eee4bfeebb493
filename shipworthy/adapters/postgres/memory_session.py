"""The one place that opens transactions on memory's tables, and the threads that have sessions for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8

from shipworthy.adapters.postgres.connection import ROLE, Connection, Server, connect, is_lost
from shipworthy.adapters.postgres.lanes import Session
from shipworthy.adapters.postgres.memory_places import place_of_scope
from shipworthy.adapters.postgres.memory_statements import STATEMENTS
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import (
    MemoryForeign,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    RecordTooLarge,
)

T = TypeVar("T")
Step = tuple[str, Mapping[str, Any]]
"""The name of a statement, and its values apart from whose rows it is about."""
Rows = list[tuple[Any, ...]]

AT_LEAST = 2.0
"""Seconds that a statement may take, whatever the patience."""
_RETRY = 0.05
_BY_KEY = """SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off;
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off;"""
"""Rows are found by their keys, whatever the planner makes of tables that it has no statistics of; it plans once."""
_CROSSED = ("40P01", "40001")
"""A deadlock, or a serialisation failure: nothing was done, and alone it will not come again."""
_MEANINGS: tuple[tuple[tuple[type[psycopg.Error], ...], type[MemoryStoreError], str], ...] = (
    ((errors.DiskFull,), MemoryFull, "Make room on the server's disk; nothing was written."),
    (
        (errors.ReadOnlySqlTransaction,),
        MemoryReadOnly,
        "Connect to the primary: add target_session_attrs=read-write to the address.",
    ),
    ((errors.ProgramLimitExceeded,), RecordTooLarge, "Split it, or use shorter ids; nothing was written."),
    (
        (errors.InsufficientPrivilege, errors.InvalidParameterValue, errors.UndefinedObject),
        MemoryStoreError,
        f'As an administrator: CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO "<your role>"; '
        'GRANT CREATE ON DATABASE "<database>" TO "<your role>"; what an older release has made is '
        "opened first by its owner.",
    ),
    (
        (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn, errors.InvalidSchemaName),
        MemoryForeign,
        "The schema `shipworthy_memory` is not that of this release: upgrade the older instances, or use another "
        "database.",
    ),
    ((errors.DataCorrupted, errors.IndexCorrupted), MemoryStoreError, "Restore the database from a backup."),
    (
        (errors.QueryCanceled, errors.LockNotAvailable),
        MemoryUnavailable,
        "See what the server is busy with (pg_stat_activity), or raise patience=.",
    ),
    (
        (psycopg.OperationalError, psycopg.InterfaceError),
        MemoryUnavailable,
        "Check address, role and password, and that the server runs and has room.",
    ),
    ((psycopg.Error,), MemoryStoreError, "Look at the server's log."),
)


class Sight(msgspec.Struct, frozen=True, gc=False):
    """Whose rows a transaction sees: those of a partition, of all within a scope, the places of all, or none."""

    place: bytes | None = None
    within: bytes | None = None
    operator: bool = False

    def said(self) -> dict[str, str]:
        """As the policies ask for it. What is not said is denied, whatever the session said before."""
        return {
            "said_place": "" if self.place is None else self.place.hex(),
            "said_within": "" if self.within is None else self.within.removesuffix(b"/").hex(),
            "said_operator": "on" if self.operator else "off",
        }

    def asked(self) -> dict[str, Any]:
        """As the statements ask for it."""
        beyond = None if self.within is None else self.within.removesuffix(b"/") + b"0"
        return {"place": self.place, "within": self.within, "beyond": beyond, "operator": self.operator}


def sight_of(whose: Scope | Operator, *, within: bool = False) -> Sight:
    """What the partition of a scope shows, or with *within* those within it; of an operator, the places of all."""
    if isinstance(whose, Operator):
        return Sight(operator=True)
    place = place_of_scope(whose)
    return Sight(within=place) if within else Sight(place=place)


def perform(connection: Connection, sight: Sight, *steps: Step) -> list[Rows]:
    """Execute statements on what *sight* shows, in one transaction and one round trip; the rows of each."""
    return perform_all(connection, [(sight, steps)])[0]


def perform_all(connection: Connection, acts: Sequence[tuple[Sight, Sequence[Step]]]) -> list[list[Rows]]:
    """Execute the steps of several in one transaction: whoever is next sees nothing of who was before."""
    asked = []
    try:
        with connection.pipeline():  # not `transaction()`, which waits for each of its ends
            connection.execute("BEGIN", prepare=True)
            for sight, steps in acts:
                connection.execute(STATEMENTS["enter"].encode(), sight.said(), prepare=True)
                asked.append([_ask(connection, sight, step) for step in steps])
            connection.execute("COMMIT", prepare=True)
    except BaseException:
        if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
            connection.execute("ROLLBACK")
        raise
    return [[cursor.fetchall() if cursor.description else [] for cursor in cursors] for cursors in asked]


def _ask(connection: Connection, sight: Sight, step: Step) -> psycopg.Cursor[Any]:
    name, values = step
    numbered = {key: Int8(value) if type(value) is int else value for key, value in values.items()}
    statement = STATEMENTS[name].encode()
    return connection.execute(statement, {**numbered, **sight.asked()}, prepare=True, binary=True)


def enter(server: Server) -> Connection:
    """A session for memory: as the role that sees one partition at a time, each statement in bounded time."""
    bound = int(max(server.patience, AT_LEAST) * 1000)
    first = (
        f"SET search_path = pg_catalog, pg_temp; {_BY_KEY} SET statement_timeout = {bound}; "
        f"SET idle_in_transaction_session_timeout = {bound}; SET ROLE {ROLE}"
    )
    connection = connect(server, first)
    connection.silence = bound / 1000 + 1
    return connection


class MemorySession(Session):
    """Does each job in a session that is made again when it was lost. What it raises are MemoryStoreErrors."""

    def _connect(self) -> Connection:
        return enter(self._server)

    def _persist(self, work: Callable[[Connection], T], deadline: float) -> T:
        while True:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return work(self._connection)
            except psycopg.Error as error:
                lost = is_lost(error, self._connection)
                if lost:
                    self._end()
                if not (lost or error.sqlstate in _CROSSED) or time.monotonic() > deadline:
                    raise said(error, self._server) from error
                time.sleep(_RETRY)


def said(error: psycopg.Error, server: Server) -> MemoryStoreError:
    """What *error* means to whoever runs the store."""
    what = str(error).strip().partition("\n")[0]
    kind, fix = next((kind, fix) for classes, kind, fix in _MEANINGS if isinstance(error, classes))
    return kind(f"{server.name} failed: {what}.", fix=fix)
