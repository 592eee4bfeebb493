"""How often calls were allowed and gave results, by tool, in runs that are nested in others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shipworthy.domain.usage import Tally

if TYPE_CHECKING:
    from shipworthy.rules.state import RunState


def add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Count these, too."""
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def take(counts: dict[str, int], less: Mapping[str, int]) -> None:
    """Count these no more."""
    for name, count in less.items():
        counts[name] = counts.get(name, 0) - count


def note(run: RunState, tallies: Sequence[Tally]) -> None:
    """What these nested runs came to, in place of what was known of them before."""
    if run.below is None:
        run.below = Tally("", {}, {})
    for tally in tallies:
        if (known := run.tallies.get(tally.run)) is not None:
            take(run.below.allowed, known.allowed)
            take(run.below.returned, known.returned)
        run.tallies[tally.run] = tally
        add(run.below.allowed, tally.allowed)
        add(run.below.returned, tally.returned)


def sums(run: RunState) -> tuple[dict[str, int], dict[str, int]]:
    """Allowed and returned, in the run and those nested in it, as far as its journal knows of them."""
    allowed, returned = dict(run.allowed), dict(run.returned)
    if run.below is not None:
        add(allowed, run.below.allowed)
        add(returned, run.below.returned)
    return allowed, returned
