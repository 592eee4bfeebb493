"""The durable store on PostgreSQL, through psycopg 3."""

from __future__ import annotations

from shipworthy.adapters.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
