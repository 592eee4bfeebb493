"""Runs that share a transaction: one that fails takes no other with it, and groups do not wait in a circle.

Each law comes with the mutant that breaks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres import PostgresStore, writer
from shipworthy.adapters.postgres.writer import Writer
from shipworthy.domain.scope import Scope
from shipworthy.errors import StoreError
from shipworthy.testing.contracts.store.workers import ALICE, answer, begun, ending, opening, seqs
from tests.crash import mutants

OTHER = Scope("acme", "alice", "another trip")


@asynccontextmanager
async def opened(*addresses: str) -> AsyncIterator[list[PostgresStore]]:
    """A store, another worker, at each of the addresses."""
    stores = [PostgresStore(address) for address in addresses]
    try:
        for store in stores:
            await store.open()
        yield stores
    finally:
        for store in stores:
            await store.close()


@asynccontextmanager
async def locked(database: str, *run_ids: str) -> AsyncIterator[None]:
    """Somebody else holds the rows of these runs."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        query = "SELECT FROM shipworthy.runs WHERE run_id = ANY(%s) FOR UPDATE"
        await connection.execute(query, (list(run_ids),))
        yield


async def fates_beside_one_that_fails(database: str) -> list[type | None]:
    """Of two batches in one group, of which the first cannot be written: what each got."""
    async with opened(database) as [store]:
        fences = [await begun(store, ALICE, run_id) for run_id in ("r1", "r2")]
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await connection.execute("ALTER TABLE shipworthy.runs ADD CHECK (run_id <> 'r1' OR head < 3)")
        committing = [store.commit(fence, answer(3)) for fence in fences]
        got = await asyncio.gather(*committing, return_exceptions=True)
        assert await seqs(store, ALICE, "r2") == ([1, 2] if isinstance(got[1], Exception) else [1, 2, 3])
        return [type(result) if isinstance(result, Exception) else None for result in got]


def test_a_batch_that_fails_takes_no_other_with_it(database: str) -> None:
    assert asyncio.run(fates_beside_one_that_fails(database)) == [StoreError, None]


async def fates_without_a_savepoint(database: str) -> list[type | None]:
    async with opened(database):
        mutants.rewrite("no_savepoint", database)
    return await fates_beside_one_that_fails(database)


def test_without_a_savepoint_the_batches_are_tried_one_by_one(database: str) -> None:
    assert asyncio.run(fates_without_a_savepoint(database)) == [StoreError, None]


def test_without_that_either_all_fail(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append: Any = Writer._append
    trying = False

    def append_once(self: Writer, group: list[Any], *options: Any) -> None:
        nonlocal trying
        if trying:
            for job in group:
                job.error = StoreError("It is not tried again.")
            return
        trying = True
        append(self, group, *options)
        trying = False

    monkeypatch.setattr(Writer, "_append", append_once)
    assert asyncio.run(fates_without_a_savepoint(database)) == [StoreError, StoreError]


def test_two_groups_that_end_runs_of_the_same_sessions_do_not_wait_in_a_circle(database: str) -> None:
    """Each group holds one session and wants the other's, if they are taken in the order of the runs."""

    async def law() -> None:
        async with opened(database, database) as [here, there]:
            mine = [await begun(here, ALICE, "r1"), await begun(here, OTHER, "r3")]
            theirs = [await begun(there, OTHER, "r2"), await begun(there, ALICE, "r4")]
            async with locked(database, "r3", "r4"):
                groups = [(here, fence) for fence in mine] + [(there, fence) for fence in theirs]
                committing = asyncio.gather(*[store.commit(fence, ending(3)) for store, fence in groups])
                await asyncio.sleep(0.3)
            await committing
            for scope in (ALICE, OTHER):
                assert len(await here.session(scope)) == 2

    asyncio.run(law())


async def claims_of_a_stopped_workers_run(database: str) -> list[str]:
    """What is said of the previous owner when a run is claimed, and claimed again before anything is recorded."""
    async with opened(database, database) as [here, there]:
        await begun(here, ALICE, "r")
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await connection.execute("UPDATE shipworthy.workers SET lease_until = 0")
        return [(await there.claim(ALICE, "r")).previous for _ in range(2)]


def test_who_claims_a_run_twice_is_told_twice_that_its_owner_may_live(database: str) -> None:
    assert asyncio.run(claims_of_a_stopped_workers_run(database)) == ["expired", "expired"]


def test_without_the_mark_it_is_forgotten(database: str) -> None:
    async def broken() -> list[str]:
        async with opened(database):
            mutants.rewrite("expired_forgotten", database)
        return await claims_of_a_stopped_workers_run(database)

    assert asyncio.run(broken()) == ["expired", "released"]


@pytest.fixture(autouse=True)
def figures() -> None:
    """Nothing is counted here."""


def test_runs_that_several_instances_begin_at_once_have_each_one_owner(database: str) -> None:
    """Though they come from other users, whose batches are in another order in each group."""

    async def law() -> None:
        async with opened(*[database] * 3) as stores:
            users = [Scope("acme", user, f"trip {user}") for user in "abc"]
            for _ in range(4):
                ids = [f"r{number}-{_}" for number in range(24)]
                begins = [
                    store.begin(users[(at + number) % 3], run_id, opening(users[(at + number) % 3], run_id))
                    for at, store in enumerate(stores)
                    for number, run_id in enumerate(ids)
                ]
                got = await asyncio.gather(*begins)
                assert sorted([fence.run_id for fence in got if fence is not None]) == sorted(ids)

    asyncio.run(law())


async def ends_in_a_circle(database: str, rounds: int) -> None:
    """Two instances end runs of two sessions in one group each, in opposite orders."""
    async with opened(database, database) as [one, two]:
        for number in range(rounds):
            ends = []
            for store, letters in ((one, "ab"), (two, "cd")):
                for letter, scope in zip(
                    letters, (ALICE, OTHER) if store is one else (OTHER, ALICE), strict=True
                ):
                    fence = await begun(store, scope, f"{letter}{number}")
                    ends.append(store.commit(fence, ending(3)))
            await asyncio.gather(*ends)
        assert len(await one.session(ALICE)) == len(await two.session(OTHER)) == 2 * rounds


def test_a_deadlock_is_made_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names no culprit, and nothing of it was done."""
    monkeypatch.setattr(writer, "_order", lambda job: job.work.run_id)
    asyncio.run(ends_in_a_circle(database, 5))


def test_otherwise_one_of_them_is_told_of_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_order", lambda job: job.work.run_id)
    monkeypatch.setattr(writer, "_CROSSED", ())
    with pytest.raises(StoreError, match="40P01"):
        asyncio.run(ends_in_a_circle(database, 200))
