"""Signed approvals and checkpoints: what is signed, and whether a signature is one of ours.

Signatures are HMAC-SHA256 (RFC 2104) over the exact bytes that are carried, behind a word that says what they are for,
so that none can be taken for one of another kind. A token is "sw1.", the payload and the signature, in base64url
(RFC 4648, 5) without padding, joined with ".".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from shipworthy.domain.events import ApprovalDenied, ApprovalGranted, Parent, RunStarted
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.pausing import Checkpoint
from shipworthy.domain.policy import Approve, Covers, Deny, Remember
from shipworthy.domain.scope import is_too_long
from shipworthy.rules.text import clean

_MARK = "sw1."
_encode = msgspec.json.Encoder(order="deterministic").encode
_plain = msgspec.json.Decoder().decode
_APPROVAL, _CHECKPOINT = b"shipworthy approval 1\n", b"shipworthy checkpoint 1\n"
LONGEST_TOKEN = 16_384
"""Characters that a token may have; edited arguments travel beside it."""
LONGEST_REASON = 4_000
"""Characters of the reason of a no; the model reads it."""
_YEAR = 366 * 86_400


class Approval(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """What an approver signs: one ruling on one call, with exactly these arguments (`digest`), under one rule of
    policies of one version. Times in milliseconds since the Unix epoch."""

    id: str
    key: str
    tenant: str
    user: str | None
    run: str
    address: str
    agents: tuple[str, ...] = ()
    tool: str
    digest: str
    rule: str
    policy: str
    ruling: Literal["allow", "deny"]
    approver: str
    at: int
    expires_at: int
    remember: Remember | None = None
    covers: Covers = "arguments"


class Forged(Exception):
    """A token or a checkpoint that none of the keys made."""


_approval = msgspec.json.Decoder(Approval).decode

# ----------------------------------------------------------------------------------------------- arguments


def canonical(raw: str) -> tuple[dict[str, Any], str] | None:
    """The arguments as plain data and as the one text that stands for them: JSON with sorted keys, each once. None for
    what is no JSON object. Numbers and texts are kept as they are read."""
    try:
        data = _plain(raw or "{}")
        if data is None:
            data = {}
        return (data, _encode(data).decode()) if type(data) is dict else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def digest_of(text: str) -> str:
    """Of a canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()


def same_call(call: ToolCall, text: str) -> ToolCall:
    """The call with other arguments, in their canonical text."""
    return ToolCall(call.name, text, call.call_id)


# -------------------------------------------------------------------------------------------------- tokens


def sign(key: SigningKey, approval: Approval) -> str:
    """The approval as a token."""
    payload = _encode(approval)
    return f"{_MARK}{_text(payload)}.{_text(_mac(key, _APPROVAL, payload))}"


def read(token: str, keys: Sequence[SigningKey]) -> Approval:
    """What a token says. Raises Forged."""
    if not isinstance(token, str) or len(token) > LONGEST_TOKEN or not token.startswith(_MARK):
        raise Forged
    try:
        payload, mac = [_bytes(part) for part in token.removeprefix(_MARK).split(".")]
        claimed = _approval(payload)
    except (ValueError, msgspec.DecodeError, UnicodeError, RecursionError):
        raise Forged from None
    if not _is_ours(claimed.key, _APPROVAL, payload, mac, keys):
        raise Forged
    return claimed


def is_token(answer: object) -> bool:
    """Whether somebody means this to be a signed approval."""
    return isinstance(answer, str) and answer.startswith(_MARK)


def key_of(token: str) -> str:
    """The name of the key that a token says it was made with; nothing that may be believed."""
    try:
        return str(_plain(_bytes(token.removeprefix(_MARK).partition(".")[0]))["key"])
    except (ValueError, KeyError, TypeError, msgspec.DecodeError, UnicodeError, RecursionError):
        return ""


def root_of(started: RunStarted) -> str:
    """The id of the run that answers are addressed to."""
    return started.run_id if started.parent is None else started.parent.root


def address_of(parent: Parent | None, call_id: str) -> str:
    """Where a call is, seen from the outermost run."""
    return call_id if parent is None else "/".join((*parent.path, call_id))


def agrees(event: ApprovalGranted | ApprovalDenied, said: Approval, started: RunStarted) -> bool:
    """Whether an event says no more than what was signed for this very run."""
    same: tuple[object, ...] = (event.id, event.address, event.approver, started.tenant, root_of(started))
    if same != (said.id, said.address, said.approver, said.tenant, said.run) or started.user != said.user:
        return False
    if isinstance(event, ApprovalDenied):
        return said.ruling == "deny"
    named = (event.tool, event.digest, event.rule, event.expires_at, event.remember, event.covers)
    signed = (said.tool, said.digest, said.rule, said.expires_at, said.remember, said.covers)
    return said.ruling == "allow" and named == signed


# --------------------------------------------------------------------------------------------- checkpoints


def checkpoint(key: SigningKey, tenant: str, run_id: str, seq: int) -> Checkpoint:
    """A reference to a paused run, signed."""
    made = Checkpoint(v=1, tenant_id=tenant, run_id=run_id, seq=seq, key=key.id, mac="")
    made["mac"] = _text(_mac(key, _CHECKPOINT, _signed(made)))
    return made


def read_checkpoint(given: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint of the right shape, whoever made it. Raises Forged."""
    try:
        made = msgspec.convert(dict(given), Checkpoint)
    except (msgspec.ValidationError, TypeError, ValueError):
        raise Forged from None
    texts = (made["tenant_id"], made["run_id"], made["key"], made["mac"])
    if set(given) != set(made) or made["v"] != 1 or any([clean(text) != text for text in texts]):
        raise Forged
    return made


def check_checkpoint(made: Checkpoint, keys: Sequence[SigningKey]) -> None:
    """Raises Forged for one that none of the keys made."""
    try:
        mac = _bytes(made["mac"])
    except ValueError:
        raise Forged from None
    if not _is_ours(made["key"], _CHECKPOINT, _signed(made), mac, keys):
        raise Forged


def _signed(made: Checkpoint) -> bytes:
    return _encode([made["v"], made["tenant_id"], made["run_id"], made["seq"], made["key"]])


# --------------------------------------------------------------------------------------------------- parts


def _is_ours(name: str, kind: bytes, payload: bytes, mac: bytes, keys: Sequence[SigningKey]) -> bool:
    return any([key.id == name and hmac.compare_digest(_mac(key, kind, payload), mac) for key in keys])


def _mac(key: SigningKey, kind: bytes, payload: bytes) -> bytes:
    return hmac.digest(key.secret, kind + payload, "sha256")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """Exactly what `_text` made: base64 has several spellings of some texts, and one is ours."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if _text(data) != text:
        raise ValueError("another spelling")
    return data


# ------------------------------------------------------------------------------------------------- answers


def misfit_answer(answer: Approve | Deny) -> str | None:
    """What is wrong with a person's yes or no, in words."""
    who = answer.by
    if type(who) is not str or not who.strip() or not who.isprintable() or is_too_long(who):
        return "by= has to name who it is"
    if isinstance(answer, Deny):
        short = type(answer.reason) is str and len(answer.reason) <= LONGEST_REASON
        return None if short else f"its reason has to be a text of at most {LONGEST_REASON} characters"
    if answer.remember not in (None, "run", "user") or answer.covers not in ("arguments", "tool"):
        return 'remember= is None, "run" or "user", and covers= "arguments" or "tool"'
    if answer.arguments is not None and not isinstance(answer.arguments, Mapping):
        return "arguments= has to be a mapping"
    expires = answer.expires_in
    if expires is None or (type(expires) in (int, float) and 0 < expires <= _YEAR):
        return None
    return "expires_in= has to be seconds, more than 0 and at most a year"


def tool_key(agents: Sequence[str], tool: str) -> str:
    """One tool of one agent among all of a tenant's, for what is remembered of it."""
    return _encode([*agents, tool]).decode()


def holds(said: Approval, *, tool: str, rule: str, digest: str, now: int) -> bool:
    """Whether a yes that is remembered is for such a call, and for now."""
    if said.ruling != "allow" or said.remember is None or said.expires_at <= now:
        return False
    covered = said.covers == "tool" or said.digest == digest
    return covered and (said.tool, said.rule) == (tool, rule)
