"""What a tenant is told by a memory, and by an agent that uses it, is byte for byte the same whether others use them or
not; and nothing that others said is in it, wherever it came in."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.memory import Episode
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.indexes import Indexes
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import MemoryConflict
from shipworthy.testing.embedders import HashEmbedder
from tests.contracts.test_memory_mutants import MUTANTS
from tests.memory.canaries import overheard
from tests.memory.isolation import World, difference
from tests.memory.places import PLACES
from tests.memory.tenants import Clock, lived

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
STEPS = 4_000 if LONG else 120
AT_ONCE = 60
WORLDS = (
    World("acme", ("globex", "acme2", "acm"), ("alice", "bob"), ("trip", "talk")),
    World("a", ("a/u:b", "a:b", "a%", "A"), ("b", "u:b"), ("c", "b/s:c")),
    World("\u00e9", ("e\u0301", "e", "\u00c9"), ("\u00e9", "e\u0301"), ("\u00c5", "\u212b")),
)


@pytest.mark.parametrize("name", PLACES)
def test_a_tenant_is_told_the_same_alone_and_among_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, chance = Clock(monkeypatch), random.Random(name)

    async def lives(pair: Any) -> None:
        for start in range(0, STEPS, AT_ONCE):
            world, script = (
                WORLDS[start // AT_ONCE % len(WORLDS)],
                [chance.getrandbits(32) for _ in range(AT_ONCE)],
            )
            seen = [
                await lived(world, script, Memory(make(), embedder=HashEmbedder(64)), clock, alone=alone)
                for make, alone in ((pair.alone, True), (pair.among, False))
            ]
            found = difference(world, *seen)
            assert not found, found

    with PLACES[name](tmp_path) as pair:
        asyncio.run(lives(pair))


@pytest.mark.parametrize("name", PLACES)
def test_no_tenant_hears_of_another_ones_canary(name: str, tmp_path: Path) -> None:
    with PLACES[name](tmp_path) as pair:
        heard = asyncio.run(
            overheard(lambda: Memory(pair.alone(), embedder=HashEmbedder(64)), 3 if LONG else 1)
        )
    assert min(heard.values()) > 100, heard


class LooksAround(Memory):
    """Recalls from a partition of somebody else as well."""

    async def recall(self, scope: Scope, query: str, **how: Any) -> Any:
        return await super().recall(scope, query, **how) + await super().recall(
            Scope("globex", "alice"), query
        )


class SaysWhatWasThere(InMemoryMemoryStore):
    """Its errors repeat what was written last."""

    last = b""

    async def put(self, scope: Scope, records: Any, **how: Any) -> Any:
        try:
            mark = await super().put(scope, records, **how)
        except MemoryConflict:
            raise MemoryConflict(f"Somebody else wrote {self.last!r}.") from None
        self.last = records[-1].data if records else self.last
        return mark


class LogsWhatWasThere(InMemoryMemoryStore):
    """Its log repeats what was written last."""

    last = b""

    async def put(self, scope: Scope, records: Any, **how: Any) -> Any:
        logging.getLogger("shipworthy.memory").info("After %s", self.last)
        self.last = records[-1].data if records else self.last
        return await super().put(scope, records, **how)


@pytest.mark.parametrize(
    "broken",
    [
        lambda: LooksAround(InMemoryMemoryStore()),
        lambda: Memory(SaysWhatWasThere()),
        lambda: Memory(LogsWhatWasThere()),
        lambda: Memory(MUTANTS["ForgetsTheTenant"]()),
    ],
    ids=["looks around", "says", "logs", "forgets the tenant"],
)
def test_a_canary_is_heard_where_something_leaks(broken: Any) -> None:
    with pytest.raises(AssertionError, match=r"was told of|hears nothing"):
        asyncio.run(overheard(broken))


async def recalled_at_once(memory: Memory) -> None:
    """Partitions that differ in one name each, and are so large that they are searched on threads, are recalled from at
    once: each finds its own, though another one has it under an id that this one has for something else."""
    scopes = [Scope(*names) for names in ("abc", "xbc", "axc", "abx")]
    for place, scope in enumerate(scopes):
        said = [f"Nothing was said of it on day {nth}." for nth in range(600)]
        said[place] = f"The secret word is with {scope}."
        await memory.keep(scope, [Episode(id=f"{nth}", text=text, at=1) for nth, text in enumerate(said)])
    for _ in range(5):
        asked = scopes * 3
        found = await asyncio.gather(*[memory.recall(scope, "the secret word") for scope in asked])
        for scope, own in zip(asked, found, strict=True):
            assert [one.text for one in own] == [f"The secret word is with {scope}."], f"{scope}: {own}"
    await memory.close()


def test_those_who_recall_at_once_recall_their_own(tmp_path: Path) -> None:
    asyncio.run(recalled_at_once(Memory(SqliteMemoryStore(tmp_path / "m.db", durability="process"))))


@pytest.mark.parametrize("part", ["tenant", "user", "session"])
def test_every_part_of_the_key_of_an_index_is_needed(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that two partitions share is made anew each time; who comes at once sees the other one's."""
    hold = Indexes._hold

    def held(self: Indexes, scope: Scope) -> Any:
        return hold(self, msgspec.structs.replace(scope, **{part: "x"}))

    monkeypatch.setattr(Indexes, "_hold", held)
    with pytest.raises(AssertionError):
        asyncio.run(recalled_at_once(Memory(SqliteMemoryStore(tmp_path / "m.db", durability="process"))))
