"""What a server says of itself that decides what it forgets. Knows nothing of what is kept on it."""

from __future__ import annotations

from typing import NamedTuple


class Losses(NamedTuple):
    """What is lost, as the end of a sentence: by an eviction, a restart, and a power failure."""

    evicted: str
    restarted: str
    unsynced: str


def fields(text: str) -> dict[str, str]:
    """What INFO says, by name."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def evicts(said: dict[str, str]) -> str | None:
    """The server's policy, if it evicts keys when its memory is full."""
    policy = said.get("maxmemory_policy")
    return None if policy in (None, "noeviction") else policy


def losses(said: dict[str, str], sync: str | None, lost: Losses) -> str | None:
    """What a restart of the server forgets, and what to do about it; None where that is nothing."""
    if "maxmemory_policy" not in said:
        return f"does not say whether it evicts keys, with which {lost.evicted}. Set maxmemory-policy noeviction."
    if said.get("aof_enabled") != "1":
        return (
            f"does not log its writes (appendonly no): {lost.restarted}. "
            "CONFIG SET appendonly yes, appendfsync always."
        )
    if sync is not None and sync != "always":
        return (
            f"syncs its log later (appendfsync {sync}): when its machine loses power, {lost.unsynced}. "
            "CONFIG SET appendfsync always."
        )
    return None
