"""What a ledger should answer, said as plainly as possible: one thing after another, in dictionaries."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from shipworthy.domain.ledger import Granted, Hold, Refused, Settled, Settlement

PLACE = 5_000


def plain(answer: Any) -> Any:
    """An answer as it is compared: all that it promises."""
    if isinstance(answer, Granted):
        return "granted", answer.units, answer.warned
    if isinstance(answer, Settled):
        return "settled", answer.note, answer.warned, answer.known, answer.units if answer.known else 0
    return answer


class Model:
    """`now` is moved by whoever drives it."""

    def __init__(self) -> None:
        self.now = 10**12
        self.spent: dict[str, int] = defaultdict(int)
        self.held: dict[str, int] = defaultdict(int)
        self.limits: dict[str, str] = {}
        self.warned: set[str] = set()
        self.caps: dict[str, int] = {}
        self.paid_until: dict[str, int] = defaultdict(int)
        self.holds: dict[str, dict[str, Any]] = {}
        self.waiting: dict[str, list[str]] = defaultdict(list)
        self.asked_at: dict[str, int] = {}
        self.age: dict[str, int] = {}
        self.idle_at: dict[str, int] = defaultdict(int)
        self.excess: dict[str, int] = defaultdict(int)
        """What was billed above its reservation, by counter."""

    def cap(self, line: Any) -> int:
        return self.caps.get(line.limit, line.cap)

    def state(self, hold: str) -> str:
        return str(self.holds[hold]["state"]) if hold in self.holds else "unknown"

    # reserving

    def reserve(self, hold: Hold) -> Any:
        if hold.id in self.holds:
            return self.holds[hold.id]["answer"]
        answer = self._judge(hold)
        if isinstance(answer, Refused) and answer.cause == "held" and self.sweep():
            answer = self._judge(hold)
        if isinstance(answer, int):
            self._leave(hold.id)
            return self._take(hold, answer)
        if answer.cause == "held" and hold.patient:
            if not self._waits(hold.id):
                self.age[hold.id] = len(self.age)
            if not self._waits(hold.id) or answer.needed > answer.cap - answer.spent - answer.held:
                self._leave(hold.id)
                self.waiting[hold.lines[answer.index].key].append(hold.id)
            self.asked_at[hold.id] = self.now
        else:
            self._leave(hold.id)
        return answer

    def _judge(self, hold: Hold) -> int | Refused:
        """Units, tried from the most to the least, that the lines afford when nobody holds anything."""
        units = hold.most
        for index, line in enumerate(hold.lines):
            while (
                units >= hold.least
                and self._amount(hold, index, units) > self.cap(line) - self.spent[line.key]
            ):
                units -= 1
            if units < hold.least:
                return self._refusal("spent", hold, index, hold.least)
        for index, line in enumerate(hold.lines):
            room = self.cap(line) - self.spent[line.key] - self.held[line.key]
            if self._others_first(line.key, hold.id) or self._amount(hold, index, units) > room:
                return self._refusal("held", hold, index, units)
        for index, rate in enumerate(hold.rates):
            amount = hold.rate_base[index] + hold.rate_each[index] * units
            unit = rate.period * 1000 // rate.limit
            owed = max(0, self.paid_until[rate.key] - self.now * 1000)
            late = owed + amount * unit - max(rate.burst, amount) * unit
            if late > 0:
                return Refused("rate", index, needed=amount, wait=-(-late // 1000))
        return units

    def _refusal(self, cause: Any, hold: Hold, index: int, units: int) -> Refused:
        line = hold.lines[index]
        numbers = self.cap(line), self.spent[line.key], self.held[line.key]
        return Refused(cause, index, *numbers, self._amount(hold, index, units))

    @staticmethod
    def _amount(hold: Hold, index: int, units: int) -> int:
        return hold.base[index] + hold.each[index] * units

    def _waits(self, hold: str) -> bool:
        return any(hold in queue for queue in self.waiting.values()) and (
            self.asked_at[hold] + PLACE >= self.now
        )

    def _others_first(self, key: str, hold: str) -> bool:
        others = [one for one in self.waiting[key] if one != hold and self._waits(one)]
        return any(not self._waits(hold) or self.age[one] < self.age[hold] for one in others)

    def _leave(self, hold: str) -> None:
        for queue in self.waiting.values():
            if hold in queue:
                queue.remove(hold)

    def _take(self, hold: Hold, units: int) -> Any:
        amounts = [self._amount(hold, index, units) for index in range(len(hold.lines))]
        warned = []
        for index, (line, amount) in enumerate(zip(hold.lines, amounts, strict=True)):
            self.limits[line.key] = line.limit
            if not hold.final:
                self.held[line.key] += amount
            elif self._charge(line, amount):
                warned.append(index)
        passed = [base + each * units for base, each in zip(hold.rate_base, hold.rate_each, strict=True)]
        for rate, amount in zip(hold.rates, passed, strict=True):
            if self.paid_until[rate.key] <= self.now * 1000:
                self.idle_at[rate.key] = self.now
            owed_until = max(self.paid_until[rate.key], self.now * 1000)
            self.paid_until[rate.key] = owed_until + amount * (rate.period * 1000 // rate.limit)
        answer = plain(Granted(units, tuple(warned)))
        self.holds[hold.id] = {
            "hold": hold,
            "answer": answer,
            "units": units,
            "amounts": amounts,
            "passed": passed,
            "taken": self.now,
            "until": self.now + hold.ttl,
            "state": "done" if hold.final else "held",
            "settled": plain(Settled(hold.note, units=units)),
        }
        return answer

    def _charge(self, line: Any, amount: int) -> bool:
        """Whether this is the charge that warns."""
        self.spent[line.key] += amount
        if not line.soft or self.spent[line.key] < line.soft or line.key in self.warned:
            return False
        self.warned.add(line.key)
        return True

    # afterwards

    def settle(self, settlement: Settlement) -> Any:
        known = self.holds.get(settlement.id)
        if known is None or known["hold"].tenant != settlement.tenant:
            return plain(Settled(known=False))
        if known["state"] == "done":
            return known["settled"]
        hold, reserved = known["hold"], known["amounts"]
        used = reserved if settlement.amounts is None else settlement.amounts
        warned = []
        for index, line in enumerate(hold.lines):
            if known["state"] == "held":
                self.held[line.key] -= reserved[index]
            else:
                self.spent[line.key] -= known["charged"][index]
            self.excess[line.key] += max(0, used[index] - reserved[index])
            if self._charge(line, used[index]):
                warned.append(index)
        for index, amount in enumerate(settlement.rates or ()):
            rate, passed = hold.rates[index], known["passed"][index]
            if amount > passed or known["taken"] >= self.idle_at[rate.key]:
                self.paid_until[rate.key] += (amount - passed) * (rate.period * 1000 // rate.limit)
        note = hold.note if settlement.amounts is None else settlement.note
        known["state"], known["settled"] = "done", plain(Settled(note, tuple(warned), units=known["units"]))
        return known["settled"]

    def release(self, tenant: str, hold: str) -> None:
        known = self.holds.get(hold)
        if known is not None:
            n, rates = len(known["hold"].lines), len(known["hold"].rates)
            self.settle(Settlement(id=hold, tenant=tenant, amounts=(0,) * n, rates=(0,) * rates))
        elif tenant == "acme":  # who waits is of this tenant
            self._leave(hold)

    def renew(self, tenant: str, hold: str, ttl: int) -> None:
        known = self.holds.get(hold)
        if known is not None and known["hold"].tenant == tenant and known["state"] == "held":
            known["until"] = self.now + ttl

    def sweep(self) -> int:
        overdue = [h for h in self.holds.values() if h["state"] == "held" and h["until"] <= self.now]
        for known in overdue:
            known["state"], known["charged"] = "expired", [*known["amounts"]]
            for line, amount in zip(known["hold"].lines, known["amounts"], strict=True):
                self.held[line.key] -= amount
                self.spent[line.key] += amount
        return len(overdue)

    def set_cap(self, limit: str, cap: int | None) -> None:
        self.caps.pop(limit, None)
        if cap is not None:
            self.caps[limit] = cap
        self.warned -= {key for key, of in self.limits.items() if of == limit}

    def reset(self, limit: str) -> int:
        keys = [key for key, of in self.limits.items() if of == limit]
        was = sum(self.spent[key] for key in keys)
        for key in keys:
            self.spent[key] = 0
        self.warned -= set(keys)
        for known in self.holds.values():
            if known["state"] == "expired":
                lines = zip(known["hold"].lines, known["charged"], strict=True)
                known["charged"] = [0 if line.key in keys else charged for line, charged in lines]
        return was
