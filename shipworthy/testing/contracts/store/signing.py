"""Laws of what a store signs with, and of what it remembers that was signed."""

from __future__ import annotations

import asyncio
import time

from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.journal import Batch, Fence
from shipworthy.domain.scope import Scope
from shipworthy.errors import Fenced, HoldRefused, ShipworthyError
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.ledger.ledgers import balance, hold, line
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    OPERATOR,
    STRANGER,
    Law,
    Workers,
    answer,
    begun,
    ended,
    ending,
    opening,
    parking,
    refused,
    seqs,
)

HOUR = 3_600_000


def grant(id: str, scope: Scope = ALICE, lasts: int = HOUR, tool: str = "pay") -> Grant:
    """A yes for the scope's user. `lasts` in milliseconds from now."""
    now = time.time_ns() // 1_000_000
    return Grant(
        id=id,
        tenant=scope.tenant,
        user=scope.user or "",
        tool=tool,
        rule='payments: "above 100"\x00é',  # whatever a person may have written
        digest="",
        approver="boss",
        at=now,
        expires_at=now + lasts,
        token=f"token of {id}",
    )


def granting(batch: Batch, *grants: Grant) -> Batch:
    """The batch, with what it is to remember."""
    batch.grants = grants
    return batch


async def _ids(store: Store, scope: Scope) -> list[str]:
    return [found.id for found in await store.grants(scope)]


async def _all(store: Store) -> list[Grant]:
    found: list[Grant] = []
    after = 0
    while page := await store.everyones_grants(OPERATOR, after):
        places = [place for place, _ in page]
        assert places == sorted(set(places))
        assert places[0] > after
        after = places[-1]
        found += [grant for _, grant in page]
    return found


def _names(keys: object) -> list[str]:
    assert isinstance(keys, (list, tuple))
    return [key.id for key in keys]


# keys


async def a_key_is_made_when_it_is_first_asked_for_and_stays(workers: Workers) -> None:
    """It is long, and does not show itself."""
    store = await workers.new()
    [key] = await store.signing_keys()
    assert list(await store.signing_keys()) == [key]
    assert len(key.secret) >= 32
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


async def a_new_key_comes_first_and_older_ones_verify(workers: Workers) -> None:
    """As many as are kept, and one at least."""
    store = await workers.new()
    made = [*await store.signing_keys()]
    for _ in range(5):
        made.insert(0, await store.rotate_signing_key(OPERATOR))
    assert len({key.id for key in made}) == len({key.secret for key in made}) == 6
    assert list(await store.signing_keys()) == made[:4]
    made.insert(0, await store.rotate_signing_key(OPERATOR, keep=2))
    assert list(await store.signing_keys()) == made[:2]
    last = await store.rotate_signing_key(OPERATOR, keep=0)
    assert list(await store.signing_keys()) == [last]


async def a_store_may_begin_with_a_new_key(workers: Workers) -> None:
    """Rotating before anything was signed."""
    store = await workers.new()
    key = await store.rotate_signing_key(OPERATOR)
    assert list(await store.signing_keys()) == [key]


async def adopted_keys_are_older_than_all(workers: Workers) -> None:
    """They verify and do not sign, however new; rotating drops them first; doing it again changes nothing."""
    store = await workers.new()
    others = [SigningKey(name, name.encode() * 32, 10**14) for name in ("new", "old")]
    await store.adopt(OPERATOR, others)
    own, *rest = await store.signing_keys()
    assert rest == others
    assert own not in others
    await store.adopt(OPERATOR, [*others, SigningKey("older", b"o" * 32, 1)])
    assert _names(await store.signing_keys()) == [own.id, "new", "old", "older"]
    newest = await store.rotate_signing_key(OPERATOR, keep=3)
    assert _names(await store.signing_keys()) == [newest.id, own.id, "new"]


async def a_key_that_was_dropped_does_not_come_back(workers: Workers) -> None:
    """Whoever drops one because others know it is not undone by bringing it again."""
    store = await workers.new()
    [own] = await store.signing_keys()
    other = SigningKey("other", b"o" * 32, 1)
    await store.adopt(OPERATOR, [other])
    last = await store.rotate_signing_key(OPERATOR, keep=1)
    await store.adopt(OPERATOR, [other, own])
    assert list(await store.signing_keys()) == [last]


# grants


async def a_grant_lands_with_its_batch(workers: Workers) -> None:
    """Whether the run goes on, waits, ends or begins with it; it outlives its run."""
    store = await workers.new()
    given = [grant(f"g{i}") for i in range(5)]
    fence = await store.begin(ALICE, "r", granting(opening(ALICE, "r"), given[0]))
    assert fence is not None
    await store.commit(fence, granting(answer(3), given[1], given[2]))
    await store.commit(fence, granting(parking(4), given[3]))
    fence = (await store.claim(ALICE, "r")).fence
    await store.commit(fence, granting(ending(5), given[4]))
    assert sorted(await store.grants(ALICE), key=lambda g: g.id) == given
    assert await store.prune(OPERATOR, 10**15) == 1
    assert sorted(await _ids(store, Scope("acme", "alice"))) == [g.id for g in given]


async def a_batch_that_does_not_land_remembers_nothing(workers: Workers) -> None:
    """One that is fenced, one that does not go on from the last, a second run of one id, a hold that is refused."""
    store, tokens = await workers.new(), line()
    stale = await begun(store, ALICE, "r")
    fence = (await store.claim(ALICE, "r")).fence
    for wrong, seq in ((stale, 3), (fence, 4)):
        with refused(Fenced):
            await store.commit(wrong, granting(answer(seq), grant("g")))
    assert await store.begin(ALICE, "r", granting(opening(ALICE, "r"), grant("g"))) is None
    full = granting(answer(3), grant("g"))
    full.budget = (hold("h", 1000, tokens),)
    with refused(HoldRefused):
        await store.commit(fence, full)
    assert await _ids(store, ALICE) == []
    fits = granting(answer(3), grant("g"))
    fits.budget = (hold("h2", 10, tokens),)
    await store.commit(fence, fits)
    assert await _ids(store, ALICE) == ["g"]
    assert await balance(store.ledger, tokens) == (0, 10)


async def a_run_remembers_nothing_for_anybody_else(workers: Workers) -> None:
    """Another tenant, another user, nobody: the batch is refused whole, whoever's fence is said to be."""
    store = await workers.new()
    fence, nobodys = await begun(store, ALICE, "r"), await begun(store, Scope("acme"), "n")
    theirs = await begun(store, STRANGER, "their-run")
    for batch in (
        granting(answer(3), grant("g", STRANGER)),
        granting(answer(3), grant("g", BOB)),
        granting(answer(3), grant("mine"), grant("g", STRANGER)),
    ):
        with refused(ShipworthyError):
            await store.commit(fence, batch)
    with refused(ShipworthyError):
        await store.commit(nobodys, granting(answer(3), grant("g", Scope("acme"))))
    with refused(ShipworthyError):
        await store.begin(BOB, "new", granting(opening(BOB, "new"), grant("g", ALICE)))
    for forged in (Fence(STRANGER, "r", fence.token, fence.key), Fence(ALICE, "r", theirs.token, theirs.key)):
        for whose in (ALICE, STRANGER):
            with refused(ShipworthyError):
                await store.commit(forged, granting(answer(3), grant("g", whose)))
    assert await _all(store) == []
    assert await seqs(store, ALICE, "r") == await seqs(store, STRANGER, "their-run") == [1, 2]
    await store.commit(fence, granting(answer(3), grant("g")))
    assert await _ids(store, ALICE) == ["g"]


async def grants_are_of_a_tenants_user(workers: Workers) -> None:
    """Another user's, and those of a user of that name elsewhere, are not seen; without a user there are none."""
    store = await workers.new()
    for i, scope in enumerate((ALICE, BOB, STRANGER)):
        await store.commit(await begun(store, scope, "r" if scope is ALICE else f"r{i}"), _one(scope, "same"))
    for scope in (ALICE, BOB, STRANGER):
        found = [(g.tenant, g.user) for g in await store.grants(Scope(scope.tenant, scope.user))]
        assert found == (
            [(scope.tenant, scope.user)] if scope is not BOB else []
        )  # a tenant's ids are its own
    for nobody in (Scope("acme"), Scope("acme", ""), Scope("acme", "carol"), Scope("initech", "alice")):
        assert list(await store.grants(nobody)) == []


def _one(scope: Scope, id: str) -> Batch:
    return granting(answer(3), grant(id, scope))


async def a_grant_that_is_there_is_not_written_over(workers: Workers) -> None:
    """An id names one yes: neither its user nor what it is for changes."""
    store = await workers.new()
    fence, bobs = await begun(store, ALICE, "r"), await begun(store, BOB, "b")
    first = grant("g")
    await store.commit(fence, granting(answer(3), first))
    await store.commit(fence, granting(answer(4), grant("g", tool="delete")))
    await store.commit(bobs, granting(answer(3), grant("g", BOB)))
    assert list(await store.grants(ALICE)) == await _all(store) == [first]


async def a_foreign_grant_is_revoked_as_an_unknown_one_is(workers: Workers) -> None:
    """Not at all; its own tenant does it, once."""
    store = await workers.new()
    await store.commit(await begun(store, ALICE, "r"), granting(answer(3), grant("g"), grant("other")))
    assert await store.revoke(STRANGER, "g") is await store.revoke(STRANGER, "none") is False
    assert sorted(await _ids(store, ALICE)) == ["g", "other"]
    assert await store.revoke(Scope("acme"), "g") is True
    assert await store.revoke(ALICE, "g") is False
    assert await _ids(store, ALICE) == ["other"]


async def a_user_revokes_only_grants_of_that_user(workers: Workers) -> None:
    """Another user's of the tenant is to them like an unknown one; where no user is named, it is the tenant's."""
    store = await workers.new()
    given = granting(answer(3), grant("g"), grant("other"))
    await store.commit(await begun(store, ALICE, "r"), given)
    await store.commit(await begun(store, BOB, "b"), granting(answer(3), grant("bobs", BOB)))
    for other in (BOB, Scope("acme", "carol"), Scope("acme", "")):
        assert await store.revoke(other, "g") is False
    assert await store.revoke(ALICE, "bobs") is False
    assert sorted(await _ids(store, ALICE)) == ["g", "other"]
    assert await store.revoke(Scope("acme", "alice"), "g") is True
    assert await store.revoke(Scope("acme"), "bobs") is True
    assert (await _ids(store, ALICE), await _ids(store, BOB)) == (["other"], [])


async def what_was_revoked_does_not_come_back(workers: Workers) -> None:
    """Neither with a batch nor from another store."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    given = grant("g")
    await store.commit(fence, granting(answer(3), given))
    assert await store.revoke(ALICE, "g")
    await store.prune(OPERATOR, 0)
    await store.adopt(OPERATOR, (), [given])
    await store.commit(fence, granting(answer(4), given))
    assert list(await store.grants(ALICE)) == await _all(store) == []


async def what_has_expired_is_not_given(workers: Workers) -> None:
    """It cannot be revoked any more, and its id is free when it was swept: with another grant of the user, or by
    pruning."""
    store = await workers.new()
    fence = await begun(store, ALICE, "r")
    await store.commit(fence, granting(answer(3), grant("short", lasts=-HOUR), grant("long")))
    assert await _ids(store, ALICE) == [g.id for g in await _all(store)] == ["long"]
    assert await store.revoke(ALICE, "short") is False
    await store.commit(fence, granting(answer(4), grant("short")))
    assert sorted(await _ids(store, ALICE)) == ["long", "short"]
    await store.adopt(OPERATOR, (), [grant("theirs", STRANGER, lasts=-HOUR)])
    await store.prune(OPERATOR, 0)
    await store.adopt(OPERATOR, (), [grant("theirs", Scope("globex", "bob"))])
    assert await _ids(store, Scope("globex", "bob")) == ["theirs"]


async def an_operator_sees_the_grants_of_everybody(workers: Workers) -> None:
    """Some at a time; and brings those of another store, once."""
    store = await workers.new()
    await ended(store, ALICE, "r")
    given = [grant(f"g{i}", (ALICE, BOB, STRANGER)[i % 3]) for i in range(1100)]
    await store.adopt(OPERATOR, (), given)
    await store.adopt(OPERATOR, (), given[:7])
    assert sorted(await _all(store), key=lambda g: int(g.id[1:])) == given
    assert len(await store.everyones_grants(OPERATOR)) < 1100
    assert sorted(await store.grants(BOB), key=lambda g: int(g.id[1:])) == given[1::3]


async def only_an_operator_has_a_hand_on_the_keys(workers: Workers) -> None:
    """A scope, and nothing at all, is no Operator."""
    store = await workers.new()
    keys = list(await store.signing_keys())
    for pretender in (ALICE, None, "operator"):
        with refused(ShipworthyError):
            await store.rotate_signing_key(pretender)  # type: ignore[arg-type]
        with refused(ShipworthyError):
            await store.everyones_grants(pretender)  # type: ignore[arg-type]
        with refused(ShipworthyError):
            await store.adopt(pretender, [SigningKey("k", b"k", 1)], [grant("g")])  # type: ignore[arg-type]
    assert list(await store.signing_keys()) == keys
    assert await _ids(store, ALICE) == []


# laws of a store that several processes share


async def all_workers_sign_with_one_key(workers: Workers) -> None:
    """Though all of them ask for the first one at once; and after a rotation."""
    stores = [await workers.new() for _ in range(6)]
    asked = await asyncio.gather(*[store.signing_keys() for store in stores for _ in range(3)])
    assert len({tuple(keys) for keys in asked}) == len(asked[0]) == 1
    made = await asyncio.gather(*[store.rotate_signing_key(OPERATOR, keep=9) for store in stores])
    kept = [tuple(await store.signing_keys()) for store in stores]
    assert len(set(kept)) == 1
    assert {*kept[0]} == {*made, *asked[0]}
    assert kept[0][-1] == asked[0][0]


async def keys_and_grants_outlive_their_worker(workers: Workers) -> None:
    """Whoever opens the store next verifies what was signed before."""
    one = await workers.new()
    keys = list(await one.signing_keys())
    await one.commit(await begun(one, ALICE, "r"), granting(answer(3), grant("g"), grant("gone")))
    await one.revoke(ALICE, "gone")
    await workers.kill(one)
    two = await workers.new()
    assert list(await two.signing_keys()) == keys
    assert await _ids(two, ALICE) == ["g"]


SIGNING: tuple[Law, ...] = (
    a_key_is_made_when_it_is_first_asked_for_and_stays,
    a_new_key_comes_first_and_older_ones_verify,
    a_store_may_begin_with_a_new_key,
    adopted_keys_are_older_than_all,
    a_key_that_was_dropped_does_not_come_back,
    a_grant_lands_with_its_batch,
    a_batch_that_does_not_land_remembers_nothing,
    a_run_remembers_nothing_for_anybody_else,
    grants_are_of_a_tenants_user,
    a_grant_that_is_there_is_not_written_over,
    a_foreign_grant_is_revoked_as_an_unknown_one_is,
    a_user_revokes_only_grants_of_that_user,
    what_was_revoked_does_not_come_back,
    what_has_expired_is_not_given,
    an_operator_sees_the_grants_of_everybody,
    only_an_operator_has_a_hand_on_the_keys,
)
"""Keys and grants."""

SHARED_SIGNING: tuple[Law, ...] = (
    all_workers_sign_with_one_key,
    keys_and_grants_outlive_their_worker,
)
"""What of them several processes share."""
