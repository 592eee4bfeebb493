"""Ranking vectors on the server, where it has pgvector: exactly as in the process, and of the partition alone."""

from __future__ import annotations

import array
import asyncio
import random
import struct
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.postgres.memory_statements import STATEMENTS
from shipworthy.domain.memory import Kind, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryStoreError
from shipworthy.ports.memory import Nearest
from tests.memory.postgres_world import MINE, OTHERS, WITHIN, an_owned_database

TAG, OTHER_TAG = b"tag1", b"tag2"
KINDS: tuple[Kind, ...] = ("episode", "fact", "block")
NAN = TAG + struct.pack("<2f", float("nan"), 1.0)


def unit(chance: random.Random, size: int = 8) -> list[float]:
    numbers = [chance.gauss(0, 1) for _ in range(size)]
    length = sum(number * number for number in numbers) ** 0.5
    return [number / length for number in numbers]


def packed(numbers: Sequence[float], tag: bytes = TAG) -> bytes:
    return tag + array.array("f", numbers).tobytes()


def record(id: str, vector: bytes, kind: Kind = "episode") -> Record:
    return Record(id=id, kind=kind, data=b"{}", at=1, vector=vector)


def ranked(
    there: dict[str, Record], query: bytes, limit: int, kinds: Sequence[Kind]
) -> list[tuple[str, float]]:
    """By hand."""
    numbers = array.array("f", query[4:])
    found = [
        (each.id, sum(a * b for a, b in zip(numbers, array.array("f", each.vector[4:]), strict=True)))
        for each in there.values()
        if each.kind in kinds and each.vector[:4] == query[:4] and len(each.vector) == len(query)
    ]
    return sorted(found, key=lambda one: -one[1])[:limit]


def close(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    ids = [id for id, _ in one] == [id for id, _ in other]
    return ids and all(abs(a - b) < 1e-6 for (_, a), (_, b) in zip(one, other, strict=True))


async def wrong(store: PostgresMemoryStore) -> list[str]:
    """After which changes the server ranks otherwise than we do."""
    chance, there, found = random.Random(7), dict[str, Record](), []
    for scope in (WITHIN, *OTHERS):
        await store.put(scope, [record(f"of {scope}", packed(unit(chance))) for _ in range(3)])

    async def compare(when: str) -> None:
        for query in (unit(chance), unit(chance)):
            for limit, kinds in ((5, KINDS), (100, KINDS), (100, ("fact",)), (1, ("episode", "block"))):
                got = await store.nearest(MINE, packed(query), limit, kinds)
                if not close(got, ranked(there, packed(query), limit, kinds)):  # type: ignore[arg-type]
                    found.append(when)

    async def put(records: list[Record], **how: Any) -> None:
        await store.put(MINE, records, **how)
        there.update({each.id: each for each in records})

    await compare("nothing")
    await put([record(f"{n}", packed(unit(chance)), KINDS[n % 3]) for n in range(60)])
    await compare("put")
    await put([record("other", packed(unit(chance), OTHER_TAG)), record("longer", packed(unit(chance, 9)))])
    await store.put(
        MINE, [record("nan", NAN), record("none", b""), record("odd", TAG + b"123"), record("t", TAG)]
    )
    await compare("vectors of others")
    await put([record(f"{n}", packed(unit(chance)), "fact") for n in range(10)], replace=True)
    await compare("replaced")
    await store.remove(MINE, ["1", "2", "3"])
    for id in "123":
        del there[id]
    await compare("removed")
    await store.erase(MINE)
    there.clear()
    await put([record("9", packed(unit(chance)))])
    await compare("erased and written again")
    for query in (b"", TAG, NAN, packed(unit(chance), OTHER_TAG), packed(unit(chance, 9))):
        if await store.nearest(MINE, query, 5, KINDS) != []:
            found.append("what is nobody's vector")
    return found


def judged(dsn: str) -> list[str]:
    async def scenario() -> list[str]:
        store = PostgresMemoryStore(dsn)
        assert not isinstance(store, Nearest), "nobody has asked the server yet"
        await store.open()
        try:
            assert isinstance(store, Nearest)
            return await wrong(store)
        except MemoryStoreError as error:  # vectors of different lengths
            return [error.what]
        finally:
            await store.close()

    return asyncio.run(scenario())


def test_the_server_ranks_as_we_do(database: str) -> None:
    assert judged(database) == []


@pytest.mark.parametrize(
    ("statement", "before", "after"),
    [
        ("nearest", "kind = ANY (%(kinds)b::text[])", "true"),
        ("nearest", "tag = %(tag)b AND", ""),
        ("nearest", "DESC", "ASC"),
        ("nearest", "AND size = %(dimensions)b", "AND embedding IS NOT NULL"),
        ("uncopied", "n > coalesce(", "0 = coalesce("),
    ],
)
def test_a_server_that_ranks_otherwise_is_caught(
    statement: str, before: str, after: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert before in STATEMENTS[statement]
    monkeypatch.setitem(STATEMENTS, statement, STATEMENTS[statement].replace(before, after))
    assert judged(database)


def test_many_who_ask_at_once_are_told_the_same(database: str) -> None:
    """While others write: each vector is copied once, whoever does it."""

    async def scenario() -> None:
        chance = random.Random(3)
        stores = [PostgresMemoryStore(database) for _ in range(2)]
        for store in stores:
            await store.open()
        query = packed(unit(chance))

        async def writes(n: int) -> None:
            await stores[n % 2].put(MINE, [record(f"{n}-{each}", packed(unit(chance))) for each in range(5)])
            await stores[n % 2].remove(MINE, [f"{n}-0"])

        asks = [store.nearest(MINE, query, 3, KINDS) for store in stores for _ in range(8)]
        await asyncio.gather(*[writes(n) for n in range(12)], *asks)
        told = [await store.nearest(MINE, query, 100, KINDS) for store in stores]
        assert told[0] == told[1]
        assert len(told[0]) == 48
        for store in stores:
            await store.close()

    asyncio.run(scenario())


def test_a_server_that_gets_pgvector_later_ranks_what_was_there_before() -> None:
    with an_owned_database(pgvector=False) as dsn:

        async def scenario() -> None:
            chance, vector = random.Random(3), packed(unit(random.Random(4)))
            older = PostgresMemoryStore(dsn)
            await older.open()
            assert not isinstance(older, Nearest)
            await older.put(MINE, [record("a", vector), record("b", packed(unit(chance)))])
            with psycopg.connect(dsn.replace("shipworthy_memory_owner", "postgres"), autocommit=True) as c:
                c.execute("CREATE SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO PUBLIC")
                c.execute("CREATE EXTENSION vector SCHEMA elsewhere")
            newer = PostgresMemoryStore(dsn)
            await newer.open()
            assert isinstance(newer, Nearest)
            await older.put(MINE, [record("c", packed(unit(chance)))])
            [(first, cosine), *others] = await newer.nearest(MINE, vector, 9, KINDS)
            assert (first, round(cosine, 5), len(others)) == ("a", 1.0, 2)
            assert (
                await older.erase(Scope("acme"))
            ).records == 3  # who does not know of the copies takes them along
            with psycopg.connect(dsn.replace("shipworthy_memory_owner", "postgres")) as c:
                assert c.execute("SELECT count(*) FROM shipworthy_memory.vectors").fetchall() == [(0,)]
            await older.close()
            await newer.close()

        asyncio.run(scenario())
