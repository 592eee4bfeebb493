"""What is SQLite's own in its ledger: several processes, one transaction with the journal, power that goes off."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from shipworthy.adapters.sqlite import SqliteStore, budget, connection, operations
from shipworthy.adapters.sqlite.workers import Worker
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import BudgetOp, Forget, Granted, Hold, Outcome, Refused
from shipworthy.errors import Fenced, HoldRefused, LedgerUnavailable, StoreClosed
from shipworthy.rules import ledger as rules
from shipworthy.rules.ledger import cost
from shipworthy.testing.contracts.ledger import CLOCK_LAWS, Law, check, expiry, waiting
from shipworthy.testing.contracts.ledger.ledgers import (
    ACME,
    DAY,
    OPERATOR,
    TODAY,
    balance,
    expired,
    granted,
    hold,
    line,
    settlement,
    turned_away,
)
from shipworthy.testing.contracts.store.workers import ALICE, answer, begun, seqs
from tests.contracts.test_ledger import OnSqlite
from tests.stores.test_sqlite_power import new_vfs
from tests.stores.test_sqlite_processes import children


async def opened(path: Path, **options: str) -> SqliteStore:
    store = SqliteStore(path, **options)  # type: ignore[arg-type]
    await store.open()
    return store


def batch(seq: int, *does: BudgetOp) -> Batch:
    made = answer(seq)
    made.budget = does
    return made


# several processes

RESERVE = """
from shipworthy.adapters.sqlite import budget, connection
from shipworthy.domain.ledger import Granted
from shipworthy.testing.contracts.ledger.ledgers import hold, line
async def main():
    store = SqliteStore(path)
    await store.open()
    if me.startswith("broken"):
        sound, other = budget.look, connection.connect(connection.Database(path), reads=True)
        budget.look = lambda cursor, hold, at: sound(other.cursor(), hold, at)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    asking = [store.ledger.reserve(hold(f"{me}-{i}", 10, line(cap=500))) for i in range(100)]
    answers = await asyncio.gather(*asking)
    await store.close()
    say(sum(isinstance(one, Granted) for one in answers))
asyncio.run(main())
"""


def reserved(path: Path, *names: str) -> int:
    """How many of a hundred holds of each process were granted; fifty fit in all."""

    async def first() -> None:
        store = await opened(path)
        await granted(store.ledger, hold("first", 0, line(cap=500)))
        await store.close()

    async def held() -> tuple[int, int]:
        store = await opened(path)
        found = await balance(store.ledger, line(cap=500))
        await store.close()
        return found

    asyncio.run(first())
    with children(RESERVE, path, *names) as asking:
        for child in asking:
            assert child.hear() == ["ready"]
        for child in asking:
            child.tell()
        count = sum([child.hear()[0] for child in asking])
    assert asyncio.run(held()) == (0, 10 * count)
    return count


def test_two_processes_never_pass_a_cap(tmp_path: Path) -> None:
    assert reserved(tmp_path / "ledger.db", "a", "b") == 50


def test_a_ledger_that_looks_outside_its_transaction_passes_the_cap(tmp_path: Path) -> None:
    assert reserved(tmp_path / "ledger.db", "broken-a", "broken-b") > 50


def test_counters_holds_and_caps_outlive_their_process(tmp_path: Path) -> None:
    tokens = line(soft=50)

    async def before() -> None:
        store = await opened(tmp_path / "ledger.db")
        await granted(store.ledger, hold("spent", 60, tokens))
        assert (await store.ledger.settle(settlement("spent", 55))).warned == (0,)
        await granted(store.ledger, hold("held", 30, tokens))
        await store.ledger.set_cap(OPERATOR, tokens.account, "tokens", "day", 90, "Ada", "a better plan")
        await store.close()

    async def after() -> None:
        store = await opened(tmp_path / "ledger.db")
        assert await balance(store.ledger, tokens) == (55, 30)
        assert (await store.ledger.settle(settlement("spent", 1))).warned == (0,)
        assert await turned_away(store.ledger, hold("more", 6, tokens)) == Refused("held", 0, 90, 55, 30, 6)
        assert [change.why for change in await store.ledger.changes(OPERATOR, 9)] == ["a better plan"]
        await store.close()

    asyncio.run(before())
    asyncio.run(after())


# one transaction with the journal


async def torn_refusal(path: Path) -> None:
    """A settlement, a hold that is refused and an event, in one batch and among the batches of others."""
    store, tokens = await opened(path), line(soft=20)
    fences = [await begun(store, ALICE, f"r{i}") for i in range(8)]
    await store.commit(fences[2], batch(3, hold("mine", 50, tokens)))
    stale = Fence(ALICE, "r5", 7, fences[5].key)
    fences[5] = stale
    asked = [batch(3, hold(f"h{i}", 1, tokens)) for i in range(8)]
    asked[2] = batch(4, settlement("mine", 30), hold("too-much", 71, tokens))
    told = await asyncio.gather(
        *[store.commit(fence, one) for fence, one in zip(fences, asked, strict=True)], return_exceptions=True
    )
    for i, outcome in enumerate(told):
        error = {2: HoldRefused, 5: Fenced}.get(i)
        assert type(outcome) is error if error else outcome == [Granted(0, (), True)], (i, outcome)
        assert len(await seqs(store, ALICE, f"r{i}")) == (2 if i == 5 else 3)
    assert await balance(store.ledger, tokens) == (0, 56)
    assert (await store.ledger.settle(settlement("mine", 40))).warned == (0,)
    await store.close()


def test_a_refused_hold_undoes_its_batch_and_no_other(tmp_path: Path) -> None:
    asyncio.run(torn_refusal(tmp_path / "ledger.db"))


def test_without_a_savepoint_a_refused_hold_leaves_half_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit(cursor: apsw.Cursor, worker: Worker, fence: Fence, entry: budget.Entry) -> list[Outcome]:
        operations.commit(cursor, worker, fence, entry)
        return [budget._apply(cursor, operation) for operation in entry.budget]

    monkeypatch.setattr(budget, "commit", commit)
    with pytest.raises(AssertionError):
        asyncio.run(torn_refusal(tmp_path / "ledger.db"))


def test_a_batch_without_operations_costs_no_statement_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await opened(tmp_path / "ledger.db")
        fence = await begun(store, ALICE, "r")
        assert store._writer is not None
        assert store._writer._connection is not None
        statements: list[str] = []

        def trace(_: object, statement: str, __: object) -> bool:
            statements.append(statement.split()[0])
            return True

        store._writer._connection.exec_trace = trace
        await store.commit(fence, answer(3))
        assert statements == ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
        statements.clear()
        await store.commit(fence, batch(4, hold("h", 1, line())))
        assert "SAVEPOINT" in statements
        await store.close()

    asyncio.run(scenario())


# power that goes off


def cuts(folder: Path) -> Iterator[tuple[int, tuple[int, int]]]:
    """Cut the power before each write and sync of a few commits that bring a hold. Of what is left: how many events
    came with a hold, and what is spent and held."""
    vfs, name = new_vfs()
    images: list[Path] = []

    def cut(operation: str, path: str) -> None:
        image = folder / f"image-{len(images)}"
        image.mkdir()
        vfs.lose_power(image)
        images.append(image)

    async def scenario() -> None:
        store = await opened(folder / "ledger.db", vfs=name)
        fence = await begun(store, ALICE, "r")
        vfs.before = cut
        for i in range(6):
            await store.commit(fence, batch(3 + 2 * i, hold(f"h{i}", 10, line())))
            await store.commit(fence, batch(4 + 2 * i, settlement(f"h{i}", 3)))
        await store.close()

    async def left(image: Path) -> tuple[int, tuple[int, int]]:
        store = await opened(image / "ledger.db", durability="process")
        found = len(await seqs(store, ALICE, "r")) - 2, await balance(store.ledger, line())
        await store.close()
        return found

    asyncio.run(scenario())
    for image in images:
        yield asyncio.run(left(image))


def torn(folder: Path) -> list[tuple[int, tuple[int, int]]]:
    """The cuts after which events and counters do not agree."""
    found = list(cuts(folder))
    assert {events for events, _ in found} == set(range(13)), "not every commit was cut"
    return [one for one in found if one[1] != (one[0] // 2 * 3, one[0] % 2 * 10)]


def test_a_hold_and_its_events_survive_the_loss_of_power_together(tmp_path: Path) -> None:
    assert torn(tmp_path) == []


def test_the_proof_catches_a_store_that_writes_them_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def commit(self: SqliteStore, fence: Fence, batch: Batch) -> None:
        for operation in batch.budget:
            await self._write(lambda cursor, operation=operation: budget._apply(cursor, operation))
        batch.budget = ()
        await sound(self, fence, batch)

    sound = SqliteStore.commit
    monkeypatch.setattr(SqliteStore, "commit", commit)
    assert torn(tmp_path)


def test_who_asks_in_vain_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that waits write whenever it asks again: its place is renewed once a second."""
    ahead, now = 0, budget.now
    monkeypatch.setattr(budget, "now", lambda: now() + ahead)

    async def scenario() -> None:
        nonlocal ahead
        vfs, name = new_vfs()
        written: list[str] = []
        store = await opened(tmp_path / "ledger.db", vfs=name)
        await granted(store.ledger, hold("fills", 100, line()))
        waits = hold("waits", 1, line(), patient=True)
        await turned_away(store.ledger, waits)
        vfs.before = lambda operation, path: written.append(operation)
        for _ in range(3):
            await turned_away(store.ledger, waits)
            await turned_away(store.ledger, hold("asks", 1, line()))
            await turned_away(store.ledger, hold("never", 101, line()))
        assert written == []
        ahead += budget._REFRESHED + 1
        await turned_away(store.ledger, waits)
        assert written != []
        await store.close()

    asyncio.run(scenario())


# what is over


def test_sweeping_goes_in_small_steps_between_which_others_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "AT_ONCE", 10)

    async def scenario() -> None:
        store = await opened(tmp_path / "ledger.db")
        holds = [hold(f"h{i}", 1, line(), ttl=0) for i in range(95)]
        await asyncio.gather(*[store.ledger.reserve(one) for one in holds])
        fence = await begun(store, ALICE, "live")
        sweeping = asyncio.ensure_future(store.ledger.sweep(OPERATOR))
        seq = 3
        while not sweeping.done():
            await store.commit(fence, answer(seq))
            seq += 1
        assert await sweeping == 95
        assert seq > 5, "the live run waited for all of it"
        assert await balance(store.ledger, line()) == (95, 0)
        await store.close()

    asyncio.run(scenario())


def test_what_is_old_is_dropped_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settled holds after a day; counters of windows that were over 400 days ago, unless something is held there."""
    ahead, now = 0, budget.now
    monkeypatch.setattr(budget, "now", lambda: now() + ahead)

    async def scenario() -> None:
        nonlocal ahead
        store = await opened(tmp_path / "ledger.db")
        ledger = store.ledger
        today, total = line(), line(window="total", start=0)
        old, busy = line("bob", start=TODAY - 402 * DAY), line("carol", start=TODAY - 402 * DAY)
        for i, counter in enumerate((today, total, old, busy)):
            await granted(ledger, hold(f"h{i}", 9, counter))
            await ledger.settle(settlement(f"h{i}", 5))
        await granted(ledger, hold("held", 7, busy))
        await granted(ledger, hold("lost", 8, today, ttl=1000))
        ahead += 2000
        await expired(ledger, 1)
        assert [await balance(ledger, one) for one in (today, total, old)] == [(13, 0), (5, 0), (0, 0)]
        assert await balance(ledger, busy) == (5, 7)
        assert (await ledger.settle(settlement("h0", 1))).known
        ahead += budget.DAY
        await ledger.sweep(OPERATOR)
        for name in ("h0", "lost"):
            assert not (await ledger.settle(settlement(name, 1))).known
        assert (await ledger.settle(settlement("held", 1))).known
        assert await balance(ledger, today) == (13, 0)
        await store.close()

    asyncio.run(scenario())


async def late_settlement(path: Path) -> tuple[int, int]:
    """What is spent and held of a counter that came after one of the same key, when a hold on the first is settled."""
    store = await opened(path)
    await granted(store.ledger, hold("late", 50, line()))
    await store.ledger.forget(Forget(ACME, (line().key,)))
    await granted(store.ledger, hold("next", 10, line()))
    await store.ledger.settle(settlement("late", 40))
    found = await balance(store.ledger, line())
    await store.close()
    return found


def test_a_late_settlement_is_not_charged_to_a_counter_that_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asyncio.run(late_settlement(tmp_path / "ledger.db")) == (0, 10)
    create = connection._create

    def reusing(database: apsw.Connection, where: connection.Database) -> None:
        create(database, where)
        database.execute("DROP TABLE counters")
        database.execute("""CREATE TABLE counters (id INTEGER PRIMARY KEY, key TEXT UNIQUE, level TEXT, tenant TEXT,
        name TEXT, unit TEXT, "window" TEXT, start INTEGER, "end" INTEGER, spent INTEGER DEFAULT 0,
        held INTEGER DEFAULT 0, warned INTEGER DEFAULT 0)""")

    monkeypatch.setattr(connection, "_create", reusing)
    assert asyncio.run(late_settlement(tmp_path / "mutant.db")) != (0, 10)


# opening, closing and failing


def test_a_ledger_opens_its_store_and_closes_it_unless_somebody_else_opened_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        alone = SqliteStore(tmp_path / "ledger.db").ledger
        await alone.open()
        await alone.open()
        await granted(alone, hold("h", 1, line()))
        await alone.close()
        await alone.close()
        with pytest.raises(LedgerUnavailable, match="was closed"):
            await alone.reserve(hold("other", 1, line()))
        for ledger_first in (True, False):
            store = SqliteStore(tmp_path / "ledger.db")
            for user in (store.ledger, store) if ledger_first else (store, store.ledger):
                await user.open()
            await store.ledger.close()
            assert await balance(store.ledger, line()) == (0, 1)
            await store.close()
            with pytest.raises(StoreClosed):
                await store.find(ALICE, "r")

    asyncio.run(scenario())
    assert os.listdir(tmp_path / "ledger.db-workers") == []


def test_a_ledger_says_what_is_wrong_with_its_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "diary.db").write_text("Dear diary, this is not a database. " * 40)

    async def scenario() -> None:
        with pytest.raises(LedgerUnavailable, match=r"diary\.db is not an SQLite database.*another path"):
            await SqliteStore(tmp_path / "diary.db").ledger.open()
        closed = SqliteStore(tmp_path / "ledger.db").ledger
        with pytest.raises(LedgerUnavailable, match=r"is not open.*await store\.open\(\)"):
            await closed.spent(ALICE, ["key"])
        store = SqliteStore(tmp_path / "ledger.db", busy_timeout=0.05)
        await store.ledger.open()
        other = apsw.Connection(str(tmp_path / "ledger.db"))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match=r"was held by another program.*busy_timeout"):
            await store.ledger.reserve(hold("h", 1, line()))
        other.execute("ROLLBACK")
        other.close()
        await granted(store.ledger, hold("h", 1, line()))
        await store.ledger.close()

    asyncio.run(scenario())


def test_what_cannot_be_stored_is_refused_alone(tmp_path: Path) -> None:
    """A surrogate in a hold's id, an amount beyond 64 bits."""

    async def scenario() -> None:
        store = await opened(tmp_path / "ledger.db")
        asked = [hold(f"h{i}", 1, line()) for i in range(8)]
        asked[2], asked[5] = hold("\ud800", 1, line()), hold("big", 2**70, line(cap=2**80))
        told = await asyncio.gather(*[store.ledger.reserve(one) for one in asked], return_exceptions=True)
        for i, outcome in enumerate(told):
            assert isinstance(outcome, LedgerUnavailable if i in (2, 5) else Granted), (i, outcome)
        assert await balance(store.ledger, line()) == (0, 6)
        await store.close()

    asyncio.run(scenario())


def test_reserving_and_settling_scan_no_table(tmp_path: Path) -> None:
    database = connection.Database(str(tmp_path / "ledger.db"))
    opened = connection.prepare(database)
    questions = [budget._KNOWN, budget._FIND, budget._OVERDUE, budget._look(4), budget._unwarned(4)]
    changes = [budget._HOLD, budget._SPEND, budget._MOVE, budget._DONE, budget._TOO_LATE]
    for statement in (*questions, *changes):
        asked = set(re.findall(r"\?\d", statement)) or statement.count("?")
        values = (None,) * (asked if isinstance(asked, int) else len(asked))
        plan = connection.rows(opened.cursor(), f"EXPLAIN QUERY PLAN {statement}", values)
        scans = [what for *_, what in plan if what.startswith("SCAN") and "CONSTANT" not in what]
        assert all(what.split()[1] in ("a", "asked") for what in scans), (statement, plan)
    opened.close()


# mutants of the laws


def writes_nothing_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "write_off", lambda cursor, counters: None)


def gives_back_what_time_has_paid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "corrected", lambda rate, was, used, *_: cost(rate, used) - cost(rate, was))


def waits_wherever_it_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "is_full", lambda refused: True)


def never_moves_its_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "is_full", lambda refused: False)


def stands_behind_all_others_on_a_line(patch: pytest.MonkeyPatch) -> None:
    decide = budget._decide

    def mutant(cursor: apsw.Cursor, hold: Hold, standings: Any, mine: int | None, at: int) -> Any:
        behind = [
            one if one.first in (None, mine) else msgspec.structs.replace(one, first=-1) for one in standings
        ]
        return decide(cursor, hold, behind, mine, at)

    patch.setattr(budget, "_decide", mutant)


def believes_a_clock_that_was_ahead(patch: pytest.MonkeyPatch) -> None:
    """It leaves everything for as long as that clock had it."""
    look = budget._look
    patch.setattr(budget, "_look", lambda lines: look(lines).replace("BETWEEN ? AND ?", ">= min(?, ?)"))
    patch.setattr(budget, "_TOO_LATE", "SELECT ?1, ?2")
    patch.setattr(rules, "owing", lambda rate, owed, now: owed)
    patch.setattr(budget, "owing", rules.owing)


UNLAWFUL = [
    (writes_nothing_off, expiry.what_was_reset_is_not_given_back),
    (gives_back_what_time_has_paid, waiting.what_time_has_paid_is_not_given_back),
    (waits_wherever_it_is_refused, waiting.a_place_stays_where_only_the_order_is_in_the_way),
    (never_moves_its_place, waiting.a_place_moves_with_its_age),
    (stands_behind_all_others_on_a_line, waiting.who_waits_on_another_line_is_served_in_order_too),
    *[(believes_a_clock_that_was_ahead, law) for law in CLOCK_LAWS[:4]],
]


@pytest.mark.parametrize(("mutant", "law"), UNLAWFUL, ids=lambda each: each.__name__)
def test_an_unlawful_ledger_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], law: Law, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check(law, OnSqlite(monkeypatch, tmp_path / "ledger.db"))
