"""Each adapter, and what in it says whose a record is: what is to be taken away, one thing at a time.

A subject finds its mutants by itself, and lets itself be attacked with some of them made.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import chain, combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import redis

from shipworthy.adapters.postgres.memory import PostgresMemoryStore
from shipworthy.adapters.postgres.memory_places import place_of_scope
from shipworthy.adapters.postgres.memory_session import Sight, enter, perform
from shipworthy.adapters.postgres.memory_statements import STATEMENTS
from shipworthy.adapters.redis.connection import Script
from shipworthy.adapters.shared.places import place_of
from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Scope
from shipworthy.ports.memory import MemoryStore
from tests.memory.attack import ACME, ALICE, ALIKE, NEAR, TRIP, attack, record_of
from tests.memory.mutating import (
    Edit,
    applied,
    conditions,
    is_killed,
    loaded,
    named,
    put_in,
    scope_parts,
    source_of,
    stamps,
    statements_in,
)
from tests.servers.dynamodb import a_dynamodb_table, client
from tests.servers.postgres import a_database
from tests.servers.redis import a_redis_database

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
PATIENCE = 60.0
"""Seconds after which an attack has found something that never ends."""
Attacked = Callable[[Sequence[Edit]], None]
"""Raises what an attack finds where these edits are made."""

Prepared = tuple[list[Edit], Attacked, list[Edit]]
"""What is to be taken away, how to attack what is left, and what else may do the same."""


async def attacked(store: MemoryStore) -> None:
    """Open it, attack it, close it."""
    await store.open()
    try:
        await asyncio.wait_for(attack(store), PATIENCE)
    finally:
        await store.close()


def killed(attack_with: Attacked, edits: Sequence[Edit]) -> bool:
    """Whether the attack finds what the edits do. Raises what is no finding."""
    try:
        attack_with(edits)
    except BaseException as error:
        if is_killed(error):
            return True
        error.add_note(f"with {' and '.join(map(str, edits))}")
        raise
    return False


Partners = dict[Edit, tuple[Edit, ...]]


def survivors(
    attack_with: Attacked, edits: Sequence[Edit], helpers: Sequence[Edit] = ()
) -> tuple[list[Edit], Partners]:
    """Those of *edits* that no attack finds; and those that are found only together with others that do what they do:
    others of *edits*, or of the *helpers* in the same text, of which no attack finds anything without it."""
    alone = [edit for edit in edits if not killed(attack_with, [edit])]
    doubled: Partners = {}
    for edit in alone:
        near = [other for other in (*alone, *helpers) if other.where == edit.where and other is not edit]
        far = [(other,) for other in alone if other.where != edit.where]
        for others in chain(combinations(near, 1), combinations(near, 2), far):
            if killed(attack_with, [edit, *others]) and not killed(attack_with, others):
                doubled[edit] = others
                break
    return [edit for edit in alone if edit not in doubled], doubled


def unneeded(
    attack_with: Attacked,
    edits: Sequence[Edit],
    helpers: Sequence[Edit],
    partners: dict[str, tuple[str, ...]],
) -> list[Edit]:
    """Those of *edits* that no attack finds, with their partners where they are known to have some."""
    named = {str(edit): edit for edit in (*helpers, *edits)}
    return [
        edit
        for edit in edits
        if not killed(attack_with, [edit, *(named[other] for other in partners.get(str(edit), ()))])
    ]


# in memory


@contextmanager
def in_memory(folder: Path) -> Iterator[Prepared]:
    """Its keys are a scope's parts."""
    module = "shipworthy.adapters.inmemory.memory"
    source = source_of(module)
    edits = scope_parts(module, source)
    for nth, found in enumerate(re.finditer(r"owner\[[01]\]|self\._owner\(scope\)\[0\]", source)):
        edits.append(Edit(module, found.start(), found.end(), '""', f"{found.group()}, the {nth + 1}th"))

    def attack_with(made: Sequence[Edit]) -> None:
        with loaded([module], made) as copy:
            asyncio.run(attacked(copy.InMemoryMemoryStore()))

    yield edits, attack_with, []


# SQLite


@contextmanager
def on_sqlite(folder: Path) -> Iterator[Prepared]:
    """Its statements are texts of its modules. All records are on one shelf, so that they can be mixed up."""
    package = "shipworthy.adapters.sqlite."
    schema, records, erasing, store = modules = [
        package + name for name in ("memory_schema", "memory_records", "memory_erasing", "memory")
    ]
    edits: list[Edit] = []
    for module in (records, erasing, store):
        source = source_of(module)
        edits += scope_parts(module, source, apart_from=("_refuse",))
        edits += statements_in(module, source, "1")
    source = source_of(records)
    edits += stamps(records, source, r"\?[123]\b(?=,)", "X''")
    edits += stamps(records, source, r"\(p\.key << 32\)(?= \+ \?4)", "0")
    edits.append(
        named(records, source, """b"" if name is None else b"=" + encoded(name)""", """encoded(name or "")""")
    )
    edits.append(
        named(records, source, """text.encode("utf-8", "surrogatepass")""", """text[:400].encode()""")
    )
    [shelves] = re.finditer(r"(?<=^SHELVES = )\d+$", source_of(schema), re.MULTILINE)
    one_shelf = Edit(schema, shelves.start(), shelves.end(), "1", "SHELVES")
    count = 0

    def attack_with(made: Sequence[Edit]) -> None:
        nonlocal count
        count += 1
        path = folder / f"{count}.db"
        with loaded(modules, [one_shelf, *made]) as copy:
            asyncio.run(attacked(copy.SqliteMemoryStore(path, durability="process")))

    yield edits, attack_with, []


# Postgres

_PYTHON = ("memory_places", "memory_statements", "memory_session", "memory_schema", "memory_writing")
POSTGRES = ["shipworthy.adapters.postgres." + name for name in (*_PYTHON, "memory_nearest", "memory")]
PLACES = POSTGRES[0]
RANKING = "uncopied", "copy", "nearest"
"""Statements for servers with pgvector: see test_postgres_nearest."""


@contextmanager
def in_statements(folder: Path) -> Iterator[Prepared]:
    """Every statement on Postgres, where no policy helps it."""
    edits: list[Edit] = []
    for name, text in STATEMENTS.items():
        if name not in RANKING:
            edits += conditions(name, text, "true")
            edits += stamps(name, text, r"%\(place\)b|(?<=SELECT )p\.place(?=,)", r"'\\x78'::bytea")

    helpers = [
        edit for name, text in STATEMENTS.items() for edit in conditions(name, text, "true", whose=False)
    ]
    with _postgres() as (dsn, admin), asyncio.Runner() as runner:
        store = PostgresMemoryStore(dsn, patience=1.0)
        runner.run(store.open())
        for table in ("partitions", "records"):
            admin.execute(f"ALTER TABLE shipworthy_memory.{table} DISABLE ROW LEVEL SECURITY")

        def attack_with(made: Sequence[Edit]) -> None:
            admin.execute("TRUNCATE shipworthy_memory.partitions, shipworthy_memory.records CASCADE")
            with patch.dict(STATEMENTS, _edited(STATEMENTS, made)):
                runner.run(asyncio.wait_for(attack(store, patience=1.5), PATIENCE))
                runner.run(_touches_its_own(store, admin))
                with enter(store._server) as nobody:
                    everything = perform(nobody, Sight(), ("everything", {"after": b"", "limit": 9}))
                    assert everything == [[]], "everything is seen by who is no operator"

        try:
            yield edits, attack_with, helpers
        finally:
            runner.run(store.close())


async def _touches_its_own(store: MemoryStore, admin: psycopg.Connection[Any]) -> None:
    """No row of another partition is written, marked or locked."""
    for scope in (ACME, TRIP, ALICE):
        await store.put(scope, [record_of("a", "first"), record_of("b", "first")])
    mine, others = place_of_scope(TRIP), None
    for step in ("add at", "add", "replace", "nothing", "remove", "empty", "again", "erase"):
        mark = await store.put(TRIP, [])
        match step:
            case "add at":
                await store.put(TRIP, [record_of(step, step)], at=mark)
            case "replace":
                await store.put(TRIP, [record_of("a", step)], replace=True, at=mark)
            case "nothing" | "remove" | "empty":
                await store.remove(
                    TRIP, {"nothing": ["x"], "remove": ["a"]}.get(step, ["b", "add", "add at"])
                )
            case "erase":
                await store.erase(TRIP)
            case _:
                await store.put(TRIP, [record_of(step, step)])
        found = admin.execute(
            "SELECT place, xmin::text, xmax::text, ctid::text FROM shipworthy_memory.partitions UNION ALL "
            "SELECT place, xmin::text, xmax::text, ctid::text FROM shipworthy_memory.records ORDER BY 1, 4"
        )
        rows = [row for row in found if row[0] != mine]
        assert others in (None, rows), f"after {step} of {TRIP}: {rows}, before: {others}"
        others = rows


@contextmanager
def in_policies(folder: Path) -> Iterator[Prepared]:
    """Every policy on Postgres, where no statement helps it: none asks for a partition."""
    bare = [
        edit
        for name, text in STATEMENTS.items()
        if name not in RANKING
        for edit in conditions(name, text, "true")
    ]
    with _postgres() as (dsn, admin), asyncio.Runner() as runner:
        store = PostgresMemoryStore(dsn, patience=1.0)
        runner.run(store.open())
        found = admin.execute(
            "SELECT tablename, policyname, qual FROM pg_policies WHERE schemaname = 'shipworthy_memory' "
            "AND tablename IN ('partitions', 'records') ORDER BY 1, 2"
        )
        policies = {
            f"{policy} ON shipworthy_memory.{table}": f"WHERE {qual}" for table, policy, qual in found
        }
        edits = [_whole(name, text) for name, text in policies.items()]
        for name, text in policies.items():
            halves = [
                _inner(name, text, half) for half in re.finditer(r"\(place [<>]=? .*?(?=\) AND|\)\)$)", text)
            ]
            edits += halves

        def attack_with(made: Sequence[Edit]) -> None:
            admin.execute("TRUNCATE shipworthy_memory.partitions, shipworthy_memory.records CASCADE")
            changed = _edited(policies, made)
            for name, text in changed.items():
                admin.execute(f"ALTER POLICY {name} USING ({text.removeprefix('WHERE ')})")
            try:
                with patch.dict(STATEMENTS, _edited(STATEMENTS, bare)):
                    runner.run(asyncio.wait_for(attack(store), PATIENCE))
            finally:
                for name in changed:
                    admin.execute(f"ALTER POLICY {name} USING ({policies[name].removeprefix('WHERE ')})")

        try:
            yield edits, attack_with, []
        finally:
            runner.run(store.close())


@contextmanager
def in_names_on_postgres(folder: Path) -> Iterator[Prepared]:
    """What the name of a partition is made of."""
    source = source_of(PLACES)
    edits = scope_parts(PLACES, source)
    for was, instead in (
        ('.replace(b"~", b"~0")', ""),
        ('.replace(b"/", b"~1")', ""),
        (
            'return name.encode("utf-8", "surrogatepass")',
            'return name[:400].encode("utf-8", "surrogatepass")',
        ),
        ('b"s" + encoded', "encoded"),
    ):
        edits.append(named(PLACES, source, was, instead))
    with _postgres() as (dsn, admin):

        def attack_with(made: Sequence[Edit]) -> None:
            admin.execute("DROP SCHEMA IF EXISTS shipworthy_memory CASCADE")
            with loaded(POSTGRES, made) as copy:
                asyncio.run(attacked(copy.PostgresMemoryStore(dsn, patience=1.0)))

        yield edits, attack_with, []


@contextmanager
def _postgres() -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    with a_database() as dsn, psycopg.connect(dsn, autocommit=True) as admin:
        yield dsn, admin


def _edited(texts: Mapping[str, str], made: Sequence[Edit]) -> dict[str, str]:
    return {
        name: applied(texts[name], [edit for edit in made if edit.where == name])
        for name in {edit.where for edit in made}
        if name in texts
    }


def _whole(name: str, text: str) -> Edit:
    return Edit(name, len("WHERE "), len(text), "true", "all of it")


def _inner(name: str, text: str, half: re.Match[str]) -> Edit:
    """One of two bounds, with its parentheses."""
    bound = "from where" if half.group().startswith("(place >") else "up to where"
    return Edit(name, half.start() + 1, half.end(), "true", bound)


# Redis

KEYS, REDIS = "shipworthy.adapters.shared.places", "shipworthy.adapters.redis.memory"


@contextmanager
def on_redis(folder: Path) -> Iterator[Prepared]:
    """What keys are made of, in Python and in Lua, and the ranges of the directory."""
    texts = resources.files("shipworthy.adapters.redis")
    scripts = {
        file.name: file.read_text() for file in texts.iterdir() if re.fullmatch(r"memory\w*\.lua", file.name)
    }
    edits = key_edits()
    source = source_of(REDIS)
    edits += put_in(REDIS, source, "_key")
    edits += [
        named(REDIS, source, "_FIRST % first.encode(), _BELOW % end.encode()", 'b"-", _BELOW % end.encode()'),
        named(REDIS, source, "_BELOW % end.encode()", 'b"+"'),
        named(REDIS, source, "return found + await self._places(", "return found or await self._places("),
    ]
    for name, text in scripts.items():
        edits += [
            Edit(name, found.start(), found.end(), "", f"{found.group()}{text[found.end() :][:12]}")
            for found in re.finditer(r"P \.\. (?=')", text)
        ]
    with a_redis_database() as url:
        count = 0

        def attack_with(made: Sequence[Edit]) -> None:
            nonlocal count
            count += 1
            changed = {**scripts, **_edited(scripts, made)}

            def script(name: str) -> Script:
                text = "\n".join([changed["memory.lua"], changed[f"memory_{name}.lua"]])
                return Script(f"memory_{name}", text)

            with loaded([KEYS, REDIS], made) as copy, patch.object(copy, "_script", script):
                asyncio.run(_beside(copy, url, f"mutant{count}"))

        yield edits, attack_with, []


async def _beside(copy: Any, url: str, prefix: str) -> None:
    """Attack a store while another one, of another prefix, has the same partitions: its own. The server lets neither
    of them touch a key that does not begin as its own do."""
    with redis.Redis.from_url(url, protocol=2) as admin:
        for user in (prefix, f"other-{prefix}"):
            keys = f"~{{{user}:memory*"
            admin.execute_command("ACL", "SETUSER", user, "reset", "on", f">{user}", keys, "&*", "+@all")
    stores = [
        copy.RedisMemoryStore(url.replace("://", f"://{user}:{user}@"), prefix=user)
        for user in (f"other-{prefix}", prefix)
    ]
    other, store = stores
    await other.open()
    try:
        for scope in NEAR[::4]:
            await other.put(scope, [record_of("a", "other")])
        await attacked(store)
        for scope in NEAR[::4]:
            assert [one.id for one in await other.page(scope)] == ["a"], scope
    finally:
        await other.close()


def key_edits() -> list[Edit]:
    """What a place is made of, for the stores that find things by text."""
    source = source_of(KEYS)
    edits = scope_parts(KEYS, source)
    for was, instead in (
        ('quote(raw(name), safe="")', "name"),
        ('.replace("~", "%7E")', ""),
        ("hashlib.sha256(raw(name)).hexdigest()", "name[:9]"),
        ('name.encode(errors="surrogatepass")', 'name[:400].encode(errors="surrogatepass")'),
        ('first[:-1] + "0"', '"~~~"'),
        ('first = place_of(scope) + "/"', "first = place_of(scope)"),
    ):
        edits.append(named(KEYS, source, was, instead))
    return edits


# DynamoDB

DYNAMODB = ["shipworthy.adapters.dynamodb." + name for name in ("layout", "partitions", "memory")]
_USED = re.compile(r"(?<![\w.])(?:self|place)\.(?:pk|place)\b(?! = )")


@contextmanager
def on_dynamodb(folder: Path) -> Iterator[Prepared]:
    """Each use of a key, and the range of the directory; and, in the long proof, what the keys are made of, which is
    what Redis's are made of."""
    edits = key_edits() if LONG else []
    for module in DYNAMODB:
        source = source_of(module)
        edits += scope_parts(
            module, source, apart_from=("_covered", "_run")
        )  # one asks whether anything can be within, the other whose turn it is
        edits += [
            Edit(module, used.start(), used.end(), NOBODYS[used.group()[-2:]], used.group())
            for used in _USED.finditer(source)
            if not source[: used.start()].endswith("hash(")  # a lock may be shared
        ]
    store = source_of(DYNAMODB[-1])
    edits += [
        named(
            DYNAMODB[-1],
            store,
            'self._places("sk BETWEEN :a AND :b", first, end)',
            'self._places("sk < :a", end)',
        ),
        named(DYNAMODB[-1], store, 'if item["sk"]["S"] != end', ""),
    ]

    def attack_with(made: Sequence[Edit]) -> None:
        with a_dynamodb_table() as table, loaded([KEYS, *DYNAMODB], made) as copy:
            own = client.__wrapped__(table.url)
            own.meta.events.register("provide-client-params.dynamodb.*", _only_known_collections)
            asyncio.run(
                _in_pieces(copy.DynamoDBMemoryStore(table.name, client=own, create=True, patience=1.0))
            )

    yield edits, attack_with, []


NOBODYS = {"pk": '{"S": "p#x"}', "ce": "'x'"}
_SCOPES = {Scope("nobody"), *NEAR, *ALIKE, *(Scope(scope.tenant) for scope in (*NEAR, *ALIKE))}
_COLLECTIONS = {"store", "places", *(f"p#{place_of(scope)}" for scope in _SCOPES)}


def _only_known_collections(params: Any, **_: Any) -> None:
    """Every request is about the collections of the attack's scopes, or about the directory."""
    for found in re.finditer(r"'(?:pk|:pk)': \{'S': '([^']*)'", str(params)):
        assert found.group(1) in _COLLECTIONS, f"{found.group(1)} is no partition's collection"


async def _in_pieces(store: MemoryStore) -> None:
    """An attack, after something so large that it is written down in pieces first."""
    await store.open()
    large = [Record(id=f"{nth}", kind="block", data=bytes(90_000), at=1) for nth in range(3)]
    await store.put(TRIP, large)
    assert (await store.erase(TRIP)).records == 3
    await attacked(store)


Subject = Callable[[Path], Any]
SUBJECTS: dict[str, Subject] = {
    "the store in memory": in_memory,
    "the statements of SQLite": on_sqlite,
    "the statements of Postgres": in_statements,
    "the policies of Postgres": in_policies,
    "the names on Postgres": in_names_on_postgres,
    "the keys of Redis": on_redis,
    "the keys of DynamoDB": on_dynamodb,
}
