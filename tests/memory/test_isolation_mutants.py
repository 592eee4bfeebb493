"""Whatever says whose a record is, in any adapter, is taken away in turn: each time the attack finds it.

What is taken away is enumerated mechanically (tests/memory/subjects.py), so that a new condition is a new mutant. Some
conditions say the same twice, on purpose: those are taken away in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.memory.subjects import LONG, SUBJECTS, Subject, survivors, unneeded

AT_LEAST = {
    "the store in memory": 10,
    "the statements of SQLite": 24,
    "the statements of Postgres": 30,
    "the policies of Postgres": 13,
    "the names on Postgres": 8,
    "the keys of Redis": 30,
    "the keys of DynamoDB": 8,
}
"""So many are known; fewer are found where the finding is broken."""


_ORPHANS = "erase_records: NOT EXISTS (SELECT FROM shipwo ...  AS p WHERE p.place = r.place)"
_RECORDS = "ON shipworthy_memory.records:"
PARTNERS = {
    "claim_at: place = %(place)b": ("displace: p.place = %(place)b",),
    "displace: p.place = %(place)b": ("claim_at: place = %(place)b",),
    "insert: p.place = %(place)b": ("insert: p.token = %(token)b",),
    "tidy: place = %(place)b": ("tidy: epoch = %(epoch)b",),
    "erase_partitions: place = ANY (%(places)b)": ("erase_partitions: place >= %(within)b",),
    "erase_partitions: place >= %(within)b": ("erase_partitions: place = ANY (%(places)b)",),
    "erase_partitions: place < %(beyond)b": ("erase_partitions: place = ANY (%(places)b)",),
    "erase_records: r.place = ANY (%(places)b)": ("erase_records: r.place >= %(within)b", _ORPHANS),
    "erase_records: r.place >= %(within)b": ("erase_records: r.place = ANY (%(places)b)", _ORPHANS),
    "erase_records: r.place < %(beyond)b": ("erase_records: r.place = ANY (%(places)b)", _ORPHANS),
    f"within_erased {_RECORDS} all of it": (f"within {_RECORDS} from where",),
    f"within_erased {_RECORDS} from where": (f"within {_RECORDS} from where",),
    f"within_erased {_RECORDS} up to where": (f"within {_RECORDS} up to where",),
    f"within {_RECORDS} from where": (f"within_erased {_RECORDS} from where",),
    f"within {_RECORDS} up to where": (f"within_erased {_RECORDS} up to where",),
}
"""What says the same twice, with what says it too: the long proof finds these by itself."""


@pytest.mark.parametrize("name", SUBJECTS)
def test_everything_that_says_whose_it_is_is_needed(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    subject: Subject = SUBJECTS[name]
    with subject(tmp_path) as (edits, attack_with, helpers):
        attack_with([])
        if LONG:
            left, doubled = survivors(attack_with, edits, helpers)
            assert {str(edit) for edit in doubled} <= set(PARTNERS)
        else:
            left = unneeded(attack_with, edits, helpers, PARTNERS)
    made, dead = len(edits), len(edits) - len(left)
    told = f"isolation mutants: {name}: {made} made, {dead} killed"
    record_property("isolation", told)
    assert not left, f"{told}; survived:\n" + "\n".join(map(str, left))
    assert made >= AT_LEAST[name], told
