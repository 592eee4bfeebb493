"""Entries, bodies and checkpoints as lines, and back. The members' order is that of the structs in domain/audit.py."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from shipworthy.domain.audit import Entry, TreeHead
from shipworthy.rules.audit.keys import mac

ZEROS = "0" * 64
BODY = b'{"body":'
_MAC, _SIG = b',"mac":"', b',"sig":"'
_encoder = msgspec.json.Encoder(order="deterministic")
_entries = msgspec.json.Decoder(Entry)
_heads = msgspec.json.Decoder(TreeHead)


class Body(msgspec.Struct, frozen=True, gc=False):
    """A body's line."""

    body: str
    salt: str
    seq: int


class Erased(msgspec.Struct, frozen=True, gc=False):
    """What stands in the place of a body that was erased."""

    erased: int


_bodies = msgspec.json.Decoder(Body)


def entry_line(key: bytes, entry: Entry) -> bytes:
    """The entry with its mac."""
    plain = _encoder.encode(entry)
    return with_mac(plain, mac(key, plain).hex())


def with_mac(plain: bytes, stamped: str) -> bytes:
    """An entry that was encoded, with its mac."""
    return b'%b,"mac":"%b"}' % (plain[:-1], stamped.encode())


def mac_of(line: bytes) -> str:
    """The mac that a line claims; "" where it has none."""
    at = len(line) - 66
    return line[at:-2].decode("ascii", "replace") if line[at - 8 : at] == _MAC and line[-2:] == b'"}' else ""


def is_authentic(key: bytes, line: bytes) -> bool:
    """Whether the line's mac is right under this key."""
    at = len(line) - 74
    if at < 2 or line[at : at + 8] != _MAC or line[-2:] != b'"}':
        return False
    return line[at + 8 : -2] == mac(key, line[:at], b"}").hex().encode()


def entry_of(line: bytes) -> Entry | None:
    """The entry of a line; None for anything that is not of the form of one."""
    try:
        return _entries.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def digest_of(salt: bytes, body: bytes) -> str:
    """What an entry says of its body."""
    return hashlib.sha256(salt + body).hexdigest()


def body_line(seq: int, salt: bytes, body: bytes) -> bytes:
    """A body beside the chain."""
    return _encoder.encode(Body(body.decode(), salt.hex(), seq))


def erased_line(seq: int, length: int) -> bytes:
    """What a body's line of this length is overwritten by."""
    return _encoder.encode(Erased(seq)).ljust(length)


def is_erased(line: bytes) -> bool:
    """Whether a body's line ends as none does that has its body: it was erased, or began to be."""
    return line.endswith(b" ")


def is_entry(line: bytes) -> bool:
    """Whether a line is an entry's, by how it begins."""
    return not line.startswith((BODY, b'{"erased":'))


def body_of(line: bytes) -> Body | None:
    """The body of a line; None for anything else."""
    try:
        return _bodies.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def head_plain(head: TreeHead) -> bytes:
    """What a checkpoint's signature is of."""
    return _encoder.encode(head)


def head_line(plain: bytes, signature: bytes) -> bytes:
    """A checkpoint's line."""
    return plain[:-1] + _SIG + signature.hex().encode() + b'"}'


def head_of(line: bytes) -> tuple[TreeHead, bytes, bytes] | None:
    """A checkpoint, the bytes that were signed, and the signature; None for anything that is not of the form of one."""
    line = line.rstrip(b"\n")
    at = len(line) - 138
    if at < 2 or line[at : at + 8] != _SIG or line[-2:] != b'"}':
        return None
    plain = line[:at] + b"}"
    try:
        head = _heads.decode(plain)
        return (head, plain, bytes.fromhex(line[at + 8 : -2].decode())) if head.entries > 0 else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def encode(value: Any) -> bytes:
    """Canonical JSON: members in their order, no whitespace."""
    return _encoder.encode(value)
