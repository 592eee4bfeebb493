"""Laws of paused runs that are to be looked at again by themselves: when one is due, and what changes that."""

from __future__ import annotations

import asyncio

from shipworthy.domain.events import RunParked, RunResumed
from shipworthy.domain.journal import Batch, Fence, RunFilter
from shipworthy.domain.scope import Operator
from shipworthy.errors import Fenced, HoldRefused, ShipworthyError
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.ledger.ledgers import hold, line
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    OPERATOR,
    STRANGER,
    Law,
    Workers,
    answer,
    begun,
    ending,
    parking,
    refused,
)


def waiting(seq: int, wake_at: int | None) -> Batch:
    """A batch that parks the run until then."""
    return Batch([RunParked(seq=seq, wake_at=wake_at)], {}, status="paused", wake_at=wake_at)


async def _due(store: Store, now: int, operator: Operator = OPERATOR) -> list[str]:
    return [run.run_id for run in await store.due(operator, now)]


async def a_paused_run_is_due_from_its_time_on(workers: Workers) -> None:
    """Of every tenant, the longest due first; one without a time never is."""
    store = await workers.new()
    for run_id, scope, wake_at in (
        ("b", BOB, 300),
        ("s", STRANGER, 100),
        ("a", ALICE, 200),
        ("n", ALICE, None),
    ):
        await store.commit(await begun(store, scope, run_id), waiting(3, wake_at))
    await begun(store, ALICE, "running")
    assert await _due(store, 99) == []
    assert await _due(store, 100) == ["s"]
    assert await _due(store, 299) == ["s", "a"]
    assert await _due(store, 10**12) == ["s", "a", "b"]
    assert [run.run_id for run in await store.due(OPERATOR, 10**12, 1)] == ["a", "b"]
    assert not await store.due(OPERATOR, 10**12, 3)


async def the_last_batch_says_when_a_run_is_due(workers: Workers) -> None:
    """A later time, an earlier one, or none; whoever looks at the run is told."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    await store.commit(fence, waiting(3, 100))
    for seq, (wake_at, due) in enumerate([(200, []), (50, ["r"]), (None, []), (100, ["r"])], 4):
        fence = (await store.claim(ALICE, "r")).fence
        await store.commit(fence, waiting(seq, wake_at))
        assert await _due(store, 100) == due
        [listed] = await store.list(ALICE, RunFilter())
        assert (await store.find(ALICE, "r")).wake_at == listed.wake_at == wake_at


async def a_claim_alone_leaves_a_run_due(workers: Workers) -> None:
    """Whoever took it may be dead: it is due until something is committed."""
    store = await workers.new()
    await store.commit(await begun(store, ALICE, "r"), waiting(3, 100))
    fence = (await store.claim(ALICE, "r")).fence
    assert await _due(store, 100) == ["r"]
    await store.commit(fence, Batch([RunResumed(seq=4, fence=fence.token, previous="released")], {}))
    assert await _due(store, 100) == []
    assert (await store.find(ALICE, "r")).wake_at is None


async def what_runs_or_has_ended_is_not_due(workers: Workers) -> None:
    """Whatever its batch says; and a run that is parked again is not due by what was said before."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    running = answer(3)
    running.wake_at = 50
    await store.commit(fence, running)
    assert await _due(store, 100) == []
    await store.commit(fence, parking(4))
    assert await _due(store, 100) == []
    end = ending(5)
    end.wake_at = 50
    await store.commit((await store.claim(ALICE, "r")).fence, end)
    assert await _due(store, 100) == []


async def a_run_may_begin_with_waiting(workers: Workers) -> None:
    """As one does that was brought from another store."""
    store = await workers.new()
    batch = waiting(1, 100)
    assert await store.begin(ALICE, "r", batch) is not None
    assert await _due(store, 99) == []
    assert await _due(store, 100) == ["r"]


async def a_batch_that_does_not_land_changes_no_time(workers: Workers) -> None:
    """One that is fenced, one that does not go on from the last, one whose hold is refused."""
    store, tokens = await workers.new(), line()
    stale = await begun(store, ALICE, "r")
    await store.commit(stale, waiting(3, 200))
    fence = (await store.claim(ALICE, "r")).fence
    for wrong, seq in ((stale, 4), (Fence(STRANGER, "r", fence.token, fence.key), 4), (fence, 5)):
        with refused(Fenced):
            await store.commit(wrong, waiting(seq, 50))
    full = waiting(4, 50)
    full.budget = (hold("h", 1000, tokens),)
    with refused(HoldRefused):
        await store.commit(fence, full)
    assert await _due(store, 100) == []
    assert await _due(store, 200) == ["r"]
    fits = waiting(4, 100)
    fits.budget = (hold("h", 10, tokens),)
    await store.commit(fence, fits)
    assert await _due(store, 100) == ["r"]


async def a_run_that_is_forgotten_is_not_due(workers: Workers) -> None:
    """Nor is a later one of its name; pruning leaves what waits."""
    store = await workers.new()
    for run_id in ("gone", "kept"):
        await store.commit(await begun(store, ALICE, run_id), waiting(3, 100))
    end = ending(4, joins=False)
    end.wake_at = 100
    await store.commit((await store.claim(ALICE, "gone")).fence, end)
    assert await store.prune(OPERATOR, 10**15) == 1
    await store.commit(await begun(store, ALICE, "gone"), parking(3))
    assert await _due(store, 10**12) == ["kept"]


async def many_that_are_due_come_some_at_a_time(workers: Workers) -> None:
    """What was gone on with makes room for the rest."""
    store = await workers.new()
    fences = await asyncio.gather(*[store.begin(ALICE, f"r{i}", waiting(1, i)) for i in range(600)])
    assert None not in fences
    seen: list[str] = []
    while page := await _due(store, 10**12):
        assert len(page) < 600
        claims = await asyncio.gather(*[store.claim(ALICE, run_id) for run_id in page])
        await asyncio.gather(*[store.commit(claim.fence, ending(2, joins=False)) for claim in claims])
        seen += page
    assert seen == [f"r{i}" for i in range(600)]


async def only_an_operator_is_told_what_is_due(workers: Workers) -> None:
    """A scope, and nothing at all, is no Operator."""
    store = await workers.new()
    await store.commit(await begun(store, ALICE, "r"), waiting(3, 100))
    for pretender in (ALICE, None, "operator"):
        with refused(ShipworthyError):
            await store.due(pretender, 100)  # type: ignore[arg-type]


WAITING: tuple[Law, ...] = (
    a_paused_run_is_due_from_its_time_on,
    the_last_batch_says_when_a_run_is_due,
    a_claim_alone_leaves_a_run_due,
    what_runs_or_has_ended_is_not_due,
    a_run_may_begin_with_waiting,
    a_batch_that_does_not_land_changes_no_time,
    a_run_that_is_forgotten_is_not_due,
    many_that_are_due_come_some_at_a_time,
    only_an_operator_is_told_what_is_due,
)
"""When a paused run is due."""
