"""Laws of ownership: who drives a run, and when another may."""

from __future__ import annotations

import asyncio

from shipworthy.domain.events import FORMAT, RunResumed, RunStarted
from shipworthy.domain.journal import Batch
from shipworthy.domain.messages import Text
from shipworthy.errors import Fenced, RunBusy, UnknownEvent
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    OPERATOR,
    STRANGER,
    Law,
    Workers,
    answer,
    begun,
    ending,
    parking,
    refused,
    seqs,
)


async def a_worker_may_claim_its_own_run(workers: Workers) -> None:
    """The token grows with each claim, and nobody else is said to have died."""
    store = await workers.new()
    tokens = [(await begun(store, ALICE, "r")).token]
    for _ in range(3):
        claim = await store.claim(ALICE, "r")
        assert claim.previous == "released"
        tokens.append(claim.fence.token)
    assert tokens == sorted(set(tokens))


async def a_lease_lies_ahead_of_the_clock(workers: Workers) -> None:
    """Bodies may start for a while, and the clock does not go back."""
    store = await workers.new()
    await begun(store, ALICE, "r")
    first = store.clock()
    assert store.start_by() > first
    assert store.clock() >= first
    assert store.skew >= 0


# laws of a store that several processes share


async def a_live_workers_run_is_busy(workers: Workers) -> None:
    """Nobody takes it, and its own fence goes on to hold."""
    one, two = await workers.new(), await workers.new()
    fence = await begun(one, ALICE, "r")
    with refused(RunBusy):
        await two.claim(ALICE, "r")
    assert list(await two.orphans(OPERATOR)) == []
    await one.commit(fence, answer(3))
    assert await seqs(two, ALICE, "r") == [1, 2, 3]


async def a_dead_workers_run_is_taken_over_at_once(workers: Workers) -> None:
    """Long before its lease expires; the runs that it did not drive are not touched. Where the death is not proven, as
    by a session that ended, it is said to have expired, so that what may still be under way is waited for."""
    one, two = await workers.new(lease_ttl=3600), await workers.new()
    await begun(one, ALICE, "r")
    await begun(one, STRANGER, "s")
    await begun(two, ALICE, "mine")
    await workers.kill(one)
    assert {summary.run_id for summary in await two.orphans(OPERATOR)} == {"r", "s", "mine"}
    claim = await two.claim(ALICE, "r")
    assert claim.previous in ("dead", "expired")
    await two.commit(claim.fence, answer(3))
    assert {summary.run_id for summary in await two.orphans(OPERATOR)} == {"r", "s", "mine"}
    assert (await two.claim(STRANGER, "s")).previous == claim.previous


async def a_stopped_workers_run_is_taken_over_when_its_lease_expires(workers: Workers) -> None:
    """And when it goes on, it may start no body, and its commits are Fenced."""
    one, two = await workers.new(lease_ttl=0.5, clock_skew=0.3), await workers.new(clock_skew=0.3)
    zombie = await begun(one, ALICE, "r")
    await workers.freeze(one)
    assert one.start_by() > two.clock()
    with refused(RunBusy):
        await two.claim(ALICE, "r")
    await asyncio.sleep((one.start_by() + one.skew + 100 - two.clock()) / 1000)
    assert [summary.run_id for summary in await two.orphans(OPERATOR)] == ["r"]
    claim = await two.claim(ALICE, "r")
    assert claim.previous == "expired"
    assert one.start_by() < one.clock()
    with refused(Fenced):
        await one.commit(zombie, answer(3))
    await two.commit(claim.fence, answer(3))
    assert await seqs(one, ALICE, "r") == [1, 2, 3]


async def a_claim_that_commits_nothing_does_not_hide_a_stopped_worker(workers: Workers) -> None:
    """Whoever claims next, after its death or its close, is told of the lease that expired; a commit ends that."""
    one, two = await workers.new(lease_ttl=0.3, clock_skew=0.0), await workers.new(clock_skew=0.0)
    three = await workers.new(clock_skew=0.0)
    await begun(one, ALICE, "r")
    await workers.freeze(one)
    await asyncio.sleep((one.start_by() + one.skew + 100 - two.clock()) / 1000)
    assert (await two.claim(ALICE, "r")).previous == "expired"
    assert (await two.claim(ALICE, "r")).previous == "expired"
    await workers.kill(two)
    claim = await three.claim(ALICE, "r")
    assert claim.previous == "expired"
    await three.commit(claim.fence, answer(3))
    assert (await three.claim(ALICE, "r")).previous == "released"


async def a_lease_is_renewed(workers: Workers) -> None:
    """A worker that lives keeps its runs, however long they take."""
    one, two = await workers.new(lease_ttl=0.5, clock_skew=0.5), await workers.new(clock_skew=0.5)
    await begun(one, ALICE, "r")
    first = one.start_by()
    while two.clock() <= first + two.skew:
        with refused(RunBusy):
            await two.claim(ALICE, "r")
        await asyncio.sleep(0.02)
    assert one.start_by() > first


async def closing_releases(workers: Workers) -> None:
    """What a worker drove when it was closed is anybody's; it may be inside a body still, as a stopped one may."""
    one, two = await workers.new(), await workers.new()
    await begun(one, ALICE, "r")
    await one.close()
    assert [summary.run_id for summary in await two.orphans(OPERATOR)] == ["r"]
    assert (await two.claim(ALICE, "r")).previous == "expired"


async def letting_go_makes_a_run_anybodys(workers: Workers) -> None:
    """Only whoever holds the fence can; the next owner cannot know what is still under way."""
    one, two = await workers.new(), await workers.new()
    fence = await begun(one, ALICE, "r")
    await two.release(fence)
    await one.commit(fence, answer(3))
    await one.release(fence)
    with refused(Fenced):
        await one.commit(fence, answer(4))
    assert (await two.claim(ALICE, "r")).previous == "expired"


async def parking_and_ending_release(workers: Workers) -> None:
    """The owner goes on only after a claim of its own; another worker may be first."""
    one, two = await workers.new(), await workers.new()
    fence = await begun(one, ALICE, "r")
    await one.commit(fence, parking(3))
    assert list(await two.orphans(OPERATOR)) == []
    with refused(Fenced):
        await one.commit(fence, answer(4))
    claim = await two.claim(ALICE, "r")
    assert claim.previous == "released"
    resumed = RunResumed(seq=4, at=1, fence=claim.fence.token, previous=claim.previous)
    await two.commit(claim.fence, Batch([resumed], {}))
    assert (await one.find(ALICE, "r")).status == "running"
    with refused(RunBusy):
        await one.claim(ALICE, "r")
    await two.commit(claim.fence, ending(5))
    assert (await one.claim(ALICE, "r")).previous == "released"


async def a_newer_releases_events_are_never_skipped(workers: Workers) -> None:
    """A run that this release cannot read whole is not read at all."""
    store = await workers.new()
    started = RunStarted(seq=1, run_id="r", tenant="acme", prompt=(Text("Go."),), format=FORMAT + 1)
    assert await store.begin(ALICE, "r", Batch([started], {})) is not None
    with refused(UnknownEvent):
        await store.read(ALICE, "r")


async def two_workers_see_one_session(workers: Workers) -> None:
    """The order of ends is one for all workers."""
    one, two = await workers.new(), await workers.new()
    fences = [(store, await begun(store, ALICE, f"r{i}")) for i, store in enumerate((one, two) * 8)]
    await asyncio.gather(*[store.commit(fence, ending(3)) for store, fence in fences])
    order = list(await one.session(ALICE))
    assert sorted(order) == sorted(f"r{i}" for i in range(16))
    assert list(await two.session(ALICE)) == order


LEASES: tuple[Law, ...] = (
    a_worker_may_claim_its_own_run,
    a_lease_lies_ahead_of_the_clock,
)
"""What every store keeps."""

SHARED_LEASES: tuple[Law, ...] = (
    a_live_workers_run_is_busy,
    a_dead_workers_run_is_taken_over_at_once,
    a_stopped_workers_run_is_taken_over_when_its_lease_expires,
    a_claim_that_commits_nothing_does_not_hide_a_stopped_worker,
    a_lease_is_renewed,
    closing_releases,
    letting_go_makes_a_run_anybodys,
    parking_and_ending_release,
    a_newer_releases_events_are_never_skipped,
    two_workers_see_one_session,
)
"""What a store keeps besides that several processes share."""
