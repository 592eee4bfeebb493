"""Each statement of memory.sql asks by itself for the rows that it is about, whatever row-level security shows.

A superuser, who sees every row, executes each statement for one partition, for all within a scope, and for nobody,
among partitions that differ in their names alone; then where there are no others. What it gives and what it changes is
the same. A statement of which one predicate is taken away is caught, each in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres import memory_session
from shipworthy.adapters.postgres.memory_nearest import Ranking, Vectors, sent
from shipworthy.adapters.postgres.memory_places import place_of_scope
from shipworthy.adapters.postgres.memory_schema import Pgvector
from shipworthy.adapters.postgres.memory_session import Sight, perform, sight_of
from shipworthy.adapters.postgres.memory_statements import STATEMENTS
from shipworthy.domain.scope import Scope
from tests.memory.postgres_world import (
    MINE,
    OTHERS,
    WITHIN,
    admin,
    an_owned_database,
    fill,
    rows,
    session,
    vector,
)

NOT_OF_PARTITIONS = {"enter", "guarded", "take_time", "stamp_once", "stamp_anew", "stamped"}
SCOPED = [name for name in STATEMENTS if name not in NOT_OF_PARTITIONS]
PREDICATE = re.compile(
    r"(?:\w+\.)?place (?:= %\(place\)b|>= %\(within\)b|< %\(beyond\)b)|%\(operator\)b(?= AND)"
)
SIGHTS = {
    "partition": sight_of(MINE),
    "within": sight_of(MINE, within=True),
    "nobody": Sight(),
}
LISTED = ("everything",)


@pytest.fixture(scope="module")
def filled() -> Iterator[psycopg.Connection[Any]]:
    with an_owned_database() as dsn:
        asyncio.run(fill(dsn))
        with admin(dsn) as c:
            [found] = c.execute("SELECT oid, typarray FROM pg_type WHERE typname = 'vector'").fetchall()
            c.adapters.register_dumper(Vectors, Ranking(Pgvector(*found))._dumper)
            yield c


def values(name: str) -> dict[str, Any]:
    """What a caller could give to reach further: marks, tokens, numbers and names that others have as well."""
    every = [place_of_scope(scope) for scope in (MINE, WITHIN, *OTHERS)]
    columns = {
        "ids": [b"a", b"new"],
        "kinds": ["episode", "episode"],
        "ats": [5, 5],
        "weights": [0.5, 0.5],
        "datas": [b"written", b"written"],
        "terms": [b"", b""],
        "vectors": [b"", b""],
    }
    single = {
        "token": 7,
        "at_epoch": 9,
        "at_n": 3,
        "many": 10**6,
        "places": every,
        "data": b"",
        "kind": "episode",
    }
    copied = {"ns": [1, 2], "tags": [b"TAG.", b"TAG."], "sizes": [2, 2]}
    query = sent(vector(1.0, 0.0))
    ranked = {
        "embeddings": Vectors([query, query]),
        "query": Vectors([query]),
        "tag": b"TAG.",
        "dimensions": 2,
    }
    given = {**columns, **single, **copied, **ranked, "epoch": 9, "n": 0, "limit": 100, "bytes": 10**6}
    given["after"] = b"" if name in LISTED else 0
    if name == "copy":
        given["ids"] = [b"a", b"b"]
    if name in ("make", "remove"):
        given["epoch"] = 11
    return given


OURS = f"place = '\\x{place_of_scope(MINE).hex()}'"
PREPARED = {
    "make": f"DELETE FROM shipworthy_memory.partitions WHERE {OURS}",
    "insert": f"DELETE FROM shipworthy_memory.records WHERE {OURS} AND id = 'a'",
    "insert unclaimed": f"UPDATE shipworthy_memory.partitions SET token = 1 WHERE {OURS}",
    "displace unclaimed": f"UPDATE shipworthy_memory.partitions SET token = 1 WHERE {OURS}",
    "tidy": f"DELETE FROM shipworthy_memory.records WHERE {OURS}",
    "erase_records": "DELETE FROM shipworthy_memory.partitions",
    "copy": "DELETE FROM shipworthy_memory.vectors",
    "uncopied": f"DELETE FROM shipworthy_memory.vectors WHERE {OURS} AND n > 1",
}
"""What makes a statement have something to do that it could do wrong."""


def done(
    c: psycopg.Connection[Any], name: str, text: str, sight: Sight, world: str, *, alone: bool
) -> tuple[Any, Any, Any]:
    """What a statement gives, what it makes of our rows, and what is left of the others'."""
    mine = (MINE,) if sight.within is None else (MINE, WITHIN)
    others = tuple(scope for scope in (WITHIN, *OTHERS) if scope not in mine)
    with c.transaction(force_rollback=True):
        if alone:
            every = [place_of_scope(scope) for scope in others]
            for table in ("records", "partitions"):
                c.execute(f"DELETE FROM shipworthy_memory.{table} WHERE place = ANY (%s)".encode(), (every,))
        if world in PREPARED:
            c.execute(PREPARED[world].encode())
        before = rows(c, others)
        try:
            with c.transaction():
                cursor = c.execute(text.encode(), {**values(name), **sight.asked()})
            gave: Any = sorted(map(repr, cursor.fetchall())) if cursor.description else cursor.rowcount
        except psycopg.IntegrityError as error:
            gave = type(error).__name__
        theirs = "left alone" if rows(c, others) == before else "changed"
        return gave, rows(c, mine), theirs


def crossed(c: psycopg.Connection[Any], name: str, text: str) -> list[str]:
    """For which sights the statement does something else among others than alone."""
    found = []
    worlds = [name, *[world for world in PREPARED if world.startswith(f"{name} ")]]
    for world, (who, sight) in itertools.product(worlds, SIGHTS.items()):
        among, alone = [done(c, name, text, sight, world, alone=each) for each in (False, True)]
        found += [who] if among != alone or among[2] != "left alone" else []
    return found


@pytest.mark.parametrize("name", SCOPED)
def test_a_statement_is_about_what_it_is_asked_for(name: str, filled: psycopg.Connection[Any]) -> None:
    assert crossed(filled, name, STATEMENTS[name]) == []


def mutants() -> Iterator[tuple[str, int]]:
    for name in SCOPED:
        yield from [(name, nth) for nth in range(len(PREDICATE.findall(STATEMENTS[name])))]


def without(name: str, nth: int) -> str:
    """The statement, with one of its predicates taken away."""
    found = list(PREDICATE.finditer(STATEMENTS[name]))[nth]
    text = STATEMENTS[name]
    return text[: found.start()] + "true" + text[found.end() :]


@pytest.mark.parametrize(("name", "nth"), [*mutants()])
def test_a_statement_without_one_of_its_predicates_is_caught(
    name: str, nth: int, filled: psycopg.Connection[Any]
) -> None:
    assert crossed(filled, name, without(name, nth)), without(name, nth)


def test_every_statement_has_predicates() -> None:
    """All but those that write what is theirs by value, and those of the store as such."""
    assert {name for name in SCOPED if not PREDICATE.search(STATEMENTS[name])} == {"make"}
    assert set(STATEMENTS) > NOT_OF_PARTITIONS


def test_no_caller_says_whose_rows_it_gets(
    filled: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one place that opens transactions stamps them; a value of the same name does not count."""
    dsn = f"postgresql://postgres@127.0.0.1:{filled.info.port}/{filled.info.dbname}"
    theirs = {"ids": [b"a"], "place": place_of_scope(Scope("globex", "alice"))}

    def asked() -> Any:
        with session(dsn) as c:
            return perform(c, sight_of(MINE), ("get", theirs))[0][0][2]

    assert asked() == f"canary of {MINE}".encode()
    monkeypatch.setattr(memory_session.Sight, "asked", lambda _: {})
    with pytest.raises(IndexError):  # then row-level security shows nothing of it
        asked()
