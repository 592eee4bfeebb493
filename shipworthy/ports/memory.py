"""The memory store: records of tenants and users, each in its partition.

A store knows nothing of words and vectors: what it keeps is found by an index that is made in the process from
`changes`. Its one duty is that nothing of a partition is ever seen or changed through another. Every method takes the
scope first, and each adapter has one place that stamps it on what is written and asks for it in what is read. Laws that
every adapter keeps are in `shipworthy.testing.contracts.memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from shipworthy.domain.memory import Changes, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope


class Partition(Protocol):
    """One scope's records. An id of another partition is an id that does not exist."""

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        """Keep *records*, durably, whole or not at all. Of an id that is there, what is there stays (so that writing
        again after a crash does nothing), unless *replace*. *at*: what the writer had read of the partition. Gives the
        partition's mark.

        Raises MemoryConflict if the partition is not at *at* any more, MemoryFull, RecordTooLarge: for a record of more
        than 16 MiB (of a store that takes less, less), an id of more than 200 bytes, and a scope whose tenant, user or
        session has more than 512.
        """
        ...

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        """Those that are there, in the order of *ids*."""
        ...

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        """What an index has to know, at most *limit* entries (and one at least), and none after some 1 MiB:
        `more` says whether there are others. A record that was replaced comes again with a higher `n`.
        Another `epoch` than the partition's: everything from the beginning, with `reset`. A partition that has nothing
        gives NOWHERE, with `reset` if *since* is elsewhere."""
        ...

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        """Records by growing `n`, only those above *after*."""
        ...

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        """Forget records; how many there were. The partition gets another epoch if there was any. A store may
        forget many in slices, each at once; doing it again after it was interrupted completes it."""
        ...


class Partitions(Protocol):
    """Finding and emptying partitions."""

    async def within(self, scope: Scope) -> list[Scope]:
        """The partitions that have records: the scope's own, and those of its sessions, or of its users and theirs."""
        ...

    async def erase(self, scope: Scope) -> Erased:
        """Forget the scope's partition and all those within it, so that no byte of them is left where the store can
        reach it. Doing it again after it was interrupted completes it."""
        ...

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        """Some partitions of every tenant in a fixed order, each with its place, only those whose place is above
        *after*. None: that was all."""
        ...


class MemoryStore(Partition, Partitions, Protocol):
    """Partitions in one place. `name` says which, for people, and without a password."""

    @property
    def name(self) -> str: ...

    async def open(self) -> None:
        """Make ready, once; calling again does nothing; several processes may do so at once. Raises a MemoryStoreError
        that says what is wrong."""
        ...

    async def close(self) -> None:
        """Give up connections; what was acknowledged is durable."""
        ...

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        """The store's stamp; *wanted* becomes it if there is none, or with *replace*."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A store that knows without waiting whether anybody wrote, so that those who read need not ask for changes."""

    def version(self) -> tuple[int, int] | None:
        """The same as before only if nobody, in whatever process, wrote anything in between. None: that is not known
        now."""
        ...


@runtime_checkable
class Nearest(Protocol):
    """A store that ranks vectors itself, for partitions that are too large to be indexed in the process."""

    async def nearest(
        self, scope: Scope, vector: bytes, limit: int, kinds: Sequence[Kind]
    ) -> list[tuple[str, float]]:
        """Ids and cosines of the records of the partition whose vectors are nearest, exactly, best first."""
        ...
