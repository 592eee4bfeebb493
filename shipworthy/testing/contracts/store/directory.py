"""Laws of a store's directory: who finds which runs, and which are forgotten."""

from __future__ import annotations

from shipworthy.domain.journal import RunFilter
from shipworthy.domain.scope import Scope
from shipworthy.errors import RunNotFound, ShipworthyError
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    OPERATOR,
    STRANGER,
    Law,
    Workers,
    answer,
    begun,
    digest_of,
    ended,
    ending,
    parking,
    refused,
    seqs,
)


async def a_foreign_run_is_an_unknown_run(workers: Workers) -> None:
    """Every way to name a run gives the same answer for another tenant's as for none: type and text."""
    store = await workers.new()

    async def answers() -> list[str]:
        told = []
        for ask in (
            store.find(STRANGER, "r"),
            store.read(STRANGER, "r"),
            store.claim(STRANGER, "r"),
            store.body(STRANGER, "r", digest_of(b"x")),
        ):
            try:
                await ask
            except RunNotFound as error:
                told.append(str(error))
        return told

    before = await answers()
    await begun(store, ALICE, "r")
    assert len(before) == 4
    assert await answers() == before
    assert await store.list(STRANGER, RunFilter()) == []


async def a_summary_follows_its_run(workers: Workers) -> None:
    """Status, times and the number of events are those of the last batch."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r", at=1000)
    await store.commit(fence, answer(3, at=2000))
    found = await store.find(Scope("acme"), "r")
    assert (found.scope, found.run_id, found.status) == (ALICE, "r", "running")
    assert (found.started_at, found.updated_at, found.events) == (1000, 2000, 3)
    await store.commit(fence, ending(4, at=3000))
    found = await store.find(ALICE, "r")
    assert (found.status, found.updated_at, found.events) == ("completed", 3000, 4)


async def a_listing_is_of_its_scope_newest_first(workers: Workers) -> None:
    """A tenant sees its runs, a user and a session are narrower; status, limit and `before` page through them."""
    store = await workers.new()
    for i, scope in enumerate((ALICE, BOB, Scope("acme"), ALICE, STRANGER, Scope("acme", "alice", "work"))):
        await begun(store, scope, f"r{i}", at=1000 + i)
    await store.commit((await store.claim(ALICE, "r0")).fence, ending(3))

    async def ids(scope: Scope, which: RunFilter) -> list[str]:
        return [summary.run_id for summary in await store.list(scope, which)]

    assert await ids(Scope("acme"), RunFilter()) == ["r5", "r3", "r2", "r1", "r0"]
    assert await ids(Scope("acme", "alice"), RunFilter()) == ["r5", "r3", "r0"]
    assert await ids(ALICE, RunFilter()) == ["r3", "r0"]
    assert await ids(Scope("acme"), RunFilter(status="completed")) == ["r0"]
    assert await ids(Scope("acme"), RunFilter(limit=2)) == ["r5", "r3"]
    assert await ids(Scope("acme"), RunFilter(limit=2, before=1003)) == ["r2", "r1"]
    assert await ids(STRANGER, RunFilter()) == ["r4"]


async def a_session_is_its_ended_runs_in_the_order_of_their_ends(workers: Workers) -> None:
    """Not of their beginnings; and a head pins what was there."""
    store = await workers.new()
    fences = {run_id: await begun(store, ALICE, run_id) for run_id in ("a", "b", "c", "d")}
    await begun(store, BOB, "e")
    for run_id in ("c", "a"):
        await store.commit(fences[run_id], ending(3))
    await store.commit(fences["d"], ending(3, joins=False))
    assert list(await store.session(ALICE)) == ["c", "a"]
    await store.commit(fences["b"], ending(3))
    assert list(await store.session(ALICE)) == ["c", "a", "b"]
    assert [list(await store.session(ALICE, head)) for head in (0, 1, 2)] == [[], ["c"], ["c", "a"]]
    assert list(await store.session(BOB)) == []
    assert list(await store.session(STRANGER)) == []


async def pruning_keeps_what_is_alive_or_reached(workers: Workers) -> None:
    """Old ended runs go with their journals; running and parked runs, and sessions that still grow, stay whole."""
    store = await workers.new()
    alone, busy, quiet = Scope("acme"), Scope("acme", "alice", "busy"), Scope("acme", "alice", "quiet")
    await ended(store, alone, "old", at=10)
    await ended(store, alone, "new", at=90)
    await begun(store, alone, "running", at=10)
    await store.commit(await begun(store, alone, "parked", at=10), parking(3, at=10))
    await ended(store, busy, "busy-1", at=10)
    await begun(store, busy, "busy-2", at=20)
    for i in range(3):
        await ended(store, quiet, f"quiet-{i}", at=10 + i)
    await ended(store, quiet, "stray", at=10, joins=False)
    await ended(store, Scope("globex"), "theirs", at=10)
    assert await store.prune(OPERATOR, 50) == 6
    kept = {summary.run_id for summary in await store.list(Scope("acme"), RunFilter())}
    assert kept == {"new", "running", "parked", "busy-1", "busy-2"}
    for run_id in ("old", "quiet-0", "stray"):
        with refused(RunNotFound):
            await store.read(alone, run_id)
    assert list(await store.session(quiet)) == []
    assert list(await store.session(busy)) == ["busy-1"]
    assert await seqs(store, busy, "busy-1") == [1, 2, 3]
    assert await store.prune(OPERATOR, 50) == 0
    await ended(store, alone, "old", at=60)  # a pruned id is free
    assert await seqs(store, alone, "old") == [1, 2, 3]


async def everything_is_every_run_in_the_order_of_their_beginnings(workers: Workers) -> None:
    """Of every tenant, whatever became of it, once; what is begun later comes later, and a place is a place to go on
    from."""
    store = await workers.new()
    for i, scope in enumerate((ALICE, STRANGER, Scope("acme"), BOB, ALICE)):
        await begun(store, scope, f"r{i}", at=1000 - i)
    await store.commit((await store.claim(ALICE, "r0")).fence, ending(3))
    await store.commit((await store.claim(BOB, "r3")).fence, parking(3))

    async def rest(after: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        while page := await store.everything(OPERATOR, after):
            after = page[-1][0]
            for place, run in page:
                assert run == await store.find(run.scope, run.run_id)
                found.append((place, run.run_id))
        return found

    everything = await rest(0)
    assert [run_id for _, run_id in everything] == ["r0", "r1", "r2", "r3", "r4"]
    assert await rest(everything[2][0]) == everything[3:]
    await ended(store, Scope("initech"), "r5")
    assert [run_id for _, run_id in await rest(everything[4][0])] == ["r5"]


async def only_an_operator_sees_every_tenant(workers: Workers) -> None:
    """A scope, and nothing at all, is no Operator."""
    store = await workers.new()
    await begun(store, ALICE, "r")
    for pretender in (ALICE, None, "operator"):
        with refused(ShipworthyError):
            await store.orphans(pretender)  # type: ignore[arg-type]
        with refused(ShipworthyError):
            await store.everything(pretender)  # type: ignore[arg-type]
        with refused(ShipworthyError):
            await store.prune(pretender, 10**15)  # type: ignore[arg-type]
    assert await seqs(store, ALICE, "r") == [1, 2]


DIRECTORY: tuple[Law, ...] = (
    a_foreign_run_is_an_unknown_run,
    a_summary_follows_its_run,
    a_listing_is_of_its_scope_newest_first,
    a_session_is_its_ended_runs_in_the_order_of_their_ends,
    pruning_keeps_what_is_alive_or_reached,
    everything_is_every_run_in_the_order_of_their_beginnings,
    only_an_operator_sees_every_tenant,
)
"""Finding and forgetting."""
