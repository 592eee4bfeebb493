"""What a ledger in Redis says of a server that is away, refuses, or would forget."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from shipworthy.adapters.redis import RedisLedger
from shipworthy.domain.ledger import Granted, Refused
from shipworthy.errors import ConfigurationError, LedgerError, LedgerUnavailable
from tests.servers.proxy import Proxy
from tests.servers.redis import OwnRedis
from tests.servers.session import free_port
from tests.stores.redis_holds import OPERATOR, balance, hold, line, opened, settlement

SECRET = "hunter2-and-more"


def failed(url: str | Callable[[], Any], **options: Any) -> LedgerError:
    """The error of a ledger that cannot be used."""

    async def scenario() -> LedgerError:
        ledger = RedisLedger(url, patience=0, **options)
        with pytest.raises(LedgerError) as raised:
            await ledger.reserve(hold("h", 10))
        await ledger.close()
        assert SECRET not in f"{raised.value} {raised.value!r} {ledger!r} {raised.value.__cause__!r}"
        assert raised.value.__context__ is None
        assert raised.value.fix
        return raised.value

    return asyncio.run(scenario())


def test_a_server_that_is_away_is_unavailable() -> None:
    error = failed(f"redis://bot:{SECRET}@127.0.0.1:{free_port()}/0")

    assert isinstance(error, LedgerUnavailable)
    assert "127.0.0.1" in str(error)


def test_a_server_that_does_not_answer_is_unavailable(redis_url: str) -> None:
    with Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        proxy.fault(b"EVAL", "stall", times=5)

        assert isinstance(failed(proxy.dsn(redis_url), timeout=0.2), LedgerUnavailable)
        assert proxy.struck


@pytest.mark.parametrize("counted_whole", [False, True])
def test_a_process_that_was_stopped_asks_again(redis_url: str, *, counted_whole: bool) -> None:
    """However long that was; the mutant counts it against the ledger's patience."""

    async def scenario(proxy: Proxy) -> bool:
        async with opened(proxy.dsn(redis_url), timeout=0.2, patience=1.0) as ledger:
            if counted_whole:
                ledger._server._timeout = 60.0
            proxy.fault(b"EVAL", "stall")
            asking = asyncio.create_task(ledger.reserve(hold("h", 10)))
            while not proxy.struck:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            time.sleep(1.5)  # noqa: ASYNC251 - as if this process were stopped
            try:
                return isinstance(await asking, Granted)
            except LedgerUnavailable:
                return False

    with Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        assert asyncio.run(scenario(proxy)) is not counted_whole


@pytest.mark.parametrize("credentials", [f":{SECRET}@", f"bot:{SECRET}@", ""])
def test_a_wrong_password_is_no_reason_to_wait(credentials: str) -> None:
    with OwnRedis(requirepass="right") as server:
        error = failed(server.url.replace(":right@", credentials))

    assert not isinstance(error, LedgerUnavailable)
    assert "user and password" in error.fix


def test_a_user_with_too_few_rights_is_told_which_ones_suffice() -> None:
    with OwnRedis() as server, server.client() as client:
        client.acl_setuser("bot", enabled=True, passwords=[f"+{SECRET}"], commands=["+info"])
        url = server.url.replace("//", f"//bot:{SECRET}@")

        error = failed(url)

        assert not isinstance(error, LedgerUnavailable)
        words = error.fix.partition("ACL SETUSER <user> ")[2].partition(" (")[0]
        rights = words.replace("'", "").replace("<prefix>", "shipworthy").split()
        client.execute_command("ACL", "SETUSER", "bot", *rights)

        async def scenario() -> None:
            async with opened(url) as ledger:
                await ledger.reserve(hold("h", 10))
                await ledger.settle(settlement("h", 5))
                assert await balance(ledger) == (5, 0)
                assert len(await ledger.show(OPERATOR, "acme", None)) == 1
                await ledger.reset(OPERATOR, line().account, "tokens", "day", "me", "")
                assert len(await ledger.changes(OPERATOR, 5)) == 1
                assert await ledger.sweep(OPERATOR) == 0

        asyncio.run(scenario())


def test_a_replica_says_where_to_go() -> None:
    with OwnRedis() as primary, OwnRedis(replicaof=f"127.0.0.1 {primary.port}") as replica:
        error = failed(replica.url)

    assert isinstance(error, LedgerUnavailable)
    assert "primary" in error.fix


def test_a_server_that_reads_its_data_back_is_waited_for() -> None:
    async def scenario(server: OwnRedis) -> None:
        async with opened(server.url, patience=60) as ledger:
            assert isinstance(await ledger.reserve(hold("h", 10)), Granted)

    with OwnRedis(appendonly="no") as server, server.client() as client:
        for i in range(150):
            client.set(f"k{i}", random.Random(i).randbytes(8192))
        client.save()
        server.stop()
        server.start(ready=False, key_load_delay="20000", loading_process_events_interval_bytes="1024")

        error = failed(server.url)

        assert isinstance(error, LedgerUnavailable)
        assert "reads its data back" in error.fix
        asyncio.run(scenario(server))


def test_a_full_server_reserves_nothing_and_lets_go_of_nothing() -> None:
    async def scenario(server: OwnRedis, client: redis.Redis) -> None:
        async with opened(server.url) as ledger:
            await ledger.reserve(hold("before", 10))
            client.config_set("maxmemory", "1")
            both = line(), line("bob")
            with pytest.raises(LedgerError, match="memory") as raised:
                await ledger.reserve(hold("h", 10, *both))
            assert "maxmemory" in raised.value.fix
            client.config_set("maxmemory", "0")
            assert [await balance(ledger, each) for each in both] == [(0, 10), (0, 0)]
            assert isinstance(await ledger.reserve(hold("h", 10, *both)), Granted)

    with OwnRedis() as server, server.client() as client:
        asyncio.run(scenario(server, client))


def test_a_server_that_cannot_keep_writes_says_so() -> None:
    with OwnRedis(min_replicas_to_write="1") as server:
        error = failed(server.url)

    assert not isinstance(error, LedgerUnavailable)
    assert "its replicas" in error.fix


def test_a_server_that_evicts_keys_is_refused() -> None:
    with OwnRedis(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        error = failed(server.url)

    assert "allkeys-lru" in str(error)
    assert "noeviction" in error.fix


@pytest.mark.parametrize(
    ("settings", "warning"),
    [({"appendonly": "no"}, "snapshot"), ({"appendfsync": "everysec"}, "loses power"), ({}, None)],
)
def test_a_server_that_forgets_is_warned_of(
    settings: dict[str, str], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(url: str) -> None:
        async with opened(url) as ledger:
            await ledger.open()

    with OwnRedis(**settings) as server, caplog.at_level(logging.WARNING, "shipworthy"):
        asyncio.run(scenario(server.url))

    assert len(caplog.records) == (warning is not None)
    assert warning is None or warning in caplog.text


def test_a_server_that_forgot_the_scripts_is_told_them_again(redis_url: str) -> None:
    async def scenario() -> None:
        async with opened(redis_url) as ledger:
            await ledger.reserve(hold("a", 10))
            with redis.Redis.from_url(redis_url, protocol=2) as client:
                client.script_flush()
            await ledger.reserve(hold("b", 10))
            assert await balance(ledger) == (0, 20)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "url",
    [
        f"redis://bot:{SECRET}@host:port/0",
        f"http://bot:{SECRET}@host/0",
        f"redis://bot:{SECRET}@host/0?decode_responses=false",
        f"redis://bot:{SECRET}@host/0?socket_timeout=soon",
    ],
)
def test_an_address_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        RedisLedger(url)

    assert SECRET not in f"{raised.value} {raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.parametrize("options", [{"prefix": "a{b"}, {"prefix": ""}, {"timeout": 0}, {"patience": -1}])
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RedisLedger("redis://localhost", **options)


@pytest.mark.parametrize("one_crowd", [False, True])
def test_a_crowd_is_not_taken_for_a_server_that_is_away(redis_url: str, *, one_crowd: bool) -> None:
    """However many ask at once, each has its whole time once it is its turn; the mutant lets all of them rush for the
    connections."""

    async def scenario() -> bool:
        async with opened(redis_url, timeout=0.3, patience=0.0) as ledger:
            if one_crowd:
                ledger._server._turns = lambda: asyncio.Semaphore(10**6)
            asked = [ledger.reserve(hold(f"h{n}", 1)) for n in range(3_000)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            return all([isinstance(answer, Granted | Refused) for answer in answers])

    assert asyncio.run(scenario()) is not one_crowd
