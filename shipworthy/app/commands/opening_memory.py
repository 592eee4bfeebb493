"""Which memory a command means, and opening it to be looked at: nothing is configured by that."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.app.commands import runs
from shipworthy.app.commands.printing import Printer
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.app.embedders import embedder_for, local_is_installed
from shipworthy.app.memories import memory_for
from shipworthy.domain.memory import Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.memory.indexes import Indexes
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.memory.vectors import Vectors
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, EmbedderError, IdentityMissing
from shipworthy.ports.embedder import Embedder, Purpose
from shipworthy.rules.memory.terms import TERMS

KINDS = ("sqlite", "postgres", "postgresql", "redis", "rediss", "valkey", "unix", "dynamodb")
_OPERATOR = Operator("shipworthy memory")


class Unasked:
    """Stands for the embedder of a store's vectors where that one cannot be asked, or need not be."""

    limit = 1

    def __init__(self, name: str) -> None:
        self.name = name

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Any:
        """Raises EmbedderError."""
        raise EmbedderError(f"{self.name} is not asked here.", fix="Name it with --embedder.")

    async def close(self) -> None:
        """Nothing to close."""


WORDS = Unasked("none")
"""Stands for whichever a store has: it is searched by words alone."""


class Looked(Memory):
    """A memory that takes a store as it is: it neither sets nor asks whose vectors are in it until `settle`, so that
    looking configures nothing and erasing is always possible."""

    async def open(self) -> None:
        """Open the stores. Raises MemoryProblem."""
        if self._opened:
            return
        for store in self.stores:
            await store.open()
        self._follow()
        self._opened = True

    async def is_empty(self) -> bool:
        """Whether nobody has anything in it."""
        await self.open()
        return not any([await store.everything(_OPERATOR, "", 1) for store in self.stores])

    async def settle(self) -> None:
        """Hold the embedder to what the stores say, or take the one that they say, as far as it is there. Not for a
        memory that is empty: it would be set. Raises EmbedderChanged."""
        asked = self.vectors.embedder
        for store in self.stores:
            stamp = await store.stamp(Stamp(TERMS))
            if asked is None:
                asked = _known(stamp.embedder)
            elif asked is WORDS:
                asked = Unasked(stamp.embedder) if stamp.embedder else None
            self.vectors = Vectors(asked)
            self.vectors.settle(store.name, stamp)
        self._follow()

    def _follow(self) -> None:
        share = self.settings.cache_bytes // len(self.stores)
        self._indexes = {id(store): Indexes(store, self.vectors.tag, share) for store in self.stores}


class Opened(msgspec.Struct, frozen=True):
    """A memory that is open, and the runtime with its runs where one was named."""

    memory: Looked
    runtime: Runtime | None


def with_memory(
    where: str,
    *,
    as_json: bool,
    work: Callable[[Printer, Opened], Coroutine[Any, Any, int]],
    embedder: str | None = None,
    journals: str | None = None,
) -> int:
    """Do *work* on the memory; gives its exit code."""
    printer = Printer(as_json=as_json)

    async def go() -> int:
        async with opened(where, embedder, journals) as found:
            return await work(printer, found)

    with printer.user_code():
        return asyncio.run(go())


@contextlib.asynccontextmanager
async def opened(where: str, embedder: str | None, journals: str | None) -> AsyncIterator[Opened]:
    """The memory that is meant. Raises ConfigurationError."""
    if is_address(where):
        memory = Looked(existing(where), embedder=named(embedder))
        runtime = None if journals is None else runs.existing(journals)
        try:
            await memory.open()
            yield Opened(memory, runtime)
        finally:
            await memory.close()
        return
    if journals is not None:
        raise ConfigurationError(
            "An agent has a runtime of its own, whose journals are covered.", fix="Leave --journals out."
        )
    refuse_embedder(embedder)
    async with closing(load_agent(where)) as agent:
        own = durable(agent.memory, where)
        memory = Looked(
            own.store, embedder=own.vectors.embedder, fact_store=own.fact_store, settings=own.settings
        )
        await memory.open()
        memory.covers(agent.runtime)  # whose audit log is told of what is done
        yield Opened(memory, agent.runtime)


def is_address(where: str) -> bool:
    """Whether it is the address of a memory, and not where an agent is. Raises ConfigurationError for what is
    neither, and quotes none of it that could be a password."""
    kind, colon, rest = where.partition(":")
    if kind in KINDS or where == "inmemory":
        return True
    if not colon or rest.startswith("//"):
        raise ConfigurationError(
            f"{kind!r} is neither a memory nor an agent.",
            fix="Name sqlite:<path>, postgres://..., redis://..., dynamodb://<table>, or module:agent.",
        )
    return False


def existing(where: str) -> Any:
    """The store at an address: looking must not create a file. Raises ConfigurationError."""
    if where == "inmemory":
        raise ConfigurationError(
            "A memory that is in memory cannot be seen from outside its process.",
            fix="Name one that is kept: sqlite:<path>, postgres://..., redis://... or dynamodb://<table>.",
        )
    path = where.removeprefix("sqlite:")
    if path != where and not os.path.exists(path):
        raise ConfigurationError(f"There is no database at {path}.", fix="Name a file that exists.")
    return memory_for(where).store


def durable(memory: Memory | None, where: str) -> Memory:
    """An agent's memory, if another process can see it. Raises ConfigurationError."""
    if memory is None:
        raise ConfigurationError(f"{where} has no memory.", fix='Give it one: memory="sqlite:./bot.db".')
    if all([isinstance(store, InMemoryMemoryStore) for store in memory.stores]):
        raise ConfigurationError(
            f"The memory of {where} is in its process's own memory and cannot be seen from outside.",
            fix='Give the agent one that is kept: memory="sqlite:./bot.db".',
        )
    return memory


def named(embedder: str | None) -> Embedder | None:
    """The embedder of this name. Raises ConfigurationError, MissingExtra."""
    return WORDS if embedder == "none" else embedder_for(embedder)


def refuse_embedder(embedder: str | None) -> None:
    """Raises ConfigurationError if one is named beside an agent."""
    if embedder is not None:
        raise ConfigurationError("An agent's memory has its own embedder.", fix="Leave --embedder out.")


def whose(tenant: str, user: str | None, session: str | None) -> Scope:
    """Whose memory is meant. Raises IdentityMissing."""
    if session is not None and user is None:
        raise IdentityMissing("A session belongs to a user.", fix="Pass --user as well.")
    return runs.whose(tenant, user, session)


def _known(name: str) -> Embedder | None:
    """The embedder of this name if it asks nobody else; else one that only has the name."""
    if not name:
        return None
    if name.startswith("local:") and local_is_installed():
        local = embedder_for("local")
        if local is not None and local.name == name:
            return local
    return Unasked(name)
