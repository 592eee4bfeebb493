"""What has the form of an entry, whoever made it."""

from __future__ import annotations

import re

from shipworthy.domain.audit import FORMAT, Entry
from shipworthy.rules.audit import form
from shipworthy.rules.audit.epochs import TAIL

LOG = re.compile(r"[0-9a-f]{32}\Z")
MAC = re.compile(r"[0-9a-f]{64}\Z")
_TOP = 1 << 63


def is_formed(entry: Entry) -> bool:
    """Whether its numbers are those of an entry."""
    return (
        entry.v == FORMAT
        and 0 <= entry.at < _TOP
        and 0 <= entry.fence < _TOP
        and 0 <= entry.logged < _TOP
        and 0 <= entry.n < _TOP
        and 0 <= entry.seq < _TOP
        and 0 <= entry.epoch < _TOP
    )


def is_written(entry: Entry, line: bytes) -> bool:
    """Whether the line has the form of an entry to the byte, whatever its mac."""
    texts = LOG.match(entry.log) and MAC.match(entry.prev) and (not entry.body or MAC.match(entry.body))
    return bool(texts and MAC.match(form.mac_of(line))) and form.encode(entry)[:-1] == line[:-TAIL]
