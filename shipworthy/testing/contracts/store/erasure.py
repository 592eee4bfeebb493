"""Laws of erasure: tombstones take the place of journals, and nothing that was somebody's is found afterwards."""

from __future__ import annotations

import msgspec

from shipworthy.domain.events import Parent, RunEnded, RunStarted
from shipworthy.domain.grants import Grant
from shipworthy.domain.journal import Batch, RunFilter, Tombstones
from shipworthy.domain.ledger import NANO, Granted, Hold, Line, Refused
from shipworthy.domain.messages import Stored, Text
from shipworthy.domain.scope import Scope
from shipworthy.errors import JournalDamaged, RunBusy, RunNotFound
from shipworthy.ports.store import Store
from shipworthy.rules.ledger import account, keys_of
from shipworthy.rules.state import replay, status_of
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    OPERATOR,
    STRANGER,
    Law,
    Workers,
    answer,
    begun,
    digest_of,
    ended,
    ending,
    opening,
    parking,
    refused,
    seqs,
)

_ACME = Scope("acme")
_LATER = 10**13
_BODY = b"what Alice said at length"


def _left(run_id: str, events: int, alias: str, root: str = "") -> Tombstones:
    """Tombstones for a run of so many events."""
    parent = Parent(root, root, ("call_1",), ("outer",)) if root else None
    first = RunStarted(seq=1, at=1000, run_id=alias, tenant="acme", prompt=(Text("gone"),), parent=parent)
    middle = [answer(seq).events[0] for seq in range(2, events)]
    return Tombstones(run_id, alias, [first, *middle, RunEnded(seq=events, at=1000, status="completed")])


async def _with_body(store: Store, scope: Scope, run_id: str) -> None:
    fence = await begun(store, scope, run_id)
    kept = Stored(digest=digest_of(_BODY), size=len(_BODY))
    last = RunEnded(seq=3, at=1000, status="completed", output=kept)
    batch = Batch([last], {kept.digest: _BODY}, status="completed", joins_session=True)
    await store.commit(fence, batch)


async def a_buried_run_is_nobodys(workers: Workers) -> None:
    """It is not found by its id, its user or its session any more, its body is gone, and what is left of it folds; the
    runs of others are as they were."""
    store = await workers.new()
    for scope, run_id in ((ALICE, "one"), (ALICE, "two"), (BOB, "three"), (STRANGER, "one")):
        await _with_body(store, scope, run_id)
    await store.bury(_ACME, [_left("one", 3, "erased-1")])
    with refused(RunNotFound):
        await store.find(ALICE, "one")
    with refused(RunNotFound):
        await store.read(ALICE, "one")
    with refused(JournalDamaged):
        await store.body(_ACME, "erased-1", digest_of(_BODY))
    assert [run.run_id for run in await store.list(Scope("acme", "alice"), RunFilter())] == ["two"]
    assert await store.session(ALICE) == ["two"]
    left = await store.find(_ACME, "erased-1")
    assert (left.scope, left.status, left.events) == (_ACME, "completed", 3)
    state = replay(await store.read(_ACME, "erased-1"))
    assert status_of(state) == "completed"
    assert [event.seq for event in await store.read(_ACME, "erased-1", 1)] == [2, 3]
    for scope, run_id in ((ALICE, "two"), (BOB, "three"), (STRANGER, "one")):
        assert await seqs(store, scope, run_id) == [1, 2, 3]
        assert await store.body(scope, run_id, digest_of(_BODY)) == _BODY
    assert await store.session(BOB) == ["three"]


async def a_run_that_has_not_ended_is_not_buried(workers: Workers) -> None:
    """Nor is one that has other events than its tombstones, nor any other that was to be buried with it."""
    store = await workers.new()
    running = await begun(store, ALICE, "running")
    await ended(store, ALICE, "ended")
    paused = await begun(store, ALICE, "paused")
    await store.commit(paused, parking(3))
    done = _left("ended", 3, "erased-1")
    for other in (_left("running", 2, "erased-2"), _left("paused", 3, "erased-2")):
        with refused(RunBusy):
            await store.bury(_ACME, [done, other])
    with refused(RunBusy):
        await store.bury(_ACME, [_left("ended", 4, "erased-1")])
    with refused(RunNotFound):
        await store.bury(_ACME, [done, _left("nowhere", 3, "erased-2")])
    with refused(RunNotFound):
        await store.bury(Scope("globex"), [done])
    assert len(await store.list(ALICE, RunFilter())) == 3
    assert await store.session(ALICE) == ["ended"]
    await store.commit(running, ending(3))
    await store.bury(_ACME, [done, _left("running", 3, "erased-2")])
    assert {run.run_id for run in await store.list(_ACME, RunFilter())} == {"erased-1", "erased-2", "paused"}
    assert not await store.session(ALICE)


async def a_buried_tree_stays_one(workers: Workers) -> None:
    """Nested runs are their root's under the new names, and tombstones are pruned as any run."""
    store = await workers.new()
    await ended(store, ALICE, "root", joins=False)
    started = RunStarted(
        seq=1, run_id="nested", tenant="acme", prompt=(), parent=Parent("root", "root", ("c",), ())
    )
    fence = await store.begin(ALICE, "nested", Batch([started], {}))
    assert fence is not None
    await store.commit(fence, ending(2, joins=False))
    await store.bury(_ACME, [_left("root", 3, "erased-1"), _left("nested", 2, "erased-1.1", "erased-1")])
    assert [run.run_id for run in await store.list(_ACME, RunFilter())] == ["erased-1"]
    nested = await store.find(_ACME, "erased-1.1")
    assert (nested.root, nested.scope) == ("erased-1", _ACME)
    await store.prune(OPERATOR, _LATER)
    await store.prune(OPERATOR, _LATER)
    assert not await store.everything(OPERATOR)


async def an_id_is_free_again(workers: Workers) -> None:
    """A run that is begun under the id of a buried one is a new one."""
    store = await workers.new()
    await _with_body(store, ALICE, "one")
    await store.bury(_ACME, [_left("one", 3, "erased-1")])
    assert await store.begin(ALICE, "one", opening(ALICE, "one")) is not None
    assert await seqs(store, ALICE, "one") == [1, 2]
    assert await seqs(store, _ACME, "erased-1") == [1, 2, 3]


def _grant(scope: Scope, id: str) -> Grant:
    whose = {"tenant": scope.tenant, "user": scope.user or "", "tool": "pay", "rule": "ask", "digest": ""}
    return Grant(id=id, approver="carol", at=1, expires_at=_LATER, token="t", **whose)


async def approvals_of_a_user_are_disowned(workers: Workers) -> None:
    """Those that are remembered for the user, and for nobody else; of a session alone none."""
    store = await workers.new()
    others = (BOB, STRANGER)
    await store.adopt(
        OPERATOR, (), [_grant(scope, f"{scope.user}-{scope.tenant}") for scope in (ALICE, *others)]
    )
    await store.disown(ALICE)
    assert len(await store.grants(ALICE)) == 1
    await store.disown(Scope("acme", "alice"))
    assert not await store.grants(ALICE)
    assert [len(await store.grants(scope)) for scope in others] == [1, 1]
    await store.disown(_ACME)
    assert [len(await store.grants(scope)) for scope in others] == [0, 1]


def _line(level: str, *name: str) -> Line:
    whose = account(level, "acme", *name)  # type: ignore[arg-type]
    key, limit = keys_of(whose, "cost_usd", "total", 0)
    return Line(key, limit, whose, "cost_usd", "total", 0, 0, 10 * NANO)


def _hold(id: str, line: Line, amount: int) -> Hold:
    return Hold(id=id, tenant="acme", lines=(line,), base=(amount * NANO,), each=(0,), final=True)


async def what_is_counted_for_a_user_is_disowned(workers: Workers) -> None:
    """Counters and caps of the user and of their sessions go, with for whom and why they were changed; those of others
    and of the tenant hold on, so that no cap begins anew for them."""
    store = await workers.new()
    ledger = store.ledger
    own = [_line("user", "alice"), _line("session", "alice", "trip")]
    others = [
        _line("user", "alic"),
        _line("session", "alicea", "trip"),
        _line("tenant"),
        _line("user", "bob"),
    ]
    for index, line in enumerate([*own, *others]):
        assert isinstance(await ledger.reserve(_hold(f"h{index}", line, 10)), Granted)
    await ledger.set_cap(OPERATOR, own[0].account, "cost_usd", "total", 11 * NANO, "carol", "alice asked")
    await store.disown(Scope("acme", "alice"))
    told = msgspec.json.encode(await ledger.changes(OPERATOR, 10)).decode()
    assert "alice" not in told
    assert "carol" in told
    shown = {balance.account.name for balance in await ledger.show(OPERATOR, "acme", None)}
    assert shown == {line.account.name for line in others}
    for index, line in enumerate(others):
        assert isinstance(await ledger.reserve(_hold(f"again{index}", line, 1)), Refused), line
    assert isinstance(await ledger.reserve(_hold("new", own[0], 10)), Granted)
    assert isinstance(await ledger.reserve(_hold("more", own[0], 1)), Refused)


async def scrubbing_leaves_the_rest(workers: Workers) -> None:
    """What is there before is there afterwards, for every worker, and it is said what may hold copies."""
    store = await workers.new()
    fence = await begun(store, ALICE, "one")
    await _with_body(store, BOB, "two")
    for sentence in await store.scrub(OPERATOR):
        assert sentence.endswith(".")
    await store.commit(fence, ending(3))
    assert await seqs(store, ALICE, "one") == [1, 2, 3]
    assert await store.body(BOB, "two", digest_of(_BODY)) == _BODY


ERASURE: tuple[Law, ...] = (
    a_buried_run_is_nobodys,
    a_run_that_has_not_ended_is_not_buried,
    a_buried_tree_stays_one,
    an_id_is_free_again,
    approvals_of_a_user_are_disowned,
    what_is_counted_for_a_user_is_disowned,
    scrubbing_leaves_the_rest,
)
