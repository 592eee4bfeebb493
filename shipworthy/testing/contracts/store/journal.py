"""Laws of a store's journal: what was committed is there, whole, and nothing else."""

from __future__ import annotations

import asyncio

from shipworthy.domain.events import AnyEvent, ModelAnswered, ModelRequested
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.messages import Stored
from shipworthy.domain.scope import Scope
from shipworthy.errors import Fenced, JournalDamaged, RunNotFound
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    STRANGER,
    Law,
    Workers,
    answer,
    begun,
    digest_of,
    ending,
    opening,
    refused,
    seqs,
)


async def a_run_reads_back_as_it_was_written(workers: Workers) -> None:
    """Every event comes back equal, in order."""
    store = await workers.new()
    first, second = opening(ALICE, "r"), answer(3)
    fence = await store.begin(ALICE, "r", first)
    assert fence is not None
    await store.commit(fence, second)
    assert await store.read(ALICE, "r") == first.events + second.events


async def a_cancelled_begin_gives_its_fence_first(workers: Workers) -> None:
    """And the task is cancelled where it waits next: no run is begun that nobody can end."""
    store = await workers.new()
    held: list[Fence | None] = []

    async def begin_and_wait() -> None:
        held.append(await store.begin(ALICE, "r", opening(ALICE, "r")))
        await asyncio.sleep(60)

    task = asyncio.create_task(begin_and_wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    (fence,) = held
    assert fence is not None
    await store.commit(fence, answer(3))


async def a_second_begin_changes_nothing(workers: Workers) -> None:
    """The same id of the same tenant gives None, whoever the user is; another tenant may use it."""
    store = await workers.new()
    await begun(store, ALICE, "r")
    assert await store.begin(ALICE, "r", opening(ALICE, "r", at=9)) is None
    assert await store.begin(BOB, "r", opening(BOB, "r", at=9)) is None
    assert (await store.find(ALICE, "r")).started_at == 1000
    assert (await store.find(ALICE, "r")).scope == ALICE
    assert await store.begin(STRANGER, "r", opening(STRANGER, "r")) is not None


async def a_run_begins_with_the_token_it_is_given(workers: Workers) -> None:
    """And goes on above it; without one with the first. A run that is there keeps its own."""
    store = await workers.new()
    parked = Batch(opening(ALICE, "parked").events, {}, status="paused")
    assert await store.begin(ALICE, "parked", parked, 7) is not None
    assert (await store.claim(ALICE, "parked")).fence.token == 8
    fence = await store.begin(ALICE, "r", opening(ALICE, "r"), 7)
    assert fence is not None
    assert fence.token == 7
    await store.commit(fence, answer(3))
    assert await store.begin(ALICE, "r", opening(ALICE, "r"), 70) is None
    assert (await store.claim(ALICE, "r")).fence.token == 8
    assert (await begun(store, ALICE, "new")).token == 1


async def one_of_many_begins_wins(workers: Workers) -> None:
    """However many begin a run at once, one gets it."""
    store = await workers.new()
    fences = await asyncio.gather(*[store.begin(ALICE, "r", opening(ALICE, "r")) for _ in range(16)])
    assert sum(fence is not None for fence in fences) == 1


async def a_batch_goes_on_from_the_last(workers: Workers) -> None:
    """A gap, a repetition and an overlap are Fenced, and nothing of them is written."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    await store.commit(fence, answer(3))
    for seq in (2, 3, 5):
        with refused(Fenced):
            await store.commit(fence, answer(seq))
    assert await seqs(store, ALICE, "r") == [1, 2, 3]
    await store.commit(fence, answer(4))


async def an_old_token_writes_nothing(workers: Workers) -> None:
    """After a claim the former fence is dead: neither events nor bodies nor the status of its batches land."""
    store = await workers.new()
    old = await begun(store, ALICE, "r")
    new = (await store.claim(ALICE, "r")).fence
    assert new.token > old.token
    assert new.scope == ALICE
    body = b'"secret"'
    batch = ending(3)
    batch.bodies[digest_of(body)] = body
    with refused(Fenced):
        await store.commit(old, batch)
    assert (await store.find(ALICE, "r")).status == "running"
    assert await store.session(ALICE) == []
    with refused(JournalDamaged):
        await store.body(ALICE, "r", digest_of(body))
    await store.commit(new, answer(3))
    assert await seqs(store, ALICE, "r") == [1, 2, 3]


async def reading_starts_after_a_sequence_number(workers: Workers) -> None:
    """`after` may lie anywhere, inside a batch and beyond the end too."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    events: list[AnyEvent] = [ModelRequested(seq=seq, ordinal=seq, model="m") for seq in (3, 4, 5)]
    await store.commit(fence, Batch(events, {}))
    await store.commit(fence, answer(6))
    for after in range(8):
        assert await seqs(store, ALICE, "r", after) == list(range(after + 1, 7))


async def bodies_land_with_their_batch(workers: Workers) -> None:
    """A body can be read when its batch is; the same one may come again; one that never came is damage."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    body = b"\x00\xff" * 5000
    part = Stored(digest=digest_of(body), size=len(body))
    for seq in (3, 4):
        events: list[AnyEvent] = [ModelAnswered(seq=seq, ordinal=1, parts=(part,))]
        await store.commit(fence, Batch(events, {part.digest: body}))
    assert await store.body(ALICE, "r", part.digest) == body
    with refused(JournalDamaged):
        await store.body(ALICE, "r", digest_of(b"never stored"))


async def bodies_are_not_shared(workers: Workers) -> None:
    """What one run stored can be had under no other run and no other tenant."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    for scope, run_id in ((ALICE, "other"), (STRANGER, "r")):
        await begun(store, scope, run_id)
    batch = answer(3)
    batch.bodies[digest_of(b"mine")] = b"mine"
    await store.commit(fence, batch)
    for scope, run_id in ((ALICE, "other"), (STRANGER, "r")):
        with refused(JournalDamaged):
            await store.body(scope, run_id, digest_of(b"mine"))
    with refused(RunNotFound):
        await store.body(Scope("initech"), "r", digest_of(b"mine"))


async def one_refusal_aborts_no_other(workers: Workers) -> None:
    """Of 64 commits at once each lands or is refused on its own."""
    store = await workers.new()
    fences = [await begun(store, ALICE, f"r{i}") for i in range(64)]
    for i in range(0, 64, 7):
        await store.claim(ALICE, f"r{i}")
    outcomes = await asyncio.gather(*[store.commit(f, answer(3)) for f in fences], return_exceptions=True)
    for i, outcome in enumerate(outcomes):
        assert isinstance(outcome, BaseException) == (i % 7 == 0), (i, outcome)
        assert not isinstance(outcome, BaseException) or isinstance(outcome, Fenced), outcome
        assert len(await store.read(ALICE, f"r{i}")) == (2 if i % 7 == 0 else 3)


async def a_cancelled_commit_lands_or_not_before_it_is_cancelled(workers: Workers) -> None:
    """Cancelling never leaves a commit under way: when CancelledError is raised its fate is known and stays."""
    store = await workers.new()
    for i in range(20):
        fence = await begun(store, ALICE, f"r{i}")
        task = asyncio.ensure_future(store.commit(fence, answer(3)))
        for _ in range(i % 4):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        landed = len(await store.read(ALICE, f"r{i}")) == 3
        if not isinstance(outcome, BaseException):
            assert landed
        else:
            assert isinstance(outcome, asyncio.CancelledError), outcome
        await asyncio.sleep(0.005)
        assert landed == (len(await store.read(ALICE, f"r{i}")) == 3), "it landed after it was cancelled"
        await store.commit(fence, answer(4 if landed else 3))


async def opening_again_does_nothing(workers: Workers) -> None:
    """`open` may be called by everybody who needs the store."""
    store = await workers.new()
    await begun(store, ALICE, "r")
    await asyncio.gather(store.open(), store.open())
    assert await seqs(store, ALICE, "r") == [1, 2]


JOURNAL: tuple[Law, ...] = (
    a_run_reads_back_as_it_was_written,
    a_cancelled_begin_gives_its_fence_first,
    a_second_begin_changes_nothing,
    a_run_begins_with_the_token_it_is_given,
    one_of_many_begins_wins,
    a_batch_goes_on_from_the_last,
    an_old_token_writes_nothing,
    reading_starts_after_a_sequence_number,
    bodies_land_with_their_batch,
    bodies_are_not_shared,
    one_refusal_aborts_no_other,
    a_cancelled_commit_lands_or_not_before_it_is_cancelled,
    opening_again_does_nothing,
)
"""Appending and reading back."""
