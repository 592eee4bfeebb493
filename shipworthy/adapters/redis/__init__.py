"""The ledger in Redis or Valkey, through redis-py."""

from __future__ import annotations

from shipworthy.adapters.redis.ledger import RedisLedger

__all__ = ["RedisLedger"]
