"""Entering drafts in a log that a database keeps: what is read of it is checked before anything is made of it.

Nothing is remembered between two transactions, since other processes write in between.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from shipworthy.domain.audit import Draft, Entry, EpochKeys, Links, Standing
from shipworthy.errors import AuditDamaged, AuditError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import SALT, Chain, genesis, seal_of

_standings = msgspec.json.Decoder(Standing)
_slices = msgspec.json.Decoder(list[msgspec.Raw])


class Kept(msgspec.Struct, frozen=True, gc=False):
    """What a database has of a log: where it stands, its seal, and its last entry. `key`: the log's own key there."""

    key: int
    standing: bytes
    seal: bytes
    seq: int | None
    line: bytes | None


def now_ms() -> int:
    """The wall clock, in milliseconds."""
    return time.time_ns() // 1_000_000


class Row(msgspec.Struct, frozen=True, gc=False):
    """An entry as a database keeps it. `joined`: its body is an event of the journal, and only the salt is kept."""

    seq: int
    line: bytes
    salt: bytes | None
    body: bytes | None
    joined: bool


class Growth:
    """A log inside a transaction: where it stands, and what is to be added. `key` is None for one that is begun by
    it; *at*: what time it is, where that is not this machine's affair."""

    def __init__(self, key: int | None, standing: Standing, at: int | None = None) -> None:
        self.key = key
        self.standing = standing
        self.rows: list[Row] = []
        self._at = at
        self._chain: Chain | None = None

    def add(
        self, keys: tuple[EpochKeys, ...], drafts: Sequence[Draft], first: int = 1, last: int = 0
    ) -> list[Row]:
        """Link these, after the entry by which a new key takes over; the bodies of the events from *first* to *last*
        are in the journal. Raises AuditKeyWrong, and AuditError for what cannot be written; then this is of no use any
        more."""
        if self._chain is None or self._chain.keys is not keys:
            self._chain = Chain(keys, self.standing)
        chain, now, seq = self._chain, self._at or now_ms(), self.standing.count
        made: list[Row] = []
        try:
            if rotation := chain.rotation(now):
                made.append(Row(seq, chain.line(rotation, now, b""), None, None, False))
                chain.rotate()
            for seq, draft in enumerate(drafts, self.standing.count):
                salt = os.urandom(SALT) if draft.body else b""
                joined = first <= draft.n <= last
                if not joined:
                    draft.body.decode()  # what is no text cannot be read again
                line = chain.line(draft, now, salt)
                made.append(Row(seq, line, salt or None, None if joined else draft.body or None, joined))
        except (UnicodeError, TypeError, OverflowError) as error:
            raise _unwritable(error) from error
        self.rows += made
        return made

    @property
    def seal(self) -> bytes:
        """Its seal then."""
        assert self._chain is not None, "nothing was added"
        return self._chain.seal()

    @property
    def encoded(self) -> bytes:
        """Where it will stand, as the database keeps it."""
        return form.encode(self.standing)


def begun(keys: tuple[EpochKeys, ...], name: str) -> Growth:
    """A log that is not there yet, with its first entry."""
    now = now_ms()
    if getattr(keys[0], "begun", False):
        raise AuditDamaged(f"The log {name!r} is gone: its sealed key was in use already.")
    standing, draft = genesis(keys[0], name, keys[0].log or os.urandom(16).hex(), now)
    growth = Growth(None, standing)
    try:
        growth.add(keys, [draft])
    except AuditError as error:
        raise type(error)(f"The log {name!r} cannot be begun: {error.what}", fix=error.fix) from error
    return growth


def grown(kept: Kept | None, links: Links, at: int | None = None) -> Growth:
    """The log of these links, ready for them, *at* this time. Raises AuditDamaged, AuditKeyWrong."""
    if kept is not None:
        standing = sound(kept, links.keys, links.name)
        demand_log(standing, links)
        return Growth(kept.key, standing, at)
    if links.log:
        raise AuditDamaged(f"The log {links.name!r} is gone.")
    return begun(links.keys, links.name)


def demand_log(standing: Standing, links: Links) -> None:
    """Raises AuditDamaged unless it is the log that these links are for."""
    if links.log not in ("", standing.log):
        raise AuditDamaged(f"In the place of the log {links.name!r} is another one, {standing.log}.")


def sound(kept: Kept, keys: tuple[EpochKeys, ...], name: str) -> Standing:
    """Where a log stands, which is where its last entry says and its seal. Raises AuditDamaged, AuditKeyWrong."""
    standing = standing_of(kept, name)
    key = Chain(keys, standing).active().epoch(standing.log, (standing.count - 1) // standing.every)
    if not form.is_authentic(key, kept.line or b""):
        raise AuditDamaged(f"The last entry of the log {name!r} is not authentic.")
    if not hmac.compare_digest(seal_of(key, standing.log, standing.count, standing.mac), kept.seal):
        raise AuditDamaged(f"The seal of the log {name!r} is not right.")
    return standing


def standing_of(kept: Kept, name: str) -> Standing:
    """The same, as far as it can be told without a key. Raises AuditDamaged."""
    standing = said(kept)
    if standing is None:
        raise AuditDamaged(f"It cannot be read where the log {name!r} stands.")
    if kept.line is None or kept.seq is None:
        raise AuditDamaged(f"The log {name!r} has no entries any more; it had {standing.count}.")
    if kept.seq + 1 != standing.count:
        raise AuditDamaged(f"The log {name!r} has {kept.seq + 1} entries, and should have {standing.count}.")
    if form.mac_of(kept.line) != standing.mac or standing.name != name or standing.every < 1:
        raise AuditDamaged(f"The last entry of the log {name!r} is not the one that was written last.")
    return standing


def said(kept: Kept) -> Standing | None:
    """Where a log is said to stand, unchecked; None for what cannot be read."""
    try:
        return _standings.decode(kept.standing)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def like_its_first(standing: Standing, line: bytes) -> None:
    """Whether a log stands as its first entry says. Raises AuditDamaged."""
    first = form.entry_of(line)
    said = None if first is None else (first.log, first.facts.get("every"), first.facts.get("name"))
    if said != (standing.log, standing.every, standing.name):
        raise AuditDamaged(f"The log {standing.name!r} does not stand as its first entry says.")


def _unwritable(error: Exception) -> AuditError:
    what = f"An entry cannot be written to the audit log ({type(error).__name__}: {error})."
    return AuditError(
        what, fix="Keep lone surrogates, and what JSON has no word for, out of names and facts."
    )


class Held(msgspec.Struct, frozen=True, gc=False):
    """An entry as it is read: its line, and its body's salt and text as far as they are there."""

    seq: int
    line: bytes
    salt: bytes | None
    body: bytes | None

    def beside(self) -> bytes | None:
        """The line that stands after the entry's in a file; None where there is none."""
        if self.salt is None:
            entry = form.entry_of(self.line)
            return form.encode(form.Erased(self.seq)) if entry is not None and entry.body else None
        if self.body is None:
            return None
        return form.encode(form.Body(self.body.decode(errors="replace"), self.salt.hex(), self.seq))


def resolved(
    seq: int,
    line: bytes,
    salt: bytes | None,
    body: bytes | None,
    first: int | None,
    events: bytes | None,
    tenant: str | None,
    run: str | None,
) -> Held:
    """An entry with its body, which may be one of the *events*, numbered from *first*, of this run."""
    if salt is not None and body is None and first is not None and events is not None:
        entry = form.entry_of(line)
        if entry is not None and (entry.tenant, entry.run) == (
            tenant,
            run,
        ):  # a run that was buried has another id
            body = _event(events, entry.n - first)
    return Held(seq, line, salt, body)


def _event(events: bytes, index: int) -> bytes | None:
    """The bytes of one of the events, as they stand."""
    try:
        found = _slices.decode(events)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return events  # it fits no digest, which is what there is to say
    return bytes(found[index]) if 0 <= index < len(found) else None


def written(held: Iterable[Held]) -> Iterator[bytes]:
    """The lines of a file that has these."""
    for each in held:
        yield each.line
        if (beside := each.beside()) is not None:
            yield beside


def matches(line: bytes, match: Callable[[Entry], bool]) -> bool:
    """Whether the entry of a line is one of those."""
    entry = form.entry_of(line)
    return entry is not None and bool(match(entry))
