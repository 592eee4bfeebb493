"""Reserving for a run: one question to the ledger, or as many as it takes to get a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from shipworthy.domain.budgets import Terms
from shipworthy.domain.events import AnyEvent, BudgetReached, BudgetUnchecked
from shipworthy.domain.ledger import Granted, Hold, Refused
from shipworthy.engine.accounts import Accounts
from shipworthy.engine.bank import Bank
from shipworthy.engine.contention import Place
from shipworthy.errors import LedgerError

if TYPE_CHECKING:
    from shipworthy.engine.live import LiveRun


class Reserving:
    """One reservation of *run* and the event that goes with it. `make` gives the hold as it is to be asked for now:
    while a run waits, a window may begin."""

    def __init__(
        self,
        run: LiveRun,
        bank: Bank,
        terms: Terms,
        accounts: Accounts,
        make: Callable[[], Hold],
        event: AnyEvent,
    ) -> None:
        self._run, self._bank, self._terms, self._accounts = run, bank, terms, accounts
        self._make, self._event = make, event
        self._place: Place | None = None
        self._hold: Hold | None = None

    async def granted(self, *, may_wrap_up: bool) -> Granted | None:
        """The ledger's grant, the event recorded with it; None at a limit, which is recorded in its place. Where others
        hold what is missing, or the pace is too high, this waits its turn. Raises LedgerError."""
        waits = self._terms.on_contention == "wait"
        try:
            if waits and (waiting := self._bank.waiting):
                await self._behind(waiting.before(self._keys(self._make())))
            while True:
                self._hold = hold = self._make()
                answer = await self._asked(hold)
                if isinstance(answer, Granted):
                    return answer
                if not self._worth_waiting(answer):
                    self._stop_at(hold, answer, may_wrap_up)
                    return None
                await self._in_turn(hold, answer)
        except asyncio.CancelledError:
            if self._hold is not None:  # its place, and what was granted while this was cancelled
                self._bank.give_up(self._hold.tenant, self._hold.id)
            raise
        finally:
            if self._place is not None:
                self._place.leave()

    async def _asked(self, hold: Hold) -> Granted | Refused:
        """Reserve and record the event, in one commit where the ledger is the store's own."""
        run = self._run
        if self._bank.joined:
            return await run.propose(self._event, hold)
        try:
            answer = await self._bank.ledger.reserve(hold)
        except LedgerError as error:
            if self._terms.on_ledger_error != "allow":
                raise
            run.record(BudgetUnchecked(error=error.what))
            answer = Granted(hold.most, near=False)
        if isinstance(answer, Granted):
            run.record(self._event)
            await run.commit()  # before a byte is sent
        return answer

    async def _behind(self, key: str | None) -> None:
        """Whoever came before asks first."""
        if key is not None:
            await self._run.commit()
            self._place = self._bank.waiting.join(key, self._run.scope.tenant)
            await self._place.turn()

    async def _in_turn(self, hold: Hold, refused: Refused) -> None:
        """Wait until it may be worth asking again."""
        await self._run.commit()  # what is known already does not wait with us
        rated = refused.cause == "rate"
        key = hold.rates[refused.index].key if rated else hold.lines[refused.index].key
        if self._place is not None and self._place.key != key:
            self._place.leave()
            self._place = None
        if self._place is None:
            self._place = self._bank.waiting.join(key, self._run.scope.tenant)
        if self._place.is_first:
            await self._place.news(refused.wait / 1000 if rated else None)
        else:
            await self._place.turn()

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

    @staticmethod
    def _keys(hold: Hold) -> list[str]:
        return [line.key for line in hold.lines] + [rate.key for rate in hold.rates]


def provider_pauses(seconds: float) -> BudgetReached:
    """A provider wants to be left alone, and nobody waits for it."""
    wait = int(seconds * 1000)
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
