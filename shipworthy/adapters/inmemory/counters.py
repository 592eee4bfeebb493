"""Counters in memory, holds on them, and who waits for room: what the in-memory ledger does under its lock."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from shipworthy.domain.ledger import (
    Account,
    BudgetOp,
    Change,
    Forget,
    Granted,
    Hold,
    Line,
    Outcome,
    Refused,
    Settled,
    Settlement,
)
from shipworthy.errors import HoldRefused, LedgerFull
from shipworthy.rules.ledger import (
    MICROS,
    SLACK,
    corrected,
    is_full,
    of_one_run,
    owing,
    passed,
    verdict,
    wait_for,
)

PLACE = 5_000
"""Milliseconds for which who waits keeps its place without asking again."""
LOOK = 60_000
"""Milliseconds after which holds are looked through again, though none was known to be overdue."""
_NEVER = 1 << 62
REMEMBERED = 10_000
"""Holds of which it is remembered what became of them, and changes that operators made."""


class Counter:
    """`queue`: the places of those who wait for room here, by hold and in the order of their tickets. A plain class,
    for its fields are set more often than anything else here, and a Struct takes three times as long for that."""

    __slots__ = ("held", "line", "queue", "spent", "used_at", "warned")

    def __init__(self, line: Line, now: int) -> None:
        self.line, self.used_at = line, now
        self.spent = self.held = 0
        self.warned = False
        self.queue: dict[str, Place] = {}


class Place(msgspec.Struct, gc=False):
    """Where a hold waits. `ticket` is its age in the order of all who wait, wherever that is; `until`: when it is lost
    unless the hold asks again."""

    tenant: str
    counter: Counter
    ticket: int
    until: int


class Held(msgspec.Struct, gc=False):
    """A hold that was granted. `until`: when it expires; `renewed`: for how long it was the last time; `taken`: when,
    if it draws on rates. `charged`: by line, what was spent for it since it expired, without what was reset."""

    hold: Hold
    granted: Granted
    amounts: tuple[int, ...]
    until: int
    state: Literal["held", "expired", "done"] = "held"
    settled: Settled = Settled()
    renewed: int | None = None
    taken: int = 0
    charged: tuple[int, ...] = ()


class Counters:
    """Whoever calls holds the lock, but for `apply`, which takes it."""

    def __init__(self, max_users: int = 100_000, idle: float = 86_400.0) -> None:
        self._max = max_users
        self._idle = int(idle * 1000)
        self._counters: dict[str, Counter] = {}
        self._accounts: dict[Account, set[str]] = {}
        self._counted = 0  # of them, those of which there may be *max_users*
        self._full = 0, 0  # from when until when none of them can make room
        self._holds: dict[str, Held] = {}
        self._over: deque[str] = deque()
        self._places: dict[str, Place] = {}
        self._tickets = itertools.count()
        self._owed: dict[str, int] = {}
        self._idle_at: dict[str, int] = {}
        self._caps: dict[str, int] = {}
        self._changes: deque[Change] = deque(maxlen=REMEMBERED)
        self._carried: dict[tuple[str, str], int] = {}  # by origin and key
        self._next_expiry = 0
        self._lock = threading.RLock()  # event loops of several threads may share the ledger

    # what a store does inside a commit, under its own lock or ours

    def apply(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        """The operations of a batch, in their order. Raises HoldRefused; what was settled before stays settled, and
        gets the same answer again."""
        outcomes: list[Outcome] = []
        with self._lock:
            for operation in operations:
                answer: Outcome | Refused = None
                if type(operation) is Hold:
                    answer = self.take(operation)
                    if type(answer) is Refused:
                        raise HoldRefused(answer)
                elif type(operation) is Settlement:
                    answer = self.put(operation)
                else:
                    self.drop(operation)  # type: ignore[arg-type]
                outcomes.append(answer)  # type: ignore[arg-type]
        return outcomes

    def take(self, hold: Hold) -> Granted | Refused:
        """`reserve`, under the lock."""
        known = self._holds.get(hold.id)
        if known is not None:
            return known.granted
        now = now_ms()
        if (granted := self._at_once(hold, now)) is not None:
            return granted
        answer = self._judged(hold, now)
        if (
            type(answer) is Refused
            and answer.cause == "held"
            and not now < self._next_expiry <= now + LOOK  # later: by a clock that was ahead
            and self._expire(now)
        ):
            answer = self._judged(hold, now)
        if type(answer) is Granted:
            return self._grant(hold, answer, now)
        if self._places or hold.patient:
            self._keep_place(hold, answer, now)  # type: ignore[arg-type]
        return answer

    def put(self, settlement: Settlement) -> Settled:
        """`settle`, under the lock."""
        held = self._holds.get(settlement.id)
        if held is None or held.hold.tenant != settlement.tenant:
            return Settled(known=False)
        if held.state == "done":
            return held.settled
        hold, reserved, was_held = held.hold, held.amounts, held.state == "held"
        amounts, note = settlement.amounts, settlement.note
        if amounts is None:
            amounts, note = reserved, hold.note
        counters = self._counters
        warned: tuple[int, ...] = ()
        for index, line in enumerate(hold.lines):
            counter = counters.get(line.key)
            if counter is None:  # of a run that has ended
                continue
            if was_held:
                counter.held -= reserved[index]
                counter.spent += amounts[index]
            else:
                counter.spent = max(counter.spent + amounts[index] - held.charged[index], 0)
            if counter.spent >= line.soft > 0 and not counter.warned:
                counter.warned = True
                warned += (index,)
        if hold.rates and settlement.rates is not None:
            self._give_back(held, settlement.rates)
        if was_held:
            self._remember(held)
        held.state, held.amounts = "done", amounts
        held.settled = settled = Settled(note, warned, True, held.granted.units)
        return settled

    def _give_back(self, held: Held, used: Sequence[int]) -> None:
        """Take from what its rates owe what a hold did not use of them."""
        hold = held.hold
        for rate, base, each, amount in zip(hold.rates, hold.rate_base, hold.rate_each, used, strict=True):
            reserved, idle_at = base + each * held.granted.units, self._idle_at.get(rate.key, 0)
            change = corrected(rate, reserved, amount, held.taken, idle_at)
            self._owed[rate.key] = self._owed.get(rate.key, 0) + change

    def drop(self, forget: Forget) -> None:
        """`forget`, under the lock."""
        for key in forget.keys:
            counter = self._counters.get(key)
            if counter is not None and counter.line.account.tenant == forget.tenant:
                self._drop(key)
                self._full = 0, 0

    # parts

    def _remember(self, held: Held) -> None:
        """Keep what became of a hold, and forget what became of the one that was over first."""
        self._over.append(held.hold.id)
        if len(self._over) > REMEMBERED:
            self._holds.pop(self._over.popleft(), None)

    def _at_once(self, hold: Hold, now: int) -> Granted | None:
        """`_judged` and `_grant` in one step, for what is nearly always the case: nobody waits, and the most that is
        asked for fits beside what is spent and held. None: it takes a closer look."""
        if self._places or self._caps or hold.rates or hold.final or hold.least > hold.most:
            return None
        lines, base, each, units = hold.lines, hold.base, hold.each, hold.most
        found: list[Counter | None] = []
        amounts: list[int] = []
        for index, line in enumerate(lines):
            counter = self._counters.get(line.key)
            amount = base[index] + each[index] * units
            used = 0 if counter is None else counter.spent + counter.held
            if used + amount > line.cap:
                return None
            found.append(counter)
            amounts.append(amount)
        if None in found:
            found = [*self._found(lines, now)]
        near = False
        for index, counter in enumerate(found):
            assert counter is not None
            counter.used_at = now
            counter.held += amounts[index]
            if counter.spent + counter.held >= lines[index].soft > 0 and not counter.warned:
                near = True
        granted, until = Granted(units, (), near), now + hold.ttl
        self._holds[hold.id] = Held(hold, granted, tuple(amounts), until)
        if until < self._next_expiry:
            self._next_expiry = until
        return granted

    def _judged(self, hold: Hold, now: int) -> Granted | Refused:
        caps: list[int] = []
        spent: list[int] = []
        held: list[int] = []
        queued: list[bool] = []
        mine = self._place(hold.id, now) if self._places else None
        for line in hold.lines:
            counter = self._counters.get(line.key)
            caps.append(self._caps.get(line.limit, line.cap) if self._caps else line.cap)
            if counter is None:
                spent.append(0)
                held.append(0)
                queued.append(False)
            else:
                spent.append(counter.spent)
                held.append(counter.held)
                queued.append(bool(counter.queue) and self._is_behind(counter.queue, mine, now))
        answer = verdict(hold, caps, spent, held, queued)
        if hold.rates and type(answer) is Granted:
            micros = now * MICROS
            for index, rate in enumerate(hold.rates):
                amount = hold.rate_base[index] + hold.rate_each[index] * answer.units
                owed = self._owed.get(rate.key, 0)
                if wait := wait_for(rate, owed, amount, micros):
                    self._owed[rate.key] = owing(rate, owed, micros)
                    return Refused("rate", index, needed=amount, wait=wait)
        return answer

    def _grant(self, hold: Hold, granted: Granted, now: int) -> Granted:
        units = granted.units
        counters = self._found(hold.lines, now)
        amounts: list[int] = []
        warned: list[int] = []
        near = False
        for index, counter in enumerate(counters):
            amount = hold.base[index] + hold.each[index] * units
            amounts.append(amount)
            counter.used_at = now
            soft = hold.lines[index].soft
            if not hold.final:
                counter.held += amount
                if soft and not counter.warned and counter.spent + counter.held >= soft:
                    near = True
                continue
            counter.spent += amount
            if soft and counter.spent >= soft and not counter.warned:
                counter.warned = True
                warned.append(index)
        for rate, base, each in zip(hold.rates, hold.rate_base, hold.rate_each, strict=True):
            owed, idle_at = self._owed.get(rate.key, 0), self._idle_at.get(rate.key, 0)
            self._owed[rate.key], self._idle_at[rate.key] = passed(
                rate, owed, idle_at, base + each * units, now
            )
        granted = Granted(units, tuple(warned), near)
        until = now + hold.ttl
        self._holds[hold.id] = held = Held(
            hold, granted, tuple(amounts), until, settled=Settled(hold.note, units=units), taken=now
        )
        if hold.final:
            held.state = "done"
            self._remember(held)
        elif until < self._next_expiry:
            self._next_expiry = until
        if self._places:
            self._give_up_place(hold.tenant, hold.id)
        return granted

    def _tidy(self, now: int) -> None:
        """Forget places that were not kept, and rates of which nothing is owed and nothing is left to settle."""
        for hold, place in list(self._places.items()):
            if not self._is_kept(place, now):
                self._give_up_place(place.tenant, hold)
        open = {rate.key for held in self._holds.values() if held.state != "done" for rate in held.hold.rates}
        for key in [key for key, owed in self._owed.items() if owed < now * MICROS and key not in open]:
            del self._owed[key]
            self._idle_at.pop(key, None)

    def _expire(self, now: int) -> int:
        """Charge in full what is overdue."""
        expired = 0
        self._next_expiry = now + LOOK
        for held in list(self._holds.values()):
            if held.state != "held":
                continue
            longest = now + (held.hold.ttl if held.renewed is None else held.renewed)
            if held.until > longest + SLACK:  # by a clock that was ahead
                held.until = longest
            if held.until > now:
                self._next_expiry = min(self._next_expiry, held.until)
                continue
            expired += 1
            held.state, held.charged = "expired", held.amounts
            self._remember(held)
            for line, amount in zip(held.hold.lines, held.amounts, strict=True):
                if (counter := self._counters.get(line.key)) is not None:
                    counter.held -= amount
                    counter.spent += amount
        return expired

    def _keep_place(self, hold: Hold, refused: Refused, now: int) -> None:
        """A patient hold's place in the order is before the line that is full, and nowhere else; it stays where it is
        while only the order is in the way."""
        if refused.cause != "held" or not hold.patient:
            return self._give_up_place(hold.tenant, hold.id)
        place, until = self._place(hold.id, now), now + PLACE
        if place is not None and not is_full(refused):
            place.until = until
            return None
        [counter] = self._found([hold.lines[refused.index]], now)
        ticket = next(self._tickets) if place is None else place.ticket
        if place is not None and place.counter is counter:
            place.until = until
            return None
        self._give_up_place(hold.tenant, hold.id)
        self._places[hold.id] = counter.queue[hold.id] = Place(hold.tenant, counter, ticket, until)
        if place is not None:
            counter.queue = dict(sorted(counter.queue.items(), key=lambda one: one[1].ticket))
        return None

    def _place(self, hold: str, now: int) -> Place | None:
        """Where a hold waits, if its place was kept."""
        place = self._places.get(hold)
        return place if place is not None and self._is_kept(place, now) else None

    def _is_kept(self, place: Place, now: int) -> bool:
        """What would be kept for longer than any place stems from a clock that was ahead."""
        return now <= place.until <= now + PLACE + SLACK

    def _is_behind(self, queue: dict[str, Place], mine: Place | None, now: int) -> bool:
        """Whether somebody waits who came before; places that were not kept are cleared away."""
        while queue:
            hold, first = next(iter(queue.items()))
            if mine is not None and first.ticket >= mine.ticket:
                return False
            if self._is_kept(first, now):
                return True
            self._give_up_place(first.tenant, hold)
            queue.pop(hold, None)
        return False

    def _give_up_place(self, tenant: str, hold: str) -> None:
        place = self._places.get(hold)
        if place is not None and place.tenant == tenant:
            del self._places[hold]
            place.counter.queue.pop(hold, None)

    # room

    def _found(self, lines: Sequence[Line], now: int) -> list[Counter]:
        """The counters of these lines; those that are missing are made, or none is. Raises LedgerFull."""
        missing = {line.account for line in lines if line.key not in self._counters}
        if missing:
            new = sum([_is_counted(one) and one not in self._accounts for one in missing])
            if new and self._counted + new > self._max:
                self._make_room(new, {line.account for line in lines}, now)
        return [self._counters.get(line.key) or self._new(line, now) for line in lines]

    def _new(self, line: Line, now: int) -> Counter:
        account = line.account
        keys = self._accounts.get(account)
        if keys is None:
            keys = self._accounts[account] = set()
            self._counted += _is_counted(account)
        keys.add(line.key)
        counter = self._counters[line.key] = Counter(line, now)
        return counter

    def _make_room(self, new: int, asking: set[Account], now: int) -> None:
        """Forget accounts of which nothing matters any more, so that *new* ones have room; a hundredth more than that,
        for it takes long to look at all. Raises LedgerFull."""
        since, until = self._full
        if not since <= now < until:
            missing = self._counted + new - self._max
            found, until = self._idle_accounts(asking, now)
            for account in heapq.nsmallest(missing + self._max // 100, found, key=found.__getitem__):
                for key in list(self._accounts[account]):
                    self._drop(key)
            if self._counted + new <= self._max:
                return
            self._full = now, until
        raise LedgerFull(f"All {self._max} accounts of the in-memory ledger have counters that still matter.")

    def _idle_accounts(self, asking: set[Account], now: int) -> tuple[dict[Account, int], int]:
        """Accounts whose windows are all over, with when they were last used, and until when no other follows them."""
        idle: dict[Account, int] = {}
        next_end = now + _NEVER
        for account, keys in self._accounts.items():
            last, used_at, busy = 0, 0, False
            for key in keys:
                counter = self._counters[key]
                if not counter.line.end:
                    break
                last, used_at = max(last, counter.line.end), max(used_at, counter.used_at)
                busy = busy or counter.held > 0 or bool(counter.queue)
            else:
                if account in asking or not _is_counted(account):
                    continue
                if last > now or busy:
                    next_end = min(next_end, max(last, now + SLACK))  # what is held may be settled by then
                else:
                    idle[account] = used_at
        return idle, next_end

    def _is_over(self, counter: Counter, by: int) -> bool:
        return 0 < counter.line.end <= by and not counter.held and not counter.queue

    def _drop(self, key: str) -> None:
        counter = self._counters.pop(key)
        for hold in list(counter.queue):
            self._places.pop(hold, None)
        account = counter.line.account
        keys = self._accounts[account]
        keys.discard(key)
        if not keys:
            del self._accounts[account]
            self._counted -= _is_counted(account)


def _is_counted(account: Account) -> bool:
    """Whether an account is one of those that are limited: runs forget their own."""
    return account.level not in ("global", "agent") and not of_one_run(account)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
