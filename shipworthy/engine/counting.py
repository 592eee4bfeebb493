"""How often calls of each tool were allowed, and gave results, in a whole tree of runs: what limits of how often are
held against, wherever in the tree a call is made.

Nothing is kept in step with anything: what is counted follows from the states of the runs that are driven, and for the
nested ones that are not, from what the journals above them say of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from shipworthy.domain.usage import Tally
from shipworthy.rules.tallies import add, take

if TYPE_CHECKING:
    from shipworthy.engine.live import LiveRun
    from shipworthy.rules.calls import Call


class Counts(msgspec.Struct):
    """What is counted of a run beside its state. `again`: calls, by id, that are judged once more and do not count
    themselves; `judging`: those that were allowed and are not recorded yet; `seen`: what was shown last to those who
    judge. `nested`: the nested runs of this sitting, and what those came to that nobody drives any more."""

    again: dict[str, str] = {}
    judging: dict[str, str] = {}
    seen: dict[str, int] | None = None
    nested: dict[str, LiveRun | Tally] = {}

    def begin(self, calls: Sequence[Call]) -> None:
        """These are judged now."""
        self.judging, self.seen = {}, None
        self.again = {call.call.call_id: call.call.name for call in calls if call.allowed}

    def allow(self, call: Call) -> None:
        """It may run, and whoever is judged from now on sees it."""
        call_id = call.call.call_id
        self.again.pop(call_id, None)
        self.judging[call_id] = call.call.name

    def end(self) -> None:
        """Everything is recorded."""
        self.again, self.judging, self.seen = {}, {}, None


def shown(run: LiveRun) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """What those who judge a call of *run* are shown: allowed and returned, by tool, in all runs of its tree."""
    allowed, returned = _counted(run)
    run.counts.seen = allowed
    return MappingProxyType(allowed), MappingProxyType(returned)


def is_current(run: LiveRun) -> bool:
    """Whether no other run of the tree was allowed a call since that was shown."""
    seen = run.counts.seen
    return seen is None or seen == _counted(run)[0]


def tally_of(run: LiveRun) -> Tally:
    """What the run came to, with those that are nested in it."""
    allowed: dict[str, int] = {}
    returned: dict[str, int] = {}
    _collect(run, allowed, returned)
    return Tally(run.run_id, allowed, returned)


def _counted(run: LiveRun) -> tuple[dict[str, int], dict[str, int]]:
    """The sums over the tree, without the calls of *run* that are judged once more."""
    outermost = run
    while outermost.parent is not None:
        outermost = outermost.parent
    allowed: dict[str, int] = {}
    returned: dict[str, int] = {}
    _collect(outermost, allowed, returned)
    for name in run.counts.again.values():
        allowed[name] -= 1
    return allowed, returned


def _collect(run: LiveRun, allowed: dict[str, int], returned: dict[str, int]) -> None:
    """Add what the run and those nested in it have. Of a nested run of this sitting its own state counts, in place of
    what the journal of *run* has of it."""
    state, counts = run.state, run.counts
    add(allowed, state.allowed)
    add(returned, state.returned)
    for call_id, name in counts.judging.items():
        call = state.calls.get(call_id)
        if call is not None and not call.allowed:
            allowed[name] = allowed.get(name, 0) + 1
    if state.below is not None:
        add(allowed, state.below.allowed)
        add(returned, state.below.returned)
    for run_id, nested in list(counts.nested.items()):
        known = state.tallies.get(run_id)
        if isinstance(nested, Tally):
            if nested == known:
                del counts.nested[run_id]
                continue
            add(allowed, nested.allowed)
            add(returned, nested.returned)
        else:
            _collect(nested, allowed, returned)
        if known is not None:
            take(allowed, known.allowed)
            take(returned, known.returned)
