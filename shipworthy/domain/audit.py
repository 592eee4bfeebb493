"""The audit log's values: what is entered, where a log stands, and what a verifier found. The format is documented in
docs/reference/audit-format.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

FORMAT = 1
EVERY = 64
"""Entries of one epoch, and at most between two checkpoints."""

Verdict = Literal[
    "ok",
    "missing",
    "emptied",
    "swapped",
    "wrong_key",
    "spliced",
    "edited",
    "inserted",
    "rewritten",
    "reordered",
    "deleted",
    "duplicated",
    "clock_back",
    "truncated",
    "rolled_back",
    "unsealed",
    "checkpoint",
    "unanchored",
    "body_edited",
]


class Draft(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is to be entered. `at`: when it happened, milliseconds since the Unix epoch. `facts`: what may be read by
    whoever has the log, and is never erased. `body`: JSON text, which can be erased. `n` and `fence` place it in its
    run's journal; 0 where it is no run's."""

    action: str
    actor: str
    at: int
    tenant: str | None = None
    user: str | None = None
    session: str | None = None
    run: str | None = None
    n: int = 0
    fence: int = 0
    facts: Mapping[str, Any] = {}
    body: bytes = b""


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An entry of the log, its members in the order of the format; `mac` is written last."""

    action: str
    actor: str
    at: int
    body: str
    epoch: int
    facts: Mapping[str, Any]
    fence: int
    log: str
    logged: int
    n: int
    prev: str
    run: str | None
    seq: int
    session: str | None
    tenant: str | None
    user: str | None
    v: int


class Standing(msgspec.Struct, gc=False, kw_only=True):
    """Where a log stands: all that a writer needs to go on. `count`: its entries; `mac`: that of the last one, hex;
    `key`: the id of the key that the next one is made with; `signer`: the public key of its checkpoints, hex;
    `logged`: the highest time at which an entry was made."""

    log: str
    name: str
    every: int
    count: int
    mac: str
    key: str
    signer: str
    logged: int = 0


class Link(msgspec.Struct, frozen=True, gc=False):
    """A draft as it is written: the entry's line and that of its body, both without a newline; the body's salt."""

    line: bytes
    body: bytes
    salt: bytes


class EpochKeys(Protocol):
    """What a writer makes entries with."""

    @property
    def id(self) -> str:
        """The key's id, as the log names it."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether keys of epochs that are over cannot be had any more."""
        ...

    @property
    def log(self) -> str | None:
        """The only log that these keys are for; None: they are for any."""
        ...

    def epoch(self, log: str, number: int) -> bytes:
        """The key of an epoch. Raises AuditKeyWrong for one that is over, where those are gone."""
        ...

    def seed(self, log: str) -> bytes:
        """The seed of the key that signs this log's checkpoints."""
        ...

    def over(self, log: str, number: int) -> None:
        """Every entry that will be made is of epoch *number* or later: forget older keys. May write a file."""
        ...


class Links(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Drafts that are to land in a store's own commit: in the log of this name, made with the first of these keys.
    `log`: the id that it has to have; "": any, and it is begun where there is none."""

    name: str
    keys: tuple[EpochKeys, ...]
    drafts: tuple[Draft, ...]
    log: str = ""


class TreeHead(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a checkpoint signs, its members in the order of the format; `sig` is written last."""

    at: int
    entries: int
    log: str
    name: str
    peaks: tuple[str, ...]
    root: str
    signer: str
    v: int = FORMAT
