"""Hypothesis drives ledgers against a plain model, alone and several calls at once, through time and crashes.

After each step the answers and every balance are the model's; where calls came at once, those of some order. No grant
ever brings a counter above the cap in force, and what is above any cap was billed above its reservation.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shipworthy.adapters.inmemory import ledger as inmemory
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.sqlite import SqliteStore, budget
from shipworthy.domain.ledger import Account, Hold, Line, Rate, Settlement
from shipworthy.domain.scope import Scope
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    DAY,
    GLOBEX,
    LONG,
    OPERATOR,
    TODAY,
    hold,
    line,
    rate,
)
from tests.contracts.test_ledger_mutants import (
    ChargesLateOnTop,
    ChecksThenActs,
    ClampsAgainstHeld,
    FreesWhatExpires,
    SettlesTwice,
)
from tests.contracts.test_store import Sqlite
from tests.stateful.ledger_model import PLACE, Model, plain

pytestmark = pytest.mark.stateful

OWNERS = account("user", ACME, "alice"), account("tenant", ACME), account("global")
CAPS = 100, 150, 400
SOFT = 70, 0, 300
PACE = rate("paced", limit=10, burst=5, period=10_000)
AMOUNTS = st.sampled_from([0, 5, 20, 40, 60])
SELDOM = st.sampled_from([False, False, False, True])


class Op(NamedTuple):
    """The same call of a ledger and of the model."""

    what: str
    call: Callable[[Any], Awaitable[Any]]
    model: Callable[[Model], Any]


class Ledgers(RuleBasedStateMachine):
    """One set of counters, which several processes open."""

    max_examples: ClassVar[int] = 60
    phases: ClassVar[list[Phase]] = [Phase.generate, Phase.shrink]
    time_moves: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.model = Model()
        self.model.now = TODAY + DAY // 2
        self.asked: dict[str, Hold] = {}
        self.closed: set[str] = set()
        self.lines: dict[str, Line] = {}
        self.ledgers: list[Any] = []
        self.open()

    def open(self) -> None:
        inmemory._now, self._now = lambda: self.model.now, inmemory._now
        self.ledgers = [self.make()] * 2

    def make(self) -> Any:
        return InMemoryLedger()

    def shut(self) -> None:
        inmemory._now = self._now

    def teardown(self) -> None:
        self.shut()
        self.loop.close()

    # what may be called

    def draw_reserve(self, data: Any) -> Op:
        """A new hold, or one that waits or was answered and asks again."""
        waiting = [id for id in self.open_ids() if id not in self.model.holds]
        again = data.draw(st.sampled_from(["new", "waiting", "new", "any"]))
        if again == "waiting" and waiting:
            asking = self.asked[data.draw(st.sampled_from(waiting))]
        elif again == "any" and self.open_ids():
            asking = self.draw_asked(data)
        else:
            asking = self.draw_hold(data)
        return Op("reserve", lambda ledger: ledger.reserve(asking), lambda model: model.reserve(asking))

    def draw_hold(self, data: Any) -> Hold:
        indexes = data.draw(st.sampled_from([(2,), (0,), (0, 2), (2, 1), (0, 1, 2)]))
        starts = [TODAY + data.draw(st.sampled_from([0, 0, 0, DAY])) for _ in indexes]
        lines = [
            line(OWNERS[i], CAPS[i], soft=SOFT[i], start=at) for i, at in zip(indexes, starts, strict=True)
        ]
        self.lines.update({one.key: one for one in lines})
        least = data.draw(st.sampled_from([0, 1, 5]))
        rates: tuple[Rate, ...] = (PACE,) if self.time_moves and data.draw(SELDOM) else ()
        asking = hold(
            f"h{len(self.asked)}",
            [data.draw(AMOUNTS) for _ in lines],
            *lines,
            each=tuple(data.draw(st.sampled_from([0, 1, 3])) for _ in lines),
            least=least,
            most=least + data.draw(st.sampled_from([0, 10, 40])),
            rates=rates,
            rate_base=tuple(data.draw(st.integers(0, 7)) for _ in rates),
            rate_each=(0,) * len(rates),
            ttl=data.draw(st.sampled_from([30, 60_000])) if self.time_moves else LONG,
            final=data.draw(SELDOM),
            patient=data.draw(st.booleans()),
            note=f"hold {len(self.asked)}",
        )
        self.asked[asking.id] = asking
        return asking

    def draw_settle(self, data: Any) -> Op:
        expired = [id for id in self.open_ids() if self.model.state(id) == "expired"]
        late = expired and data.draw(st.booleans())
        asking = self.asked[data.draw(st.sampled_from(expired))] if late else self.draw_asked(data)
        known = self.model.holds.get(asking.id)
        amounts, rates = None, None
        if known is not None and not data.draw(SELDOM):
            how = data.draw(st.sampled_from(["less", "equal", "more"]))
            reserved = known["amounts"]
            amounts = tuple(
                amount if how == "equal" else amount // 2 if how == "less" else amount + data.draw(AMOUNTS)
                for amount in reserved
            )
        if asking.rates and data.draw(st.booleans()):
            rates = (data.draw(st.integers(0, 8)),)
        cost = Settlement(id=asking.id, tenant=ACME, amounts=amounts, rates=rates, note="settled")
        return Op("settle", lambda ledger: ledger.settle(cost), lambda model: model.settle(cost))

    def draw_release(self, data: Any) -> Op:
        tenant, id = data.draw(st.sampled_from([ACME, ACME, GLOBEX])), self.draw_asked(data).id
        return Op(
            "release", lambda ledger: ledger.release(tenant, id), lambda model: model.release(tenant, id)
        )

    def draw_foreign(self, data: Any) -> Op:
        cost = Settlement(id=self.draw_asked(data).id, tenant=GLOBEX)
        return Op("foreign", lambda ledger: ledger.settle(cost), lambda model: model.settle(cost))

    def draw_renew(self, data: Any) -> Op:
        tenant, id = data.draw(st.sampled_from([ACME, ACME, GLOBEX])), self.draw_asked(data).id
        ttl = data.draw(st.sampled_from([20, 2000])) if self.time_moves else LONG
        return Op(
            "renew",
            lambda ledger: ledger.renew(tenant, [id], ttl),
            lambda model: model.renew(tenant, id, ttl),
        )

    def draw_sweep(self, data: Any) -> Op:
        return Op("sweep", lambda ledger: ledger.sweep(OPERATOR), lambda model: model.sweep())

    def draw_asked(self, data: Any) -> Hold:
        return self.asked[data.draw(st.sampled_from(self.open_ids()))]

    def open_ids(self) -> list[str]:
        return [id for id in self.asked if id not in self.closed]

    def draw_op(self, data: Any) -> Op:
        kinds = [self.draw_reserve] * 5 + [self.draw_sweep]
        if self.open_ids():
            kinds += [self.draw_settle] * 2 + [self.draw_release, self.draw_renew, self.draw_foreign]
        return data.draw(st.sampled_from(kinds))(data)  # type: ignore[no-any-return]

    # doing it

    def do(self, data: Any, ops: list[Op]) -> None:
        """Call the ledgers at once: they answer, and stand, as the model does after the same calls in some order."""
        which = [self.ledgers[data.draw(st.integers(0, len(self.ledgers) - 1))] for _ in ops]

        async def call() -> list[Any]:
            return list(await asyncio.gather(*[op.call(one) for op, one in zip(ops, which, strict=True)]))

        before, excess = self.balances(), dict(self.model.excess)
        found = [plain(answer) for answer in self.loop.run(call())]
        after = self.balances()
        tried = []
        for order in itertools.permutations(range(len(ops))):
            model = copy.deepcopy(self.model) if len(ops) > 1 else self.model
            expected: list[Any] = [None] * len(ops)
            for index in order:
                expected[index] = ops[index].model(model)
            tried.append((expected, self.balances_of(model)))
            if tried[-1] == (found, after):
                self.model = model
                break
        else:
            raise AssertionError(f"{[op.what for op in ops]} gave {found}, {after}; expected one of {tried}")
        for key, one in self.lines.items():
            above = self.model.excess[key] - excess.get(key, 0)
            bound = max(sum(before[key]), self.model.cap(one)) + above
            assert sum(after[key]) <= bound, "a grant brought a counter above its cap"

    def balances(self) -> dict[str, tuple[int, int]]:
        keys = list(self.lines)
        (last, first) = (self.loop.run(one.spent(Scope(ACME), keys)) for one in self.ledgers[::-1])
        assert list(first) == list(last)
        return {key: (spent, held) for key, (spent, held) in zip(keys, first, strict=True)}

    def balances_of(self, model: Model) -> dict[str, tuple[int, int]]:
        return {key: (model.spent[key], model.held[key]) for key in self.lines}

    @rule(data=st.data(), count=st.integers(1, 5))
    def one_after_another(self, data: Any, count: int) -> None:
        for _ in range(count):
            if self.time_moves and data.draw(SELDOM):
                self.model.now += 40
            self.do(data, [self.draw_op(data)])

    @rule(data=st.data())
    def several_at_once(self, data: Any) -> None:
        self.do(data, [self.draw_op(data) for _ in range(3)])

    @precondition(lambda self: self.time_moves)
    @rule(by=st.sampled_from([1, 40, 40, 10_000]))
    def time_passes(self, by: int) -> None:
        """Who has not asked for so long that its place is lost asks no more."""
        self.model.now += by
        if by > PLACE:
            self.closed |= {id for queue in self.model.waiting.values() for id in queue}

    @rule(
        data=st.data(), owner=st.sampled_from(OWNERS), cap=st.sampled_from([None, 0, 50, 120, 500, "reset"])
    )
    def an_operator_steps_in(self, data: Any, owner: Account, cap: int | Literal["reset"] | None) -> None:
        """A cap is set, or taken back, or what was spent is. What has expired is written off with that: to correct it
        later would be to give it back twice."""
        limit, record = line(owner).limit, ("ops", "to see")
        if cap != "reset":
            change = Op(
                "set_cap",
                lambda ledger: ledger.set_cap(OPERATOR, owner, "tokens", "day", cap, *record),
                lambda model: model.set_cap(limit, cap),
            )
            return self.do(data, [change])
        for id, known in self.model.holds.items():
            if known["state"] == "expired" and limit in [one.limit for one in known["hold"].lines]:
                self.closed.add(id)
        change = Op(
            "reset",
            lambda ledger: ledger.reset(OPERATOR, owner, "tokens", "day", *record),
            lambda model: model.reset(limit),
        )
        return self.do(data, [change])

    @invariant()
    def nothing_is_negative(self) -> None:
        assert all(spent >= 0 and held >= 0 for spent, held in self.balances().values())

    @invariant()
    def what_is_held_is_what_holds_hold(self) -> None:
        """Nothing leaks: when all expire, nothing is held."""
        held = sum(sum(h["amounts"]) for h in self.model.holds.values() if h["state"] == "held")
        assert sum(held for _, held in self.balances().values()) == held


class LedgersOnSqlite(Ledgers):
    """Two processes on one file; one of them dies now and then, and leaves its holds behind."""

    max_examples: ClassVar[int] = 20

    def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "ledger.db")
        budget.now, self._now = lambda: self.model.now, budget.now
        self.stores = [self.store(), self.store()]
        self.ledgers = [store.ledger for store in self.stores]

    def store(self) -> SqliteStore:
        store = SqliteStore(self._path, durability="process")
        self.loop.run(store.open())
        return store

    @rule(which=st.integers(0, 1))
    def a_process_dies(self, which: int) -> None:
        self.loop.run(Sqlite(self._path).kill(self.stores[which]))
        self.stores[which] = self.store()
        self.ledgers[which] = self.stores[which].ledger

    def shut(self) -> None:
        budget.now = self._now
        for store in self.stores:
            self.loop.run(store.close())
        self._folder.cleanup()


def drive(machine: type[Ledgers]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=machine.max_examples,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=machine.phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [Ledgers, LedgersOnSqlite])
def test_whatever_the_order_no_cap_is_passed_and_nothing_is_lost(machine: type[Ledgers]) -> None:
    drive(machine)


MUTANTS = [ChecksThenActs, ClampsAgainstHeld, FreesWhatExpires, ChargesLateOnTop, SettlesTwice]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_machine_catches_the_broken_ledger(mutant: type[InMemoryLedger]) -> None:
    class Broken(Ledgers):
        phases = [Phase.generate]  # noqa: RUF012

        def make(self) -> Any:
            return mutant()

    with pytest.raises(BaseException):  # noqa: B017, PT011 - Hypothesis may raise a group
        drive(Broken)
