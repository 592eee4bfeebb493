"""Which sittings of a journal were left: their process died, or lost its journal, before they ended or paused."""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.domain.events import AnyEvent, RunEnded, RunParked, RunResumed, RunStarted


def left_from(past: Sequence[AnyEvent]) -> int:
    """Where the last sittings begin that were left, one after the other; the length of *past* if the last was not."""
    found = len(past)
    for i in range(len(past) - 1, -1, -1):
        kind = type(past[i])
        if kind is RunParked or kind is RunEnded:
            break
        if kind is RunResumed or kind is RunStarted:
            found = i
    return found
