"""Laws of whose it is: nothing of a partition is seen or changed through another, whatever their names are."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shipworthy.domain.memory import NOWHERE, Changes
from shipworthy.domain.scope import LONGEST_ID, Scope
from shipworthy.errors import ShipworthyError
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory.stores import (
    ACME,
    ALICE,
    BOB,
    OPERATOR,
    STRANGER,
    TRIP,
    Law,
    MemoryStores,
    Reader,
    mark_of,
    numbered,
    paged,
    record,
    records,
    texts,
)

LONG = "n" * (LONGEST_ID - 1)
COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"
NAMES = (
    *("", "None", "null", "nil", "0", "00", "-", "--", ".", "..", "~"),
    *("a", "A", "a ", " a", "aa", "ss", "ß", "i", "\u0130", "\u0131", "I", "\u212a", "K", "k"),
    *("%", "%%", "a%", "_", "a_", "*", "a*", "?", "[a]", "[a-z]", "^", "$", "|", "\\", "\\\\", "\\%"),
    *("a:b", "a/b", "a|b", "a\nb", "a\tb", "a\r\nb", "a,b", "a;b", "a#b", "a\x1fb", "a\x1eb", "a\x7fb"),
    *('"', "'", "''", "`", "a'--", "') OR 1=1 --", '{"a":1}', "{a}", "<a>", "$1", ":a", "@a", "%s", "%(a)s"),
    *(COMPOSED, DECOMPOSED, "\u00c5", "\u212b", "\ufb01", "fi", "a\u200b", "a\u200d", "\ufeffa", "\u202ea"),
    *("\U0001f600", "\U0001f600\ufe0f", "\ufffd", "\uffff", "\U0010ffff", "日本", "ا", "\u0391", "\u03b1"),
    *(LONG + "1", LONG + "2", LONG, "n" * 200),
)
"""Names that are not the same, though this or that thinks so: databases, patterns, separators, normal forms."""
HALF = len(NAMES) // 2
"""Users have those before, sessions those after, tenants all: each is once with those that it is mistaken for."""
REFUSABLE = ("\0", "a\0", "a\0b", "a\0\0b", "\ud800", "a\udfff", "\udfff\ud800")
"""Names that no database takes as they are: a store encodes them, or refuses them in words of ours."""
AMBIGUOUS = (
    *(Scope("a", "b:c"), Scope("a:b", "c"), Scope("a", "b", "c"), Scope("a:b:c"), Scope("a", "b:c:")),
    *(
        Scope("a", ""),
        Scope("a"),
        Scope("a", "None"),
        Scope("a", "", ""),
        Scope("a", "b", ""),
        Scope("a", "b"),
    ),
    *(Scope("", "a"), Scope("", "", "a"), Scope(""), Scope("", ""), Scope("", "", ""), Scope("a", "a", "a")),
    *(
        Scope("a/b", "c"),
        Scope("a", "b/c"),
        Scope("a", "/b", "c"),
        Scope("a", "b", "/c"),
        Scope("a", "b/", "c"),
    ),
    *(
        Scope("1", "11"),
        Scope("11", "1"),
        Scope("1", "1", "1"),
        Scope("111"),
        Scope("1:a", "1"),
        Scope("1", "a:1"),
    ),
    *(Scope("a", "1:b"), Scope("a1", ":b"), Scope("a", "b#c"), Scope("a#b", "c"), Scope("a", "b", "None")),
)
"""Scopes that are the same for who joins their parts carelessly."""


async def an_id_of_another_partition_does_not_exist(stores: MemoryStores) -> None:
    """Neither in a wider scope nor in a narrower one, nor in another tenant's of the same name."""
    store = await stores.new()
    everybody = (
        ACME,
        ALICE,
        TRIP,
        Scope("acme", "alice", "other"),
        BOB,
        STRANGER,
        Scope("acme", "bob", "trip"),
    )
    mark = await store.put(TRIP, records("a", "b", text="hers"))
    for scope in everybody:
        if scope == TRIP:
            continue
        assert await store.get(scope, ["a", "b"]) == await store.page(scope) == []
        assert await store.changes(scope, mark) == Changes([], NOWHERE, reset=True, more=False)
        assert await store.remove(scope, ["a", "b"]) == 0
        assert await store.put(scope, [], at=NOWHERE) == NOWHERE
    for scope in everybody:
        await store.put(scope, records("a", text=f"{scope}"), replace=scope != TRIP)
    for scope in everybody:
        assert (await texts(store, scope))["a"] == ("hers" if scope == TRIP else f"{scope}")
    assert await store.remove(ALICE, ["a"]) == 1
    assert await mark_of(store, TRIP) == mark
    assert await texts(store, TRIP) == {"a": "hers", "b": "hers"}


async def a_mark_of_another_partition_fits_nowhere(stores: MemoryStores) -> None:
    """Partitions that were made alike have epochs of their own."""
    store = await stores.new()
    for scope in (ALICE, BOB, TRIP, STRANGER):
        await store.put(scope, records("a"))
    marks = [await mark_of(store, scope) for scope in (ALICE, BOB, TRIP, STRANGER)]
    assert len({mark.epoch for mark in marks}) == 4
    assert len({mark.n for mark in marks}) == 1
    for mark in marks[1:]:
        news = await store.changes(ALICE, mark)
        assert (news.reset, [entry.id for entry in news.entries]) == (True, ["a"])


async def tenants_of_any_name_are_kept_apart(stores: MemoryStores) -> None:
    """Each sees what it wrote, and an erasure is of one."""
    await _kept_apart(await stores.new(), [Scope(tenant) for tenant in NAMES])


async def users_of_any_name_are_kept_apart(stores: MemoryStores) -> None:
    """So are they from their tenant."""
    await _kept_apart(await stores.new(), [Scope("acme"), *(Scope("acme", user) for user in NAMES[:HALF])])


async def sessions_of_any_name_are_kept_apart(stores: MemoryStores) -> None:
    """So are they from their user."""
    sessions = [Scope("acme", "alice", session) for session in NAMES[HALF:]]
    await _kept_apart(await stores.new(), [ALICE, ACME, *sessions])


async def parts_of_a_scope_do_not_run_together(stores: MemoryStores) -> None:
    """Nobody is not the same as somebody with an empty name, or called None."""
    await _kept_apart(await stores.new(), list(AMBIGUOUS))


async def what_no_database_takes_is_kept_apart_or_refused(stores: MemoryStores) -> None:
    """NUL and half characters: never mixed up with another name, not even with one that looks like its code."""
    store, taken = await stores.new(), []
    codes = [
        "",
        "a",
        "ab",
        "%00",
        "a%00b",
        "\\0",
        "a\\0b",
        "\\x00",
        "\\u0000",
        "\ufffd",
        "\\ud800",
        "?",
        "=00",
    ]
    for refusable in REFUSABLE:
        for scope in (Scope(refusable), Scope("acme", refusable), Scope("acme", "alice", refusable)):
            with suppress(ShipworthyError):
                await store.put(scope, records("probe"))
                await store.erase(scope)
                taken.append(scope)
    plain = [*map(Scope, codes), *(Scope("acme", code) for code in codes)]
    await _kept_apart(store, [*plain, *(Scope("acme", "alice", code) for code in codes), *taken])


async def ids_of_any_name_are_kept_apart(stores: MemoryStores) -> None:
    """Of one partition; those of at most 200 bytes."""
    store, reader = await stores.new(), Reader(ALICE)
    ids = [name for name in NAMES if 0 < len(name.encode()) <= 200]
    await store.put(ALICE, [record(id, f"this is {id}") for id in ids])
    expected = {id: f"this is {id}" for id in ids}
    assert await texts(store, ALICE) == expected
    assert [found.id for found in await store.get(ALICE, ids)] == ids
    assert await reader.follow(store) == ids
    assert await store.remove(ALICE, ["a"]) == 1
    del expected["a"]
    assert await texts(store, ALICE) == expected


async def partitions_that_have_records_are_within(stores: MemoryStores) -> None:
    """Those of exactly the scope and of narrower ones, each once; none that was emptied."""
    store = await stores.new()
    scopes = _neighbours()
    await asyncio.gather(*[store.put(scope, numbered(2)) for scope in scopes])
    for scope in [*scopes, Scope("al"), Scope("nobody"), Scope("acme", "al%"), Scope("ac%", "alice")]:
        found = await store.within(scope)
        assert sorted(found, key=repr) == sorted(_within(scope, scopes), key=repr), scope
    await store.remove(ALICE, ["r00000", "r00001"])
    assert ALICE not in await store.within(ALICE)
    assert TRIP in await store.within(ALICE)
    await store.remove(TRIP, ["r00001"])
    assert TRIP in await store.within(TRIP)


async def erasing_takes_exactly_what_is_within(stores: MemoryStores) -> None:
    """Of a session, a user, a tenant: not a neighbour whose name begins alike. Doing it again finds nothing."""
    store = await stores.new()
    for erased in (TRIP, ALICE, ACME):
        scopes = _neighbours()
        await asyncio.gather(*[store.put(scope, numbered(3)) for scope in scopes])
        gone = _within(erased, scopes)
        report = await store.erase(erased)
        assert report.records == 3 * len(gone), (erased, report)
        assert all(isinstance(sentence, str) and sentence for sentence in report.remains)
        left = await asyncio.gather(*[paged(store, scope) for scope in scopes])
        assert [len(found) for found in left] == [0 if scope in gone else 3 for scope in scopes], erased
        assert await store.within(erased) == []
        assert (await store.erase(erased)).records == 0
        await asyncio.gather(*[store.erase(scope) for scope in scopes])


async def much_is_erased_as_well(stores: MemoryStores) -> None:
    """More partitions, and more records of one, than a server answers of at once."""
    store = await stores.new()
    sessions = [Scope("acme", "alice", f"{number}") for number in range(40)]
    await asyncio.gather(*[store.put(scope, numbered(3)) for scope in sessions])
    await store.put(ALICE, numbered(260))
    await store.put(BOB, numbered(2))
    assert len(await store.within(ALICE)) == 41
    assert (await store.erase(ALICE)).records == 380
    assert await store.within(ACME) == [BOB]


async def an_operator_sees_every_partition(stores: MemoryStores) -> None:
    """Page by page, each once, in an order that stays; nobody else does."""
    store = await stores.new()
    scopes = [*_neighbours(), *AMBIGUOUS]
    await asyncio.gather(*[store.put(scope, records("a")) for scope in scopes])
    listings = [await _everything(store, limit) for limit in (1, 4, len(scopes), 500)]
    assert sorted(map(repr, listings[0])) == sorted(map(repr, scopes))
    assert all(listing == listings[0] for listing in listings)
    await store.erase(ALICE)
    left = [scope for scope in listings[0] if scope not in _within(ALICE, scopes)]
    assert await _everything(store, 5) == left
    try:
        await store.everything(ACME)  # type: ignore[arg-type]
    except ShipworthyError:
        return
    raise AssertionError("every tenant was shown without an Operator")


async def _everything(store: MemoryStore, limit: int) -> list[Scope]:
    found: list[Scope] = []
    place = ""
    while page := await store.everything(OPERATOR, place, limit):
        places = [after for after, _ in page]
        assert len(page) <= limit
        assert places == sorted(set(places))
        assert places[0] > place
        place, found = places[-1], [*found, *(scope for _, scope in page)]
    return found


async def _kept_apart(store: MemoryStore, scopes: list[Scope]) -> None:
    """Each scope has one record, of the same id; then every other one is erased, with all that is within."""
    await asyncio.gather(*[store.put(scope, records("same", text=repr(scope))) for scope in scopes])
    found = await asyncio.gather(*[texts(store, scope) for scope in scopes])
    assert found == [{"same": repr(scope)} for scope in scopes]
    for scope in scopes[::7]:
        assert set(await store.within(scope)) == set(_within(scope, scopes)), scope
    there = set(scopes)
    for scope in scopes[::5]:
        gone = there.intersection(_within(scope, scopes))
        assert (await store.erase(scope)).records == len(gone), scope
        there -= gone
    found = await asyncio.gather(*[texts(store, scope) for scope in scopes])
    assert found == [{"same": repr(scope)} if scope in there else {} for scope in scopes]


def _neighbours() -> list[Scope]:
    """Scopes of which some are within others, and some have names that begin alike."""
    tenants, users = (
        ["acme", "acme2", "acm", "ac%", "acme:alice"],
        [None, "alice", "alice2", "alic", "al%", ""],
    )
    found = [Scope(tenant, user) for tenant in tenants for user in users]
    sessions = "trip", "trip2", "", "%"
    return [*found, *(Scope("acme", user, session) for user in ("alice", "alice2") for session in sessions)]


def _within(scope: Scope, scopes: list[Scope]) -> list[Scope]:
    return [
        one
        for one in scopes
        if one.tenant == scope.tenant
        and (scope.user is None or one.user == scope.user)
        and (scope.session is None or one.session == scope.session)
    ]


WHOSE: tuple[Law, ...] = (
    an_id_of_another_partition_does_not_exist,
    a_mark_of_another_partition_fits_nowhere,
    tenants_of_any_name_are_kept_apart,
    users_of_any_name_are_kept_apart,
    sessions_of_any_name_are_kept_apart,
    parts_of_a_scope_do_not_run_together,
    what_no_database_takes_is_kept_apart_or_refused,
    ids_of_any_name_are_kept_apart,
    partitions_that_have_records_are_within,
    erasing_takes_exactly_what_is_within,
    much_is_erased_as_well,
    an_operator_sees_every_partition,
)
