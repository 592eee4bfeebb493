"""Where a budget's counters are kept, by the text that names the place."""

from __future__ import annotations

import os

from shipworthy.errors import ConfigurationError
from shipworthy.ports.ledger import Ledger
from shipworthy.ports.store import Store


def check_ledger(place: str) -> None:
    """Raises ConfigurationError for a text that names no ledger."""
    kind, _, rest = place.partition(":")
    if place == "inmemory" or (
        kind in ("sqlite", "postgres", "postgresql", "redis", "rediss") and rest.strip("/ ")
    ):
        return
    raise ConfigurationError(
        f"ledger={kind!r}... is not a place for a ledger.",
        fix='Use "inmemory", "sqlite:./bot.db", "postgres://user@host/database" or "redis://host".',
    )


def is_same_place(place: str, store: Store) -> bool:
    """Whether a ledger is asked for where the runs are. `store.place` is what a store of ours says of itself. Raises
    ConfigurationError."""
    at = getattr(store, "place", "")
    if place.startswith("sqlite:"):
        return bool(at == f"sqlite:{os.path.realpath(place.removeprefix('sqlite:'))}")
    if place.startswith("postgres") and at.startswith("postgres:"):
        from shipworthy.adapters.postgres.place import place_of

        return bool(at == place_of(place))
    return False


def make_ledger(place: str) -> Ledger:
    """A ledger of its own, from the text that names it. Raises ConfigurationError, MissingExtra."""
    kind, _, rest = place.partition(":")
    if kind == "inmemory":
        from shipworthy.adapters.inmemory.ledger import InMemoryLedger

        return InMemoryLedger()
    if kind in ("redis", "rediss"):
        from shipworthy.adapters.redis.ledger import RedisLedger

        return RedisLedger(place)
    from shipworthy.app.runtimes import PostgresRuntime, SqliteRuntime

    return (SqliteRuntime(rest) if kind == "sqlite" else PostgresRuntime(place)).store.ledger
