"""What Postgres memory does where the server goes away, or is slow; and what it leaves on the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from shipworthy.adapters.postgres import memory_session, memory_writing
from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.postgres.memory_places import place_of_scope
from shipworthy.adapters.shared import limits
from shipworthy.domain.memory import NOWHERE, Mark, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import (
    MemoryClosed,
    MemoryConflict,
    MemoryUnavailable,
    RecordTooLarge,
)
from tests.memory.postgres_world import MINE, THEIRS, admin, opened, record, rows
from tests.servers.postgres import OwnPostgres
from tests.servers.proxy import How, Proxy

LOST: tuple[How, ...] = ("lose the request", "lose the answer", "reset")


def proxied(database: str) -> Proxy:
    return Proxy(int(str(conninfo_to_dict(database)["port"])))


# servers that go away


@pytest.mark.parametrize("how", LOST)
def test_what_is_cut_is_done_once(how: How, database: str) -> None:
    """Puts of every kind, at once with others, are sent again; what had landed is recognised, also at a mark."""

    async def scenario(proxy: Proxy) -> None:
        async with opened(proxy.dsn(database)) as store:
            mark = await store.put(MINE, [record("a", MINE)])
            proxy.fault(b"cut", how)
            cut = Record(id="cut", kind="fact", data=b"{}", at=1)
            puts = [
                store.put(THEIRS, [cut]),
                store.put(MINE, [cut], at=mark),
                store.put(Scope("z"), [cut], at=NOWHERE),
            ]
            marks = await asyncio.gather(*puts)
            assert proxy.struck == 1
            for scope, got in zip((THEIRS, MINE, Scope("z")), marks, strict=True):
                assert got == await store.put(scope, [])
                assert [each.id for each in await store.page(scope)][-1] == "cut"
            assert marks[1] == Mark(mark.epoch, mark.n + 1)
            proxy.fault(place_of_scope(MINE), how)
            assert len((await store.changes(MINE, NOWHERE)).entries) == 2
            proxy.fault(place_of_scope(MINE), how)
            await store.put(MINE, [cut], replace=True)
            proxy.fault(place_of_scope(Scope("z")), how)
            await store.erase(Scope("z"))
            assert await store.within(Scope("z")) == []
            assert proxy.struck == 4

    with proxied(database) as proxy:
        asyncio.run(scenario(proxy))


def test_a_put_that_landed_unheard_is_no_conflict(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its token: a store that draws another one for the second attempt is caught. When others wrote
    meanwhile nobody knows, and that is said."""

    async def cut(proxy: Proxy) -> None:
        async with opened(proxy.dsn(database)) as store:
            at = await store.put(MINE, [record("a", MINE)], replace=True)
            proxy.fault(b"unheard", "lose the answer")
            await store.put(MINE, [Record(id="unheard", kind="fact", data=b"{}", at=1)], at=at, replace=True)

    steps = memory_writing.Put.steps

    def forgetting(self: memory_writing.Put) -> Any:
        self.token = memory_writing.draw()
        self.unanswered = False
        return steps(self)

    with proxied(database) as proxy:
        asyncio.run(cut(proxy))
        monkeypatch.setattr(memory_writing.Put, "steps", forgetting)
        with pytest.raises(MemoryConflict):
            asyncio.run(cut(proxy))
    put = memory_writing.put_of(b"tx/", [record("a", MINE)], False, Mark(5, 5))
    put.unanswered = True
    with pytest.raises(MemoryUnavailable, match="others have written"):
        put.answer([[], [], [(5, 7, put.token + 1)]])


def test_a_server_that_restarts_is_waited_for_and_one_that_is_gone_is_not() -> None:
    with OwnPostgres(max_connections="20") as server:
        dsn = server.fresh_database()

        async def scenario() -> None:
            async with opened(dsn, patience=20.0) as patient, opened(dsn, patience=0.2) as hasty:
                await patient.put(MINE, [record("a", MINE)])
                await hasty.get(MINE, ["a"])
                server.kill()
                began = time.monotonic()
                with pytest.raises(MemoryUnavailable) as error:
                    await hasty.get(MINE, ["a"])
                assert "Check address" in str(error.value)
                assert time.monotonic() - began < 10
                putting = asyncio.create_task(patient.put(MINE, [record("b", MINE)]))
                await asyncio.to_thread(server.start)
                await putting
                assert [each.id for each in await hasty.page(MINE)] == ["a", "b"]

        asyncio.run(scenario())


def test_who_waits_for_a_lock_waits_for_so_long(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement's time is bounded; the session goes on."""
    monkeypatch.setattr(memory_session, "AT_LEAST", 0.5)

    async def scenario() -> None:
        async with opened(database, patience=0.1) as store:
            await store.put(MINE, [record("a", MINE)])
            with psycopg.connect(database) as other:
                other.execute("SELECT FROM shipworthy_memory.partitions FOR UPDATE")
                began = time.monotonic()
                with pytest.raises(MemoryUnavailable, match="patience="):
                    await store.put(MINE, [record("b", MINE)])
                assert 0.4 < time.monotonic() - began < 15
                assert len(await store.page(MINE)) == 1
            await store.put(MINE, [record("b", MINE)])

    asyncio.run(scenario())


def test_a_server_that_falls_silent_is_taken_for_gone(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_session, "AT_LEAST", 0.3)

    async def scenario(proxy: Proxy) -> None:
        async with opened(proxy.dsn(database), patience=0.1) as store:
            proxy.fault(b"silent", "stall", times=9)
            began = time.monotonic()
            with pytest.raises(MemoryUnavailable):
                await store.get(MINE, ["silent"])
            assert time.monotonic() - began < 20

    with proxied(database) as proxy:
        asyncio.run(scenario(proxy))


class Turns:
    """A way to the server on *port* that counts how often the client speaks after the server did."""

    def __init__(self, port: int) -> None:
        self._upstream, self.count, self._heard = port, 0, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(1 << 16):
                if asks and self._heard:
                    self.count += 1
                self._heard = not asks
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_every_method_is_one_round_trip(database: str) -> None:
    async def scenario(turns: Turns, upstream: int) -> dict[int, int]:
        counted = {}
        async with opened(database.replace(f":{upstream}/", f":{turns.port}/")) as store:
            mark = await store.put(MINE, [record("a", MINE)])
            ways = (
                lambda: store.changes(MINE, mark),
                lambda: store.get(MINE, ["a"]),
                lambda: store.page(MINE),
                lambda: store.put(MINE, [record("a", MINE)], at=mark),
                lambda: store.remove(MINE, ["x"]),
                lambda: store.within(MINE),
            )
            for nth, asks in enumerate(ways):
                await asks()  # prepares its statements
                before = turns.count
                await asks()
                counted[nth] = turns.count - before
        return counted

    upstream = int(str(conninfo_to_dict(database)["port"]))
    turns = Turns(upstream)
    threading.Thread(target=turns.run, daemon=True).start()
    counted = asyncio.run(scenario(turns, upstream))
    assert set(counted.values()) == {1}, counted
    with turns._listener:
        turns._listener.shutdown(socket.SHUT_RDWR)


# what is large, and what is left


def test_what_is_too_large_is_refused_and_what_is_just_not_is_kept(database: str) -> None:
    async def scenario() -> None:
        async with opened(database) as store:
            large = Record(id="large", kind="episode", data=bytes(limits.LARGEST), at=1)
            await store.put(MINE, [large, record("a", MINE)])
            [found] = await store.get(MINE, ["large"])
            assert len(found.data) == limits.LARGEST
            with pytest.raises(RecordTooLarge):
                await store.put(MINE, [Record(id="larger", kind="episode", data=large.data + b"x", at=1)])
            with pytest.raises(RecordTooLarge, match="200 bytes"):
                await store.put(MINE, [record("".join(map(chr, range(3000))), MINE)])
            assert len(await store.page(MINE)) == 2

    asyncio.run(scenario())


def test_a_put_into_a_large_partition_looks_at_its_own_ids_alone(database: str) -> None:
    """Which of many are there is found by the index, and not by reading the partition for each of them."""

    async def scenario() -> None:
        async with opened(database) as store:
            await store.put(MINE, [record(f"{n:05}", MINE) for n in range(5000)])

            async def read() -> int:
                with admin(database) as c:
                    c.execute("SELECT pg_stat_clear_snapshot()")
                    query = (
                        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'records_pkey'"
                    )
                    return int(c.execute(query).fetchall()[0][0] or 0)

            await store.close()
            await store.open()
            before = await read()
            await store.put(MINE, [record(f"{n:05}", MINE) for n in range(4900, 5100)])
            await store.close()
            assert await read() - before < 1000
            await store.open()

    asyncio.run(scenario())


def left(dsn: str) -> list[str]:
    """In which files of the tables the canary is."""
    found = []
    with admin(dsn) as c:
        c.execute("CHECKPOINT")
        for name, path in c.execute(
            "SELECT relname, pg_relation_filepath(oid) FROM pg_class WHERE relfilenode <> 0 AND relnamespace IN "
            "('shipworthy_memory'::regnamespace, 'pg_toast'::regnamespace)"
        ).fetchall():
            content = c.execute("SELECT pg_read_binary_file(%s)", (path,)).fetchall()[0][0]
            found += [name] if b"canary" in content or b"tacme/" in content else []
        stats = c.execute(
            "SELECT pg_stats::text FROM pg_stats WHERE schemaname = 'shipworthy_memory'"
        ).fetchall()
        assert not [text for (text,) in stats if "canary" in text or b"tacme/".hex() in text], stats
    return found


def test_what_was_erased_is_gone_from_the_files_after_the_command_that_is_told(database: str) -> None:
    """Also from the indexes, and from what the planner knows; without the command it is still there."""

    async def scenario() -> tuple[str, ...]:
        async with opened(database) as store:
            await store.put(MINE, [record(f"canary {n}", MINE) for n in range(50)])
            if hasattr(store, "nearest"):
                await store.nearest(MINE, record("a", MINE).vector, 1, ["episode"])
            with admin(database) as c:
                c.execute("ANALYZE")
            erased = await store.erase(Scope("acme"))
            assert erased.records == 50
            return erased.remains

    remains = asyncio.run(scenario())
    with admin(database) as c:
        assert rows(c, (MINE,)) == []
    assert left(database)
    command = remains[0][remains[0].index("VACUUM") : remains[0].index(";")]
    with admin(database) as c:
        c.execute(command.encode())
    assert left(database) == []


def test_several_loops_share_a_store_and_a_fork_may_not(database: str) -> None:
    store = PostgresMemoryStore(database)
    asyncio.run(store.open())
    told: list[int] = []

    def loop(n: int) -> None:
        asyncio.run(store.put(Scope("acme", f"{n}"), [record("a", MINE)]))
        told.append(len(asyncio.run(store.page(Scope("acme", f"{n}")))))

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert told == [1] * 6
    assert store._sessions is not None
    store._sessions.forks -= 1
    with pytest.raises(MemoryClosed, match="forked"):
        asyncio.run(store.page(MINE))
    store._sessions.forks += 1
    asyncio.run(store.close())
