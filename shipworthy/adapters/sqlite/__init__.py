"""The durable store on one SQLite file, through apsw."""

from __future__ import annotations

from shipworthy.adapters.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
