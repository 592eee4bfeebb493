"""Grants as the stores keep them: a row says whose each is and how long it is good for, the rest is JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from shipworthy.domain.grants import Grant
from shipworthy.domain.scope import Scope
from shipworthy.errors import StoreError

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Grant).decode


class GrantRow(msgspec.Struct, frozen=True, gc=False):
    """A grant's row."""

    tenant: str
    id: str
    user_id: str
    expires_at: int
    data: bytes


def demand_own(scope: Scope, grants: Sequence[Grant]) -> None:
    """Raises StoreError unless each is of the run's tenant and user: a run remembers nothing for anybody else."""
    for grant in grants:
        if grant.tenant != scope.tenant or grant.user != scope.user:
            raise StoreError(
                f"Grant {grant.id!r} is not of the tenant and the user of the run that remembers it; nothing was "
                "written.",
                fix="Make the grant with the tenant and the user of the run's scope.",
            )


def rows_of(grants: Iterable[Grant]) -> tuple[GrantRow, ...]:
    """As they are written."""
    return tuple([GrantRow(g.tenant, g.id, g.user, g.expires_at, _encode(g)) for g in grants])


def grant_of(data: bytes) -> Grant:
    """As it was written."""
    return _decode(data)
