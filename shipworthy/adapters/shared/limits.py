"""What every memory store refuses, and how much one answer of it has: the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.adapters.shared.places import raw, size_of
from shipworthy.domain.memory import Entry, Record
from shipworthy.domain.scope import LONGEST_ID, Scope, is_too_long
from shipworthy.errors import RecordTooLarge

LARGEST = 16 * 2**20
"""Bytes that one record may have."""
LONGEST_RECORD_ID = 200
"""Bytes that its id may have."""
PAGE = 2**20
"""Bytes of what records are found by after which an answer has no further one."""
_MOST = 2**31


def refuse(scope: Scope, records: Sequence[Record]) -> None:
    """Raises RecordTooLarge for what no store takes, so that whatever one takes another takes as well."""
    if is_too_long(scope.tenant) or is_too_long(scope.user) or is_too_long(scope.session):
        raise RecordTooLarge(
            f"The id of a tenant, a user or a session has more than {LONGEST_ID} bytes.",
            fix="Use a shorter one.",
        )
    for record in records:
        if len(raw(record.id)) > LONGEST_RECORD_ID:
            raise RecordTooLarge(
                f"The id of a record has more than {LONGEST_RECORD_ID} bytes.", fix="Use a shorter one."
            )
        if (size := size_of(record)) > LARGEST:
            raise RecordTooLarge(f"A record of {size} bytes is larger than {LARGEST // 2**20} MiB.")


def at_least_one(limit: int) -> int:
    """How many entries an answer may have: who follows always gets on."""
    return min(max(limit, 1), _MOST)


def cut(entries: list[Entry], limit: int) -> tuple[list[Entry], bool]:
    """Those that one answer has, and whether there are more: at most *limit*, and none after PAGE bytes."""
    size = 0
    for many, entry in enumerate(entries):
        if many >= limit or size >= PAGE:
            return entries[:many], True
        size += len(entry.terms) + len(entry.vector)
    return entries, False
