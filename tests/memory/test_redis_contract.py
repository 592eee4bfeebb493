"""The memory store in Redis keeps the laws of its port."""

from __future__ import annotations

import pytest

from shipworthy.adapters.redis.memory import RedisMemoryStore
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory import (
    DURABLE_LAWS,
    LAWS,
    SHARED_LAWS,
    Law,
    MemoryStores,
    check,
    name,
)


class OnRedis(MemoryStores):
    """Stores on one server."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def make(self) -> MemoryStore:
        return RedisMemoryStore(self._url)


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS + DURABLE_LAWS, ids=name)
def test_the_memory_store_in_redis(law: Law, redis_url: str) -> None:
    check(law, OnRedis(redis_url))
