"""The budgets that one run is held to: its agent's, and those of the runs around it, in whose calls it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from shipworthy.domain.budgets import RateTerm, Terms
from shipworthy.domain.ledger import Forget, Line, Rate
from shipworthy.domain.usage import Price
from shipworthy.engine.accounts import Accounts, Drawn, drawn_of
from shipworthy.engine.bank import Bank
from shipworthy.errors import ConfigurationError, UnknownPrice
from shipworthy.rules.prices import dearer

Drawable = TypeVar("Drawable", Line, Rate)


class Layer(msgspec.Struct, frozen=True, eq=False):
    """What one agent's budget says, and what its run draws on. It holds as well for every run that is made in a call of
    that one, on the same accounts."""

    bank: Bank
    terms: Terms
    accounts: Accounts

    @property
    def limits(self) -> bool:
        """Whether anything is drawn on that a ledger keeps."""
        return self.accounts.limit_attempts or self.accounts.counts_calls


class Nested:
    """What a nested run draws on: what every run *around* it does, and what its *own* budget adds. In place of
    `Accounts`.

    What several of them limit is one line, with the smaller cap: it is one counter, and counts once. What is kept back
    for a last answer of a run around this one is not for this one's.
    """

    def __init__(self, around: Sequence[Layer], own: Layer | None) -> None:
        self._layers = (*around, own) if own is not None else tuple(around)
        self._own = own
        self._whose: dict[str, Accounts] = {}
        self._attempts: dict[tuple[bool, str], Drawn] = {}
        self._calls: Drawn | None = None
        self.limit_attempts = any([layer.accounts.limit_attempts for layer in self._layers])
        self.counts_calls = any([layer.accounts.counts_calls for layer in self._layers])
        self.terms = self._terms()

    def of_attempt(self, model: str, *, wrap_up: bool) -> Drawn:
        """`Accounts.of_attempt`, of all of them."""
        now = time.time_ns() // 1_000_000
        drawn = self._attempts.get((wrap_up, model))
        if drawn is None or not drawn.begins <= now < drawn.ends:
            each = [
                (layer, layer.accounts.of_attempt(model, wrap_up=wrap_up and layer is self._own))
                for layer in self._layers
            ]
            lines = self._lines([(layer, part.lines) for layer, part in each])
            rates = _by_key([rate for _, part in each for rate in part.rates], _slower)
            shared = {line.key for layer, part in each if layer is not self._own for line in part.lines}
            drawn = self._attempts[wrap_up, model] = drawn_of(lines, tuple(rates), shared)
        return drawn

    def of_calls(self) -> tuple[Line, ...]:
        """`Accounts.of_calls`, of all of them."""
        now = time.time_ns() // 1_000_000
        drawn = self._calls
        if drawn is None or not drawn.begins <= now < drawn.ends:
            lines = self._lines([(layer, layer.accounts.of_calls()) for layer in self._layers])
            drawn = self._calls = drawn_of(lines, ())
        return drawn.lines

    def name(self, line: Line) -> str:
        """The name of a line's limit, in the budget whose cap it has."""
        return self._whose[line.key].name(line)

    def cap(self, line: Line) -> int:
        """The configured cap of a line."""
        return self._whose[line.key].cap(line)

    def of_the_run(self) -> Forget | None:
        """This run's own counters: those of the runs around it go on until these end."""
        return None if self._own is None else self._own.accounts.of_the_run()

    def _lines(self, each: Sequence[tuple[Layer, Sequence[Line]]]) -> tuple[Line, ...]:
        """One line for each counter, and whose cap it has."""
        for layer, lines in each:
            for line in lines:
                known = self._whose.get(line.key)
                if known is None or layer.accounts.cap(line) < known.cap(line):
                    self._whose[line.key] = layer.accounts
        return tuple(_by_key([line for _, lines in each for line in lines], _lower))

    def _terms(self) -> Terms:
        """How the limits are kept: nobody around is given more time, or more room, than it asked for."""
        said = [layer.terms for layer in self._layers if layer.limits] or [la.terms for la in self._layers]
        own = None if self._own is None else self._own.terms
        terms = [
            (layer.accounts.rate(term, ""), term) for layer in self._layers for term in layer.terms.rates
        ]
        rates: dict[str, RateTerm] = {}
        for rate, term in terms:
            rates[rate.key] = _stricter(rates[rate.key], term) if rate.key in rates else term
        return Terms(
            limits=tuple([limit for each in said for limit in each.limits]),
            rates=tuple(rates.values()),
            max_wall_clock=None if own is None else own.max_wall_clock,
            soft=max([each.soft for each in said]),
            wrap_up=0.0 if own is None else own.wrap_up,
            max_output=min([each.max_output for each in said]),
            least_output=max([each.least_output for each in said]),
            ttl=min([each.ttl for each in said]),
            on_contention="refuse" if any([each.on_contention == "refuse" for each in said]) else "wait",
            on_ledger_error="allow" if all([each.on_ledger_error == "allow" for each in said]) else "refuse",
        )


Draws = Accounts | Nested


def _by_key(each: Sequence[Drawable], merged: Callable[[Drawable, Drawable], Drawable]) -> list[Drawable]:
    """One for each key, in the order in which they came."""
    found: dict[str, Drawable] = {}
    for one in each:
        found[one.key] = merged(found[one.key], one) if one.key in found else one
    return list(found.values())


def _lower(one: Line, other: Line) -> Line:
    """One counter under the smaller of its caps, with the earlier of its warnings."""
    low, high = (one, other) if one.cap <= other.cap else (other, one)
    soft = min(low.soft, high.soft) or max(low.soft, high.soft)
    return low if low.soft == soft else msgspec.structs.replace(low, soft=soft)


def _slower(one: Rate, other: Rate) -> Rate:
    """One rate, of which no more passes than either lets through."""
    return msgspec.structs.replace(one, limit=min(one.limit, other.limit), burst=min(one.burst, other.burst))


def _stricter(one: RateTerm, other: RateTerm) -> RateTerm:
    """The same of what the budgets say."""
    low, high = (one, other) if one.limit <= other.limit else (other, one)
    return msgspec.structs.replace(low, burst=min(low.burst, high.burst), wait=low.wait and high.wait)


def price_of(layers: Sequence[Layer], model: str) -> Price | None:
    """What *model* costs: the dearer where budgets disagree, so that none gets cheaper by being inside another. Raises
    UnknownPrice where one limits money, and neither it knows the price nor a budget around it."""
    price: Price | None = None
    for layer in layers:
        said = layer.bank.budget.price(model)
        if said is not None:
            price = said if price is None else dearer(price, said)
        elif price is None and layer.accounts.limit_money:
            raise UnknownPrice(f"Nobody knows what {model} costs, and a budget limits money.")
    return price


def bank_of(layers: Sequence[Layer]) -> Bank:
    """Where the counters are kept. Raises ConfigurationError where that is not one place: what may be spent is held in
    one piece, on all of them or on none."""
    banks = [layer.bank for layer in layers if layer.limits]
    for bank in banks:
        if not bank.is_with(banks[0]):
            raise ConfigurationError(
                "A nested agent's budget keeps its counters in another ledger than the budget of the agent around it.",
                fix="Give both budgets the same ledger=, a text that names it or one ledger, or leave it out in both.",
            )
    return (banks or [layer.bank for layer in layers])[0]
