"""Metering one run under a budget: every attempt on the wire is reserved before it is made, and settled after.

The order of the lines in `attempt` is the guarantee: what may be spent is held, and that is durable, before a byte is
sent. What an attempt cost is queued with the event that says so, and settled with that event's commit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import msgspec

from shipworthy.domain.events import (
    BudgetWarned,
    Judged,
    ModelAbandoned,
    ModelRequested,
    ToolsJudged,
)
from shipworthy.domain.ledger import BudgetOp, Hold, Line, Outcome, Settled, Settlement
from shipworthy.domain.model import Delta, ModelRequest, ModelSettings, ToolCallDelta
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, Price, Reserved, Usage
from shipworthy.engine import charging
from shipworthy.engine.accounts import Accounts
from shipworthy.engine.asking import asked, check_name, check_settings
from shipworthy.engine.bank import Bank
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.charging import Attempt
from shipworthy.engine.cutting import cut_short
from shipworthy.engine.failures import failure_of
from shipworthy.engine.layers import Draws, Layer, Nested, bank_of, price_of
from shipworthy.engine.metering import UNMETERED, Meter, Run
from shipworthy.engine.reserving import Reserving
from shipworthy.errors import BudgetExceeded, ModelError, StoreError
from shipworthy.rules import budgets as rules
from shipworthy.rules.decide import budget_words

_encode = msgspec.json.Encoder().encode


async def budgeted(
    bank: Bank | None,
    blueprint: Blueprint,
    scope: Scope,
    run_id: str,
    settings: ModelSettings,
    timeout: float | None,
    around: Meter = UNMETERED,
) -> Meter:
    """The meter of one sitting, by what the budget says now, which it says within *timeout* seconds, and by what holds
    *around* the run. Raises ConfigurationError, LedgerError."""
    outer = around.layers if isinstance(around, BudgetMeter) else ()
    own: Layer | None = None
    if bank is not None:
        await bank.open()
        terms = await asked(bank.budget, scope, timeout)
        check_name(blueprint.name, terms)
        own = Layer(bank, terms, Accounts(terms, scope, blueprint.name, run_id, bank.shared))
    meter = BudgetMeter(outer, own)
    meter.check(blueprint.model.name, settings)
    return meter


class BudgetMeter:
    """A run's meter under a budget, for one sitting."""

    counts = True

    def __init__(self, around: tuple[Layer, ...], own: Layer | None) -> None:
        self.layers = layers = (*around, own) if own is not None else around
        self._bank = bank = bank_of(layers)
        self._accounts: Draws
        if own is not None and not around:
            self._accounts, self._terms = own.accounts, own.terms
        else:
            self._accounts = nested = Nested(around, own)
            self._terms = nested.terms
        terms = self._terms
        self._attempt: Attempt | None = None
        self._sizes = [0]
        self._around: int | None = None
        self._name = ""
        self._ttl = int(terms.ttl * 1000)
        self._clamped: tuple[ModelSettings, ModelSettings] | None = None
        self._told_of: tuple[Line, ...] = ()
        self._freed: list[str] = []
        self._waiting, self._renewals = bank.waiting, bank.renewals
        self.joined = bank.joined
        self.near = False
        self.max_wall_clock = terms.max_wall_clock

    def check(self, model: str, settings: ModelSettings) -> None:
        """Raises ConfigurationError, UnknownPrice where a run on *model* could not be held to this: none begins."""
        check_settings(self._terms, settings)
        price_of(self.layers, model)

    # an attempt

    async def begin(self, run: Run, request: ModelRequest) -> ModelRequest | None:
        return await self.attempt(run, request, run.blueprint.model.name)

    async def attempt(self, run: Run, request: ModelRequest, model: str) -> ModelRequest | None:
        """`begin`, on a model that may be another one than the agent's."""
        reserved, price = self._bounds(run, request, model)
        wraps_up = request.purpose == "wrap_up"
        attempt = Attempt(model, reserved, price, reserved.output_tokens, request.stream, wraps_up)
        event = ModelRequested(
            ordinal=run.state.ordinal, model=model, purpose=request.purpose, reserved=reserved
        )
        try:
            if not await self._reserve(run, attempt, event):
                return None
        except asyncio.CancelledError:
            if run.state.attempt is event:  # it landed, and nothing was sent
                self._give_back(run, attempt)
            raise
        except StoreError:
            if not self.joined and run.state.attempt is event:
                # resuming finds it settled, if it was recorded
                self._bank.take_back(self._nothing(run, attempt))
            raise
        self._attempt = attempt
        if self._accounts.limit_attempts:
            self._renewals.keep(run.scope.tenant, reserved.id, self._terms.ttl)
        settings = request.settings
        if attempt.drawn.by_output:
            settings = self._at_most(settings, attempt.units)
        again = Again(self, run, request)
        return msgspec.structs.replace(request, ordinal=event.ordinal, settings=settings, meter=again)

    def _bounds(self, run: Run, request: ModelRequest, model: str) -> tuple[Reserved, Price | None]:
        """The most that an attempt may be charged, under an id of its own, and what its model costs."""
        if not self._name:  # what the ids of a sitting have in common, and those of a namesake have not
            nonce = os.urandom(6).hex()
            self._name = _encode([run.scope.tenant, run.run_id, run.fence.token, nonce]).decode()[:-1]
        price = price_of(self.layers, model)
        most = request.settings.max_tokens or self._terms.max_output
        name = f"{self._name},{run.state.seq + 1}]"
        return rules.reserved(name, price, self._input_tokens(run, request, model), most), price

    def _at_most(self, settings: ModelSettings, units: int) -> ModelSettings:
        """The settings with which no more than was granted is asked for; mostly those of the attempt before."""
        known = self._clamped
        if known is None or known[0] is not settings or known[1].max_tokens != units:
            known = self._clamped = settings, msgspec.structs.replace(settings, max_tokens=units)
        return known[1]

    async def _reserve(self, run: Run, attempt: Attempt, event: ModelRequested) -> bool:
        if not self._accounts.limit_attempts:
            run.record(event)
            await run.commit()
            return True
        may_wrap_up = self._terms.wrap_up > 0 and run.state.limit is None and not attempt.wraps_up
        reserving = Reserving(
            run, self._bank, self._terms, self._accounts, lambda: self._hold(run, attempt), event
        )
        granted = await reserving.granted(may_wrap_up=may_wrap_up)
        if granted is None:
            return False
        attempt.clamped, attempt.units = granted.units < attempt.units, granted.units
        attempt.near = granted.near and self._terms.soft > 0
        self._bank.nearing.granted(attempt)
        return True

    def _hold(self, run: Run, attempt: Attempt) -> Hold:
        """The hold as it is to be asked for now."""
        reserved = attempt.reserved
        attempt.drawn = drawn = self._accounts.of_attempt(attempt.model, wrap_up=attempt.wraps_up)
        base, each = rules.bases_of(drawn.units, reserved)
        rate_base, rate_each = rules.bases_of(drawn.rated, reserved)
        most = reserved.output_tokens
        return Hold(
            id=reserved.id,
            tenant=run.scope.tenant,
            lines=drawn.lines,
            base=base,
            each=each,
            rates=drawn.rates,
            rate_base=rate_base,
            rate_each=rate_each,
            least=min(self._terms.least_output, most),
            most=most,
            ttl=self._ttl,
        )

    def _input_tokens(self, run: Run, request: ModelRequest, model: str) -> int:
        """The most tokens that the input can have: what this model's provider counted up to its last answer, and the
        bytes of what is new since. Costs what is new."""
        sizes, messages = self._sizes, run.transcript
        for index in range(len(sizes) - 1, len(messages)):
            sizes.append(sizes[-1] + rules.tokens_of(messages[index]))
        if self._around is None:
            around = self._bank.shared.tokens_around(request.tools, request.output)
            self._around = around + rules.tokens_beside(request.settings.extra)
        by_bytes = self._around + rules.length(request.instructions) + sizes[-1]
        state = run.state
        if state.counted <= 0 or state.counted_by != model:
            return by_bytes
        new = sizes[-1] - sizes[run.history + state.counted_to]
        if request.purpose != "turn":
            new += max(rules.length(request.instructions) - rules.length(run.instructions), 0)
        return min(by_bytes, state.counted + new + rules.PER_REQUEST)

    # its outcome

    def answered(self, run: Run, usage: Usage) -> Charge | None:
        attempt = self._attempt
        assert attempt is not None
        charge = rules.charge_of(usage, attempt.reserved, attempt.units, attempt.price)
        return self._settle(run, attempt, charge)

    async def cut(self, run: Run) -> None:
        if self._last.clamped:
            run.record(await cut_short(self._bank.ledger, self._accounts, run.scope.tenant, self._last))

    def failed(self, run: Run, error: Exception) -> Charge | None:
        """Nothing but its request where the provider surely did not take it; what it reported all the same; what
        arrived of a stream; and everything where it is not known."""
        attempt = self._attempt
        if attempt is None:
            return None
        if isinstance(error, ModelError) and not error.billable and not attempt.size:
            return self._settle(run, attempt, charging.free(attempt))
        return self._settle(run, attempt, charging.failed(attempt, getattr(error, "usage", None)))

    def abandoned(self, run: Run) -> None:
        if (attempt := self._attempt) is not None:
            charge = self._settle(run, attempt, charging.unfinished(attempt))
            run.record(ModelAbandoned(charged=charge, reason="cancelled"))

    def arrived(self, delta: Delta) -> None:
        attempt = self._attempt
        assert attempt is not None
        if type(delta) is ToolCallDelta:
            text = delta.arguments
            if delta.slot >= attempt.calls:
                attempt.calls, text = delta.slot + 1, delta.name + text
        else:
            text = delta.text  # type: ignore[union-attr]
        attempt.size += len(text) if text.isascii() else rules.length(text)

    def _settle(self, run: Run, attempt: Attempt, charge: Charge) -> Charge:
        self._attempt, self._last = None, attempt
        if self._terms.soft and rules.exceeds(charge, attempt.reserved, attempt.units):
            attempt.near = True
            self._bank.nearing.granted(attempt)
        self._bank.nearing.settled(attempt)
        self.near = attempt.near
        self._renewals.leave(attempt.reserved.id)
        drawn = attempt.drawn
        amounts, rates = rules.amounts_of(drawn.units, charge), rules.amounts_of(drawn.rated, charge)
        self._queue(run, attempt, charging.settlement(run, attempt, charge, amounts, rates))
        return charge

    def _give_back(self, run: Run, attempt: Attempt) -> None:
        """An attempt that was reserved and never made costs nothing, not even its request."""
        self._bank.nearing.settled(attempt)
        self._queue(run, attempt, self._nothing(run, attempt))
        run.record(ModelAbandoned(charged=charging.free(attempt), reason="cancelled"))

    def _nothing(self, run: Run, attempt: Attempt) -> Settlement:
        drawn = attempt.drawn
        return charging.settlement(
            run, attempt, charging.free(attempt), (0,) * len(drawn.lines), (0,) * len(drawn.rates)
        )

    def _queue(self, run: Run, attempt: Attempt, settlement: Settlement) -> None:
        """Settle with the next commit."""
        if self._accounts.limit_attempts:
            self._told_of = attempt.lines
            self._freed += attempt.drawn.freed
            run.operations.append(settlement)

    async def settle(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        return await self._bank.settle(operations)

    def told(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        self.near = False
        if self._waiting:
            self._waiting.wake(self._freed)
        self._freed.clear()
        for outcome in outcomes:
            if isinstance(outcome, Settled) and outcome.warned:
                self._warn(run, [self._told_of[index] for index in outcome.warned])
        if self._bank.untold:
            self._warn(run, [])

    def _warn(self, run: Run, lines: Sequence[Line]) -> None:
        """Record that limits came near; what the run cannot record any more, since it has ended, the next run of this
        process does that draws on the same limit."""
        untold = self._bank.untold
        if untold and run.state.ended is None:
            lines = [*lines, *[untold.pop(line.key) for line in self._told_of if line.key in untold]]
        for line in lines:
            if run.state.ended is not None:
                untold[line.key] = line
                continue
            run.record(
                BudgetWarned(
                    limit=self._accounts.name(line),
                    unit=line.unit,
                    cap=self._accounts.cap(line),
                    soft=line.soft,
                )
            )

    # tool calls

    async def judged(self, run: Run, calls: Sequence[Judged]) -> bool:
        new = len([1 for call in calls if not run.state.calls[call.call_id].charged])
        if not self._accounts.counts_calls or not new:
            run.record(ToolsJudged(calls=tuple(calls), charged=bool(new) and self._accounts.counts_calls))
            return True
        event = ToolsJudged(calls=tuple(calls), charged=True)
        if (
            not self.joined
        ):  # durable first: after a crash the calls are these again, and charged under this name
            await run.commit()
        name = _encode(
            ["calls", run.scope.tenant, run.run_id, run.state.started.at, calls[0].call_id, new]
        ).decode()
        lines: tuple[Line, ...] = ()

        def hold() -> Hold:
            nonlocal lines
            lines = self._accounts.of_calls()
            takes, none = (new,) * len(lines), (0,) * len(lines)
            return Hold(id=name, tenant=run.scope.tenant, lines=lines, base=takes, each=none, final=True)

        may_wrap_up = self._terms.wrap_up > 0 and run.state.limit is None
        reserving = Reserving(run, self._bank, self._terms, self._accounts, hold, event)
        granted = await reserving.granted(may_wrap_up=may_wrap_up)
        if granted is not None:
            self._warn(run, [lines[index] for index in granted.warned])
        return granted is not None

    # the run

    async def recover(self, run: Run) -> None:
        open_attempt = run.state.attempt
        if open_attempt is None or open_attempt.reserved is None:
            return
        reserved = open_attempt.reserved
        settled = await self._bank.ledger.settle(Settlement(id=reserved.id, tenant=run.scope.tenant))
        if settled.note:  # it was settled before the crash, and its event was lost
            charge = charging.charge_in(settled.note)
        else:
            charge = rules.in_full(reserved, settled.units if settled.known else reserved.output_tokens)
        run.record(ModelAbandoned(charged=charge, reason="crashed"))
        wraps_up = open_attempt.purpose == "wrap_up"
        lines = self._accounts.of_attempt(open_attempt.model, wrap_up=wraps_up).lines
        self._warn(run, [lines[index] for index in settled.warned if index < len(lines)])

    def ending(self, run: Run) -> None:
        if (forget := self._accounts.of_the_run()) is not None:
            run.operations.append(forget)


class Again(msgspec.Struct, eq=False):
    """`ModelRequest.meter` under a budget."""

    _meter: BudgetMeter
    _run: Run
    _request: ModelRequest

    async def again(self, model: str, error: Exception) -> ModelRequest:
        self._run.record(failure_of(self._run, self._meter, error))
        request = await self._meter.attempt(self._run, self._request, model)
        if request is None:
            assert self._run.state.limit is not None
            limit = self._run.state.limit
            raise BudgetExceeded(budget_words(limit), limit=limit.limit)
        return request
