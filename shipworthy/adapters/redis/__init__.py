"""The ledger and the memory store in Redis or Valkey, through redis-py."""

from __future__ import annotations

from shipworthy.adapters.redis.ledger import RedisLedger
from shipworthy.adapters.redis.memory import RedisMemoryStore

__all__ = ["RedisLedger", "RedisMemoryStore"]
