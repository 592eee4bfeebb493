"""What was found, in members and in words."""

from __future__ import annotations

import dataclasses
import json

from .walk import Walk


@dataclasses.dataclass
class Report:
    """What was found. `words` says what it means; `windows` say what cannot be found even so."""

    verdict: str
    entry: int | None
    words: str
    entries: int = 0
    log: str | None = None
    name: str | None = None
    keys: list[str] = dataclasses.field(default_factory=list)
    sealed: bool | None = None
    anchored_entries: int = 0
    unanchored: int = 0
    bodies: dict[str, int] = dataclasses.field(default_factory=dict)
    torn: int = 0
    windows: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict == "ok"

    @property
    def forward_secure(self) -> bool | None:
        """Whether the writers hold only an evolving key."""
        return self.sealed


def report(walk: Walk) -> Report:
    """Say what was found."""
    words = f"All {walk.count} entries hold."
    if walk.found:
        also = (f"Also: {verdict}. {more}" for verdict, _, more in walk.found[1:])
        words = " ".join([walk.found[0][2], *also])
    verdict, entry = walk.found[0][:2] if walk.found else ("ok", None)
    anchored = walk.marks.anchored
    return Report(
        verdict=verdict,
        entry=entry,
        words=words,
        entries=walk.count,
        log=walk.log,
        name=walk.name,
        keys=walk.keys,
        sealed=walk.sealed,
        anchored_entries=anchored,
        unanchored=walk.count - anchored,
        bodies=walk.bodies.counts() if walk.judge_bodies else {},
        torn=walk.torn,
        windows=_windows(walk),
    )


def _windows(walk: Walk) -> list[str]:
    """Say what could not be found."""
    windows, loose = [], walk.count - walk.marks.anchored
    if not walk.marks.anchored:
        windows.append(
            "No anchored checkpoint covers the log: it may have been put back to an earlier state, "
            "as a whole and with its seal and checkpoints."
        )
    if loose:
        windows.append(
            f"The last {loose} entries are under no anchored checkpoint: whoever holds the current key "
            "and the files could have written them anew, or cut off what was behind the anchored ones."
        )
    if walk.sealed is False:
        windows.append(
            "Not forward-secure: the writers hold the secret itself. Whoever has it can write another "
            "history, which only anchored checkpoints show."
        )
    if walk.marks.unread:
        windows.append(f"{walk.marks.unread} lines of the anchors are no checkpoints: they say nothing.")
    return windows


def tell(found: Report, as_json: bool) -> str:
    """Give the report as text."""
    if as_json:
        return json.dumps(dataclasses.asdict(found) | {"forward_secure": found.forward_secure})
    where = "" if found.entry is None else f"entry {found.entry}: "
    rows = [found.verdict, where + found.words]
    rows.append(f"log: {found.log or 'unknown'}, name: {found.name or 'unknown'}")
    rows.append(f"entries: {found.entries}, {found.anchored_entries} under an anchored checkpoint")
    rows.append("keys: " + (", ".join(found.keys) or "none"))
    if found.bodies:
        rows.append("bodies: " + ", ".join(f"{count} {what}" for what, count in found.bodies.items()))
    if found.torn:
        rows.append(f"torn end: {found.torn} bytes, no tampering; the next writer cuts them off")
    return "\n".join(rows + [f"window: {window}" for window in found.windows])
