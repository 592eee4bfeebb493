"""What is wrong with a ledger, by what is known outside of it: the provider's bills, the journals, and the cap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from shipworthy.domain.events import ModelAbandoned, ModelAnswered, ModelFailed, ModelRequested, RunEnded
from shipworthy.domain.usage import Charge, Usage
from shipworthy.rules.prices import cost_of
from tests.budget.model import PRICE, Bill
from tests.budget.places import Counter, Journal, Place

USE = 0.95
"""The part of the cap that has to be used in the end."""
Kind = Literal["overshoot", "unaccounted", "leaked", "unused", "unreconciled", "unfinished"]
Attempt = tuple[str, int]


class Violation(msgspec.Struct, frozen=True):
    """One thing that must not be."""

    kind: Kind
    what: str


class Bills:
    """The provider's account, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._rest = path, 0, b""
        self._decoder = msgspec.json.Decoder(Bill)
        self.by_attempt: dict[Attempt, tuple[int, int]] = {}
        self.tokens = 0

    def read(self) -> int:
        """All that was billed by now, in tokens."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(self._decoder.decode(line))
        return self.tokens

    def _take(self, bill: Bill) -> None:
        given, made = self.by_attempt.get((bill.run_id, bill.ordinal), (0, 0))
        made_now = made + bill.output_tokens
        self.by_attempt[bill.run_id, bill.ordinal] = given + bill.input_tokens, made_now
        self.tokens += bill.input_tokens + bill.output_tokens


def everybodys(counters: Sequence[Counter]) -> Counter:
    """The counter of the one cap."""
    found = [c for c in counters if c.level == "global"]
    assert len(found) < 2, found
    return found[0] if found else Counter("global", "", "tokens", 0, 0)


def at_any_time(billed: int, counters: Sequence[Counter], cap: int) -> list[Violation]:
    """What is wrong while workers spend and die. *billed* was read before the counters."""
    total = everybodys(counters)
    found = []
    if total.spent + total.held > cap:
        found.append(Violation("overshoot", f"{total.spent} spent + {total.held} held > {cap}"))
    if billed > cap:
        found.append(Violation("overshoot", f"{billed} billed > {cap}"))
    if billed > total.spent + total.held:
        found.append(Violation("unaccounted", f"{billed} billed > {total.spent} spent + {total.held} held"))
    return found + [Violation("unreconciled", f"{c}") for c in counters if min(c.spent, c.held) < 0]


def in_the_end(place: Place, bills: Bills, cap: int) -> list[Violation]:
    """What is wrong when all runs have ended and what expired was swept."""
    bills.read()
    counters, journal = place.counters(), place.journal()
    total = everybodys(counters)
    found = at_any_time(bills.tokens, counters, cap)
    found += [Violation("leaked", f"{c}") for c in counters if c.held]
    if total.spent < USE * cap:
        found.append(Violation("unused", f"{total.spent} of {cap}"))
    left = [run_id for run_id, events in journal.items() if not isinstance(events[-1], RunEnded)]
    if left:
        last = [msgspec.json.encode(event).decode() for event in journal[left[0]][-4:]]
        found.append(Violation("unfinished", f"{len(left)} runs; the last events of {left[0]}: {last}"))
    charges = _charges(journal)
    return [*found, *_unaccounted(bills, charges), *_unreconciled(place, journal, counters, charges)]


def _charges(journal: Journal) -> dict[Attempt, Charge]:
    """What the journals say that each attempt was charged."""
    found: dict[Attempt, Charge] = {}
    for run_id, events in journal.items():
        ordinal = 0
        for event in events:
            if isinstance(event, ModelRequested):
                ordinal = event.ordinal
            elif (
                isinstance(event, ModelAnswered | ModelFailed | ModelAbandoned) and event.charged is not None
            ):
                before = found.get((run_id, ordinal), Charge(cost=0))
                found[run_id, ordinal] = _sum(before, event.charged)
    return found


def _sum(one: Charge, other: Charge) -> Charge:
    assert one.cost is not None
    assert other.cost is not None
    return Charge(
        one.input_tokens + other.input_tokens, one.output_tokens + other.output_tokens, one.cost + other.cost
    )


def _unaccounted(bills: Bills, charges: dict[Attempt, Charge]) -> list[Violation]:
    """Attempts for which the provider took more than was charged."""
    found = []
    for attempt, (given, made) in bills.by_attempt.items():
        charge = charges.get(attempt, Charge(cost=0))
        cost = cost_of(PRICE, Usage(given, made))
        assert cost is not None
        assert charge.cost is not None
        if given > charge.input_tokens or made > charge.output_tokens or cost > charge.cost:
            found.append(Violation("unaccounted", f"{attempt}: {given} + {made} billed, {charge} charged"))
    return found


def _unreconciled(
    place: Place, journal: Journal, counters: Sequence[Counter], charges: dict[Attempt, Charge]
) -> list[Violation]:
    """Counters that are not, to the last token and billionth of a dollar, what the journals say and what was charged
    for holds of which no journal knows: reserved by who died before it was recorded, and not sent."""
    expected: dict[tuple[str, str], int] = defaultdict(int)
    for (run_id, _), charge in charges.items():
        expected["global", ""] += charge.input_tokens + charge.output_tokens
        expected["tenant", journal[run_id][0].tenant] += charge.cost or 0  # type: ignore[union-attr]
    known = {
        event.reserved.id
        for events in journal.values()
        for event in events
        if isinstance(event, ModelRequested) and event.reserved is not None
    }
    orphans = [hold for hold in place.unsettled() if hold.id not in known]
    for hold in orphans:
        for whose, amount in hold.amounts.items():
            expected[whose] += amount
    found = [
        Violation("unreconciled", f"{c} but {expected[c.whose]} in the journals")
        for c in counters
        if c.spent != expected[c.whose]
    ]
    if orphans and place.joined:
        found.append(Violation("unreconciled", f"{len(orphans)} holds are in no journal"))
    return found
