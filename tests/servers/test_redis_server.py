"""The Valkey servers that tests start are as they say, and gone afterwards."""

from __future__ import annotations

import psutil
import pytest
import redis
from redis.exceptions import ConnectionError

from tests.servers.redis import OwnRedis
from tests.servers.session import CannotStart


def test_a_server_keeps_what_it_acknowledged_when_it_is_killed() -> None:
    with OwnRedis(maxmemory="64mb") as server, server.client() as client:
        client.set("kept", "1")
        before = server.pid

        server.kill()

        assert not psutil.pid_exists(before)
        with pytest.raises(ConnectionError):
            client.get("kept")
        server.start()
        assert client.get("kept") == "1"
        assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
        last = server.pid
    assert not psutil.pid_exists(last)


def test_a_database_is_empty_for_each_test(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_what_one_test_left_is_gone_for_the_next(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        assert client.dbsize() == 0


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(CannotStart, match="nonsense"), OwnRedis(nonsense="1"):
        pass
