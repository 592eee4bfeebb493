"""The name of a partition: an exact scope as bytes, of which those of the scopes within it are continuations."""

from __future__ import annotations

from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryStoreError

LONGEST = 2400
"""Bytes of a name, so that PostgreSQL can index it together with an id."""


def place_of_scope(scope: Scope) -> bytes:
    """The name of the scope's partition, another for every scope: each part says what it is, and ends in a slash.
    Raises MemoryStoreError."""
    parts = [b"t" + encoded(scope.tenant)]
    if scope.user is not None:
        parts.append(b"u" + encoded(scope.user))
    if scope.session is not None:
        parts.append(b"s" + encoded(scope.session))
    place = b"".join([part.replace(b"~", b"~0").replace(b"/", b"~1") + b"/" for part in parts])
    if len(place) > LONGEST:
        raise MemoryStoreError(
            f"The ids of tenant, user and session have {len(place)} bytes together, which no index takes.",
            fix=f"Use shorter ones: {LONGEST} bytes in all, where a slash and a tilde count twice.",
        )
    return place


def scope_of_place(place: bytes) -> Scope:
    """The scope whose partition has this name."""
    parts = [part.replace(b"~1", b"/").replace(b"~0", b"~") for part in place.removesuffix(b"/").split(b"/")]
    named = {part[:1]: decoded(part[1:]) for part in parts}
    return Scope(named[b"t"], named.get(b"u"), named.get(b"s"))


def encoded(name: str) -> bytes:
    """A text as bytes, another for every text, in the same order, also for those that are no valid UTF-8."""
    return name.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """The text whose bytes these are."""
    return name.decode("utf-8", "surrogatepass")
