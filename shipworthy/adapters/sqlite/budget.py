"""Holds and counters inside the writer's transaction: it is the only one at a time in all processes, so that what is
read here is true until it is written.

Like the operations on runs, a hold that is refused has written nothing of its own; only its place among those who
wait, and what was overdue, may be.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import apsw
import msgspec

import shipworthy.adapters.sqlite.operations as operations
from shipworthy.adapters.shared.entries import Entry
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.adapters.sqlite.workers import Worker
from shipworthy.domain.journal import Fence
from shipworthy.domain.ledger import (
    Forget,
    Granted,
    Hold,
    Line,
    Outcome,
    Rate,
    Refused,
    Settled,
    Settlement,
)
from shipworthy.errors import HoldRefused, ShipworthyError
from shipworthy.rules.ledger import MICROS, cost, verdict, wait_for

PLACE = 5_000
"""Milliseconds for which who waits keeps its place without asking again."""
_REFRESHED = 1_000
"""A place is kept longer by this much, so that asking again seldom has to write."""
AT_ONCE = 500
"""Rows that are expired or dropped in one transaction."""
DAY = 86_400_000

_KNOWN = """SELECT h.granted, p.counter FROM (SELECT ?1 AS id) AS asked
LEFT JOIN holds AS h ON h.id = asked.id LEFT JOIN places AS p ON p.hold = asked.id"""
_CREATE = """INSERT INTO counters (key, level, tenant, name, unit, "window", start, "end")
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_HOLD = "UPDATE counters SET held = held + ? WHERE id = ?"
_SPEND = "UPDATE counters SET spent = spent + ?, warned = warned OR ? WHERE id = ?"
_MOVE = "UPDATE counters SET held = held - ?, spent = max(spent + ?, 0) WHERE id = ?"
_WARN = "UPDATE counters SET warned = 1 WHERE id = ?"
_OWE = "INSERT INTO rates VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET owed = excluded.owed"
_GIVE_BACK = "UPDATE rates SET owed = owed + ? WHERE key = ?"
_KEEP = """INSERT INTO holds (id, tenant, state, due, lines, rates, note, granted, settled)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_FIND = "SELECT state, lines, rates, note, granted, settled FROM holds WHERE id = ? AND tenant = ?"
_DONE = "UPDATE holds SET state = 'done', due = ?, settled = ? WHERE id = ?"
_OVERDUE = "SELECT id, lines FROM holds WHERE state = 'held' AND due <= ? ORDER BY due LIMIT ?"

_Reserved = list[tuple[int, int, int]]
_encode = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder(_Reserved).decode
_rates = msgspec.json.Decoder(list[tuple[Rate, int]]).decode
_granted = msgspec.json.Decoder(Granted).decode
_settled = msgspec.json.Decoder(Settled).decode


class Standing(msgspec.Struct, frozen=True, gc=False):
    """A line's counter as it stands; `id` is None where there is none yet. `cap` is the one in force, `first` the hold
    that has waited longest for it."""

    id: int | None
    spent: int
    held: int
    warned: int
    cap: int
    first: str | None


def now() -> int:
    """The wall clock, in milliseconds."""
    return time.time_ns() // 1_000_000


# a batch with budget operations


def commit(cursor: apsw.Cursor, worker: Worker, fence: Fence, entry: Entry) -> list[Outcome]:
    """Append to a run and do to the ledger what comes with it, or neither. Raises Fenced, HoldRefused.

    A refusal may come after something was written, so this batch has a savepoint.
    """
    outcomes: list[Outcome] = []
    cursor.execute("SAVEPOINT batch")
    try:
        operations.commit(cursor, worker, fence, entry)
        for operation in entry.budget:
            outcomes.append(_apply(cursor, operation))
    except ShipworthyError as refusal:
        cursor.execute("ROLLBACK TO batch")
        cursor.execute("RELEASE batch")
        if isinstance(refusal, _Turned):
            at = now()
            expire(cursor, at)
            _turn_away(cursor, refusal.hold, refusal.answer, at)
            raise HoldRefused(refusal.answer) from None
        raise
    cursor.execute("RELEASE batch")
    return outcomes


class _Turned(HoldRefused):
    """A refusal that knows whose it is."""

    def __init__(self, hold: Hold, answer: Refused) -> None:
        super().__init__(answer)
        self.hold, self.answer = hold, answer


def _apply(cursor: apsw.Cursor, operation: Hold | Settlement | Forget) -> Outcome:
    match operation:
        case Hold():
            answer = _judged(cursor, operation, now())
            if isinstance(answer, Refused):
                raise _Turned(operation, answer)
            return answer
        case Settlement():
            return put(cursor, operation)
        case Forget():
            drop(cursor, operation)
            return None


# reserving


def take(cursor: apsw.Cursor, hold: Hold) -> Granted | Refused:
    """`Ledger.reserve`."""
    at = now()
    answer = _judged(cursor, hold, at)
    if isinstance(answer, Refused):
        _turn_away(cursor, hold, answer, at)
    return answer


def _judged(cursor: apsw.Cursor, hold: Hold, at: int) -> Granted | Refused:
    """Grant a hold, or say why not: then nothing but what was overdue is written."""
    [(known, place)] = rows(cursor, _KNOWN, (hold.id,))
    if known is not None:
        return _granted(known)
    standings = look(cursor, hold, at)
    answer = _decide(cursor, hold, standings, at)
    if isinstance(answer, Refused) and answer.cause == "held" and expire(cursor, at):
        standings = look(cursor, hold, at)
        answer = _decide(cursor, hold, standings, at)
    if isinstance(answer, Refused):
        return answer
    if place is not None:
        _give_up_place(cursor, hold)
    return _grant(cursor, hold, answer.units, standings, at)


def look(cursor: apsw.Cursor, hold: Hold, at: int) -> list[Standing]:
    """What each line's counter is, in their order."""
    values: list[apsw.SQLiteValue] = []
    for index, line in enumerate(hold.lines):
        values += (index, line.key, line.limit)
    found = sorted(rows(cursor, _look(len(hold.lines)), (*values, at))) if hold.lines else []
    return [
        Standing(counter, spent, held, warned, line.cap if cap is None else cap, first)
        for line, (_, counter, spent, held, warned, cap, first) in zip(hold.lines, found, strict=True)
    ]


@functools.cache
def _look(lines: int) -> str:
    asked = ", ".join(["(?, ?, ?)"] * lines)
    return f"""WITH asked (line, key, "limit") AS (VALUES {asked})
    SELECT a.line, c.id, coalesce(c.spent, 0), coalesce(c.held, 0), coalesce(c.warned, 0), o.cap,
    (SELECT hold FROM places AS p WHERE p.counter = c.id AND p.until >= ? ORDER BY p.ticket LIMIT 1)
    FROM asked AS a LEFT JOIN counters AS c ON c.key = a.key LEFT JOIN caps AS o ON o."limit" = a."limit" """


def _decide(cursor: apsw.Cursor, hold: Hold, standings: list[Standing], at: int) -> Granted | Refused:
    answer = verdict(
        hold,
        [s.cap for s in standings],
        [s.spent for s in standings],
        [s.held for s in standings],
        [s.first not in (None, hold.id) for s in standings],
    )
    if hold.rates and isinstance(answer, Granted):
        owed = _owed(cursor, hold.rates)
        for index, rate in enumerate(hold.rates):
            amount = hold.rate_base[index] + hold.rate_each[index] * answer.units
            if wait := wait_for(rate, owed.get(rate.key, 0), amount, at * MICROS):
                return Refused("rate", index, needed=amount, wait=wait)
    return answer


def _owed(cursor: apsw.Cursor, rates: Sequence[Rate]) -> dict[str, int]:
    keys = _encode([rate.key for rate in rates]).decode()
    return dict(
        rows(cursor, "SELECT key, owed FROM rates WHERE key IN (SELECT value FROM json_each(?))", (keys,))
    )


def _grant(cursor: apsw.Cursor, hold: Hold, units: int, standings: list[Standing], at: int) -> Granted:
    reserved: _Reserved = []
    warned: list[int] = []
    near = False
    for index, (line, standing) in enumerate(zip(hold.lines, standings, strict=True)):
        amount = hold.base[index] + hold.each[index] * units
        counter = _create(cursor, line) if standing.id is None else standing.id
        reserved.append((counter, amount, line.soft))
        if line.soft and not standing.warned:
            if hold.final and standing.spent + amount >= line.soft:
                warned.append(index)
            near = near or standing.spent + standing.held + amount >= line.soft
    if hold.final:
        cursor.executemany(
            _SPEND,
            [(amount, index in warned, counter) for index, (counter, amount, _) in enumerate(reserved)],
        )
    else:
        cursor.executemany(_HOLD, [(amount, counter) for counter, amount, _ in reserved])
    granted = Granted(units, tuple(warned), near and not hold.final)
    rates = _owe(cursor, hold, units, at) if hold.rates else None
    done = _encode(Settled(hold.note, units=units)).decode() if hold.final else None
    state, due = ("done", at + DAY) if hold.final else ("held", at + hold.ttl)
    lines, answer = _encode(reserved).decode(), _encode(granted).decode()
    cursor.execute(_KEEP, (hold.id, hold.tenant, state, due, lines, rates, hold.note, answer, done))
    return granted


def _owe(cursor: apsw.Cursor, hold: Hold, units: int, at: int) -> str:
    """Let what was granted pass the rates; gives what a hold remembers of it."""
    owed = _owed(cursor, hold.rates)
    passed: list[tuple[Rate, int]] = []
    for rate, base, each in zip(hold.rates, hold.rate_base, hold.rate_each, strict=True):
        amount = base + each * units
        passed.append((rate, amount))
        owed[rate.key] = max(owed.get(rate.key, 0), at * MICROS) + cost(rate, amount)
    cursor.executemany(_OWE, [(rate.key, owed[rate.key]) for rate in hold.rates])
    return _encode(passed).decode()


def _create(cursor: apsw.Cursor, line: Line) -> int:
    account = line.account
    values = (
        line.key,
        account.level,
        account.tenant,
        account.name,
        line.unit,
        line.window,
        line.start,
        line.end,
    )
    cursor.execute(_CREATE, values)
    return cursor.connection.last_insert_rowid()


# waiting


def _turn_away(cursor: apsw.Cursor, hold: Hold, refused: Refused, at: int) -> None:
    """Keep a patient hold's place before the line that is full, and no other."""
    if refused.cause != "held" or not hold.patient:
        return _give_up_place(cursor, hold)
    line = hold.lines[refused.index]
    found = rows(cursor, "SELECT id FROM counters WHERE key = ?", (line.key,))
    counter = found[0][0] if found else _create(cursor, line)
    place = rows(cursor, "SELECT counter, until FROM places WHERE hold = ?", (hold.id,))
    until = at + PLACE + _REFRESHED
    if place and place[0][0] == counter and place[0][1] >= at:
        if place[0][1] < at + PLACE:
            cursor.execute("UPDATE places SET until = ? WHERE hold = ?", (until, hold.id))
        return None
    cursor.execute("DELETE FROM places WHERE hold = ? OR (counter = ? AND until < ?)", (hold.id, counter, at))
    values = (hold.id, hold.tenant, counter, until)
    cursor.execute("INSERT INTO places (hold, tenant, counter, until) VALUES (?, ?, ?, ?)", values)
    return None


def _give_up_place(cursor: apsw.Cursor, hold: Hold) -> None:
    cursor.execute("DELETE FROM places WHERE hold = ?", (hold.id,))


# settling


def put(cursor: apsw.Cursor, settlement: Settlement) -> Settled:
    """`Ledger.settle`."""
    found = rows(cursor, _FIND, (settlement.id, settlement.tenant))
    if not found:
        return Settled(known=False)
    state, lines, rates, note, granted, settled = found[0]
    if state == "done":
        return _settled(settled)
    warned = _charge(cursor, _lines(lines), settlement.amounts, held=state == "held")
    if settlement.rates is not None and rates is not None:
        passed = zip(_rates(rates), settlement.rates, strict=True)
        changed = [(cost(rate, used) - cost(rate, amount), rate.key) for (rate, amount), used in passed]
        cursor.executemany(_GIVE_BACK, changed)
    note = note if settlement.amounts is None else settlement.note
    answer = Settled(note, warned, units=_granted(granted).units)
    cursor.execute(_DONE, (now() + DAY, _encode(answer).decode(), settlement.id))
    return answer


def _charge(
    cursor: apsw.Cursor, reserved: _Reserved, amounts: Sequence[int] | None, *, held: bool
) -> tuple[int, ...]:
    """Put *amounts* in place of what was reserved. Gives the lines that reached their warning by it."""
    moves = []
    for index, (counter, amount, _) in enumerate(reserved):
        used = amount if amounts is None else amounts[index]
        moves.append((amount if held else 0, used if held else used - amount, counter))
    cursor.executemany(_MOVE, moves)
    warns = {counter: (soft, index) for index, (counter, _, soft) in enumerate(reserved) if soft}
    if not warns:
        return ()
    unwarned = rows(cursor, _unwarned(len(warns)), [*warns])
    warned = [warns[counter][1] for counter, spent in unwarned if spent >= warns[counter][0]]
    if warned:
        cursor.executemany(_WARN, [(reserved[index][0],) for index in warned])
    return tuple(sorted(warned))


@functools.cache
def _unwarned(counters: int) -> str:
    asked = ", ".join("?" * counters)
    return f"SELECT id, spent FROM counters WHERE id IN ({asked}) AND warned = 0"


def release(cursor: apsw.Cursor, tenant: str, hold: str) -> None:
    """`Ledger.release`."""
    cursor.execute("DELETE FROM places WHERE hold = ? AND tenant = ?", (hold, tenant))
    found = rows(cursor, _FIND, (hold, tenant))
    if found:
        lines, rates = _lines(found[0][1]), _rates(found[0][2] or "[]")
        nothing = Settlement(id=hold, tenant=tenant, amounts=(0,) * len(lines), rates=(0,) * len(rates))
        put(cursor, nothing)


def renew(cursor: apsw.Cursor, tenant: str, names: Sequence[str], ttl: int) -> None:
    """`Ledger.renew`."""
    query = "UPDATE holds SET due = ? WHERE id = ? AND tenant = ? AND state = 'held'"
    until = now() + ttl
    cursor.executemany(query, [(until, name, tenant) for name in names])


# what is over


def drop(cursor: apsw.Cursor, forget: Forget) -> None:
    """`Ledger.forget`."""
    mine = "FROM counters WHERE key = ? AND tenant = ?"
    keys = [(key, forget.tenant) for key in forget.keys]
    cursor.executemany(f"DELETE FROM places WHERE counter = (SELECT id {mine})", keys)
    cursor.executemany(f"DELETE {mine}", keys)


def expire(cursor: apsw.Cursor, at: int) -> int:
    """Charge in full what is overdue, the longest first and AT_ONCE of it. Gives how many holds."""
    overdue = rows(cursor, _OVERDUE, (at, AT_ONCE))
    if not overdue:
        return 0
    moved: dict[int, int] = {}
    for _, lines in overdue:
        for counter, amount, _ in _lines(lines):
            moved[counter] = moved.get(counter, 0) + amount
    cursor.executemany(_MOVE, [(amount, amount, counter) for counter, amount in moved.items()])
    query = "UPDATE holds SET state = 'expired', due = ? WHERE id = ?"
    cursor.executemany(query, [(at + DAY, hold) for hold, _ in overdue])
    return len(overdue)


def forget_holds(cursor: apsw.Cursor, at: int) -> int:
    """Drop holds of which nobody will ask any more. Gives how many."""
    old = "SELECT rowid FROM holds WHERE state IN ('expired', 'done') AND due <= ? LIMIT ?"
    cursor.execute(f"DELETE FROM holds WHERE rowid IN ({old})", (at, AT_ONCE))
    return cursor.connection.changes()
