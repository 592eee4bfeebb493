"""Whose data it is: the identity that every storage and policy method takes first."""

from __future__ import annotations

import msgspec


class Scope(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Who a value belongs to. A user belongs to a tenant, a session to a user; there is no default bucket."""

    tenant: str
    user: str | None = None
    session: str | None = None

    @property
    def anonymous(self) -> bool:
        """True for a fresh scope that was made because nobody was named."""
        return self.tenant.startswith(ANONYMOUS)


class Operator(msgspec.Struct, frozen=True, gc=False):
    """The one capability that is not bound to a tenant: recovery, pruning, sweeping. Made by code, never by a request.

    `reason` says to whoever reads the code what it was made for.
    """

    reason: str


LONGEST_ID = 512
"""Bytes of UTF-8 that the id of a tenant, a user, a session or a run may have, so that every store can index it."""


def is_too_long(name: str | None) -> bool:
    """Whether an id is one that some store could not index."""
    return name is not None and len(name.encode(errors="surrogatepass")) > LONGEST_ID


ANONYMOUS = "~anon-"
"""Prefix of the tenants of runs that name nobody. It cannot be chosen: a tenant_id with it is refused."""

ERASED_RUN = "~erased-"
"""Prefix of the ids of runs that were erased. It cannot be chosen either."""
