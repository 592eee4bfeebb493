"""Where the ledger and the runs of a proof are, read as they lie: without the adapters that wrote them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import apsw
import msgspec
import psycopg
import redis

from shipworthy.domain.events import AnyEvent
from shipworthy.rules.codec import decode_events

Journal = dict[str, list[AnyEvent]]


class Counter(msgspec.Struct, frozen=True):
    """One counter as it stands."""

    level: str
    tenant: str
    unit: str
    spent: int
    held: int

    @property
    def whose(self) -> tuple[str, str]:
        return self.level, self.tenant


class Reserved(msgspec.Struct, frozen=True):
    """A hold that was charged in full, or is still held: its id, and what it took of each counter."""

    id: str
    state: str
    amounts: dict[tuple[str, str], int]


class Place(Protocol):
    """The servers or files of one proof. `joined`: holds and events are in one database."""

    name: str
    joined: bool

    def address(self, slot: int) -> tuple[str, str]:
        """The runtime of a worker, and its ledger ('' for the runtime's own)."""
        ...

    def counters(self) -> list[Counter]:
        """As they stand, each by itself consistent; none before the first worker has begun."""
        ...

    def unsettled(self) -> list[Reserved]:
        """The holds that nobody has settled."""
        ...

    def journal(self) -> Journal:
        """The events of every run."""
        ...


class Sqlite:
    """Runs and ledger in one file."""

    name, joined = "sqlite", True

    def __init__(self, folder: Path) -> None:
        self._file = folder / "runs.db"
        self._connection: apsw.Connection | None = None

    def address(self, slot: int) -> tuple[str, str]:
        return str(self._file), ""

    def _rows(self, query: str) -> list[Any]:
        if self._connection is None:
            self._connection = apsw.Connection(str(self._file), flags=apsw.SQLITE_OPEN_READWRITE)
            self._connection.set_busy_timeout(5000)
        return self._connection.execute(query).fetchall()

    def counters(self) -> list[Counter]:
        if not self._file.exists() or not self._rows("SELECT 1 FROM sqlite_schema WHERE name = 'counters'"):
            return []
        return [Counter(*row) for row in self._rows("SELECT level, tenant, unit, spent, held FROM counters")]

    def unsettled(self) -> list[Reserved]:
        owners = {
            id_: (level, tenant)
            for id_, level, tenant in self._rows("SELECT id, level, tenant FROM counters")
        }
        return [
            Reserved(
                hold, state, {owners[counter]: amount for counter, amount, _ in msgspec.json.decode(lines)}
            )
            for hold, state, lines in self._rows("SELECT id, state, lines FROM holds WHERE state <> 'done'")
        ]

    def journal(self) -> Journal:
        return _gathered(
            self._rows("SELECT run_id, events FROM runs JOIN journal ON run = key ORDER BY run, first")
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Postgres:
    """Runs and ledger in one database."""

    name, joined = "postgres", True

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)

    def address(self, slot: int) -> tuple[str, str]:
        return self._dsn, ""

    def _rows(self, query: str) -> list[Any]:
        return self._connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]

    def counters(self) -> list[Counter]:
        if self._rows("SELECT to_regclass('shipworthy.balances')") == [(None,)]:
            return []
        found = self._rows(
            "SELECT level, c.tenant, unit, spent, held "
            "FROM shipworthy.counters AS c JOIN shipworthy.balances USING (id)"
        )
        return [Counter(*row) for row in found]

    def unsettled(self) -> list[Reserved]:
        owners = {
            id_: (level, tenant)
            for id_, level, tenant in self._rows("SELECT id, level, tenant FROM shipworthy.counters")
        }
        return [
            Reserved(hold, state, {owners[c]: amount for c, amount in zip(counters, amounts, strict=True)})
            for hold, state, counters, amounts in self._rows(
                "SELECT id, state, counters, amounts FROM shipworthy.holds WHERE state <> 'done'"
            )
        ]

    def journal(self) -> Journal:
        return _gathered(
            self._rows(
                "SELECT run_id, events FROM shipworthy.runs JOIN shipworthy.journal ON run = key ORDER BY run, first"
            )
        )

    def close(self) -> None:
        self._connection.close()


class Redis:
    """A ledger on a Redis server; each worker has a file of its own for its runs, as on a machine of its own."""

    name, joined = "redis", False

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._client = redis.Redis.from_url(url, protocol=2, decode_responses=True)

    def address(self, slot: int) -> tuple[str, str]:
        return str(self._folder / f"runs-{slot}.db"), self._url

    def counters(self) -> list[Counter]:
        fields = ("level", "tenant", "unit", "spent", "held")
        return [
            Counter(level, tenant, unit, int(spent), int(held))
            for level, tenant, unit, spent, held in self._hashes("counter", fields)
        ]

    def unsettled(self) -> list[Reserved]:
        level_of = {f"{key}": found[:2] for key, found in self._named("counter", ("level", "tenant")).items()}
        return [
            Reserved(
                hold,
                state,
                {tuple(level_of[key]): int(amount) for key, _, amount, *_ in msgspec.json.decode(lines)},
            )
            for hold, (state, lines) in self._named("hold", ("state", "lines")).items()
            if state != "done"
        ]

    def _hashes(self, kind: str, fields: tuple[str, ...]) -> Iterable[list[Any]]:
        return self._named(kind, fields).values()

    def _named(self, kind: str, fields: tuple[str, ...]) -> dict[str, list[Any]]:
        """The named fields of every hash of a kind, each read at once."""
        start = f"{{shipworthy}}:{kind}:"
        names = list(self._client.scan_iter(f"{start}*", count=1000))
        return {name.removeprefix(start): self._client.hmget(name, list(fields)) for name in names}  # type: ignore[misc]

    def journal(self) -> Journal:
        found: Journal = {}
        for path in sorted(self._folder.glob("runs-*.db")):
            with contextlib.closing(Sqlite(self._folder)) as file:
                file._file = path
                found |= file.journal()
        return found

    def close(self) -> None:
        self._client.close()


def _gathered(batches: Iterable[tuple[str, bytes]]) -> Journal:
    found: Journal = defaultdict(list)
    for run_id, events in batches:
        found[run_id] += decode_events(events)
    return dict(found)


@contextmanager
def made(name: str, folder: Path) -> Iterator[Any]:
    """A fresh place."""
    with contextlib.ExitStack() as stack:
        place: Any
        match name:
            case "sqlite":
                place = Sqlite(folder)
            case "postgres":
                from tests.servers.postgres import a_database

                place = Postgres(stack.enter_context(a_database()))
            case _:
                from tests.servers.redis import a_redis_database

                place = Redis(folder, stack.enter_context(a_redis_database()))
        stack.callback(place.close)
        yield place
