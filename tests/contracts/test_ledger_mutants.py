"""The laws of a ledger catch ledgers that are broken: one law is named for each, and must fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from shipworthy.adapters.inmemory import counters as inmemory
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import (
    Account,
    Granted,
    Hold,
    Outcome,
    Refused,
    Settled,
    Settlement,
    Unit,
    Window,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import HoldRefused
from shipworthy.rules import ledger as rules
from shipworthy.testing.contracts.ledger import CLOCK_LAWS, LAWS, check, expiry, ledgers, name
from shipworthy.testing.contracts.store import LAWS as STORE_LAWS
from shipworthy.testing.contracts.store import check as check_store
from tests.contracts.test_ledger import InMemory
from tests.contracts.test_store import InMemory as InMemoryWorkers

CAUGHT_BY = {name(law): law for law in LAWS + CLOCK_LAWS}
STORE_CAUGHT_BY = {name(law): law for law in STORE_LAWS}


class Mutant(InMemoryLedger):
    """`caught`: the law that it breaks."""

    caught: ClassVar[str]


class ChecksThenActs(Mutant):
    caught = "many_at_once_never_pass_the_cap"

    async def reserve(self, hold: Hold) -> Granted | Refused:
        answer = self._judged(hold, inmemory.now_ms())
        await asyncio.sleep(0)
        return answer if isinstance(answer, Refused) else self._grant(hold, answer, inmemory.now_ms())


class HoldsAgain(Mutant):
    caught = "reserving_again_gives_the_same_answer"

    def take(self, hold: Hold) -> Granted | Refused:
        self._holds.pop(hold.id, None)
        return super().take(hold)


class TakesLineByLine(Mutant):
    caught = "all_lines_are_reserved_or_none"

    def take(self, hold: Hold) -> Granted | Refused:
        if len(hold.lines) == 1:
            return super().take(hold)
        for index, line in enumerate(hold.lines):
            part = msgspec.structs.replace(hold, lines=(line,), base=hold.base[index:][:1], each=(0,))
            answer = super().take(msgspec.structs.replace(part, id=f"{hold.id}/{index}"))
            if isinstance(answer, Refused):
                return msgspec.structs.replace(answer, index=index)
        return Granted()


class ClampsAgainstHeld(Mutant):
    caught = "holds_of_others_do_not_cut_units"

    def _judged(self, hold: Hold, now: int) -> Granted | Refused:
        counters = [self._counters[line.key] for line in hold.lines if line.key in self._counters]
        before = [(counter.spent, counter.held) for counter in counters]
        for counter in counters:
            counter.spent, counter.held = counter.spent + counter.held, 0
        answer = super()._judged(hold, now)
        for counter, (spent, held) in zip(counters, before, strict=True):
            counter.spent, counter.held = spent, held
        return answer


class SettlesTwice(Mutant):
    caught = "settling_again_changes_nothing"

    def put(self, settlement: Settlement) -> Settled:
        held = self._holds.get(settlement.id)
        if held is not None and held.state == "done":
            for line, amount in zip(held.hold.lines, settlement.amounts or held.amounts, strict=True):
                self._counters[line.key].spent += amount
        return super().put(settlement)


class KeepsWhatItHeld(Mutant):
    caught = "what_was_reserved_is_held_until_it_is_settled"

    def put(self, settlement: Settlement) -> Settled:
        held = self._holds[settlement.id]
        for line, amount in zip(held.hold.lines, held.amounts, strict=True):
            self._counters[line.key].held += amount
        return super().put(settlement)


class ChargesAtMostWhatWasReserved(Mutant):
    caught = "more_than_was_reserved_is_charged"

    def put(self, settlement: Settlement) -> Settled:
        reserved = self._holds[settlement.id].amounts
        amounts = tuple(map(min, settlement.amounts or reserved, reserved))
        return super().put(msgspec.structs.replace(settlement, amounts=amounts))


class HoldsWhatIsFinal(Mutant):
    caught = "a_final_hold_is_charged_at_once"

    def take(self, hold: Hold) -> Granted | Refused:
        return super().take(msgspec.structs.replace(hold, final=False))


class SettlesInThePresentWindow(Mutant):
    caught = "windows_are_counters_of_their_own"

    def put(self, settlement: Settlement) -> Settled:
        held = self._holds[settlement.id]
        latest = max(self._counters.values(), key=lambda counter: counter.line.start).line
        held.hold = msgspec.structs.replace(held.hold, lines=(latest,))
        return super().put(settlement)


class BringsBackWhatWasForgotten(Mutant):
    caught = "counters_that_are_forgotten_are_gone"

    def put(self, settlement: Settlement) -> Settled:
        for line in self._holds[settlement.id].hold.lines:
            if line.key not in self._counters:
                self._new(line, inmemory.now_ms())
        return super().put(settlement)


class FreesWhatExpires(Mutant):
    caught = "an_expired_hold_is_charged_in_full"

    def _expire(self, now: int) -> int:
        held = [one for one in self._holds.values() if one.state == "held"]
        expired = super()._expire(now)
        for one in held:
            if one.state == "expired":
                for line, amount in zip(one.hold.lines, one.amounts, strict=True):
                    self._counters[line.key].spent -= amount
        return expired


class DoesNotCorrectWhatExpired(Mutant):
    caught = "a_late_settlement_corrects_what_was_charged"

    def put(self, settlement: Settlement) -> Settled:
        if (held := self._holds.get(settlement.id)) is not None and held.state == "expired":
            return Settled(settlement.note)
        return super().put(settlement)


class ChargesLateOnTop(Mutant):
    caught = "a_late_settlement_corrects_what_was_charged"

    def put(self, settlement: Settlement) -> Settled:
        if (held := self._holds.get(settlement.id)) is not None and held.state == "expired":
            held.charged = (0,) * len(held.amounts)
        return super().put(settlement)


class GivesBackWhatWasReset(Mutant):
    caught = "what_was_reset_is_not_given_back"

    def _write_off(self, limit: str) -> None:
        pass


class WritesOffWhatItHolds(Mutant):
    caught = "what_expires_after_a_reset_is_corrected"

    def _write_off(self, limit: str) -> None:
        for held in self._holds.values():
            held.amounts = (0,) * len(held.amounts)
        super()._write_off(limit)


class SeesExpiryOnlyInSweep(Mutant):
    caught = "who_needs_the_room_sees_what_expired"

    def take(self, hold: Hold) -> Granted | Refused:
        self._next_expiry = inmemory.now_ms() + inmemory.LOOK
        return super().take(hold)


class RevivesWhatExpired(Mutant):
    caught = "what_is_over_is_not_renewed"

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        for one in holds:
            if (held := self._holds.get(one)) is not None and held.state == "expired":
                held.state = "held"
        await super().renew(tenant, holds, ttl)


class RenewsNothing(Mutant):
    caught = "a_renewed_hold_lives_on"

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        pass


class LetsAnybodyPass(Mutant):
    caught = "who_waits_is_not_overtaken"

    def _keep_place(self, hold: Hold, refused: Refused, now: int) -> None:
        pass


class ServesWhoCameLast(Mutant):
    caught = "the_order_is_that_of_the_first_asking"

    def _keep_place(self, hold: Hold, refused: Refused, now: int) -> None:
        super()._keep_place(hold, refused, now)
        counter = self._counters[hold.lines[refused.index].key]
        place = counter.queue.pop(hold.id)
        place.ticket = -next(self._tickets)
        counter.queue = {hold.id: place, **counter.queue}


class KeepsPlacesForEverybody(Mutant):
    caught = "who_is_not_patient_keeps_no_place"

    def take(self, hold: Hold) -> Granted | Refused:
        return super().take(msgspec.structs.replace(hold, patient=True))


class KeepsPlacesForever(Mutant):
    caught = "a_place_that_is_not_kept_is_lost"

    def _is_kept(self, place: inmemory.Place, now: int) -> bool:
        return True


class WaitsWhereverItIsRefused(Mutant):
    caught = "a_place_stays_where_only_the_order_is_in_the_way"

    def _keep_place(self, hold: Hold, refused: Refused, now: int) -> None:
        super()._keep_place(hold, msgspec.structs.replace(refused, cap=refused.spent), now)


class StandsBehindAllOthersOnALine(Mutant):
    caught = "who_waits_on_another_line_is_served_in_order_too"

    def _is_behind(self, queue: dict[str, inmemory.Place], mine: inmemory.Place | None, now: int) -> bool:
        return super()._is_behind(queue, mine if mine in queue.values() else None, now)


class AgesAnewOnAnotherLine(Mutant):
    caught = "a_place_moves_with_its_age"

    def _keep_place(self, hold: Hold, refused: Refused, now: int) -> None:
        if (
            place := self._places.get(hold.id)
        ) and refused.needed + refused.spent + refused.held > refused.cap:
            self._give_up_place(place.tenant, hold.id)
        super()._keep_place(hold, refused, now)


class GivesBackWhatTimeHasPaid(Mutant):
    caught = "what_time_has_paid_is_not_given_back"

    def put(self, settlement: Settlement) -> Settled:
        self._idle_at.clear()
        return super().put(settlement)


class ForgetsWhatIsAboveAnIdleRate(Mutant):
    caught = "what_time_has_paid_is_not_given_back"

    def _give_back(self, held: inmemory.Held, used: Sequence[int]) -> None:
        if all(held.taken >= self._idle_at.get(rate.key, 0) for rate in held.hold.rates):
            super()._give_back(held, used)


class GivesNoRateBack(Mutant):
    caught = "what_is_not_used_of_a_rate_is_given_back"

    def put(self, settlement: Settlement) -> Settled:
        return super().put(msgspec.structs.replace(settlement, rates=None))


class RatesBeforeLines(Mutant):
    caught = "lines_and_rates_are_taken_together_or_not_at_all"

    def take(self, hold: Hold) -> Granted | Refused:
        for rate, base in zip(hold.rates, hold.rate_base, strict=True):
            owed = max(self._owed.get(rate.key, 0), inmemory.now_ms() * 1000)
            answer = super().take(hold)
            if isinstance(answer, Refused) and answer.cause == "held":
                self._owed[rate.key] = owed + base * rate.period * 1000 // rate.limit
            return answer
        return super().take(hold)


class WarnsEachTime(Mutant):
    caught = "a_warning_comes_once"

    def put(self, settlement: Settlement) -> Settled:
        for counter in self._counters.values():
            counter.warned = False
        return super().put(settlement)


class IgnoresOverrides(Mutant):
    caught = "an_override_is_in_force_at_once"

    def _judged(self, hold: Hold, now: int) -> Granted | Refused:
        self._caps = {}
        return super()._judged(hold, now)


class OvertakesWhereItFits(Mutant):
    caught = "who_waits_is_not_overtaken"

    def _at_once(self, hold: Hold, now: int) -> Granted | None:
        places, self._places = self._places, {}
        granted = super()._at_once(hold, now)
        self._places = places
        return granted


class IgnoresOverridesWhereItFits(Mutant):
    caught = "an_override_may_be_below_what_is_spent"

    def _at_once(self, hold: Hold, now: int) -> Granted | None:
        caps, self._caps = self._caps, {}
        granted = super()._at_once(hold, now)
        self._caps = caps
        return granted


class TakesZeroForNoCap(Mutant):
    caught = "an_override_may_be_below_what_is_spent"

    async def set_cap(
        self,
        operator: Operator,
        account: Account,
        unit: Unit,
        window: Window,
        cap: int | None,
        who: str,
        why: str,
    ) -> None:
        await super().set_cap(operator, account, unit, window, cap or None, who, why)


class ForgetsHoldsInAReset(Mutant):
    caught = "what_was_spent_is_taken_back_to_zero"

    async def reset(
        self, operator: Operator, account: Account, unit: Unit, window: Window, who: str, why: str
    ) -> int:
        for counter in self._counters.values():
            if counter.line.account == account:
                counter.held = 0
        return await super().reset(operator, account, unit, window, who, why)


class AsksNobodyForATenant(Mutant):
    caught = "another_tenant_settles_and_releases_nothing"

    def put(self, settlement: Settlement) -> Settled:
        if (held := self._holds.get(settlement.id)) is not None:
            settlement = msgspec.structs.replace(settlement, tenant=held.hold.tenant)
        return super().put(settlement)


class ShowsEverybodyEverything(Mutant):
    caught = "another_tenant_sees_and_forgets_nothing"

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        found = [self._counters.get(key) for key in keys]
        return [(0, 0) if counter is None else (counter.spent, counter.held) for counter in found]


class KeepsPlacesOfAClockThatWasAhead(Mutant):
    caught = "a_place_of_a_clock_that_was_ahead_is_none"

    def _is_kept(self, place: inmemory.Place, now: int) -> bool:
        return place.until >= now


class LooksWhenTheClockIsBackWhereItWas(Mutant):
    caught = "a_hold_of_a_clock_that_was_ahead_expires"

    def _expire(self, now: int) -> int:
        for held in self._holds.values():
            held.renewed = max(held.until, now)
        return super()._expire(now)


class LetsHoldsLiveAsTheyWereMade(Mutant):
    caught = "a_clock_that_is_right_changes_nothing"

    def _expire(self, now: int) -> int:
        for held in self._holds.values():
            held.renewed = None
        return super()._expire(now)


@pytest.mark.parametrize("mutant", Mutant.__subclasses__(), ids=lambda mutant: mutant.__name__)
def test_a_law_catches_the_broken_ledger(mutant: type[Mutant], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ledgers, expiry):
        monkeypatch.setattr(module, "GENEROUS", 0.3)
    with pytest.raises(AssertionError):
        check(CAUGHT_BY[mutant.caught], InMemory(monkeypatch, mutant()))


def test_a_law_catches_a_ledger_that_believes_what_a_clock_ahead_owed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "owing", lambda rate, owed, now: owed)
    monkeypatch.setattr(inmemory, "owing", rules.owing)
    with pytest.raises(AssertionError):
        check(CAUGHT_BY["a_clock_that_was_ahead_owes_no_more_than_a_burst"], InMemory(monkeypatch))


def test_a_law_catches_keys_that_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(account: Account, unit: Unit, window: Window, start: int) -> tuple[str, str]:
        limit = ":".join([account.tenant, *map(str, json.loads(account.name))])
        return f"{limit}:{start}", limit

    monkeypatch.setattr(ledgers, "keys_of", joined)
    with pytest.raises(AssertionError):
        check(CAUGHT_BY["accounts_are_composed_injectively"], InMemory(monkeypatch))


# stores


class MutantStore(InMemoryStore):
    """`caught`: the law that it breaks."""

    caught: ClassVar[str]


class WritesBeforeItReserves(MutantStore):
    caught = "a_refused_hold_writes_nothing"

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        await super().commit(fence, msgspec.structs.replace(batch, budget=()))
        return self.ledger.apply(batch.budget)


class ReservesBeforeTheFence(MutantStore):
    caught = "a_fenced_batch_leaves_the_ledger_alone"

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        outcomes = self.ledger.apply(batch.budget)
        await super().commit(fence, msgspec.structs.replace(batch, budget=()))
        return outcomes


class LeavesTheLedgerOut(MutantStore):
    caught = "a_hold_lands_with_its_batch"

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        await super().commit(fence, msgspec.structs.replace(batch, budget=()))
        return [Granted(100) for _ in batch.budget]


class SwallowsRefusals(MutantStore):
    caught = "many_runs_at_once_never_pass_the_cap"

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        try:
            return await super().commit(fence, batch)
        except HoldRefused:
            return await super().commit(fence, msgspec.structs.replace(batch, budget=()))


class ReservesLast(MutantStore):
    caught = "operations_are_done_in_their_order"

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        holds: tuple[Any, ...] = tuple(one for one in batch.budget if isinstance(one, Hold))
        others: tuple[Any, ...] = tuple(one for one in batch.budget if not isinstance(one, Hold))
        return await super().commit(fence, msgspec.structs.replace(batch, budget=holds + others))


@pytest.mark.parametrize("mutant", MutantStore.__subclasses__(), ids=lambda mutant: mutant.__name__)
def test_a_law_catches_the_broken_store(mutant: type[MutantStore]) -> None:
    class Workers(InMemoryWorkers):
        def make(self, *, lease_ttl: float, clock_skew: float) -> InMemoryStore:
            return mutant()

    with pytest.raises((AssertionError, HoldRefused)):
        check_store(STORE_CAUGHT_BY[mutant.caught], Workers())
