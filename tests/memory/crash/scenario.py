"""The scenario: a clerk who remembers and learns, whose model says something else each time that it is asked, and the
places where its memory may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import Agent, RunContext, Scope, ScriptedModel, ToolCall, tool
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.app.configuration import Tuning
from shipworthy.domain.journal import Batch, Claim, Fence
from shipworthy.domain.ledger import Outcome
from shipworthy.domain.memory import Erased, Level, Mark, Record, Stamp
from shipworthy.domain.model import ModelRequest
from shipworthy.engine.memory.memory import Memory, Settings
from shipworthy.engine.runtime import Runtime
from shipworthy.ports.embedder import Embedder
from shipworthy.ports.memory import MemoryStore
from shipworthy.ports.store import Store
from shipworthy.rules.learning import learning_of
from shipworthy.testing.faults import Acknowledged, PointedStore, Points
from tests.crash.scenario import append

Kind = Literal["same", "own", "postgres", "redis", "dynamodb"]
KINDS: tuple[Kind, ...] = ("same", "own", "postgres", "redis", "dynamodb")
WRITES = frozenset(
    ("put_item", "update_item", "delete_item", "batch_write_item", "transact_write_items", "create_table")
)
"""Requests to DynamoDB that change something: what one call of its store does takes several of them."""
TIMES = re.compile(r"\d+ times")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a memory is: in the runtime's file, in one of its own, or on a server at *address*, under *name*."""

    kind: Kind = "same"
    address: str = ""
    name: str = ""

    def store(self, folder: Path) -> MemoryStore:
        """A new store, as another process would have it."""
        match self.kind:
            case "same" | "own":
                file = "runs.db" if self.kind == "same" else "memory.db"
                return SqliteMemoryStore(folder / file, durability="process")
            case "postgres":
                from shipworthy.adapters.postgres.memory import PostgresMemoryStore

                return PostgresMemoryStore(self.address)
            case "redis":
                from shipworthy.adapters.redis.memory import RedisMemoryStore

                return RedisMemoryStore(self.address, prefix=self.name)
            case "dynamodb":
                from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
                from tests.servers.dynamodb import client

                return DynamoDBMemoryStore(self.name, client=client(self.address), create=True)

    def memory(
        self, folder: Path, embedder: Embedder | None, points: Points, *, by_kind: bool, **settings: Any
    ) -> Memory:
        """A memory on it, whose writes are numbered, *by_kind* of what they write or all together."""
        store: Any = PointedMemory(self.store(folder), points, by_kind=by_kind)
        return Memory(store, embedder=embedder, settings=Settings(**settings))


class Saying(msgspec.Struct, frozen=True):
    """One run: what a user says, in a session."""

    run: str
    session: str
    text: str
    user: str = "alice"


MOVING = (
    Saying("r1", "one", "I live in Oslo, and I like tea."),
    Saying("r2", "two", "I live in Bergen now, and I like tea."),
)
"""Two sessions of one user: the second says again what the first said, and that something else is not so any more."""


# the model and its tool


class Sink:
    """What happened outside, in files that only grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def asked(self, run_id: str, text: str) -> int:
        """The model was asked so; how often it was by now."""
        path = self._folder / "asked"
        append(path, (run_id, text))
        return len(path.read_bytes().splitlines())


def facts_of(said: str) -> list[dict[str, Any]]:
    """What is to be learned of a text: a single home, and what somebody likes or has."""
    found = []
    for predicate, object_ in re.findall(r"\b(live in|like|have) (\w+)", said):
        found.append((predicate.replace("live", "lives"), object_, predicate == "live in"))
    return [
        {"subject": "user", "predicate": predicate, "object": object_, "single": single, "confidence": 0.9}
        for predicate, object_, single in found
    ]


def booked(said: str) -> str:
    """What is booked: the last home or thing that is spoken of."""
    found: str = re.findall(r"(?:live in|have) (\w+)", said)[-1]
    return found


def model(folder: Path, points: Points, names: dict[str, str]) -> ScriptedModel:
    """Books first and answers then, and learns. However often it was asked is in what it says."""
    sink = Sink(folder)

    def said(request: ModelRequest) -> str:
        return "\n".join([message.text for message in request.messages])

    def turn(request: ModelRequest) -> Any:
        with points.around(f"ask {names.get(request.run_id, request.run_id)}"):
            times = sink.asked(request.run_id, said(request))
        if "extract facts" in request.instructions:
            noted = {
                "subject": "note",
                "predicate": "was made after",
                "object": f"{times} times",
                "single": False,
                "confidence": 0.9,
            }
            return ToolCall("final_answer", {"facts": [*facts_of(said(request)), noted]})
        if not request.ordinal:
            return ToolCall("book", {"what": booked(said(request))})
        return f"It is booked. I was asked {times} times."

    return ScriptedModel([turn] * 4)


def booking(points: Points, names: dict[str, str]) -> Any:
    """A tool that changes something, and may do so twice."""

    @tool(effect="idempotent")
    async def book(ctx: RunContext[Any], what: str) -> str:
        """Book."""
        with points.around(f"book {names.get(ctx.run_id, ctx.run_id)}"):
            pass
        return f"Booked {what}."

    return book


def agent(
    folder: Path, runtime: Runtime, memory: Memory, points: Points, names: dict[str, str], **options: Any
) -> Agent[Any, str]:
    """The clerk."""
    return Agent(
        "Be brief.",
        name="clerk",
        model=model(folder, points, names),
        tools=[booking(points, names)],
        runtime=runtime,
        memory=memory,
        auto_extract=True,
        tuning=Tuning(recover_every=0.05),
        **options,
    )


def names_of(tenant: str, runs: Sequence[str]) -> dict[str, str]:
    """How the runs, and those that learn from them, are called in the names of points."""
    return {run: run for run in runs} | {learning_of(tenant, run): f"learning of {run}" for run in runs}


# points


class NamedPoints(PointedStore):
    """Durable writes to journals, numbered for each run, so that they are the same ones whichever run goes first."""

    def __init__(self, store: Store, points: Points, names: dict[str, str]) -> None:
        super().__init__(store, points, _nobody)
        self._names = names

    def _named(self, what: str, run_id: str) -> Any:
        return self._points.around(f"{what} {self._names.get(run_id, run_id)}")

    async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
        with self._named("begin", run_id):
            return await self._store.begin(scope, run_id, batch, token)

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        with self._named("claim", run_id):
            return await self._store.claim(scope, run_id)

    async def release(self, fence: Fence) -> None:
        with self._named("release", fence.run_id):
            await self._store.release(fence)

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        with self._named("commit", fence.run_id):
            return await self._store.commit(fence, batch)


_nobody: Acknowledged = lambda scope, run_id, events: None  # noqa: E731


class PointedMemory:
    """A memory store whose durable writes are numbered, by what they write."""

    def __init__(self, store: MemoryStore, points: Points, *, by_kind: bool) -> None:
        self._store, self._points, self._by_kind = store, points, by_kind
        server: Any = getattr(store, "_server", None)
        if hasattr(server, "ask"):
            self._number_requests(server)

    def _number_requests(self, server: Any) -> None:
        ask = server.ask

        def pointed(operation: str, **request: Any) -> Any:
            if operation not in WRITES:
                return ask(operation, **request)
            with self._points.around(f"dynamodb {operation}"):
                return ask(operation, **request)

        server.ask = pointed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        if not records:
            return await self._store.put(scope, records, replace=replace, at=at)
        with self._points.around(f"put {records[0].kind}" if self._by_kind else "put"):
            return await self._store.put(scope, records, replace=replace, at=at)

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        with self._points.around("remove"):
            return await self._store.remove(scope, ids)

    async def erase(self, scope: Scope) -> Erased:
        with self._points.around("erase"):
            return await self._store.erase(scope)

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        with self._points.around("stamp"):
            return await self._store.stamp(wanted, replace=replace)


__all__ = ["KINDS", "MOVING", "Level", "NamedPoints", "Place", "Saying", "agent", "names_of"]
