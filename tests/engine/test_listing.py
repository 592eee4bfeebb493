"""All runs of a listing, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.domain.scope import Scope
from shipworthy.engine import listing
from shipworthy.testing.contracts.store.workers import ALICE, opening

STARTS = (1000, 1000, 1000, 1000, 1000, 1001, 1002, 1002, 1002)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)


def found(starts: Sequence[int]) -> list[str]:
    async def read() -> list[str]:
        store = InMemoryStore()
        await store.open()
        for number, at in enumerate(starts):
            await store.begin(ALICE, f"r{number}", opening(ALICE, f"r{number}", at))
        return [run.run_id async for run in listing.listed(store, Scope(ALICE.tenant))]

    return asyncio.run(read())


def test_every_run_is_listed_once_however_many_began_in_one_millisecond() -> None:
    assert found(STARTS) == ["r8", "r7", "r6", "r5", "r4", "r3", "r2", "r1", "r0"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_the_last_page_may_be_of_any_size(count: int) -> None:
    assert sorted(found(range(1000, 1000 + count))) == [f"r{number}" for number in range(count)]
