"""Laws of nested runs: they are their root's, and are kept for as long as it needs what they gave."""

from __future__ import annotations

from shipworthy.domain.events import Parent, RunEnded, RunParked, RunResumed, RunStarted
from shipworthy.domain.journal import Batch, Fence, RunFilter
from shipworthy.domain.scope import Scope
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store.workers import ALICE, OPERATOR, STRANGER, Law, Workers

_LATER = 10**13


async def _nested(store: Store, scope: Scope, run_id: str, root: str) -> Fence:
    started = RunStarted(
        seq=1,
        run_id=run_id,
        tenant=scope.tenant,
        prompt=(),
        parent=Parent(root, root, ("call_1",), ("outer",)),
    )
    fence = await store.begin(scope, run_id, Batch([started], {}))
    assert fence is not None
    return fence


async def _root(store: Store, scope: Scope, run_id: str) -> Fence:
    started = RunStarted(seq=1, run_id=run_id, tenant=scope.tenant, prompt=())
    fence = await store.begin(scope, run_id, Batch([started], {}))
    assert fence is not None
    return fence


async def _end(store: Store, fence: Fence, seq: int = 2) -> None:
    await store.commit(fence, Batch([RunEnded(seq=seq, status="completed")], {}, status="completed"))


async def _there(store: Store, scope: Scope) -> set[str]:
    return {run.run_id for run in await store.list(scope, RunFilter(nested=True))}


async def a_nested_run_outlives_no_need_of_its_root(workers: Workers) -> None:
    """While the root runs or is paused, what its nested runs gave is kept; afterwards it is pruned as any other."""
    store = await workers.new()
    root = await _root(store, ALICE, "root")
    await _end(store, await _nested(store, ALICE, "nested", "root"))
    await _end(store, await _nested(store, STRANGER, "foreign", "root"))
    assert await store.prune(OPERATOR, _LATER) == 1
    assert await _there(store, ALICE) == {"root", "nested"}
    await store.commit(root, Batch([RunParked(seq=2)], {}, status="paused"))
    assert await store.prune(OPERATOR, _LATER) == 0
    root = (await store.claim(ALICE, "root")).fence
    await store.commit(root, Batch([RunResumed(seq=3, fence=root.token, previous="released")], {}))
    assert await store.prune(OPERATOR, _LATER) == 0
    await _end(store, root, 4)
    await store.prune(OPERATOR, _LATER)
    await store.prune(OPERATOR, _LATER)
    assert await _there(store, ALICE) == set()


async def a_nested_run_says_whose_it_is(workers: Workers) -> None:
    """It is told with its root, and listed only where nested runs are asked for."""
    store = await workers.new()
    await _root(store, ALICE, "root")
    await _nested(store, ALICE, "nested", "root")
    assert (await store.find(ALICE, "nested")).root == "root"
    assert (await store.find(ALICE, "root")).root is None
    assert [run.run_id for run in await store.list(ALICE, RunFilter())] == ["root"]
    assert [run.run_id for run in await store.list(ALICE, RunFilter(status="running"))] == ["root"]
    assert await _there(store, ALICE) == {"root", "nested"}
    assert [run.root for _, run in await store.everything(OPERATOR)] == [None, "root"]


async def nobody_is_asked_to_go_on_with_a_nested_run(workers: Workers) -> None:
    """Neither as an orphan nor as one that is due: its root goes on with it."""
    store = await workers.new()
    await _root(store, ALICE, "root")
    nested = await _nested(store, ALICE, "nested", "root")
    assert [run.run_id for run in await store.orphans(OPERATOR)] == ["root"]
    await store.commit(nested, Batch([RunParked(seq=2, wake_at=1)], {}, status="paused", wake_at=1))
    assert not await store.due(OPERATOR, 10)
    assert (await store.find(ALICE, "nested")).wake_at == 1


NESTED: tuple[Law, ...] = (
    a_nested_run_outlives_no_need_of_its_root,
    a_nested_run_says_whose_it_is,
    nobody_is_asked_to_go_on_with_a_nested_run,
)
