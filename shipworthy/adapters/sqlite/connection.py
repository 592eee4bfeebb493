"""Opening the database file: what it must be before anything is written, and SQLite's errors in our words."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Literal, TypeVar

import apsw
import msgspec

from shipworthy.errors import (
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    StoreTooOld,
)

T = TypeVar("T")

APPLICATION_ID = 0x53485057
"""'SHPW', in the header of the file."""
USER_VERSION = 1
"""The format of `schema.sql`."""
MEMORY_ID = 0x5348504D
"""'SHPM', in the header of a file that has nothing but a memory. The runtime's tables may join it there, and it becomes
'SHPW'; a memory's tables have a format number of their own beside them."""
OLDEST_SQLITE = (3, 51, 3)
"""Before it, a WAL could be reset while a checkpoint ran, which corrupts the file."""
CHECKED_WHOLE = 64 * 1024 * 1024
"""Bytes up to which a file is checked whole when it is opened; of a larger one the runs and workers are."""
CHECKPOINT_PAGES = 4096
"""Pages of WAL after which a checkpoint is made."""
_LEAF_TABLE = 13

Durability = Literal["power", "process"]


class Schema(msgspec.Struct, frozen=True, gc=False):
    """The tables of one kind of store. Those of several kinds may be in one file, whichever came first.

    `present`: whether they are in a file that is ours, in this format. `create`: makes them so, inside a transaction.
    `checked`: what of a large file is checked when it is opened. `overwrites`: whether what is deleted is overwritten.
    """

    present: Callable[[apsw.Connection, str], bool]
    create: Callable[[apsw.Connection], None]
    checked: tuple[str, ...]
    overwrites: bool = False


def _runs_present(connection: apsw.Connection, path: str) -> bool:
    return bool(connection.pragma("application_id") == APPLICATION_ID)


def _create_runs(connection: apsw.Connection) -> None:
    schema = resources.files("shipworthy.adapters.sqlite").joinpath("schema.sql").read_text("utf-8")
    connection.execute(schema)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {USER_VERSION}")


RUNS = Schema(_runs_present, _create_runs, ("runs", "workers"))
"""The runtime's tables."""


class Database(msgspec.Struct, frozen=True, gc=False):
    """Where the file is, what is wanted of it and how it is opened. `busy_timeout` in seconds; `vfs` is for tests."""

    path: str
    durability: Durability = "power"
    busy_timeout: float = 5.0
    vfs: str | None = None
    schema: Schema = RUNS


def gate(version: str) -> None:
    """Refuse an SQLite that cannot be trusted with a WAL. Raises StoreTooOld."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        raise StoreTooOld(f"SQLite {version} is loaded; at least 3.51.3 is needed.")


def prepare(database: Database) -> apsw.Connection:
    """A connection to a file that is ours, whole and of this format; it is created where there is none.

    Several processes may do so at once with one new file. A file that is not ours is not changed. Raises a
    StoreError.
    """
    gate(apsw.sqlite_lib_version())
    return translating(database, _prepare)


def _prepare(database: Database) -> apsw.Connection:
    _probe(database)
    connection = connect(database)
    try:
        _create(connection, database)
        if connection.readonly("main"):
            raise StoreReadOnly(f"{database.path} can only be read.")
        verify(connection, database)
        _tidy(connection, database)
    except BaseException:
        connection.close()
        raise
    return connection


def _tidy(connection: apsw.Connection, database: Database) -> None:
    """Move into the file what a dead process left in the WAL.

    It may have died of a sync that failed (see `recover`). While others use the file they vouch for its WAL,
    and are not waited for.
    """
    connection.set_busy_timeout(0)
    with contextlib.suppress(apsw.BusyError):
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.set_busy_timeout(int(database.busy_timeout * 1000))


def connect(database: Database, *, reads: bool = False) -> apsw.Connection:
    """A connection with our settings; one that *reads* can write nothing. Raises apsw.Error."""
    connection = apsw.Connection(database.path, vfs=database.vfs)
    try:
        connection.set_busy_timeout(int(database.busy_timeout * 1000))
        connection.pragma("synchronous", 2 if database.durability == "power" else 1)
        if database.durability == "power":  # where a plain fsync leaves the data in the drive's cache (macOS)
            connection.pragma("fullfsync", 1)
            connection.pragma("checkpoint_fullfsync", 1)
        connection.wal_autocheckpoint(
            0
        )  # the writer makes checkpoints itself: SQLite's own hides their errors
        if database.schema.overwrites:
            connection.pragma("secure_delete", 1)
        if reads:
            connection.pragma("query_only", 1)
    except BaseException:
        connection.close()
        raise
    return connection


def rows(cursor: apsw.Cursor, query: str, values: Sequence[apsw.SQLiteValue] = ()) -> list[Any]:
    """What *query* finds; the schema is STRICT, so the columns have the types that it says."""
    return cursor.execute(query, values).fetchall()


def verify(connection: apsw.Connection, database: Database) -> None:
    """Read the file back and check its structure (bounded, see CHECKED_WHOLE). Raises StoreCorrupt."""
    size = connection.pragma("page_count") * connection.pragma("page_size")
    some = [f"quick_check('{table}')" for table in database.schema.checked]
    for check in ["quick_check(1)"] if size <= CHECKED_WHOLE else some:
        found = connection.execute(f"PRAGMA {check}").fetchall()
        if found != [("ok",)]:
            raise StoreCorrupt(f"{database.path} is damaged: {found[0][0]}.")


def recover(database: Database) -> apsw.Connection:
    """A new connection after a failed write or sync: the file read back, its WAL moved into it and cut to nothing.

    A page whose sync failed may be clean in the cache and missing on the disk, so it must be written again
    under another sync, and nothing may be appended after it. TRUNCATE alone promises both; while another
    process's reader prevents it beyond the busy timeout, this fails and the store stays shut.
    """
    return translating(database, _recover)


def _recover(database: Database) -> apsw.Connection:
    connection = connect(database)
    try:
        verify(connection, database)
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except BaseException:
        connection.close()
        raise
    return connection


def translating(database: Database, action: Callable[[Database], T]) -> T:
    """Do *action*, with SQLite's errors translated."""
    try:
        return action(database)
    except apsw.Error as error:
        raise translate(error, database) from error


def translate(error: apsw.Error, database: Database) -> StoreError:
    """What *error* means to whoever runs the store."""
    path = database.path
    match error:
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return StoreLocked(f"{path} was held by another program for {database.busy_timeout:g} s.")
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return StoreReadOnly(f"{path} cannot be written ({error}).")
        case apsw.FullError():
            return StoreFull(f"No room is left for {path}.")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreCorrupt(f"{path} is damaged ({error}).")
        case apsw.CantOpenError():
            return _cannot_open(error, path)
        case apsw.TooBigError():
            return StoreError(f"A batch is too large for {path} ({error}).", fix="Keep a body under 1 GB.")
        case _:
            return StoreError(
                f"{path} failed ({type(error).__name__}: {error}).", fix="Look at the disk it is on."
            )


def _cannot_open(error: apsw.Error, path: str) -> StoreError:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return StoreReadOnly(
            f"{path} cannot be created: there is no folder {folder}.", fix="Create the folder first."
        )
    if not os.access(folder, os.W_OK) or (os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK)):
        return StoreReadOnly(f"{path} cannot be opened for writing ({error}).")
    return StoreError(
        f"{path} cannot be opened ({error}).", fix="Look at the path, and at the limit of open files."
    )


# what the file is


def _probe(database: Database) -> None:
    """Refuse what is not ours by its first bytes, before SQLite opens it and perhaps rolls back or moves a WAL."""
    path = database.path
    if os.path.isdir(path):
        raise StoreForeign(f"{path} is a folder, not a file.", fix="Name a file in it.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreForeign(f"{path} is not a regular file.")
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return
    header = _header(database)
    if header is None or header[:16] != b"SQLite format 3\0":
        raise StoreForeign(f"{path} is not an SQLite database.")
    # A file that another process is just creating has no tables in it yet: they are in its WAL, with our number.
    empty = header[100] == _LEAF_TABLE and header[103:105] == b"\0\0"
    version, application = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    _recognise(database, application, version, empty)


def _header(database: Database) -> bytes | None:
    """The header of the file and of its first page (https://sqlite.org/fileformat.html, 1.3 and 1.6); None if short.

    Read through SQLite's VFS: a descriptor of our own would drop this process's locks on the file when it is closed.
    """
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0]
    file = apsw.VFSFile(database.vfs or "", database.path, flags)
    try:
        return file.xRead(108, 0)
    except apsw.IOError:
        return None
    finally:
        file.xClose()


def _recognise(database: Database, application: int, version: int, empty: bool) -> bool:
    """Whether the file is ours; not if it is empty. Raises StoreForeign for anybody else's and for a newer format."""
    if application in (APPLICATION_ID, MEMORY_ID):
        if version > USER_VERSION:
            raise StoreForeign(f"{database.path} has format {version}; this release knows {USER_VERSION}.")
        return True
    if application != 0 or version != 0 or not empty:
        raise StoreForeign(f"{database.path} is the database of another program.")
    return False


def _ours(connection: apsw.Connection, database: Database) -> bool:
    """Whether the schema is there. What the file is, is asked with one statement, and so of one snapshot."""
    query = """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
    FROM pragma_application_id, pragma_user_version"""
    [(application, version, count)] = rows(connection.cursor(), query)
    ours = _recognise(database, application, version, count == 0)
    return ours and database.schema.present(connection, database.path)


def _create(connection: apsw.Connection, database: Database) -> None:
    """Set the journal mode and the schema, unless another process was first."""
    _use_wal(connection, database)
    if _ours(connection, database):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _ours(connection, database):
            database.schema.create(connection)
        connection.execute("COMMIT")
    except BaseException:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        raise


def _use_wal(connection: apsw.Connection, database: Database) -> None:
    """Switch to WAL. SQLite does not wait for others here, whatever its timeout, so the waiting is ours."""
    deadline = time.monotonic() + database.busy_timeout
    while True:
        try:
            mode = connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            if connection.readonly("main"):
                raise StoreReadOnly(f"{database.path} can only be read.")
            raise StoreError(
                f"{database.path} cannot use a WAL (journal mode {mode}).", fix="Use a local disk."
            )
        return
