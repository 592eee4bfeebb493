"""Moving house takes along when paused runs are due, and what people said yes to, with the keys that prove it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from shipworthy import InMemoryStore
from shipworthy.app import cli
from shipworthy.app.runtimes import runtime_for
from shipworthy.domain.events import RunParked
from shipworthy.domain.journal import Batch, Claim
from shipworthy.domain.scope import Scope
from shipworthy.engine import migrate
from shipworthy.engine.entrusting import Entrusting
from shipworthy.engine.migrate import Migration, Report
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store.signing import grant, granting
from shipworthy.testing.contracts.store.waiting import waiting
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    OPERATOR,
    STRANGER,
    answer,
    begun,
    ending,
)
from shipworthy.testing.faults import Point, PointedStore, Points

ROOT = Path(__file__).parents[2]
LATER = 10**14
"""Milliseconds; after everything here."""


@contextlib.asynccontextmanager
async def opened(*addresses: str) -> AsyncIterator[list[Any]]:
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for address in addresses:
            store = runtime_for(address).store
            await store.open()
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


async def fill(store: Store) -> None:
    """Runs that are due some time, one that waits for a person, and grants, one of a run that was pruned."""
    for run_id, scope, wake_at in (("a", ALICE, 100), ("b", STRANGER, 200), ("n", ALICE, None)):
        await store.commit(await begun(store, scope, run_id), waiting(3, wake_at))
    answered = Batch([RunParked(seq=4)], {}, status="paused", wake_at=50)  # not what its events say
    await store.commit((await store.claim(STRANGER, "b")).fence, answered)
    for i, scope in enumerate((ALICE, BOB, STRANGER)):
        fence = await begun(store, Scope(scope.tenant, scope.user), f"g{i}", at=10)
        await store.commit(fence, granting(answer(3, 10), grant(f"grant {i}", scope)))
        await store.commit(fence, ending(4, 10 if i == 0 else 5000, joins=False))
    await store.rotate_signing_key(OPERATOR)
    await store.rotate_signing_key(OPERATOR)
    assert await store.prune(OPERATOR, 100) == 1


async def standing(store: Store) -> dict[str, Any]:
    """What is due and when, and what was said yes to."""
    due = [(run.run_id, run.status, run.wake_at) for run in await store.due(OPERATOR, LATER)]
    grants = [grant for scope in (ALICE, BOB, STRANGER) for grant in await store.grants(scope)]
    assert len(await store.everyones_grants(OPERATOR)) == len(grants)
    return {"due": due, "grants": sorted(grants, key=lambda g: g.id)}


async def bring(old: str, new: str, points: Points | None = None, tenant: str | None = None) -> Report:
    async with opened(old, new) as stores:
        if points is not None:
            stores = [PointedStore(store, points, lambda *_: None) for store in stores]
        return await Migration(*stores, origin=old, to=new, tenant=tenant).work()


def look(address: str, work: Callable[[Store], Any] = standing) -> Any:
    async def go() -> Any:
        async with opened(address) as (store,):
            return await work(store)

    return asyncio.run(go())


async def names(store: Store) -> list[str]:
    return [key.id for key in await store.signing_keys()]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    look("sqlite:old.db", fill)
    return "sqlite:old.db"


# --- what comes along -------------------------------------------------------------------------


def test_all_of_it_comes_along_and_only_once(old: str, database: str) -> None:
    before, keys = look(old), look(old, names)
    assert ([run for run, *_ in before["due"]], len(before["grants"]), len(keys)) == (["b", "a"], 3, 2)
    for moved in (3, 0):
        report = asyncio.run(bring(old, database))
        assert (report.left, report.grants) == ([], moved)
        assert look(database) == before
        own, *older = look(database, names)
        assert older == keys
        assert own not in keys  # what was signed there verifies here, and nothing new is signed with it
    assert look(old) == {"due": [], "grants": []}
    assert asyncio.run(bring(database, "sqlite:third.db")).left == []
    assert look("sqlite:third.db") == before
    assert look("sqlite:third.db", names)[1:] == look(database, names)


def test_one_tenant_takes_its_grants_and_all_keys(old: str) -> None:
    before = look(old)
    asyncio.run(bring(old, "sqlite:new.db", tenant="globex"))
    there, here = look("sqlite:new.db"), look(old)
    assert [each.tenant for each in there["grants"]] == ["globex"]
    assert [each.tenant for each in here["grants"]] == ["acme", "acme"]
    assert [run for run, *_ in there["due"] + here["due"]] == ["b", "a"]
    assert look("sqlite:new.db", names)[1:] == look(old, names)
    asyncio.run(bring(old, "sqlite:new.db"))
    assert look("sqlite:new.db") == before


def test_what_was_taken_back_in_the_destination_stays_so(old: str) -> None:
    new = "sqlite:new.db"
    keys = look(old, names)

    async def take_back(store: Store) -> None:
        assert await store.revoke(ALICE, "grant 0")
        await store.rotate_signing_key(OPERATOR, keep=1)

    asyncio.run(bring(old, new))
    look(new, take_back)
    asyncio.run(bring(old, new))
    assert [each.id for each in look(new)["grants"]] == ["grant 1", "grant 2"]
    assert not set(look(new, names)) & set(keys)


def test_a_key_that_is_new_and_a_grant_that_is_late_come_with_the_next_move(old: str) -> None:
    new = "sqlite:new.db"

    async def more(store: Store) -> None:
        await store.rotate_signing_key(OPERATOR)
        fence = await begun(store, BOB, "late")
        await store.commit(fence, granting(answer(3), grant("late", BOB)))
        await store.commit(fence, ending(4))

    asyncio.run(bring(old, new))
    look(old, more)
    assert asyncio.run(bring(old, new)).grants == 1
    assert "late" in [each.id for each in look(new)["grants"]]
    assert set(look(old, names)) < set(look(new, names))


def test_an_answer_that_comes_at_the_last_moment_counts() -> None:
    """Between the listing and the claim."""

    class Answered(InMemoryStore):
        late = True

        async def claim(self, scope: Scope, run_id: str) -> Claim:
            if self.late:
                self.late = False
                fence = (await super().claim(scope, run_id)).fence
                await self.commit(fence, Batch([RunParked(seq=4)], {}, status="paused", wake_at=7))
            return await super().claim(scope, run_id)

    async def go() -> list[int | None]:
        source, destination = Answered(), InMemoryStore()
        await source.commit(await begun(source, ALICE, "r"), waiting(3, None))
        assert (await Migration(source, destination, origin="old", to="new").work()).left == []
        return [run.wake_at for run in await destination.due(OPERATOR, LATER)]

    assert asyncio.run(go()) == [7]


def test_a_grant_that_the_destination_cannot_spell_stays_where_it_is(old: str, database: str) -> None:
    address, _, name = database.rpartition("/")
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name}_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".encode()
        )
    luk = Scope("acme", "Łukasz")

    async def more(store: Store) -> None:
        await store.commit(await begun(store, luk, "l"), granting(ending(3), grant("l", luk)))

    look(old, more)
    before = look(old, lambda store: store.grants(luk))
    report = asyncio.run(bring(old, f"{address}/{name}_latin1"))
    assert [left.run.run_id for left in report.left] == ["l"]
    assert report.grants == 3
    assert look(old, lambda store: store.grants(luk)) == before
    assert len(look(f"{address}/{name}_latin1")["grants"]) == 3


def test_a_person_is_told_that_it_came_along(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["runs", "migrate", "--from", old, "--to", "sqlite:new.db"]) == 0
    assert "What people said yes to came along, in 3 grants." in capsys.readouterr().out


def test_the_command_counts_them(old: str, database: str) -> None:
    said = ("runs", "migrate", "--from", old, "--to", database, "--json")
    told = subprocess.run(
        [sys.executable, "-m", "shipworthy.app.cli", *said],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(told.stdout)["grants"] == 3


# --- whatever comes between -------------------------------------------------------------------


class Died(BaseException):
    """What a process's end is in these."""


def _die(point: Point) -> None:
    raise Died


def _survives(folder: Path) -> bool:
    """Whether it comes out the same from every moment of death, each tried with a copy of the source."""
    before = look("sqlite:old.db")
    counting = Points()
    shutil.copy("old.db", "whole.db")
    asyncio.run(bring("sqlite:whole.db", "sqlite:there.db", counting))
    assert {point.kind for point in counting.reached} >= {"adopt", "revoke", "claim", "commit", "begin"}
    if look("sqlite:there.db") != before or look("sqlite:whole.db") != {"due": [], "grants": []}:
        return False
    for number, point in enumerate(counting.reached):
        source, destination = f"sqlite:{number}.db", f"sqlite:{number}-new.db"
        shutil.copy("old.db", f"{number}.db")
        with pytest.raises(Died):
            asyncio.run(bring(source, destination, Points(point, _die)))
        assert asyncio.run(bring(source, destination)).left == []
        if look(destination) != before or look(source) != {"due": [], "grants": []}:
            return False
        if not set(look(source, names)) < set(look(destination, names)):
            return False
    return True


def test_whatever_the_moment_of_death_it_comes_out_the_same(old: str, tmp_path: Path) -> None:
    assert _survives(tmp_path)


def _no_note(patch: pytest.MonkeyPatch) -> None:
    """When the run was due is not left in the source for whoever finishes a move."""

    def batch(*parts: Any, **more: Any) -> Batch:
        if more.get("status") == "stopped":
            more.pop("wake_at")
        return Batch(*parts, **more)

    patch.setattr(migrate, "Batch", batch)


def _no_waking(patch: pytest.MonkeyPatch) -> None:
    """A moved run waits for ever."""
    patch.setattr(migrate, "Batch", lambda *parts, **more: Batch(*parts, **{**more, "wake_at": None}))


def _by_the_journal(patch: pytest.MonkeyPatch) -> None:
    """When it is due is taken from its events, as if nobody had answered."""
    put = Migration._put

    async def derived(self: Any, run: Any, events: Any, **more: Any) -> Any:
        wake_at = next((e.wake_at for e in reversed(events) if isinstance(e, RunParked)), None)
        return await put(self, msgspec.structs.replace(run, wake_at=wake_at), events, **more)

    patch.setattr(Migration, "_put", derived)


def _nothing_signed(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any) -> int:
        return 0

    patch.setattr(Entrusting, "work", nothing)


def _copied(patch: pytest.MonkeyPatch) -> None:
    """A grant that is taken back in one of them goes on in the other."""

    async def none(self: Any, grants: Any) -> Any:
        if grants:
            await self._destination.adopt(OPERATOR, (), grants)
        return ()

    patch.setattr(Entrusting, "_there", none)


def _revoked_first(patch: pytest.MonkeyPatch) -> None:
    """Who dies between has them in neither."""

    async def early(self: Any, grants: Any) -> Any:
        for each in grants:
            await self._source.revoke(Scope(each.tenant), each.id)
        await self._destination.adopt(OPERATOR, (), grants)
        return ()

    patch.setattr(Entrusting, "_there", early)


@pytest.mark.parametrize(
    "mutant",
    [_no_note, _no_waking, _by_the_journal, _nothing_signed, _copied, _revoked_first],
    ids=lambda mutant: mutant.__name__,
)
def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None],
    old: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    try:
        right = _survives(tmp_path)
    except AssertionError:
        right = False
    assert not right
