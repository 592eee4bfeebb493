"""What is PostgreSQL's own in its ledger: many sessions on one cap, one transaction with the journal, lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres import PostgresStore, ledger, writer
from shipworthy.adapters.postgres.connection import Connection, connect
from shipworthy.adapters.postgres.holds import Apply
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import BudgetOp, Change, Forget, Granted, Hold, Refused, Settled
from shipworthy.errors import (
    Fenced,
    HoldRefused,
    LedgerError,
    LedgerUnavailable,
    RunNotFound,
    ShipworthyError,
    StoreClosed,
)
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.expiry import what_was_reset_is_not_given_back
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    GLOBEX,
    OPERATOR,
    Law,
    Ledgers,
    OwnLedger,
    balance,
    check,
    granted,
    hold,
    line,
    paced,
    rate,
    settlement,
    turned_away,
)
from shipworthy.testing.contracts.ledger.waiting import (
    a_place_moves_with_its_age,
    a_place_stays_where_only_the_order_is_in_the_way,
    what_time_has_paid_is_not_given_back,
    who_waits_on_another_line_is_served_in_order_too,
)
from shipworthy.testing.contracts.store.workers import ALICE, answer, begun, opening, seqs
from tests.servers.postgres import Postgres
from tests.servers.proxy import Proxy
from tests.stores.test_postgres_mutants import made, proxied
from tests.stores.test_postgres_network import opened

Scenario = Callable[[str], Coroutine[Any, Any, None]]


def batch(seq: int, *does: BudgetOp) -> Batch:
    found = answer(seq)
    found.budget = does
    return found


def sent(store: PostgresStore, connection: Connection, *does: Hold) -> list[Any]:
    """What another instance's group gets for these, in a transaction that is left open."""
    assert store._sessions is not None
    work = [Apply(one.tenant, (one,)) for one in does]
    rows = connection.execute(writer._APPEND, writer._values("another", False, work)).fetchall()
    return [one(row[1:]) for one, row in zip(work, rows, strict=True)]


async def blocked(dsn: str, task: asyncio.Task[Any]) -> None:
    """Until some session waits for a lock, or *task* is done."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        while not task.done():
            if (await (await admin.execute(query)).fetchall())[0][0]:
                return
            await asyncio.sleep(0.005)


# many sessions on one cap


async def many_sessions_on_one_cap(dsn: str) -> None:
    """Fifty of four hundred holds fit, on counters that none of the four instances had seen before."""
    stores = [PostgresStore(dsn, readers=1) for _ in range(4)]
    await asyncio.gather(*[store.open() for store in stores])
    mine, everybody = line(cap=10_000), line(account("global"), cap=500)
    asked = [
        store.ledger.reserve(hold(f"{i}-{n}", 10, mine, everybody))
        for n in range(100)
        for i, store in enumerate(stores)
    ]
    answers = await asyncio.gather(*asked)
    assert sum([type(one) is Granted for one in answers]) == 50
    assert await balance(stores[0].ledger, everybody) == (0, 500)
    await asyncio.gather(*[store.close() for store in stores])


async def who_waits_for_a_lock_sees_what_was_done_before(dsn: str) -> None:
    """A group that another one's transaction keeps waiting is judged by what that one left."""
    async with opened(dsn) as store:
        await granted(store.ledger, hold("first", 0, line()))
        with connect(store._server) as slow:
            with slow.transaction():
                slow.execute("SELECT set_config('shipworthy.tenant', 'acme', true)")
                assert sent(store, slow, hold("theirs", 60, line())) == [Granted(0, (), False)]
                asking = asyncio.create_task(store.ledger.reserve(hold("mine", 60, line())))
                await blocked(dsn, asking)
            answer = await asking
        assert answer == Refused("held", 0, 100, 0, 60, 60)
        assert await balance(store.ledger, line()) == (0, 60)


async def a_cap_that_is_set_meanwhile_counts(dsn: str) -> None:
    """A hold that waits for whoever sets a cap is judged by that cap."""
    async with opened(dsn) as store:
        await granted(store.ledger, hold("first", 0, line()))
        change = Change(0, "set", line().account, "tokens", "day", 40, "Ada", "less")
        with connect(store._server) as slow:
            with slow.transaction():
                slow.execute("SELECT set_config('shipworthy.operator', 'on', true)")
                ledger._set_cap(slow, change)
                asking = asyncio.create_task(store.ledger.reserve(hold("mine", 60, line())))
                await blocked(dsn, asking)
            assert await asking == Refused("spent", 0, 40, 0, 0, 60)


async def whoever_waits_has_locked_nothing_further_on(dsn: str) -> None:
    """A group names its counters in the other order, and waits for the first one; who has that gets the second."""
    async with opened(dsn) as store:
        first, second = line("alice"), line("bob")
        for each in (first, second):
            await granted(store.ledger, hold(f"made {each.key}", 0, each))
        with connect(store._server) as slow:
            with slow.transaction():
                assert sent(store, slow, hold("one", 1, first)) == [Granted(0, (), False)]
                asking = asyncio.create_task(store.ledger.reserve(hold("mine", 1, second, first)))
                await blocked(dsn, asking)
                assert sent(store, slow, hold("two", 1, second)) == [Granted(0, (), False)]
            assert await asking == Granted(0, (), False)


@pytest.mark.parametrize(
    "scenario",
    [
        many_sessions_on_one_cap,
        who_waits_for_a_lock_sees_what_was_done_before,
        a_cap_that_is_set_meanwhile_counts,
        whoever_waits_has_locked_nothing_further_on,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_a_cap_is_kept(scenario: Scenario, database: str) -> None:
    asyncio.run(scenario(database))


# one transaction with the journal


async def a_refusal_in_a_group(dsn: str) -> None:
    """A hold that is refused, and one of a fence that is old, among the batches of others."""
    async with opened(dsn) as store:
        tokens = line(soft=20)
        fences = [await begun(store, ALICE, f"r{i}") for i in range(8)]
        await store.commit(fences[2], batch(3, hold("mine", 50, tokens)))
        fences[5] = Fence(ALICE, "r5", 7, fences[5].key)
        asked = [batch(3, hold(f"h{i}", 1, tokens)) for i in range(8)]
        asked[2] = batch(4, settlement("mine", 30), hold("too-much", 71, tokens))
        told = await asyncio.gather(
            *[store.commit(fence, one) for fence, one in zip(fences, asked, strict=True)],
            return_exceptions=True,
        )
        for i, outcome in enumerate(told):
            error = {2: HoldRefused, 5: Fenced}.get(i)
            assert type(outcome) is error if error else outcome == [Granted(0, (), True)], (i, outcome)
            assert len(await seqs(store, ALICE, f"r{i}")) == (2 if i == 5 else 3)
        assert await balance(store.ledger, tokens) == (0, 56)
        assert (await store.ledger.settle(settlement("h5", 1))).known is False
        assert (await store.ledger.settle(settlement("mine", 40))).warned == (0,)


async def who_is_refused_in_a_commit_keeps_its_place(dsn: str) -> None:
    """Though all else of the batch is undone; and whoever asks later does not pass it by."""
    async with opened(dsn) as store:
        fence = await begun(store, ALICE, "r")
        await granted(store.ledger, hold("fills", 95, line()))
        with pytest.raises(HoldRefused):
            await store.commit(fence, batch(3, hold("waits", 50, line(), patient=True)))
        behind = await turned_away(store.ledger, hold("small", 1, line()))
        assert behind.cause == "held"
        await store.ledger.release(ACME, "fills")
        assert await store.commit(fence, batch(3, hold("waits", 50, line(), patient=True)))
        await granted(store.ledger, hold("small", 1, line()))


async def what_expired_makes_room_for_a_commit(dsn: str) -> None:
    """The refusal was not the last word: expired holds are charged first, in all the counters where they were."""
    async with opened(dsn) as store:
        fence = await begun(store, ALICE, "r")
        everybody, theirs = line(account("global")), line(account("user", GLOBEX, "eve"))
        await granted(store.ledger, hold("theirs", 60, everybody, theirs, tenant=GLOBEX, ttl=0))
        with pytest.raises(HoldRefused) as caught:
            await store.commit(fence, batch(3, hold("mine", 41, everybody)))
        assert caught.value.refused == Refused("spent", 0, 100, 60, 0, 41)
        await store.commit(fence, batch(3, hold("mine", 40, everybody)))
        assert await balance(store.ledger, everybody) == (60, 40)


async def a_refusal_leaves_no_counter(dsn: str) -> None:
    async with opened(dsn) as store:
        fence = await begun(store, ALICE, "r")
        for asked in (
            hold("a", 101, line()),
            paced("b", 9, rate(limit=1, burst=1), lines=(line("bob", cap=9),)),
        ):
            await turned_away(store.ledger, asked)
            with pytest.raises(HoldRefused):
                await store.commit(fence, batch(3, asked))
        with pytest.raises(Fenced):
            await store.commit(Fence(ALICE, "r", 7, fence.key), batch(3, hold("c", 1, line("carol"))))
        with psycopg.connect(dsn) as admin:
            for table in ("counters", "balances", "holds", "places"):
                assert not admin.execute(f"SELECT * FROM shipworthy.{table}".encode()).fetchall(), table


def test_a_refused_or_fenced_batch_leaves_nothing_and_costs_no_other(database: str) -> None:
    asyncio.run(a_refusal_in_a_group(database))


def test_who_is_refused_in_a_commit_keeps_its_place(database: str) -> None:
    asyncio.run(who_is_refused_in_a_commit_keeps_its_place(database))


def test_what_expired_makes_room_for_a_commit(database: str) -> None:
    asyncio.run(what_expired_makes_room_for_a_commit(database))


def test_a_refusal_leaves_no_counter(database: str) -> None:
    asyncio.run(a_refusal_leaves_no_counter(database))


def test_a_run_may_begin_with_a_hold(database: str) -> None:
    async def scenario() -> None:
        async with opened(database) as store:
            first = opening(ALICE, "r")
            first.budget = (hold("too-much", 101, line()),)
            with pytest.raises(HoldRefused):
                await store.begin(ALICE, "r", first)
            with pytest.raises(RunNotFound):
                await store.find(ALICE, "r")
            first.budget = (hold("h", 10, line()),)
            assert await store.begin(ALICE, "r", first) is not None
            assert await store.begin(ALICE, "r", first) is None
            assert await balance(store.ledger, line()) == (0, 10)

    asyncio.run(scenario())


def test_what_asks_nothing_of_the_ledger_costs_no_statement_more(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement is one transaction, with operations and without; and the counters are not looked at for nothing."""
    said: list[Any] = []
    watched: Any = None
    sound = Connection.execute

    def execute(self: Connection, query: Any, values: Any = None, **options: Any) -> Any:
        if self is watched:
            said.append((query, values))
        return sound(self, query, values, **options)

    async def scenario() -> None:
        nonlocal watched
        async with opened(database) as store:
            fence = await begun(store, ALICE, "r")
            assert store._sessions is not None
            watched = store._sessions.writer._connection
            monkeypatch.setattr(Connection, "execute", execute)
            assert await store.commit(fence, answer(3)) == ()
            assert await store.commit(fence, batch(4, hold("h", 1, line()))) == [Granted(0, (), False)]
            monkeypatch.undo()
            assert [query for query, _ in said] == [writer._APPEND] * 2
            assert said[0][1][-1] is None

    asyncio.run(scenario())


# lost answers


async def a_lost_answer(dsn: str, proxy: Proxy) -> None:
    """Of a hold, a settlement, and a batch with both: what is sent again has the same answer, and counts once."""
    tokens, pace = line(soft=20), rate(burst=10)
    async with opened(proxy.dsn(dsn)) as store:
        fence = await begun(store, ALICE, "r")
        proxy.fault(b"hold-one", "lose the answer", times=2)
        assert await store.ledger.reserve(
            paced("hold-one", 4, pace, lines=(tokens,), each=(1,), most=9)
        ) == Granted(9, (), False)
        proxy.fault(b"charge", "lose the answer")
        charge = await store.ledger.reserve(hold("charge", 21, tokens, final=True))
        assert charge == Granted(0, (0,), False)
        proxy.fault(b"hold-one", "lose the answer")
        paid = await store.ledger.settle(settlement("hold-one", 7, rates=(4,), note="paid"))
        assert paid == Settled("paid", (), True, 9)
        proxy.fault(b"hold-two", "lose the answer")
        told = await store.commit(fence, batch(3, settlement("hold-one", 99), hold("hold-two", 30, tokens)))
        assert told == [paid, Granted(0, (), False)]
        proxy.fault(b"hold-two", "lose the answer")
        assert await store.commit(fence, batch(4, settlement("hold-two", 2))) == [Settled("", (), True, 0)]
        assert proxy.struck == 6
        assert await seqs(store, ALICE, "r") == [1, 2, 3, 4]
        assert await balance(store.ledger, tokens) == (30, 0)
        await granted(store.ledger, paced("rest", 6, pace))
        assert (await turned_away(store.ledger, paced("more", 1, pace))).cause == "rate"


def test_what_is_sent_again_has_the_same_answer_and_counts_once(database: str) -> None:
    with proxied(database) as proxy:
        asyncio.run(a_lost_answer(database, proxy))


def test_a_ledger_that_is_away_says_so(database: str) -> None:
    async def scenario(proxy: Proxy) -> None:
        async with opened(proxy.dsn(database), 0.3) as store:
            proxy.refuse()
            for asked in (
                lambda: store.ledger.reserve(hold("h", 1, line())),
                lambda: store.ledger.spent(ALICE, ["key"]),
                lambda: store.ledger.sweep(OPERATOR),
            ):
                with pytest.raises(LedgerUnavailable, match=r"Check (its )?address"):
                    await asked()
            proxy.accept()
            await granted(store.ledger, hold("h", 1, line()))

    with proxied(database) as proxy:
        asyncio.run(scenario(proxy))


# opening, closing and failing


def test_a_ledger_opens_its_store_and_closes_it_unless_somebody_else_opened_it(database: str) -> None:
    async def scenario() -> None:
        alone = PostgresStore(database).ledger
        with pytest.raises(LedgerUnavailable, match=r"is not open.*await store\.open\(\)"):
            await alone.reserve(hold("h", 1, line()))
        await alone.open()
        await alone.open()
        await granted(alone, hold("h", 1, line()))
        await alone.close()
        await alone.close()
        with pytest.raises(LedgerUnavailable, match="is not open"):
            await alone.reserve(hold("other", 1, line()))
        for ledger_first in (True, False):
            store = PostgresStore(database)
            for user in (store.ledger, store) if ledger_first else (store, store.ledger):
                await user.open()
            await store.ledger.close()
            assert await balance(store.ledger, line()) == (0, 1)
            await store.close()
            with pytest.raises(StoreClosed):
                await store.find(ALICE, "r")

    asyncio.run(scenario())


def test_an_operation_that_cannot_be_is_refused_alone(database: str) -> None:
    """With the reason, and without harm to what is asked beside it."""

    async def scenario() -> None:
        async with opened(database) as store:
            wrong = {
                "another tenant": hold("theirs", 1, line(account("user", GLOBEX, "eve"))),
                "no tenant": hold("nobody", 1, line(account("global")), tenant=""),
                "out of range": hold("big", 2**63, line(cap=2**63 - 1)),
                "is out of range": hold("huge", 2**80, line()),
                "Unicode": hold("nul \x00", 1, line()),
            }
            told = await asyncio.gather(
                *[store.ledger.reserve(one) for one in (*wrong.values(), hold("right", 1, line()))],
                return_exceptions=True,
            )
            for reason, error in zip(wrong, told, strict=False):
                assert isinstance(error, LedgerError), (reason, error)
                assert reason in str(error), error
            assert told[-1] == Granted(0, (), False)
            assert await balance(store.ledger, line()) == (0, 1)
            await store.ledger.forget(Forget(ACME, (line().key,)))
            most = line(cap=2**63 - 1)
            await granted(store.ledger, hold("most", 2**63 - 1, most))
            await turned_away(store.ledger, hold("more", 1, most))

    asyncio.run(scenario())


# mutants of the functions


async def _lost(dsn: str) -> None:
    with proxied(dsn) as proxy:
        await a_lost_answer(dsn, proxy)


LOCKED = "PERFORM FROM counters WHERE id = ANY (l.ids || ours) ORDER BY id FOR UPDATE;"
SEES_ALL = "PERFORM set_config('shipworthy.operator', 'on', true);\n    due"
BUDGET = "ELSIF b.budget IS NOT NULL THEN why := budget(b.budget, l); END IF;"
MUTANTS: dict[str, tuple[list[tuple[str, str]], Scenario]] = {
    "no lock": ([(LOCKED, "")], who_waits_for_a_lock_sees_what_was_done_before),
    "a cap that was read before": ([(LOCKED, "")], a_cap_that_is_set_meanwhile_counts),
    "locks in another order": (
        [(LOCKED, LOCKED.replace("ORDER BY id", "ORDER BY id DESC"))],
        whoever_waits_has_locked_nothing_further_on,
    ),
    "outside the savepoint": (
        [
            (BUDGET, "END IF;"),
            (
                "    IF fate = 'SW001' THEN",
                "    BEGIN IF fate = 'landed' AND b.budget IS NOT NULL THEN why := budget(b.budget, l); END IF;\n"
                "    EXCEPTION WHEN OTHERS THEN fate := SQLSTATE; why := SQLERRM; END; IF fate = 'SW001' THEN",
            ),
        ],
        a_refusal_in_a_group,
    ),
    "whatever the fence": (
        [(BUDGET, "END IF; IF b.budget IS NOT NULL THEN why := budget(b.budget, l); END IF;")],
        a_refusal_in_a_group,
    ),
    "no place after a savepoint": (
        [("IF (said->>'place')::bigint > 0 THEN", "IF false THEN")],
        who_is_refused_in_a_commit_keeps_its_place,
    ),
    "what expired is in the way": (
        [("due := EXISTS (SELECT FROM holds", "due := false AND EXISTS (SELECT FROM holds")],
        what_expired_makes_room_for_a_commit,
    ),
    "seen by its own tenant alone": (
        [(SEES_ALL, SEES_ALL.replace("'on'", "''"))],
        what_expired_makes_room_for_a_commit,
    ),
    "counters are left behind": ([("PERFORM tidy(l.made)", "NULL")], a_refusal_leaves_no_counter),
    "a hold is not known": ([("IF FOUND THEN RETURN answer; END IF;", "")], _lost),
    "settled twice": ([("IF h.state = 'done' THEN RETURN h.settled; END IF;", "")], _lost),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_ledger_is_caught(
    mutant: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_CROSSED", ())  # what was crossed is made again, otherwise
    changes, scenario = MUTANTS[mutant]
    dsn = made(postgres.fresh_database(), *changes)
    with pytest.raises((AssertionError, ShipworthyError, psycopg.errors.DeadlockDetected)):
        asyncio.run(scenario(dsn))


class OnPostgres(Ledgers):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn

    def make(self) -> OwnLedger:
        return PostgresStore(self._dsn).ledger


UNLAWFUL: dict[str, tuple[tuple[str, str], Law]] = {
    "who has no place there is behind": (
        ("place.nth IS NULL OR", "place.counter IS DISTINCT FROM c OR"),
        who_waits_on_another_line_is_served_in_order_too,
    ),
    "goes where others wait": (
        (" OR (said->>'fits')::boolean)", ")"),
        a_place_stays_where_only_the_order_is_in_the_way,
    ),
    "never moves": ((" OR (said->>'fits')::boolean)", " OR true)"), a_place_moves_with_its_age),
    "begins anew where it moves": (
        ("counter = c.id, tenant = c.tenant\n", "counter = c.id, tenant = c.tenant, nth = DEFAULT\n"),
        a_place_moves_with_its_age,
    ),
    "a rate is given back what time has paid": (
        (" AND (more > 0 OR h.taken >= b.idle)", ""),
        what_time_has_paid_is_not_given_back,
    ),
    "nothing is added to an idle rate": (
        ("(more > 0 OR h.taken >= b.idle)", "h.taken >= b.idle"),
        what_time_has_paid_is_not_given_back,
    ),
    "a rate is never idle": (
        ("CASE WHEN b.spent <= at * 1000 THEN at ELSE b.idle END", "0"),
        what_time_has_paid_is_not_given_back,
    ),
    "a reset forgives nothing": (
        ("u.id = ANY (h.forgiven)", "false"),
        what_was_reset_is_not_given_back,
    ),
    "a reset forgives everything": (
        ("u.id = ANY (h.forgiven)", "h.forgiven <> '{}'"),
        what_was_reset_is_not_given_back,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", UNLAWFUL)
def test_an_unlawful_ledger_is_caught(mutant: str, postgres: Postgres) -> None:
    change, law = UNLAWFUL[mutant]
    dsn = made(postgres.fresh_database(), change)
    with pytest.raises(AssertionError):
        check(law, OnPostgres(dsn))
