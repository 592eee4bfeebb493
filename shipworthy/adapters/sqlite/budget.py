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

import shipworthy.adapters.sqlite.audit as audit
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
from shipworthy.rules.ledger import MICROS, SLACK, corrected, is_full, owing, passed, verdict, wait_for

PLACE = 5_000
"""Milliseconds for which who waits keeps its place without asking again."""
_REFRESHED = 1_000
"""A place is kept longer by this much, so that asking again seldom has to write."""
_LONGEST = PLACE + _REFRESHED
"""A place that would be kept for longer stems from a clock that was ahead."""
AT_ONCE = 500
"""Rows that are expired or dropped in one transaction."""
DAY = 86_400_000
_NEVER = 1 << 62

_KNOWN = """SELECT h.granted, p.ticket, p.until FROM (SELECT ?1 AS id) AS asked
LEFT JOIN holds AS h ON h.id = asked.id LEFT JOIN places AS p ON p.hold = asked.id"""
_CREATE = """INSERT INTO counters (key, level, tenant, name, unit, "window", start, "end")
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_HOLD = "UPDATE counters SET held = held + ? WHERE id = ?"
_SPEND = "UPDATE counters SET spent = spent + ?, warned = warned OR ? WHERE id = ?"
_MOVE = "UPDATE counters SET held = held - ?, spent = max(spent + ?, 0) WHERE id = ?"
_WARN = "UPDATE counters SET warned = 1 WHERE id = ?"
_OWE = """INSERT INTO rates VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET owed = excluded.owed, idle_at = excluded.idle_at"""
_OWES_TOO_MUCH = "UPDATE rates SET owed = ?1 WHERE key = ?2 AND owed > ?1"
_GIVE_BACK = "UPDATE rates SET owed = owed + ? WHERE key = ?"
_KEEP = """INSERT INTO holds (id, tenant, state, due, ttl, lines, rates, note, granted, settled)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_FIND = "SELECT state, lines, rates, note, granted, settled FROM holds WHERE id = ? AND tenant = ?"
_DONE = "UPDATE holds SET state = 'done', due = ?, settled = ? WHERE id = ?"
_TOO_LATE = "UPDATE holds SET due = ?1 + ttl WHERE state = 'held' AND due > ?1 + ?2 AND due > ?1 + ?2 + ttl"
_OVERDUE = "SELECT id, lines FROM holds WHERE state = 'held' AND due <= ? ORDER BY due LIMIT ?"


class Reserved(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a hold has reserved of a counter, and when that is to warn. `written_off`: it expired, and what it was
    charged was reset."""

    counter: int
    amount: int
    soft: int
    written_off: bool = False


_Passed = tuple[int, list[tuple[Rate, int]]]
_IDLE = 0, 0
_encode = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder(list[Reserved]).decode
_rates = msgspec.json.Decoder(_Passed).decode
_granted = msgspec.json.Decoder(Granted).decode
_settled = msgspec.json.Decoder(Settled).decode


class Standing(msgspec.Struct, frozen=True, gc=False):
    """A line's counter as it stands; `id` is None where there is none yet. `cap` is the one in force, `first` the
    oldest ticket of those who wait for it."""

    id: int | None
    spent: int
    held: int
    warned: int
    cap: int
    first: int | None


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
        audit.forget(cursor)
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
    [(known, ticket, until)] = rows(cursor, _KNOWN, (hold.id,))
    if known is not None:
        return _granted(known)
    mine = ticket if ticket is not None and _is_kept(until, at) else None
    standings = look(cursor, hold, at)
    answer = _decide(cursor, hold, standings, mine, at)
    if isinstance(answer, Refused) and answer.cause == "held" and expire(cursor, at):
        standings = look(cursor, hold, at)
        answer = _decide(cursor, hold, standings, mine, at)
    if isinstance(answer, Refused):
        return answer
    if ticket is not None:
        _give_up_place(cursor, hold)
    return _grant(cursor, hold, answer.units, standings, at)


def look(cursor: apsw.Cursor, hold: Hold, at: int) -> list[Standing]:
    """What each line's counter is, in their order."""
    values: list[apsw.SQLiteValue] = []
    for index, line in enumerate(hold.lines):
        values += (index, line.key, line.limit)
    found = sorted(rows(cursor, _look(len(hold.lines)), (*values, at, at + _LONGEST))) if hold.lines else []
    return [
        Standing(counter, spent, held, warned, line.cap if cap is None else cap, first)
        for line, (_, counter, spent, held, warned, cap, first) in zip(hold.lines, found, strict=True)
    ]


@functools.cache
def _look(lines: int) -> str:
    asked = ", ".join(["(?, ?, ?)"] * lines)
    return f"""WITH asked (line, key, "limit") AS (VALUES {asked})
    SELECT a.line, c.id, coalesce(c.spent, 0), coalesce(c.held, 0), coalesce(c.warned, 0), o.cap,
    (SELECT ticket FROM places AS p WHERE p.counter = c.id AND p.until BETWEEN ? AND ? ORDER BY p.ticket LIMIT 1)
    FROM asked AS a LEFT JOIN counters AS c ON c.key = a.key LEFT JOIN caps AS o ON o."limit" = a."limit" """


def _decide(
    cursor: apsw.Cursor, hold: Hold, standings: list[Standing], mine: int | None, at: int
) -> Granted | Refused:
    """What the rules say; *mine* is the hold's own ticket: older ones come before it, wherever it waits."""
    answer = verdict(
        hold,
        [s.cap for s in standings],
        [s.spent for s in standings],
        [s.held for s in standings],
        [s.first is not None and (mine is None or s.first < mine) for s in standings],
    )
    if hold.rates and isinstance(answer, Granted):
        paces = _paces(cursor, hold.rates)
        for index, rate in enumerate(hold.rates):
            amount = hold.rate_base[index] + hold.rate_each[index] * answer.units
            if wait := wait_for(rate, paces.get(rate.key, _IDLE)[0], amount, at * MICROS):
                return Refused("rate", index, needed=amount, wait=wait)
    return answer


def _paces(cursor: apsw.Cursor, rates: Sequence[Rate]) -> dict[str, tuple[int, int]]:
    """What these rates owe, and when they were last idle."""
    keys = _encode([rate.key for rate in rates]).decode()
    query = "SELECT key, owed, idle_at FROM rates WHERE key IN (SELECT value FROM json_each(?))"
    return {key: (owed, idle_at) for key, owed, idle_at in rows(cursor, query, (keys,))}


def _grant(cursor: apsw.Cursor, hold: Hold, units: int, standings: list[Standing], at: int) -> Granted:
    reserved: list[tuple[int, int, int]] = []
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
    cursor.execute(_KEEP, (hold.id, hold.tenant, state, due, hold.ttl, lines, rates, hold.note, answer, done))
    return granted


def _owe(cursor: apsw.Cursor, hold: Hold, units: int, at: int) -> str:
    """Let what was granted pass the rates; gives what a hold remembers of it."""
    paces = _paces(cursor, hold.rates)
    reserved: list[tuple[Rate, int]] = []
    for rate, base, each in zip(hold.rates, hold.rate_base, hold.rate_each, strict=True):
        amount = base + each * units
        reserved.append((rate, amount))
        paces[rate.key] = passed(rate, *paces.get(rate.key, _IDLE), amount, at)
    cursor.executemany(_OWE, [(rate.key, *paces[rate.key]) for rate in hold.rates])
    return _encode((at, reserved)).decode()


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
    """Keep a patient hold's place before the line that is full, and no other; where only the order is in the way, where
    it is. What is owed too long is cut."""
    if refused.cause == "rate":
        most = [(owing(rate, _NEVER, at * MICROS), rate.key) for rate in hold.rates]
        cursor.executemany(_OWES_TOO_MUCH, most)
    if refused.cause != "held" or not hold.patient:
        return _give_up_place(cursor, hold)
    until = at + _LONGEST
    [place] = rows(cursor, "SELECT counter, until FROM places WHERE hold = ?", (hold.id,)) or [None]
    if place is None or not _is_kept(place[1], at):
        return _queue(cursor, hold, hold.lines[refused.index], at)
    if is_full(refused) and (counter := _counter(cursor, hold.lines[refused.index])) != place[0]:
        cursor.execute("UPDATE places SET counter = ?, until = ? WHERE hold = ?", (counter, until, hold.id))
    elif place[1] < at + PLACE:
        cursor.execute("UPDATE places SET until = ? WHERE hold = ?", (until, hold.id))
    return None


def _queue(cursor: apsw.Cursor, hold: Hold, line: Line, at: int) -> None:
    """Have a hold wait behind all others."""
    counter = _counter(cursor, line)
    cursor.execute("DELETE FROM places WHERE hold = ? OR (counter = ? AND until < ?)", (hold.id, counter, at))
    values = (hold.id, hold.tenant, counter, at + _LONGEST)
    cursor.execute("INSERT INTO places (hold, tenant, counter, until) VALUES (?, ?, ?, ?)", values)


def _counter(cursor: apsw.Cursor, line: Line) -> int:
    found = rows(cursor, "SELECT id FROM counters WHERE key = ?", (line.key,))
    return int(found[0][0]) if found else _create(cursor, line)


def _is_kept(until: int, at: int) -> bool:
    return at <= until <= at + _LONGEST


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
        _give_back(cursor, _rates(rates), settlement.rates)
    note = note if settlement.amounts is None else settlement.note
    answer = Settled(note, warned, units=_granted(granted).units)
    cursor.execute(_DONE, (now() + DAY, _encode(answer).decode(), settlement.id))
    return answer


def _give_back(cursor: apsw.Cursor, reserved: _Passed, used: Sequence[int]) -> None:
    """Take from what its rates owe what a hold did not use of them."""
    taken, amounts = reserved
    paces = _paces(cursor, [rate for rate, _ in amounts])
    for (rate, amount), spent in zip(amounts, used, strict=True):
        idle_at = paces.get(rate.key, _IDLE)[1]
        cursor.execute(_GIVE_BACK, (corrected(rate, amount, spent, taken, idle_at), rate.key))


def _charge(
    cursor: apsw.Cursor, reserved: list[Reserved], amounts: Sequence[int] | None, *, held: bool
) -> tuple[int, ...]:
    """Put *amounts* in place of what was reserved. Gives the lines that reached their warning by it."""
    moves = []
    for index, line in enumerate(reserved):
        used = line.amount if amounts is None else amounts[index]
        charged = 0 if held or line.written_off else line.amount
        moves.append((line.amount if held else 0, used - charged, line.counter))
    cursor.executemany(_MOVE, moves)
    warns = {line.counter: (line.soft, index) for index, line in enumerate(reserved) if line.soft}
    if not warns:
        return ()
    unwarned = rows(cursor, _unwarned(len(warns)), [*warns])
    warned = [warns[counter][1] for counter, spent in unwarned if spent >= warns[counter][0]]
    if warned:
        cursor.executemany(_WARN, [(reserved[index].counter,) for index in warned])
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
        lines, rates = _lines(found[0][1]), _rates(found[0][2])[1] if found[0][2] else []
        nothing = Settlement(id=hold, tenant=tenant, amounts=(0,) * len(lines), rates=(0,) * len(rates))
        put(cursor, nothing)


def renew(cursor: apsw.Cursor, tenant: str, names: Sequence[str], ttl: int) -> None:
    """`Ledger.renew`."""
    query = "UPDATE holds SET due = ?, ttl = ? WHERE id = ? AND tenant = ? AND state = 'held'"
    until = now() + ttl
    cursor.executemany(query, [(until, ttl, name, tenant) for name in names])


# what is over


def write_off(cursor: apsw.Cursor, counters: set[int]) -> None:
    """Have holds that expired give nothing back to these counters when they are settled: they were reset."""
    written = []
    for id, lines in rows(cursor, "SELECT id, lines FROM holds WHERE state = 'expired'"):
        reserved = _lines(lines)
        if counters.intersection([line.counter for line in reserved]):
            kept = [
                msgspec.structs.replace(line, written_off=line.written_off or line.counter in counters)
                for line in reserved
            ]
            written.append((_encode(kept).decode(), id))
    cursor.executemany("UPDATE holds SET lines = ? WHERE id = ?", written)


def drop(cursor: apsw.Cursor, forget: Forget) -> None:
    """`Ledger.forget`."""
    mine = "FROM counters WHERE key = ? AND tenant = ?"
    keys = [(key, forget.tenant) for key in forget.keys]
    cursor.executemany(f"DELETE FROM places WHERE counter = (SELECT id {mine})", keys)
    cursor.executemany(f"DELETE {mine}", keys)


def expire(cursor: apsw.Cursor, at: int) -> int:
    """Charge in full what is overdue, the longest first and AT_ONCE of it. Gives how many holds."""
    cursor.execute(_TOO_LATE, (at, SLACK))
    overdue = rows(cursor, _OVERDUE, (at, AT_ONCE))
    if not overdue:
        return 0
    moved: dict[int, int] = {}
    for _, lines in overdue:
        for line in _lines(lines):
            moved[line.counter] = moved.get(line.counter, 0) + line.amount
    cursor.executemany(_MOVE, [(amount, amount, counter) for counter, amount in moved.items()])
    query = "UPDATE holds SET state = 'expired', due = ? WHERE id = ?"
    cursor.executemany(query, [(at + DAY, hold) for hold, _ in overdue])
    return len(overdue)


def forget_holds(cursor: apsw.Cursor, at: int) -> int:
    """Drop holds of which nobody will ask any more. Gives how many."""
    old = "SELECT rowid FROM holds WHERE state IN ('expired', 'done') AND due <= ? LIMIT ?"
    cursor.execute(f"DELETE FROM holds WHERE rowid IN ({old})", (at, AT_ONCE))
    return cursor.connection.changes()
