"""Logs made from the page of the format alone, and every attack of its table on them."""

from __future__ import annotations

import functools
import hashlib
import hmac
import importlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import shipworthy_verify as sv
from shipworthy_verify import ed25519, files

SECRET, NEW, OTHER = "correct horse", "battery staple", "another one"
SEEDS = range(6)


def mac_of(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def root_key(secret: str) -> bytes:
    return mac_of(b"shipworthy audit root v1", secret.encode())


def key_id(secret: str) -> str:
    return mac_of(root_key(secret), b"shipworthy audit id v1").hex()[:16]


@functools.cache
def epoch_key(secret: str, log: str, epoch: int) -> bytes:
    if epoch == 0:
        return mac_of(root_key(secret), b"shipworthy audit epoch v1" + bytes.fromhex(log))
    return mac_of(epoch_key(secret, log, epoch - 1), b"shipworthy audit next v1")


@functools.cache
def signing(secret: str, log: str) -> Ed25519PrivateKey:
    seed = mac_of(root_key(secret), b"shipworthy audit signer v1" + bytes.fromhex(log))
    return Ed25519PrivateKey.from_private_bytes(seed)


@functools.cache
def public(secret: str, log: str) -> str:
    return signing(secret, log).public_key().public_bytes_raw().hex()


def tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return h(b"\1" + tree(leaves[:k]) + tree(leaves[k:]))


def split(n: int) -> int:
    return 1 << (n - 1).bit_length() - 1


def audit_path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), tree(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), tree(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [tree(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), tree(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), tree(leaves[:k])]


def subtrees(leaves: list[bytes]) -> list[str]:
    peaks = []
    while leaves:
        size = 1 << len(leaves).bit_length() - 1
        peaks.append(tree(leaves[:size]).hex())
        leaves = leaves[size:]
    return peaks


@dataclass
class Made:
    """A log, as its writer made it."""

    log: str
    every: int = 16
    secret: str = SECRET
    sealed: bool = True
    name: str = "main"
    entries: list[bytes] = field(default_factory=list)
    bodies: list[bytes | None] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    clock: int = 1_700_000_000_000

    @property
    def prev(self) -> str:
        return self.entries[-1][-66:-2].decode() if self.entries else "0" * 64

    def line(self, action: str, facts: dict[str, Any], **changes: Any) -> bytes:
        seq = changes.get("seq", len(self.entries))
        members = {
            "action": action,
            "actor": "tool:bäcker",
            "at": self.clock - 5,
            "body": "",
            "epoch": seq // self.every,
            "facts": facts,
            "fence": 0,
            "log": self.log,
            "logged": self.clock,
            "n": seq,
            "prev": self.prev,
            "run": "r1",
            "seq": seq,
            "session": None,
            "tenant": "t",
            "user": None,
            "v": 1,
        }
        key = changes.pop("key", None)
        members |= changes
        if key is None:
            key = epoch_key(self.secret, self.log, members["epoch"])
        text = dumps(members)
        return text[:-1] + b',"mac":"' + mac_of(key, text).hex().encode() + b'"}'

    def add(self, action: str, facts: dict[str, Any], text: str | None = None, **changes: Any) -> None:
        body = None
        if text is not None:
            salt = os.urandom(16)
            changes["body"] = h(salt + text.encode()).hex()
            body = dumps({"body": text, "salt": salt.hex(), "seq": len(self.entries)})
        self.clock += 10
        self.entries.append(self.line(action, facts, **changes))
        self.bodies.append(body)
        self.secrets.append(self.secret)

    def begin(self) -> None:
        facts = {
            "every": self.every,
            "key": key_id(self.secret),
            "name": self.name,
            "scheme": "hmac-sha256/1",
            "sealed": self.sealed,
            "signer": public(self.secret, self.log),
        }
        self.add("log.begun", facts)

    def rotate(self, secret: str) -> None:
        self.add("log.key_rotated", {"key": key_id(secret), "signer": public(secret, self.log)})
        self.secret = secret

    def lines(self) -> list[bytes]:
        found = []
        for entry, body in zip(self.entries, self.bodies, strict=True):
            found += [entry + b"\n"] + ([body + b"\n"] if body is not None else [])
        return found

    def slot(self, count: int | None = None, **changes: Any) -> bytes:
        count = len(self.entries) if count is None else count
        mac = changes.get("mac", self.entries[count - 1][-66:-2].decode())
        key = epoch_key(self.secrets[count - 1], self.log, (count - 1) // self.every)
        data = (
            b"shipworthy audit seal v1"
            + bytes.fromhex(self.log)
            + count.to_bytes(8, "big")
            + bytes.fromhex(mac)
        )
        found = dumps(
            {"count": count, "log": self.log, "mac": mac, "seal": mac_of(key, data).hex()} | changes
        )
        return found.ljust(511) + b"\n"

    def seal(self, count: int | None = None) -> bytes:
        count = len(self.entries) if count is None else count
        return self.slot(count) + self.slot(max(1, count - 1))

    def checkpoint(self, count: int | None = None, **changes: Any) -> bytes:
        count = len(self.entries) if count is None else count
        leaves = self.leaves()[:count]
        secret = changes.pop("secret", self.secrets[count] if count < len(self.secrets) else self.secret)
        text = dumps(
            {
                "at": self.clock,
                "entries": count,
                "log": self.log,
                "name": self.name,
                "peaks": subtrees(leaves),
                "root": tree(leaves).hex(),
                "signer": public(secret, self.log),
                "v": 1,
            }
            | changes
        )
        return text[:-1] + b',"sig":"' + signing(secret, self.log).sign(text).hex().encode() + b'"}\n'

    def leaves(self) -> list[bytes]:
        return [h(b"\0" + entry) for entry in self.entries]

    def checkpoints(self) -> list[bytes]:
        counts = [*range(64, len(self.entries), 64), len(self.entries)]
        return [self.checkpoint(count) for count in counts]


def make(n: int = 80, *, seed: int = 1, bodies: bool = True, rotate: int = -1, **kinds: Any) -> Made:
    dice = random.Random(seed)
    made = Made(f"{dice.getrandbits(128):032x}", **kinds)
    made.begin()
    while len(made.entries) < n:
        if len(made.entries) == rotate:
            made.rotate(NEW)
            continue
        text = "täxt " * dice.randrange(9) if bodies and dice.random() < 0.5 else None
        made.add("tool.attempted", {"a": [1, {"x": None}], "b": True, "c": 'ü"\\', "ca": -7}, text)
    return made


def check(made: Made, lines: list[bytes] | None = None, **kinds: Any) -> sv.Report:
    kinds.setdefault("secrets", [NEW, SECRET])
    kinds.setdefault("seal", made.seal())
    kinds.setdefault("checkpoints", made.checkpoints())
    return sv.verify(made.lines() if lines is None else lines, **kinds)


def found(made: Made, lines: list[bytes] | None = None, **kinds: Any) -> tuple[str, int | None]:
    report = check(made, lines, **kinds)
    return report.verdict, report.entry


def at(made: Made, seq: int) -> int:
    """The index of an entry's line."""
    return made.lines().index(made.entries[seq] + b"\n")


def put_in(made: Made, seq: int, line: bytes) -> list[bytes]:
    """The log with another line in an entry's place."""
    lines = made.lines()
    lines[at(made, seq)] = line + b"\n"
    return lines


def without(made: Made, *seqs: int) -> list[bytes]:
    gone = {made.entries[s] for s in seqs} | {made.bodies[s] for s in seqs}
    return [line for line in made.lines() if line[:-1] not in gone]


def prev(made: Made, seq: int) -> str:
    return made.entries[seq - 1][-66:-2].decode() if seq else "0" * 64


def forge(made: Made, seq: int, **changes: Any) -> bytes:
    """What whoever holds a key can write in an entry's place."""
    action, facts = changes.pop("action", "x"), changes.pop("facts", {})
    return made.line(action, facts, **{"seq": seq, "prev": prev(made, seq)} | changes)


def tamper(line: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(line))
    new = dice.choice([b for b in range(256) if b not in (line[place], 10)])
    return line[:place] + bytes([new]) + line[place + 1 :]


def rechain(made: Made, spot: int) -> Made:
    """What whoever holds the secret can do: write anew from an entry on."""
    forged = Made(made.log, made.every, entries=made.entries[:spot], bodies=made.bodies[:spot])
    forged.secrets, forged.clock = made.secrets[:spot], made.clock
    while len(forged.entries) < len(made.entries):
        forged.add("tool.attempted", {"forged": True})
    return forged


# --- clean logs


@pytest.mark.parametrize("n", [1, 2, 16, 17, 64, 65, 130])
@pytest.mark.parametrize("every", [1, 16, 1000])
def test_clean(n: int, every: int) -> None:
    made = make(n, every=every)
    report = check(made, anchored=made.checkpoints(), expected_log=made.log)
    assert (report.verdict, report.entries, report.anchored_entries, report.unanchored) == ("ok", n, n, 0)
    assert report.bodies["fit"] == sum(body is not None for body in made.bodies)
    assert report.log == made.log
    assert report.name == "main"
    assert report.sealed
    assert not report.windows


def test_windows() -> None:
    made = make(100, sealed=False)
    report = check(made, anchored=[made.checkpoint(70)])
    assert (report.ok, report.unanchored, len(report.windows), report.forward_secure) == (True, 30, 2, False)
    assert len(check(made).windows) == 3
    assert len(check(made, anchored=[b"junk\n", b"torn"]).windows) == 4


def test_the_seal_may_be_behind_the_log() -> None:
    made = make(40)
    torn = b"torn".ljust(512)
    for seal in (made.seal(30), torn + made.slot(30), made.slot(30).rstrip(), made.seal() + b"x"):
        assert check(made, seal=seal).ok
    assert check(made, seal=made.slot(30) + made.slot(40, mac="ab" * 32, seal="ab" * 32)).ok


def test_numbers_and_texts_of_an_entry() -> None:
    for number in (0, 9, 10**18 - 1, 10**18, 2**63 - 1, 2**62 + 12345):
        made = make(3, bodies=False)
        made.add("x", {}, at=number, n=number, fence=number, run='a"\\\n\x7f\u2028\U0001f600', user="")
        assert check(made).ok, number
        made.add("y", {"a": {}, "b": [[], [{}]], "c": -number}, logged=number)
        assert check(made).verdict == ("clock_back" if number < made.clock else "ok")
    members: list[dict[str, Any]] = [
        {"at": -1}, {"n": 2**63}, {"n": 10**19}, {"fence": 1.0}, {"fence": True}, {"user": 7}, {"run": []},
        {"v": 2}, {"body": "AB" * 32}, {"actor": None}, {"facts": {"b": 1, "a": 1}}, {"facts": {"a": 1.5}},
        {"facts": {"a": [{"b": {"d": 1, "c": 1}}]}}, {"facts": {"a": float("nan")}}, {"facts": []},
    ]  # fmt: skip
    for wrong in members:
        assert found(made, put_in(made, 3, forge(made, 3, **wrong))) == ("edited", 3), wrong
    for action, facts in (("log.key_rotated", {"key": "x"}), ("log.key_rotated", {})):
        assert found(made, put_in(made, 3, forge(made, 3, action=action, facts=facts))) == ("edited", 3)


# --- before the first line, and the first line


def test_missing_and_emptied() -> None:
    made, other = make(5), make(5, seed=2)
    told: list[dict[str, Any]] = [
        {"seal": made.seal()}, {"anchored": made.checkpoints()}, {"checkpoints": made.checkpoints()}
    ]  # fmt: skip
    for kinds in told:
        assert sv.verify(None, **kinds).verdict == "missing"
        for lines in ([], [b'{"erased":0}\n']):
            report = sv.verify(lines, secrets=[SECRET], **kinds)
            assert (report.verdict, report.entry) == ("emptied", None)
    assert sv.verify(None).verdict == "missing"
    assert sv.verify([], secrets=[SECRET]).ok
    assert sv.verify([], secrets=[SECRET], seal=b"x" * 1024).verdict == "unsealed"
    assert sv.verify([], anchored=other.checkpoints(), expected_log=made.log).ok
    torn = made.entries[0][:70]
    assert sv.verify([torn], secrets=[SECRET]).torn == 70
    assert sv.verify([torn], secrets=[SECRET], anchored=made.checkpoints()).verdict == "emptied"
    assert found(made, [torn]) == ("edited", 0)


def test_swapped() -> None:
    made, other = make(30), make(30, seed=2)
    assert found(other, seal=made.seal()) == ("swapped", 0)
    assert found(other, anchored=made.checkpoints()) == ("swapped", 0)
    assert found(other, expected_log=made.log) == ("swapped", 0)
    assert found(other, checkpoints=made.checkpoints()) == ("checkpoint", None)
    assert check(other, anchored=[*made.checkpoints(), *other.checkpoints()]).ok
    assert check(other, anchored=made.checkpoints(), expected_log=other.log).ok
    unsigned = made.checkpoint().replace(b'"sig":"', b'"sig":"00')[:-5] + b'"}\n'
    assert check(other, anchored=[unsigned]).ok


def test_wrong_key() -> None:
    made = make(30)
    assert found(made, secrets=[OTHER]) == ("wrong_key", 0)
    assert found(made, secrets=[]) == ("wrong_key", 0)
    assert check(made, secrets=[OTHER]).log == made.log


def test_the_first_line_is_not_entry_0() -> None:
    made, other = make(40, every=4, bodies=False), make(40, every=4, seed=2, bodies=False)
    lines, held = made.lines(), {"anchored": made.checkpoints()}
    assert found(made, lines[9:]) == ("deleted", 0)
    assert found(made, [lines[5], *lines]) == ("reordered", 0)
    assert found(made, [b"{}\n", *lines]) == ("inserted", 0)
    assert found(made, [b"{}\n", *lines[1:]]) == ("edited", 0)
    assert found(made, [other.entries[1] + b"\n", *lines], **held) == ("spliced", 0)
    assert found(other, other.lines()[1:], seal=made.seal(), checkpoints=[]) == ("spliced", 0)
    assert found(other, other.lines()[1:], seal=made.seal(), anchored=other.checkpoints()) == ("deleted", 0)
    assert found(other, other.lines()[1:], seal=None, expected_log=made.log) == ("spliced", 0)
    assert found(made, [forge(made, 0, key=epoch_key(SECRET, made.log, 3)), *lines[1:]]) == ("rewritten", 0)
    assert check(made, [b"{}"], seal=None, checkpoints=[]).torn == 2
    orphan = b'{"erased":0}\n'
    assert found(made, [orphan, *lines]) == ("body_edited", 0)


# --- key rotation


@pytest.mark.parametrize("spot", [1, 15, 16, 17, 40, 59])
def test_rotation(spot: int) -> None:
    made = make(60, rotate=spot)
    report = check(made, anchored=[made.checkpoint(n) for n in range(spot, spot + 2)])
    assert (report.verdict, report.keys) == ("ok", [key_id(SECRET), key_id(NEW)])
    for n in (1, spot, spot + 1, 60):
        assert check(made, seal=made.seal(n), checkpoints=[]).ok
    assert found(made, secrets=[SECRET]) == ("wrong_key", spot + 1)
    assert found(made, anchored=[made.checkpoint(spot, secret=NEW)]) == ("checkpoint", None)
    assert found(made, anchored=[made.checkpoint(spot + 1, secret=SECRET)]) == ("checkpoint", None)


def test_the_old_secret_after_a_rotation() -> None:
    made = make(60, rotate=30)
    made.secret = SECRET
    assert found(made, put_in(made, 40, forge(made, 40))) == ("rewritten", 40)
    last = forge(made, 59)
    assert found(made, put_in(made, 59, last)) == ("rewritten", 59)
    report = check(made, put_in(made, 59, last), seal=made.seal(50), checkpoints=[])
    assert (report.verdict, report.torn) == ("ok", len(last))
    assert found(made, without(made, 30)) == ("deleted", 30)
    lines = made.lines()
    assert found(made, lines[: at(made, 20)], seal=made.seal(20)) == ("rolled_back", 20)
    assert found(made, lines[: at(made, 20)]) == ("truncated", 20)


# --- the table, line by line


@pytest.mark.parametrize("seed", SEEDS)
def test_spliced(seed: int) -> None:
    made, other, spot = make(), make(seed=2), random.Random(seed).randrange(1, 80)
    assert found(made, put_in(made, spot, other.entries[spot])) == ("spliced", spot)
    lines = made.lines()
    lines.insert(at(made, spot), other.entries[0] + b"\n")
    assert found(made, lines) == ("spliced", spot)


@pytest.mark.parametrize("seed", range(30))
def test_edited(seed: int) -> None:
    made, dice = make(), random.Random(seed)
    spot = dice.choice([0, 79, dice.randrange(80)])
    lines = put_in(made, spot, tamper(made.entries[spot], dice))
    verdict, entry = found(made, lines, seal=made.seal(80))
    assert entry == spot
    # the byte may have been one of the log's id, or of the key's in entry 0
    assert verdict in ("edited", "spliced") or (verdict, spot) == ("wrong_key", 0)


@pytest.mark.parametrize("seed", range(12))
def test_inserted(seed: int) -> None:
    made, dice = make(), random.Random(seed)
    spot = dice.randrange(0, 80)
    near = made.entries[spot].replace(b'"fence":0', b'"fence":1')
    junk = dice.choice([b"", b"{}", b'{"bod', dice.randbytes(40).replace(b"\n", b""), near])
    lines = made.lines()
    lines.insert(at(made, spot), junk + b"\n")
    assert found(made, lines) == ("inserted", spot)
    below = made.entries[dice.randrange(spot)] + b"\n" if spot else b"x\n"
    lines.insert(at(made, spot) + 1, below)  # authentic, but below the due one: it is no witness
    assert found(made, lines) == ("inserted", spot)


@pytest.mark.parametrize("seed", SEEDS)
def test_rewritten(seed: int) -> None:
    made, dice = make(), random.Random(seed)
    spot = dice.randrange(1, 79)
    stolen = epoch_key(SECRET, made.log, (spot // 16 + dice.randrange(1, 5)) % 5)
    for line in (forge(made, spot, key=stolen), forge(made, spot, prev="ab" * 32),
                 forge(made, spot, key=epoch_key(NEW, made.log, spot // 16))):  # fmt: skip
        assert found(made, put_in(made, spot, line)) == ("rewritten", spot)


@pytest.mark.parametrize("seed", SEEDS)
def test_rewritten_by_who_has_the_secret(seed: int) -> None:
    made, spot = make(), random.Random(seed).randrange(1, 79)
    forged, marks = rechain(made, spot), [made.checkpoint(n) for n in (10, 64, 80)]
    covered = max([n for n in (10, 64) if n <= spot], default=0)
    assert found(forged, checkpoints=[], anchored=marks) == ("rewritten", covered)
    assert found(forged, checkpoints=marks) == ("rewritten", covered)
    assert found(forged, checkpoints=[], seal=made.seal()) == ("rewritten", 79)
    assert check(forged, anchored=[forged.checkpoint()]).ok


@pytest.mark.parametrize("seed", SEEDS)
def test_reordered_deleted_duplicated(seed: int) -> None:
    made, dice = make(bodies=seed % 2 == 0, rotate=40), random.Random(seed)
    one, two = sorted(dice.sample(range(80), 2))
    lines = made.lines()
    i, j = at(made, one), at(made, two)
    lines[i], lines[j] = lines[j], lines[i]
    assert found(made, lines) == ("reordered", one)
    assert found(made, without(made, *range(one, two))) == ("deleted", one)
    lines = made.lines()
    lines.insert(at(made, two), made.entries[one] + b"\n")
    assert found(made, lines) == ("duplicated", two)


def test_clock_back() -> None:
    made = make(20)
    made.clock -= 5_000
    made.add("x", {})
    assert check(made).ok
    made.clock -= 30
    made.add("x", {})
    assert found(made) == ("clock_back", 21)
    report = check(made, seal=None)
    assert report.verdict == "clock_back"
    assert "unsealed" in report.words


# --- the table, at the end


@pytest.mark.parametrize("seed", SEEDS)
def test_cut_off(seed: int) -> None:
    made, dice = make(), random.Random(seed)
    spot = dice.randrange(1, 80)
    short, sealed = made.lines()[: at(made, spot)], made.seal(spot)
    assert found(made, short) == ("truncated", spot)
    assert found(made, [*short, made.entries[spot][: dice.randrange(1, 300)]]) == ("edited", spot)
    assert found(made, short, seal=sealed) == ("rolled_back", spot)
    anchored = [made.checkpoint()]
    assert found(made, short, seal=None, checkpoints=[], anchored=anchored) == ("rolled_back", spot)
    assert check(made, short, seal=sealed, checkpoints=[]).ok


def test_unsealed() -> None:
    made, single = make(20), make(1)
    other = Made(made.log, made.every, OTHER, entries=made.entries, secrets=[OTHER] * 20)
    for seal in (None, b"", b"x" * 1024, other.seal(), made.slot(seal="0" * 64)):
        assert found(made, seal=seal) == ("unsealed", None)
    assert check(single, seal=None).ok
    assert found(single, seal=single.slot(seal="0" * 64)) == ("unsealed", None)
    assert found(made, [*made.lines(), b"x"], seal=None) == ("unsealed", None)


def test_checkpoint() -> None:
    made = make(100)
    bad = made.checkpoint().replace(b'"sig":"', b'"sig":"00', 1)[:-5] + b'"}\n'
    for line in (bad, made.checkpoint(secret=OTHER)):
        assert found(made, checkpoints=[made.checkpoint(64), line]) == ("checkpoint", None)
        assert found(made, anchored=[line, made.checkpoint()]) == ("checkpoint", None)
        assert check(made, checkpoints=[line, made.checkpoint()]).ok
    beyond = Made(made.log, entries=made.entries * 2, secrets=[OTHER] * 200).checkpoint(150)
    assert found(made, anchored=[beyond]) == ("checkpoint", None)
    for none in (made.checkpoint(root="00" * 32), made.checkpoint(peaks=["00" * 32] * 2), b"{}\n"):
        assert found(made, checkpoints=[made.checkpoint(64), none]) == ("checkpoint", None)
        assert check(made, anchored=[none, made.checkpoint()]).ok
    assert check(made, checkpoints=[made.checkpoint(64), made.checkpoint()[:100]]).ok


# --- torn ends, bodies


@pytest.mark.parametrize("seed", range(8))
def test_torn_end(seed: int) -> None:
    made, dice = make(40), random.Random(seed)
    made.add("x", {}, "a text")
    body, entry, lines = made.bodies[40] or b"", made.entries[40], without(made, 40)
    kinds: dict[str, Any] = {"seal": made.seal(40), "checkpoints": [made.checkpoint(40)]}
    stranger = make(45, seed=2).entries[40]
    for torn in (entry[: dice.randrange(1, len(entry))], dice.randbytes(9).replace(b"\n", b""), stranger):
        for end in (b"", b"\n"):
            report = check(made, [*lines, torn + end], **kinds)
            assert (report.verdict, report.torn, report.entries) == ("ok", len(torn), 40)
    part = body[: dice.randrange(1, len(body))]
    report = check(made, [*lines, entry + b"\n", part], **kinds)
    assert (report.verdict, report.torn, report.entries) == ("ok", len(part), 41)
    assert report.bodies["missing"] == 1
    ended = check(made, [*lines, entry + b"\n", part + b"\n"], **kinds)
    assert ended.bodies["edited"] == part.startswith(b'{"body":')
    assert not report.bodies["edited"]
    assert check(made, [*lines, entry], **kinds).entries == 41
    assert found(made, [*lines, b"x\n", b"y"], **kinds) == ("edited", 40)


@pytest.mark.parametrize("seed", SEEDS)
def test_bodies(seed: int) -> None:
    made, dice = make(60), random.Random(seed)
    spots = [seq for seq, body in enumerate(made.bodies) if body is not None]
    one, two, three = dice.sample(spots, 3)
    made.bodies[one] = dumps({"erased": one}).ljust(len(made.bodies[one] or b""))
    made.bodies[two] = None
    counts = {"fit": len(spots) - 2, "erased": 1, "missing": 1, "edited": 0}
    report = check(made)
    assert (report.verdict, report.bodies) == ("ok", counts)
    body = json.loads(made.bodies[three] or b"")
    other = {"body": body["body"] + "x"}
    for wrong in (other, {"seq": three + 1}, {"salt": "00" * 16}, {"body": 1}, {"x": 1}):
        made.bodies[three] = dumps(body | wrong)
        report = check(made)
        assert (report.verdict, report.entry, report.bodies["edited"]) == ("body_edited", three, 1)
        assert check(made, bodies=False).ok


def test_bodies_of_nothing() -> None:
    made = make(20, bodies=False)
    whole = b'{"body":"","salt":"' + b"0" * 32 + b'","seq":9}'
    odd = b'{"erased":","salt":"' + b"0" * 32 + b'","seq":9}'
    for orphan in (whole, odd, b'{"erased":9}', b'{"body":', b'{"erased":x'):
        lines = made.lines()
        lines.insert(10, orphan + b"\n")
        assert found(made, lines) == ("body_edited", 9)
        lines.insert(10, orphan + b"\n")
        assert check(made, lines).bodies["edited"] == 2
        assert found(made, [*lines, b"x\n", b"x\n"])[0] == "edited"


# --- files and the command line


def put(made: Made, folder: Path, cuts: int = 0) -> Path:
    path, lines = folder / "audit.jsonl", made.lines()
    size = len(lines) // (cuts + 1)
    for number in range(cuts):
        part = b"".join(lines[number * size : (number + 1) * size])
        (folder / f"audit.jsonl.{number + 1:06}").write_bytes(part)
    path.write_bytes(b"".join(lines[cuts * size :]))
    (folder / "audit.jsonl.seal").write_bytes(made.seal())
    (folder / "audit.jsonl.checkpoints").write_bytes(b"".join(made.checkpoints()))
    (folder / "anchor").write_bytes(b"".join(made.checkpoints()))
    (folder / "secret").write_text(SECRET + "\n")
    return path


def test_segments(tmp_path: Path) -> None:
    made = make(120, bodies=False)
    path = put(made, tmp_path, cuts=11)
    assert sv.verify_file(path, secrets=[SECRET], anchors=[tmp_path / "anchor"]).ok
    path.rename(tmp_path / "audit.jsonl.000012")
    assert sv.verify_file(path, secrets=[SECRET]).ok
    (tmp_path / "audit.jsonl.000004").unlink()
    report = sv.verify_file(path, secrets=[SECRET])
    assert (report.verdict, report.entry) == ("deleted", 30)


def cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verdicts of a log whose newest file is cut just after its folder is listed, the first time, the second..."""
    verdicts = []
    for at in range(1, 5):
        folder = tmp_path / str(at)
        folder.mkdir()
        path = put(make(60, bodies=False), folder, cuts=3)
        listed, real = itertools.count(1), os.listdir

        def cut(where: Path, at: int = at, listed: Any = listed, path: Path = path, real: Any = real) -> Any:
            names = real(where)
            if next(listed) == at:
                older = [name for name in names if re.fullmatch(r"audit\.jsonl\.[0-9]{6}", name)]
                path.rename(f"{path}.{len(older) + 1:06d}")
                path.touch()
            return names

        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", cut)
            verdicts.append(sv.verify_file(path, secrets=[SECRET], anchors=[folder / "anchor"]).verdict)
    return verdicts


def test_a_log_that_is_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cut_while_it_is_read(tmp_path, monkeypatch) == ["ok"] * 4


def test_a_verifier_that_looks_once_takes_it_for_an_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(path: Path) -> Iterator[bytes]:
        for part in [*files._older(path), path]:
            with part.open("rb") as file:
                yield from files._all_lines([file])

    monkeypatch.setattr(files, "_log_lines", once)
    assert "truncated" in cut_while_it_is_read(tmp_path, monkeypatch)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(make(), tmp_path)
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    call = [str(path), "--secret-file", str(tmp_path / "secret"), "--anchor", str(tmp_path / "anchor")]
    assert sv.main(call) == 0
    assert capsys.readouterr().out.startswith("ok\n")
    assert sv.main([str(path), "--secret-env", "AUDIT_SECRET", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 80
    assert sv.main([*call, "--expect-log", "0" * 32]) == 1
    assert capsys.readouterr().out.startswith("swapped\nentry 0: ")
    path.write_bytes(path.read_bytes() + b"torn")
    assert sv.main([*call, "--no-bodies"]) == 0
    assert "torn end: 4 bytes" in capsys.readouterr().out
    assert sv.main([str(path)]) == 1
    assert sv.main([str(tmp_path / "none")]) == 1
    wrong = [
        [], [*call, "--nothing"], [str(path), "--secret-env", "NOT_SET"], [str(tmp_path)],
        [*call, "--proof", "x"], [str(path), "--secret-file", "none"], [*call, "--anchor", "none"],
    ]  # fmt: skip
    for arguments in wrong:
        assert sv.main(arguments) == 2
    assert sv.main(["--help"]) == 0


def test_as_a_module_without_cryptography(tmp_path: Path) -> None:
    path = put(make(10), tmp_path)
    (tmp_path / "cryptography.py").write_text("raise ImportError\n")
    folders = os.pathsep.join([str(tmp_path), str(Path(sv.__file__).parent.parent)])
    call = [sys.executable, "-m", "shipworthy_verify", str(path), "--secret-file", str(tmp_path / "secret")]
    done = subprocess.run(call, env={"PYTHONPATH": folders}, capture_output=True, check=False)
    assert (done.returncode, done.stdout[:3], done.stderr) == (0, b"ok\n", b"")


# --- proofs


@pytest.mark.parametrize("n", [1, 2, 7, 8, 33])
def test_proofs(n: int) -> None:
    made = make(n, bodies=False)
    leaves, signer = made.leaves(), public(SECRET, made.log)
    new = made.checkpoint()[:-1].decode()
    for m in range(n):
        path = [node.hex() for node in audit_path(m, leaves)]
        proof = {"checkpoint": new, "entry": made.entries[m].decode(), "index": m, "kind": "inclusion"}
        proof |= {"path": path, "v": 1}
        assert sv.check_inclusion(dumps(proof), signer)[0]
        assert not sv.check_inclusion(dumps(proof), public(OTHER, made.log))[0]
        assert not sv.check_inclusion(dumps(proof | {"path": [*path, "00" * 32]}), signer)[0]
        assert not sv.check_inclusion(dumps(proof | {"index": (m + 1) % (n + 1)}), signer)[0]
        assert not path or not sv.check_inclusion(dumps(proof | {"path": path[1:]}), signer)[0]
        old = made.checkpoint(m + 1)[:-1].decode()
        steps = [node.hex() for node in subproof(m + 1, leaves)]
        both = {"from": old, "kind": "consistency", "path": steps, "to": new, "v": 1}
        assert sv.check_consistency(dumps(both), signer)[0], (m, n)
        assert not sv.check_consistency(dumps(both | {"path": [*steps, "00" * 32]}), signer)[0]
        assert not steps or not sv.check_consistency(dumps(both | {"path": steps[:-1]}), signer)[0]
        assert m + 1 == n or not sv.check_consistency(dumps(both | {"from": new, "to": old}), signer)[0]


def test_proofs_over_a_rotation(tmp_path: Path) -> None:
    made = make(20, rotate=10, bodies=False)
    old, new = public(SECRET, made.log), public(NEW, made.log)
    lines = [made.checkpoint(n)[:-1].decode() for n in (8, 20)]
    path = [node.hex() for node in subproof(8, made.leaves())]
    proof = dumps({"from": lines[0], "kind": "consistency", "path": path, "to": lines[1], "v": 1})
    assert sv.check_consistency(proof, [old, new])[0]
    assert not sv.check_consistency(proof, old)[0]
    assert not sv.check_consistency(proof, new)[0]
    file = tmp_path / "proof"
    file.write_bytes(proof)
    call = ["--proof", str(file), "--signer", old]
    assert sv.main([*call, "--signer", new]) == 0
    assert sv.main([*call, "--json"]) == 1
    assert sv.main([*call, "--signer", "zz"]) == 1
    assert sv.main(["--proof", str(file)]) == 2


# --- signatures in Python alone


@pytest.fixture
def _no_cryptography(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.startswith("cryptography")]:
            patch.setitem(sys.modules, name, None)
        importlib.reload(ed25519)
        yield
    importlib.reload(ed25519)


@pytest.mark.usefixtures("_no_cryptography")
def test_without_cryptography() -> None:
    assert not ed25519.FAST
    made = make(70)
    assert check(made, anchored=made.checkpoints()).ok
    assert found(made, anchored=[made.checkpoint(secret=OTHER)]) == ("checkpoint", None)


def test_pure_signatures() -> None:
    assert ed25519.FAST
    for number in range(4):
        key = Ed25519PrivateKey.generate()
        data, public_bytes = os.urandom(number * 9), key.public_key().public_bytes_raw()
        signature = key.sign(data)
        assert ed25519.public_key(key.private_bytes_raw()) == public_bytes.hex()
        assert ed25519.verify_pure(public_bytes, data, signature)
        for place in (0, 31, 32, 63):
            wrong = bytearray(signature)
            wrong[place] ^= 1
            assert not ed25519.verify_pure(public_bytes, data, bytes(wrong))
        s = int.from_bytes(signature[32:], "little") + 2**252 + 27742317777372353535851937790883648493
        assert not ed25519.verify_pure(public_bytes, data, signature[:32] + s.to_bytes(32, "little"))
        assert not ed25519.verify_pure(b"\xff" * 32, data, signature)


# --- garbage


def junk(made: Made) -> list[bytes]:
    base = made.entries[7]
    deep = b"[" * 50_000 + b"]" * 50_000
    pairs = [
        (b'"b":true', b'"b":' + deep), (b'"b":true', b'"b":1e999'), (b'"b":true', b'"b":NaN'),
        (b'"seq":7', b'"seq":' + b"9" * 5000), (b'"seq":7', b'"seq":9223372036854775807'),
        (b'"seq":7', b'"seq":07'), (b'"seq":7', b'"seq":-7'), (b'"seq":7', b'"seq":7,"seq":7'),
        (b'"seq":7', b'"seq":true'), (b'"epoch":0', b'"epoch":99999999999999'), (b'"tool:', b'"\\ud800'),
        (made.log.encode(), b"z" * 32), (b'"b":true', b'"b":true,"b":true'),
    ]  # fmt: skip
    return [
        b"", b"\0" * 99, b"\xff\xfe" + base, b"\xef\xbb\xbf" + base, deep, b"{" * 5000, base + b"\r",
        b"null", b"[]", b'"x"', b'{"body":"\\ud800","salt":"' + b"0" * 32 + b'","seq":6}', b'{"erased":null}',
        b'{"body":', b'{"erased":1e9}', b'{"action":"' + b"x" * 200_000,
        b'{"action":"x","mac":"' + b"\xff" * 66, b'{"action":"' + b"\\n" * 100_000,
        *(base.replace(old, new) for old, new in pairs),
    ]  # fmt: skip


def test_garbage_never_raises() -> None:
    made = make(20)
    kinds, seal, whole = junk(made), made.seal(), made.lines()
    starts = (b'{"body":', b'{"erased":')
    for line in kinds:
        for place in (0, 7, len(whole)):
            lines = [*whole[:place], line + b"\n", *whole[place:]]
            report = sv.verify(lines, secrets=[SECRET], seal=seal)
            assert report.ok == (place == len(whole) and not line.startswith(starts)), line
    dice = random.Random(3)
    marks = [line + b"\n" for line in kinds]
    marks += [made.checkpoint(entries=entries) for entries in (-1, 0, 2**70, True, "x")]
    marks += [made.checkpoint(peaks=[[]]), made.checkpoint(), b"torn"]
    strange: Any = [None, 3, "x", *kinds]
    seal = dice.randbytes(1024)
    sv.verify(strange, secrets=["\u00fc", b"\xff"], seal=seal, expected_log="x", anchored=marks)
    assert check(made, anchored=marks, checkpoints=marks).ok
    odd = dumps({"checkpoint": 1, "entry": [], "index": "", "kind": "inclusion", "path": 0, "v": 1})
    for proof in (*kinds, odd):
        assert not sv.check_inclusion(proof, "00" * 32)[0]
        assert not sv.check_consistency(proof, "00" * 32)[0]


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Damage some bytes in one of several ways."""
    for _ in range(dice.randrange(1, 4)):
        i, j = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
        bits = [b'"', b"{", b"}", b"[", b"9999999999", b"-", b",", b"\n", b"null", b"\xff", b"1e5", b" "]
        data = dice.choice([
            data[:i] + bytes([dice.randrange(256)]) + data[i + 1 :], data[:i] + dice.choice(bits) + data[i:],
            data[:i] + data[i + dice.randrange(1, 9) :], data[:i] + data[j:], data[:i] + data[:5] + data[i:],
        ])  # fmt: skip
    return data


def test_fuzz() -> None:
    dice = random.Random(17)
    logs = [make(40, every=every, rotate=rotate) for every in (1, 4, 1000) for rotate in (-1, 20)]
    parts = [
        (log.lines(), log.seal(), log.checkpoints(), [log.checkpoint(n) for n in (1, 17, 40)], log.entries)
        for log in logs
    ]
    for _ in range(200):
        lines, seal, own, anchored, entries = dice.choice(parts)
        which = dice.randrange(5)
        lines, own, anchored = list(lines), list(own), list(anchored)
        if which == 0:
            seal = mutate(seal, dice)
        elif which == 1:
            lines = mutate(b"".join(lines), dice).splitlines(keepends=True)
        else:
            group = (lines, own, anchored)[which - 2]
            spot = dice.randrange(len(group))
            group[spot] = mutate(group[spot], dice)
        secrets = dice.choice([[SECRET, NEW], [NEW, SECRET], [], [SECRET]])
        report = sv.verify(lines, secrets=secrets, seal=seal, checkpoints=own, anchored=anchored)
        if report.ok:
            read = [line.rstrip(b"\n") for line in lines if line.startswith(b'{"action"')]
            assert read[: len(entries)] == entries
            assert report.entries == len(entries)


class Naive:
    """The table, read again, slowly, for a log of which entry 0 is in order and all secrets are known."""

    def __init__(self, made: Made, lines: list[bytes], sealed: int) -> None:
        self.made, self.sealed = made, sealed
        self.lines = [line[:-1] for line in lines]
        self.entries = [line for line in self.lines if not line.startswith((b'{"body":', b'{"erased":'))]

    def read(self, line: bytes) -> dict[str, Any] | None:
        try:
            entry = json.loads(line)
        except ValueError:
            return None
        whole = isinstance(entry, dict) and list(entry) == list(json.loads(self.made.entries[0]))
        return entry if whole and set(entry["log"]) <= set("0123456789abcdef") and entry["v"] == 1 else None

    def made_by(self, line: bytes, secret: str, epoch: int) -> bool:
        key = epoch_key(secret, self.made.log, epoch)
        return mac_of(key, line[:-74] + b"}").hex().encode() == line[-66:-2]

    def authentic(self, line: bytes, due: int, named: str) -> bool:
        entry = self.read(line)
        if entry is None or entry["epoch"] != entry["seq"] // self.made.every:
            return False
        secrets = [named] if entry["seq"] == due else [SECRET, NEW]
        return any(self.made_by(line, secret, entry["epoch"]) for secret in secrets)

    def verdict(self) -> tuple[str, int | None]:
        due, before, named = 0, "0" * 64, SECRET
        for number, line in enumerate(self.entries):
            entry, good = self.read(line), self.authentic(line, due, named)
            if entry is not None and good and (entry["seq"], entry["prev"]) == (due, before):
                due, before = due + 1, entry["mac"]
                named = NEW if entry["action"] == "log.key_rotated" else named
                continue
            rest = [e for e in self.entries[number + 1 :] if self.authentic(e, due, named)]
            seqs = [json.loads(e)["seq"] for e in rest]
            if not good and line is self.lines[-1] and due >= self.sealed:
                break
            if entry is not None and entry["log"] != self.made.log:
                return "spliced", due
            if not good:
                epochs = range(max([*seqs, due, self.sealed - 1]) // self.made.every + 1)
                keys = {*itertools.product((SECRET, NEW), epochs)} - {(named, due // self.made.every)}
                if any(self.made_by(line, *key) for key in keys):
                    return "rewritten", due
                return "inserted" if next((s for s in seqs if s >= due), -1) == due else "edited", due
            assert entry is not None
            if entry["seq"] != due:
                later = "reordered" if due in seqs else "deleted"
                return "duplicated" if entry["seq"] < due else later, due
            return "rewritten", due
        return ("truncated", due) if due < self.sealed else ("ok", None)


def attack(made: Made, lines: list[bytes], other: Made, dice: random.Random) -> None:
    """Do one thing to a log, behind its entry 0."""
    seq, index, act = dice.randrange(1, 40), dice.randrange(2, len(lines)), dice.randrange(8)
    made.secret = dice.choice((SECRET, NEW))
    epoch = dice.randrange(39 // made.every + 1)
    if act == 0:
        lines[index] = tamper(lines[index][:-1], dice) + b"\n"
    elif act == 1:
        lines.insert(index, lines[dice.randrange(1, len(lines))])
    elif act == 2:
        del lines[index : index + dice.randrange(1, 4)]
    elif act == 3:
        lines.append(lines.pop(index))
    elif act == 4:
        lines[index] = other.entries[seq] + b"\n"
    elif act == 5:
        lines[index] = forge(made, seq, key=epoch_key(made.secret, made.log, epoch)) + b"\n"
    elif act == 6:
        lines[index] = forge(made, seq, prev="ab" * 32) + b"\n"
    else:
        lines.insert(index, dice.choice([b"x\n", b"{}\n", forge(made, seq) + b"\n"]))


def test_the_table_read_again() -> None:
    dice, other, verdicts = random.Random(5), make(40, seed=2, bodies=False), set()
    for number in range(60):
        every, rotate = dice.choice((1, 3, 16)), dice.choice((-1, 20))
        made = make(40, seed=number, every=every, rotate=rotate, bodies=False)
        sealed, lines = dice.randrange(1, 41), made.lines()
        seal = made.slot(sealed)
        for _ in range(dice.choice((1, 1, 2, 3))):
            attack(made, lines, other, dice)
        want = Naive(made, lines, sealed).verdict()
        assert found(made, lines, seal=seal, checkpoints=[]) == want, (number, want)
        verdicts.add(want[0])
    assert verdicts >= {"spliced", "rewritten", "edited", "inserted", "reordered", "deleted", "duplicated"}


@pytest.mark.parametrize("seed", range(20))
def test_any_change_of_the_chain_is_found(seed: int) -> None:
    made, dice = make(50), random.Random(seed)
    lines = made.lines()
    for _ in range(dice.randrange(1, 4)):
        index, act = dice.randrange(len(lines)), dice.randrange(4)
        if act == 0:
            lines[index] = tamper(lines[index][:-1], dice) + b"\n"
        elif act == 1:
            lines.insert(dice.randrange(len(lines)), lines[index])
        else:
            lines[index:] = lines[index + 1 :] + lines[index : index + 1] * (act - 2)
    entries = [line[:-1] for line in lines if line.startswith(b'{"action"')]
    report = check(made, lines)
    if entries != made.entries:
        assert not report.ok
    else:
        assert report.verdict in ("ok", "body_edited", "inserted", "edited")


def test_memory_does_not_grow_with_the_log() -> None:
    made = make(100, every=8, bodies=False)
    seal, line = made.seal(), made.entries[-1] + b"\n"

    def held(n: int) -> int:
        """Bytes, also of lines, that are held when the log and *n* lines more are read; others' are left out."""
        kept = [tracemalloc.Filter(True, where) for where in (str(Path(sv.__file__).parent / "*"), __file__)]
        found = 0

        def lines() -> Iterator[bytes]:
            nonlocal found
            yield from made.lines()
            yield from (bytes(bytearray(line)) for _ in range(n))  # each a line of its own
            traces = tracemalloc.take_snapshot().filter_traces(kept)
            found = sum([each.size for each in traces.statistics("filename")])

        tracemalloc.start()
        sv.verify(lines(), secrets=[SECRET], seal=seal)
        tracemalloc.stop()
        return found

    assert 0 < held(2_000) < held(10) + 50_000
