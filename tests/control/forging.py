"""What an attacker can make of tokens and checkpoints, with and without a key."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from shipworthy.domain.effects import Effect
from shipworthy.domain.events import ApprovalGranted, Judged
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.pausing import PendingCall
from shipworthy.rules import approvals as rules
from shipworthy.rules.approvals import Approval
from tests.control.proof import World

HOUR = 3_600_000


def key_of(world: World) -> SigningKey:
    """The world's own key, as whoever has the file reads it."""
    [(name, secret, made_at)] = world.rows("SELECT id, secret, made_at FROM signing_keys")
    return SigningKey(name, secret, made_at)


def foreign(key: SigningKey) -> SigningKey:
    """Another store's key; it calls itself as this one does."""
    return SigningKey(key.id, bytes(32), key.made_at)


def approval(made_by: SigningKey, call: PendingCall, now: int, **changes: Any) -> Approval:
    """What maria would sign for a call of alice's run at acme, with these changes."""
    said: dict[str, Any] = {
        "id": "0" * 24,
        "tenant": "acme",
        "user": "alice",
        "run": call.run_id,
        "address": call.address,
        "agents": call.agents,
        "tool": call.tool,
        "digest": call.digest,
        "rule": call.rule,
        "policy": call.policy,
        "ruling": "allow",
        "approver": "maria",
        "at": now,
        "expires_at": now + HOUR,
    }
    whole: dict[str, Any] = {"key": made_by.id} | said | changes
    return Approval(**whole)


def each_byte_altered(token: str) -> Iterator[str]:
    """The token with one of its characters replaced, each in turn, by one that may stand there."""
    for place in range(len("sw1."), len(token)):
        other = "A" if token[place] != "A" else "B"
        yield token[:place] + other + token[place + 1 :]


def each_field_altered(token: str) -> dict[str, str]:
    """The token with one field of what it says changed, and its old signature."""
    payload, mac = token.removeprefix("sw1.").split(".")
    said = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    found = {}
    for name, value in said.items():
        made = msgspec.json.encode(said | {name: altered(value)})
        found[name] = f"sw1.{base64.urlsafe_b64encode(made).decode().rstrip('=')}.{mac}"
    return found


def altered(value: Any) -> Any:
    """Something else of the same type."""
    match value:
        case int():
            return value + 1
        case str():
            return value + "x"
        case list():
            return [*value, "x"]
    return "run"


def token_in(world: World, run: str, tenant: str = "acme") -> str:
    """The token of a run's first approval, as its journal has it."""
    granted: ApprovalGranted = world.of(run, ApprovalGranted, tenant)[0]
    return granted.token


def signed(key: SigningKey, call: PendingCall, now: int, **changes: Any) -> str:
    """The same as a token, by this key."""
    return rules.sign(key, approval(key, call, now, **changes))


def bytes_of(text: str) -> bytes:
    """What stands in a part of a token."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(data: bytes) -> str:
    """The same as a part of a token."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def judged(call_id: str, effect: Effect) -> Judged:
    """Somebody's word that a call may run."""
    return Judged(call_id, effect)
