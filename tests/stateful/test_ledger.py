"""Hypothesis drives ledgers against a plain model, alone and several calls at once, through time and crashes.

After each step the answers and every balance are the model's; where calls came at once, those of some order. No grant
ever brings a counter above the cap in force, and what is above any cap was billed above its reservation.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Sequence
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

from shipworthy.adapters.inmemory import counters as inmemory
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.redis import RedisLedger
from shipworthy.adapters.sqlite import SqliteStore, budget
from shipworthy.domain.ledger import Hold, Line, Settlement
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

CAPS = 100, 150, 400
SOFT = 70, 0, 300
PACE = rate("paced", limit=10, burst=5, period=10_000)
AMOUNTS = st.sampled_from([0, 5, 20, 40, 60])
SELDOM = st.sampled_from([False, False, False, True])


class Wish(NamedTuple):
    """What is drawn of a call. What it means depends on what there is, but the drawing does not: of calls at once
    another may come first when Hypothesis repeats them."""

    kind: str
    pick: int
    process: int
    lines: tuple[int, ...]
    next_window: list[bool]
    base: list[int]
    each: list[int]
    least: int
    more: int
    paced: int
    ttl: int
    final: bool
    patient: bool
    how: str
    above: int
    used_pace: int | None
    tenant: str


WISH = st.builds(
    Wish,
    kind=st.sampled_from(
        ["new"] * 4
        + ["waiting"] * 2
        + ["late"] * 2
        + ["again", "settle", "release", "renew", "foreign", "sweep"]
    ),
    pick=st.integers(0, 999),
    process=st.integers(0, 1),
    lines=st.sampled_from([(2,), (0,), (0, 2), (2, 1), (0, 1, 2)]),
    next_window=st.lists(SELDOM, min_size=3, max_size=3),
    base=st.lists(AMOUNTS, min_size=3, max_size=3),
    each=st.lists(st.sampled_from([0, 1, 3]), min_size=3, max_size=3),
    least=st.sampled_from([0, 1, 5]),
    more=st.sampled_from([0, 10, 40]),
    paced=st.sampled_from([-1, -1, -1, 0, 3, 5, 7]),
    ttl=st.sampled_from([30, 60_000]),
    final=SELDOM,
    patient=st.booleans(),
    how=st.sampled_from(["less", "less", "equal", "more", "all"]),
    above=AMOUNTS,
    used_pace=st.sampled_from([None, 0, 2, 8]),
    tenant=st.sampled_from([ACME, ACME, GLOBEX]),
)
TAGS = map(str, itertools.count())


class Op(NamedTuple):
    """The same call of a ledger and of the model."""

    what: str
    call: Callable[[Any], Awaitable[Any]]
    model: Callable[[Model], Any]


SWEEP = Op("sweep", lambda ledger: ledger.sweep(OPERATOR), lambda model: model.sweep())


class Ledgers(RuleBasedStateMachine):
    """One set of counters, which several processes open."""

    max_examples: ClassVar[int] = 50
    phases: ClassVar[list[Phase]] = [Phase.generate, Phase.shrink]
    time_moves: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.runner()
        self.tag = next(TAGS)  # examples may share a server
        self.owners = (
            account("user", ACME, self.tag),
            account("tenant", ACME, self.tag),
            account("global", "", self.tag),
        )
        self.model = Model()
        self.model.now = TODAY + DAY // 2
        self.asked: dict[str, Hold] = {}
        self.closed: set[str] = set()
        self.lines: dict[str, Line] = {}
        self.ledgers: list[Any] = []
        self.open()

    def runner(self) -> asyncio.Runner:
        return asyncio.Runner()

    def open(self) -> None:
        inmemory.now_ms, self._now = lambda: self.model.now, inmemory.now_ms
        self.ledgers = [self.make()] * 2

    def make(self) -> Any:
        return InMemoryLedger()

    def shut(self) -> None:
        inmemory.now_ms = self._now

        self.loop.close()

    def teardown(self) -> None:
        self.shut()

    # what may be called

    def op(self, wish: Wish) -> Op:
        asked = [id for id in self.asked if id not in self.closed]
        among = {
            "waiting": [id for id in asked if id not in self.model.holds],
            "late": [id for id in asked if self.model.state(id) == "expired"] or asked,
        }.get(wish.kind, asked)
        if wish.kind == "sweep":
            return SWEEP
        if wish.kind == "new" or not among:
            return self.reserve(self.new_hold(wish))
        asking = self.asked[among[wish.pick % len(among)]]
        if wish.kind in ("waiting", "again"):
            return self.reserve(asking)
        return self.after(asking, wish)

    def reserve(self, asking: Hold) -> Op:
        return Op("reserve", lambda ledger: ledger.reserve(asking), lambda model: model.reserve(asking))

    def new_hold(self, wish: Wish) -> Hold:
        starts = [TODAY + DAY * later for later in wish.next_window]
        lines = [line(self.owners[i], CAPS[i], soft=SOFT[i], start=starts[i]) for i in wish.lines]
        self.lines.update({one.key: one for one in lines})
        paced = self.time_moves and wish.paced >= 0
        id = f"{self.tag}/{len(self.asked)}"
        self.asked[id] = hold(
            id,
            wish.base[: len(lines)],
            *lines,
            each=tuple(wish.each[: len(lines)]),
            least=wish.least,
            most=wish.least + wish.more,
            rates=(PACE,) if paced else (),
            rate_base=(wish.paced,) if paced else (),
            rate_each=(0,) if paced else (),
            ttl=wish.ttl if self.time_moves else LONG,
            final=wish.final,
            patient=wish.patient,
            note=f"hold {id}",
        )
        return self.asked[id]

    def after(self, asking: Hold, wish: Wish) -> Op:
        """What becomes of a hold."""
        id, tenant, ttl = asking.id, wish.tenant, wish.ttl if self.time_moves else LONG
        if wish.kind == "release":
            return Op("release", lambda one: one.release(tenant, id), lambda model: model.release(tenant, id))
        if wish.kind == "renew":
            return Op(
                "renew", lambda one: one.renew(tenant, [id], ttl), lambda model: model.renew(tenant, id, ttl)
            )
        known, amounts = self.model.holds.get(id), None
        if known is not None and wish.how != "all":
            used = {"less": lambda n: n // 2, "equal": lambda n: n, "more": lambda n: n + wish.above}[
                wish.how
            ]
            amounts = tuple(used(amount) for amount in known["amounts"])
        cost = Settlement(
            id=id,
            tenant=GLOBEX if wish.kind == "foreign" else ACME,
            amounts=amounts,
            rates=(wish.used_pace,) if asking.rates and wish.used_pace is not None else None,
            note="settled",
        )
        return Op("settle", lambda ledger: ledger.settle(cost), lambda model: model.settle(cost))

    # doing it

    def do(self, ops: list[Op], processes: Sequence[int] = (0,)) -> None:
        """Call the ledgers at once: they answer, and stand, as the model does after the same calls in some order."""
        which = [self.ledgers[process] for process in processes]

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

    @rule(wishes=st.lists(WISH, min_size=1, max_size=5), slowly=st.booleans())
    def one_after_another(self, wishes: list[Wish], slowly: bool) -> None:
        for wish in wishes:
            if self.time_moves and slowly:
                self.model.now += 11
            self.do([self.op(wish)], [wish.process])

    @rule(wishes=st.lists(WISH, min_size=3, max_size=3))
    def several_at_once(self, wishes: list[Wish]) -> None:
        self.do([self.op(wish) for wish in wishes], [wish.process for wish in wishes])

    @precondition(lambda self: self.time_moves)
    @rule(by=st.sampled_from([1, 40, 40, 10_000]), sweeps=st.booleans())
    def time_passes(self, by: int, sweeps: bool) -> None:
        """Who has not asked for so long that its place is lost asks no more."""
        self.model.now += by
        if by > PLACE:
            self.closed |= {id for queue in self.model.waiting.values() for id in queue}
        if sweeps:
            self.do([SWEEP])

    @rule(which=st.integers(0, 2), cap=st.sampled_from([None, 0, 50, 120, 500, "reset"]))
    def an_operator_steps_in(self, which: int, cap: int | Literal["reset"] | None) -> None:
        """A cap is set, or taken back, or what was spent is."""
        owner, record = self.owners[which], ("ops", "to see")
        limit = line(owner).limit
        if cap != "reset":
            change = Op(
                "set_cap",
                lambda ledger: ledger.set_cap(OPERATOR, owner, "tokens", "day", cap, *record),
                lambda model: model.set_cap(limit, cap),
            )
            return self.do([change])
        change = Op(
            "reset",
            lambda ledger: ledger.reset(OPERATOR, owner, "tokens", "day", *record),
            lambda model: model.reset(limit),
        )
        return self.do([change])

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

    max_examples: ClassVar[int] = 15

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
        self.loop.close()


class LedgersOnServers(Ledgers):
    """Two connections to one server, whose clock cannot be moved: nothing expires. Examples share the server."""

    max_examples: ClassVar[int] = 6
    time_moves: ClassVar[bool] = False
    shared: ClassVar[asyncio.Runner]
    both: ClassVar[list[Any]]

    def runner(self) -> asyncio.Runner:
        return self.shared

    def open(self) -> None:
        self.ledgers = self.both

    def shut(self) -> None:
        pass


def drive(machine: type[Ledgers]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=machine.max_examples,
            stateful_step_count=20,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=machine.phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [Ledgers, LedgersOnSqlite])
def test_whatever_the_order_no_cap_is_passed_and_nothing_is_lost(machine: type[Ledgers]) -> None:
    drive(machine)


def drive_on_a_server(make: Callable[[], Any]) -> None:
    class Machine(LedgersOnServers):
        both: ClassVar[list[Any]] = [make(), make()]

    with asyncio.Runner() as Machine.shared:
        try:
            for ledger in Machine.both:
                Machine.shared.run(ledger.open())
            drive(Machine)
        finally:
            for ledger in Machine.both:
                Machine.shared.run(ledger.close())


def test_a_redis_server_passes_no_cap_and_loses_nothing(redis_url: str) -> None:
    drive_on_a_server(lambda: RedisLedger(redis_url))


def test_a_postgres_server_passes_no_cap_and_loses_nothing(database: str) -> None:
    drive_on_a_server(lambda: PostgresStore(database).ledger)


MUTANTS = [ChecksThenActs, ClampsAgainstHeld, FreesWhatExpires, ChargesLateOnTop, SettlesTwice]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_machine_catches_the_broken_ledger(mutant: type[InMemoryLedger]) -> None:
    class Broken(Ledgers):
        max_examples = 500  # it is caught long before
        phases = [Phase.generate]  # noqa: RUF012

        def make(self) -> Any:
            return mutant()

    with pytest.raises(BaseException):  # noqa: B017, PT011 - Hypothesis may raise a group
        drive(Broken)
