"""What the laws of a store need: stores, and the runs that they are tried on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from shipworthy.domain.events import ModelAnswered, ModelRequested, RunEnded, RunParked, RunStarted
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.messages import Text
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ShipworthyError
from shipworthy.ports.store import Store


class Workers:
    """Where a law gets its stores: each is another worker of the same data, which is empty at first."""

    def __init__(self) -> None:
        self._made: list[Store] = []

    def make(self, *, lease_ttl: float, clock_skew: float) -> Store:
        """A store that is not open yet. Units: seconds."""
        raise NotImplementedError

    async def kill(self, store: Store) -> None:
        """Let *store*'s worker die as its process would at SIGKILL: nothing is released, no lease renewed."""
        raise NotImplementedError

    async def freeze(self, store: Store) -> None:
        """Let *store*'s worker stop renewing its lease, as its process would at SIGSTOP; it goes on answering."""
        raise NotImplementedError

    async def new(self, *, lease_ttl: float = 10.0, clock_skew: float = 0.5) -> Store:
        """An open store."""
        store = self.make(lease_ttl=lease_ttl, clock_skew=clock_skew)
        self._made.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        """Close every store that was made."""
        for store in self._made:
            await store.close()


Law = Callable[[Workers], Awaitable[None]]


def check(law: Law, workers: Workers) -> None:
    """Hold *workers* to *law*. Raises AssertionError where it is broken."""

    async def run() -> None:
        try:
            await law(workers)
        finally:
            await workers.close()

    asyncio.run(run())


def name(law: Law) -> str:
    """A law's name, for a test's id."""
    return str(getattr(law, "__name__", law))


ALICE = Scope("acme", "alice", "trip")
BOB = Scope("acme", "bob", "trip")
STRANGER = Scope("globex", "alice", "trip")
OPERATOR = Operator("the store's laws")


@contextmanager
def refused(error: type[ShipworthyError]) -> Iterator[None]:
    """What is inside must raise *error*."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised.")


def opening(scope: Scope, run_id: str, at: int = 1000) -> Batch:
    """A run's first batch: two events."""
    started = RunStarted(
        seq=1,
        at=at,
        run_id=run_id,
        tenant=scope.tenant,
        user=scope.user,
        session=scope.session,
        prompt=(Text("Go."),),
    )
    return Batch([started, ModelRequested(seq=2, at=at, ordinal=1, model="test:model")], {})


def answer(seq: int, at: int = 1000) -> Batch:
    """A batch of one event."""
    return Batch([ModelAnswered(seq=seq, at=at, ordinal=seq, parts=(Text(f"Answer {seq}."),))], {})


def ending(seq: int, at: int = 1000, *, joins: bool = True) -> Batch:
    """A run's last batch."""
    return Batch([RunEnded(seq=seq, at=at, status="completed")], {}, status="completed", joins_session=joins)


def parking(seq: int, at: int = 1000) -> Batch:
    """A batch that parks the run."""
    return Batch([RunParked(seq=seq, at=at)], {}, status="paused")


def digest_of(data: bytes) -> str:
    """The name of a body."""
    return hashlib.sha256(data).hexdigest()


async def begun(store: Store, scope: Scope, run_id: str, at: int = 1000) -> Fence:
    """A new run with two events."""
    fence = await store.begin(scope, run_id, opening(scope, run_id, at))
    assert fence is not None, f"run {run_id} exists"
    return fence


async def ended(store: Store, scope: Scope, run_id: str, at: int = 1000, *, joins: bool = True) -> None:
    """A new run that ends at once."""
    await store.commit(await begun(store, scope, run_id, at), ending(3, at, joins=joins))


async def seqs(store: Store, scope: Scope, run_id: str, after: int = 0) -> list[int]:
    """The sequence numbers that reading gives."""
    return [event.seq for event in await store.read(scope, run_id, after)]
