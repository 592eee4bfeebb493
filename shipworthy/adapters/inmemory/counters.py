"""Counters in memory, holds on them, and who waits for room: what the in-memory ledger does under its lock."""

from __future__ import annotations

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
from shipworthy.rules.ledger import MICROS, cost, verdict, wait_for

PLACE = 5_000
"""Milliseconds for which who waits keeps its place without asking again."""
REMEMBERED = 10_000
"""Holds of which it is remembered what became of them, and changes that operators made."""


class Counter:
    """`queue`: the holds that wait for room here, in their order, and until when they keep their place. A plain class,
    for its fields are set more often than anything else here, and a Struct takes three times as long for that."""

    __slots__ = ("held", "line", "queue", "spent", "used_at", "warned")

    def __init__(self, line: Line, now: int) -> None:
        self.line, self.used_at = line, now
        self.spent = self.held = 0
        self.warned = False
        self.queue: dict[str, int] = {}


class Held(msgspec.Struct, gc=False):
    """A hold that was granted. `until`: when it expires."""

    hold: Hold
    granted: Granted
    amounts: tuple[int, ...]
    until: int
    state: Literal["held", "expired", "done"] = "held"
    settled: Settled = Settled()


class Counters:
    """Whoever calls holds the lock, but for `apply`, which takes it."""

    def __init__(self, max_users: int = 100_000, idle: float = 86_400.0) -> None:
        self._max = max_users
        self._idle = int(idle * 1000)
        self._counters: dict[str, Counter] = {}
        self._accounts: dict[Account, set[str]] = {}
        self._holds: dict[str, Held] = {}
        self._over: deque[str] = deque()
        self._places: dict[str, tuple[str, Counter]] = {}  # whose it is, and where
        self._owed: dict[str, int] = {}
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
            and now >= self._next_expiry
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
            else:  # what was reset meanwhile is not given back again
                counter.spent = max(counter.spent + amounts[index] - reserved[index], 0)
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
            self._owed[rate.key] = (
                self._owed.get(rate.key, 0)
                + cost(rate, amount)
                - cost(rate, base + each * held.granted.units)
            )

    def drop(self, forget: Forget) -> None:
        """`forget`, under the lock."""
        for key in forget.keys:
            counter = self._counters.get(key)
            if counter is not None and counter.line.account.tenant == forget.tenant:
                self._drop(key)

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
            found = [self._counters.get(line.key) or self._new(line, now) for line in lines]
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
                queued.append(bool(counter.queue) and _is_behind(counter.queue, hold.id, now))
        answer = verdict(hold, caps, spent, held, queued)
        if hold.rates and type(answer) is Granted:
            micros = now * MICROS
            for index, rate in enumerate(hold.rates):
                amount = hold.rate_base[index] + hold.rate_each[index] * answer.units
                if wait := wait_for(rate, self._owed.get(rate.key, 0), amount, micros):
                    return Refused("rate", index, needed=amount, wait=wait)
        return answer

    def _grant(self, hold: Hold, granted: Granted, now: int) -> Granted:
        units = granted.units
        counters = [self._counters.get(line.key) or self._new(line, now) for line in hold.lines]
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
            self._owed[rate.key] = max(self._owed.get(rate.key, 0), now * MICROS) + cost(
                rate, base + each * units
            )
        granted = Granted(units, tuple(warned), near)
        until = now + hold.ttl
        self._holds[hold.id] = held = Held(
            hold, granted, tuple(amounts), until, settled=Settled(hold.note, units=units)
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
        """Forget places that were not kept, and rates of which nothing is owed."""
        for hold, (tenant, counter) in list(self._places.items()):
            if counter.queue.get(hold, 0) < now:
                self._give_up_place(tenant, hold)
        for rate in [rate for rate, owed in self._owed.items() if owed < now * MICROS]:
            del self._owed[rate]

    def _expire(self, now: int) -> int:
        """Charge in full what is overdue."""
        expired = 0
        self._next_expiry = now + 60_000
        for held in list(self._holds.values()):
            if held.state != "held":
                continue
            if held.until > now:
                self._next_expiry = min(self._next_expiry, held.until)
                continue
            expired += 1
            held.state = "expired"
            self._remember(held)
            for line, amount in zip(held.hold.lines, held.amounts, strict=True):
                if (counter := self._counters.get(line.key)) is not None:
                    counter.held -= amount
                    counter.spent += amount
        return expired

    def _keep_place(self, hold: Hold, refused: Refused, now: int) -> None:
        """A patient hold's place in the order is before the line that is full, and nowhere else."""
        if refused.cause != "held" or not hold.patient:
            return self._give_up_place(hold.tenant, hold.id)
        line = hold.lines[refused.index]
        counter = self._counters.get(line.key) or self._new(line, now)
        if (before := self._places.get(hold.id)) is not None and before[1] is not counter:
            self._give_up_place(hold.tenant, hold.id)
        counter.queue[hold.id] = now + PLACE
        self._places[hold.id] = hold.tenant, counter
        return None

    def _give_up_place(self, tenant: str, hold: str) -> None:
        place = self._places.get(hold)
        if place is not None and place[0] == tenant:
            del self._places[hold]
            place[1].queue.pop(hold, None)

    # room

    def _new(self, line: Line, now: int) -> Counter:
        account = line.account
        keys = self._accounts.get(account)
        if keys is None:
            if account.level not in ("run", "global", "agent"):
                self._make_room(now)
            keys = self._accounts[account] = set()
        keys.add(line.key)
        counter = self._counters[line.key] = Counter(line, now)
        return counter

    def _make_room(self, now: int) -> None:
        """Raises LedgerFull."""
        if len(self._accounts) < self._max:
            return
        for idle in (self._idle, 0):
            for account, keys in self._accounts.items():
                if account.level != "run" and all(
                    [
                        self._is_over(c, now) and c.used_at <= now - idle
                        for c in map(self._counters.__getitem__, keys)
                    ]
                ):
                    for key in list(keys):
                        self._drop(key)
                    return
        raise LedgerFull(f"All {self._max} accounts of the in-memory ledger have counters that still matter.")

    def _is_over(self, counter: Counter, by: int) -> bool:
        return 0 < counter.line.end <= by and not counter.held and not counter.queue

    def _drop(self, key: str) -> None:
        counter = self._counters.pop(key)
        keys = self._accounts[counter.line.account]
        keys.discard(key)
        if not keys:
            del self._accounts[counter.line.account]


def _is_behind(queue: dict[str, int], hold: str, now: int) -> bool:
    """Whether somebody waits who came before; places that were not kept are cleared away."""
    for name, until in list(queue.items()):
        if name == hold:
            return False
        if until >= now:
            return True
        del queue[name]
    return False


def now_ms() -> int:
    return time.time_ns() // 1_000_000
