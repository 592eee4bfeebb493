"""Laws of a store's own ledger: what a batch does to it lands with the batch, or not at all."""

from __future__ import annotations

import asyncio

from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.ledger import BudgetOp, Forget, Granted, Refused, Settled
from shipworthy.errors import Fenced, HoldRefused
from shipworthy.ports.store import Store
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.ledger.ledgers import balance, granted, hold, line, same, settlement
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    Law,
    Workers,
    answer,
    begun,
    ending,
    refused,
    seqs,
)


async def a_hold_lands_with_its_batch(workers: Workers) -> None:
    """The commit gives what became of it, and it is settled with a later batch, or without one."""
    store, tokens = await workers.new(), line()
    fence = await begun(store, ALICE, "r")
    (answered,) = await store.commit(
        fence, _with(answer(3), hold("h", 0, tokens, each=(1,), least=1, most=1000))
    )
    assert isinstance(answered, Granted)
    assert answered.units == 100
    assert await balance(store.ledger, tokens) == (0, 100)
    (settled,) = await store.commit(fence, _with(answer(4), settlement("h", 20, note="n")))
    assert isinstance(settled, Settled)
    assert (settled.known, settled.note) == (True, "n")
    await store.commit(fence, _with(answer(5), hold("other", 30, tokens)))
    await store.ledger.settle(settlement("other", 10))
    assert await balance(store.ledger, tokens) == (30, 0)
    assert await seqs(store, ALICE, "r") == [1, 2, 3, 4, 5]


async def a_batch_without_operations_has_no_outcomes(workers: Workers) -> None:
    """Neither has one that begins a run."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    assert list(await store.commit(fence, answer(3))) == []
    assert await balance(store.ledger, line()) == (0, 0)


async def operations_are_done_in_their_order(workers: Workers) -> None:
    """What a settlement frees, the hold behind it in the batch may use; counters are forgotten last."""
    store, tokens = await workers.new(), line(soft=80)
    run = line(account("run", ALICE.tenant, "r"), window="run", start=0)
    fence = await begun(store, ALICE, "r")
    await store.commit(fence, _with(answer(3), hold("h1", 100, tokens, run)))
    operations = settlement("h1", 80, 0), hold("h2", 20, tokens)
    settled, answered = await store.commit(fence, _with(answer(4), *operations))
    assert isinstance(settled, Settled)
    assert settled.warned == (0,)
    assert isinstance(answered, Granted)
    last = _with(ending(5), settlement("h2", 1), Forget(ALICE.tenant, (run.key,)))
    outcomes = await store.commit(fence, last)
    assert (len(outcomes), outcomes[1]) == (2, None)
    assert await balance(store.ledger, tokens) == (81, 0)
    assert await balance(store.ledger, run) == (0, 0)


async def a_refused_hold_writes_nothing(workers: Workers) -> None:
    """No event lands, and the error carries the refusal. What the batch settled before may be settled already: with
    the batch that comes in its place it is, once."""
    store, tokens = await workers.new(), line()
    fence = await begun(store, ALICE, "r")
    await store.commit(fence, _with(answer(3), hold("h1", 50, tokens)))
    await granted(store.ledger, hold("others", 40, tokens))
    cost = settlement("h1", 30, note="n")
    refusal = await _refusal(store, fence, _with(ending(4), cost, hold("h2", 31, tokens)))
    assert refusal == Refused("held", 0, 100, 30, 40, 31)
    assert await seqs(store, ALICE, "r") == [1, 2, 3]
    assert (await store.find(ALICE, "r")).status == "running"
    assert not (await store.ledger.settle(settlement("h2", 31))).known
    (settled,) = await store.commit(fence, _with(answer(4), cost))
    assert isinstance(settled, Settled)
    assert (settled.known, settled.note) == (True, "n")
    assert await balance(store.ledger, tokens) == (30, 40)
    assert await seqs(store, ALICE, "r") == [1, 2, 3, 4]


async def a_refused_hold_may_wait_its_turn(workers: Workers) -> None:
    """A patient hold keeps its place though nothing of its batch is written, and comes with a later one."""
    store, tokens = await workers.new(), line()
    fence = await begun(store, ALICE, "r")
    await granted(store.ledger, hold("fills", 100, tokens))
    waiting = _with(answer(3), hold("waits", 60, tokens, patient=True))
    with refused(HoldRefused):
        await store.commit(fence, waiting)
    await store.ledger.release(ALICE.tenant, "fills")
    assert isinstance(await store.ledger.reserve(hold("late", 1, tokens)), Refused)
    await store.commit(fence, waiting)
    assert await balance(store.ledger, tokens) == (0, 60)


async def a_fenced_batch_leaves_the_ledger_alone(workers: Workers) -> None:
    """Neither its hold nor its settlement nor its forgetting happens, whether its owner or its number is wrong."""
    store, tokens, user = await workers.new(), line(), line("bob")
    old = await begun(store, ALICE, "r")
    await store.commit(old, _with(answer(3), hold("h1", 50, tokens, user)))
    new = (await store.claim(ALICE, "r")).fence
    operations = settlement("h1", 1, 1), Forget(ALICE.tenant, (user.key,)), hold("h2", 10, tokens)
    for fence, seq in ((old, 4), (new, 3), (new, 5)):
        with refused(Fenced):
            await store.commit(fence, _with(answer(seq), *operations))
    assert await balance(store.ledger, tokens) == (0, 50)
    assert await balance(store.ledger, user) == (0, 50)
    await store.commit(new, _with(answer(4), *operations))
    assert await balance(store.ledger, tokens) == (1, 10)


async def operations_that_come_again_count_once(workers: Workers) -> None:
    """As they do when a batch's fate was unknown and another took its place."""
    store, tokens = await workers.new(), line(soft=20)
    fence = await begun(store, ALICE, "r")
    asking, cost = hold("h", 0, tokens, each=(1,), least=1, most=40), settlement("h", 30)
    firsts = [
        (await store.commit(fence, _with(answer(seq), one)))[0] for seq, one in ((3, asking), (4, cost))
    ]
    agains = [
        (await store.commit(fence, _with(answer(seq), one)))[0] for seq, one in ((5, asking), (6, cost))
    ]
    for first, again in zip(firsts, agains, strict=True):
        assert first is not None
        assert again is not None
        assert same(first, again)
    assert await balance(store.ledger, tokens) == (30, 0)


async def many_runs_at_once_never_pass_the_cap(workers: Workers) -> None:
    """Of 64 that bring a hold, as many land as fit; the others write nothing and stand in no one's way."""
    store, tokens = await workers.new(), line(cap=700)
    fences = [await begun(store, ALICE, f"r{n}") for n in range(64)]
    outcomes = await asyncio.gather(
        *[store.commit(f, _with(answer(3), hold(f"h{n}", 20, tokens))) for n, f in enumerate(fences)],
        return_exceptions=True,
    )
    landed = [not isinstance(outcome, BaseException) for outcome in outcomes]
    assert sum(landed) == 35
    assert all(isinstance(o, HoldRefused) for o in outcomes if isinstance(o, BaseException)), outcomes
    assert await balance(store.ledger, tokens) == (0, 700)
    for n, there in enumerate(landed):
        assert len(await store.read(ALICE, f"r{n}")) == (3 if there else 2)
        await store.commit(fences[n], _with(answer(4 if there else 3), settlement(f"h{n}", 1)))
    assert await balance(store.ledger, tokens) == (35, 0)


async def a_cancelled_commit_and_its_hold_land_together(workers: Workers) -> None:
    """Or neither of them does."""
    store, tokens = await workers.new(), line(cap=10**6)
    held = 0
    for n in range(12):
        fence = await begun(store, ALICE, f"r{n}")
        task = asyncio.ensure_future(store.commit(fence, _with(answer(3), hold(f"h{n}", 7, tokens))))
        for _ in range(n % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        held += 7 if len(await store.read(ALICE, f"r{n}")) == 3 else 0
        assert await balance(store.ledger, tokens) == (0, held)


# laws of a store that several processes share


async def another_worker_sees_what_a_batch_reserved(workers: Workers) -> None:
    """Also when the worker that reserved it has died."""
    one, two = await workers.new(), await workers.new()
    tokens = line()
    fence = await begun(one, ALICE, "r")
    asking = hold("h", 80, tokens)
    (first,) = await one.commit(fence, _with(answer(3), asking))
    await workers.kill(one)
    assert await balance(two.ledger, tokens) == (0, 80)
    claimed = (await two.claim(ALICE, "r")).fence
    with refused(HoldRefused):
        await two.commit(claimed, _with(answer(4), hold("other", 21, tokens)))
    again, settled = await two.commit(claimed, _with(answer(4), asking, settlement("h", 10)))
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert same(first, again)
    assert isinstance(settled, Settled)
    assert await balance(two.ledger, tokens) == (10, 0)


async def _refusal(store: Store, fence: Fence, batch: Batch) -> object:
    try:
        await store.commit(fence, batch)
    except HoldRefused as error:
        return error.refused
    raise AssertionError("HoldRefused was not raised.")


def _with(batch: Batch, *operations: BudgetOp) -> Batch:
    batch.budget = operations
    return batch


BUDGET: tuple[Law, ...] = (
    a_hold_lands_with_its_batch,
    a_batch_without_operations_has_no_outcomes,
    operations_are_done_in_their_order,
    a_refused_hold_writes_nothing,
    a_refused_hold_may_wait_its_turn,
    a_fenced_batch_leaves_the_ledger_alone,
    operations_that_come_again_count_once,
    many_runs_at_once_never_pass_the_cap,
    a_cancelled_commit_and_its_hold_land_together,
)
"""Reserving and settling with a batch."""

SHARED_BUDGET: tuple[Law, ...] = (another_worker_sees_what_a_batch_reserved,)
"""The same, after the death of a worker."""
