"""Reserving for a run: one question to the ledger, or as many as it takes to get a turn."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from shipworthy.domain.budgets import Terms
from shipworthy.domain.events import AnyEvent, BudgetReached, BudgetUnchecked
from shipworthy.domain.ledger import Granted, Hold, Level, Refused
from shipworthy.domain.scope import ANONYMOUS
from shipworthy.engine.bank import Bank
from shipworthy.engine.contention import Place, Places
from shipworthy.engine.layers import Draws
from shipworthy.engine.metering import Run
from shipworthy.errors import LedgerError

_WIDTHS: tuple[Level, ...] = ("run", "session", "user", "tenant", "agent", "model", "global")


class Reserving:
    """One reservation of *run* and the event that goes with it. `make` gives the hold as it is to be asked for now:
    while a run waits, a window may begin."""

    def __init__(
        self,
        run: Run,
        bank: Bank,
        terms: Terms,
        accounts: Draws,
        make: Callable[[], Hold],
        event: AnyEvent,
    ) -> None:
        self._run, self._bank, self._terms, self._accounts = run, bank, terms, accounts
        self._make, self._event = make, event
        self._waiting = bank.waiting
        self._places: Places | None = None
        self._hold: Hold | None = None

    async def granted(self, *, may_wrap_up: bool) -> Granted | None:
        """The ledger's grant, the event recorded with it; None at a limit, which is recorded in its place. Where others
        hold what is missing, or the pace is too high, this waits its turn. Raises LedgerError."""
        try:
            while True:
                hold = self._make()
                if self._waiting and (place := self._behind(hold)) is not None:
                    await self._run.commit()  # what is known already does not wait with us
                    await place.turn()
                elif hold.rates and (pause := self._paused) > 0:
                    if not any([term.wait for term in self._terms.rates]):
                        self._run.record(_provider_pauses(pause))
                        return None
                    await self._after_the_pause()
                else:
                    self._hold = hold = self._in_order(hold)
                    answer = await self._asked(hold)
                    if type(answer) is Granted:
                        return answer
                    assert isinstance(answer, Refused)
                    if not self._worth_waiting(answer):
                        self._stop_at(hold, answer, may_wrap_up)
                        return None
                    await self._in_turn(hold, answer)
        except asyncio.CancelledError:
            if self._hold is not None and self._run.state.attempt is not self._event:
                # its place, and what a ledger elsewhere granted meanwhile; what was recorded is settled
                self._bank.give_up(self._hold.tenant, self._hold.id)
            raise
        finally:
            if self._places is not None:
                self._leave()

    async def _asked(self, hold: Hold) -> Granted | Refused:
        """Reserve and record the event, in one commit where the ledger is the store's own."""
        run = self._run
        if self._bank.joined:
            return await run.propose(self._event, hold)
        try:
            answer = await (self._charged(hold) if hold.final else self._bank.ledger.reserve(hold))
        except LedgerError as error:
            if not hold.final:  # it may have landed, and nothing will be sent under it
                self._bank.give_up(hold.tenant, hold.id)
            if self._terms.on_ledger_error != "allow":
                raise
            run.record(BudgetUnchecked(error=error.what))
            answer = Granted(hold.most, near=False)
        if isinstance(answer, Granted):
            self._leave()
            run.record(self._event)
            await run.commit()  # before a byte is sent
        return answer

    async def _charged(self, hold: Hold) -> Granted | Refused:
        """What is charged at once cannot be given back: a cancellation waits until it is known, and recorded."""
        asking = asyncio.ensure_future(self._bank.ledger.reserve(hold))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            while not asking.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([asking])
            if asking.exception() is None and isinstance(asking.result(), Granted):
                self._run.record(self._event)
            raise

    @property
    def _tenant(self) -> str:
        """Whose turn a turn of this run is: those who name nobody have one between them."""
        scope = self._run.scope
        return ANONYMOUS if scope.anonymous else scope.tenant

    def _behind(self, hold: Hold) -> Place | None:
        """Where others came first, if they did."""
        if self._places is None:
            self._places = Places(self._waiting, self._tenant)
        return self._places.behind(self._keys(hold))

    def _in_order(self, hold: Hold) -> Hold:
        """The hold as it is asked for now: in the order of all processes, if they keep it from its turn in this one's.
        Only who is first here asks: places of the others would be in its way."""
        if not self._places or self._terms.on_contention != "wait" or not self._places.is_overtaken:
            return hold
        return msgspec.structs.replace(hold, patient=True)

    async def _in_turn(self, hold: Hold, refused: Refused) -> None:
        """Wait until it may be worth asking again."""
        rated = refused.cause == "rate"
        key = hold.rates[refused.index].key if rated else hold.lines[refused.index].key
        if self._places is None:
            self._places = Places(self._waiting, self._tenant)
        place = self._places.back(self._keys(hold), key)
        await self._run.commit()
        if place is not None:
            await place.news(refused.wait / 1000 if rated else None)

    @property
    def _paused(self) -> float:
        """Seconds for which the provider wants to be left alone."""
        pause: float = getattr(self._run.blueprint.model, "paused_for", 0.0)
        return pause

    async def _after_the_pause(self) -> None:
        """Leave the provider alone for as long as it asked for, in nobody's way; who came first goes first."""
        self._leave()
        place = self._waiting.join(f"provider {self._run.blueprint.model.name}", self._tenant)
        try:
            await self._run.commit()
            await place.turn()
            while (pause := self._paused) > 0:
                await place.news(pause)
        finally:
            place.leave()

    def _leave(self) -> None:
        if self._places is not None:
            self._places.leave()

    def _worth_waiting(self, refused: Refused) -> bool:
        if refused.cause == "rate":
            return self._terms.rates[refused.index].wait
        return refused.cause == "held" and self._terms.on_contention == "wait"

    def _stop_at(self, hold: Hold, refused: Refused, may_wrap_up: bool) -> None:
        if refused.cause == "rate":
            term = self._terms.rates[refused.index]
            reopens = time.time_ns() // 1_000_000 + refused.wait
            amounts = (term.limit, 0, 0, refused.needed, reopens)
            self._run.record(_reached(term.name, term.unit, amounts, of="rate_limit"))
            return
        line = hold.lines[refused.index]
        amounts = (refused.cap, refused.spent, refused.held, refused.needed, line.end)
        self._run.record(_reached(self._accounts.name(line), line.unit, amounts, wrap_up=may_wrap_up))

    def _keys(self, hold: Hold) -> list[str]:
        """Before what this waits, from narrow to wide."""
        lines = hold.lines if self._terms.on_contention == "wait" else ()
        rates = [rate for rate, term in zip(hold.rates, self._terms.rates, strict=False) if term.wait]
        found = [(_WIDTHS.index(line.account.level), line.key) for line in lines]
        found += [(_WIDTHS.index(rate.account.level), rate.key) for rate in rates]
        return [key for _, key in sorted(found)]


def _provider_pauses(seconds: float) -> BudgetReached:
    """A provider wants to be left alone, and nobody waits for it."""
    wait = math.ceil(seconds * 1000)
    return _reached("provider", "requests", (0, 0, 0, 1, time.time_ns() // 1_000_000 + wait), of="rate_limit")


def _reached(
    limit: str,
    unit: str,
    amounts: tuple[int, int, int, int, int],
    *,
    wrap_up: bool = False,
    of: Literal["budget", "rate_limit"] = "budget",
) -> BudgetReached:
    cap, spent, held, needed, reopens = amounts
    return BudgetReached(
        limit=limit,
        unit=unit,
        cap=cap,
        spent=spent,
        held=held,
        needed=needed,
        reopens_at=reopens or None,
        wrap_up=wrap_up,
        of=of,
    )
