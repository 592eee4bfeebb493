"""What people said yes to, and the keys with which it is signed."""

from __future__ import annotations

import msgspec


class Grant(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A yes that is remembered for a user beyond one run: of calls of `tool` under `rule`, with arguments of this
    digest, or any where it is empty. `expires_at`: milliseconds since the Unix epoch. `token` is the signed approval.
    """

    id: str
    tenant: str
    user: str
    tool: str
    rule: str
    digest: str
    approver: str
    at: int
    expires_at: int
    token: str


class SigningKey(msgspec.Struct, frozen=True, gc=False):
    """A secret with which approvals and checkpoints are signed, under a name that is no secret. `made_at`: milliseconds
    since the Unix epoch."""

    id: str
    secret: bytes
    made_at: int

    def __repr__(self) -> str:
        return f"SigningKey({self.id!r})"
