"""Which limit it was that cut an answer short."""

from __future__ import annotations

from shipworthy.domain.events import BudgetReached
from shipworthy.domain.ledger import Hold, Line, Refused
from shipworthy.engine.charging import Attempt
from shipworthy.engine.layers import Draws
from shipworthy.errors import LedgerError
from shipworthy.ports.ledger import Ledger
from shipworthy.rules import budgets as rules

_TOO_MUCH = 2**53 - 1
"""More than any cap."""


async def cut_short(ledger: Ledger, draws: Draws, tenant: str, attempt: Attempt) -> BudgetReached:
    """The limit with the least room for the output of an attempt that was granted less than it asked for."""
    rooms: list[tuple[int, Line, Refused, int]] = []
    for line in attempt.lines:
        base, each = rules.base_of(line.unit, attempt.reserved)
        if each:
            standing = await _standing(ledger, tenant, attempt, line)
            needed = base + each * attempt.reserved.output_tokens
            rooms.append(((standing.cap - standing.spent - base) // each, line, standing, needed))
    _, line, standing, needed = min(rooms, key=lambda room: room[0])
    return BudgetReached(
        limit=draws.name(line),
        unit=line.unit,
        cap=standing.cap,
        spent=standing.spent,
        held=standing.held,
        needed=needed,
        reopens_at=line.end or None,
        cut_at=attempt.units,
    )


async def _standing(ledger: Ledger, tenant: str, attempt: Attempt, line: Line) -> Refused:
    """A line's cap in force, and what is spent and held: what a ledger says that is asked for more than there can be.
    As configured, with nothing spent, where it cannot be asked, for this is only told."""
    asked = Hold(id=f"{attempt.reserved.id}?", tenant=tenant, lines=(line,), base=(_TOO_MUCH,), each=(0,))
    try:
        answer = await ledger.reserve(asked)
    except LedgerError:
        answer = None
    return answer if isinstance(answer, Refused) else Refused("spent", 0, line.cap)
