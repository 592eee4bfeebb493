"""Metering one run under a budget: every attempt on the wire is reserved before it is made, and settled after.

The order of the lines in `attempt` is the guarantee: what may be spent is held, and that is durable, before a byte is
sent. What an attempt cost is queued with the event that says so, and settled with that event's commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from shipworthy.domain.budgets import Terms
from shipworthy.domain.events import (
    BudgetReached,
    BudgetWarned,
    Judged,
    ModelAbandoned,
    ModelRequested,
    ToolsJudged,
)
from shipworthy.domain.ledger import BudgetOp, Hold, Line, Outcome, Rate, Settled, Settlement
from shipworthy.domain.model import Delta, ModelRequest, ToolCallDelta
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, Price, Reserved, Usage
from shipworthy.engine.accounts import Accounts
from shipworthy.engine.bank import Bank
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.failures import failure_of
from shipworthy.engine.metering import Meter, Run
from shipworthy.engine.reserving import Reserving
from shipworthy.errors import BudgetExceeded, LedgerError, ModelError, StoreError, UnknownPrice
from shipworthy.ports.budget import Budget
from shipworthy.rules import budgets as rules
from shipworthy.rules.decide import budget_words

_BY_INPUT = {"requests", "input_tokens"}
"""Units of which an answer takes the same however long it is."""
_encode = msgspec.json.Encoder().encode
_charge = msgspec.json.Decoder(Charge)


async def budgeted(bank: Bank, blueprint: Blueprint, scope: Scope, run_id: str) -> Meter:
    """The meter of one sitting, by what the budget says now. Raises ConfigurationError, LedgerError."""
    budget = bank.budget
    await bank.open()
    terms = await budget.terms(scope)
    _price(budget, terms, blueprint.model.name)  # no run begins on a model that cannot be priced
    return BudgetMeter(bank, terms, Accounts(terms, scope, blueprint.name, run_id))


def _price(budget: Budget, terms: Terms, model: str) -> Price | None:
    """What *model* costs. Raises UnknownPrice where money is limited and nobody knows."""
    price = budget.price(model)
    if price is None and any([limit.unit == "cost_usd" for limit in terms.limits]):
        raise UnknownPrice(f"Nobody knows what {model} costs, and a budget limits money.")
    return price


class Attempt(msgspec.Struct):
    """One attempt on the wire. `units`: output tokens that were granted; `size`: bytes of output that arrived."""

    model: str
    reserved: Reserved
    price: Price | None
    units: int
    streamed: bool
    clamped: bool = False
    near: bool = False
    lines: tuple[Line, ...] = ()
    rates: tuple[Rate, ...] = ()
    size: int = 0


class BudgetMeter:
    """A run's meter under a budget, for one sitting."""

    counts = True

    def __init__(self, bank: Bank, terms: Terms, accounts: Accounts) -> None:
        self._bank, self._terms, self._accounts = bank, terms, accounts
        self._attempt: Attempt | None = None
        self._sizes = [0]
        self._around: int | None = None
        self._told_of: tuple[Line, ...] = ()
        self._freed: list[str] = []
        self._waiting, self._renewals = bank.waiting, bank.renewals
        self.joined = bank.joined
        self.near = False
        self.max_wall_clock = terms.max_wall_clock

    # an attempt

    async def begin(self, run: Run, request: ModelRequest) -> ModelRequest | None:
        return await self.attempt(run, request, run.blueprint.model.name)

    async def attempt(self, run: Run, request: ModelRequest, model: str) -> ModelRequest | None:
        """`begin`, on a model that may be another one than the agent's."""
        most = request.settings.max_tokens or self._terms.max_output
        price = _price(self._bank.budget, self._terms, model)
        name = _encode([run.scope.tenant, run.run_id, run.fence.token, run.state.seq + 1]).decode()
        reserved = rules.reserved(name, price, self._input_tokens(run, request), most)
        attempt = Attempt(model, reserved, price, most, request.stream)
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
        if attempt.lines or attempt.rates:
            self._renewals.keep(run.scope.tenant, reserved.id, self._terms.ttl)
        settings = request.settings
        if {*[line.unit for line in attempt.lines], *[rate.unit for rate in attempt.rates]} - _BY_INPUT:
            settings = msgspec.structs.replace(settings, max_tokens=attempt.units)
        again = Again(self, run, request)
        return msgspec.structs.replace(request, ordinal=event.ordinal, settings=settings, meter=again)

    async def _reserve(self, run: Run, attempt: Attempt, event: ModelRequested) -> bool:
        wrap_up = event.purpose == "wrap_up"

        def hold() -> Hold:
            attempt.lines = self._accounts.of_attempt(wrap_up=wrap_up)
            attempt.rates = self._accounts.rates(attempt.model)
            return self._hold(run, attempt)

        if not self._accounts.limit_attempts:
            run.record(event)
            await run.commit()
            return True
        may_wrap_up = self._terms.wrap_up > 0 and run.state.limit is None and not wrap_up
        reserving = Reserving(run, self._bank, self._terms, self._accounts, hold, event)
        granted = await reserving.granted(may_wrap_up=may_wrap_up)
        if granted is None:
            return False
        attempt.clamped, attempt.units = granted.units < attempt.units, granted.units
        attempt.near = granted.near and self._terms.soft > 0
        self._bank.nearing.granted(attempt)
        return True

    def _hold(self, run: Run, attempt: Attempt) -> Hold:
        reserved = attempt.reserved
        takes = [rules.base_of(line.unit, reserved) for line in attempt.lines]
        rated = [rules.base_of(rate.unit, reserved) for rate in attempt.rates]
        most = reserved.output_tokens
        return Hold(
            id=reserved.id,
            tenant=run.scope.tenant,
            lines=attempt.lines,
            base=tuple([base for base, _ in takes]),
            each=tuple([each for _, each in takes]),
            rates=attempt.rates,
            rate_base=tuple([base for base, _ in rated]),
            rate_each=tuple([each for _, each in rated]),
            least=min(self._terms.least_output, most),
            most=most,
            ttl=int(self._terms.ttl * 1000),
        )

    def _input_tokens(self, run: Run, request: ModelRequest) -> int:
        """The most tokens that the input can have: what the provider counted up to its last answer, and the bytes of
        what is new since. Costs what is new."""
        sizes, messages = self._sizes, run.transcript
        for index in range(len(sizes) - 1, len(messages)):
            sizes.append(sizes[-1] + rules.tokens_of(messages[index]))
        if self._around is None:
            self._around = rules.tokens_around(request.tools, request.output)
        by_bytes = self._around + rules.length(request.instructions) + sizes[-1]
        state = run.state
        if state.counted <= 0 or request.purpose != "turn":
            return by_bytes
        new = sizes[-1] - sizes[run.history + state.counted_to]
        return min(by_bytes, state.counted + new + rules.PER_REQUEST)

    # its outcome

    def answered(self, run: Run, usage: Usage) -> Charge | None:
        attempt = self._attempt
        assert attempt is not None
        charge = rules.charge_of(usage, attempt.reserved, attempt.units, attempt.price)
        return self._settle(run, attempt, charge)

    async def cut(self, run: Run) -> None:
        attempt = self._last
        if not attempt.clamped:
            return
        lines = attempt.lines
        found = await self._spent(run, lines)
        rooms: list[tuple[int, int]] = []
        for index, (line, (spent, _)) in enumerate(zip(lines, found, strict=True)):
            base, each = rules.base_of(line.unit, attempt.reserved)
            if each:
                rooms.append(((line.cap - spent - base) // each, index))
        index = min(rooms)[1]
        line, (spent, held) = lines[index], found[index]
        base, each = rules.base_of(line.unit, attempt.reserved)
        needed = base + each * attempt.reserved.output_tokens
        run.record(
            BudgetReached(
                limit=self._accounts.name(line),
                unit=line.unit,
                cap=line.cap,
                spent=spent,
                held=held,
                needed=needed,
                reopens_at=line.end or None,
            )
        )

    async def _spent(self, run: Run, lines: Sequence[Line]) -> Sequence[tuple[int, int]]:
        """What is spent and held; as if nothing were where that cannot be asked, for it is only told."""
        try:
            return await self._bank.ledger.spent(run.scope, [line.key for line in lines])
        except LedgerError:
            return [(0, 0)] * len(lines)

    def failed(self, run: Run, error: Exception) -> Charge | None:
        """Nothing but its request where the provider surely did not take it; what arrived of a stream; and everything
        where it is not known."""
        attempt = self._attempt
        if attempt is None:
            return None
        if isinstance(error, ModelError) and not error.billable and not attempt.size:
            return self._settle(run, attempt, _free(attempt))
        return self._settle(run, attempt, _unfinished(attempt))

    def abandoned(self, run: Run) -> None:
        if (attempt := self._attempt) is not None:
            charge = self._settle(run, attempt, _unfinished(attempt))
            run.record(ModelAbandoned(charged=charge, reason="cancelled"))

    def arrived(self, delta: Delta) -> None:
        attempt = self._attempt
        assert attempt is not None
        text = delta.arguments if type(delta) is ToolCallDelta else delta.text  # type: ignore[union-attr]
        attempt.size += len(text) if text.isascii() else rules.length(text)

    def _settle(self, run: Run, attempt: Attempt, charge: Charge) -> Charge:
        self._attempt, self._last = None, attempt
        if self._terms.soft and _exceeds(charge, attempt):
            attempt.near = True
            self._bank.nearing.granted(attempt)
        self._bank.nearing.settled(attempt)
        self.near = attempt.near
        self._renewals.leave(attempt.reserved.id)
        amounts = tuple([rules.amount_of(line.unit, charge) for line in attempt.lines])
        rates = tuple([rules.amount_of(rate.unit, charge) for rate in attempt.rates])
        self._queue(run, attempt, _settlement(run, attempt, charge, amounts, rates))
        return charge

    def _give_back(self, run: Run, attempt: Attempt) -> None:
        """An attempt that was reserved and never made costs nothing, not even its request."""
        self._bank.nearing.settled(attempt)
        self._queue(run, attempt, self._nothing(run, attempt))
        run.record(ModelAbandoned(charged=_free(attempt), reason="cancelled"))

    def _nothing(self, run: Run, attempt: Attempt) -> Settlement:
        return _settlement(run, attempt, _free(attempt), (0,) * len(attempt.lines), (0,) * len(attempt.rates))

    def _queue(self, run: Run, attempt: Attempt, settlement: Settlement) -> None:
        """Settle with the next commit."""
        if attempt.lines or attempt.rates:
            self._told_of = attempt.lines
            self._freed += [line.key for line in attempt.lines]
            self._freed += [rate.key for rate in attempt.rates if rate.unit != "requests"]
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
                BudgetWarned(limit=self._accounts.name(line), unit=line.unit, cap=line.cap, soft=line.soft)
            )

    # tool calls

    async def judged(self, run: Run, calls: Sequence[Judged]) -> bool:
        new = len([1 for call in calls if not run.state.calls[call.call_id].charged])
        if not self._accounts.counts_calls or not new:
            run.record(ToolsJudged(calls=tuple(calls), charged=bool(new) and self._accounts.counts_calls))
            return True
        event = ToolsJudged(calls=tuple(calls), charged=True)
        name = _encode(["calls", run.scope.tenant, run.run_id, calls[0].call_id, new]).decode()
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
            charge = _charge.decode(settled.note)
        else:
            charge = rules.in_full(reserved, settled.units if settled.known else reserved.output_tokens)
        run.record(ModelAbandoned(charged=charge, reason="crashed"))
        lines = self._accounts.of_attempt(wrap_up=open_attempt.purpose == "wrap_up")
        self._warn(run, [lines[index] for index in settled.warned if index < len(lines)])

    def ending(self, run: Run) -> None:
        if (forget := self._accounts.of_the_run()) is not None:
            run.operations.append(forget)


def _settlement(
    run: Run, attempt: Attempt, charge: Charge, amounts: tuple[int, ...], rates: tuple[int, ...]
) -> Settlement:
    return Settlement(
        id=attempt.reserved.id,
        tenant=run.scope.tenant,
        amounts=amounts,
        rates=rates,
        note=_encode(charge).decode(),
    )


def _free(attempt: Attempt) -> Charge:
    return Charge(0, 0, None if attempt.price is None else 0)


def _exceeds(charge: Charge, attempt: Attempt) -> bool:
    """Whether a provider billed above what was reserved."""
    full = rules.in_full(attempt.reserved, attempt.units)
    return (
        charge.input_tokens > full.input_tokens
        or charge.output_tokens > full.output_tokens
        or (charge.cost or 0) > (full.cost or 0)
    )


def _unfinished(attempt: Attempt) -> Charge:
    if attempt.streamed and attempt.size:
        return rules.arrived(attempt.reserved, attempt.units, attempt.size)
    return rules.in_full(attempt.reserved, attempt.units)


class Again:
    """`ModelRequest.meter` under a budget."""

    __slots__ = ("_meter", "_request", "_run")

    def __init__(self, meter: BudgetMeter, run: Run, request: ModelRequest) -> None:
        self._meter, self._run, self._request = meter, run, request

    async def again(self, model: str, error: Exception) -> ModelRequest:
        self._run.record(failure_of(self._run, self._meter, error))
        request = await self._meter.attempt(self._run, self._request, model)
        if request is None:
            assert self._run.state.limit is not None
            limit = self._run.state.limit
            raise BudgetExceeded(budget_words(limit), limit=limit.limit)
        return request
