"""The lines of the format, byte by byte: an entry, the line of a body, and the two slots of a seal."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

TOP = 2**63  # the numbers of the format are below it
ZEROS = "0" * 64
BODY = (b'{"body":', b'{"erased":')  # whatever begins so is the line of a body
ROTATED = '"log.key_rotated"'
_SLOT = 512

Members = dict[str, Any]
Pairs = tuple[Any, ...]
# seq, epoch, logged, log, prev, mac, the body's digest, action (with its quotation marks), facts
Entry = tuple[int, int, int, str, str, str, str, str, Pairs]


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


# Objects become tuples of (name, value): so members that are there twice, or in another order, are seen.
_decoder = json.JSONDecoder(object_pairs_hook=tuple, parse_float=_refuse, parse_constant=_refuse)
_scan: Callable[[str, int], tuple[Any, int]] = getattr(_decoder, "scan_once")  # noqa: B009


def _numbers() -> str:
    """Give the pattern of a number from 0 to 2^63 - 1."""
    top = str(TOP - 1)
    kinds = ["[1-9][0-9]{0,17}", "0", top]
    for place, digit in enumerate(top):
        lowest = 0 if place else 1
        if int(digit) > lowest:
            kinds.append(f"{top[:place]}[{lowest}-{int(digit) - 1}][0-9]{{{18 - place}}}")
    return f"(?:{'|'.join(kinds)})"


_PLAIN = r'[^"\\\x00-\x1f]*'
_TEXT = rf'"{_PLAIN}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_PLAIN})*"'
_NUMBER = _numbers()
_WHO = f"(?:null|{_TEXT})"
_HEAD = re.compile(
    rf'\{{"action":({_TEXT}),"actor":{_TEXT},"at":{_NUMBER},"body":"((?:[0-9a-f]{{64}})?)",'
    rf'"epoch":({_NUMBER}),"facts":(?=\{{)'
)
_TAIL = re.compile(
    rf',"fence":{_NUMBER},"log":"([0-9a-f]{{32}})","logged":({_NUMBER}),"n":{_NUMBER},'
    rf'"prev":"([0-9a-f]{{64}})","run":{_WHO},"seq":({_NUMBER}),"session":{_WHO},"tenant":{_WHO},'
    rf'"user":{_WHO},"v":1,"mac":"([0-9a-f]{{64}})"\}}'
)
_BODY = re.compile(rf',"salt":"([0-9a-f]{{32}})","seq":({_NUMBER})\}}')
_ERASED = re.compile(rf'\{{"erased":({_NUMBER})\}} *')
_BEGUN = ("every", "key", "name", "scheme", "sealed", "signer")


def is_hex(value: object, digits: int) -> bool:
    """Whether the value is so many hexadecimal digits, in lower case."""
    if not isinstance(value, str) or len(value) != digits:
        return False
    try:
        return bytes.fromhex(value).hex() == value
    except ValueError:
        return False


def members(line: bytes, names: tuple[str, ...]) -> Members | None:
    """Give the members of a JSON object that has exactly these, in this order."""
    try:
        text = line.decode()
        value, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    if type(value) is not tuple or len(value) != len(names) or end != len(text):
        return None
    found = dict(value)
    return found if tuple(found) == names else None


def _in_order(facts: Pairs) -> bool:
    """Whether the names of each object go upwards; other types were refused when it was read."""
    last = None
    for name, inner in facts:
        if last is not None and name <= last:
            return False
        last = name
        if (type(inner) is tuple or type(inner) is list) and not _deep_in_order(inner):
            return False
    return True


def _deep_in_order(value: Any) -> bool:
    """Look into a list, or an object, without recursion."""
    stack = [value]
    while stack:
        inner = stack.pop()
        if type(inner) is tuple:
            names = [name for name, _ in inner]
            if any(one >= two for one, two in itertools.pairwise(names)):
                return False
            inner = [value for _, value in inner]
        stack += [value for value in inner if type(value) in (tuple, list)]
    return True


def entry(line: bytes) -> Entry | None:
    """Give what the line of an entry says, or None where it does not have the form."""
    try:
        text = line.decode()
        head = _HEAD.match(text)
        if head is None:
            return None
        facts, end = _scan(text, head.end())
    except (ValueError, StopIteration, RecursionError):
        return None
    tail = _TAIL.fullmatch(text, end)
    if tail is None or not _in_order(facts):
        return None
    action, body, epoch = head.groups()
    log, logged, prev, seq, mac = tail.groups()
    if seq == "0" and begun(action, facts) is None:
        return None
    if action == ROTATED and rotated(facts) is None:
        return None
    return int(seq), int(epoch), int(logged), log, prev, mac, body, action, facts


def begun(action: str, facts: Pairs) -> Members | None:
    """Give the facts of an entry 0, or None where they are not those of one."""
    found = dict(facts)
    if action != '"log.begun"' or tuple(found) != _BEGUN:
        return None
    if tuple(map(type, found.values())) != (int, str, str, str, bool, str):
        return None
    if not 0 < found["every"] < TOP or found["scheme"] != "hmac-sha256/1":
        return None
    return found if rotated(facts) is not None else None


def seals(facts: Pairs) -> bool:
    """Whether the facts of a rotation say that writers go on with an evolving key alone."""
    return dict(facts).get("sealed") is True


def rotated(facts: Pairs) -> tuple[str, str] | None:
    """Give the key's id and the signer that an entry names, or None where they are not of their form."""
    found = dict(facts)
    key, signer = found.get("key"), found.get("signer")
    return (key, signer) if is_hex(key, 16) and is_hex(signer, 64) else None  # type: ignore[return-value]


def body(line: bytes) -> tuple[int, str | None] | None:
    """Give the seq and the digest of a body's line (no digest: it was erased), or None."""
    try:
        text = line.decode()
        erased = _ERASED.fullmatch(text)
        if erased is not None:
            return int(erased[1]), None
        said, end = _scan(text, 8)
        tail = _BODY.fullmatch(text, end)
        if tail is None or type(said) is not str or not text.startswith('{"body":'):
            return None
        return int(tail[2]), sha256(bytes.fromhex(tail[1]) + said.encode()).hexdigest()
    except (ValueError, StopIteration, RecursionError):
        return None


def is_half_erased(line: bytes) -> bool:
    """Whether the line is what an erasure left that was interrupted."""
    return line.startswith(BODY[0]) and line.endswith(b" ")


class Slot(NamedTuple):
    """One of the two places of a seal."""

    entries: int
    log: str
    mac: str
    seal: str


def slots(seal: bytes | None) -> list[Slot]:
    """Give what can be read of a seal. What follows the two places is ignored."""
    found = []
    for part in ((seal or b"")[:_SLOT], (seal or b"")[_SLOT : 2 * _SLOT]):
        said = members(part.rstrip(b" \n"), ("count", "log", "mac", "seal"))
        if said is None or type(said["count"]) is not int or not 0 < said["count"] < TOP:
            continue
        if is_hex(said["log"], 32) and is_hex(said["mac"], 64) and is_hex(said["seal"], 64):
            found.append(Slot(said["count"], said["log"], said["mac"], said["seal"]))
    return found


def as_bytes(raw: object) -> bytes:
    """Give a line as bytes; what is no line at all becomes one that is no entry."""
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return bytes(raw)
    return raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else b"?\n"
