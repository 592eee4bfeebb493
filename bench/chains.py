"""Bare audit logs, to be read beside ours: what somebody writes who wants a chained, durable log and nothing else.

An entry is one JSON line with what ours tells (its body inside it), the mac of the line before, and an HMAC over all
of that. There is no salt and no digest of a body that may be erased, no key that evolves, no seal, no checkpoint, no
lock against other processes, no torn end that is mended, and nobody is told of an error: these are floors.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from durable import Folder, GroupCommit

from shipworthy import FileAuditLog
from shipworthy.adapters.files.audit_heads import Heads
from shipworthy.adapters.files.audit_seal import SealFile
from shipworthy.domain.audit import EVERY, Draft
from shipworthy.rules.audit.chain import Chain, genesis
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.merkle import Tree
from shipworthy.rules.audit.signatures import checkpoint

SECRET = "a secret of forty characters, for benches"
KEY = b"an audit key of thirty-two bytes"
BODY = (
    b'{"kind":"tool_returned","seq":7,"at":1700000000000,"call_id":"call_0123456789ab","outcome":"ok",'
    b'"content":[{"text":"Seat 12A is booked for Ada Lovelace. The booking code is QX7-33-LOVELACE."}]}'
)


def draft(number: int, body: bytes = BODY) -> Draft:
    """What is entered when a tool has returned."""
    return Draft(
        action="tool.returned",
        actor="tool:book",
        at=1_700_000_000_000 + number,
        tenant="acme",
        user="user-7",
        session="today",
        run="0123456789abcdef0123456789abcdef",
        n=number + 1,
        fence=1,
        facts={"call": "call_0123456789ab", "outcome": "ok", "tool": "book"},
        body=body,
    )


class Bare(msgspec.Struct):
    """An entry of the floors."""

    action: str
    actor: str
    at: int
    tenant: str | None
    user: str | None
    session: str | None
    run: str | None
    n: int
    seq: int
    prev: str
    facts: Mapping[str, Any]
    body: msgspec.Raw


class BareChain:
    """Lines, each with a mac over itself and the one before."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(order="deterministic").encode
        self._seq, self._prev = 0, ""

    def line(self, of: Draft) -> bytes:
        entry = Bare(
            of.action,
            of.actor,
            of.at,
            of.tenant,
            of.user,
            of.session,
            of.run,
            of.n,
            self._seq,
            self._prev,
            of.facts,
            msgspec.Raw(of.body),
        )
        plain = self._encode(entry)
        mac = hmac.digest(KEY, plain, "sha256").hex()
        self._seq, self._prev = self._seq + 1, mac
        return plain[:-1] + b',"mac":"' + mac.encode() + b'"}\n'


def opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def bare_appends(parent: Path, entries: int) -> float:
    """Microseconds of an append that is durable when it returns; one caller, no thread, no event loop."""
    with Folder(parent) as folder:
        file, chain = opened(folder / "bare.jsonl"), BareChain()
        drafts = [draft(n) for n in range(entries)]
        begun = time.perf_counter()
        for each in drafts:
            os.write(file, chain.line(each))
            os.fdatasync(file)
        seconds = time.perf_counter() - begun
        os.close(file)
    return seconds * 1e6 / entries


class InGroups(GroupCommit):
    """A thread that enters whatever waits, with one write and one sync, and wakes all who waited at once."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._file, self._chain = opened(path), BareChain()
        super().__init__(loop)

    def land(self, blobs: Sequence[Any]) -> None:
        os.write(self._file, b"".join([self._chain.line(each) for each in blobs]))
        os.fdatasync(self._file)

    def close(self) -> None:
        super().close()
        os.close(self._file)


def grouped_appends(parent: Path, writers: int, each: int) -> float:
    """Entries a second of so many tasks, each with one after the other."""
    with Folder(parent) as folder:

        async def measured() -> float:
            group: Any = InGroups(folder / "bare.jsonl", asyncio.get_running_loop())

            async def write(mine: Sequence[Draft]) -> None:
                for one in mine:
                    await group.commit(one)

            drafts = [draft(n) for n in range(each)]
            begun = time.perf_counter()
            await asyncio.gather(*[write(drafts) for _ in range(writers)])
            seconds = time.perf_counter() - begun
            group.close()
            return seconds

        return writers * each / asyncio.run(measured())


def our_appends(parent: Path, writers: int, each: int) -> float:
    """Seconds for the same in a FileAuditLog."""
    with Folder(parent) as folder:

        async def measured() -> float:
            log = FileAuditLog(folder / "audit.jsonl", secret=SECRET)
            await log.open()

            async def write(mine: Sequence[Draft]) -> None:
                for one in mine:
                    await log.append([one])

            drafts = [draft(n) for n in range(each)]
            await log.append(drafts[:1])
            begun = time.perf_counter()
            await asyncio.gather(*[write(drafts) for _ in range(writers)])
            seconds = time.perf_counter() - begun
            await log.close()
            return seconds

        return asyncio.run(measured())


# --- reading back -------------------------------------------------------------------------------


def make(path: Path, entries: int, bodies: bool) -> Path:
    """A log of so many entries, with its seal and its checkpoints, as a FileAuditLog leaves it."""
    secret = Secret(SECRET)
    standing, first = genesis(secret, "audit", "0123456789abcdef" * 2, 1_700_000_000_000)
    chain, tree, seed = Chain((secret,), standing), Tree(), secret.seed(standing.log)
    heads = Heads(f"{path}.checkpoints")
    with open(path, "wb") as file:
        for number in range(entries):
            one = first if not number else draft(number, BODY if bodies else b"")
            link = chain.link(one, one.at, b"0123456789abcdef" if one.body else b"")
            file.write(link.line + b"\n" + (link.body + b"\n" if link.body else b""))
            tree.add(link.line)
            if tree.size % EVERY == 0 or tree.size == entries:
                heads.keep(checkpoint(seed, standing.log, standing.name, tree, one.at))
    heads.close()
    seal = SealFile(f"{path}.seal")
    seal.create(standing, chain.seal())
    seal.close()
    return path


class Line(msgspec.Struct):
    """What a bare verifier reads of an entry."""

    prev: str
    seq: int
    body: str
    epoch: int
    log: str


class Body(msgspec.Struct):
    """And of a body."""

    body: str
    salt: str
    seq: int


def bare_verify(path: Path) -> float:
    """Microseconds of CPU time an entry: its JSON is read, its HMAC and its place in the chain are compared, its line
    is hashed, and its body, if it has one. Checkpoints and the seal are left alone, and any wrong line ends it."""
    secret = Secret(SECRET)
    entry_of = msgspec.json.Decoder(Line).decode
    body_of = msgspec.json.Decoder(Body).decode
    seq, prev, digest, epoch, key = 0, "0" * 64, "", -1, b""
    begun = time.process_time_ns()
    with open(path, "rb", buffering=1 << 20) as file:
        for text in file:
            if text.startswith(b'{"body":'):
                body = body_of(text)
                if hashlib.sha256(bytes.fromhex(body.salt) + body.body.encode()).hexdigest() != digest:
                    raise ValueError(f"the body of {seq - 1}")
                continue
            entry = entry_of(text)
            if entry.epoch != epoch:
                epoch, key = entry.epoch, secret.epoch(entry.log, entry.epoch)
            mac = text[-67:-3].decode()
            if entry.seq != seq or entry.prev != prev:
                raise ValueError(f"entry {seq}")
            if hmac.digest(key, text[:-75] + b"}", "sha256").hex() != mac:
                raise ValueError(f"the mac of {seq}")
            hashlib.sha256(text[:-1]).digest()
            seq, prev, digest = seq + 1, mac, entry.body
    return (time.process_time_ns() - begun) / 1000 / seq
