"""What a memory in Redis does where something fails: nothing acknowledged is lost, or escapes an erasure."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import redis

from shipworthy.adapters.redis import memory
from shipworthy.adapters.redis.connection import Script
from shipworthy.adapters.redis.memory import RedisMemoryStore
from shipworthy.domain.memory import Kind, Mark, Record
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import (
    ConfigurationError,
    MemoryClosed,
    MemoryConflict,
    MemoryForeign,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    RecordTooLarge,
)
from tests.servers.proxy import How, Proxy
from tests.servers.redis import OwnRedis
from tests.servers.session import free_port

ROOT = Path(__file__).parents[2]
ACME, ALICE = Scope("acme"), Scope("acme", "alice")
OPERATOR = Operator("tests")
SECRET = "hunter2-and-more"
LOST: tuple[How, ...] = ("lose the request", "lose the answer", "stall")


def record(id: str, text: str = "said", size: int = 0) -> Record:
    return Record(id=id, kind="episode", data=text.encode() + bytes(size), at=1)


@contextlib.asynccontextmanager
async def opened(server: Any, **options: Any) -> AsyncIterator[RedisMemoryStore]:
    store = RedisMemoryStore(server, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@contextlib.contextmanager
def broken(name: str, old: str, new: str) -> Iterator[None]:
    """The script *name* is changed as told."""
    right = memory._script

    def wrong(asked: str) -> Script:
        script = right(asked)
        if asked != name:
            return script
        assert old in script.text
        return Script(asked, script.text.replace(old, new))

    memory._script = functools.cache(wrong)
    try:
        yield
    finally:
        memory._script = right


def everything_in(url: str) -> bytes:
    """Every key and value there is."""
    found: list[bytes] = []
    with redis.Redis.from_url(url, protocol=2) as client:
        for key in client.scan_iter():
            found += [key, client.dump(key)]
    return b"\n".join(found)


# what is lost on the way


async def a_lost_put_is_done_once(url: str, proxied: str, proxy: Proxy, how: How) -> None:
    async with opened(proxied, timeout=0.3) as store, opened(url) as other:
        first = await store.put(ALICE, [record("a")])
        proxy.fault(b"EVAL", how)
        mark = await store.put(ALICE, [record("a", "new"), record("b")], replace=True, at=first)
        assert proxy.struck == 1
        assert mark == Mark(first.epoch, 3), mark
        assert [found.n for found in await other.page(ALICE)] == [2, 3]


async def a_lost_removal_is_counted_once(url: str, proxied: str, proxy: Proxy, how: How) -> None:
    async with opened(proxied, timeout=0.3) as store:
        for left in (1, 0):
            await store.put(ALICE, [record(str(number)) for number in range(3)])
            proxy.fault(b"EVAL", how)
            assert await store.remove(ALICE, [str(number) for number in range(left, 3)]) == 3 - left
            await store.erase(ALICE)


LOSING = [a_lost_put_is_done_once, a_lost_removal_is_counted_once]


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("law", LOSING)
def test_what_is_lost_on_the_way_is_done_once(law: Any, how: How, redis_url: str) -> None:
    with proxied(redis_url) as proxy:
        asyncio.run(law(redis_url, proxy.dsn(redis_url), proxy, how))


@pytest.mark.parametrize(("law", "name"), [(LOSING[0], "put"), (LOSING[1], "remove")])
def test_a_script_that_does_it_again_is_caught(law: Any, name: str, redis_url: str) -> None:
    with (
        proxied(redis_url) as proxy,
        broken(name, "if known then return known end", ""),
        pytest.raises((AssertionError, MemoryConflict)),
    ):
        asyncio.run(law(redis_url, proxy.dsn(redis_url), proxy, "lose the answer"))


def proxied(url: str) -> Proxy:
    return Proxy(int(url.rpartition(":")[2].partition("/")[0]))


# the directory


class Interrupted(RedisMemoryStore):
    """One that lets others do something right after its first script of the name *at*."""

    def __init__(self, url: str, at: str, others: Callable[[], Any]) -> None:
        super().__init__(url)
        self.at, self.others = at, others

    async def _directory(self, name: str, *arguments: Any) -> Any:
        return await self._then(name, await super()._directory(name, *arguments))

    async def _partition(self, name: str, scope: Scope, *arguments: Any) -> Any:
        return await self._then(name, await super()._partition(name, scope, *arguments))

    async def _then(self, name: str, said: Any) -> Any:
        if name == self.at:
            self.at = ""
            await self.others()
        return said


async def an_erasure_between_leaves_no_partition_unlisted(url: str) -> None:
    """Of who has registered a partition and is about to make it."""
    async with opened(url) as other:
        store = Interrupted(url, "register", lambda: other.erase(ACME))
        await store.put(ALICE, [record("a")])
        assert await other.within(ACME) == [ALICE]
        await store.close()


async def who_leaves_does_not_unlist_a_partition_made_meanwhile(url: str) -> None:
    """Wherever between the steps that is, of a removal and of an erasure."""
    async with opened(url) as other:
        for at in ("remove", "places", "has", "erase"):
            store = Interrupted(url, "", lambda: other.put(ALICE, [record("b")]))
            await store.put(ALICE, [record("a")])
            store.at = at
            await (store.erase(ALICE) if at == "erase" else store.remove(ALICE, ["a"]))
            assert await other.within(ACME) == [ALICE], at
            assert len(await other.page(ALICE)) == 1
            await other.erase(ACME)
            await store.close()


async def who_was_removed_leaves_no_place(url: str) -> None:
    async with opened(url) as store:
        await store.put(ALICE, [record("a")])
        await store.remove(ALICE, ["a"])
    with redis.Redis.from_url(url, protocol=2) as client:
        assert not client.keys("*places") + client.keys("*registered")


LISTED = [
    an_erasure_between_leaves_no_partition_unlisted,
    who_leaves_does_not_unlist_a_partition_made_meanwhile,
    who_was_removed_leaves_no_place,
]


@pytest.mark.parametrize("law", LISTED)
def test_the_directory_has_every_partition_and_no_other(law: Any, redis_url: str) -> None:
    asyncio.run(law(redis_url))


@pytest.mark.parametrize(
    ("law", "name", "old", "new"),
    [
        (LISTED[0], "put", "not opening or opening ~= drawn", "drawn == ''"),
        (LISTED[0], "erase", "OPENING, ANSWERS, ", ""),
        (LISTED[1], "drop", "== ARGV[2]", ""),
        (LISTED[2], "drop", "== ARGV[2]", "== ''"),
    ],
)
def test_a_directory_that_forgets_is_caught(law: Any, name: str, old: str, new: str, redis_url: str) -> None:
    with broken(name, old, new), pytest.raises(AssertionError):
        asyncio.run(law(redis_url))


def test_of_what_was_erased_no_byte_is_left(redis_url: str) -> None:
    async def scenario() -> None:
        async with opened(redis_url) as store:
            whose = [Scope("canary"), Scope("canary", "bird"), Scope("canary", "bird", "song")]
            for scope in (*whose, ACME):
                mark = await store.put(scope, [record("sings", f"sung by {scope.tenant}")])
                await store.put(scope, [record("flies")], at=mark)
            await store.remove(whose[1], ["sings", "flies"])
            erased = await store.erase(whose[0])
            assert erased.records == 4
            assert any(["BGREWRITEAOF" in said for said in erased.remains])
            assert b"canary" not in everything_in(redis_url)
            assert b"sung by acme" in everything_in(redis_url)

    asyncio.run(scenario())


async def every_kind_is_erased(url: str) -> None:
    async with opened(url) as store:
        canary = Scope("acme", "canary")
        every = [Record(id=kind, kind=kind, data=b"sung", at=1) for kind in get_args(Kind)]
        for empty in (lambda: store.erase(canary), lambda: store.remove(canary, get_args(Kind))):
            await store.put(canary, every)
            await empty()
            assert b"canary" not in everything_in(url)


def test_of_no_kind_a_key_is_left(redis_url: str) -> None:
    asyncio.run(every_kind_is_erased(redis_url))


def test_a_kind_that_the_scripts_do_not_know_is_caught(redis_url: str) -> None:
    with broken("erase", ", 'topic'", ""), pytest.raises(AssertionError):
        asyncio.run(every_kind_is_erased(redis_url))


class Measured(RedisMemoryStore):
    """Knows how many ids one script had at most."""

    most = 0

    async def _partition(self, name: str, scope: Scope, *arguments: str | int | bytes) -> Any:
        if name != "put":
            self.most = max(self.most, len(arguments))
        return await super()._partition(name, scope, *arguments)


async def much_is_looked_for_and_removed_in_slices(url: str) -> None:
    store = Measured(url)
    ids = [f"{number}" for number in range(1_200)]
    await store.put(ALICE, [record(id) for id in ids])
    assert [found.id for found in await store.get(ALICE, ids)] == ids
    assert await store.remove(ALICE, ids[1:]) == 1_199
    assert [found.id for found in await store.page(ALICE)] == ["0"]
    await store.close()
    assert store.most <= 510


def test_a_server_has_time_for_others_while_one_forgets(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(much_is_looked_for_and_removed_in_slices(redis_url))
    monkeypatch.setattr(memory, "SLICE", 10**6)
    with pytest.raises(AssertionError):
        asyncio.run(much_is_looked_for_and_removed_in_slices(redis_url))


async def what_came_after_a_loss_is_not_missed(server: OwnRedis) -> None:
    """The latest records are lost with the server, and as many others come, with their numbers."""
    async with opened(server.url, patience=30.0) as store:
        await store.erase(ALICE)
        await store.put(ALICE, [record("kept")])
        with redis.Redis.from_url(server.url, protocol=2) as client:
            client.save()
        known = await store.put(ALICE, [record("lost"), record("lost too")])
        server.kill()
        await asyncio.to_thread(server.start)
        ahead = await store.changes(ALICE, known)
        await store.put(ALICE, [record("new"), record("newer"), record("newest")])
        for news in (ahead, await store.changes(ALICE, known)):
            assert news.reset
        assert [entry.id for entry in (await store.changes(ALICE, known)).entries] == [
            "kept",
            "new",
            "newer",
            "newest",
        ]


def test_who_lived_through_the_loss_of_a_server_misses_nothing() -> None:
    with OwnRedis(appendonly="no", save="") as server:
        asyncio.run(what_came_after_a_loss_is_not_missed(server))
        with broken("put", "if before then", "if false then"), pytest.raises(AssertionError):
            asyncio.run(what_came_after_a_loss_is_not_missed(server))


def test_keys_of_a_partition_are_on_one_node_of_a_cluster() -> None:
    """On a real cluster of one node, which refuses a script that reaches into two slots."""

    async def scenario(url: str) -> None:
        from redis.asyncio import RedisCluster

        async with opened(lambda: RedisCluster.from_url(url)) as store, opened(url, prefix="b") as other:
            for each in (store, other):
                await each.put(ALICE, [record("a"), record("b")])
                await each.put(ACME, [record("a")])
                assert await each.remove(ALICE, ["a"]) == 1
                assert len(await each.within(ACME)) == len(await each.everything(OPERATOR)) == 2
            assert (await store.erase(ACME)).records == 2
            assert len(await other.within(ACME)) == 2

    with OwnRedis(cluster_enabled="yes") as server, server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
            pass
        asyncio.run(scenario(server.url))


# processes that are killed

WRITES = """
import asyncio, sys
from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Scope
from shipworthy.adapters.redis.memory import RedisMemoryStore

async def main(url, what):
    store = RedisMemoryStore(url)
    await store.open()
    print("ready", flush=True)
    if what == "erase":
        await store.erase(Scope("acme"))
    else:
        for turn in range(10_000):
            said = f"turn {turn}".encode()
            records = [Record(id=str(n), kind="episode", data=said, at=1) for n in range(30)]
            await store.put(Scope("acme", "alice"), records, replace=True)
            print(turn, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def killed(url: str, what: str, after: float) -> str:
    """What a process says that is killed so many seconds after it was ready."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITES, url, what], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        return process.stdout.read()


def test_a_process_that_is_killed_leaves_whole_puts(redis_url: str) -> None:
    async def scenario() -> None:
        for round_ in range(2):
            turns = killed(redis_url, "put", 0.1 + random.Random(round_).random() / 10).split()
            async with opened(redis_url) as store:
                found = await store.page(ALICE)
                assert len(found) == 30
                assert len({one.data for one in found}) == 1
                assert int(found[0].data.split()[1]) >= int(turns[-1])
                await store.erase(ALICE)

    asyncio.run(scenario())


def test_an_erasure_whose_process_was_killed_is_completed_by_the_next(redis_url: str) -> None:
    async def scenario() -> None:
        for after in (0.0, 0.01):
            async with opened(redis_url) as store:
                for number in range(150):
                    await store.put(Scope("acme", f"canary {number}"), [record("a")])
                killed(redis_url, "erase", after)
                left = await store.within(ACME)
                assert (await store.erase(ACME)).records <= len(
                    left
                )  # its last request may still be under way
                assert b"canary" not in everything_in(redis_url)

    asyncio.run(scenario())


def test_a_killed_server_comes_back_with_all_that_was_acknowledged() -> None:
    async def scenario(server: OwnRedis) -> None:
        async with opened(server.url, patience=30.0) as store:
            mark = await store.put(ALICE, [record(str(number), size=500) for number in range(50)])
            before = await store.page(ALICE)
            server.kill()
            going_on = asyncio.create_task(store.put(ALICE, [record("later")], at=mark))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            later = await going_on
            assert later.n == mark.n + 1
            assert (await store.page(ALICE))[:50] == before

    with OwnRedis() as server:
        asyncio.run(scenario(server))


# servers that cannot be used


def failed(url: Any, **options: Any) -> MemoryStoreError:
    """The error of a memory that cannot be used."""

    async def scenario() -> MemoryStoreError:
        store = RedisMemoryStore(url, **{"patience": 0.0} | options)
        with pytest.raises(MemoryStoreError) as raised:
            await store.put(ALICE, [record("a")])
        await store.close()
        assert SECRET not in f"{raised.value} {raised.value!r} {store!r} {store.name}"
        assert raised.value.__context__ is None
        assert raised.value.fix
        return raised.value

    return asyncio.run(scenario())


def test_a_server_that_is_away_or_does_not_answer_is_unavailable(redis_url: str) -> None:
    error = failed(f"redis://bot:{SECRET}@127.0.0.1:{free_port()}/0")
    assert isinstance(error, MemoryUnavailable)
    with proxied(redis_url) as proxy:
        proxy.fault(b"EVAL", "stall", times=5)
        assert isinstance(failed(proxy.dsn(redis_url), timeout=0.2), MemoryUnavailable)


def test_who_may_not_is_told_what_would_do() -> None:
    with OwnRedis(requirepass="right") as server:
        assert "user and password" in failed(server.url.replace(":right@", f":{SECRET}@")).fix
    with OwnRedis() as server, server.client() as client:
        client.acl_setuser("bot", enabled=True, passwords=[f"+{SECRET}"], commands=["+info"])
        url = server.url.replace("//", f"//bot:{SECRET}@")
        words = failed(url).fix.partition("ACL SETUSER <user> ")[2].partition(" (")[0]
        rights = words.replace("'", "").replace("<prefix>", "shipworthy").split()
        client.execute_command("ACL", "SETUSER", "bot", *rights)

        async def scenario() -> None:
            async with opened(url) as store:
                await store.put(ALICE, [record("a"), record("b")])
                assert len(await store.page(ALICE)) == 2
                assert await store.remove(ALICE, ["a"]) == 1
                assert (await store.erase(ACME)).records == 1

        asyncio.run(scenario())


def test_a_server_that_only_reads_says_so() -> None:
    with OwnRedis() as primary, OwnRedis(replicaof=f"127.0.0.1 {primary.port}") as replica:
        error = failed(replica.url)
    assert isinstance(error, MemoryReadOnly)
    assert "primary" in error.fix
    with OwnRedis(min_replicas_to_write="1") as server:
        error = failed(server.url)
    assert isinstance(error, MemoryReadOnly)
    assert "its replicas" in error.fix


def test_a_full_server_keeps_what_it_has() -> None:
    async def scenario(server: OwnRedis, client: redis.Redis) -> None:
        async with opened(server.url) as store:
            mark = await store.put(ALICE, [record("a")])
            client.config_set("maxmemory", "1")
            with pytest.raises(MemoryFull) as raised:
                await store.put(ALICE, [record("b")])
            assert "maxmemory" in raised.value.fix
            client.config_set("maxmemory", "0")
            assert await store.put(ALICE, []) == mark

    with OwnRedis() as server, server.client() as client:
        asyncio.run(scenario(server, client))


def test_a_server_that_evicts_keys_is_refused() -> None:
    with OwnRedis(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        assert "noeviction" in failed(server.url).fix


def test_a_server_that_forgets_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(url: str) -> None:
        async with opened(url):
            pass

    with OwnRedis(appendonly="no") as server, caplog.at_level(logging.WARNING, "shipworthy"):
        asyncio.run(scenario(server.url))
    assert "what was remembered since its last snapshot" in caplog.text


def test_what_is_not_a_memory_of_this_format_is_refused(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.hset("{shipworthy:memory}:store", "format", "2")
        assert isinstance(failed(redis_url), MemoryForeign)
        client.flushall()
        client.set("{shipworthy:memory}:store", "mine")
        assert isinstance(failed(redis_url), MemoryForeign)


def test_a_client_that_decodes_is_refused(redis_url: str) -> None:
    from redis.asyncio import Redis

    async def scenario() -> None:
        store = RedisMemoryStore(lambda: Redis.from_url(redis_url, decode_responses=True))
        with pytest.raises(ConfigurationError, match="decode_responses=False"):
            await store.open()
        await store.close()

    asyncio.run(scenario())


def test_what_was_closed_or_is_too_much_is_refused(redis_url: str) -> None:
    async def scenario() -> None:
        async with opened(redis_url) as store:
            with pytest.raises(RecordTooLarge):
                await store.put(ALICE, [record(str(n), size=15 << 20) for n in range(5)])
            await store.put(ALICE, [record("large", size=10 << 20)])
            assert len((await store.get(ALICE, ["large"]))[0].data) > 10 << 20
        with pytest.raises(MemoryClosed):
            await store.page(ALICE)
        await store.open()
        assert len(await store.page(ALICE)) == 1
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("options", [{"prefix": "a{b"}, {"prefix": ""}, {"timeout": 0}, {"patience": -1}])
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RedisMemoryStore("redis://localhost", **options)
