"""Linking: each entry names the one before it, and is made with its epoch's key."""

from __future__ import annotations

import msgspec

from shipworthy.domain.audit import EVERY, FORMAT, Draft, Entry, EpochKeys, Link, Standing
from shipworthy.errors import AuditKeyWrong
from shipworthy.rules.audit import form
from shipworthy.rules.audit.epochs import Stamp
from shipworthy.rules.audit.keys import mac
from shipworthy.rules.audit.signatures import public_of

BEGUN, ROTATED = "log.begun", "log.key_rotated"
SCHEME = "hmac-sha256/1"
SALT = 16
_NONE = Stamp(b"")


class Chain:
    """One writer's hold on a log: what it has of keys, and where the log stands. The first of *keys* is to be used;
    the others are those from which it may take over."""

    def __init__(self, keys: tuple[EpochKeys, ...], standing: Standing) -> None:
        self.keys = keys
        self.standing = standing
        self._epoch = -1
        self._key = b""
        self._key_id = ""
        self._stamp = _NONE

    def link(self, draft: Draft, logged: int, salt: bytes) -> Link:
        """The next entry, made at *logged*, and its body. Raises AuditKeyWrong: nothing changed."""
        if not draft.body:
            return Link(self.line(draft, logged, b""), b"", b"")
        body = form.body_line(self.standing.count, salt, draft.body)
        return Link(self.line(draft, logged, salt), body, salt)

    def line(self, draft: Draft, logged: int, salt: bytes) -> bytes:
        """The same, without its body."""
        at = self.standing
        count = at.count
        epoch = count // at.every
        stamp = self._stamp_of(epoch)
        body = draft.body
        plain = form.encode(
            Entry(
                action=draft.action,
                actor=draft.actor,
                at=draft.at,
                body=form.digest_of(salt, body) if body else "",
                epoch=epoch,
                facts=draft.facts,
                fence=draft.fence,
                log=at.log,
                logged=logged,
                n=draft.n,
                prev=at.mac,
                run=draft.run,
                seq=count,
                session=draft.session,
                tenant=draft.tenant,
                user=draft.user,
                v=FORMAT,
            )
        )
        stamped = stamp.of(plain)
        at.count, at.mac = count + 1, stamped
        if logged > at.logged:
            at.logged = logged
        return form.with_mac(plain, stamped)

    def rotation(self, now: int) -> Draft | None:
        """The entry with which the first key takes over, if another one is in use. After it is linked, `rotate`."""
        first = self.keys[0]
        if first.id == self.standing.key:
            return None
        facts = {
            "key": first.id,
            "sealed": first.sealed,
            "signer": public_of(first.seed(self.standing.log)).hex(),
        }
        return Draft(action=ROTATED, actor="log", at=now, facts=facts)

    def rotate(self) -> None:
        """From now on the first key is used."""
        first = self.keys[0]
        self.standing.key, self.standing.signer = first.id, public_of(first.seed(self.standing.log)).hex()

    def seal(self) -> bytes:
        """The seal of the log as it stands, under the key of the entry that was linked last."""
        at = self.standing
        if not self._key:
            self._stamp_of((at.count - 1) // at.every)
        return seal_of(self._key, at.log, at.count, at.mac)

    def active(self) -> EpochKeys:
        """The keys in use. Raises AuditKeyWrong."""
        for keys in self.keys:
            if keys.id == self.standing.key:
                return keys
        have = ", ".join([keys.id for keys in self.keys])
        raise AuditKeyWrong(
            f"The log {self.standing.name!r} goes on under key {self.standing.key}, and here is {have}."
        )

    def _stamp_of(self, epoch: int) -> Stamp:
        if epoch != self._epoch or self.standing.key != self._key_id:
            key = self.active().epoch(self.standing.log, epoch)
            self._epoch, self._key, self._key_id, self._stamp = epoch, key, self.standing.key, Stamp(key)
        return self._stamp


def genesis(keys: EpochKeys, name: str, log: str, now: int, every: int = EVERY) -> tuple[Standing, Draft]:
    """A log that is about to begin, and its first entry."""
    signer = public_of(keys.seed(log)).hex()
    standing = Standing(
        log=log, name=name, every=every, count=0, mac=form.ZEROS, key=keys.id, signer=signer, logged=now
    )
    facts = {
        "every": every,
        "key": keys.id,
        "name": name,
        "scheme": SCHEME,
        "sealed": keys.sealed,
        "signer": signer,
    }
    return standing, Draft(action=BEGUN, actor="log", at=now, facts=facts)


def seal_of(key: bytes, log: str, count: int, last: str) -> bytes:
    """What says how far a log goes."""
    return mac(
        key, b"shipworthy audit seal v1", bytes.fromhex(log), count.to_bytes(8, "big"), bytes.fromhex(last)
    )


class Seal(msgspec.Struct, frozen=True, gc=False):
    """A seal as it is written."""

    count: int
    log: str
    mac: str
    seal: str


_seals = msgspec.json.Decoder(Seal)
SLOT = 512


def slot_of(standing: Standing, seal: bytes) -> bytes:
    """A slot of a seal's file."""
    text = form.encode(Seal(standing.count, standing.log, standing.mac, seal.hex()))
    return text.ljust(SLOT - 1) + b"\n"


def seals_of(data: bytes) -> list[Seal]:
    """The seals of a file's slots, the highest count first; those that cannot be read are left out."""
    found: list[Seal] = []
    for start in range(0, 2 * SLOT, SLOT):
        try:
            found.append(_seals.decode(data[start : start + SLOT]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return sorted(found, key=lambda seal: -seal.count)
