"""The laws of an audit log whose entries ride in the commits of a store: they land with what they tell of, or neither
does."""

from __future__ import annotations

import asyncio

from shipworthy.domain.audit import Draft, Links
from shipworthy.domain.events import RunStarted
from shipworthy.domain.journal import Batch, Fence, Tombstones
from shipworthy.domain.messages import Text
from shipworthy.domain.scope import Scope
from shipworthy.errors import AuditDamaged, AuditError, AuditKeyWrong, Fenced, HoldRefused
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.store import Store
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.codec import encode_event
from shipworthy.rules.ledger import account
from shipworthy.testing.contracts.audit import OTHER, SECRET, Law, Logs, refused, said
from shipworthy.testing.contracts.ledger.ledgers import hold, line
from shipworthy.testing.contracts.store.workers import OPERATOR, answer, ending, opening, seqs

_LATER = 10**13


def drafts(logs: Logs, run: str, batch: Batch, fence: int = 1) -> list[Draft]:
    """An entry for each event of a batch."""
    scope = logs.scope
    return [
        Draft(
            action=type(event).__name__,
            actor="runtime",
            at=event.at,
            tenant=scope.tenant,
            user=scope.user,
            session=scope.session,
            run=run,
            n=event.seq,
            fence=fence,
            body=encode_event(event),
        )
        for event in batch.events
    ]


def told(logs: Logs, log: AuditLog, run: str, batch: Batch, fence: int = 1) -> Batch:
    """The batch, with its entries."""
    batch.audit = log.links(drafts(logs, run, batch, fence))
    return batch


async def begun(logs: Logs, log: AuditLog, store: Store, run: str) -> Fence:
    """A new run with two events, and their entries."""
    fence = await store.begin(logs.scope, run, told(logs, log, run, opening(logs.scope, run)))
    assert fence is not None, f"run {run} exists"
    return fence


def entered(logs: Logs, run: str) -> list[int]:
    """Of which events there are entries."""
    return [entry.n for entry in logs.entries() if entry.run == run]


async def entries_land_with_their_batch(logs: Logs) -> None:
    """Each has its event for a body, which is in the journal and nowhere else."""
    store, log = await logs.store(), await logs.new()
    assert log.place == getattr(store, "place", None) != ""
    fence = await begun(logs, log, store, "r")
    await store.commit(fence, told(logs, log, "r", answer(3)))
    await store.commit(fence, told(logs, log, "r", ending(4)))
    log.carried()

    assert entered(logs, "r") == [1, 2, 3, 4]
    assert logs.verified().bodies.fit == 4
    assert await seqs(store, logs.scope, "r") == [1, 2, 3, 4]


async def a_refused_batch_leaves_no_entry(logs: Logs) -> None:
    """One of an old fence, one that does not go on from there, one for a run that is there already."""
    store, log = await logs.store(), await logs.new()
    fence = await begun(logs, log, store, "r")
    claim = await store.claim(logs.scope, "r")
    for owner, batch in ((fence, answer(3)), (claim.fence, answer(5))):
        with refused(Fenced):
            await store.commit(owner, told(logs, log, "r", batch, owner.token))
    assert await store.begin(logs.scope, "r", told(logs, log, "r", opening(logs.scope, "r"))) is None

    assert entered(logs, "r") == [1, 2]
    await store.commit(claim.fence, told(logs, log, "r", answer(3), claim.fence.token))
    assert entered(logs, "r") == [1, 2, 3]
    logs.verified()


async def who_is_refused_leaves_no_entry_among_others(logs: Logs) -> None:
    """Of batches that are committed together, those that are refused (by a fence, by a hold) leave nothing behind, and
    the chain of the others has no gap."""
    store, log = await logs.store(), await logs.new()
    fences = [await begun(logs, log, store, f"r{at}") for at in range(8)]
    tenant = logs.scope.tenant
    full = line(account("user", tenant, "alice"), cap=0)
    batches = []
    for at, fence in enumerate(fences):
        batch = answer(4 if at % 4 == 1 else 3)
        if at % 4 == 3:
            batch.budget = (hold(f"h{at}", 1, full, tenant=tenant),)
        batches.append(store.commit(fence, told(logs, log, fence.run_id, batch)))
    results = await asyncio.gather(*batches, return_exceptions=True)

    kinds = [type(each) for each in results if isinstance(each, BaseException)]
    assert kinds == [Fenced, HoldRefused, Fenced, HoldRefused], results
    for at in range(8):
        assert entered(logs, f"r{at}") == ([1, 2] if at % 2 else [1, 2, 3])
    logs.verified()


async def who_has_the_wrong_secret_is_refused_alone(logs: Logs) -> None:
    """Its batch is not committed; what others commit at the same time is."""
    store, log = await logs.store(), await logs.new()
    right, wrong = await begun(logs, log, store, "right"), await begun(logs, log, store, "wrong")
    batch = answer(3)
    batch.audit = Links(log.name, (Secret(OTHER),), tuple(drafts(logs, "wrong", batch)))
    bad = answer(3)
    bad.audit = log.links([said("bad", user="\ud800")])
    results = await asyncio.gather(
        store.commit(wrong, batch),
        store.commit(right, told(logs, log, "right", answer(3))),
        store.commit(wrong, bad),
        return_exceptions=True,
    )
    assert [type(each) for each in results if isinstance(each, BaseException)] == [AuditKeyWrong, AuditError]
    assert await seqs(store, logs.scope, "wrong") == [1, 2]
    assert await seqs(store, logs.scope, "right") == [1, 2, 3]
    assert (entered(logs, "wrong"), entered(logs, "right")) == ([1, 2], [1, 2, 3])
    logs.verified()


async def another_log_in_its_place_is_not_written(logs: Logs) -> None:
    """Nor is one begun anew where it should be: nothing is committed."""
    store, log = await logs.store(), await logs.new()
    fence = await begun(logs, log, store, "r")
    for name in (log.name, log.name + " of old"):
        batch = answer(3)
        batch.audit = Links(name, (Secret(SECRET),), tuple(drafts(logs, "r", batch)), "0" * 32)
        with refused(AuditDamaged):
            await store.commit(fence, batch)
    assert await seqs(store, logs.scope, "r") == [1, 2]
    await store.commit(fence, told(logs, log, "r", answer(3)))
    assert entered(logs, "r") == [1, 2, 3]
    logs.verified()


async def a_new_secret_takes_over_with_a_batch(logs: Logs) -> None:
    """And who has the old one alone commits nothing from then on."""
    store, old = await logs.store(), await logs.new()
    fence = await begun(logs, old, store, "r")
    new = await logs.new(OTHER, SECRET)
    await store.commit(fence, told(logs, new, "r", answer(3)))
    with refused(AuditKeyWrong):
        await store.commit(fence, told(logs, old, "r", answer(4)))
    await store.commit(fence, told(logs, new, "r", answer(4)))
    assert entered(logs, "r") == [1, 2, 3, 4]
    assert len(logs.verified().keys) == 2


async def many_workers_make_one_chain(logs: Logs) -> None:
    """Two stores commit, and two logs append, in turn, and all at once."""
    stores = await asyncio.gather(logs.store(), logs.store())
    writers = await asyncio.gather(logs.new(), logs.new())
    for turn in range(4):
        await begun(logs, writers[turn % 2], stores[turn % 2], f"turn {turn}")

    async def work(at: int) -> None:
        store, log, run = stores[at % 2], writers[at % 2], f"r{at}"
        fence = await begun(logs, log, store, run)
        for seq in range(3, 7):
            await store.commit(fence, told(logs, log, run, answer(seq)))
        await log.append([said("beside", b"{}"), said("it")])

    await asyncio.gather(*[work(at) for at in range(12)])
    for at in range(12):
        assert entered(logs, f"r{at}") == [1, 2, 3, 4, 5, 6]
    report = logs.verified()
    assert (report.entries, report.bodies.fit) == (1 + 4 * 2 + 12 * 8, 4 * 2 + 12 * 7)


async def what_is_pruned_leaves_the_log_as_it_is(logs: Logs) -> None:
    """Its bodies are missing from then on, and that is no break, also when there is a run of the same id again."""
    store, log = await logs.store(), await logs.new()
    fence = await begun(logs, log, store, "r")
    await store.commit(fence, told(logs, log, "r", ending(3, joins=False)))
    assert await store.prune(OPERATOR, _LATER) >= 1
    assert logs.verified().bodies.missing == 3
    await begun(logs, log, store, "r")
    report = logs.verified()
    assert (report.entries, report.bodies.missing, report.bodies.fit) == (6, 3, 2)


async def what_is_buried_can_be_erased(logs: Logs) -> None:
    """A run's tombstones are nobody's body."""
    store, log = await logs.store(), await logs.new()
    fence = await begun(logs, log, store, "r")
    await store.commit(fence, told(logs, log, "r", ending(3)))
    first = RunStarted(seq=1, at=1000, run_id="gone", tenant=logs.scope.tenant, prompt=(Text("gone"),))
    left = [first, answer(2).events[0], ending(3).events[0]]
    await store.bury(logs.scope, [Tombstones("r", "gone", left)])
    assert logs.verified().bodies.missing == 3
    assert await log.erase(lambda entry: entry.run == "r") == 3
    assert logs.verified().bodies.erased == 3


async def who_is_disowned_is_gone_from_every_log_of_the_store(logs: Logs) -> None:
    """Without a key: also of entries that came with no batch, that no log object of this process wrote, and of runs
    that learned from a session; what others said stays, and the chain verifies. Doing it again changes nothing."""
    scope, log = logs.scope, await logs.new()
    fence = await begun(logs, log, first := await logs.store(), "r")
    await first.commit(fence, told(logs, log, "r", ending(3)))
    for user, session in (("alice", "home"), ("bob", "trip")):
        theirs = {"tenant": scope.tenant, "user": user, "session": session}
        await log.append(
            [said("it", b"words", **theirs)] * 299 + [said("it", b"words", run="learned", **theirs)]
        )
    await log.append([said("it", b"words", tenant="another", user="alice", session="trip")])
    await log.close()
    store = await logs.store()
    hers, everybody = Scope(scope.tenant, scope.user), Scope(scope.tenant)
    for whose, erased in ((scope, 4), (hers, 303), (everybody, 603)):
        for _ in range(2):
            assert log.name in await store.disown(whose, ["learned"])
            bodies = logs.verified().bodies
            assert (bodies.erased, bodies.fit, bodies.missing) == (erased, 604 - erased, 0)


JOINED_LAWS: list[Law] = [
    entries_land_with_their_batch,
    a_refused_batch_leaves_no_entry,
    who_is_refused_leaves_no_entry_among_others,
    who_has_the_wrong_secret_is_refused_alone,
    another_log_in_its_place_is_not_written,
    a_new_secret_takes_over_with_a_batch,
    many_workers_make_one_chain,
    what_is_pruned_leaves_the_log_as_it_is,
    what_is_buried_can_be_erased,
    who_is_disowned_is_gone_from_every_log_of_the_store,
]
