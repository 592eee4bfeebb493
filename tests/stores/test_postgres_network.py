"""What a PostgresStore does when the network, or the server, goes away in the middle of something."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from shipworthy import Agent, PostgresRuntime, ScriptedModel, ToolCall, tool
from shipworthy.adapters.postgres import PostgresStore, connection
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import CommitUncertain, Fenced, StoreUnavailable
from shipworthy.testing.contracts.store.workers import ALICE, answer, begun, ended, opening, seqs
from tests.servers.postgres import OwnPostgres
from tests.servers.proxy import How, Proxy

LOST: tuple[How, ...] = ("lose the request", "lose the answer", "reset")
SHORT = 0.3
"""Seconds of patience where it is to run out."""


@pytest.fixture
def proxy(database: str) -> Iterator[Proxy]:
    with Proxy(int(str(conninfo_to_dict(database)["port"]))) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(
    dsn: str, patience: float = 5.0, *, lease_ttl: float = 600.0
) -> AsyncIterator[PostgresStore]:
    """A store whose lease is not renewed meanwhile, so that only what is tried comes through the proxy."""
    store = PostgresStore(dsn, patience=patience, lease_ttl=lease_ttl, readers=1)
    await store.open()
    try:
        yield store
    finally:
        with contextlib.suppress(StoreUnavailable):
            await store.close()


@pytest.mark.parametrize("how", LOST)
def test_a_commit_that_is_cut_lands_once(how: How, database: str, proxy: Proxy) -> None:
    """It is sent again; what had landed is recognised, and so are its neighbours in the group."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store:
            fences = [await begun(store, ALICE, f"run-{i}") for i in range(8)]
            await store.claim(ALICE, "run-5")
            proxy.fault(b"run-5", how, times=2)
            told = await asyncio.gather(*[store.commit(f, answer(3)) for f in fences], return_exceptions=True)
            assert proxy.struck == 2
            assert [type(outcome) for outcome in told] == [tuple] * 5 + [Fenced] + [tuple] * 2
            for i, fence in enumerate(fences):
                if i != 5:
                    await store.commit(fence, answer(4))
                    assert await seqs(store, ALICE, f"run-{i}") == [1, 2, 3, 4]
            assert await seqs(store, ALICE, "run-5") == [1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize("how", LOST)
def test_a_begin_that_is_cut_makes_one_run(how: How, database: str, proxy: Proxy) -> None:
    """Whoever began it has it; who comes later is told that it is there."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store, opened(database) as other:
            proxy.fault(b"the-run", how, times=2)
            fence = await store.begin(ALICE, "the-run", opening(ALICE, "the-run"), 7)
            assert proxy.struck == 2
            assert fence is not None
            assert fence.token == 7
            assert await store.begin(ALICE, "the-run", opening(ALICE, "the-run")) is None
            assert await other.begin(ALICE, "the-run", opening(ALICE, "the-run")) is None
            await store.commit(fence, answer(3))
            assert len(await store.list(ALICE, RunFilter())) == 1

    asyncio.run(scenario())


def test_a_begin_that_was_lost_does_not_take_anothers_run(database: str, proxy: Proxy) -> None:
    """Between the two attempts another worker began the same run, to the byte: it is the other's."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store, opened(database) as other:
            proxy.fault(b"the-run", "hold")
            mine = asyncio.ensure_future(store.begin(ALICE, "the-run", opening(ALICE, "the-run")))
            await asyncio.to_thread(proxy.until_struck)
            fence = await begun(other, ALICE, "the-run")
            proxy.refuse()
            proxy.accept()
            assert await mine is None
            await other.commit(fence, answer(3))

    asyncio.run(scenario())


def test_a_begin_that_was_lost_does_not_take_an_earlier_run(database: str, proxy: Proxy) -> None:
    """Of the same worker and the same id, with another input."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store:
            await begun(store, ALICE, "the-run")
            for how in LOST:
                proxy.fault(b"the-run", how)
                assert await store.begin(ALICE, "the-run", opening(ALICE, "the-run", at=7)) is None
            assert proxy.struck == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("how", LOST)
def test_patience_that_runs_out_leaves_a_commit_uncertain_and_the_journal_tells(
    how: How, database: str, proxy: Proxy
) -> None:
    """The worker takes the run again when the server is back, and goes on from what is there."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database), SHORT) as store:
            fence = await begun(store, ALICE, "the-run")
            proxy.fault(b"the-run", how)
            commit = asyncio.ensure_future(store.commit(fence, answer(3)))
            await asyncio.to_thread(proxy.until_struck)
            proxy.refuse()
            before = time.monotonic()
            with pytest.raises(CommitUncertain, match="resume"):
                await commit
            with pytest.raises(StoreUnavailable, match="Check address"):
                await store.read(ALICE, "the-run")
            assert time.monotonic() - before < 4 * SHORT + 1
            proxy.accept()
            again = await store.claim(ALICE, "the-run")
            there = await seqs(store, ALICE, "the-run")
            assert there == ([1, 2] if how == "lose the request" else [1, 2, 3])
            with pytest.raises(Fenced):
                await store.commit(fence, answer(len(there) + 1))
            await store.commit(again.fence, answer(len(there) + 1))

    asyncio.run(scenario())


def test_many_who_wait_for_a_server_that_is_away_wait_once(database: str, proxy: Proxy) -> None:
    """However long the queue is, each is told when the patience of the first is over."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database), SHORT) as store:
            fences = [await begun(store, ALICE, f"run-{i}") for i in range(200)]
            proxy.refuse()
            before = time.monotonic()
            asked = [
                *(store.read(ALICE, f"run-{i}") for i in range(20)),
                *(store.commit(f, answer(3)) for f in fences),
            ]
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(outcome, (StoreUnavailable, CommitUncertain)) for outcome in told), told
            assert time.monotonic() - before < 4 * SHORT + 1
            proxy.accept()
            await asyncio.gather(*[store.commit(fence, answer(3)) for fence in fences])

    asyncio.run(scenario())


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(
    database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is sent again over another connection; and it lands once, though the first had landed."""

    async def scenario() -> None:
        async with opened(database):
            """The schema is there, however long making it takes."""
        monkeypatch.setattr(connection, "SILENCE", 0.3)
        async with opened(proxy.dsn(database)) as store:
            fence = await begun(store, ALICE, "the-run")
            proxy.fault(b"the-run", "stall", times=2)
            await asyncio.wait_for(store.commit(fence, answer(3)), 5)
            proxy.fault(b"the-run", "stall")
            assert await asyncio.wait_for(seqs(store, ALICE, "the-run"), 5) == [1, 2, 3]
            assert proxy.struck == 3

    asyncio.run(scenario())


def test_a_request_that_arrives_after_the_run_was_taken_over_writes_nothing(
    database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the network kept it."""

    async def scenario() -> None:
        async with opened(database):
            """The schema is there, however long making it takes."""
        monkeypatch.setattr(connection, "SILENCE", 0.2)
        async with opened(proxy.dsn(database), SHORT) as store:
            fence = await begun(store, ALICE, "the-run")
            proxy.fault(b"the-run", "hold", times=50)
            with pytest.raises(CommitUncertain):
                await store.commit(fence, answer(3))
            async with opened(database) as other:
                with psycopg.connect(database, autocommit=True) as admin:
                    admin.execute("UPDATE shipworthy.runs SET worker = NULL")
                taken = (await other.claim(ALICE, "the-run")).fence
                await other.commit(taken, answer(3, at=7))
                proxy.let_go()
                await other.commit(taken, answer(4))
                await asyncio.sleep(0.2)
                assert [event.at for event in await other.read(ALICE, "the-run")] == [1000, 1000, 7, 1000]

    asyncio.run(scenario())


@pytest.mark.parametrize("needle", [b"the-run", b"COMMIT"], ids=["asking", "committing"])
@pytest.mark.parametrize("how", LOST)
def test_a_claim_that_is_cut_is_made_again(how: How, needle: bytes, database: str, proxy: Proxy) -> None:
    """The fence that it gives is the one that holds; and that a worker had expired is not forgotten on the way."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store, opened(database) as other:
            fence = await begun(other, ALICE, "the-run")
            await other.release(fence)
            proxy.fault(needle, how)
            claim = await store.claim(ALICE, "the-run")
            assert proxy.struck == 1
            assert claim.previous == "expired"
            await store.commit(claim.fence, answer(3))
            with pytest.raises(Fenced):
                await other.commit(fence, answer(4))

    asyncio.run(scenario())


@pytest.mark.parametrize("needle", [None, b"COMMIT"], ids=["asking", "committing"])
@pytest.mark.parametrize("how", LOST)
def test_a_release_that_is_cut_is_made_again(
    how: How, needle: bytes | None, database: str, proxy: Proxy
) -> None:
    """It lets go of nothing that was taken since."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store, opened(database) as other:
            fence = await begun(store, ALICE, "the-run")
            assert store._sessions is not None
            proxy.fault(needle or store._sessions.lease.id.encode(), how)
            await store.release(fence)
            assert proxy.struck == 1
            taken = (await other.claim(ALICE, "the-run")).fence
            await store.release(fence)
            await other.commit(taken, answer(3))

    asyncio.run(scenario())


def test_a_session_that_ends_joins_once_though_its_answer_is_lost(database: str, proxy: Proxy) -> None:
    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as store:
            await ended(store, ALICE, "one")
            proxy.fault(b"two", "lose the answer", times=2)
            await ended(store, ALICE, "two")
            await ended(store, ALICE, "three")
            assert list(await store.session(ALICE)) == ["one", "two", "three"]
            assert [list(await store.session(ALICE, n)) for n in (1, 2)] == [["one"], ["one", "two"]]

    asyncio.run(scenario())


def test_a_listener_whose_connection_was_cut_listens_again(database: str, proxy: Proxy) -> None:
    """Meanwhile who waits looks by itself; a notification that is none of ours does it no harm."""

    async def scenario() -> None:
        async with opened(proxy.dsn(database)) as follower, opened(database) as driver:
            fence = await begun(driver, ALICE, "the-run")
            await follower.news(ALICE, "the-run", 0.0)
            with psycopg.connect(database, autocommit=True) as admin:
                for payload in ("", "not a number", "9" * 40):
                    admin.execute("SELECT pg_notify('shipworthy', %s)", (payload,))
            proxy.refuse()
            proxy.accept()
            await asyncio.sleep(1.2)
            for seq in (3, 4, 5):
                waiting = asyncio.ensure_future(follower.news(ALICE, "the-run", 20.0))
                await asyncio.sleep(0.1)
                before = time.monotonic()
                await driver.commit(fence, answer(seq))
                await waiting
                assert time.monotonic() - before < 5.0

    asyncio.run(scenario())


@tool(effect="once")
async def pay() -> str:
    """Pay once."""
    PAID.append(1)
    return "paid"


PAID: list[int] = []


@pytest.mark.parametrize("how", LOST)
def test_an_agent_whose_server_goes_away_in_a_run_goes_on_when_it_is_back(
    how: How, database: str, proxy: Proxy
) -> None:
    """The run stops with CommitUncertain, or was never begun; resumed, it ends, and its effect happened once."""
    PAID.clear()

    async def scenario() -> None:
        runtime = PostgresRuntime(proxy.dsn(database), patience=SHORT, lease_ttl=600.0)
        agent = Agent(
            model=ScriptedModel([ToolCall("pay"), "Done."]), tools=[pay], runtime=runtime, name="payer"
        )
        await runtime.open()
        proxy.fault(b"the-run", how)
        cutter = threading.Thread(target=lambda: (proxy.until_struck(), proxy.refuse()))
        cutter.start()
        with pytest.raises((CommitUncertain, StoreUnavailable)):
            await agent.run("Pay.", run_id="the-run", tenant_id="acme")
        cutter.join()
        proxy.accept()
        if await runtime.store.list(Scope("acme"), RunFilter()):
            result = await agent.resume("the-run", tenant_id="acme")
        else:
            result = await agent.run("Pay.", run_id="the-run", tenant_id="acme")
        assert result.status == "completed", result
        assert list(await runtime.store.orphans(Operator("test"))) == []
        await runtime.close()

    asyncio.run(scenario())
    assert PAID == [1]


def test_a_server_that_is_killed_and_started_again_has_all_that_was_acknowledged() -> None:
    """Within the patience of the store nobody notices; each commit is there once."""

    async def drive(store: PostgresStore, run_id: str, until: asyncio.Event) -> int:
        fence, seq = await begun(store, ALICE, run_id), 3
        while not until.is_set():
            await store.commit(fence, answer(seq))
            seq += 1
        return seq

    async def scenario(server: OwnPostgres) -> None:
        async with opened(server.dsn, 30.0) as store:
            over = asyncio.Event()
            runs = [asyncio.ensure_future(drive(store, f"r{i}", over)) for i in range(4)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(0.3)
            over.set()
            heads = await asyncio.gather(*runs)
            for i, head in enumerate(heads):
                assert await seqs(store, ALICE, f"r{i}") == list(range(1, head))

    with OwnPostgres() as server:
        asyncio.run(scenario(server))


def test_a_server_that_is_down_at_the_start_is_named(database: str, proxy: Proxy) -> None:
    async def scenario() -> None:
        proxy.refuse()
        store = PostgresStore(proxy.dsn(database), patience=SHORT)
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1.*Check address"):
            await store.open()
        proxy.accept()
        await store.open()
        await begun(store, ALICE, "r")
        await store.close()

    asyncio.run(scenario())
