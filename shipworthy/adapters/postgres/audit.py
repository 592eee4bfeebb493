"""Audit logs in the tables of a store's database, inside a transaction that says that it is for them. Reading needs no
key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from shipworthy.adapters.postgres.connection import Connection, of
from shipworthy.adapters.shared.chaining import (
    Growth,
    Held,
    Kept,
    begun,
    demand_log,
    grown,
    like_its_first,
    matches,
    resolved,
    sound,
)
from shipworthy.domain.audit import Entry, EpochKeys, Links, Standing
from shipworthy.errors import AuditError

PAGE = 256
Found = tuple[list[int], int | None]
Place = tuple[int, int]
"""A batch of the journal: its run, and its first event."""
_LOCK = "SELECT * FROM audit_lock(%s)"
_KEPT = """SELECT l.key, l.standing, l.seal, e.seq, e.line FROM audit_logs AS l LEFT JOIN LATERAL
(SELECT seq, line FROM audit_entries WHERE log = l.key ORDER BY seq DESC LIMIT 1) AS e ON true WHERE l.name = %s"""
_BEGIN = """INSERT INTO audit_logs (name, standing, seal) VALUES (%s, %b, %b)
ON CONFLICT (name) DO NOTHING RETURNING key"""
_GROW = "SELECT audit_grow(%s, %b, %b, %s, %b, %b, %b, %s, %s)"
_KEEP = "INSERT INTO audit_checkpoints VALUES (%s, %s, %b) ON CONFLICT DO NOTHING"
_LINES = "SELECT seq, line FROM audit_entries WHERE log = %s AND seq >= %s ORDER BY seq LIMIT %s"
_SALTED = """SELECT seq, line FROM audit_entries WHERE log = %s AND seq >= %s AND salt IS NOT NULL
ORDER BY seq LIMIT %s"""
_HELD = """SELECT e.seq, e.line, e.salt, e.body, j.first, j.events, r.tenant, r.run_id
FROM (SELECT * FROM audit_entries WHERE log = %s AND seq >= %s ORDER BY seq LIMIT %s) AS e
LEFT JOIN journal AS j ON j.run = e.run AND j.first = e.first LEFT JOIN runs AS r ON r.key = j.run ORDER BY e.seq"""
_ERASE = "UPDATE audit_entries SET salt = NULL, body = NULL WHERE log = %s AND seq = ANY (%s)"
_CHECKPOINTS = """SELECT entries, line FROM audit_checkpoints WHERE log = %s AND entries >= %s
ORDER BY entries LIMIT %s"""
_NEWEST = "SELECT line FROM audit_checkpoints WHERE log = %s ORDER BY entries DESC LIMIT 1"


class Carried(msgspec.Struct, frozen=True, gc=False):
    """What comes with a batch that landed: the `nth` of its group, in the journal from event `first` to `last`. Without
    these it comes with none."""

    nth: int
    links: Links
    run: int = 0
    first: int = 1
    last: int = 0


class Unwritten(Exception):
    """Entries of some of a group's batches cannot be written, so that the group is not committed. `errors`: whose, by
    their numbers; without any, the group may be tried again as it is."""

    def __init__(self, errors: dict[int, AuditError]) -> None:
        self.errors = errors


class Locked:
    """Logs that a transaction writes: nobody else does before it ends. In a pipeline they are asked for together with
    what goes before."""

    def __init__(self, connection: Connection, names: Collection[str]) -> None:
        self._connection = connection
        # In one order, whoever commits beside us.
        self._asked = connection.execute(_LOCK, (sorted(names),), prepare=True)
        self._found: dict[str, tuple[Kept, int]] | None = None

    def kept(self, name: str) -> Kept | None:
        """What the database has of a log."""
        return self._kept(name)[0]

    def _kept(self, name: str) -> tuple[Kept, int] | tuple[None, None]:
        """The same, and what time it is there: one clock for all who share the log."""
        if self._found is None:
            self._found = {row[0]: (Kept(*row[2:]), row[1]) for row in self._asked.fetchall()}
        return self._found.get(name, (None, None))

    def carry(self, carried: Sequence[Carried]) -> list[Growth]:
        """Enter what comes with these batches, in their order; what was entered. Raises Unwritten."""
        growing: dict[str, Growth] = {}
        places: dict[str, dict[int, Place]] = {}
        failed: dict[int, AuditError] = {}
        for each in carried:
            name = each.links.name
            try:
                growth = growing.get(name) or self._grown(each.links)
                demand_log(growth.standing, each.links)
                rows = growth.add(each.links.keys, each.links.drafts, each.first, each.last)
            except AuditError as error:
                failed[each.nth] = error
                growing.pop(name, None)
                continue
            growing[name] = growth
            for row in rows:
                if row.joined:
                    places.setdefault(name, {})[row.seq] = (each.run, each.first)
        if failed:
            raise Unwritten(failed)
        for name, growth in growing.items():
            write(self._connection, growth, places.get(name, {}))
        return [*growing.values()]

    def _grown(self, links: Links) -> Growth:
        kept, at = self._kept(links.name)
        return grown(kept, links, at)


def write(connection: Connection, made: Growth, places: Mapping[int, Place]) -> None:
    """Write what a log grows by, and where it stands then; *places*: where in the journal bodies of its rows are, by
    the rows' numbers. Raises Unwritten where it was to be begun, and somebody else has begun it."""
    standing = (made.encoded, made.seal)
    if made.key is None:
        found = connection.execute(_BEGIN, (made.standing.name, *standing)).fetchall()
        if not found:
            raise Unwritten({})
        made.key = int(found[0][0])
    nowhere = (None, None)
    where = [places.get(row.seq, nowhere) for row in made.rows]
    columns: list[list[Any]] = [
        [row.seq for row in made.rows],
        [row.line for row in made.rows],
        [row.salt for row in made.rows],
        [row.body for row in made.rows],
        [run for run, _ in where],
        [first for _, first in where],
    ]
    connection.execute(_GROW, (made.key, *standing, *columns), prepare=True)


def begin(connection: Connection, keys: tuple[EpochKeys, ...], name: str) -> Standing:
    """Where the log stands, which is begun if there is none. Raises AuditDamaged, AuditKeyWrong."""
    with writing(connection):
        found = Locked(connection, [name]).kept(name)
        if found is None:
            made = begun(keys, name)
            write(connection, made, {})
            return made.standing
        standing = sound(found, keys, name)
        first = connection.execute(_LINES, (found.key, 0, 1)).fetchall()
    like_its_first(standing, first[0][1])
    return standing


def has(connection: Connection, made: Growth) -> bool:
    """Whether the log has what it was to grow by."""
    last = made.rows[-1]
    with of(connection, "audit", "on"):
        found = connection.execute(_LINES, (made.key, last.seq, 1)).fetchall()
    return [(last.seq, last.line)] == [(seq, bytes(line)) for seq, line in found]


@contextmanager
def writing(connection: Connection) -> Iterator[None]:
    with connection.pipeline(), connection.transaction():
        yield


# reading: each is one transaction


def kept(connection: Connection, name: str) -> Kept | None:
    """What the database has of a log."""
    with of(connection, "audit", "on"):
        found = connection.execute(_KEPT, (name,)).fetchall()
    return Kept(*found[0]) if found else None


def names(connection: Connection) -> list[str]:
    """What the logs are called that the database has."""
    with of(connection, "audit", "on"):
        return [name for (name,) in connection.execute("SELECT name FROM audit_logs ORDER BY key").fetchall()]


def logs(connection: Connection) -> list[tuple[int, str]]:
    """The same, each with its key."""
    with of(connection, "audit", "on"):
        return connection.execute("SELECT key, name FROM audit_logs ORDER BY key").fetchall()


def lines(connection: Connection, key: int, start: int) -> list[tuple[int, bytes]]:
    """Some of a log's entries, from the one of this number on."""
    with of(connection, "audit", "on"):
        return connection.execute(_LINES, (key, start, PAGE)).fetchall()


def held(connection: Connection, key: int, start: int) -> list[Held]:
    """The same, with their bodies, wherever those are."""
    with of(connection, "audit", "on"):
        connection.execute("SELECT set_config('shipworthy.operator', 'on', true)")
        found = connection.execute(_HELD, (key, start, PAGE)).fetchall()
    return [resolved(*row) for row in found]


def checkpoints(connection: Connection, key: int, start: int) -> list[tuple[int, bytes]]:
    """Some of a log's checkpoints, with how many entries they cover, from the one of so many on."""
    with of(connection, "audit", "on"):
        return connection.execute(_CHECKPOINTS, (key, start, PAGE)).fetchall()


def newest(connection: Connection, key: int) -> bytes | None:
    """A log's newest checkpoint."""
    with of(connection, "audit", "on"):
        found = connection.execute(_NEWEST, (key,)).fetchall()
    return bytes(found[0][0]) if found else None


def keep(connection: Connection, key: int, entries: int, line: bytes) -> None:
    """Keep a checkpoint of so many entries."""
    with of(connection, "audit", "on"):
        connection.execute(_KEEP, (key, entries, line))


def touch(connection: Connection, key: int) -> None:
    """Write something that changes nothing, for the sake of the sync."""
    with of(connection, "audit", "on"):
        connection.execute("UPDATE audit_logs SET seal = seal WHERE key = %s", (key,))


def matching(connection: Connection, key: int, start: int, match: Callable[[Entry], bool]) -> Found:
    """The numbers of entries of a page that match and have a salt; and where the next page begins."""
    with of(connection, "audit", "on"):
        found = connection.execute(_SALTED, (key, start, PAGE)).fetchall()
    numbers = [seq for seq, line in found if matches(line, match)]
    return numbers, found[-1][0] + 1 if len(found) == PAGE else None


def erase(connection: Connection, key: int, numbers: Sequence[int]) -> None:
    """Forget the bodies of these entries, and their salts."""
    with of(connection, "audit", "on"):
        connection.execute(_ERASE, (key, list(numbers)))
