"""The plans of the crash proof, with their runs on PostgreSQL.

A session that is lost proves no death there: whoever takes over waits until the call in doubt can no longer happen.
So that it is a short time, leases, timeouts and skew are short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shipworthy.testing.faults import Point
from tests.crash import proof
from tests.crash.proof import Plan, Violation, World

AT_ONCE = 6
"""Worlds that are judged at once, mostly waiting."""


def on_postgres(plan: Plan, **changes: Any) -> Plan:
    """The same plan there."""
    quick = {"store": "postgres", "ttl": 0.3, "skew": 0.05, "tool_timeout": 0.3}
    return proof.with_setting(plan, **(quick | changes))


PLANS = {name: on_postgres(plan) for name, plan in proof.PLANS.items()}
ZOMBIES = proof.with_setting(proof.ZOMBIES, store="postgres")
IN_DOUBT = proof.with_setting(ZOMBIES, tool_timeout=1.0)


def judged(
    items: Sequence[Any], judge: Callable[[World, Any], list[Violation]], at_once: int = AT_ONCE
) -> dict[str, list[Violation]]:
    """What is wrong, by item: each in a world of its own, some at once."""
    found: dict[str, list[Violation]] = {}
    with proof.worlds("postgres") as fresh, ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(items), at_once):
            some = list(zip(items[start : start + at_once], fresh, strict=False))
            for (item, _), violations in zip(
                some, pool.map(lambda iw: judge(iw[1], iw[0]), some), strict=True
            ):
                if violations:
                    found[str(item)] = violations
    return found


def killed_at(plan: Plan, points: Sequence[Point]) -> dict[str, list[Violation]]:
    """What is wrong after a kill at each of the points."""
    expected, _ = proof.uncrashed(proof.with_mutant(plan, None))
    return judged(points, lambda world, point: proof.crash_and_judge(world, plan, expected, point))


def around_effects(points: Sequence[Point]) -> list[Point]:
    """Those at which a `once` call is decided: its intent, its body, its result."""
    chosen: list[Point] = []
    for i, point in enumerate(points):
        if (point.kind, point.side) == ("once", "before"):
            commits = [p for p in points[:i] if p.kind == "commit"][-2:]
            chosen += [*commits, *points[i : i + 4]]
    return list(dict.fromkeys(chosen))
