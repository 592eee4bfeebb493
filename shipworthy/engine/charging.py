"""One attempt on the wire, and what it is charged by how it went."""

from __future__ import annotations

import msgspec

from shipworthy.domain.ledger import Line, Settlement
from shipworthy.domain.usage import Charge, Price, Reserved, Usage
from shipworthy.engine.accounts import NOTHING, Drawn
from shipworthy.engine.metering import Run
from shipworthy.rules import budgets as rules

_encode = msgspec.json.Encoder().encode
_charge = msgspec.json.Decoder(Charge)


class Attempt(msgspec.Struct, eq=False):
    """One attempt on the wire. `units`: output tokens that were granted; `size`: bytes of output that arrived; `drawn`:
    what it draws on, by the last hold that was asked for."""

    model: str
    reserved: Reserved
    price: Price | None
    units: int
    streamed: bool
    wraps_up: bool
    drawn: Drawn = NOTHING
    clamped: bool = False
    near: bool = False
    size: int = 0
    calls: int = 0

    @property
    def lines(self) -> tuple[Line, ...]:
        return self.drawn.lines

    @property
    def watched(self) -> tuple[str, ...]:
        """The keys of the lines that have a warning to give."""
        return self.drawn.watched


def settlement(
    run: Run, attempt: Attempt, charge: Charge, amounts: tuple[int, ...], rates: tuple[int, ...]
) -> Settlement:
    """What settles an attempt's hold; its note says the charge, for whoever finds it without its event."""
    return Settlement(
        id=attempt.reserved.id,
        tenant=run.scope.tenant,
        amounts=amounts,
        rates=rates,
        note=_encode(charge).decode(),
    )


def charge_in(note: str) -> Charge:
    """The charge that a settlement's note says."""
    return _charge.decode(note)


def free(attempt: Attempt) -> Charge:
    """Nothing, of an attempt that the provider surely did not take."""
    return Charge(0, 0, None if attempt.price is None else 0)


def failed(attempt: Attempt, reported: object) -> Charge:
    """What a failed attempt is charged: what its provider *reported* all the same, if that is a usage."""
    if not isinstance(reported, Usage):
        return unfinished(attempt)
    arrived = attempt.size if attempt.streamed else 0
    return rules.broken(reported, attempt.reserved, attempt.units, attempt.price, arrived)


def unfinished(attempt: Attempt) -> Charge:
    """What an attempt is charged whose provider reported nothing: by what arrived, and in full where nothing did."""
    if attempt.streamed and attempt.size:
        return rules.arrived(attempt.reserved, attempt.units, attempt.size)
    return rules.in_full(attempt.reserved, attempt.units)
