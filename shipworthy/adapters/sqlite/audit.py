"""Audit logs in the tables of a store's file. Writing is inside the writer's transaction; reading needs no key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from weakref import WeakKeyDictionary

import apsw
import msgspec

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
from shipworthy.adapters.shared.entries import Entry as Batch
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.domain.audit import Entry, EpochKeys, Links, Standing

SHIFT = 40
"""Bits of an id that number a log's entries."""
PAGE = 256
Found = tuple[list[int], int | None]
_LAST = f"((?1 + 1) << {SHIFT}) - 1"
_KEPT = f"""SELECT l.key, l.standing, l.seal, e.id & ((1 << {SHIFT}) - 1), e.line
FROM audit_logs AS l LEFT JOIN audit_entries AS e
ON e.id = (SELECT max(id) FROM audit_entries WHERE id BETWEEN l.key << {SHIFT} AND ((l.key + 1) << {SHIFT}) - 1)
WHERE l.name = ?"""
_UNCHANGED = f"""SELECT 1 FROM audit_logs WHERE key = ?1 AND name = ?2
AND standing = ?3 AND seal = ?4 AND (SELECT line FROM audit_entries WHERE id = ?5) = ?6
AND NOT EXISTS (SELECT 1 FROM audit_entries WHERE id > ?5 AND id <= {_LAST})"""
_BEGIN = "INSERT INTO audit_logs (name, standing, seal) VALUES (?, ?, ?)"
_STAND = "UPDATE audit_logs SET standing = ?, seal = ? WHERE key = ?"
_ENTER = "INSERT INTO audit_entries (id, line, salt, body, run, batch) VALUES (?, ?, ?, ?, ?, ?)"
_KEEP = "INSERT INTO audit_checkpoints (id, line) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
_LINES = f"""SELECT id & ((1 << {SHIFT}) - 1), line FROM audit_entries
WHERE id BETWEEN (?1 << {SHIFT}) + ?2 AND {_LAST} ORDER BY id LIMIT ?3"""
_HELD = f"""SELECT e.id & ((1 << {SHIFT}) - 1), e.line, e.salt, e.body, j.first, j.events, r.tenant, r.run_id
FROM audit_entries AS e LEFT JOIN journal AS j ON j.id = e.batch AND j.run = e.run LEFT JOIN runs AS r ON r.key = j.run
WHERE e.id BETWEEN (?1 << {SHIFT}) + ?2 AND {_LAST} ORDER BY e.id LIMIT ?3"""
_SALTED = f"""SELECT id & ((1 << {SHIFT}) - 1), line FROM audit_entries
WHERE id BETWEEN (?1 << {SHIFT}) + ?2 AND {_LAST} AND salt IS NOT NULL ORDER BY id LIMIT ?3"""
_ERASE = "UPDATE audit_entries SET salt = NULL, body = NULL WHERE id = ?"
_CHECKPOINTS = f"""SELECT id & ((1 << {SHIFT}) - 1), line FROM audit_checkpoints
WHERE id BETWEEN (?1 << {SHIFT}) + ?2 AND {_LAST} ORDER BY id {{order}} LIMIT ?3"""


def kept(cursor: apsw.Cursor, name: str) -> Kept | None:
    """What the file has of a log."""
    found = rows(cursor, _KEPT, (name,))
    return Kept(*found[0]) if found else None


# writing


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A log as it was written: where it stood (and that as the file has it), its seal, and its last entry."""

    key: int
    standing: Standing
    encoded: bytes
    seal: bytes
    line: bytes


_written: WeakKeyDictionary[apsw.Cursor, dict[str, Seen]] = WeakKeyDictionary()
"""Logs that a transaction has written already, which has a cursor of its own: nobody else did since."""
_seen: WeakKeyDictionary[apsw.Connection, dict[str, Seen]] = WeakKeyDictionary()
"""Logs that a connection wrote last. Others may have written since, or it was taken back: it is looked each time."""


def growth(cursor: apsw.Cursor, batch: Batch) -> Growth | None:
    """The log that a batch has entries for, with these linked to it: nothing is written yet. Raises AuditError."""
    links = batch.audit
    if links is None:
        return None
    return _growth(cursor, links, batch.first, batch.last)


def _growth(cursor: apsw.Cursor, links: Links, first: int = 1, last: int = 0) -> Growth:
    known = _written.get(cursor, {}).get(links.name) or _unchanged(cursor, links.name)
    if known is not None:
        demand_log(known.standing, links)
        made = Growth(known.key, copy(known.standing))
    else:
        made = grown(kept(cursor, links.name), links)
    made.add(links.keys, links.drafts, first, last)
    return made


def _unchanged(cursor: apsw.Cursor, name: str) -> Seen | None:
    """The log as this connection wrote it last, if every bit of where it stands is as it was then: what was sound is
    still."""
    known = _seen.get(cursor.connection, {}).get(name)
    if known is None:
        return None
    at = (known.key << SHIFT) + known.standing.count - 1
    found = rows(cursor, _UNCHANGED, (known.key, name, known.encoded, known.seal, at, known.line))
    return known if found == [(1,)] else None


def forget(cursor: apsw.Cursor) -> None:
    """What the transaction wrote was taken back."""
    _written.pop(cursor, None)


def carry(cursor: apsw.Cursor, made: Growth, run: int) -> None:
    """Enter what comes with the batch that was appended to the journal just now."""
    write(cursor, made, run, cursor.connection.last_insert_rowid())


def append(cursor: apsw.Cursor, links: Links) -> None:
    """Enter what comes with no batch. Raises AuditError."""
    write(cursor, _growth(cursor, links))


def write(cursor: apsw.Cursor, made: Growth, run: int | None = None, batch: int | None = None) -> None:
    """Write what a log grows by, and where it stands then."""
    name, standing, seal = made.standing.name, made.encoded, made.seal
    if made.key is None:
        cursor.execute(_BEGIN, (name, standing, seal))
        made.key = cursor.connection.last_insert_rowid()
    else:
        cursor.execute(_STAND, (standing, seal, made.key))
    head = made.key << SHIFT
    values = [
        (head + row.seq, row.line, row.salt, row.body, *((run, batch) if row.joined else (None, None)))
        for row in made.rows
    ]
    cursor.executemany(_ENTER, values)
    seen = Seen(made.key, made.standing, standing, seal, made.rows[-1].line)
    _written.setdefault(cursor, {})[name] = seen
    _seen.setdefault(cursor.connection, {})[name] = seen


def begin(cursor: apsw.Cursor, keys: tuple[EpochKeys, ...], name: str) -> Standing:
    """Where the log stands, which is begun if there is none. Raises AuditDamaged, AuditKeyWrong."""
    found = kept(cursor, name)
    if found is None:
        made = begun(keys, name)
        write(cursor, made)
        return made.standing
    standing = sound(found, keys, name)
    [(_, line)] = rows(cursor, _LINES, (found.key, 0, 1))
    like_its_first(standing, line)
    return standing


# reading


def names(cursor: apsw.Cursor) -> list[str]:
    """What the logs are called that the file has."""
    return [name for (name,) in rows(cursor, "SELECT name FROM audit_logs ORDER BY key")]


def logs(cursor: apsw.Cursor) -> list[tuple[int, str]]:
    """The same, each with its key."""
    return rows(cursor, "SELECT key, name FROM audit_logs ORDER BY key")


def lines(cursor: apsw.Cursor, key: int, start: int) -> list[tuple[int, bytes]]:
    """Some of a log's entries, from the one of this number on."""
    return rows(cursor, _LINES, (key, start, PAGE))


def held(cursor: apsw.Cursor, key: int, start: int) -> list[Held]:
    """The same, with their bodies, wherever those are."""
    return [resolved(*row) for row in rows(cursor, _HELD, (key, start, PAGE))]


def checkpoints(cursor: apsw.Cursor, key: int, start: int) -> list[tuple[int, bytes]]:
    """Some of a log's checkpoints, with how many entries they cover, from the one of so many on."""
    return rows(cursor, _CHECKPOINTS.format(order="ASC"), (key, start, PAGE))


def newest(cursor: apsw.Cursor, key: int) -> bytes | None:
    """A log's newest checkpoint."""
    found = rows(cursor, _CHECKPOINTS.format(order="DESC"), (key, 0, 1))
    return bytes(found[0][1]) if found else None


def keep(cursor: apsw.Cursor, key: int, entries: int, line: bytes) -> None:
    """Keep a checkpoint of so many entries."""
    cursor.execute(_KEEP, ((key << SHIFT) + entries, line))


def touch(cursor: apsw.Cursor, key: int) -> None:
    """Write something, for the sake of the sync: SQLite sees it if nothing changes, and does without."""
    cursor.execute("UPDATE audit_logs SET settled = settled + 1 WHERE key = ?", (key,))


def matching(cursor: apsw.Cursor, key: int, start: int, match: Callable[[Entry], bool]) -> Found:
    """The numbers of entries of a page that match and have a body or a salt; and where the next page begins."""
    found = rows(cursor, _SALTED, (key, start, PAGE))
    numbers = [seq for seq, line in found if matches(line, match)]
    return numbers, found[-1][0] + 1 if len(found) == PAGE else None


def erase(cursor: apsw.Cursor, key: int, numbers: Sequence[int]) -> None:
    """Forget the bodies of these entries, and their salts."""
    cursor.executemany(_ERASE, [((key << SHIFT) + seq,) for seq in numbers])
