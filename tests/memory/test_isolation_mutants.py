"""Whatever says whose a record is, in any adapter, is taken away in turn: each time the attack finds it.

What is taken away is enumerated mechanically (tests/memory/subjects.py), so that a new condition is a new mutant. Some
conditions say the same twice, on purpose: those are taken away in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.memory.subjects import SUBJECTS, Subject, survivors

AT_LEAST = {
    "the store in memory": 10,
    "the statements of SQLite": 24,
    "the statements of Postgres": 30,
    "the policies of Postgres": 13,
    "the names on Postgres": 8,
    "the keys of Redis": 30,
    "the keys of DynamoDB": 22,
}
"""So many are known; fewer are found where the finding is broken."""


@pytest.mark.parametrize("name", SUBJECTS)
def test_everything_that_says_whose_it_is_is_needed(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    subject: Subject = SUBJECTS[name]
    with subject(tmp_path) as (edits, attack_with, helpers):
        attack_with([])
        left, doubled = survivors(attack_with, edits, helpers)
    made, dead = len(edits), len(edits) - len(left)
    told = f"isolation mutants: {name}: {made} made, {dead} killed"
    record_property("isolation", told + (f" ({len(doubled)} in pairs)" if doubled else ""))
    assert not left, f"{told}; survived:\n" + "\n".join(map(str, left))
    assert made >= AT_LEAST[name], told
