"""What a run used and is charged, with the runs that are nested in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shipworthy.domain.usage import Charge, Spent, TotalUsage

if TYPE_CHECKING:
    from shipworthy.rules.state import RunState


def spent(run: RunState) -> Spent:
    """The sums of a run and of those nested in it, as far as its journal knows of them."""
    own = Spent(run.usage, run.charged)
    return own if run.nested is None else together([own, *run.nested.values()])


def together(each: Iterable[Spent]) -> Spent:
    """The sums. A run that used nothing is charged nothing, known or not."""
    usage, charged, known = TotalUsage(), Charge(0, 0, 0), True
    for one in each:
        for field in TotalUsage.__struct_fields__:
            if (more := getattr(one.usage, field)) is not None:
                setattr(usage, field, (getattr(usage, field) or 0) + more)
        if one.charged is not None:
            charged = plus(charged, one.charged)
        elif one.usage.requests:
            known = False
    return Spent(usage, charged if known and usage.requests else None)


def plus(one: Charge, other: Charge) -> Charge:
    """Both charges; money is unknown once a part of it is."""
    cost = None if one.cost is None or other.cost is None else one.cost + other.cost
    return Charge(one.input_tokens + other.input_tokens, one.output_tokens + other.output_tokens, cost)
