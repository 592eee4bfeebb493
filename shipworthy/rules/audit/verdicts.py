"""What a verifier says of a log: what it found, what that means, and what is to be done."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from shipworthy.domain.audit import Verdict

MEANS: dict[Verdict, tuple[str, str]] = {
    "ok": ("Every entry stands as it was made.", ""),
    "missing": (
        "There is no log, though something outside it tells of one: it was deleted, or this is not its place.",
        "Look for it where its writers keep it; if it is gone, restore a backup to another place and verify that.",
    ),
    "emptied": (
        "The log has no entries, though something outside it tells of some: they were deleted.",
        "Keep the place as it is, restore a backup to another one, and verify that.",
    ),
    "swapped": (
        "This is an authentic log, and another one than is expected here.",
        "Look for the expected log. If this one was begun on purpose, say so: --expect-log with its id.",
    ),
    "wrong_key": (
        "The log names a key of which no secret was given, so nothing is known of what follows.",
        "Give the secret of this key; after `audit keys rotate` the earlier one is needed as well.",
    ),
    "spliced": (
        "An entry of another log was put into this one.",
        "Keep the files as they are; what stands before it is sound. Compare it with a backup.",
    ),
    "edited": (
        "An entry is not as it was made: somebody without the key changed it.",
        "Keep the files as they are; what stands before it is sound. Compare it with a backup.",
    ),
    "inserted": (
        "A line was put between two entries by somebody without the key.",
        "Keep the files as they are. The entries around it follow each other.",
    ),
    "rewritten": (
        "Entries were made anew by somebody who holds a key of the log: that of a later epoch, or of this one.",
        "Hold that key for stolen: rotate it, keep the files as they are, and compare them with a backup.",
    ),
    "reordered": (
        "Entries stand in another order than they were made in.",
        "Keep the files as they are. Each entry's seq says where it belongs.",
    ),
    "deleted": (
        "Entries are missing from the middle of the log.",
        "Keep the files as they are. A backup, or the journal, has what the missing ones told.",
    ),
    "duplicated": (
        "An entry stands in the log a second time.",
        "Keep the files as they are. The first of the two is the entry.",
    ),
    "clock_back": (
        "An entry says that it was made before others that it follows: a clock was set back.",
        "Ask who set it. The order of the entries is sound, their times from here on are not.",
    ),
    "truncated": (
        "The end of the log is missing: its seal counts more entries.",
        "Keep the files as they are. A backup, or the journal, has what the missing ones told.",
    ),
    "rolled_back": (
        "The log and its seal were put back to an earlier state: a checkpoint covers more entries.",
        "If somebody restored a backup, this is what it lost. Otherwise keep the files as they are.",
    ),
    "unsealed": (
        "Nothing that is authentic says how far the log goes, so its end may be missing.",
        "Look for its seal in a backup; a log that was copied needs its seal beside it.",
    ),
    "checkpoint": (
        "A checkpoint is not signed by the log's signer: it was made up, changed, or is another log's.",
        "Look where that checkpoint came from; the entries themselves stand as they were made.",
    ),
    "unanchored": (
        "The log is in order as far as it tells itself, but an anchor that was given has no checkpoint of it.",
        "Give the anchor that its writers send to, and the --name that it knows the log by. A new log is anchored "
        "after a second.",
    ),
    "body_edited": (
        "Every entry stands as it was made, but what is beside one is not what it told of.",
        "Do not rely on that body. To erase a body, use Shipworthy, which marks it as erased.",
    ),
}


_EMPTY = (
    "There is nothing in it, and no anchor was asked: that the whole log was taken away would not be seen."
)


class Finding(NamedTuple):
    """What was found first, at which entry and line; None: at the end."""

    verdict: Verdict
    seq: int | None
    line: int | None
    what: str


class Bodies(msgspec.Struct, frozen=True):
    """How many bodies fit their digests, are erased, are missing, or do not fit."""

    fit: int
    erased: int
    missing: int
    edited: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `seq`: the entry where it was; `line`: its place among the lines, from 1; both None for what is
    found at the end. `also`: what was found after a clock that was set back. `anchored`: how many entries checkpoints
    outside cover. `windows`: what could have been done without a trace."""

    verdict: Verdict
    seq: int | None
    line: int | None
    what: str
    also: str
    entries: int
    bodies: Bodies
    log: str | None
    name: str | None
    keys: tuple[str, ...]
    forward_secure: bool
    checkpoints: int
    anchored: int
    torn: int
    windows: tuple[str, ...]

    @property
    def means(self) -> str:
        """What the verdict means."""
        return MEANS[self.verdict][0]

    @property
    def fix(self) -> str:
        """What is to be done about it; "" for nothing."""
        return MEANS[self.verdict][1]


def windows(*, entries: int, anchored: int, any_anchor: bool, forward_secure: bool) -> tuple[str, ...]:
    """What could have been done to a log of so many entries, and would not be seen."""
    if not entries:
        return () if any_anchor else (_EMPTY,)
    said = []
    if not any_anchor:
        said.append(
            "No anchor was asked: the whole log, put back to an earlier state or replaced together with its seal and "
            "its checkpoints, would not be seen, nor would entries of the newest epoch that were rewritten."
        )
    elif anchored < entries:
        left = (
            "The last entry is" if entries - anchored == 1 else f"The last {entries - anchored} entries are"
        )
        said.append(
            f"{left} under no anchored checkpoint yet: whoever holds the live key and the files could have rewritten "
            "them, or cut them off, and it would not be seen."
        )
    if not forward_secure:
        past = " after the newest anchored checkpoint" if any_anchor else ""
        said.append(
            f"The log is not forward-secure: whoever has the secret could have written another history{past}, and it "
            "would not be seen."
        )
    return tuple(said)
