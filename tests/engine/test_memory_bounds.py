"""What memory takes in a process is bounded: the loop's time, whatever is said or asked, and the room of indexes."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable
from typing import Any

import pytest

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory import indexes, wording
from shipworthy.engine.memory.indexes import Indexes
from shipworthy.engine.memory.memory import Memory, Settings

ALICE = Scope("acme", "alice")
CACHE = 1_000_000


def long_text(seed: int, characters: int) -> str:
    """Words that nobody has said before."""
    drawn = random.Random(seed)
    words = [
        "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=9)) + "ing" for _ in range(characters // 13)
    ]
    return " ".join(words)


async def turns_during(work: Awaitable[Any]) -> int:
    """How many turns others have on the loop meanwhile."""
    turns, done = 0, False

    async def others() -> None:
        nonlocal turns
        while not done:
            await asyncio.sleep(0)
            turns += 1

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    await work
    done = True
    await waiting
    return turns


async def fewest_turns() -> int:
    """Of others while a long text is remembered, while one is asked for, and while all are indexed anew."""
    memory = Memory(InMemoryMemoryStore())
    await memory.remember(ALICE, "Tea.")
    return min(
        await turns_during(memory.remember(ALICE, long_text(1, 20_000))),
        await turns_during(memory.recall(ALICE, long_text(2, 3_900))),
        await turns_during(memory.reindex()),
    )


def test_others_go_on_while_a_long_text_is_remembered_or_asked_for() -> None:
    assert asyncio.run(fewest_turns()) > 1


def test_what_makes_terms_on_the_loop_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "SHORT", 10**9)
    assert asyncio.run(fewest_turns()) == 1


async def held(users: int, texts: int, cache: int = CACHE) -> Indexes:
    """The indexes after so many users were asked about who have so many texts each."""
    memory = Memory(InMemoryMemoryStore(), settings=Settings(cache_bytes=cache))
    for nth in range(users):
        scope = Scope("acme", f"user-{nth}")
        for number in range(texts):
            await memory.remember(scope, "Tea.", id=str(number))
        await memory.recall(scope, "tea")
    return memory._indexes[id(memory.store)]


async def is_bounded() -> bool:
    nobody = await held(300, 0)
    few = await held(600, 1)
    return len(nobody) == nobody.nbytes == 0 and 50 < len(few) <= CACHE // 3_000 and few.nbytes <= CACHE


def test_so_many_indexes_are_held_as_fit_and_none_of_who_has_nothing() -> None:
    assert asyncio.run(is_bounded())


def test_what_is_removed_leaves_no_index() -> None:
    async def law() -> None:
        memory = Memory(InMemoryMemoryStore())
        await memory.remember(ALICE, "Tea.", id="tea")
        assert await memory.recall(ALICE, "tea")
        found = memory._indexes[id(memory.store)]
        assert (len(found), found.nbytes > 0) == (1, True)
        await memory.forget(ALICE, ids=["tea"])
        assert await memory.recall(ALICE, "tea") == []
        assert (len(found), found.nbytes) == (0, 0)

    asyncio.run(law())


@pytest.mark.parametrize("broken", ["BASE", "NOWHERE", "weigh"])
def test_indexes_that_grow_without_bound_are_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match broken:
        case "BASE":
            monkeypatch.setattr(indexes, "BASE", 0)
        case "NOWHERE":
            monkeypatch.setattr(indexes, "NOWHERE", None)
        case _:
            monkeypatch.setattr(Indexes, "_weigh", lambda self, scope, held: None)
    assert not asyncio.run(is_bounded())


def test_a_process_that_was_forked_recalls_too() -> None:
    script = """
import asyncio, os
from shipworthy import Episode, InMemoryMemory, Scope

async def law():
    memory = InMemoryMemory(embedder=None)
    said = [Episode(id=str(n), text=f"thing number {n} happened " + "word " * 200, at=n) for n in range(600)]
    await memory.keep(Scope("acme", "alice"), said)
    assert await asyncio.wait_for(memory.recall(Scope("acme", "alice"), "thing number 5 " * 60), 30)

asyncio.run(law())
if (child := os.fork()) == 0:
    try:
        asyncio.run(law())
    except BaseException:
        os._exit(1)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=100)
    assert done.returncode == 0
