"""What every anchor holds a checkpoint to before it keeps it. The signature is the verifier's affair; a witness checks
it as well."""

from __future__ import annotations

import re

from shipworthy.domain.audit import FORMAT, TreeHead
from shipworthy.errors import AnchorError, AnchorRefused
from shipworthy.rules.audit import form

LONGEST = 65_536
"""Bytes that a checkpoint's line may have; they have some thousand."""
MOST = 2**63 - 1
_LOG = re.compile(r"[0-9a-f]{32}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")


def head_in(line: bytes) -> TreeHead | None:
    """The head of a checkpoint's line; None for what is none, whoever signed it."""
    if len(line) > LONGEST or b"\n" in line:
        return None
    read = form.head_of(line)
    if read is None:
        return None
    head = read[0]
    known = head.v == FORMAT and head.entries <= MOST
    return head if known and _LOG.match(head.log) and _HASH.match(head.root) else None


def checked(where: str, name: str, log: str, entries: int, line: bytes) -> TreeHead:
    """The head of *line*. Raises AnchorError unless it is a checkpoint of these."""
    head = head_in(line) if isinstance(line, bytes) else None
    if head is None or (head.name, head.log, head.entries) != (name, log, entries):
        what = "is none" if head is None else f"is of {head.entries} entries of {head.name!r} ({head.log})"
        raise AnchorError(
            f"{where} was given as a checkpoint of {entries} entries of {name!r} ({log}) what {what}.",
            fix="Send each line with the name, the log and the entries that it says itself.",
        )
    return head


def goes_back(where: str, head: TreeHead, kept: int) -> AnchorRefused:
    """The refusal of a checkpoint of fewer entries than are *kept* of its log."""
    return AnchorRefused(
        f"{where} keeps a checkpoint of {kept} entries of {head.name!r} ({head.log}): one of {head.entries} would go "
        "back."
    )


def rewrites(where: str, head: TreeHead) -> AnchorRefused:
    """The refusal of a checkpoint where one with another root is kept."""
    return AnchorRefused(
        f"{where} keeps another root of {head.entries} entries of {head.name!r} ({head.log}) than {head.root[:12]}…: "
        "taking this one would go back."
    )
